"""Who works when: one Procrastinate job per segment of a run, deferred in the transaction that makes it due."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import pathlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

import psycopg
from procrastinate import App, PsycopgConnector
from procrastinate.exceptions import AlreadyEnqueued, ConnectorException
from procrastinate.schema import SchemaManager
from psycopg_pool import AsyncConnectionPool

from metier.calls import RunId
from metier.errors import MetierError
from metier.store import Migration, Store, Tx
from metier.workflow.pulse import Pulse, Watch
from metier.workflow.steadfast import Steadfast, unless

__all__ = ["Chore", "Dispatch", "Pace", "RunSegment", "Stalled", "migrations"]

RunSegment: TypeAlias = Callable[[RunId], Awaitable[None]]
"""Moves one run as far as it can go."""

Chore: TypeAlias = Callable[[], Awaitable[object]]
"""Something a worker does every `recover_s` seconds beside its segments; any number of workers may."""

_QUEUE = "workflow"
_TASK = "metier.segment"
# Registrations of dead workers are only forgotten after a day: stalled segments are found by their heartbeat.
_FORGET_S = 86_400.0
_MARGIN_S = 3.0
_FOREVER_S = 1e7

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pace:
    """How often workers report, look and give up; a dead worker's runs move again within stall_s + recover_s."""

    heartbeat_s: float = 5.0
    stall_s: float = 20.0
    """A worker silent for this long is taken for dead."""
    recover_s: float = 5.0
    """Between two looks for stalled runs."""
    poll_s: float = 2.0
    """Between two looks for segments whose time has come; new ones are told at once."""
    grace_s: float = 15.0
    """Given to running steps when a worker is asked to stop; keep it below stall_s."""
    concurrency: int = 10
    """Runs one worker moves at once."""

    @property
    def sure_s(self) -> float:
        """A worker that others saw silent for this long themselves is dead, if the database says so too."""
        return 1.5 * self.heartbeat_s


@dataclass(frozen=True, slots=True)
class Stalled:
    """A segment whose worker died."""

    job: int
    run: RunId


def migrations() -> tuple[Migration, ...]:
    """Give Procrastinate's own schema as migrations, so that a newer version of it only adds the missing ones."""
    files = sorted(pathlib.Path(SchemaManager.get_migrations_path()).glob("*.sql"))
    return tuple(Migration(f"procrastinate_{file.stem}", file.read_text(encoding="utf-8")) for file in files)


class Dispatch:
    """Defers segments and runs the workers that take them; batches have a queue of their own, beside that of runs."""

    def __init__(
        self, store: Store, pace: Pace | None = None, *, queue: str = _QUEUE, task: str = _TASK, hold: str = "hold_run"
    ) -> None:
        self.pace = pace or Pace()
        self._queue = queue
        self._task = task
        self._hold = hold
        self._watch = Watch()
        self._store = store
        self._queries = store.queries("dispatch")
        self._deferrer = App(connector=PsycopgConnector())

    async def defer(
        self, tx: Tx, run: RunId, at: datetime | None = None, *, rank: int | None = None, first: bool = False
    ) -> None:
        """Make a segment of the run due with this transaction; one that is already due is enough.

        With `first` it is known that there is none, and nothing has to be saved for the case that there is.
        """
        if rank is None:
            # The more a project has under way, the later comes one more of it: all of them take turns.
            row = await self._queries.one("rank", {"run": run}, tx) if at is None else None
            rank = 0 if row is None else int(row["rank"])
        # No `lock`: it makes each fetch cost 30 ms with a thousand segments due, and the epoch already
        # refuses a second holder; the queueing lock keeps one segment due per run.
        task = self._deferrer.configure_task(
            self._task, queue=self._queue, queueing_lock=run, schedule_at=at, priority=rank, connection=tx
        )
        if first:
            with _plainly():
                await task.defer_async(run=run)
            return
        with contextlib.suppress(AlreadyEnqueued):
            async with tx.transaction():
                with _plainly():
                    await task.defer_async(run=run)

    async def defer_all(self, tx: Tx, ranks: Mapping[RunId, int]) -> None:
        """Make a segment of each run due with this transaction, at its rank: all of them in one statement."""
        jobs = [
            self._deferrer.configure_task(self._task, queue=self._queue, queueing_lock=run, priority=rank).make_new_job(
                run=run
            )
            for run, rank in ranks.items()
        ]
        try:
            async with tx.transaction():
                with _plainly():
                    await self._deferrer.job_manager.batch_defer_jobs_async(jobs, connection=tx)
        except AlreadyEnqueued:
            for run, rank in ranks.items():
                await self.defer(tx, run, rank=rank)

    async def hasten(self, tx: Tx, run: RunId) -> None:
        """Make a segment of the run due now, also where one is due later."""
        await self._queries.all("hasten", {"run": run, "queue": self._queue}, tx)
        await self.defer(tx, run)

    async def abort(self, tx: Tx, run: RunId) -> None:
        """Stop what is due or in progress for a run."""
        await self._queries.all("abort", {"run": run, "queue": self._queue}, tx)

    async def stalled(self) -> list[Stalled]:
        """Find the segments of workers that died."""
        rows = await self._queries.all("held", {"queue": self._queue, "stall_s": self.pace.stall_s})
        beats = {row["worker"]: row["beat"] for row in rows if row["beat"] is not None}
        silent = self._watch.silent_s(beats, self.pace.stall_s / 2, self.pace.heartbeat_s / 4)
        return [
            Stalled(row["id"], RunId(row["run"]))
            for row in rows
            if (row["stale"] and silent.get(row["worker"], self.pace.sure_s) >= self.pace.sure_s)
            or silent.get(row["worker"], 0.0) >= self.pace.stall_s
        ]

    async def hold(self, tx: Tx, run: RunId) -> None:
        """Hold the row of a run for the rest of the transaction, so that nobody else makes it due meanwhile."""
        await self._queries.one(self._hold, {"run": run}, tx)

    async def revive(self, stalled: Stalled) -> bool:
        """Put a segment that is due in the place of a stalled one; say no where that ended in the meantime.

        Where another segment of the run waits or is under way, that one moves it: one more would rob a living worker.
        """
        async with self._store.transaction() as tx:
            # The row first, as everybody does who makes a run due: so nobody does in between.
            await self.hold(tx, stalled.run)
            if not await self._queries.all("drop", {"id": stalled.job}, tx):
                return False
            if await self._queries.one("under_way", {"run": stalled.run, "queue": self._queue}, tx) is not None:
                return False
            await self.defer(tx, stalled.run)
        return True

    async def rerank(self) -> None:
        """Let the segments of a project that came behind many others move forward as those are done."""
        await self._queries.run("rerank", {"queue": self._queue})

    async def idle(self) -> list[RunId]:
        """Find the runs that should move and for which nothing is due."""
        return [RunId(row["id"]) for row in await self._queries.all("idle_runs")]

    async def still_idle(self, tx: Tx, run: RunId) -> bool:
        """Look again whether nothing is due for a run whose row is held: another worker may have seen it too."""
        return await self._queries.one("still_idle", {"run": run}, tx) is not None

    async def work(self, segment: RunSegment, stop: asyncio.Event, chores: Sequence[Chore]) -> None:
        """Run a worker until asked to stop, through outages of the database, and its chores beside."""
        async with asyncio.TaskGroup() as group:
            # Each by itself: where one takes long, the runs of the dead do not wait for it.
            for chore in chores:
                group.create_task(self._repeat(chore, stop))
            worker = group.create_task(self._persist(segment, stop))
            await stop.wait()
            worker.cancel()
            _, late = await asyncio.wait([worker], timeout=self.pace.grace_s + _MARGIN_S)
            for task in late:
                task.cancel()

    async def drain(self, segment: RunSegment) -> None:
        """Run every segment that is due, and those they make due, then return."""
        async with self._app(segment, asyncio.Event()) as app:
            while True:
                await self._worker(app, wait=False)
                row = await self._queries.one("ready", {"queue": self._queue})
                if row is None or row["ready"] == 0:
                    return

    async def _persist(self, segment: RunSegment, stop: asyncio.Event) -> None:
        pause = 0.2
        while not stop.is_set():
            try:
                async with self._app(segment, stop) as app:
                    pause = 0.2
                    # Connecting may have swallowed the cancellation, on Python 3.11.
                    if stop.is_set():
                        return
                    await self._worker(app, wait=True)
            except (psycopg.Error, ConnectorException) as error:
                _log.warning("the worker lost its database (%s): it tries again in %.1f s", error, pause)
            await unless(stop, pause)
            pause = min(pause * 2, 5.0)

    async def _unfetched(self, worker: int, known: Iterable[int]) -> None:
        """Make due again what was given to a worker of this process and never came: its connection broke."""
        for row in await self._queries.all("unfetched", {"queue": self._queue, "worker": worker, "known": [*known]}):
            await self.revive(Stalled(row["id"], RunId(row["run"])))

    async def _repeat(self, chore: Chore, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                await chore()
            except (psycopg.Error, MetierError, ConnectorException) as error:
                _log.warning("a chore beside the worker failed (%s): again in %g s", error, self.pace.recover_s)
            await unless(stop, self.pace.recover_s)

    async def _worker(self, app: App, *, wait: bool) -> None:
        await app.run_worker_async(
            queues=[self._queue],
            wait=wait,
            concurrency=self.pace.concurrency,
            install_signal_handlers=False,
            listen_notify=wait,
            delete_jobs="always",
            fetch_job_polling_interval=self.pace.poll_s,
            update_heartbeat_interval=self.pace.heartbeat_s,
            stalled_worker_timeout=_FORGET_S,
            # A worker that does not wait is asked to stop as soon as nothing is due: what it does then takes its time.
            shutdown_graceful_timeout=self.pace.grace_s if wait else _FOREVER_S,
        )

    def _pool(self, **how: Any) -> AsyncConnectionPool[Any]:
        """Make the pool of a worker, which looks at connections as the store does."""
        # What the queue library does there is one statement each: a transaction around it is two more round trips.
        return AsyncConnectionPool(**{**how, "check": self._store.usable, "configure": _one_by_one})

    @contextlib.asynccontextmanager
    async def _app(self, segment: RunSegment, stop: asyncio.Event) -> AsyncIterator[App]:
        connector = PsycopgConnector(
            # Tries to connect come ever more seldom within this time, and a worker is taken for dead before long.
            conninfo=self._store.url,
            min_size=1,
            max_size=4,
            timeout=5,
            reconnect_timeout=4,
            pool_factory=self._pool,
        )
        app = App(connector=connector)
        pulse = Pulse(self._store)
        app.job_manager = Steadfast(connector, stop, pulse, self._unfetched, 2 * self.pace.heartbeat_s)

        async def run_segment(run: str) -> None:
            await segment(RunId(run))

        app.task(name=self._task, queue=self._queue)(run_segment)
        try:
            async with app.open_async():
                yield app
        finally:
            # Where opening was given up, the library leaves its pool half open, and the process would never end.
            await connector.close_async()
            await pulse.close()


async def _one_by_one(connection: psycopg.AsyncConnection[Any]) -> None:
    await connection.set_autocommit(True)


@contextlib.contextmanager
def _plainly() -> Iterator[None]:
    """Raise what the database said, as every other statement does: whoever waits for it to be back looks for that."""
    try:
        yield
    except ConnectorException as error:
        if isinstance(error.__cause__, psycopg.Error):
            raise error.__cause__ from None
        raise
