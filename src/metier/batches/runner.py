"""Moves batches: reads their files, makes their calls when they may be made, writes their results."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta

from metier.batches.batch import Batches, Status
from metier.batches.files import Writing
from metier.batches.lines import Fault, Surface
from metier.batches.progress import Held, LostBatch, Outcome, Progress, Result
from metier.batches.results import unanswered
from metier.batches.turn import Pause, Road, Turn
from metier.batches.validation import Reading
from metier.calls import RunId
from metier.errors import MetierError, NotAllowed, NotAuthenticated, NotFound

__all__ = ["Runner"]

_BUSY = timedelta(seconds=5)
_REST: Mapping[str, str] = {
    "batch_expired": "the request could not be made within the completion window of its batch",
    "batch_cancelled": "the batch was cancelled before the request was made",
    "batch_failed": "the batch was stopped before the request was made; its errors say why",
}

_log = logging.getLogger(__name__)


class Runner:
    """The worker's side of batches; any number of processes may run one."""

    def __init__(self, batches: Batches, surfaces: Mapping[str, Surface], road: Road) -> None:
        self._batches = batches
        self._surfaces = surfaces
        self._road = road
        self._files = batches.files
        self._store = batches.store
        self._clock = batches.clock
        self._dispatch = batches.dispatch
        self._progress = Progress(batches.store, batches.vault, batches.dispatch)
        self._never = asyncio.Event()
        self._moving: dict[str, asyncio.Event] = {}
        """Batches a turn of this process is at; the event says that it left."""

    async def work(self, stop: asyncio.Event) -> None:
        """Move batches until asked to stop; calls under way then get a while to end."""

        async def segment(id: RunId) -> None:
            await self.turn(id, stop)

        await self._dispatch.work(segment, stop, [self.recover, self._files.purge])

    async def drain(self) -> None:
        """Move everything that can move now, then return; for tests."""
        await self._dispatch.drain(self.turn)

    async def recover(self) -> int:
        """Make the batches of dead workers due again, and say how many; any worker may do it at any time."""
        found = 0
        for stalled in await self._dispatch.stalled():
            found += await self._dispatch.revive(stalled)
        for id in await self._progress.idle():
            async with self._store.transaction() as tx:
                await self._dispatch.hold(tx, RunId(id))
                if await self._progress.idle(id, tx):
                    await self._dispatch.defer(tx, RunId(id))
                    found += 1
        return found

    async def turn(self, id: str, stop: asyncio.Event | None = None) -> None:
        """Move one batch as far as it can go now; silent when it is held by somebody else or over."""
        async with self._alone(id):
            held = await self._progress.take(id)
            if held is None:
                return
            try:
                await self._move(held, stop or self._never)
            except LostBatch as lost:
                _log.info("%s", lost)
            except asyncio.CancelledError:
                await asyncio.shield(self._progress.give_back(held))
                raise

    @contextlib.asynccontextmanager
    async def _alone(self, id: str) -> AsyncIterator[None]:
        """Wait for the turn of this process that is still at the batch.

        Silent through an outage of the database, a living worker is taken for dead and may be given its own batch.
        """
        while (other := self._moving.get(id)) is not None:
            await other.wait()
        self._moving[id] = left = asyncio.Event()
        try:
            yield
        finally:
            del self._moving[id]
            left.set()

    async def _move(self, held: Held, stop: asyncio.Event) -> None:
        if held.status == "validating" and not await self._validated(held, stop):
            return
        while True:
            status, ending, todo = await self._progress.standing(held)
            if ending is not None:
                await self._finish(held, ending)
                return
            now = self._clock()
            if status == "cancelling":
                await self._progress.close(held, "cancelled", now)
            elif todo == 0:
                await self._progress.close(held, "completed", now)
            elif now >= held.expires_at:
                await self._progress.close(held, "expired", now)
            elif stop.is_set():
                await self._progress.give_back(held)
                return
            elif await self._paused(held, stop):
                return

    async def _paused(self, held: Held, stop: asyncio.Event) -> bool:
        """Make the calls that may be made now; True when the batch was put aside until later."""
        turn = Turn(held, self._surfaces[held.endpoint], self._road, self._files, self._progress, self._clock, stop)
        pause = turn.closed()
        if pause is None:
            await turn.run()
            pause = turn.pause
        if turn.fatal is not None:
            await self._progress.close(held, "failed", self._clock(), [_told(turn.fatal)])
            return False
        if pause is None and turn.made == 0 and not stop.is_set():
            status, _, todo = await self._progress.standing(held)
            now = self._clock()
            if status == "in_progress" and todo and now < held.expires_at and turn.closed() is None:
                pause = Pause("project_busy", min(now + _BUSY, held.expires_at), held.stalls)
        if pause is None:
            return False
        return await self._progress.pause(held, pause.why, pause.at, pause.stalls)

    async def _validated(self, held: Held, stop: asyncio.Event) -> bool:
        """Read the file of a batch; False when this worker has to leave it where it is."""
        await self._progress.clear(held)
        try:
            principal = await self._road.principal(held.key_id)
            file = await self._files.get(held.project, held.input_file)
        except (NotAllowed, NotAuthenticated, NotFound) as error:
            await self._progress.close(held, "failed", self._clock(), [_told(error)])
            return True
        reading = Reading(held, self._surfaces[held.endpoint], principal, self._files.rules.lines)
        async for piece in self._files.content(file.id, file.bytes):
            noted = await reading.feed(piece)
            if reading.too_many:
                break
            if noted and not await self._progress.note(held, noted):
                # Cancelled, or held by another worker: where it stands is looked at next.
                return True
            if stop.is_set():
                await self._progress.give_back(held)
                return False
        else:
            noted = await reading.end()
            if noted and not reading.too_many and not await self._progress.note(held, noted):
                return True
        faults = reading.faults(file)
        if faults:
            await self._progress.clear(held)
            await self._progress.close(held, "failed", self._clock(), faults)
        else:
            await self._progress.begin(held, self._clock())
        return True

    async def _finish(self, held: Held, ending: Status) -> None:
        """Write the files of a batch and end it, together or not at all."""
        async with self._store.transaction() as tx:
            # Output, errors: each is only made when it has a line.
            files: dict[Outcome, Writing] = {}
            counts = {"total": 0, "done": 0, "failed": 0}
            async for result in self._progress.results(held):
                outcome: Outcome = result.outcome or "failed"
                counts["total"] += 1
                counts[outcome] += 1
                if outcome not in files:
                    files[outcome] = await self._files.compose(held.project, held.organisation, tx)
                await files[outcome].feed(result.answer or _rest(held, result, ending))
            written: dict[Outcome, str] = {}
            for made, file in files.items():
                name = f"{held.id}_{'output' if made == 'done' else 'error'}.jsonl"
                stored = await self._files.store(file, name, "batch_output", held.keep_s, tx=tx)
                written[made] = stored.id
            row = {**counts, "now": self._clock()}
            await self._progress.finish(held, (written.get("done"), written.get("failed")), row, tx)


def _rest(held: Held, result: Result, ending: Status) -> bytes:
    code = f"batch_{ending}"
    return unanswered(held.id, result.number, result.custom_id, Fault(code, _REST[code]))


def _told(error: MetierError) -> dict[str, object]:
    return {"code": error.code, "message": error.message, "param": error.param, "line": None}
