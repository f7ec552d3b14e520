"""Tells people that a limit is nearly used up, used up, or will be: written down with the spending, sent afterwards."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Literal

import psycopg

from metier.errors import MetierError, Unavailable
from metier.policy.budgets import LEAST_PART
from metier.policy.limits import UNITS
from metier.store import Row, Store, Tx

__all__ = ["Alert", "Alerts", "Channel", "Send"]

_log = logging.getLogger(__name__)
_MOST_TRIES = 16

Channel = Literal["webhook", "email"]
"""How an alert leaves the house."""


@dataclass(frozen=True, slots=True)
class Alert:
    """What is told about one limit, once per period and kind."""

    id: str
    """The same at every try: who gets it twice after a crash can tell."""
    kind: str
    """"50", "80" or "100" percent are spent, or "forecast"."""
    starts_on: date
    """First day of the period."""
    spent: Decimal
    forecast: Decimal | None
    """For a forecast: where the period would end."""
    at: datetime
    told: Mapping[str, Any]
    """The limit as it was: scope, subject and its name, measure, period, amount, action."""

    @property
    def unit(self) -> str:
        """How the amounts are written."""
        return UNITS[self.told["measure"]]


Send = Callable[[str, Alert], Awaitable[None]]
"""Sends an alert to one address; raises Unavailable when it may pass later, another MetierError when it never will."""


class Alerts:
    """Raises alerts inside the transactions that record calls, and delivers them until each is taken.

    An alert is written once per limit, period and kind, together with the spending that caused it: none is lost and
    none doubled. A delivery is claimed before it is tried, so that workers never try it at once; only a worker that
    dies after its address took it lets it be sent again, under the same id.
    """

    def __init__(
        self,
        store: Store,
        targets: Mapping[Channel, Sequence[str]],
        send: Mapping[Channel, Send],
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._queries = store.queries("alerts")
        self._targets = targets
        """Addresses of metier.yaml; nothing is sent to any other."""
        self._send = send
        self._now = now

    def use(self, targets: Mapping[Channel, Sequence[str]], send: Mapping[Channel, Send]) -> None:
        """Send to these addresses from now on; what waits for another one is given up."""
        self._targets, self._send = targets, send

    async def crossed(self, tx: Tx, limits: Sequence[str]) -> None:
        """Write down, with the spending itself, which of 50, 80 and 100 percent of limits are reached."""
        if limits:
            await self._queries.run("cross", {"limits": [*limits]}, tx)

    async def forecast(self) -> int:
        """Carry what is spent forward to the end of each period, in a straight line; gives how many alerts came."""
        return await self._queries.run("forecast", {"now": self._now(), "least": LEAST_PART})

    async def deliver(self) -> int:
        """Send what is due to every address; gives how many were taken."""
        pairs = [(channel, target) for channel, targets in self._targets.items() for target in targets]
        await self._queries.run("address", {"channels": [c for c, _ in pairs], "targets": [t for _, t in pairs]})
        sent = 0
        for row in await self._queries.all("claim"):
            sent += await self._try(row)
        return sent

    async def list(self, most: int = 50) -> Sequence[Row]:
        """List the alerts of late, newest first, with what became of their deliveries."""
        return await self._queries.all("alerts", {"most": most})

    async def feed(self, organisation: str | None = None, after: int = 0, most: int = 100) -> Sequence[Row]:
        """Read what people of an organisation, or of all, should see since they last looked."""
        return await self._queries.all("feed", {"organisation": organisation, "after": after, "most": most})

    async def run(self, every_s: float = 5.0) -> None:
        """Deliver for ever, and forecast once a minute; owned by the lifespan of the process."""
        turn = 0
        while True:
            try:
                if turn % 12 == 0:
                    await self.forecast()
                await self.deliver()
            except (MetierError, psycopg.Error) as error:
                _log.warning("alerts could not be delivered: %s", error)
            turn += 1
            await asyncio.sleep(every_s)

    async def _try(self, row: Row) -> int:
        attempts, channel, target = row.pop("attempts"), row.pop("channel"), row.pop("target")
        alert = Alert(**row)
        where = {"id": alert.id, "channel": channel, "target": target}
        if target not in self._targets.get(channel, ()):
            gone = "the address is no longer in metier.yaml"
            await self._queries.run("not_taken", where | {"error": gone, "final": True})
            return 0
        try:
            await self._send[channel](target, alert)
        except MetierError as error:
            final = not isinstance(error, Unavailable) or attempts >= _MOST_TRIES
            _log.warning("alert %s did not reach %s %s: %s", alert.id, channel, target, error.message)
            await self._queries.run("not_taken", where | {"error": error.message[:500], "final": final})
            return 0
        await self._queries.run("taken", where)
        return 1
