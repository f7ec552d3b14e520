"""Does the commands of a frontier: by a step function, by a run of its own, or in a transaction of the engine."""

from __future__ import annotations

from datetime import timedelta
from typing import TypeAlias

import psycopg

from metier.calls import JSON
from metier.errors import MetierError, RateLimited, Unavailable
from metier.store import Store, away
from metier.workflow.children import Children
from metier.workflow.commands import (
    BEGAN,
    Await,
    Call,
    Emit,
    Items,
    Park,
    RunStep,
    Sleep,
    Under,
    Work,
)
from metier.workflow.context import Clock
from metier.workflow.events import Events
from metier.workflow.journal import Line, LostRun
from metier.workflow.leaving import Leaving, Overtaken
from metier.workflow.trying import Held, Tries, error_value

__all__ = ["Doing", "Done"]

_MOST_COLLISIONS = 5

Done: TypeAlias = Line | list[Line] | tuple[Park, ...]
"""What came of a command: a line to write, lines it has written itself, or questions to open."""


class Doing:
    """Does one command at a time; any number of them may be under way."""

    def __init__(
        self, store: Store, tries: Tries, children: Children, events: Events, leaving: Leaving, clock: Clock
    ) -> None:
        self._store = store
        self._queries = store.queries("engine")
        self._tries = tries
        self._journal = tries.journal
        self._children = children
        self._events = events
        self._leaving = leaving
        self._clock = clock

    async def do(self, held: Held, command: Work) -> Done:
        """Do one command, by calling a function, or in a transaction that writes its line too."""
        try:
            match command:
                case RunStep():
                    return await self._tries.attempt(held, command)
                case Call():
                    return [await self._children.call(held, command)]
                case Items():
                    return [await self._children.begin(held, command)]
                case Under():
                    line = await self._children.gathered(held, command)
                    if line is None:
                        held.looked.add(command.path)
                    return line or []
                case Emit():
                    return await self._emit(held, command)
                case Await():
                    return await self._await(held, command)
                case Sleep(event=event) if event is None or (command.path, command.attempt, "") in held.opened:
                    return await self._woken(held, command)
                case Sleep():
                    return await self._listen(held, command)
        except LostRun:
            raise
        except MetierError as error:
            if away(error):
                raise
            value = error_value(error.code, error.message, retry=isinstance(error, Unavailable | RateLimited))
            return Line(command.path, command.attempt, "error", value, self._clock())

    async def _emit(self, held: Held, command: Emit) -> Done:
        now, project = self._clock(), held.principal.project
        line = Line(command.path, command.attempt, "result", {"event": command.event, "key": command.key}, now)
        id = f"{held.hold.run}/{command.path}"
        for left in reversed(range(_MOST_COLLISIONS)):
            try:
                async with self._store.transaction() as tx:
                    await self._journal.append(held.hold, [line], tx)
                    await self._events.emit(tx, project, command.event, command.key, command.data, id=id)
                break
            except psycopg.errors.DeadlockDetected:
                # Two runs that tell each other something at once: one of them begins again.
                if not left:
                    raise
        return [line]

    async def _await(self, held: Held, command: Await) -> Done:
        now = self._clock()
        at = command.until if command.for_s is None else now + timedelta(seconds=command.for_s)
        until: JSON = {"at": None if at is None else at.isoformat()}
        lines = [Line(command.path, command.attempt, "choice", until, now, name=BEGAN)]
        async with self._store.transaction() as tx:
            if command.event is not None:
                came = await self._events.begin(tx, held.hold, held.principal.project, command, _had(held))
                if came is not None:
                    lines.append(came)
            await self._journal.append(held.hold, lines, tx)
        if command.event is not None and len(lines) == 1:
            held.opened.add((command.path, command.attempt, ""))
        return lines

    async def _listen(self, held: Held, command: Sleep) -> Done:
        """Wait again for an event: its run had come to an end meanwhile, and nobody would tell it."""
        again = Await(command.path, command.attempt, command.step, command.event, command.key)
        async with self._store.transaction() as tx:
            came = await self._events.begin(tx, held.hold, held.principal.project, again, _had(held))
            await self._journal.append(held.hold, [] if came is None else [came], tx)
        if came is not None:
            return [came]
        held.opened.add((command.path, command.attempt, ""))
        return []

    async def _woken(self, held: Held, command: Sleep) -> Done:
        """The time has come: the step has waited long enough, or its event did not come."""
        now = self._clock()
        if command.event is None:
            at = None if command.at is None else command.at.isoformat()
            return Line(command.path, command.attempt, "result", {"at": at}, now)
        told = f"{command.path!r} waited for {command.event!r} until {command.at}: it did not come"
        line = Line(command.path, command.attempt, "error", error_value("timeout", told, retry=True), now)
        place = {"run": held.hold.run, "path": command.path, "attempt": command.attempt, "name": ""}
        try:
            async with self._store.transaction() as tx:
                await self._journal.append(held.hold, [line], tx)
                if await self._queries.one("settle", place, tx) is None:
                    raise Overtaken
        except Overtaken:
            await self._leaving.reload(held)
            return []
        held.opened.discard((command.path, command.attempt, ""))
        return [line]


def _had(held: Held) -> list[str]:
    """Give the events a run has had."""
    return [str(e.value["id"]) for e in held.entries.values() if isinstance(e.value, dict) and "id" in e.value]
