"""Goes through the journal of a run again, line by line, and says where the interpreter disagrees with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from metier.calls import JSON
from metier.errors import MetierError
from metier.workflow.commands import (
    ASK_BUDGET,
    ASK_HUMAN,
    BEGAN,
    CHILD,
    GATHERED,
    MARKS,
    Await,
    Call,
    Command,
    Entry,
    Finish,
    Items,
    Note,
    Park,
    RunStep,
    Sleep,
    Under,
    WaitUntil,
)
from metier.workflow.definition import Workflow
from metier.workflow.expressions import Expressions
from metier.workflow.interpreter import Walk

__all__ = ["Did", "Replayed", "replay"]

_FIRST: Mapping[str, str] = MappingProxyType({ASK_HUMAN: "fail", ASK_BUDGET: "stop"})
"""What makes a run fail, of decisions that may be changed."""


@dataclass(frozen=True, slots=True)
class Did:
    """One attempt of a step that ended, in the order of the journal."""

    path: str
    attempt: int
    kind: str
    """Kind of the line it ended with."""
    given: JSON = None
    """What a step function, or a called flow, was given; None for what the engine does itself."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """What came of replaying one run."""

    lines: int
    sequence: tuple[Did, ...]
    """Attempts of steps in the order they ended."""
    differences: tuple[str, ...]
    """Where the interpreter does not do what the journal says was done; none when all is well."""
    frontier: tuple[Command, ...]
    """What the interpreter does next, at the end of the journal."""

    @property
    def same(self) -> bool:
        """Whether the interpreter does what was done."""
        return not self.differences


@dataclass(slots=True)
class _Replay:
    walk: Walk
    offered: dict[tuple[str, int], Command] = field(default_factory=dict)
    """What could be done at some time: what was under way still ends when its branch is no longer wanted."""
    noted: dict[tuple[str, int], Note] = field(default_factory=dict)
    end: Finish | None = None
    sequence: list[Did] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)

    def look(self) -> tuple[Command, ...]:
        frontier = self.walk.frontier()
        self.end = None
        for command in frontier:
            if isinstance(command, Finish):
                self.end = command
            elif not isinstance(command, Note):
                work = command.then if isinstance(command, WaitUntil) else command
                self.offered[work.path, work.attempt] = work
        self.noted.update(((note.path, note.attempt), note) for note in self.walk.notes())
        return frontier

    def line(self, number: int, entry: Entry) -> None:
        self.look()
        wrong = self.wrong(entry)
        if wrong:
            name = f"{entry.path}/{entry.attempt}{entry.name}"
            self.differences.append(f"line {number}, {entry.kind} of {name}: {wrong}")
        elif not entry.name:
            command = self.offered.get((entry.path, entry.attempt))
            given: JSON = dict(command.with_) if isinstance(command, RunStep | Call) else None
            self.sequence.append(Did(entry.path, entry.attempt, entry.kind, given))
        self.walk.feed(entry)

    def wrong(self, entry: Entry) -> str | None:
        place = (entry.path, entry.attempt)
        command, note = self.offered.get(place), self.noted.get(place)
        if note is not None and not entry.name and note.kind == entry.kind:
            del self.noted[place]
            return None if note.value == entry.value else "the interpreter finds out something else"
        if entry.kind == "decision" and self.end is not None and self.end.failure is not None:
            failure = self.end.failure
            if (failure.path, failure.attempt) == place:
                return None
        if command is None:
            return f"the interpreter does not come there; it does {_told(self.walk.frontier())}"
        return None if _answers(command, entry) else f"the interpreter does {_told((command,))} there"


def replay(
    workflow: Workflow,
    inputs: Mapping[str, JSON],
    lines: Iterable[Entry],
    run: Mapping[str, JSON] | None = None,
    *,
    around: Mapping[str, JSON] | None = None,
    ended: Finish | None = None,
) -> Replayed:
    """Replay a run from its definition and the lines of its journal; with `ended`, check what it came to too."""
    walk = Walk(workflow, inputs, {}, run, expressions=Expressions(), around=around)
    going = _Replay(walk)
    entries = [*lines]
    number = 0
    frontier: tuple[Command, ...] = ()
    try:
        for number, entry in _as_lived(entries):
            if not entry.path.startswith(MARKS):
                going.line(number, entry)
        frontier = going.look()
    except MetierError as error:
        going.differences.append(f"line {number}: {error.message}")
    if ended is not None and not going.differences:
        going.differences.extend(_ends(going.end, ended, frontier))
    return Replayed(len(entries), tuple(going.sequence), tuple(going.differences), frontier)


def _as_lived(lines: Sequence[Entry]) -> Iterator[tuple[int, Entry]]:
    """Give the lines with their numbers, and a decision that was changed since as it was first, and when it changed.

    A run that failed because somebody said so, and is resumed, gets the decision to go on in the place of that one. It
    is told by its time, which is later than that of lines behind it; what these did followed from the first.
    """
    changed: dict[int, list[int]] = {}
    for place, entry in enumerate(lines):
        if entry.kind == "decision" and entry.name in _FIRST:
            last = max((n for n in range(place + 1, len(lines)) if lines[n].at < entry.at), default=None)
            if last is not None:
                changed.setdefault(last, []).append(place)
    first = {place for places in changed.values() for place in places}
    for place, entry in enumerate(lines):
        value: JSON = {"decision": _FIRST[entry.name]} if place in first else entry.value
        yield place + 1, replace(entry, value=value)
        for again in changed.get(place, ()):
            yield again + 1, lines[again]


def _answers(command: Command, entry: Entry) -> bool:
    """Say whether a line is what doing a command may leave."""
    match command:
        case RunStep():
            if entry.kind == "choice":
                return entry.name.startswith(f"{CHILD}!")  # a run that it asks
            return entry.kind in ("result", "error", "answer") or (entry.kind == "decision" and entry.name != "")
        case Park(name=name):
            return entry.name == name and entry.kind == "decision"
        case Await():
            return (entry.kind == "choice" and entry.name == BEGAN) or entry.kind in ("result", "error")
        case Call() | Items():
            # Money may be lent while a little is left.
            return (entry.kind == "choice" and entry.name == CHILD) or entry.kind == "error" or entry.name == ASK_BUDGET
        case Under(many=True):
            return entry.name == GATHERED
        case Sleep() | Under():
            return entry.name == "" and entry.kind in ("result", "error")
        case _:
            return entry.name == "" and entry.kind in ("result", "error")


def _ends(found: Finish | None, ended: Finish, frontier: tuple[Command, ...]) -> list[str]:
    if found is None:
        return [f"the run is over, and the interpreter goes on with {_told(frontier)}"]
    wrong: list[str] = []
    if (found.failure is None) != (ended.failure is None):
        wrong.append(f"the interpreter ends in {_told((found,))}, and the run in {_told((ended,))}")
    elif found.failure is not None and ended.failure is not None:
        places = [(one.code, one.path, one.attempt) for one in (found.failure, ended.failure)]
        if places[0] != places[1]:
            wrong.append(f"the interpreter fails with {places[0]!r}, and the run did with {places[1]!r}")
    elif found.output != ended.output or found.outcome != ended.outcome:
        wrong.append("the interpreter gives another output than the run did")
    return wrong


def _told(commands: tuple[Command, ...]) -> str:
    told = []
    for command in commands:
        work = command.then if isinstance(command, WaitUntil) else command
        if isinstance(work, Finish):
            failure = work.failure
            told.append("the end" if failure is None else f"a failure at {failure.path!r} ({failure.code})")
        else:
            told.append(f"{type(work).__name__} {work.path}/{work.attempt}")
    return ", ".join(told) or "nothing"
