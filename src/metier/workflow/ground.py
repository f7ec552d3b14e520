"""What every way of a walk stands on: the journal as far as it is known, notes, values, money, and errors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import TypeAlias

from metier.calls import JSON
from metier.errors import MetierError, NonDeterministicReplay
from metier.workflow.commands import (
    ASK_BUDGET,
    ASK_HUMAN,
    GATHERED,
    Entry,
    EntryKind,
    Failure,
    Finish,
    Key,
    Note,
    Park,
)
from metier.workflow.definition import Kind, RunBudget, Step, Workflow
from metier.workflow.expressions import Expressions
from metier.workflow.strands import Strands, Way

__all__ = ["Ground", "Purse", "Scope", "WayOf", "described", "euros", "failure_of", "field_of"]

_CONTROL = ("switch", "loop", "human", "end", "parallel", "foreach")
_DUST = Decimal("0.000001")


@dataclass(slots=True)
class Scope:
    """The variables of one branch: what it has computed is seen by the others when it has ended."""

    fixed: Mapping[str, JSON]
    """The inputs and the run, the same everywhere."""
    values: dict[str, JSON]
    loop: JSON = None
    named: Mapping[str, JSON] = field(default_factory=dict)
    """The item of a foreach and its index, where there is one."""

    def names(self) -> dict[str, JSON]:
        """Give every variable an expression may read here."""
        return {**self.fixed, "steps": self.values, "loop": self.loop, **self.named}

    def fork(self, **named: JSON) -> Scope:
        """Give a branch variables of its own, with what is known so far."""
        return replace(self, values=dict(self.values), named={**self.named, **named})


WayOf: TypeAlias = "Callable[[Ground, Step, str, Scope], Way]"
"""How a step of one kind is gone through."""


@dataclass(slots=True)
class Ground:
    """The state that the ways of one walk share."""

    workflow: Workflow
    entries: dict[Key, Entry]
    expressions: Expressions
    ways: Mapping[Kind, WayOf]
    purse: Purse
    shown: dict[str, dict[str, JSON]] | None = None
    """What finished steps were given; only filled for people who look."""
    inline: bool = False
    """Whether items stay in this run however many they are."""
    strands: Strands = field(default_factory=Strands)
    notes: list[Note] = field(default_factory=list)
    """Found out and not fetched yet."""
    noted: dict[Key, Note] = field(default_factory=dict)
    looked: set[str] = field(default_factory=set)
    """Paths some way has asked for: a line that comes for one of them later on changes what was found."""

    def entry(self, path: str, attempt: int = 1, name: str = "") -> Entry | Note | None:
        """Give the line of the journal, or what was found out and will be one."""
        self.looked.add(path)
        key = (path, attempt, name)
        return self.entries.get(key) or self.noted.get(key)

    def note(self, path: str, kind: EntryKind, value: JSON, attempt: int = 1) -> Note:
        """Find something out, once; it goes into the journal before what follows from it."""
        note = Note(path, kind, value, attempt)
        self.notes.append(note)
        self.noted[path, attempt, ""] = note
        return note

    def sequence(self, steps: Iterable[Step], prefix: str, scope: Scope) -> Way:
        """Go through steps one after the other, until one ends the branch."""
        for step in steps:
            over = yield from self.step(step, prefix + step.id, scope)
            if over is not None:
                return over
        return None

    def step(self, step: Step, path: str, scope: Scope) -> Way:
        """Go through one step, unless its condition does not hold."""
        first = self.entry(path)
        if first is None and step.when is not None:
            first = self._condition(step.when, path, scope)
        if first is not None and first.kind == "skipped":
            return None
        if first is not None and first.kind == "error" and step.kind in _CONTROL:
            return (yield from self.recover(step, path, failure_of(first, path, 1), scope))
        way = self.ways.get(step.kind)
        if way is None:
            raise NonDeterministicReplay(f"this version cannot run {step.kind!r} at {path!r}")
        return (yield from way(self, step, path, scope))

    def _condition(self, when: str, path: str, scope: Scope) -> Note | None:
        try:
            holds = self.expressions.holds(when, scope.names())
        except MetierError as error:
            return self.note(path, "error", described(error, f"the condition {when!r}"))
        return None if holds else self.note(path, "skipped", None)

    def decided(self, path: str, attempt: int, name: str = ASK_HUMAN) -> str | None:
        """Give what a person decided about an attempt."""
        entry = self.entry(path, attempt, name)
        return None if entry is None else str(field_of(entry, "decision", path))

    def recover(self, step: Step, path: str, failure: Failure, scope: Scope, attempt: int = 1) -> Way:
        """Wait for what the definition, or a person, says about a step that failed for good."""
        while True:
            found = self.policy(step, path, failure, scope, attempt)
            if not isinstance(found, Park):
                return found
            yield found

    def policy(self, step: Step, path: str, failure: Failure, scope: Scope, attempt: int = 1) -> Park | Finish | None:
        """Apply what the definition, or a person, says about a step that failed for good."""
        decision = self.entry(path, attempt, ASK_HUMAN)
        if decision is not None:
            if field_of(decision, "decision", path) == "output":
                scope.values[step.id] = field_of(decision, "output", path)
                return None
            return Finish(failure=failure)
        policy = step.on_error
        if policy is None or policy.then == "fail":
            return Finish(failure=failure)
        if policy.then == "continue":
            scope.values[step.id] = policy.output
            return None
        asked: dict[str, JSON] = {
            "title": f"{self.workflow.name}: {path}",
            "assign": policy.assign,
            "show": {"error": {"code": failure.code, "message": failure.message}},
        }
        return Park(path, attempt, ASK_HUMAN, step, asked, _failure_schema(step))

    def failed(self, step: Step, path: str, error: MetierError, what: str, scope: Scope) -> Way:
        """Note that a control step failed itself, and apply what is said about that."""
        note = self.note(path, "error", described(error, what))
        return (yield from self.recover(step, path, failure_of(note, path, 1), scope))

    def end(self, template: JSON, scope: Scope, outcome: str = "done") -> Finish:
        """Make the output of the run."""
        try:
            return Finish(self.expressions.render(template, scope.names()), outcome)
        except MetierError as error:
            return Finish(failure=Failure(error.code, f"the output could not be made: {error.message}"))

    def filled(self, step: Step, scope: Scope) -> dict[str, JSON]:
        """Evaluate what a step is given."""
        names = scope.names()
        return {key: self.expressions.render(template, names) for key, template in step.with_.items()}

    def held(self, step: Step, path: str, attempt: int) -> Park | Finish | None:
        """Hold a step that would start with the money of the run spent."""
        purse = self.purse
        limit = purse.limit
        if limit is None or purse.total < limit:
            return None
        entry = self.entries.get((path, attempt, ASK_BUDGET))
        decision = None if entry is None else str(field_of(entry, "decision", path))
        if decision == "continue":
            return None
        told = f"the run has spent {euros(purse.total)} € of {euros(limit)} €: raise per_run_eur, or let it go on"
        if decision is not None or purse.budget is None or purse.budget.on_exceed == "fail":
            return Finish(failure=Failure("run_budget_exceeded", told, path, attempt))
        asked: dict[str, JSON] = {
            "title": f"{self.workflow.name}: {path}",
            "assign": None,
            "show": {"spent_eur": euros(purse.total), "budget_eur": euros(limit)},
        }
        return Park(path, attempt, ASK_BUDGET, step, asked, _BUDGET_SCHEMA)


class Purse:
    """The money of a run: what its steps have cost, and how much they may; each line is counted as it comes."""

    def __init__(self, budget: RunBudget | None, entries: Iterable[Entry]) -> None:
        self.budget = budget
        self.total = Decimal(0)
        self._costs: dict[str, Decimal] = {}
        self.lent = 0
        """How often people have lent it the same amount again."""
        for entry in entries:
            self.add(entry)

    def add(self, entry: Entry) -> None:
        """Count a line that was not counted before."""
        if entry.name in ("", GATHERED) and entry.cost_eur:
            self.total += entry.cost_eur
            self._costs[entry.path] = self.spent(entry.path) + entry.cost_eur
        elif entry.name == ASK_BUDGET and field_of(entry, "decision", entry.path) == "continue":
            self.lent += 1

    @property
    def limit(self) -> Decimal | None:
        """What the run may spend; each time a person lets it go on, they lend it the same amount again."""
        return None if self.budget is None else self.budget.per_run_eur * (1 + self.lent)

    @property
    def empty(self) -> bool:
        """Whether so little is left, if anything, that items side by side could share nothing of it."""
        return self.limit is not None and self.limit - self.total < _DUST

    def spent(self, path: str) -> Decimal:
        """What the attempts of one step have cost."""
        return self._costs.get(path, Decimal(0))

    def left(self, step: Step, path: str) -> Decimal | None:
        """What a step may still spend, by its own budget and that of the run."""
        limit = self.limit
        bounds = [] if limit is None else [limit - self.total]
        if step.budget_eur is not None:
            bounds.append(step.budget_eur - self.spent(path))
        return max(min(bounds), Decimal(0)) if bounds else None


def euros(amount: Decimal) -> str:
    """Write a sum the same way whether it was just added up or came back from the database."""
    return format(amount.normalize(), "f")


def described(error: MetierError, what: str) -> JSON:
    """Put an error of the definition itself into the words of the journal."""
    return {"code": error.code, "message": f"{what} could not be evaluated: {error.message}", "retry": False}


def field_of(entry: Entry | Note, name: str, path: str) -> JSON:
    """Take a part of a line that a line of its kind must have."""
    if not isinstance(entry.value, dict) or name not in entry.value:
        raise NonDeterministicReplay(f"the journal entry {entry.kind!r} at {path!r} has no {name!r}")
    return entry.value[name]


def failure_of(entry: Entry | Note, path: str, attempt: int) -> Failure:
    """Read a line of an error as the failure it may become."""
    return Failure(str(field_of(entry, "code", path)), str(field_of(entry, "message", path)), path, attempt)


_BUDGET_SCHEMA: Mapping[str, JSON] = {
    "type": "object",
    "properties": {"decision": {"enum": ["continue", "stop"]}},
    "required": ["decision"],
}


def _failure_schema(step: Step) -> Mapping[str, JSON]:
    choices: list[JSON] = ["output", "fail"] if step.kind in _CONTROL else ["retry", "output", "fail"]
    schema: dict[str, JSON] = {
        "type": "object",
        "properties": {"decision": {"enum": choices}, "output": dict(step.output) if step.output else {}},
        "required": ["decision"],
    }
    return schema
