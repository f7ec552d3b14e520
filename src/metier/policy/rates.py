"""Rates and concurrency, exact over any number of workers: seconds of a minute, and permits, lent to each worker."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from metier.errors import Unavailable
from metier.policy.limits import Limit
from metier.policy.mirror import UNREACHABLE
from metier.store import Row, Store, within

__all__ = ["LIFE_S", "SPAN_S", "Drawn", "Rate", "Rates", "Wait"]

SPAN_S = 60
"""How long a slice counts after the last second it could be used in."""

LIFE_S = 15
"""How long permits count after their worker was last heard."""

_MARGIN_S = 5.0
_PART = 10
_ASK_AGAIN_S = 0.5
_IDLE_S = 1.0
_TRIES = 3
_FORGET_S = 120.0

_Name = tuple[str, str]
"""A limit, and which of its end users."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Where a rate stands, as far as this worker knows."""

    limit: Limit
    remaining: int
    reset_s: float
    """Seconds until all of it is there again, if nobody calls."""


@dataclass(frozen=True, slots=True)
class Wait:
    """A rate that has no room: who asked, and when it has."""

    limit: Limit
    seconds: float
    """Until then the same call cannot pass; for concurrency, when to look again."""


@dataclass(slots=True)
class _Slice:
    """What this worker may use of one limit until a moment."""

    slot: int = 0
    until: float = 0.0
    """By the clock of this worker."""
    free: int = 0
    flights: int = 0
    """Permits in use."""
    used_at: float = 0.0
    demand: int = 0
    """Used in this slice: the next loan is as large."""
    before: int = 0
    """The same of the slice before."""
    counted: int = 0
    """What counts against the limit, for all workers, as this one last read it."""
    ends: deque[tuple[float, int]] = field(default_factory=deque)
    """When how much of that counts no more."""
    shut_until: float = 0.0
    shut_for: int = 0
    """From this need on, nothing is to be had before `enough_at`."""
    enough_at: float = 0.0
    changes: dict[int, int] = field(default_factory=dict)
    """Corrections of past slices, not written yet."""


class Drawn:
    """What one call drew from a rate, until it is settled."""

    __slots__ = ("_clock", "_slice", "_slot", "limit", "need")

    def __init__(self, limit: Limit, need: int, held: _Slice, clock: Callable[[], float]) -> None:
        self.limit = limit
        self.need = need
        self._slice = held
        self._slot = held.slot
        self._clock = clock

    def more(self, used: int) -> None:
        """Count what a call uses beyond what it drew, as if it had been drawn with the call."""
        self._change(used)

    def settle(self, used: int) -> None:
        """Replace what was drawn by what the call really used; call it once."""
        held = self._slice
        held.used_at = self._clock()
        if self.limit.measure == "concurrency":
            held.flights -= 1
            held.free += 1
        elif used != self.need:
            self._change(used - self.need)

    def _change(self, by: int) -> None:
        held = self._slice
        if by < 0 and held.slot == self._slot and self._clock() < held.until:
            held.free -= by
        else:
            held.changes[self._slot] = held.changes.get(self._slot, 0) + by
            held.counted += by


class Rates:
    """Draws from limits per minute and from concurrency for one worker, mostly in memory.

    Method: a window of a minute that slides over slices. PostgreSQL lends a worker a slice of the amount, usable until
    the end of the next second; the slice counts from then on for 60 s more. Since a slice counts for as long as any
    call it let pass lies in the last minute, **no minute, wherever it begins, lets more than the amount pass**, over
    any number of workers, none of which knows the others. For tokens this holds for what calls were expected to use;
    what they really used replaces it when they end, so that a minute passes the amount at most by the sum of
    (used - expected) of its calls. The price: a call counts for up to 62 s, so that a full rate gives at least 96 % of
    the amount; and what other workers hold unused, at most a tenth of the amount each or one call, is out of reach for
    up to 2.5 s. A dead worker's slices end by themselves. Concurrency lends permits that count while their worker is
    heard, and 15 s longer: never more calls than the amount, but for those of a worker cut off from PostgreSQL for more
    than 15 s, which starts none 10 s after it was last heard.
    """

    def __init__(
        self,
        store: Store,
        worker: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] | None = None,
    ) -> None:
        self._store = store
        self._queries = store.queries("admission")
        self._worker = worker
        self._clock = clock
        self._now = now
        """Seconds since 1970 for tests; by default the clock of PostgreSQL, the same for all."""
        self._slices: dict[_Name, _Slice] = {}
        self._locks: dict[_Name, asyncio.Lock] = {}
        self._swept_at = clock()

    async def draw(self, limit: Limit, member: str, need: int) -> Drawn | Wait:
        """Take `need` from a limit for one call, or say how long it has to wait."""
        name = (limit.id, member)
        held = self._slices.get(name)
        if held is None:
            held = self._slices[name] = _Slice(used_at=self._clock())
        now = self._clock()
        if held.free < need or now >= held.until:
            if now < held.shut_until and need >= held.shut_for:
                return Wait(limit, max(0.001, held.enough_at - now))
            async with self._locks.setdefault(name, asyncio.Lock()):
                for _ in range(_TRIES):
                    if held.free >= need and self._clock() < held.until:
                        break
                    wait = await self._borrow(limit, name, held, need)
                    if wait is not None:
                        return wait
                else:
                    raise Unavailable(f"the {limit.measure} of {limit.whose} are counted too slowly: try again")
        held.free -= need
        held.demand += need
        held.used_at = self._clock()
        if limit.measure == "concurrency":
            held.flights += 1
        return Drawn(limit, need, held, self._clock)

    def standing(self, limit: Limit, member: str) -> Rate:
        """Tell where a rate stands, from memory."""
        held = self._slices.get((limit.id, member))
        if held is None:
            return Rate(limit, int(limit.amount), 0.0)
        now = self._clock()
        while held.ends and held.ends[0][0] <= now:
            held.counted -= held.ends.popleft()[1]
        free = held.free if now < held.until else 0
        used = max(0, held.counted - free)
        reset_s = held.ends[-1][0] - now if held.ends and used else 0.0
        return Rate(limit, max(0, int(limit.amount) - used), reset_s)

    async def tick(self) -> None:
        """Return what slices left unused, write corrections, and keep permits counted while this worker lives."""
        try:
            await self._correct()
            await self._renew()
            if self._clock() - self._swept_at > SPAN_S:
                self._swept_at = self._clock()
                await self._queries.run("forget_grants")
        except UNREACHABLE:
            return

    async def leave(self) -> None:
        """Take this worker's permits out of the count; it draws no more."""
        try:
            await self._queries.run("leave", {"worker": self._worker})
        except UNREACHABLE:
            return

    async def _borrow(self, limit: Limit, name: _Name, held: _Slice, need: int) -> Wait | None:
        asked_at = self._clock()
        await self._hand_back(name, held, asked_at)
        permits = limit.measure == "concurrency"
        most = int(limit.amount)
        if permits and asked_at >= held.until:
            held.free = 0
        short = need - held.free
        wish = max(short, min(max(held.demand, held.before), most // _PART))
        params = {
            "limit": name[0], "member": name[1], "worker": self._worker, "need": short, "wish": wish, "most": most,
            "now": self._now() if self._now else None, "span_s": 0 if permits else SPAN_S, "life_s": LIFE_S,
        }  # fmt: skip
        try:
            async with within(5), self._store.transaction() as tx:
                await self._queries.run("lock_grants", {"limit": name[0], "member": name[1]}, tx)
                row = await self._queries.one("grant", params, tx)
        except UNREACHABLE as error:
            raise Unavailable(
                f"the {limit.measure} of {limit.whose} cannot be counted: the database does not answer; try again"
            ) from error
        assert row is not None
        return self._take(limit, held, row, need, asked_at)

    def _take(self, limit: Limit, held: _Slice, row: Row, need: int, asked_at: float) -> Wait | None:
        now: float = row["now"]
        permits = limit.measure == "concurrency"
        ends = zip(row["untils"] or (), row["amounts"] or (), strict=True)
        held.ends = deque((asked_at + until - now, amount) for until, amount in ends)
        held.counted = row["used"]
        if row["slot"] is None:
            known = row["enough_at"] is not None and not permits
            wait_s = max(0.001, row["enough_at"] - now) if known else _ASK_AGAIN_S if permits else float(SPAN_S)
            held.shut_until = asked_at + min(wait_s, _ASK_AGAIN_S)
            held.shut_for, held.enough_at = need, asked_at + wait_s
            return Wait(limit, wait_s)
        if row["slot"] != held.slot:
            if held.free:
                # What is left of the slice before is used in this one, and counts with it.
                held.changes[held.slot] = held.changes.get(held.slot, 0) - held.free
                held.changes[row["slot"]] = held.free
            held.before, held.demand = held.demand, 0
        held.slot = row["slot"]
        held.until = asked_at + (LIFE_S - _MARGIN_S if permits else row["slot"] - now)
        held.counted += row["amount"]
        held.ends.append((asked_at + (LIFE_S if permits else row["slot"] + SPAN_S - now), row["amount"]))
        held.free += row["amount"]
        held.shut_until = 0.0
        return None

    async def _hand_back(self, name: _Name, held: _Slice, now: float) -> None:
        """Before borrowing, put what an ended slice left unused to the corrections, and write them."""
        if held.slot and now >= held.until and held.free:
            held.changes[held.slot] = held.changes.get(held.slot, 0) - held.free
            held.free = 0
        if held.changes:
            await self._write(name, held)

    async def _correct(self) -> None:
        now = self._clock()
        for name, held in [*self._slices.items()]:
            if (held.slot and held.free and now >= held.until) or held.changes:
                async with self._locks.setdefault(name, asyncio.Lock()):
                    await self._hand_back(name, held, now)
            if now - held.used_at > _FORGET_S and not held.flights and not held.changes and not held.free:
                self._slices.pop(name, None)
                lock = self._locks.get(name)
                if lock is not None and not lock.locked():
                    del self._locks[name]

    async def _write(self, name: _Name, held: _Slice) -> None:
        changes, held.changes = held.changes, {}
        rows = [
            {"limit": name[0], "member": name[1], "worker": self._worker, "slot": slot, "change": change}
            for slot, change in changes.items()
            if change
        ]
        try:
            await self._queries.many("adjust", rows)
        except UNREACHABLE:
            for slot, change in changes.items():
                held.changes[slot] = held.changes.get(slot, 0) + change
            raise

    async def _renew(self) -> None:
        names = [name for name, held in self._slices.items() if held.until and not held.slot]
        if not names:
            return
        async with contextlib.AsyncExitStack() as stack:
            # Nobody borrows meanwhile: what is written is exactly what is held.
            for name in names:
                await stack.enter_async_context(self._locks.setdefault(name, asyncio.Lock()))
            await self._renew_all(names)

    async def _renew_all(self, names: list[_Name]) -> None:
        now = self._clock()
        amounts: list[int] = []
        for name in names:
            held = self._slices[name]
            if held.free and now - held.used_at >= _IDLE_S:
                held.counted -= held.free
                held.free = 0
            amounts.append(held.free + held.flights)
        params = {
            "worker": self._worker, "limits": [n[0] for n in names], "members": [n[1] for n in names],
            "amounts": amounts, "life_s": LIFE_S, "now": self._now() if self._now else None,
        }  # fmt: skip
        await self._queries.run("renew", params)
        for name, amount in zip(names, amounts, strict=True):
            held = self._slices[name]
            held.until = now + LIFE_S - _MARGIN_S if amount else 0.0
