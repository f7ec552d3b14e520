"""What comes next in a run: a pure function of the definition and the journal, without clock, chance or input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from types import MappingProxyType

from metier.calls import JSON
from metier.workflow.attempts import call, emit, human, wait, work
from metier.workflow.branches import foreach, parallel
from metier.workflow.commands import (
    ASK_BUDGET,
    ASK_HUMAN,
    Await,
    Command,
    Emit,
    Entries,
    Entry,
    EntryKind,
    Failure,
    Finish,
    Key,
    Note,
    Park,
    RunStep,
    Sleep,
    Under,
    WaitUntil,
)
from metier.workflow.control import end, loop, switch
from metier.workflow.definition import Kind, Workflow
from metier.workflow.expressions import Expressions
from metier.workflow.ground import Ground, Purse, Scope, WayOf
from metier.workflow.strands import Open, Strand, Way

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
    "Walk",
    "advance",
    "given",
]

_WAYS: Mapping[Kind, WayOf] = MappingProxyType(
    {
        "tool": work,
        "code": work,
        "model": work,
        "rules": work,
        "llm": work,
        "agent": work,
        "retrieve": work,
        "human": human,
        "wait": wait,
        "emit": emit,
        "call": call,
        "switch": switch,
        "parallel": parallel,
        "foreach": foreach,
        "loop": loop,
        "end": end,
    }
)


class Walk:
    """One way through a definition, as far as the journal goes: fed with lines as they come, it says what may run.

    A fresh walk over the whole journal gives the same commands as one that was fed line by line, in any order.
    """

    def __init__(
        self,
        workflow: Workflow,
        inputs: Mapping[str, JSON],
        journal: dict[Key, Entry],
        run: Mapping[str, JSON] | None = None,
        *,
        expressions: Expressions | None = None,
        inline: bool = False,
        around: Mapping[str, JSON] | None = None,
    ) -> None:
        self._workflow = workflow
        self._scope = _outermost(workflow, inputs, run or {}, around)
        self._expressions = expressions or Expressions()
        self._shown: dict[str, dict[str, JSON]] | None = None
        self._inline = inline
        self.entries = journal
        """The journal as far as it is known; answers inside a step may be added to it without feeding them."""
        self._begin()

    def feed(self, entry: Entry) -> None:
        """Take one line more into account."""
        ground, known = self._ground, self.entries.get(entry.key)
        if known == entry:
            return
        self.entries[entry.key] = entry
        if known is not None:
            self._stale = True
            return
        ground.purse.add(entry)
        if entry.name and not entry.name.startswith("!"):
            return
        noted = ground.noted.pop(entry.key, None)
        if noted is not None and (noted.kind, noted.value) == (entry.kind, entry.value):
            return
        woken = ground.strands.wake(entry.path)
        if noted is not None or (entry.path in ground.looked and not woken):
            # It says something about what was passed already: what followed from that is thought over again.
            self._stale = True

    @property
    def spent(self) -> Decimal:
        """What the steps have cost so far."""
        return self._ground.purse.total

    @property
    def reached(self) -> frozenset[str]:
        """Paths the definition asks the journal for, as far as the journal goes."""
        self._go()
        return frozenset(self._ground.looked)

    def notes(self) -> tuple[Note, ...]:
        """Give what was found out since the last time, to journal before or with whatever comes next."""
        self._go()
        notes = tuple(self._ground.notes)
        self._ground.notes.clear()
        return notes

    def frontier(self) -> tuple[Command, ...]:
        """Give every command that may be done now, or that others are doing; or the one that ends the run."""
        self._go()
        if self._end is not None:
            return (self._end,)
        found: list[Command] = []
        for command in self._ground.strands.open():
            held = self._held(command)
            if isinstance(held, Finish):
                return (held,)
            found.append(held)
        return tuple(found)

    def shown(self) -> dict[str, dict[str, JSON]]:
        """Give what each finished step was given, by path; for people who look at a run."""
        self._shown, self._stale = {}, True
        self._go()
        return self._shown

    def _held(self, command: Open) -> Open | Finish:
        """Put a question, or the end, in the place of what would cost when the money is spent."""
        work = command.then if isinstance(command, WaitUntil) else command
        if isinstance(work, Park | Sleep | Under | Await):
            return command
        held = self._ground.held(work.step, work.path, work.attempt)
        if held is not None or isinstance(command, Park):
            return held or command
        left = self._ground.purse.left(work.step, work.path)
        if left is None or isinstance(work, Emit):
            return command
        bounded = replace(work, budget_left_eur=left)
        return replace(command, then=bounded) if isinstance(command, WaitUntil) else bounded

    def _begin(self) -> None:
        purse = Purse(self._workflow.budget, self.entries.values())
        self._ground = Ground(self._workflow, self.entries, self._expressions, _WAYS, purse, self._shown, self._inline)
        self._end: Finish | None = None
        self._stale = False
        self._ground.strands.ready.append(Strand(self._whole()))

    def _whole(self) -> Way:
        scope = self._scope.fork()
        over = yield from self._ground.sequence(self._workflow.steps, "", scope)
        if over is None or (over.failure is None and over.output is None and "index" in scope.named):
            return self._ground.end(self._workflow.output, scope, "done" if over is None else over.outcome)
        return over

    def _go(self) -> None:
        if self._stale:
            self._begin()
        self._ground.strands.run(self._ended)

    def _ended(self, strand: Strand, end: Finish | None) -> None:
        self._end = end


def advance(
    workflow: Workflow,
    inputs: Mapping[str, JSON],
    journal: Entries,
    run: Mapping[str, JSON] | None = None,
    expressions: Expressions | None = None,
) -> tuple[Command, ...]:
    """Say what a run does next: notes to journal, then every command that may be done now, or the end alone."""
    walk = Walk(workflow, inputs, dict(journal), run, expressions=expressions)
    return (*walk.notes(), *walk.frontier())


def given(
    workflow: Workflow, inputs: Mapping[str, JSON], journal: Entries, run: Mapping[str, JSON] | None = None
) -> dict[str, dict[str, JSON]]:
    """Work out again what each finished step was given, by path; for people who look at a run."""
    return Walk(workflow, inputs, dict(journal), run).shown()


def _outermost(
    workflow: Workflow, inputs: Mapping[str, JSON], run: Mapping[str, JSON], around: Mapping[str, JSON] | None
) -> Scope:
    """Give the variables a run begins with; that of an item also knows what was known around it."""
    values: dict[str, JSON] = {step.id: None for step in workflow.walk()}
    if around is None:
        return Scope({"inputs": dict(inputs), "run": dict(run)}, values)
    before = around.get("steps")
    return Scope(
        {"inputs": around.get("inputs"), "run": dict(run)},
        {**(before if isinstance(before, dict) else {}), **values},
        around.get("loop"),
        {"item": inputs.get("item"), "index": inputs.get("index")},
    )
