"""The calls of one batch while one worker holds it: a few at a time, until they are done or something says wait."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeAlias

import psycopg

from metier.batches.files import Files
from metier.batches.lines import Fault, Prepared, Request, Surface, read
from metier.batches.progress import Held, Line, LostBatch, Progress
from metier.batches.results import answered, unanswered
from metier.calls import Answer, Call, KeyId, Origin, Principal, RunId
from metier.errors import (
    Broken,
    BudgetExceeded,
    LedgerBroken,
    MetierError,
    NotAllowed,
    NotAuthenticated,
    RateLimited,
    SystemNotApproved,
    Unavailable,
)
from metier.providers.base import retry_after_s
from metier.window import ALWAYS, Window
from metier.workflow.context import Clock

__all__ = ["Pause", "Road", "Turn"]

_Ask: TypeAlias = Callable[[Call], Awaitable[Answer]]

_MOST_BEGUN = 2
"""A call nobody heard of again is made once more, and no third time."""
_MOST_OUTAGES = 12
_FRESH = timedelta(seconds=5)
"""A line taken longer ago, with no call begun, may be with another worker by now: that is looked at first."""
_LARGE = 256 * 1024

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Road:
    """What a batch is handed to make its calls."""

    ask: _Ask
    """The one road."""
    principal: Callable[[KeyId], Awaitable[Principal]]
    """Who is behind a key now, or NotAuthenticated."""
    refusal: Callable[[MetierError], bytes]
    """The body an endpoint answers an error with."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Why a batch waits, and until when."""

    why: str
    at: datetime
    stalls: int


@dataclass(slots=True)
class Turn:
    """Makes calls of a batch until none is left to make now."""

    held: Held
    surface: Surface
    road: Road
    files: Files
    progress: Progress
    clock: Clock
    stop: asyncio.Event
    pause: Pause | None = None
    fatal: MetierError | None = None
    """Set when no further call of this batch can pass."""
    made: int = 0
    """Lines taken in this turn."""
    _window: Window | None = field(init=False)
    _stalls: int = field(init=False)
    _after: int = 0
    """The last line taken: those before it were taken too, in this turn or before."""

    def __post_init__(self) -> None:
        self._window = Window.parse(self.held.quiet_hours or ALWAYS)
        self._stalls = self.held.stalls

    async def run(self) -> None:
        """Make calls; return once those that were begun have ended."""
        rules = self.files.rules
        running: set[asyncio.Task[None]] = set()
        try:
            while True:
                # After a wall was met one call goes ahead: if it passes, the others follow.
                while len(running) < (1 if self._stalls else rules.concurrency) and self._may_begin():
                    line = await self.progress.claim(self.held, rules.project_concurrency, self._after)
                    if line is None:
                        break
                    self.made += 1
                    self._after = max(self._after, line.number if line.tries == 0 else 0)
                    running.add(asyncio.create_task(self._call(line)))
                if not running:
                    return
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                ended = await asyncio.gather(*done, return_exceptions=True)
                for error in ended:
                    if error is not None:
                        raise error
        except asyncio.CancelledError:
            for task in running:
                task.cancel()
            raise
        finally:
            # What is under way was paid for: whatever else broke, it is heard to its end.
            await asyncio.gather(*running, return_exceptions=True)

    def closed(self) -> Pause | None:
        """Say until when the window is closed; None when it is open."""
        now = self.clock()
        if self._window is None or self._window.open(now):
            return None
        return Pause("window", min(self._window.next(now), self.held.expires_at), self._stalls)

    def _may_begin(self) -> bool:
        if self.pause or self.fatal or self.stop.is_set() or self.clock() >= self.held.expires_at:
            return False
        return self.closed() is None

    async def _call(self, line: Line) -> None:
        """Make one call and keep what comes of it."""
        held, progress, taken = self.held, self.progress, self.clock()
        if line.begun > _MOST_BEGUN:
            told = "its call was begun twice and both times the worker died: send it again in another batch"
            fault = Fault("interrupted", told)
            await progress.keep(held, line, "failed", unanswered(held.id, line.number, line.custom_id, fault))
            return
        request, error, answer = f"{held.id}-{line.number}", None, b""
        try:
            principal = await self.road.principal(held.key_id)
        except (NotAuthenticated, NotAllowed) as refused:
            await self._end(line, refused)
            return
        try:
            prepared = await self._prepared(line, principal)
            origin = Origin(RunId(held.id), f"line {line.number}", line.begun)
            call = dataclasses.replace(prepared.call, origin=origin)
            request = call.id
            if self.clock() - taken > _FRESH:
                await progress.standing(held)
            answer = prepared.write(await self.road.ask(call))
        except LostBatch:
            raise
        except MetierError as refused:
            if await self._met(line, refused):
                return
            error = refused
        except psycopg.Error as away:
            # Not the line's fault: nothing is said of it that could not be taken back.
            if await self._met(line, Unavailable(f"the database does not answer: {type(away).__name__}")):
                return
            error = Unavailable("the database did not answer, however often it was asked: send the request again")
        except Exception as unexpected:  # noqa: BLE001  # edge of foreign code: one line fails, the others go on
            _log.error("line %d of %s failed unexpectedly (%s)", line.number, held.id, type(unexpected).__name__)
            error = Broken(f"the request {request!r} failed inside Métier; report this id to whoever runs it")
        if error is not None:
            answer = answered(held.id, line.number, line.custom_id, request, (error.status, self.road.refusal(error)))
            await progress.keep(held, line, "failed", answer)
            return
        answer = answered(held.id, line.number, line.custom_id, request, (200, answer))
        await progress.keep(held, line, "done", answer)
        if self._stalls:
            self._stalls = 0
            await progress.flow(held)

    async def _prepared(self, line: Line, principal: Principal) -> Prepared:
        data = await self.files.extract(self.held.input_file, line.start, line.size)
        _, asked = read(data, self.held.endpoint)
        if not isinstance(asked, Request):
            raise Broken(f"line {line.number} of {self.held.id!r} is not what was checked: report it")
        if len(asked.body) > _LARGE:
            return await asyncio.to_thread(self.surface, asked.body, principal)
        return self.surface(asked.body, principal)

    async def _end(self, line: Line, error: MetierError) -> None:
        """Stop the batch: what refused this line would refuse every other."""
        self.fatal = error
        await self.progress.release(self.held, line, outage=False)

    async def _met(self, line: Line, error: MetierError) -> bool:
        """Give a line back that a wall stopped, and remember the wall; False when the error is the line's own."""
        if isinstance(error, NotAuthenticated | SystemNotApproved):
            await self._end(line, error)
            return True
        outage = isinstance(error, Unavailable | LedgerBroken)
        if not outage and not isinstance(error, RateLimited | BudgetExceeded):
            return False
        if outage and line.outages + 1 >= _MOST_OUTAGES:
            return False
        wait_s = _wait_s(error, self._stalls)
        at = self.clock() + timedelta(seconds=wait_s)
        if self.pause is None or at > self.pause.at:
            self.pause = Pause(error.code, min(at, self.held.expires_at), self._stalls + 1)
        await self.progress.release(self.held, line, outage=outage)
        return True


def _wait_s(error: MetierError, stalls: int) -> float:
    """How long to wait at a wall: as long as it says, else longer each time it still stands."""
    told = retry_after_s(error)
    if told is not None:
        return min(max(told, 0.5), 3600.0)
    first, longest = (1.0, 60.0) if isinstance(error, RateLimited) else (5.0, 600.0)
    if isinstance(error, BudgetExceeded):
        first, longest = 60.0, 900.0
    return min(first * 2.0 ** min(stalls, 10), longest)
