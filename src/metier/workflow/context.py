"""What a step function is given: where it is, its way to keep answers, and its way to tell what it spent."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Protocol, TypeAlias

import orjson

from metier.calls import JSON, Principal, RunId
from metier.deferred import deferred
from metier.errors import Invalid
from metier.workflow.commands import ASK_BUDGET, ASK_HUMAN, Entry, Key
from metier.workflow.definition import Step, Workflow
from metier.workflow.journal import Hold, Line

if TYPE_CHECKING:
    import jsonschema
else:
    jsonschema = deferred("jsonschema")

__all__ = ["Asked", "Clock", "Keeps", "StepContext", "StepFunction", "fits", "plain", "utc"]

Clock: TypeAlias = Callable[[], datetime]

_meter: contextvars.ContextVar[_Meter] = contextvars.ContextVar("meter")


def utc() -> datetime:
    """The time now, with its zone."""
    return datetime.now(UTC)


class Keeps(Protocol):
    """A journal as steps need it: a line is kept, for the holder of the run, before it is used."""

    async def append(self, hold: Hold, lines: Sequence[Line]) -> object:
        """Write lines for the holder of a run, or raise LostRun when somebody else holds it by now; none only look."""


class Asked(BaseException):
    """A step needs a person before it goes on; no error, so that no step takes it for a failure of its own."""

    def __init__(
        self, name: str, task: Mapping[str, JSON], schema: Mapping[str, JSON] | None, flow: str | None = None
    ) -> None:
        super().__init__(name)
        self.name = name
        """Of the decision in the journal, with its `!`."""
        self.task = dict(task)
        self.schema = schema
        self.flow = flow
        """The workflow whose run is asked, where no person is."""
        self.also: tuple[Asked, ...] = ()
        """What the step asks at the same time."""


@dataclass(slots=True)
class _Meter:
    """Money and calls spent in one stretch of a step."""

    cost_eur: Decimal = Decimal(0)
    calls: int = 0

    def add(self, cost_eur: Decimal, calls: int) -> None:
        self.cost_eur += cost_eur
        self.calls += calls


@dataclass(slots=True)
class StepContext:
    """What a step function knows about where it is, and its ways to keep answers and to tell what it spent."""

    run: RunId
    path: str
    attempt: int
    step: Step
    workflow: Workflow
    principal: Principal
    budget_left_eur: Decimal | None
    """What this step may still spend; None where there is no budget."""
    _hold: Hold
    _entries: dict[Key, Entry]
    _journal: Keeps
    _clock: Clock
    _total: _Meter = field(default_factory=_Meter)
    _locks: dict[str, asyncio.Lock] = field(default_factory=dict)
    _counted: set[str] = field(default_factory=set)
    """Answers whose cost is already in the total."""

    async def once(self, name: str, produce: Callable[[], Awaitable[JSON]]) -> JSON:
        """Produce a value and journal it before giving it out; a repeated step gets the same value again."""
        if not name or name.startswith("!"):
            raise Invalid(f"cannot keep an answer under the name {name!r}: give it a name that does not begin with '!'")
        async with self._locks.setdefault(name, asyncio.Lock()):
            known = self._entries.get((self.path, self.attempt, name))
            if known is None:
                return await self._produce(name, produce)
            if name not in self._counted:
                self._counted.add(name)
                self.spend(known.cost_eur, known.calls)
            return known.value

    async def _produce(self, name: str, produce: Callable[[], Awaitable[JSON]]) -> JSON:
        await self._journal.append(self._hold, ())
        started, meter = self._clock(), _Meter()
        token = _meter.set(meter)
        try:
            value = plain(await produce())
        finally:
            _meter.reset(token)
            self._counted.add(name)
            self.spend(meter.cost_eur, meter.calls)
        line = Line(
            path=self.path,
            attempt=self.attempt,
            kind="answer",
            value=value,
            started_at=started,
            duration_s=(self._clock() - started).total_seconds(),
            name=name,
            cost_eur=meter.cost_eur,
            calls=meter.calls,
        )
        # Shielded: a step that is cancelled or out of time has still paid for this answer.
        keeping = asyncio.ensure_future(self._journal.append(self._hold, [line]))
        # Where the run was taken from its worker too, nobody is left to hear that it could not be kept.
        keeping.add_done_callback(lambda kept: kept.cancelled() or kept.exception())
        await asyncio.shield(keeping)
        self._entries[line.entry().key] = line.entry()
        return value

    async def ask(self, name: str, task: Mapping[str, JSON], schema: Mapping[str, JSON] | None = None) -> JSON:
        """Give what a person decided under this name; before that, leave the run with this task for them."""
        known = self._entries.get((self.path, self.attempt, _asked(name)))
        if known is None:
            raise Asked(_asked(name), task, schema)
        return known.value

    def decided(self, name: str) -> JSON:
        """Look at what a person decided under this name; None while nobody has."""
        known = self._entries.get((self.path, self.attempt, _asked(name)))
        return None if known is None else known.value

    def returned(self, name: str, flow: str, inputs: Mapping[str, JSON]) -> Entry:
        """Give what a run of another workflow came to; before that, leave the run until it is over."""
        known = self._entries.get((self.path, self.attempt, _asked(name)))
        if known is None:
            raise Asked(_asked(name), inputs, None, flow)
        return known

    def tried(self, attempt: int, name: str = "") -> Entry | None:
        """Look at what an earlier attempt of this step left in the journal; None where it left nothing."""
        return self._entries.get((self.path, attempt, name))

    def spend(self, cost_eur: Decimal, calls: int = 1) -> None:
        """Tell what a call has cost; it counts against the budgets of the step and of the run."""
        _meter.get(self._total).add(cost_eur, calls)

    @property
    def spent(self) -> tuple[Decimal, int]:
        """Money and calls told so far, outside a value being produced."""
        return self._total.cost_eur, self._total.calls


StepFunction: TypeAlias = Callable[[StepContext, dict[str, JSON]], Awaitable[JSON]]
"""Does the work of one kind of step: what it sees is the evaluated `with`, what it gives is journalled."""


def _asked(name: str) -> str:
    key = f"!{name}"
    if not name or key in (ASK_HUMAN, ASK_BUDGET):
        raise Invalid(f"cannot ask a person under the name {name!r}: it is a name of the engine's own questions")
    return key


def plain(value: JSON) -> JSON:
    """Give a value as it will be read back, so that a run sees the same before and after a crash."""
    try:
        clear: JSON = orjson.loads(orjson.dumps(value))
    except (TypeError, ValueError) as error:
        raise Invalid(f"a step gave {type(value).__name__} that is not JSON: {error}") from error
    return clear


def fits(value: JSON, schema: Mapping[str, JSON] | None, what: str) -> None:
    """Check a value against a JSON Schema, naming the place that does not fit but never the value."""
    if schema is None:
        return
    checker = jsonschema.Draft202012Validator(dict(schema))
    error = jsonschema.exceptions.best_match(checker.iter_errors(value))
    if error is not None:
        place = "/".join(str(part) for part in error.absolute_path) or "the value itself"
        raise Invalid(
            f"{what} does not fit its schema at {place}: expected {error.validator} {error.validator_value!r}"
        )
