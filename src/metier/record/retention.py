"""Deletes what is old enough: contents first, then records of calls; the totals of the hours stay for ever."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

import psycopg

from metier.errors import MetierError
from metier.record.contents import WRITING
from metier.record.keeping import CONTENTS_DAYS, METADATA_DAYS, Keepings
from metier.store import Row, Store, Tx

__all__ = ["Expired", "Forget", "Retention"]

_LOCK = 0x6D65746965720F
_BATCH = 1_000
_IDLE_KEY_DAYS = 2
_log = logging.getLogger(__name__)


Forget: TypeAlias = Callable[[Tx, Sequence[Row]], Awaitable[None]]
"""Told, in the same transaction, what deleted calls had used of which leases."""


@dataclass(frozen=True, slots=True)
class Expired:
    """What a sweep deleted of one system, or with a dry run would delete; what is under a legal hold is not in it."""

    system: str
    contents_days: int
    metadata_days: int
    reason: str
    """Why its time is what it is; empty for the usual one."""
    contents: int
    calls: int


class Retention:
    """Applies the time each system's calls are kept; of many workers, the one that has the lock does it."""

    def __init__(
        self,
        store: Store,
        forget: Forget | None = None,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store = store
        self._contents = store.queries("contents")
        self._calls = store.queries("ledger")
        self._keepings = Keepings(store)
        self._forget = forget
        self._clock = clock

    async def sweep(self, *, dry_run: bool = False) -> tuple[Expired, ...] | None:
        """Delete what is due in small transactions, so that nobody waits; None where another worker is at it."""
        if dry_run:
            return await self._each(dry_run=True)
        async with self._store.connection() as connection:
            cursor = await connection.execute("SELECT pg_try_advisory_lock(%s) AS mine", (_LOCK,))
            row = await cursor.fetchone()
            if row is None or not row["mine"]:
                return None
            try:
                found = await self._each(dry_run=False)
                await self._leftovers()
                return found
            finally:
                await connection.execute("SELECT pg_advisory_unlock(%s)", (_LOCK,))

    async def run(self, every_s: float = 3600.0, first_s: float = 60.0) -> None:
        """Sweep for ever; owned by the lifespan of the process, which for a short command is over before the first."""
        await asyncio.sleep(first_s)
        while True:
            try:
                for expired in await self.sweep() or ():
                    _log.info("%s: %d contents, %d calls were due", expired.system, expired.contents, expired.calls)
            except (MetierError, psycopg.Error, TimeoutError) as error:
                _log.warning("what is old could not be deleted: %s", error)
            await asyncio.sleep(every_s)

    async def _each(self, *, dry_run: bool) -> tuple[Expired, ...]:
        decided = {keeping.system: keeping for keeping in await self._keepings.list()}
        found = []
        for row in await self._calls.all("systems_called"):
            system, keeping = str(row["system"]), decided.get(str(row["system"]))
            contents_days = keeping.contents_days if keeping else CONTENTS_DAYS
            metadata_days = keeping.metadata_days if keeping else METADATA_DAYS
            contents = await self._due("contents", system, contents_days, dry_run)
            calls = await self._due("calls", system, metadata_days, dry_run)
            if contents or calls:
                reason = keeping.reason if keeping else ""
                found.append(Expired(system, contents_days, metadata_days, reason, contents, calls))
        return tuple(found)

    async def _due(self, what: str, system: str, days: int, dry_run: bool) -> int:
        queries = self._contents if what == "contents" else self._calls
        params = {"system": system, "before": self._clock() - timedelta(days=days), "most": _BATCH}
        if dry_run:
            row = await queries.one("expired_contents" if what == "contents" else "expired_calls", params)
            return 0 if row is None else int(row["records"])
        deleted, batch = 0, _BATCH
        while batch == _BATCH:
            batch = await (queries.run("expire_contents", params) if what == "contents" else self._calls_due(params))
            deleted += batch
        return deleted

    async def _calls_due(self, params: Mapping[str, object]) -> int:
        async with self._store.transaction() as tx:
            rows = await self._calls.all("expire_calls", params, tx)
            if self._forget is not None:
                await self._forget(tx, rows)
        return len(rows)

    async def _leftovers(self) -> None:
        """Finish erasures a crash cut short, forget old readings, and drop keys that seal nothing any more."""
        while await self._contents.run("purge_erased", {"organisation": None, "subject": None, "most": _BATCH}):
            pass
        longest = max([METADATA_DAYS, *(keeping.metadata_days for keeping in await self._keepings.list())])
        before = {"before": self._clock() - timedelta(days=longest), "most": _BATCH}
        while await self._contents.run("expire_reads", before):
            pass
        idle = {"before": self._clock() - timedelta(days=_IDLE_KEY_DAYS), "most": _BATCH}
        async with self._store.transaction() as tx:
            await self._contents.one("lock_erasing", {"lock": WRITING}, tx)
            await self._contents.run("drop_idle_subjects", idle, tx)
