"""Runs the tests written beside a workflow: the real interpreter on pretended outputs, no model, nothing sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from metier.calls import JSON
from metier.errors import Invalid, MetierError
from metier.workflow import rules
from metier.workflow.commands import (
    BEGAN,
    Await,
    Call,
    Command,
    Emit,
    Entry,
    EntryKind,
    Finish,
    Key,
    Park,
    RunStep,
    Sleep,
    WaitUntil,
)
from metier.workflow.context import fits
from metier.workflow.definition import FlowTest, Workflow, conform
from metier.workflow.expressions import Expressions
from metier.workflow.interpreter import Walk

__all__ = ["Code", "Rehearsed", "rehearse"]

Code = Callable[..., JSON]
"""A pure function that a `code:` step may call; it is run for real when the test does not pretend its output."""

_STEPS_MAX = 2_000
_THEN = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """What one test found."""

    name: str
    ok: bool
    failures: tuple[str, ...]
    """Expectations that do not hold, and what stopped the rehearsal, each with its place."""
    path: tuple[str, ...]
    """Paths of the steps that ran, in order."""


@dataclass(slots=True)
class _Stage:
    workflow: Workflow
    test: FlowTest
    functions: Mapping[str, Code]
    journal: dict[Key, Entry] = field(default_factory=dict)
    path: list[str] = field(default_factory=list)
    keeping: Callable[[Entry], None] = lambda entry: None

    def keep(self, path: str, attempt: int, name: str, kind: EntryKind, value: JSON) -> None:
        self.keeping(Entry(path, attempt, name, kind, value, _THEN))

    def play(self) -> Finish:
        walk = Walk(self.workflow, self.inputs(), self.journal, {"id": "rehearsal"}, inline=True)
        self.keeping = walk.feed
        for _ in range(_STEPS_MAX):
            for note in walk.notes():
                self.keep(note.path, note.attempt, "", note.kind, note.value)
            next_one = walk.frontier()[0]
            if isinstance(next_one, Finish):
                return next_one
            self.do(next_one)
        raise Invalid(f"the test {self.test.name!r} does not end within {_STEPS_MAX} steps")

    def do(self, command: Command) -> None:
        """Pretend one command: time passes at once, events are told to nobody."""
        if isinstance(command, WaitUntil):
            command = command.then
        match command:
            case RunStep() | Call() | Sleep():
                self.step(command)
            case Emit():
                self.path.append(command.path)
                told: JSON = {"event": command.event, "key": command.key}
                self.keep(command.path, command.attempt, "", "result", told)
            case Await():
                self.keep(command.path, command.attempt, BEGAN, "choice", {"at": None})
            case Park():
                self.decide(command)
            case _:
                raise Invalid(f"{command!r} cannot be rehearsed")

    def inputs(self) -> Mapping[str, JSON]:
        given = conform(dict(self.test.inputs), self.workflow.inputs, "the inputs of the test")
        assert isinstance(given, dict)
        return given

    def step(self, command: RunStep | Call | Sleep) -> None:
        self.path.append(command.path)
        try:
            value = self.output(command)
            fits(value, command.step.output, f"the output of {command.path!r}")
        except MetierError as error:
            wrong: JSON = {"code": error.code, "message": error.message, "retry": False}
            self.keep(command.path, command.attempt, "", "error", wrong)
            return
        self.keep(command.path, command.attempt, "", "result", value)

    def output(self, command: RunStep | Call | Sleep) -> JSON:
        step = command.step
        if command.path in self.test.mock:
            return self.test.mock[command.path]
        if step.id in self.test.mock:
            return self.test.mock[step.id]
        if step.mock is not None:
            return step.mock
        if isinstance(command, Sleep) and command.event is None:
            return {"at": _THEN.isoformat()}
        if isinstance(command, RunStep) and step.kind == "rules":
            return rules.decide(rules.table(self.workflow, str(step.config)), dict(command.with_))
        function = self.functions.get(str(step.config)) if step.kind == "code" else None
        if function is not None and isinstance(command, RunStep):
            return function(**command.with_)
        raise Invalid(f"step {command.path!r} ({step.kind}) has no pretended output: add it under `mock:` of the test")

    def decide(self, park: Park) -> None:
        self.path.append(park.path)
        for key in (park.path, park.step.id):
            if key in self.test.mock:
                value = self.test.mock[key]
                fits(value, park.schema, f"the decision at {park.path!r}")
                self.keep(park.path, park.attempt, park.name, "decision", value)
                return
        raise Invalid(f"{park.path!r} asks a person: add the decision under `mock:` of the test")


def rehearse(workflow: Workflow, test: FlowTest, functions: Mapping[str, Code]) -> Rehearsed:
    """Play one test to its end and check every expectation over inputs, steps, output and status."""
    stage = _Stage(workflow, test, functions)
    try:
        finish = stage.play()
    except MetierError as error:
        return Rehearsed(test.name, False, (f"{test.mark}: {error.message}",), tuple(stage.path))
    values = _values(workflow, stage)
    failure = finish.failure
    scope: dict[str, JSON] = {
        "inputs": dict(stage.inputs()),
        "steps": values,
        "output": finish.output,
        "status": "failed" if failure else finish.outcome,
    }
    expected = any("failed" in expectation.expr for expectation in test.expect)
    found = [f"{failure.path}: {failure.message}"] if failure and not expected else []
    for expectation in test.expect:
        try:
            held = Expressions().evaluate(expectation.expr, scope)
        except MetierError as error:
            found.append(f"{expectation.mark}: {expectation.expr}: {error.message}")
            continue
        if held is not True:
            found.append(f"{expectation.mark}: {expectation.expr} is {held!r}")
    return Rehearsed(test.name, not found, tuple(found), tuple(stage.path))


def _values(workflow: Workflow, stage: _Stage) -> dict[str, JSON]:
    """The values of every step as the end of the workflow sees them."""
    template: dict[str, JSON] = {step.id: f"{{{{ steps.{step.id} }}}}" for step in workflow.walk()}
    seen = Workflow(
        name=workflow.name,
        inputs=workflow.inputs,
        steps=workflow.steps,
        output=template,
        budget=workflow.budget,
        tests=(),
        files=workflow.files,
        hash=workflow.hash,
        source="",
    )
    ends = Walk(seen, stage.inputs(), dict(stage.journal), {"id": "rehearsal"}, inline=True).frontier()[0]
    if isinstance(ends, Finish) and isinstance(ends.output, dict) and set(template) <= set(ends.output):
        return ends.output
    return {step.id: _last(stage, step.id) for step in workflow.walk()}


def _last(stage: _Stage, id: str) -> JSON:
    """Where an end step gave its own output: the last result of a step, whatever its path."""
    found = [
        entry.value
        for (path, _, name), entry in stage.journal.items()
        if not name and path.rpartition(".")[2] == id and entry.kind in ("result", "decision")
    ]
    return found[-1] if found else None
