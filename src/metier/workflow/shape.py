"""What a workflow is once read: frozen data that the engine runs, and its form as JSON to keep beside a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal, TypeAlias

from metier.calls import JSON

__all__ = [
    "Backoff",
    "Branch",
    "Expectation",
    "FlowTest",
    "Kind",
    "Mark",
    "OnError",
    "OnExceed",
    "Retry",
    "RunBudget",
    "Step",
    "Then",
    "Trigger",
    "TriggerKind",
    "Workflow",
]

Kind: TypeAlias = Literal[
    "tool", "code", "model", "rules", "llm", "agent", "retrieve", "human", "wait", "emit", "call", "switch", "parallel",
    "foreach", "loop", "end"
]  # fmt: skip
TriggerKind: TypeAlias = Literal["api", "form", "webhook", "folder", "cron", "email", "event", "row"]
Backoff: TypeAlias = Literal["exponential", "constant"]
Then: TypeAlias = Literal["fail", "continue", "human"]
OnExceed: TypeAlias = Literal["fail", "human"]


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a file, to show to the person who has to correct it."""

    file: str
    line: int
    """Counted from 1."""
    column: int
    """Counted from 1."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Retry:
    """How often a failed step is tried again, and how long to wait before that."""

    max: int
    """Tries after the first one."""
    backoff: Backoff
    first_s: float
    """Wait before the first retry, in seconds; exponential doubles it each time."""


@dataclass(frozen=True, slots=True)
class OnError:
    """What happens to a run when a step has failed for good."""

    output: JSON
    """The output the step gets instead, when `then` is "continue"."""
    then: Then
    assign: str | None = None
    """Who gets the task, when `then` is "human"."""


@dataclass(frozen=True, slots=True)
class RunBudget:
    """The money one run may spend, and what happens when it would spend more."""

    per_run_eur: Decimal
    on_exceed: OnExceed


@dataclass(frozen=True, slots=True)
class Branch:
    """One way out of a switch, taken when its condition is the first to hold; or one section of a parallel step."""

    when: str | None
    """A CEL expression; None is the `else` branch, and what sections of a parallel step have."""
    steps: tuple[Step, ...]
    mark: Mark = field(compare=False)
    name: str = ""
    """Name of a section of a parallel step, part of the paths inside it; empty in a switch."""


@dataclass(frozen=True, slots=True)
class Step:
    """One unit of work of a workflow, as data: what kind, what goes in, what must come out."""

    id: str
    """Unique in the whole workflow, so that `steps.<id>` always means one step."""
    kind: Kind
    config: JSON
    """The value under the kind key, templates not evaluated; for `end` always `{"status": …, "output": …}`."""
    mark: Mark = field(compare=False)
    when: str | None = None
    with_: Mapping[str, JSON] = field(default_factory=dict)
    """The only data the step sees: templates, evaluated just before it runs."""
    output: Mapping[str, JSON] | None = None
    """JSON Schema of the output, already expanded from shorthand."""
    retry: Retry | None = None
    timeout_s: float | None = None
    on_error: OnError | None = None
    budget_eur: Decimal | None = None
    cache_s: float | None = None
    """How long what it gave may be given again for the same `with`, in seconds; None means never."""
    mock: JSON = None
    """The output to use instead of running the step, when a run is a rehearsal."""
    steps: tuple[Step, ...] = ()
    """The body of a loop or of a foreach."""
    branches: tuple[Branch, ...] = ()
    """The ways out of a switch, or the sections of a parallel step, in order."""
    marks: Mapping[str, Mark] = field(default_factory=dict, compare=False, repr=False)
    """Places of the values inside the step by their path, such as `with/email`; empty in a pinned copy."""

    def walk(self) -> Iterator[Step]:
        """Yield this step and every step inside it, in the order of the file."""
        yield self
        for inner in (*self.steps, *(step for branch in self.branches for step in branch.steps)):
            yield from inner.walk()


@dataclass(frozen=True, slots=True)
class Expectation:
    """A CEL expression that must be true when a test of a workflow has ended."""

    expr: str
    mark: Mark = field(compare=False)


@dataclass(frozen=True, slots=True)
class FlowTest:
    """One test beside a workflow: inputs, outputs to pretend, and what must then be true."""

    name: str
    inputs: Mapping[str, JSON]
    mock: Mapping[str, JSON]
    """Outputs by step path, such as `customer` or `refine#1.grade`."""
    expect: tuple[Expectation, ...]
    """Evaluated over `inputs`, `steps`, `output` and `status`."""
    mark: Mark = field(compare=False)


@dataclass(frozen=True, slots=True)
class Trigger:
    """What starts runs of a workflow by itself: where it comes from, and how it becomes inputs."""

    kind: TriggerKind
    config: Mapping[str, JSON]
    """What the kind needs, such as a mailbox, a schedule or a folder; never a secret."""
    with_: Mapping[str, JSON]
    """Templates over `event`, evaluated into the inputs of the run."""
    dedupe: str | None
    """CEL over `event`: the same value never starts a second run; None leaves it to the kind."""
    when: str | None
    """CEL over `event`: events for which it does not hold start nothing."""
    mark: Mark = field(compare=False)


@dataclass(frozen=True, slots=True)
class Workflow:
    """A whole definition, pinned by its hash: a run keeps the one it was started with for life."""

    name: str
    inputs: Mapping[str, JSON]
    """JSON Schema of the inputs, an object."""
    steps: tuple[Step, ...]
    output: JSON
    """Template of what the run gives, evaluated at the end."""
    budget: RunBudget | None
    tests: tuple[FlowTest, ...]
    files: Mapping[str, str]
    """Text of every prompt and rules file the workflow names, by path relative to it."""
    hash: str
    """SHA-256 over everything but the tests, the comments and the layout of the file."""
    source: str
    """The file as it was read."""
    triggers: tuple[Trigger, ...] = ()
    """What starts it; not part of the hash, since a run does not depend on what started it."""
    marks: Mapping[str, Mark] = field(default_factory=dict, compare=False, repr=False)
    """Places of the values outside the steps by their path, such as `output/sent`."""

    def walk(self) -> Iterator[Step]:
        """Yield every step, also inside loops and branches, in the order of the file."""
        for step in self.steps:
            yield from step.walk()

    def step(self, id: str) -> Step | None:
        """Find a step by its id wherever it is nested, or None."""
        return next((step for step in self.walk() if step.id == id), None)
