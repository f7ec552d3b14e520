"""Calls step functions, one attempt at a time, and turns whatever happens into a line of the journal."""

from __future__ import annotations

import asyncio
import contextlib
import traceback
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Protocol

import psycopg

from metier.calls import JSON, Principal, RunId
from metier.errors import Invalid, MetierError, RateLimited, Unavailable
from metier.store import Row, away
from metier.workflow.commands import Entry, Key, Park, RunStep
from metier.workflow.context import Asked, Clock, Keeps, StepContext, StepFunction, fits, plain
from metier.workflow.definition import Kind, Workflow
from metier.workflow.interpreter import Walk
from metier.workflow.journal import Hold, Line, LostRun

__all__ = ["Calling", "Held", "Shelf", "error_value"]

_MOST_OUTAGES = 5
"""Of one attempt: a step that meets more of them brings them about."""


@dataclass(slots=True)
class Held:
    """A run as one worker holds it."""

    hold: Hold
    workflow: Workflow
    inputs: dict[str, JSON]
    principal: Principal
    walk: Walk
    row: Row
    """As it was taken."""
    signals: int
    """Of which the walk knows what they brought."""
    opened: set[Key] = field(default_factory=set)
    """What the run waits for, noted where those who answer look."""
    asked: list[Park] = field(default_factory=list)
    """Questions of steps that nobody was asked yet."""
    notes: list[Line] = field(default_factory=list)
    """Found out and not written yet."""
    looked: set[str] = field(default_factory=set)
    """Steps whose runs were looked at since the last signal, and were not over."""
    come: datetime | None = None
    """A time that has come, whatever the clock says."""
    glanced: float = 0.0
    """When it was last looked for signals."""
    pausing: bool = False
    """Whether somebody wants it to stand still at its next boundary."""
    cut: BaseException | None = None
    """The database went away under something that cannot be done again without reading the run anew."""

    @property
    def entries(self) -> dict[Key, Entry]:
        """Its journal, as far as it is known."""
        return self.walk.entries

    @property
    def spent(self) -> Decimal:
        """What its steps have cost."""
        return self.walk.spent


class Shelf(Protocol):
    """Where results lie that may be given again, and what steps stand on."""

    async def kept(self, place: JSON) -> JSON:
        """Give what was kept under all that it depends on, while it holds; else None."""

    async def keep(self, place: JSON, value: JSON, for_s: float, workspace: str) -> None:
        """Keep a value of an organisation for some time."""

    async def back(self, run: RunId, path: str) -> None:
        """Wait until the database answers, or raise LostRun where it does not for long."""


@dataclass(slots=True)
class _Limit:
    """The time one try of a step has: it stands still while the step waits for what it gave to be kept."""

    journal: Keeps
    timeout: asyncio.Timeout | None = None
    left_s: float | None = None
    """What was left when it began to stand still; None while it runs."""
    waiting: int = 0

    async def append(self, hold: Hold, lines: Sequence[Line]) -> object:
        """Write lines, however long the database is away: what they hold was paid for."""
        self.waiting += 1
        limit = self.timeout
        # One that has run out can no longer stand still, and what it cancels may still have paid.
        if self.left_s is None and limit is not None and not limit.expired() and (end := limit.when()) is not None:
            self.left_s = end - asyncio.get_running_loop().time()
            limit.reschedule(None)
        try:
            return await self.journal.append(hold, lines)
        finally:
            self.waiting -= 1
            if not self.waiting and self.left_s is not None:
                left_s, self.left_s = self.left_s, None
                if self.timeout is not None:
                    self.timeout.reschedule(asyncio.get_running_loop().time() + left_s)

    @contextlib.asynccontextmanager
    async def within(self, seconds: float | None) -> AsyncIterator[None]:
        """Bound what is done inside."""
        async with asyncio.timeout(seconds) as self.timeout:
            try:
                yield
            finally:
                # What is written on behind it bounds nothing any more.
                self.timeout = self.left_s = None


class Calling:
    """Calls step functions; the only place where it is done."""

    def __init__(self, journal: Keeps, shelf: Shelf, steps: Mapping[Kind, StepFunction], clock: Clock) -> None:
        self._journal = journal
        self._shelf = shelf
        self._steps = steps
        self._clock = clock

    async def attempt(self, held: Held, command: RunStep) -> Line | tuple[Park, ...]:
        """Call the step function once: a line of the journal, or the questions it has to people."""
        step, started = command.step, self._clock()
        limit = _Limit(self._journal)
        context = StepContext(
            run=held.hold.run,
            path=command.path,
            attempt=command.attempt,
            step=step,
            workflow=held.workflow,
            principal=held.principal,
            budget_left_eur=command.budget_left_eur,
            _hold=held.hold,
            _entries=held.entries,
            _journal=limit,
            _clock=self._clock,
        )
        value: JSON
        try:
            function = self._steps.get(step.kind)
            if function is None:
                raise Invalid(f"no step function for {step.kind!r} is installed here: {command.path!r} cannot run")
            value, kept_s = None, step.cache_s
            if kept_s is not None:
                value = await self._shelf.kept(_place(held, command))
            if value is None:
                value = plain(await self._called(function, context, command, limit))
                fits(value, step.output, f"the output of {command.path!r}")
                if kept_s is not None and value is not None:
                    await self._shelf.keep(_place(held, command), value, kept_s, held.principal.organisation)
            failed = False
        except LostRun:
            raise
        except Asked as asked:
            return _questions(command, (asked, *asked.also), context.spent[0])
        except TimeoutError:
            value = error_value("timeout", f"{command.path!r} did not end within {step.timeout_s} s", retry=True)
            failed = True
        except MetierError as error:
            value = error_value(error.code, error.message, retry=isinstance(error, Unavailable | RateLimited))
            failed = True
        except Exception as error:  # noqa: BLE001  # edge of foreign code: recorded in the journal with its trace
            told = f"{command.path!r} failed unexpectedly ({type(error).__name__}): its trace is in the journal"
            value = {**error_value("step_failed", told, retry=True), "trace": traceback.format_exc(limit=-20)}
            failed = True
        cost, calls = context.spent
        return Line(
            path=command.path,
            attempt=command.attempt,
            kind="error" if failed else "result",
            value=value,
            started_at=started,
            duration_s=(self._clock() - started).total_seconds(),
            cost_eur=cost,
            calls=calls,
        )

    async def _called(self, function: StepFunction, context: StepContext, command: RunStep, limit: _Limit) -> JSON:
        """Call a step function; where the database went away under it, again once it is back: no attempt is spent."""
        outages = 0
        while True:
            try:
                await self._journal.append(context._hold, ())
                async with limit.within(command.step.timeout_s):
                    return await function(context, command.with_)
            except BaseExceptionGroup as several:
                # Tasks of a step that ask at once: each question is opened.
                questions, others = several.split(Asked)
                if questions is not None and others is None:
                    first, *also = _leaves(questions)
                    first.also = tuple(also)
                    raise first from None
                outages += 1
                if not away(several) or outages > _MOST_OUTAGES:
                    raise
            except (psycopg.OperationalError, MetierError) as error:
                outages += 1
                if isinstance(error, LostRun) or not away(error) or outages > _MOST_OUTAGES:
                    raise
            await self._shelf.back(context.run, command.path)


def _place(held: Held, command: RunStep) -> JSON:
    """Say all that a result depends on: whose it is, which step, how it is made, what it was given."""
    step = command.step
    return [held.principal.project, held.workflow.name, step.id, step.kind, step.config, command.with_]


def _questions(command: RunStep, asked: Sequence[Asked], spent: Decimal) -> tuple[Park, ...]:
    """Say what a step asks; runs that it starts at the same time share what money it has left."""
    share, runs = command.budget_left_eur, sum(one.flow is not None for one in asked)
    if share is not None and runs:
        share = max(share - spent, Decimal(0)) / runs
    return tuple(
        Park(
            command.path,
            command.attempt,
            one.name,
            command.step,
            one.task,
            one.schema,
            one.flow,
            share if one.flow is not None else None,
        )
        for one in asked
    )


def _leaves(group: BaseExceptionGroup[Asked]) -> list[Asked]:
    found: list[Asked] = []
    for one in group.exceptions:
        found.extend(_leaves(one) if isinstance(one, BaseExceptionGroup) else [one])
    return found


def error_value(code: str, message: str, *, retry: bool) -> dict[str, JSON]:
    """Say what went wrong in the words of the journal."""
    return {"code": code, "message": message, "retry": retry}
