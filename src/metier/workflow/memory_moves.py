"""Moves a run that lives in memory as far as it can go: the same walk, the same calls, no database."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TypeAlias

from metier.calls import JSON, RunId
from metier.errors import Broken, MetierError, RateLimited, Unavailable
from metier.workflow.calling import Calling, Held, error_value
from metier.workflow.commands import (
    BEGAN,
    CHILD,
    GATHERED,
    Await,
    Call,
    Command,
    Emit,
    EntryKind,
    Failure,
    Finish,
    Items,
    Note,
    Park,
    RunStep,
    Sleep,
    Under,
    WaitUntil,
    Work,
)
from metier.workflow.context import StepFunction
from metier.workflow.definition import Kind
from metier.workflow.expressions import Expressions
from metier.workflow.interpreter import Walk
from metier.workflow.journal import Hold, Line, LostRun
from metier.workflow.leaving import Round
from metier.workflow.memory_book import Book
from metier.workflow.memory_records import Record
from metier.workflow.port import RunStatus

__all__ = ["Moves"]

_WIDTH = 10
"""Steps of one run under way at once."""

_Task: TypeAlias = "asyncio.Task[Line | tuple[Park, ...]]"


class Moves:
    """Moves runs: what segments are elsewhere."""

    def __init__(self, book: Book, steps: Mapping[Kind, StepFunction]) -> None:
        self._book = book
        self._calling = Calling(book, book, steps, book.clock)
        self._clock = book.clock
        self._expressions = Expressions()

    async def move(self, run: RunId) -> None:
        """Move one run as far as it can go; silent when it is over or somebody moves it."""
        record = self._book.records[run]
        if record.run.status not in ("pending", "running", "waiting"):
            return
        record.epoch += 1
        self._book.become(record, "running")
        walk = Walk(
            record.workflow, record.inputs, dict(record.lines), {"id": run},
            expressions=self._expressions, around=None if record.origin is None else record.origin.around,
        )  # fmt: skip
        held = Held(Hold(run, record.epoch), record.workflow, record.inputs, record.principal, walk, {}, 0)
        record.held = held
        try:
            await self._go_on(record, held)
        except LostRun:
            return
        except MetierError as error:
            self._book.over(record, Finish(failure=Failure(error.code, error.message)))
        finally:
            record.held = None

    async def _go_on(self, record: Record, held: Held) -> None:
        under: dict[str, _Task] = {}
        try:
            while True:
                if record.run.status != "running":
                    raise LostRun(f"run {record.run.id!r} is {record.run.status!r}: this worker stops here")
                now = self._round(record, held, under)
                if now.end is not None and not under:
                    if notes := self._notes(held):
                        await self._book.append(held.hold, notes)
                    self._book.over(record, now.end)
                    return
                if now.end is None and await self._begin(record, held, now, under):
                    continue
                if not under:
                    if notes := self._notes(held):
                        await self._book.append(held.hold, notes)
                    status: RunStatus = "parked" if now.at is None else "waiting"
                    self._book.become(record, status, on=next(iter(now.waits), None), at=now.at)
                    return
                await self._settle(record, held, under)
        finally:
            for task in under.values():
                task.cancel()
            await asyncio.gather(*under.values(), return_exceptions=True)

    async def _begin(self, record: Record, held: Held, now: Round, under: dict[str, _Task]) -> bool:
        """Begin what may be done; say whether something has come of it already."""
        came = False
        for command in now.start[: _WIDTH - len(under)]:
            if isinstance(command, RunStep):
                under[command.path] = asyncio.ensure_future(self._calling.attempt(held, command))
            else:
                await self._keep(held, await self._do(record, held, command))
                came = True
        for park in now.ask:
            await self._book.ask(record, park)
            came = True
        return came

    def _round(self, record: Record, held: Held, under: Mapping[str, object]) -> Round:
        found, now = Round(), self._clock()
        for command in held.walk.frontier():
            if isinstance(command, Finish):
                found.end = command
            elif not isinstance(command, Note) and command.path not in under:
                self._sort(record, held, command, now, found)
        return found

    def _sort(self, record: Record, held: Held, command: Command, now: datetime, found: Round) -> None:
        if isinstance(command, WaitUntil):
            if command.at > now:
                found.until(command.at)
                return
            command = command.then
        assert not isinstance(command, Note | Finish | WaitUntil)
        place = (command.path, command.attempt)
        questions = [park for park in held.asked if park.path == command.path]
        found.ask.extend(questions)
        asked = bool(questions) or any(key[:2] == place and key[2] for key in record.opened)
        match command:
            case Park():
                found.waits.append(command.path)
                if (*place, command.name) not in record.opened:
                    found.ask.append(command)
            case Sleep(event=event) if event is not None and (*place, "") not in record.opened:
                found.start.append(command)
            case Sleep(at=at) if at is None or at > now:
                found.waits.append(command.path)
                if at is not None:
                    found.until(at)
            case Under() if command.path in held.looked or not command.many:
                found.waits.append(command.path)
            case RunStep() if asked:
                found.waits.append(command.path)
            case _:
                found.start.append(command)

    async def _do(self, record: Record, held: Held, command: Work) -> list[Line]:
        """Do what the engine does itself, and give the lines that say so."""
        book = self._book
        try:
            match command:
                case Call():
                    return [self._line(command, "choice", await book.call(record, command), CHILD)]
                case Items():
                    return [self._line(command, "choice", book.begin(record, command), CHILD)]
                case Under():
                    return self._gathered(record, held, command)
                case Emit():
                    line = self._line(command, "result", {"event": command.event, "key": command.key})
                    await self._keep(held, [line])
                    id = f"{record.run.id}/{command.path}"
                    book.happen(record.principal.project, command.event, command.key, dict(command.data), id)
                    return []
                case Await():
                    return self._await(record, command)
                case Sleep(event=event) if event is None or (command.path, command.attempt, "") in record.opened:
                    return [self._woken(record, command)]
                case Sleep():
                    # Its run had come to an end meanwhile: nobody would tell it.
                    return self._listen(
                        record, Await(command.path, command.attempt, command.step, command.event, command.key)
                    )
                case RunStep():
                    raise Broken(f"{command.path!r} is called beside the others, never here")
        except LostRun:
            raise
        except MetierError as error:
            value = error_value(error.code, error.message, retry=isinstance(error, Unavailable | RateLimited))
            return [self._line(command, "error", value)]

    def _line(self, command: Work, kind: EntryKind, value: JSON, name: str = "", cost: Decimal = Decimal(0)) -> Line:
        return Line(command.path, command.attempt, kind, value, self._clock(), name=name, cost_eur=cost)

    def _notes(self, held: Held) -> list[Line]:
        return [Line(n.path, n.attempt, n.kind, n.value, self._clock()) for n in held.walk.notes()]

    async def _keep(self, held: Held, lines: list[Line]) -> None:
        written = [*self._notes(held), *lines]
        await self._book.append(held.hold, written)
        for line in written:
            held.walk.feed(line.entry())

    async def _settle(self, record: Record, held: Held, under: dict[str, _Task]) -> None:
        """Wait until something under way has ended, or something came from outside."""
        signal = asyncio.ensure_future(record.came.wait())
        try:
            await asyncio.wait([*under.values(), signal], return_when=asyncio.FIRST_COMPLETED)
        finally:
            signal.cancel()
        record.came.clear()
        for path in [path for path, task in under.items() if task.done()]:
            came = under.pop(path).result()
            if isinstance(came, Line):
                await self._keep(held, [came])
            else:
                held.asked.extend(came)

    def _gathered(self, record: Record, held: Held, command: Under) -> list[Line]:
        came = self._book.gathered(record, command)
        if came is None:
            held.looked.add(command.path)
            return []
        return [self._line(command, "choice", came[0], GATHERED, came[1])]

    def _await(self, record: Record, command: Await) -> list[Line]:
        at = command.until if command.for_s is None else self._clock() + timedelta(seconds=command.for_s)
        lines = [self._line(command, "choice", {"at": None if at is None else at.isoformat()}, BEGAN)]
        return lines if command.event is None else [*lines, *self._listen(record, command)]

    def _listen(self, record: Record, command: Await) -> list[Line]:
        came = self._book.happened(record, command)
        if came is None:
            record.opened[command.path, command.attempt, ""] = command
            return []
        return [self._line(command, "result", came)]

    def _woken(self, record: Record, command: Sleep) -> Line:
        """The time has come: the step has waited long enough, or its event did not come."""
        if command.event is None:
            return self._line(command, "result", {"at": None if command.at is None else command.at.isoformat()})
        record.opened.pop((command.path, command.attempt, ""), None)
        told = f"{command.path!r} waited for {command.event!r} until {command.at}: it did not come"
        return self._line(command, "error", error_value("timeout", told, retry=True))
