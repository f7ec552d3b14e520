"""What may be used, by whom and in which period: limits as people set them, and those that hold for a caller."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any, Literal

from metier.calls import Principal, new_id
from metier.errors import Invalid, NotFound
from metier.policy.mirror import Mirror
from metier.store import Row, Store

__all__ = [
    "UNITS",
    "Action",
    "Limit",
    "LimitPeriod",
    "Limits",
    "Measure",
    "Period",
    "Scope",
    "amount_text",
    "period_end",
    "period_start",
    "rounded",
]

Scope = Literal["organisation", "project", "system", "key", "end_user"]
"""Whom a limit holds for; one of scope "end_user" holds for each end user of its subject alone."""

Measure = Literal["requests", "tokens", "concurrency", "money", "energy", "carbon"]
"""What is counted: euros, watt-hours and grams of CO2 equivalent for the last three."""

Period = Literal["day", "month", "total"]
"""How often a quota or budget starts anew; days and months are UTC."""

LimitPeriod = Literal["now", "minute", "day", "month", "total"]
"""As a period, with what rates know: "minute" for requests and tokens, "now" for concurrency."""

Action = Literal["refuse", "degrade", "alert"]
"""What happens when it is used up: calls are refused, go to a cheaper model, or nothing but alerts."""

UNITS = {
    "requests": "requests", "tokens": "tokens", "concurrency": "calls at a time", "money": "€", "energy": "Wh",
    "carbon": "gCO2e",
}  # fmt: skip
"""How each measure is written after a number."""

_EVER = date(2000, 1, 1)
_APART = "\x1f"
_DURABLE = frozenset({"day", "month", "total"})


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit: an amount of one measure, for one subject, per period."""

    id: str
    scope: Scope
    subject: str
    """Id of the organisation, project, system or key; for end users, of whose."""
    measure: Measure
    period: LimitPeriod
    amount: Decimal
    action: Action = "refuse"
    degrade_to: str | None = None
    """Public name of the model that answers instead."""
    unknown_passes: bool = False
    """For energy and carbon: calls whose footprint is unknown pass, counted as nothing, instead of being refused."""

    @property
    def durable(self) -> bool:
        """True for quotas and budgets, which are settled with the record; False for rates and concurrency."""
        return self.period in _DURABLE

    @property
    def whose(self) -> str:
        """Name what is limited, for messages."""
        if self.scope == "end_user":
            return f"this end user of {self.subject!r}"
        return f"{self.scope} {self.subject!r}"


class Limits:
    """Keeps limits, and tells from memory which of them hold for a caller, at most a second late."""

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._queries = store.queries("limits")
        self._mirror: Mirror[tuple[Limit, ...]] = Mirror(self._load, clock=clock)

    async def of(self, principal: Principal) -> tuple[Limit, ...]:
        """Give every limit that holds for a caller, those of its end users included."""
        who = _APART.join((principal.organisation, principal.project, principal.system, principal.key_id))
        return await self._mirror.get(who) or ()

    async def set(self, limit: Limit, by: str) -> Limit:
        """Make a limit or change its amount, unless its owner has a lower one; gives it with its id."""
        _check(limit)
        found = await self._queries.all("owners", {"scope": limit.scope, "subject": limit.subject})
        if not found:
            raise NotFound(
                f"there is no {limit.scope} {limit.subject!r} that could be limited: use its id", param="subject"
            )
        await self._within_owners(limit, found[0])
        params = {
            "id": new_id("limit"), "scope": limit.scope, "subject": limit.subject, "measure": limit.measure,
            "period": limit.period, "amount": limit.amount, "action": limit.action, "degrade_to": limit.degrade_to,
            "unknown_passes": limit.unknown_passes, "by": by,
        }  # fmt: skip
        row = await self._queries.one("set_limit", params)
        assert row is not None
        self._mirror.clear()
        return Limit(**row)

    async def drop(self, limits: Sequence[str]) -> int:
        """Remove limits by their ids; gives how many there were."""
        gone = await self._queries.all("drop_limits", {"ids": [*limits]})
        self._mirror.clear()
        return len(gone)

    async def list(self, subject: str | None = None) -> tuple[Limit, ...]:
        """List the limits of one subject, or all."""
        return tuple(Limit(**row) for row in await self._queries.all("limits_of", {"subject": subject}))

    async def standings(self, subject: str | None = None) -> Sequence[Row]:
        """Read where limits stand: what is spent and held, or what counts now against a rate."""
        return await self._queries.all("standing", {"subject": subject})

    async def called(self, limit: Limit) -> str:
        """Name what is limited as people do, for messages: by its name, and its id where it has none."""
        row = await self._queries.one("name_of", {"subject": limit.subject})
        whose = repr(limit.subject if row is None else row["name"])
        return f"this end user of {whose}" if limit.scope == "end_user" else f"{limit.scope} {whose}"

    async def refresh(self) -> None:
        """Re-read the limits of callers seen lately; called twice a second."""
        await self._mirror.refresh()

    async def _within_owners(self, limit: Limit, owner: Row) -> None:
        """An owner can give no more than it has, so that the sum of limits reads as what really holds."""
        if limit.scope not in ("project", "key"):
            return
        above = [owner["organisation"], *([owner["project"]] if limit.scope == "key" else [])]
        for subject in above:
            for other in await self.list(subject):
                same = (other.measure, other.period, other.action) == (limit.measure, limit.period, "refuse")
                if same and other.scope != "end_user" and other.amount < limit.amount:
                    asked = f"{amount_text(limit.amount)} {UNITS[limit.measure]} per {limit.period}"
                    raise Invalid(
                        f"{limit.whose} cannot have {asked}: its {other.whose} has {amount_text(other.amount)}; give "
                        "less, or raise the owner's first",
                        param="amount",
                    )

    async def _load(self, whos: Sequence[str]) -> dict[str, tuple[Limit, ...]]:
        parts = [who.split(_APART) for who in whos]
        names = ("organisations", "projects", "systems", "keys")
        params: dict[str, Any] = {name: [part[at] for part in parts] for at, name in enumerate(names)}
        found: dict[str, list[Limit]] = {}
        for row in await self._queries.all("applying", params | {"whos": [*whos]}):
            who = row.pop("who")
            found.setdefault(who, []).append(Limit(**row))
        return {who: tuple(limits) for who, limits in found.items()}


def amount_text(amount: Decimal) -> str:
    """Write an amount for people: no more digits than it has."""
    return f"{amount.normalize():f}"


def rounded(amount: Decimal) -> str:
    """Write an amount for people with two digits behind the point, or as many as its first two digits need."""
    digits = max(2, 1 - amount.adjusted()) if amount else 2
    return amount_text(round(amount, digits))


def period_start(period: LimitPeriod, today: date) -> date:
    """Give the first day of the period that `today` is in."""
    if period == "day":
        return today
    return today.replace(day=1) if period == "month" else _EVER


def period_end(period: LimitPeriod, start: date) -> date | None:
    """Give the first day after a period; None when it has no end."""
    if period == "day":
        return date.fromordinal(start.toordinal() + 1)
    if period == "month":
        return date(start.year + start.month // 12, start.month % 12 + 1, 1)
    return None


def _check(limit: Limit) -> None:
    if not limit.amount.is_finite() or limit.amount < 0:
        raise Invalid(f"a limit of {limit.amount} cannot hold: give a number from 0 on", param="amount")
    rates = {"requests": ("minute", "day", "month", "total"), "tokens": ("minute", "day", "month", "total")}
    allowed = rates.get(limit.measure, ("now",) if limit.measure == "concurrency" else ("day", "month", "total"))
    if limit.measure == "concurrency" and limit.period != "now":
        raise Invalid("concurrency is calls at a time and has no period: leave it out", param="period")
    if limit.period not in allowed:
        raise Invalid(f"{limit.measure!r} is limited per {' or '.join(allowed)}, not {limit.period!r}", param="period")
    if not limit.durable and (limit.amount != int(limit.amount) or limit.action != "refuse"):
        raise Invalid("a rate is a whole number and can only refuse: leave action and fractions out", param="amount")
    if (limit.action == "degrade") != bool(limit.degrade_to):
        raise Invalid("a limit that degrades names the model in degrade_to, and no other does", param="degrade_to")
