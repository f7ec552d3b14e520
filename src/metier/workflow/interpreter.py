"""What comes next in a run: a pure function of the definition and the journal, without clock, chance or input."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal

from metier.calls import JSON
from metier.errors import MetierError, NonDeterministicReplay
from metier.workflow.commands import (
    ASK_BUDGET,
    ASK_HUMAN,
    Command,
    Entries,
    Entry,
    EntryKind,
    Failure,
    Finish,
    Key,
    Note,
    Park,
    RunStep,
    WaitUntil,
    assignee,
)
from metier.workflow.definition import Retry, RunBudget, Step, Workflow
from metier.workflow.expressions import Expressions

__all__ = [
    "ASK_BUDGET",
    "ASK_HUMAN",
    "Command",
    "Entries",
    "Entry",
    "EntryKind",
    "Failure",
    "Finish",
    "Key",
    "Note",
    "Park",
    "RunStep",
    "WaitUntil",
    "advance",
    "given",
]

_LONGEST_WAIT_S = 3600.0


def advance(
    workflow: Workflow,
    inputs: Mapping[str, JSON],
    journal: Entries,
    run: Mapping[str, JSON] | None = None,
    expressions: Expressions | None = None,
) -> tuple[Command, ...]:
    """Say what a run does next: notes to journal, then exactly one command that is not a note."""
    walk = _Walk(workflow, inputs, journal, dict(run or {}), expressions or Expressions())
    last = walk.sequence(workflow.steps, "") or walk.end(workflow.output)
    return (*walk.notes, last)


def given(
    workflow: Workflow, inputs: Mapping[str, JSON], journal: Entries, run: Mapping[str, JSON] | None = None
) -> dict[str, dict[str, JSON]]:
    """Work out again what each finished step was given, by path; for people who look at a run."""
    walk = _Walk(workflow, inputs, journal, dict(run or {}), Expressions(), shown={})
    walk.sequence(workflow.steps, "")
    return walk.shown or {}


@dataclass(slots=True)
class _Walk:
    """One walk from the first step to the first one that is not done, collecting values on the way."""

    workflow: Workflow
    inputs: Mapping[str, JSON]
    journal: Entries
    run: dict[str, JSON]
    expressions: Expressions
    shown: dict[str, dict[str, JSON]] | None = None
    """What finished steps were given; only filled for people who look."""
    values: dict[str, JSON] = field(default_factory=dict)
    loop: dict[str, JSON] | None = None
    notes: list[Note] = field(default_factory=list)
    fresh: dict[Key, Note] = field(default_factory=dict)
    purse: _Purse = field(init=False)

    def __post_init__(self) -> None:
        self.values = {step.id: None for step in self.workflow.walk()}
        self.purse = _Purse(self.workflow.budget, self.journal)

    def entry(self, path: str, attempt: int = 1, name: str = "") -> Entry | Note | None:
        key = (path, attempt, name)
        return self.journal.get(key) or self.fresh.get(key)

    def note(self, path: str, kind: EntryKind, value: JSON, attempt: int = 1) -> Note:
        note = Note(path, kind, value, attempt)
        self.notes.append(note)
        self.fresh[path, attempt, ""] = note
        return note

    def scope(self) -> dict[str, JSON]:
        return {"inputs": dict(self.inputs), "steps": self.values, "run": self.run, "loop": self.loop}

    def sequence(self, steps: Iterable[Step], prefix: str) -> Command | None:
        for step in steps:
            command = self.step(step, prefix + step.id)
            if command is not None:
                return command
        return None

    def step(self, step: Step, path: str) -> Command | None:
        first = self.entry(path)
        if first is None and step.when is not None:
            first = self.condition(step.when, path)
        if first is not None and first.kind == "skipped":
            return None
        if first is not None and first.kind == "error" and step.kind in ("switch", "loop", "human", "end"):
            return self.after_error(step, path, 1, first)
        match step.kind:
            case "switch":
                return self.switch(step, path)
            case "loop":
                return self.turns(step, path)
            case "human":
                return self.human(step, path)
            case "end":
                return self.stop(step)
            case _:
                return self.work(step, path)

    def condition(self, when: str, path: str) -> Note | None:
        try:
            holds = self.expressions.holds(when, self.scope())
        except MetierError as error:
            return self.note(path, "error", _described(error, f"the condition {when!r}"))
        return None if holds else self.note(path, "skipped", None)

    def switch(self, step: Step, path: str) -> Command | None:
        choice = self.entry(path)
        if choice is None:
            try:
                chosen = next(
                    (
                        number
                        for number, branch in enumerate(step.branches)
                        if branch.when is None or self.expressions.holds(branch.when, self.scope())
                    ),
                    None,
                )
            except MetierError as error:
                return self.after_error(step, path, 1, self.note(path, "error", _described(error, "a branch")))
            choice = self.note(path, "choice", {"branch": chosen})
        taken = _field(choice, "branch", path)
        self.values[step.id] = {"branch": taken}
        if taken is None:
            return None
        if not isinstance(taken, int) or taken >= len(step.branches):
            raise NonDeterministicReplay(f"the journal took branch {taken!r} of {path!r}, which does not exist")
        return self.sequence(step.branches[taken].steps, path + ".")

    def turns(self, step: Step, path: str) -> Command | None:
        """Repeat the body until its condition holds or the turns are used up; leave the values of the best turn."""
        config = step.config if isinstance(step.config, dict) else {}
        most, outer = config.get("max"), self.loop
        if not isinstance(most, int):
            raise NonDeterministicReplay(f"the loop {path!r} has no number of turns: {most!r}")
        inner = [child.id for body in step.steps for child in body.walk()]
        kept: tuple[int, float | None, dict[str, JSON]] = (0, None, {})
        met = False
        turn = 0
        while turn < most and not met:
            turn += 1
            self.loop = {"turn": turn, "max": most}
            command = self.sequence(step.steps, f"{path}#{turn}.")
            if command is not None:
                return command
            choice = self.turned(step, path, turn, config)
            if choice.kind == "error":
                return self.after_error(step, path, 1, choice)
            met = _field(choice, "met", path) is True
            score = _field(choice, "score", path)
            number = float(score) if isinstance(score, int | float) else None
            if met or kept[1] is None or number is None or number > kept[1]:
                kept = (turn, number, {id: self.values[id] for id in inner})
        self.loop = outer
        self.values.update(kept[2])
        self.values[step.id] = {"turns": turn, "kept": kept[0], "met": met, "score": kept[1]}
        return None

    def turned(self, step: Step, path: str, turn: int, config: Mapping[str, JSON]) -> Entry | Note:
        """Judge a finished turn once: does the condition hold, and how good was it."""
        known = self.entry(f"{path}#{turn}")
        if known is not None:
            return known
        until, keep = config.get("until"), config.get("keep")
        try:
            met = isinstance(until, str) and self.expressions.holds(until, self.scope())
            score = self.expressions.evaluate(keep, self.scope()) if isinstance(keep, str) else None
        except MetierError as error:
            return self.note(path, "error", _described(error, f"the end of turn {turn}"))
        return self.note(f"{path}#{turn}", "choice", {"met": met, "score": score})

    def human(self, step: Step, path: str) -> Command | None:
        decided = self.entry(path)
        if decided is not None:
            self.values[step.id] = decided.value
            return None
        try:
            return Park(path, 1, "", step, self.question(step), step.output)
        except MetierError as error:
            return self.after_error(step, path, 1, self.note(path, "error", _described(error, "the task")))

    def question(self, step: Step) -> dict[str, JSON]:
        scope = self.scope()
        config = dict(step.config) if isinstance(step.config, dict) else {}
        task = {key: value for key, value in config.items() if key not in ("show", "edit")}
        for key in ("title", "assign", *(config.keys() & {"on_timeout", "not", "escalate"})):
            task[key] = self.expressions.render(config.get(key), scope)
        # A name that was computed may be none: told here, the run ends with a reason instead of killing workers.
        late = task.get("on_timeout")
        levels = task.get("escalate")
        climbs = [level.get("to") for level in levels if isinstance(level, dict)] if isinstance(levels, list) else []
        for who in (task["assign"], late.get("reassign") if isinstance(late, dict) else None, *climbs):
            assignee(who)
        shown = config.get("show")
        exprs = [expr for expr in shown if isinstance(expr, str)] if isinstance(shown, list) else []
        task["show"] = {expr: self.expressions.evaluate(expr, scope) for expr in exprs}
        edit = config.get("edit")
        if isinstance(edit, str):
            task["edit"] = self.expressions.evaluate(edit, scope)
        return task

    def stop(self, step: Step) -> Command:
        config = step.config if isinstance(step.config, dict) else {}
        status = config.get("status")
        output = config.get("output")
        return self.end(self.workflow.output if output is None else output, str(status or "done"))

    def end(self, template: JSON, outcome: str = "done") -> Command:
        try:
            return Finish(self.expressions.render(template, self.scope()), outcome)
        except MetierError as error:
            return Finish(failure=Failure(error.code, f"the output could not be made: {error.message}"))

    def work(self, step: Step, path: str) -> Command | None:
        attempt, last = 1, None
        while (entry := self.entry(path, attempt)) is not None:
            if entry.kind == "result":
                if self.shown is not None:
                    self.shown[path] = self.filled(step)
                self.values[step.id] = entry.value
                return None
            if entry.kind != "error":
                raise NonDeterministicReplay(f"the journal has {entry.kind!r} at {path!r}, which is a {step.kind}")
            if self.entry(path, attempt + 1) is None and not self.again(step, path, attempt, entry):
                return self.after_error(step, path, attempt, entry)
            attempt, last = attempt + 1, entry
        held = self.money(step, path, attempt)
        if held is not None:
            return held
        try:
            with_ = self.filled(step)
        except MetierError as error:
            note = self.note(path, "error", _described(error, "its `with`"), attempt)
            return self.after_error(step, path, attempt, note)
        command = RunStep(path, attempt, step, with_, self.purse.left(step, path))
        if isinstance(last, Entry) and step.retry is not None and not self.decided(path, attempt - 1):
            return WaitUntil(last.at + _pause(step.retry, attempt - 1), command)
        return command

    def filled(self, step: Step) -> dict[str, JSON]:
        scope = self.scope()
        return {key: self.expressions.render(template, scope) for key, template in step.with_.items()}

    def again(self, step: Step, path: str, attempt: int, entry: Entry | Note) -> bool:
        """Is a failed attempt followed by another: by the retry policy, or because a person said so."""
        decision = self.decided(path, attempt)
        if decision is not None:
            return decision == "retry"
        most = step.retry.max if step.retry is not None else 0
        if attempt > most or _field(entry, "retry", path) is not True:
            return False
        return step.budget_eur is None or self.purse.spent(path) < step.budget_eur

    def decided(self, path: str, attempt: int, name: str = ASK_HUMAN) -> str | None:
        entry = self.entry(path, attempt, name)
        return None if entry is None else str(_field(entry, "decision", path))

    def after_error(self, step: Step, path: str, attempt: int, entry: Entry | Note) -> Command | None:
        """Apply what the definition, or a person, says about a step that failed for good."""
        failure = Failure(str(_field(entry, "code", path)), str(_field(entry, "message", path)), path, attempt)
        decision = self.entry(path, attempt, ASK_HUMAN)
        if decision is not None:
            if _field(decision, "decision", path) == "output":
                self.values[step.id] = _field(decision, "output", path)
                return None
            return Finish(failure=failure)
        policy = step.on_error
        if policy is None or policy.then == "fail":
            return Finish(failure=failure)
        if policy.then == "continue":
            self.values[step.id] = policy.output
            return None
        asked: dict[str, JSON] = {
            "title": f"{self.workflow.name}: {path}",
            "assign": policy.assign,
            "show": {"error": {"code": failure.code, "message": failure.message}},
        }
        return Park(path, attempt, ASK_HUMAN, step, asked, _failure_schema(step))

    def money(self, step: Step, path: str, attempt: int) -> Command | None:
        """Hold a step that would start with the money of the run spent."""
        budget, limit, spent = self.workflow.budget, self.purse.limit, self.purse.spent()
        if budget is None or limit is None or spent < limit:
            return None
        decision = self.decided(path, attempt, ASK_BUDGET)
        if decision == "continue":
            return None
        told = f"the run has spent {_euros(spent)} € of {_euros(limit)} €: raise per_run_eur, or let it go on"
        if decision is not None or budget.on_exceed == "fail":
            return Finish(failure=Failure("run_budget_exceeded", told, path, attempt))
        asked: dict[str, JSON] = {
            "title": f"{self.workflow.name}: {path}",
            "assign": None,
            "show": {"spent_eur": _euros(spent), "budget_eur": _euros(limit)},
        }
        return Park(path, attempt, ASK_BUDGET, step, asked, _BUDGET_SCHEMA)


class _Purse:
    """The money of a run: what its steps have cost, and how much they may."""

    def __init__(self, budget: RunBudget | None, journal: Entries) -> None:
        self._costs = [(entry.path, entry.cost_eur) for entry in journal.values() if not entry.name and entry.cost_eur]
        lent = sum(1 for (path, _, name), entry in journal.items() if name == ASK_BUDGET and _continued(entry, path))
        # Each time a person lets the run go on, they lend it the same amount again.
        self.limit = None if budget is None else budget.per_run_eur * (1 + lent)

    def spent(self, path: str | None = None) -> Decimal:
        return sum((cost for place, cost in self._costs if path in (None, place)), start=Decimal(0))

    def left(self, step: Step, path: str) -> Decimal | None:
        bounds = [] if self.limit is None else [self.limit - self.spent()]
        if step.budget_eur is not None:
            bounds.append(step.budget_eur - self.spent(path))
        return max(min(bounds), Decimal(0)) if bounds else None


def _euros(amount: Decimal) -> str:
    """Write a sum the same way whether it was just added up or came back from the database."""
    return format(amount.normalize(), "f")


def _continued(entry: Entry, path: str) -> bool:
    return _field(entry, "decision", path) == "continue"


_BUDGET_SCHEMA: Mapping[str, JSON] = {
    "type": "object",
    "properties": {"decision": {"enum": ["continue", "stop"]}},
    "required": ["decision"],
}


def _failure_schema(step: Step) -> Mapping[str, JSON]:
    choices: list[JSON] = (
        ["output", "fail"] if step.kind in ("switch", "loop", "human") else ["retry", "output", "fail"]
    )
    schema: dict[str, JSON] = {
        "type": "object",
        "properties": {"decision": {"enum": choices}, "output": dict(step.output) if step.output else {}},
        "required": ["decision"],
    }
    return schema


def _pause(retry: Retry, failed: int) -> timedelta:
    seconds = retry.first_s * (2 ** (failed - 1) if retry.backoff == "exponential" else 1)
    return timedelta(seconds=min(seconds, _LONGEST_WAIT_S))


def _described(error: MetierError, what: str) -> JSON:
    return {"code": error.code, "message": f"{what} could not be evaluated: {error.message}", "retry": False}


def _field(entry: Entry | Note, name: str, path: str) -> JSON:
    if not isinstance(entry.value, dict) or name not in entry.value:
        raise NonDeterministicReplay(f"the journal entry {entry.kind!r} at {path!r} has no {name!r}")
    return entry.value[name]
