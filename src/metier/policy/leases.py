"""Quotas and budgets lent by PostgreSQL to one worker, so that most calls reserve what they may use in memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import ROUND_UP, Decimal

import orjson

from metier.calls import new_id
from metier.errors import LedgerBroken, Unavailable
from metier.policy.limits import UNITS, Limit, period_start
from metier.policy.mirror import UNREACHABLE
from metier.store import Row, Store, Tx, within

__all__ = ["Leases", "Reserved", "forgetting"]

_ZERO = Decimal(0)
_NANO = Decimal("0.000000001")
_FORGET_S = 600.0
_SWEEP_S = 6 * 3600.0

_Name = tuple[str, str]
"""A limit, and which of its end users."""


@dataclass(slots=True)
class _Purse:
    """The part of one lease this worker can still promise."""

    starts_on: date
    used_at: float
    lease: str = field(default_factory=lambda: new_id("lease"))
    granted: Decimal = _ZERO
    free: Decimal = _ZERO
    """May fall below zero when calls use more than was reserved; the next loan fills it first."""
    left: Decimal = _ZERO
    """What the limit had beyond this purse when it was last asked."""
    flights: int = 0
    """Calls that hold a part of it."""


class Reserved:
    """An amount held for one call out of the lease of its worker, until the call is settled."""

    __slots__ = ("_clock", "_purse", "amount", "lease", "limit", "member")

    def __init__(self, limit: Limit, member: str, amount: Decimal, purse: _Purse, clock: Callable[[], float]) -> None:
        self.limit = limit
        self.member = member
        self.amount = amount
        self.lease = purse.lease
        self._purse = purse
        self._clock = clock

    def take(self, other: Reserved) -> bool:
        """Merge a further reservation of the same lease into this one; False when it is of another lease."""
        if other._purse is not self._purse:
            return False
        self.amount += other.amount
        self._purse.flights -= 1
        return True

    def settle(self, used: Decimal) -> None:
        """Replace what was held by what the call really used; call it once."""
        self._purse.free += self.amount - used
        self._purse.flights -= 1
        self._purse.used_at = self._clock()


class Leases:
    """Borrows from limits for one worker, one lease per limit, end user and period.

    At all times spent + held ≤ amount when something is lent: what is spent passes the amount at most by the sum of
    (used - reserved) of the calls that used more than was reserved for them, over any number of workers. The other
    way round, an amount that is free can be out of reach for `idle_s` and a tick, in the purses of other workers,
    each of which holds at most `share` of the amount beyond what its calls have reserved.
    """

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
        """Usual size of a loan, as a part of the amount."""
        self._clock = clock
        self._today = today
        self._purses: dict[_Name, _Purse] = {}
        self._old: list[tuple[_Name, _Purse]] = []
        self._locks: dict[_Name, asyncio.Lock] = {}
        self._swept_at = clock()

    async def reserve(self, limit: Limit, member: str, need: Decimal, *, forced: bool = False) -> Reserved | None:
        """Hold `need` for one call, borrowing more where the purse is short; None when the limit has no more."""
        name = (limit.id, member)
        purse = self._purse(name, limit)
        if purse.free < need or not purse.granted:
            async with self._locks.setdefault(name, asyncio.Lock()):
                purse = self._purse(name, limit)
                if purse.free < need or not purse.granted:
                    lent = await self._borrow(name, limit, purse, need, forced)
                    if lent is None:
                        return None
                    purse = lent
        purse.free -= need
        purse.flights += 1
        purse.used_at = self._clock()
        return Reserved(limit, member, need, purse, self._clock)

    def remaining(self, limit: Limit, member: str) -> Decimal | None:
        """Tell what is left of a limit as far as this worker knows; None when it has not asked yet."""
        purse = self._purses.get((limit.id, member))
        return None if purse is None or not purse.granted else max(_ZERO, purse.left + purse.free)

    def lent(self) -> dict[str, tuple[Decimal, Decimal]]:
        """Tell what this worker was lent of each limit, and what of that no call holds or has used; for metrics."""
        found: dict[str, tuple[Decimal, Decimal]] = {}
        for (limit, _), purse in self._purses.items():
            granted, free = found.get(limit, (_ZERO, _ZERO))
            found[limit] = (granted + purse.granted, free + purse.free)
        return found

    async def tick(self, idle_s: float) -> None:
        """Show that this worker lives, give back what lies idle, and drop leases somebody else has closed."""
        known = [(name, purse) for name, purse in self._purses.items() if purse.granted]
        try:
            if self._clock() - self._swept_at > _SWEEP_S:
                self._swept_at = self._clock()
                await self._queries.run("forget_leases")
            if not known and not self._old:
                return
            await self._return_idle(idle_s)
            alive = {row["id"] for row in await self._queries.all("heartbeat", {"worker": self._worker})}
        except UNREACHABLE:
            return
        now = self._clock()
        for name, purse in known:
            unused = purse.free == 0 and not purse.flights and now - purse.used_at > _FORGET_S
            if (purse.lease not in alive or unused) and self._purses.get(name) is purse:
                del self._purses[name]
                lock = self._locks.get(name)
                if lock is not None and not lock.locked():
                    del self._locks[name]

    def _purse(self, name: _Name, limit: Limit) -> _Purse:
        """The purse of the present period; one of an earlier period only settles what it has promised."""
        starts_on = period_start(limit.period, self._today())
        purse = self._purses.get(name)
        if purse is None or purse.starts_on < starts_on:
            if purse is not None:
                self._old.append((name, purse))
            purse = self._purses[name] = _Purse(starts_on, self._clock())
        return purse

    async def _borrow(self, name: _Name, limit: Limit, purse: _Purse, need: Decimal, forced: bool) -> _Purse | None:
        """Top the lease up: by its usual size, or by exactly what is missing when the limit has no more."""
        short = max(need - purse.free, _ZERO)
        usual = (limit.amount * self._share).quantize(_NANO, ROUND_UP)
        loan: tuple[_Purse, Decimal, Decimal] | None = None
        try:
            async with within(5), self._store.transaction() as tx:
                if not purse.granted:
                    params = {"limit": name[0], "member": name[1], "starts_on": purse.starts_on}
                    await self._queries.run("open_standing", params, tx)
                for amount in sorted({max(short, usual), short}, reverse=True):
                    last = amount == short
                    loan = await self._lend(tx, name, limit, purse, amount, forced and last)
                    if loan is not None:
                        break
        except UNREACHABLE as error:
            raise Unavailable(
                f"{short} {UNITS[limit.measure]} cannot be reserved for {limit.whose}: the database does not answer; "
                "try again later"
            ) from error
        if loan is None:
            return None
        lent, granted, left = loan
        if lent is not purse:
            self._old.append((name, purse))
            self._purses[name] = lent
        # PostgreSQL is believed about the total lent: an answer lost on the way is caught up by the next one.
        lent.free += granted - lent.granted
        lent.granted = granted
        lent.left = left
        return lent if lent.free >= need else None

    async def _lend(
        self, tx: Tx, name: _Name, limit: Limit, purse: _Purse, amount: Decimal, forced: bool
    ) -> tuple[_Purse, Decimal, Decimal] | None:
        """Move `amount` from the limit to a lease; None when the limit does not leave it."""
        params = {"limit": name[0], "member": name[1], "starts_on": purse.starts_on, "amount": amount}
        held = await self._queries.one("hold", params | {"forced": forced}, tx)
        if held is None:
            return None
        if held["starts_on"] != purse.starts_on:
            purse = _Purse(held["starts_on"], self._clock())
        loan = params | {
            "starts_on": purse.starts_on, "id": purse.lease, "worker": self._worker, "measure": limit.measure,
        }  # fmt: skip
        row = await self._queries.one("lend", loan, tx)
        if row is None:
            self._purses.pop(name, None)
            raise LedgerBroken(f"the lease of this worker on {limit.whose} was closed by someone else: try again")
        return purse, row["granted"], held["remaining"]

    async def _return_idle(self, idle_s: float) -> None:
        now = self._clock()
        for name, purse in [*self._purses.items(), *self._old]:
            if purse.free <= 0 or now - purse.used_at < idle_s:
                continue
            async with self._locks.setdefault(name, asyncio.Lock()):
                await self._return(name, purse)
        self._old = [(name, purse) for name, purse in self._old if purse.free != 0 or purse.flights]

    async def _return(self, name: _Name, purse: _Purse) -> None:
        amount = purse.free
        if amount <= 0:
            return
        # Taken away before it is returned: a call that reserves meanwhile must not count on it.
        purse.free -= amount
        purse.granted -= amount
        params = {"limit": name[0], "member": name[1], "starts_on": purse.starts_on, "amount": amount}
        async with self._store.transaction() as tx:
            await self._queries.run("lock_standing", {"limit": name[0], "member": name[1]}, tx)
            row = await self._queries.one("give_back", {"id": purse.lease, "amount": amount}, tx)
            if row is not None:
                await self._queries.run("release", params, tx)


def forgetting(store: Store) -> Callable[[Tx, Sequence[Row]], Awaitable[None]]:
    """Give what notes, in a transaction that deletes calls, what they had used: so that nothing seems to be missing."""
    queries = store.queries("admission")

    async def forget(tx: Tx, rows: Sequence[Row]) -> None:
        charged = [row for row in rows if row["lease"] is not None]
        if charged:
            leases = sorted({part.partition("=")[0] for row in charged for part in row["lease"].split()})
            await queries.run("lock_standings", {"leases": leases}, tx)
            await queries.run("forget", {"rows": orjson.dumps(charged, default=str).decode()}, tx)

    return forget
