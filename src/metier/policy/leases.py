"""Money lent by PostgreSQL to one worker, so that most calls reserve what they may cost in memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import ROUND_UP, Decimal
from typing import Literal

from metier.calls import ProjectId, new_id
from metier.errors import LedgerBroken
from metier.policy.mirror import UNREACHABLE
from metier.store import Store, Tx

__all__ = ["Budget", "Leases", "Period", "Reservation", "period_start"]

Period = Literal["day", "month", "total"]
"""How often the money of a budget starts anew; days and months are UTC."""

_ZERO = Decimal(0)
_NANO = Decimal("0.000000001")
_EVER = date(2000, 1, 1)


@dataclass(frozen=True, slots=True)
class Budget:
    """What a project may spend in a period, and where it stands."""

    project: ProjectId
    period: Period
    limit_eur: Decimal
    starts_on: date
    spent_eur: Decimal
    """Cost of the recorded calls of the period."""
    held_eur: Decimal
    """Lent to workers: reserved by calls in progress, or kept ready for the next ones."""


@dataclass(slots=True)
class _Purse:
    """The part of one lease this worker can still promise."""

    starts_on: date
    used_at: float
    lease: str = field(default_factory=lambda: new_id("lease"))
    granted: Decimal = _ZERO
    free: Decimal = _ZERO
    """May fall below zero when calls cost more than was reserved; the next loan fills it first."""


class Reservation:
    """Money held for one call out of the lease of its worker, until the call is settled."""

    __slots__ = ("_clock", "_purse", "amount", "lease")

    def __init__(self, amount: Decimal, purse: _Purse, clock: Callable[[], float]) -> None:
        self.amount = amount
        self.lease = purse.lease
        self._purse = purse
        self._clock = clock

    def settle(self, cost: Decimal) -> None:
        """Replace what was held by what the call really cost; call it once."""
        self._purse.free += self.amount - cost
        self._purse.used_at = self._clock()


class Leases:
    """Borrows from the budgets of projects for one worker, one lease per project and period."""

    def __init__(
        self,
        store: Store,
        worker: str,
        *,
        share: Decimal = Decimal("0.02"),
        clock: Callable[[], float] = time.monotonic,
        today: Callable[[], date] = lambda: datetime.now(UTC).date(),
    ) -> None:
        self._store = store
        self._queries = store.queries("admission")
        self._worker = worker
        self._share = share
        """Usual size of a loan, as a part of the limit."""
        self._clock = clock
        self._today = today
        self._purses: dict[str, _Purse] = {}
        self._old: list[tuple[str, _Purse]] = []
        self._locks: dict[str, asyncio.Lock] = {}

    async def reserve(self, budget: Budget, need: Decimal) -> Reservation | None:
        """Hold `need` for one call, borrowing more where the purse is short; None when the budget has no more."""
        project = budget.project
        purse = self._purse(project, budget)
        if purse.free < need:
            async with self._locks.setdefault(project, asyncio.Lock()):
                purse = self._purse(project, budget)
                if purse.free < need:
                    lent = await self._borrow(project, budget, purse, need)
                    if lent is None:
                        return None
                    purse = lent
        purse.free -= need
        purse.used_at = self._clock()
        return Reservation(need, purse, self._clock)

    async def tick(self, idle_s: float) -> None:
        """Show that this worker lives, give back what lies idle, and drop leases somebody else has closed."""
        known = [(project, purse) for project, purse in self._purses.items() if purse.granted]
        try:
            await self._return_idle(idle_s)
            alive = {row["id"] for row in await self._queries.all("heartbeat", {"worker": self._worker})}
        except UNREACHABLE:
            return
        for project, purse in known:
            if purse.lease not in alive and self._purses.get(project) is purse:
                del self._purses[project]

    def _purse(self, project: str, budget: Budget) -> _Purse:
        """The purse of the present period; one of an earlier period only settles what it has promised."""
        starts_on = period_start(budget.period, self._today())
        purse = self._purses.get(project)
        if purse is None or purse.starts_on < starts_on:
            if purse is not None:
                self._old.append((project, purse))
            purse = self._purses[project] = _Purse(starts_on, self._clock())
        return purse

    async def _borrow(self, project: str, budget: Budget, purse: _Purse, need: Decimal) -> _Purse | None:
        """Top the lease up: by its usual size, or by exactly what is missing when the budget has no more."""
        short = need - purse.free
        usual = (budget.limit_eur * self._share).quantize(_NANO, ROUND_UP)
        loan: tuple[_Purse, Decimal] | None = None
        try:
            async with asyncio.timeout(5), self._store.transaction() as tx:
                for amount in sorted({max(short, usual), short}, reverse=True):
                    loan = await self._lend(tx, project, purse, amount)
                    if loan is not None:
                        break
        except UNREACHABLE as error:
            raise LedgerBroken(
                f"{short} € cannot be reserved for project {project!r}: the database does not answer; try again later"
            ) from error
        if loan is None:
            return None
        lent, granted = loan
        if lent is not purse:
            self._old.append((project, purse))
            self._purses[project] = lent
        # PostgreSQL is believed about the total lent: an answer lost on the way is caught up by the next one.
        lent.free += granted - lent.granted
        lent.granted = granted
        return lent if lent.free >= need else None

    async def _lend(self, tx: Tx, project: str, purse: _Purse, amount: Decimal) -> tuple[_Purse, Decimal] | None:
        """Move `amount` from the budget to a lease; None when the limit does not leave it."""
        params = {"project": project, "starts_on": purse.starts_on, "amount": amount}
        held = await self._queries.one("hold", params, tx)
        if held is None:
            return None
        if held["starts_on"] != purse.starts_on:
            purse = _Purse(held["starts_on"], self._clock())
        loan = params | {"starts_on": purse.starts_on, "id": purse.lease, "worker": self._worker}
        row = await self._queries.one("lend", loan, tx)
        if row is None:
            self._purses.pop(project, None)
            raise LedgerBroken(f"the lease of this worker on project {project!r} was closed by someone else: try again")
        return purse, row["granted_eur"]

    async def _return_idle(self, idle_s: float) -> None:
        now = self._clock()
        for project, purse in [*self._purses.items(), *self._old]:
            if purse.free <= 0 or now - purse.used_at < idle_s:
                continue
            async with self._locks[project]:
                await self._return(project, purse)
        self._old = [(project, purse) for project, purse in self._old if purse.free != 0]

    async def _return(self, project: str, purse: _Purse) -> None:
        amount = purse.free
        if amount <= 0:
            return
        # Taken away before it is returned: a call that reserves meanwhile must not count on it.
        purse.free -= amount
        purse.granted -= amount
        async with self._store.transaction() as tx:
            await self._queries.run("lock_budgets", {"projects": [project]}, tx)
            row = await self._queries.one("give_back", {"id": purse.lease, "amount": amount}, tx)
            if row is not None:
                params = {"project": project, "starts_on": purse.starts_on, "amount": amount}
                await self._queries.run("release", params, tx)


def period_start(period: Period, today: date) -> date:
    """Give the first day of the period that `today` is in."""
    return {"day": today, "month": today.replace(day=1), "total": _EVER}[period]
