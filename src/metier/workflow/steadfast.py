"""The side of a worker towards the database: it waits through an outage, and what the worker does goes on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import psycopg
from procrastinate import PsycopgConnector
from procrastinate.exceptions import ConnectorException
from procrastinate.jobs import Job, Status
from procrastinate.manager import JobManager, NotificationCallback

from metier.errors import MetierError
from metier.store import away
from metier.workflow.pulse import Pulse

__all__ = ["Steadfast", "unless"]

_Given = TypeVar("_Given")

_log = logging.getLogger(__name__)


class Steadfast(JobManager):
    """The side of a worker towards the database: through an outage it waits, and what the worker does goes on.

    By itself a worker ends when the database goes away, and drops what it does: answers that were paid for.
    """

    def __init__(
        self,
        connector: PsycopgConnector,
        stop: asyncio.Event,
        pulse: Pulse,
        unfetched: Callable[[int, Iterable[int]], Awaitable[None]],
        fresh_s: float = 10.0,
    ) -> None:
        super().__init__(connector)
        self._fresh_s = fresh_s
        self._beat = 0.0
        self._stop = stop
        self._pulse = pulse
        self._unfetched = unfetched
        self._known: set[int] = set()
        self._doubt = False

    async def fetch_job(self, queues: Iterable[str] | None, worker_id: int) -> Job | None:
        """Take the next segment; one that was given while the connection broke is made due again first."""

        async def fetch() -> Job | None:
            if self._doubt or time.monotonic() - self._beat > self._fresh_s:
                # Else others would take it for dead with what it is about to be given.
                await self._pulse.beat(worker_id)
                self._beat = time.monotonic()
            if self._doubt:
                await self._unfetched(worker_id, self._known)
            self._doubt = True
            job = await JobManager.fetch_job(self, queues, worker_id)
            self._doubt = False
            if job is not None and job.id is not None:
                self._known.add(job.id)
            return job

        return await self._patiently(fetch)

    async def prune_stalled_workers(self, seconds_since_heartbeat: float) -> list[int]:
        """Forget workers that are gone for long."""
        return await self._pulse.forget(seconds_since_heartbeat)

    async def register_worker(self) -> int:
        """Say that a worker begins, unless it is asked to stop: then it ends before it does."""
        worker = await JobManager.register_worker(self)
        if self._stop.is_set():
            # The cancellation may have been swallowed by the connection, on Python 3.11; from here on none is lost.
            await JobManager.unregister_worker(self, worker)
            raise asyncio.CancelledError
        return worker

    async def finish_job(self, job: Job, status: Status, delete_job: bool) -> None:
        """Say that a segment has ended."""
        tries = 0

        async def finish() -> None:
            nonlocal tries
            tries += 1
            try:
                await JobManager.finish_job(self, job, status, delete_job)
            except ConnectorException as error:
                # It may have been heard before the connection broke, or somebody took the segment since.
                if tries == 1 or _away(error):
                    raise

        try:
            await self._patiently(finish)
        except BaseException:
            self._doubt = True  # else the database thinks for as long as this worker lives that it is at it
            raise
        finally:
            if job.id is not None:
                self._known.discard(job.id)

    async def update_heartbeat(self, worker_id: int) -> None:
        """Say that the worker lives."""
        await self._patiently(lambda: self._pulse.beat(worker_id), 0.5)
        self._beat = time.monotonic()
        self._doubt = True  # what was asked for as a line broke may be given out later than one looked for it

    async def listen_for_jobs(
        self, *, on_notification: NotificationCallback, queues: Iterable[str] | None = None
    ) -> None:
        """Hear of segments as they become due."""
        await self._patiently(lambda: JobManager.listen_for_jobs(self, on_notification=on_notification, queues=queues))

    async def _patiently(self, work: Callable[[], Awaitable[_Given]], longest_s: float = 2.0) -> _Given:
        """Do something, again and again while the database is away and the worker is to go on."""
        pause = 0.2
        while True:
            try:
                return await work()
            except (psycopg.OperationalError, MetierError, ConnectorException) as error:
                if self._stop.is_set() or not _away(error):
                    raise
                _log.warning("the worker has lost its database (%s): it tries again in %.1f s", error, pause)
            await unless(self._stop, pause)
            pause = min(pause * 2, longest_s)


async def unless(stop: asyncio.Event, seconds: float) -> None:
    """Wait for some seconds, or until a worker is asked to stop."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)


def _away(error: BaseException) -> bool:
    cause = error.__cause__ if isinstance(error, ConnectorException) else error
    return cause is not None and away(cause)
