"""One row per call, written to a local spool at once and to PostgreSQL in batches, exactly once."""

from __future__ import annotations

import asyncio
import itertools
import logging
import pathlib
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Literal

import orjson
import psycopg

from metier.calls import Call
from metier.errors import LedgerBroken, Unavailable
from metier.record.entry import Entry, Witness, lost_row
from metier.record.spool import Left, Segment, Spool, left_behind
from metier.store import Row, Store, Tx

__all__ = ["Charge", "Dimension", "Latency", "Ledger", "SettleWorker", "Usages"]

Charge = Callable[[Tx, Sequence[tuple[str, str, Decimal]]], Awaitable[None]]
"""Takes (lease, project, cost) of newly recorded calls, inside their transaction."""

SettleWorker = Callable[[Tx, str], Awaitable[object]]
"""Ends the leases of a dead worker, all of whose calls are recorded."""

Dimension = Literal["organisation", "project", "system", "model", "day"]
"""What usage can be grouped by."""

_LATER = (psycopg.Error, Unavailable, TimeoutError, OSError)
_BATCH = 500
_GROWTH = 1.105
"""Ratio of the bounds of one bucket of time, as in the tables."""
_PATIENCE_S = 30.0
_PAUSE_S = 1.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Usages:
    """Totals of a group of calls; a dimension not asked for is None."""

    organisation: str | None
    project: str | None
    system: str | None
    model: str | None
    day: date | None
    calls: int
    errors: int
    """Calls refused, failed, cancelled or lost."""
    input_tokens: int
    output_tokens: int
    cost_eur: Decimal
    unpriced: int
    """Calls whose price is unknown; they count as 0 in the cost."""
    not_estimated: int
    """Calls whose footprint is unknown; they are absent from energy and carbon."""
    energy_low_wh: float | None
    """None when no call of the group could be estimated."""
    energy_high_wh: float | None
    carbon_low_g: float | None
    carbon_high_g: float | None
    cache_hits: int
    saved_eur: Decimal
    """What answers out of the cache had cost the first time."""


@dataclass(frozen=True, slots=True)
class Latency:
    """How long the answered calls of one model took, in seconds, each figure within 5 %."""

    model: str
    measure: Literal["first", "whole"]
    """Until the first piece of the answer, or until its end."""
    calls: int
    p50_s: float
    p95_s: float
    p99_s: float


@dataclass(slots=True)
class _Ended:
    call_id: str
    payload: bytes
    segment: Segment | None
    """None when the disk was full: the record then lives only here until it is flushed."""


class Ledger:
    """Keeps the entry of every call; `open` before the first one, `run` beside them, `close` after the last."""

    def __init__(
        self,
        store: Store,
        folder: pathlib.Path,
        worker: str,
        charge: Charge,
        settle_worker: SettleWorker,
        *,
        witnesses: Sequence[Witness] = (),
        most_bytes: int = 256 << 20,
    ) -> None:
        self._store = store
        self._witnesses = tuple(witnesses)
        self._queries = store.queries("ledger")
        self._folder = folder
        self._spool = Spool(folder, worker, most_bytes=most_bytes)
        self._most_bytes = most_bytes
        self._charge = charge
        self._settle_worker = settle_worker
        self._waiting: deque[_Ended] = deque()
        self._waiting_bytes = 0
        self._open: dict[str, Segment] = {}
        self._flushing = asyncio.Lock()
        self._wake = asyncio.Event()
        self.unrecorded = 0
        """Refused calls that found neither disk nor memory for their record since the start."""

    def open(self) -> None:
        """Make and lock the spool of this process; before any lease is taken, so that a successor can tell."""
        self._spool.open()

    def entry(self, call: Call) -> Entry:
        """Accompany a call: `async with ledger.entry(call) as entry`."""
        return Entry(call, self, self._witnesses)

    def opened(self, call_id: str, payload: bytes) -> None:
        """Keep on disk that a call may cost money from now on, or refuse it."""
        self._open[call_id] = self._spool.append("opened", payload)

    def ended(self, call_id: str, payload: bytes) -> None:
        """Take over the record of a call that is over; without disk it waits in memory."""
        segment: Segment | None = None
        charged = call_id in self._open
        try:
            segment = self._spool.append("ended", payload)
        except LedgerBroken as error:
            _log.error("%s", error.message)
        if self._waiting_bytes > 2 * self._most_bytes and not charged:
            self.unrecorded += 1
            if segment is not None:
                self._spool.done(segment)
            return
        self._waiting.append(_Ended(call_id, payload, segment))
        self._waiting_bytes += len(payload)
        if len(self._waiting) >= _BATCH:
            self._wake.set()

    @property
    def waiting(self) -> int:
        """Number of ended calls that PostgreSQL does not have yet."""
        return len(self._waiting)

    @property
    def spool_bytes(self) -> int:
        """Bytes of records that this process keeps on disk."""
        return self._spool.size

    async def flush(self) -> int:
        """Write every waiting record to PostgreSQL, with the money it settles; gives how many were written."""
        written = 0
        async with self._flushing:
            while self._waiting:
                batch = list(itertools.islice(self._waiting, _BATCH))
                await self._write([ended.payload for ended in batch])
                for ended in batch:
                    self._waiting.popleft()
                    self._waiting_bytes -= len(ended.payload)
                    self._settled(ended)
                written += len(batch)
            if written:
                self._spool.rotate()
        return written

    async def recover(self) -> int:
        """Replay the spools of processes that died: what they ended, then what they had begun as lost."""
        replayed = 0
        for left in left_behind(self._folder):
            if left.worker != self._spool.worker:
                replayed += await self._replay(left)
        return replayed

    async def run(self, every_s: float = 0.25, recover_every: int = 40) -> None:
        """Flush for ever, and look for dead neighbours now and then; owned by the lifespan of the process."""
        turn = 0
        while True:
            try:
                await self.flush()
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
                    await self._settle_worker(tx, self._spool.worker)
                settled = True
        except _LATER as error:
            _log.warning("%d calls stay in the spool until the next start (%s)", self.waiting, error)
        finally:
            self._spool.close(keep=not settled)

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
        params = {"by": [*by], "since": since, "until": until, "project": project}
        query = "usage_by_hours" if _whole_hour(since) and _whole_hour(until) else "usage"
        return tuple(Usages(**row) for row in await self._queries.all(query, params))

    async def latencies(
        self, *, since: datetime | None = None, until: datetime | None = None, project: str | None = None
    ) -> tuple[Latency, ...]:
        """Tell how long answered calls took, per model; `since` and `until` count as whole hours."""
        rows = await self._queries.all("latencies", {"since": since, "until": until, "project": project})
        groups: dict[tuple[str, Literal["first", "whole"]], list[tuple[int, int]]] = {}
        for row in rows:
            groups.setdefault((row["model"], row["measure"]), []).append((row["bucket"], row["calls"]))
        return tuple(
            Latency(model, measure, sum(n for _, n in found), *(_quantile(found, q) for q in (0.5, 0.95, 0.99)))
            for (model, measure), found in groups.items()
        )

    async def of_run(self, run: str) -> list[Row]:
        """Read the calls of one run of a workflow, in order, without contents."""
        return await self._queries.all("calls_of_run", {"run": run})

    async def _write(self, payloads: Sequence[bytes]) -> None:
        """Insert a batch and charge its leases in one transaction; a row that cannot be stored is set aside."""
        try:
            await self._insert(payloads)
        except (psycopg.DataError, psycopg.IntegrityError):
            for payload in payloads:
                try:
                    await self._insert([payload])
                except (psycopg.DataError, psycopg.IntegrityError) as error:
                    _log.error("a call was set aside in %s: %s", self._folder / "rejected.jsonl", error)
                    with (self._folder / "rejected.jsonl").open("ab") as file:
                        file.write(payload + b"\n")

    async def _insert(self, payloads: Sequence[bytes]) -> None:
        rows = b"[" + b",".join(payloads) + b"]"
        async with asyncio.timeout(_PATIENCE_S), self._store.transaction() as tx:
            new = await self._queries.all("insert_calls", {"rows": rows.decode()}, tx)
            await self._charge(tx, [(r["lease"], r["project"], r["cost_eur"]) for r in new if r["lease"] is not None])

    def _settled(self, ended: _Ended) -> None:
        opened = self._open.pop(ended.call_id, None)
        for segment in (opened, ended.segment):
            if segment is not None:
                self._spool.done(segment)

    async def _replay(self, left: Left) -> int:
        opened: dict[str, bytes] = {}
        ended: dict[str, bytes] = {}
        for frame in left.frames():
            call_id = str(orjson.loads(frame.payload)["id"])
            (opened if frame.kind == "opened" else ended)[call_id] = frame.payload
        rows = [*ended.values(), *(lost_row(p) for call_id, p in opened.items() if call_id not in ended)]
        for first in range(0, len(rows), _BATCH):
            await self._write(rows[first : first + _BATCH])
        async with self._store.transaction() as tx:
            await self._settle_worker(tx, left.worker)
        left.delete()
        return len(rows)


def _whole_hour(moment: datetime | None) -> bool:
    return moment is None or (moment.astimezone(UTC).minute, moment.second, moment.microsecond) == (0, 0, 0)


def _quantile(buckets: Sequence[tuple[int, int]], share: float) -> float:
    """Find the value below which `share` of the calls lie, the middle of its bucket (DDSketch)."""
    rank = share * (sum(calls for _, calls in buckets) - 1)
    for bucket, calls in buckets:
        rank -= calls
        if rank < 0:
            return float(2 * _GROWTH**bucket / (_GROWTH + 1))
    raise LedgerBroken("there is no quantile of no calls")
