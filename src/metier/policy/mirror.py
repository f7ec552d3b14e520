"""A small copy in memory of rows that decide every call, at most a second behind the database."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Generic, TypeVar

import psycopg

from metier.errors import Unavailable
from metier.store import within

__all__ = ["UNREACHABLE", "Mirror"]

UNREACHABLE = (
    psycopg.OperationalError, psycopg.InterfaceError, psycopg.errors.ReadOnlySqlTransaction, Unavailable, TimeoutError,
)  # fmt: skip
"""What reading the database raises when it cannot be reached, as opposed to answering."""

_V = TypeVar("_V")


class Mirror(Generic[_V]):
    """Answers from memory while what it holds is fresh, and re-reads everything it holds in one query.

    While the database cannot be reached, nobody can revoke anything in it either: the last known
    answer is then given for `grace_s`, so that calls go on through a restart of PostgreSQL.
    """

    def __init__(
        self,
        load: Callable[[Sequence[str]], Awaitable[Mapping[str, _V]]],
        *,
        clock: Callable[[], float] = time.monotonic,
        max_age_s: float = 1.0,
        grace_s: float = 300.0,
        patience_s: float = 2.0,
        first_s: float = 10.0,
        most: int = 10_000,
    ) -> None:
        self._load = load
        self._clock = clock
        self._max_age_s = max_age_s
        self._grace_s = grace_s
        self._patience_s = patience_s
        self._first_s = max(first_s, patience_s)
        self._most = most
        self._held: dict[str, tuple[float, _V | None]] = {}
        self._down_until = 0.0
        self._failing = False
        """Whether the last reading failed: then one call at a time asks again, and the others do not wait."""
        self._asking = False
        self._flights: dict[str, asyncio.Future[BaseException | None]] = {}
        """Readings under way of single keys, for all who want the same; the error of those that failed."""

    async def get(self, key: str) -> _V | None:
        """Give the row of `key`, at most `max_age_s` old, or None when there is none."""
        now = self._clock()
        while True:
            held = self._held.get(key)
            if held is not None and now - held[0] < self._max_age_s:
                return held[1]
            waits = now < self._down_until or (self._failing and self._asking)
            if held is not None and waits and now - held[0] < self._grace_s:
                return held[1]
            flight = self._flights.get(key)
            if flight is None:
                error = await self._asked(key)
                if error is None:
                    return self._held[key][1]
            else:
                # Under load many calls find a row too old at once; one reads it for all, and may be left meanwhile.
                await asyncio.wait([flight])
                error = flight.result()
            if error is not None:
                if held is None or now - held[0] >= self._grace_s:
                    raise Unavailable(f"the rights of {key!r} cannot be read: the database does not answer") from error
                return held[1]

    async def refresh(self) -> None:
        """Re-read every row held; called twice a second, it keeps the database off the road of calls."""
        if not self._held:
            return
        try:
            await self._read(tuple(self._held))
        except UNREACHABLE:
            self._down(2 * self._max_age_s)

    def forget(self, key: str) -> None:
        """Read `key` anew the next time: its owner has just changed it here."""
        self._held.pop(key, None)

    def clear(self) -> None:
        """Read everything anew: what has changed here may concern any of it."""
        self._held.clear()

    async def _asked(self, key: str) -> BaseException | None:
        """Read one row anew; gives why the database could not be reached, if so."""
        flight = self._flights[key] = asyncio.get_running_loop().create_future()
        failure: BaseException | None = None
        self._asking = True
        try:
            await self._read((key,))
        except UNREACHABLE as error:
            self._down(self._max_age_s)
            failure = error
        finally:
            self._asking = False
            del self._flights[key]
            flight.set_result(failure)
        return failure

    def _down(self, for_s: float) -> None:
        self._failing, self._down_until = True, self._clock() + for_s

    async def _read(self, keys: Sequence[str]) -> None:
        asked_at = self._clock()
        # What is held answers meanwhile; whoever is asked for the first time would be refused for a slow database.
        async with within(self._patience_s if any(key in self._held for key in keys) else self._first_s):
            rows = await self._load(keys)
        self._failing = False
        # Misses are held too, so that a wrong key in a loop costs one query a second; they must not pile up.
        if len(self._held) + len(keys) > self._most:
            self._held.clear()
        for key in keys:
            self._held[key] = (asked_at, rows.get(key))
