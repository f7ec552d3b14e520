"""One row per call, written to a local spool at once and to PostgreSQL in batches, exactly once."""

from __future__ import annotations

import asyncio
import itertools
import logging
import pathlib
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

import orjson
import psycopg

from metier.calls import Call
from metier.errors import LedgerBroken, Unavailable
from metier.record.contents import Contents
from metier.record.entry import Entry, Witness, lost_row
from metier.record.spool import Kind, Left, Segment, Spool, left_behind
from metier.record.usage import Dimension, Latency, Usages, latencies, usages
from metier.store import Row, Store, Tx

__all__ = ["Charge", "Ledger", "SettleWorker"]

Charge = Callable[[Tx, Sequence[Row]], Awaitable[None]]
"""Takes leases, outcome and use of newly recorded calls that held something, inside their transaction."""

SettleWorker = Callable[[Tx, str], Awaitable[object]]
"""Ends the leases of a dead worker, all of whose calls are recorded."""

_Record: TypeAlias = tuple[bytes, bytes | None]
"""The row of a call as JSON, with its sealed contents where there are some."""

_UNFIT = (psycopg.DataError, psycopg.IntegrityError)
_FOR_SOMEBODY = b'"end_user":"'
_LATER = (psycopg.Error, Unavailable, TimeoutError, OSError)
_BATCH = 500
_BATCH_BYTES = 16 << 20
_PATIENCE_S = 30.0
_PAUSE_S = 1.0
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Ended:
    call_id: str
    payload: bytes
    segment: Segment | None
    """None when the disk was full: the record then lives only here until it is flushed."""
    contents: bytes | None = None
    """Sealed; None where nothing is captured."""
    contents_segment: Segment | None = None

    @property
    def size(self) -> int:
        """Bytes it takes in memory."""
        return len(self.payload) + len(self.contents or b"")


class Ledger:
    """Keeps the entry of every call; `open` before the first one, `run` beside them, `close` after the last."""

    def __init__(
        self,
        store: Store,
        folder: pathlib.Path,
        worker: str,
        charge: Charge,
        settle_worker: SettleWorker,
        witnesses: Sequence[Witness] = (),
        *,
        most_bytes: int = 256 << 20,
    ) -> None:
        self._store = store
        self._witnesses = tuple(witnesses)
        self._queries = store.queries("ledger")
        self._folder = folder
        self.spool = Spool(folder, worker, most_bytes=most_bytes)
        """Where records wait on the disk of this process."""
        self._most_bytes = most_bytes
        self._charge = charge
        self._settle_worker = settle_worker
        self._waiting: deque[_Ended] = deque()
        self._waiting_bytes = 0
        self._open: dict[str, Segment] = {}
        self._flushing = asyncio.Lock()
        self._wake = asyncio.Event()
        self._contents: Contents | None = None
        self._late_since: float | None = None
        self.uncaptured = 0
        """Calls whose contents found no room, or were damaged, since the start; their records are there."""
        self.unrecorded = 0
        """Refused calls that found neither disk nor memory for their record since the start."""

    def open(self) -> None:
        """Make and lock the spool of this process; before any lease is taken, so that a successor can tell."""
        self.spool.open()

    def keep(self, contents: Contents) -> None:
        """Keep contents where systems capture them, and digests of end users, from now on."""
        self._contents = contents

    def entry(self, call: Call) -> Entry:
        """Accompany a call: `async with ledger.entry(call) as entry`."""
        return Entry(call, self, self._witnesses, self._contents)

    def opened(self, call_id: str, payload: bytes) -> None:
        """Keep on disk that a call may cost money from now on, or refuse it."""
        self._open[call_id] = self.spool.append("opened", payload)

    def ended(self, call_id: str, payload: bytes, contents: bytes | None = None) -> None:
        """Take over the record of a call that is over; without disk it waits in memory."""
        charged = call_id in self._open
        crowded = self._waiting_bytes > 2 * self._most_bytes
        # Contents first: a record whose contents are still to come would lose them to a kill in between.
        kept = _appended(self.spool, "contents", contents) if contents is not None else None
        if contents is not None and kept is None and crowded:
            self.uncaptured, contents = self.uncaptured + 1, None
        segment = _appended(self.spool, "ended", payload)
        if crowded and not charged:
            self.unrecorded += 1
            for one in (kept, segment):
                if one is not None:
                    self.spool.done(one)
            return
        # What orjson gives keeps sixteen times its size; a copy, of what may wait for a database, does not.
        ended = _Ended(call_id, bytes(memoryview(payload)), segment, contents, kept)
        self._waiting.append(ended)
        self._waiting_bytes += ended.size
        if len(self._waiting) >= _BATCH:
            self._wake.set()

    @property
    def waiting(self) -> int:
        """Number of ended calls that PostgreSQL does not have yet."""
        return len(self._waiting)

    @property
    def late_s(self) -> float:
        """Seconds for which PostgreSQL has refused records or been away; 0 while it takes them."""
        return 0.0 if self._late_since is None else time.monotonic() - self._late_since

    async def flush(self) -> int:
        """Write every waiting record to PostgreSQL, with the money it settles; gives how many were written."""
        written = 0
        async with self._flushing:
            # What ends meanwhile is left to the next time: else, under load, one small transaction follows the other.
            due = len(self._waiting)
            while written < due:
                batch = _batch(self._waiting)
                try:
                    await self._write([(ended.payload, ended.contents) for ended in batch])
                except _LATER:
                    self._late_since = self._late_since or time.monotonic()
                    raise
                self._late_since = None
                for ended in batch:
                    self._waiting.popleft()
                    self._waiting_bytes -= ended.size
                    self._settled(ended)
                written += len(batch)
            self.spool.rotate()
        return written

    async def recover(self) -> int:
        """Replay the spools of processes that died: what they ended, then what they had begun as lost."""
        replayed = 0
        for left in left_behind(self._folder):
            if left.worker != self.spool.worker:
                replayed += await self._replay(left)
        return replayed

    async def run(self, every_s: float = 0.25, recover_every: int = 40, refresh_every: int = 4) -> None:
        """Flush for ever, and look for dead neighbours now and then; owned by the lifespan of the process."""
        turn = 0
        while True:
            try:
                await self.flush()
                if self._contents is not None and turn % refresh_every == 0:
                    await self._contents.refresh()
                if turn % recover_every == 0:
                    await self.recover()
            except _LATER as error:
                _log.warning("%d calls wait in the spool: the database does not take them (%s)", self.waiting, error)
                await asyncio.sleep(_PAUSE_S)
            turn += 1
            self._wake.clear()
            try:
                async with asyncio.timeout(every_s):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def close(self) -> None:
        """Flush what waits and give the leases back; what cannot be done now is left to the next start."""
        settled = False
        try:
            await self.flush()
            if not self._open:
                async with self._store.transaction() as tx:
                    await self._settle_worker(tx, self.spool.worker)
                settled = True
        except _LATER as error:
            _log.warning("%d calls stay in the spool until the next start (%s)", self.waiting, error)
        finally:
            self.spool.close(keep=not settled)

    async def usage(
        self,
        by: Sequence[Dimension],
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        project: str | None = None,
    ) -> tuple[Usages, ...]:
        """Total calls, tokens, money and footprint, grouped by the dimensions asked for.

        Between whole hours the totals of the hours answer, which outlive the calls; else the calls are counted.
        """
        return await usages(self._queries, by, since=since, until=until, project=project)

    async def latencies(
        self, *, since: datetime | None = None, until: datetime | None = None, project: str | None = None
    ) -> tuple[Latency, ...]:
        """Tell how long answered calls took, per model; `since` and `until` count as whole hours."""
        return await latencies(self._queries, since=since, until=until, project=project)

    async def of_run(self, run: str) -> list[Row]:
        """Read the calls of one run of a workflow, in order, without contents."""
        return await self._queries.all("calls_of_run", {"run": run})

    async def _write(self, records: Sequence[_Record]) -> None:
        """Insert a batch and charge its leases in one transaction; a row that cannot be stored is set aside."""
        try:
            await self._insert(records)
        except _UNFIT:
            for record in records:
                try:
                    await self._insert([record])
                except _UNFIT as error:
                    _log.error("a call was set aside in %s: %s", self._folder / "rejected.jsonl", error)
                    with (self._folder / "rejected.jsonl").open("ab") as file:
                        file.write(record[0] + b"\n")

    async def _insert(self, records: Sequence[_Record]) -> None:
        rows = b"[" + b",".join(payload for payload, _ in records) + b"]"
        async with asyncio.timeout(_PATIENCE_S), self._store.transaction() as tx:
            contents = [contents for _, contents in records if contents is not None]
            personal = _FOR_SOMEBODY in rows
            if self._contents is not None and (contents or personal):
                await self._contents.guard(tx)
            new = await self._queries.all("insert_calls", {"rows": rows.decode()}, tx)
            await self._charge(tx, new)
            if personal:
                ids = [orjson.loads(payload)["id"] for payload, _ in records]
                await self._queries.run("unlink_erased", {"ids": ids}, tx)
            if self._contents is not None:
                self.uncaptured += await self._contents.write(tx, contents)

    def _settled(self, ended: _Ended) -> None:
        opened = self._open.pop(ended.call_id, None)
        for segment in (opened, ended.contents_segment, ended.segment):
            if segment is not None:
                self.spool.done(segment)

    async def _replay(self, left: Left) -> int:
        found: dict[Kind, dict[str, bytes]] = {"opened": {}, "contents": {}, "ended": {}}
        for frame in left.frames():
            head = frame.payload.partition(b"\n")[0] if frame.kind == "contents" else frame.payload
            found[frame.kind][str(orjson.loads(head)["id"])] = frame.payload
        lost = {call: lost_row(opened) for call, opened in found["opened"].items() if call not in found["ended"]}
        waiting = deque(
            _Ended(call, payload, None, found["contents"].get(call))
            for call, payload in (*found["ended"].items(), *lost.items())
        )
        replayed = len(waiting)
        while waiting:
            batch = _batch(waiting)
            await self._write([(ended.payload, ended.contents) for ended in batch])
            for _ in batch:
                waiting.popleft()
        async with self._store.transaction() as tx:
            await self._settle_worker(tx, left.worker)
        left.delete()
        return replayed


def _batch(waiting: Iterable[_Ended]) -> list[_Ended]:
    """Take the first records that make one transaction, at least one: few hundred, and not too large."""
    taken: list[_Ended] = []
    size = 0
    for ended in itertools.islice(waiting, _BATCH):
        size += ended.size
        if taken and size > _BATCH_BYTES:
            break
        taken.append(ended)
    return taken


def _appended(spool: Spool, kind: Kind, payload: bytes) -> Segment | None:
    """Write a record of a call that is over; None where there is no room, which nobody can be refused for any more."""
    try:
        return spool.append(kind, payload)
    except LedgerBroken as error:
        _log.error("%s", error.message)
        return None
