"""The nouns between the engine and its interpreter: entries of the journal in, commands out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal, TypeAlias

from metier.calls import JSON
from metier.errors import Invalid
from metier.workflow.definition import Step

__all__ = [
    "ASK_BUDGET",
    "ASK_HUMAN",
    "BEGAN",
    "CHILD",
    "FALLBACK",
    "GATHERED",
    "MARKS",
    "Await",
    "Call",
    "Command",
    "Emit",
    "Entries",
    "Entry",
    "EntryKind",
    "Failure",
    "Finish",
    "Items",
    "Key",
    "Note",
    "Park",
    "RunStep",
    "Sleep",
    "Under",
    "WaitUntil",
    "Work",
    "assignee",
]

EntryKind: TypeAlias = Literal["result", "error", "answer", "skipped", "choice", "decision"]

Key: TypeAlias = tuple[str, int, str]
"""Path, attempt, name; the name is empty for the step itself."""

ASK_HUMAN = "!human"
"""Name of the decision asked from a person when a step has failed for good; resuming a run writes it too."""

ASK_BUDGET = "!budget"
"""Name of the decision asked from a person when the run has spent its money."""

BEGAN = "!began"
"""Name of the line that says until when a step waits."""

CHILD = "!child"
"""Name of the line that says which run, or how many, a step has started."""

GATHERED = "!gathered"
"""Name of the line with what the items of a foreach gave that were runs of their own."""

MARKS = "~"
"""Begins the paths of lines that no step has: what people did to the journal, with the money it had cost."""

FALLBACK = "group:admins"
"""Who gets the questions of the engine itself, and steps that name nobody."""

_LONGEST_NAME = 200


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the journal of a run, opened."""

    path: str
    attempt: int
    name: str
    kind: EntryKind
    value: JSON
    at: datetime
    """When it ended; the wait before a retry counts from there."""
    cost_eur: Decimal = Decimal(0)
    calls: int = 0
    started_at: datetime | None = None

    @property
    def key(self) -> Key:
        """What the journal keeps it under."""
        return self.path, self.attempt, self.name


Entries: TypeAlias = Mapping[Key, Entry]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a run cannot go on, in words for the people who look after it."""

    code: str
    message: str
    path: str = ""
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class Note:
    """Something the interpreter found out, to journal before what follows it."""

    path: str
    kind: EntryKind
    value: JSON
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class RunStep:
    """Call the step function, and journal what it gives under the path and the attempt."""

    path: str
    attempt: int
    step: Step
    with_: dict[str, JSON]
    budget_left_eur: Decimal | None = None
    """What the step may still spend; None where neither the run nor the step has a budget."""


@dataclass(frozen=True, slots=True)
class Emit:
    """Tell an event, once: to the runs that wait for it and the flows it starts."""

    path: str
    attempt: int
    step: Step
    event: str
    key: str
    data: dict[str, JSON]


@dataclass(frozen=True, slots=True)
class Call:
    """Start a run of another flow, and leave the step until that run is over."""

    path: str
    attempt: int
    step: Step
    flow: str
    """A file of the workflow, or `name@version`."""
    with_: dict[str, JSON]
    budget_left_eur: Decimal | None = None
    again: bool = False
    """Whether a person wants it tried once more: the run that failed goes on, instead of another one."""


@dataclass(frozen=True, slots=True)
class Items:
    """Start a run for each item of a foreach, some at a time, and leave the step until all are over."""

    path: str
    attempt: int
    step: Step
    items: tuple[JSON, ...]
    given: dict[str, JSON]
    """Values of the steps and of the variables around, which the body may read."""
    width: int
    """How many may be under way at once."""
    collect: bool
    """Whether the others go on when one fails."""
    budget_left_eur: Decimal | None = None
    only: tuple[int, ...] | None = None
    """Which of them, when a person wants those that failed tried once more: their runs go on."""


@dataclass(frozen=True, slots=True)
class Await:
    """Begin to wait: for a time, or for an event, and journal until when."""

    path: str
    attempt: int
    step: Step
    event: str | None = None
    key: str = ""
    for_s: float | None = None
    """How long to wait: without an event this is the wait itself, with one it is its timeout."""
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Sleep:
    """Waiting has begun: nothing to do before that time, or before the event."""

    path: str
    attempt: int
    step: Step
    at: datetime | None
    """None waits for the event alone."""
    event: str | None = None
    key: str = ""


@dataclass(frozen=True, slots=True)
class Under:
    """Other runs are under way for this step: nothing to do before they are over."""

    path: str
    attempt: int
    step: Step
    many: bool = False
    """Whether they are the items of a foreach."""


@dataclass(frozen=True, slots=True)
class Park:
    """Open a task and leave the run until somebody has decided."""

    path: str
    attempt: int
    name: str
    step: Step
    task: dict[str, JSON]
    """The configuration of the human step with its templates evaluated, or the question of the engine."""
    schema: Mapping[str, JSON] | None = None
    """What the decision must look like."""
    flow: str | None = None
    """The workflow whose run answers, where no person does; the task holds its inputs."""
    budget_left_eur: Decimal | None = None
    """What that run may spend."""


@dataclass(frozen=True, slots=True)
class WaitUntil:
    """Do not go on before that time; then do the command it holds."""

    at: datetime
    then: Work

    @property
    def path(self) -> str:
        """Of the command it holds."""
        return self.then.path

    @property
    def attempt(self) -> int:
        """Of the command it holds."""
        return self.then.attempt


@dataclass(frozen=True, slots=True)
class Finish:
    """The run is over: an output, or a failure."""

    output: JSON = None
    outcome: str = "done"
    failure: Failure | None = None


Work: TypeAlias = RunStep | Emit | Call | Items | Await | Sleep | Under
"""What is done for a step, by this worker or by others."""

Command: TypeAlias = Note | Work | Park | WaitUntil | Finish


def assignee(written: JSON) -> str:
    """Read who a task is for, written by a workflow, computed by it, or given by a person."""
    if written is None or written == "":
        return FALLBACK
    kind, _, name = str(written).partition(":")
    if kind not in ("group", "user") or not name.strip() or len(name) > _LONGEST_NAME or not name.isprintable():
        raise Invalid(f"cannot assign a task to {str(written)[:80]!r}: write group:<name> or user:<name>")
    return f"{kind}:{name.strip()}"
