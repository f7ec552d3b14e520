"""What a run may take before it is started: least, expected and worst case, from the definition and from history."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import ROUND_UP, Decimal
from typing import TypeAlias

from metier.errors import MetierError
from metier.workflow.branches import WIDTH
from metier.workflow.plan_amount import NOTHING, Amount
from metier.workflow.plan_bounds import as_runs, items, lanes, pauses, sections, tries, turns
from metier.workflow.shape import Step, Workflow

__all__ = ["Attempt", "Child", "Costs", "Plan", "Seen", "StepPlan", "plan"]

_DEEPEST = 8
_NANO = Decimal("0.000000001")
_INNER = ("switch", "loop", "parallel", "foreach", "call")


@dataclass(frozen=True, slots=True)
class Attempt:
    """What one try of a step may take, and where that is known from."""

    least: Amount
    expected: Amount
    most: Amount
    source: str = "no model is asked"


@dataclass(frozen=True, slots=True)
class Seen:
    """What earlier runs took for one step, per run."""

    per_run: Amount
    runs: int
    source: str


Costs: TypeAlias = Callable[[Workflow, Step], Attempt]
"""Gives what one try of a step of a workflow may take, on the models there are now."""

Child: TypeAlias = Callable[[Workflow, str], Workflow | None]
"""Gives the workflow a `call` step names, or None where it is not known."""


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step of a plan: how often it is tried, and what all its tries take."""

    id: str
    kind: str
    expected_tries: float
    most_tries: float
    expected: Amount
    most: Amount
    source: str
    """Where `expected` is from."""
    bound: str
    """Where `most` is from."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A forecast of one run of a definition."""

    workflow: str
    definition: str
    least: Amount
    """Of a run that ends well: the cheapest way through."""
    expected: Amount
    most: Amount
    """Never exceeded by what the engine does by itself; a person who asks for another try adds to it."""
    at_once: int
    """Steps that may be under way at the same time."""
    held_eur: Decimal
    """What the run may cost with its own budget enforced: the budget, and the tries under way when it is reached."""
    steps: tuple[StepPlan, ...]
    history_runs: int
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Way:
    """Bounds of a piece of a workflow: where the run goes on after it, and where it ends inside it."""

    go: tuple[Amount, Amount] | None
    end: tuple[Amount, Amount] | None = None

    def then(self, other: _Way) -> _Way:
        if self.go is None:
            return self
        end = self.end
        if other.end is not None:
            end = _either(end, (self.go[0] + other.end[0], self.go[1] + other.end[1]))
        if other.go is None:
            return _Way(None, end)
        return _Way((self.go[0] + other.go[0], self.go[1] + other.go[1]), end)


_NOWHERE = _Way((NOTHING, NOTHING))


def plan(
    workflow: Workflow,
    costs: Costs,
    history: Mapping[str, Seen] | None = None,
    *,
    child: Child | None = None,
    history_runs: int = 0,
) -> Plan:
    """Forecast one run; `history` gives by step id what earlier runs took, and replaces what would be guessed."""
    planner = _Planner(costs, dict(history or {}), child or (lambda _, __: None))
    whole = planner.sequence(workflow, workflow.steps)
    ends = [end for end in (whole.go, whole.end) if end is not None]
    least, most = _all(ends)
    planner.weigh(workflow, workflow.steps, 1.0, 1.0)
    steps = tuple(planner.steps)
    expected = sum((step.expected for step in steps), NOTHING)
    expected = expected.lasting(max(0.0, planner.lasts(0, 0.0)))
    at_once = planner.at_once(workflow, workflow.steps)
    if planner.waits or at_once > WIDTH:
        # A run has so many steps under way at once, and no more; items that are runs wait for free workers.
        most = replace(most, unknown=most.unknown | {"seconds"})
    return Plan(
        workflow=workflow.name,
        definition=workflow.hash,
        least=least,
        expected=expected,
        most=most,
        at_once=at_once,
        held_eur=_held(workflow, most, at_once, planner.dearest),
        steps=steps,
        history_runs=history_runs,
        notes=tuple(dict.fromkeys(planner.notes)),
    )


@dataclass(slots=True)
class _Planner:
    """One walk over a definition and what it calls."""

    costs: Costs
    history: dict[str, Seen]
    child: Child
    steps: list[StepPlan] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    dearest: float = 0.0
    """The dearest single try, in euros."""
    depth: int = 0
    beside: float = 0.0
    """Seconds of expected work that pass while other work does."""
    waits: bool = False
    """Whether items may be runs of their own, which wait in line."""

    def sequence(self, workflow: Workflow, steps: Sequence[Step]) -> _Way:
        way = _NOWHERE
        for step in steps:
            way = way.then(self.step(workflow, step))
        return way

    def step(self, workflow: Workflow, step: Step) -> _Way:
        match step.kind:
            case "end":
                way = _Way(None, (NOTHING, NOTHING))
            case "switch":
                way = self.switch(workflow, step)
            case "loop":
                way = self.loop(workflow, step)
            case "foreach":
                way = self.foreach(workflow, step)
            case "parallel":
                way = self.parallel(workflow, step)
            case "call":
                way = self.call(workflow, step)
            case _:
                way = _Way(self.leaf(workflow, step))
        return _or_nothing(way) if _may_be_left_out(step) else way

    def leaf(self, workflow: Workflow, step: Step) -> tuple[Amount, Amount]:
        one = self.costs(workflow, step)
        self.dearest = max(self.dearest, one.most.eur)
        most = one.most.times(tries(step))
        most = most.wait(pauses(step))
        return one.least, most

    def switch(self, workflow: Workflow, step: Step) -> _Way:
        ways = [self.sequence(workflow, branch.steps) for branch in step.branches]
        if all(branch.when is not None for branch in step.branches):
            ways.append(_NOWHERE)
        return _Way(_each([way.go for way in ways]), _each([way.end for way in ways]))

    def loop(self, workflow: Workflow, step: Step) -> _Way:
        body, (least, most) = self.sequence(workflow, step.steps), turns(step)
        return _repeated(body, least, most)

    def foreach(self, workflow: Workflow, step: Step) -> _Way:
        body, (least, most) = self.sequence(workflow, step.steps), items(step)
        way = _repeated(body, least, most)
        if way.go is None:
            return way
        self.waits |= as_runs(step, most)
        rounds = math.ceil(most / lanes(step, most))
        seconds = body.go[1].seconds * rounds if body.go else 0.0
        # Items that are collected may fail at their first step, and the run goes on.
        collects = isinstance(step.config, dict) and step.config.get("on_item_error") == "collect"
        fewest = NOTHING if collects else way.go[0].lasting(0.0)
        return _Way((fewest, way.go[1].lasting(seconds)), way.end)

    def parallel(self, workflow: Workflow, step: Step) -> _Way:
        ways = [self.sequence(workflow, branch.steps) for branch in step.branches]
        rounds = math.ceil(len(ways) / sections(step)) if ways else 0
        go, inside = (NOTHING, NOTHING), [edge for way in ways for edge in (way.go, way.end) if edge]
        for way in ways:
            least, most = _all([edge for edge in (way.go, way.end) if edge])
            go = (go[0] + least, go[1] + most)
        slowest = max((most.seconds for _, most in inside), default=0.0) * rounds
        ended = any(way.end is not None for way in ways)
        bounds = (go[0].lasting(0.0), go[1].lasting(slowest))
        return _Way(bounds, (NOTHING, bounds[1]) if ended else None)

    def call(self, workflow: Workflow, step: Step) -> _Way:
        found = self.called(workflow, step)
        if found is None:
            return _Way((NOTHING, Amount(unknown=frozenset({"calls", "eur", "wh", "carbon_g", "seconds"}))))
        self.depth += 1
        whole = self.sequence(found, found.steps)
        self.depth -= 1
        least, most = _all([edge for edge in (whole.go, whole.end) if edge])
        return _Way((least, most.times(tries(step)).wait(pauses(step))))

    def called(self, workflow: Workflow, step: Step) -> Workflow | None:
        config = step.config if isinstance(step.config, dict) else {}
        name = str(config.get("flow"))
        try:
            found = self.child(workflow, name) if self.depth < _DEEPEST else None
        except MetierError as error:
            self.notes.append(f"{step.id}: {error.message}")
            return None
        if found is None:
            self.notes.append(f"{step.id} calls {name!r}, which is not known here or calls itself: nothing bounds it")
        return found

    def weigh(self, workflow: Workflow, steps: Sequence[Step], expected: float, most: float) -> float:
        """List the steps with how often each is tried; give the part of the runs that goes on after them."""
        for step in steps:
            reached = expected * (0.5 if step.when is not None else 1.0)
            if step.kind == "end":
                return expected - reached
            if step.kind in _INNER:
                gone = self.inner(workflow, step, reached, most)
                expected = max(0.0, expected - gone)
                continue
            self.steps.append(self.line(workflow, step, reached, most * tries(step)))
        return expected

    def inner(self, workflow: Workflow, step: Step, reached: float, most: float) -> float:
        """Weigh what a step holds; give the part of the runs that ends inside it."""
        if step.kind == "switch":
            ways = len(step.branches) + all(branch.when is not None for branch in step.branches)
            part = reached / max(1, ways)
            return sum(part - self.weigh(workflow, branch.steps, part, most) for branch in step.branches)
        if step.kind == "parallel":
            spans = []
            for branch in step.branches:
                first, before = len(self.steps), self.beside
                self.weigh(workflow, branch.steps, reached, most)
                spans.append(self.lasts(first, before))
            self.beside += sum(spans) - max([sum(spans) / sections(step), *spans])
            return 0.0
        if step.kind == "call":
            found = self.called(workflow, step)
            if found is not None:
                self.depth += 1
                self.weigh(found, found.steps, reached, most * tries(step))
                self.depth -= 1
            return 0.0
        least, highest = turns(step) if step.kind == "loop" else items(step)
        first, before = len(self.steps), self.beside
        self.weigh(workflow, step.steps, reached * (least + highest) / 2, most * highest)
        if step.kind == "foreach" and reached and len(self.steps) > first:
            number = max(1.0, self.steps[first].expected_tries / reached)
            self.beside += self.lasts(first, before) * (1 - 1 / min(number, lanes(step, highest)))
        return 0.0

    def lasts(self, first: int, before: float) -> float:
        """Say how long steps are expected to take, from the one listed as `first` on."""
        return sum(one.expected.seconds for one in self.steps[first:]) - (self.beside - before)

    def line(self, workflow: Workflow, step: Step, expected: float, most: float) -> StepPlan:
        one = self.costs(workflow, step)
        seen = self.history.get(step.id) if self.depth == 0 else None  # a child may use the same ids
        likely = one.expected.times(expected) if seen is None else seen.per_run
        return StepPlan(
            id=step.id,
            kind=step.kind,
            expected_tries=likely.tries if seen else expected,
            most_tries=most,
            expected=likely,
            most=one.most.times(most),
            source=one.source if seen is None else seen.source,
            bound=one.source,
        )

    def at_once(self, workflow: Workflow, steps: Sequence[Step]) -> int:
        most = 1
        for step in steps:
            branches = [self.at_once(workflow, branch.steps) for branch in step.branches]
            if step.kind == "parallel":
                most = max(most, sum(branches))
            elif step.kind == "foreach":
                most = max(most, lanes(step, items(step)[1]) * self.at_once(workflow, step.steps))
            else:
                most = max(most, *branches, self.at_once(workflow, step.steps) if step.steps else 1)
        return most


def _either(one: tuple[Amount, Amount] | None, other: tuple[Amount, Amount]) -> tuple[Amount, Amount]:
    return other if one is None else (one[0].least(other[0]), one[1].most(other[1]))


def _each(found: Sequence[tuple[Amount, Amount] | None]) -> tuple[Amount, Amount] | None:
    whole: tuple[Amount, Amount] | None = None
    for one in found:
        whole = whole if one is None else _either(whole, one)
    return whole


def _all(found: Sequence[tuple[Amount, Amount]]) -> tuple[Amount, Amount]:
    return _each(found) or (NOTHING, NOTHING)


def _or_nothing(way: _Way) -> _Way:
    return _Way(_either(way.go, (NOTHING, NOTHING)), way.end)


def _repeated(body: _Way, least: int, most: int) -> _Way:
    go = None if body.go is None else (body.go[0].times(least), body.go[1].times(most))
    if least == 0 and go is None:
        go = (NOTHING, NOTHING)
    if body.end is None:
        return _Way(go)
    before = body.go[1].times(max(0, most - 1)) if body.go else NOTHING
    return _Way(go, (body.end[0], before + body.end[1]))


def _may_be_left_out(step: Step) -> bool:
    """Skipped by its condition, or given up with a value instead, even before its first try."""
    return step.when is not None or (step.on_error is not None and step.on_error.then != "fail")


def _held(workflow: Workflow, most: Amount, at_once: int, dearest: float) -> Decimal:
    worst = Decimal(repr(most.eur))
    if workflow.budget is not None and workflow.budget.on_exceed == "fail":
        worst = min(worst, workflow.budget.per_run_eur + at_once * Decimal(repr(dearest)))
    return worst.quantize(_NANO, ROUND_UP)
