"""What every engine of workflows can do, whatever it keeps its runs in; all that others may rely on."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal, Protocol, TypeAlias, TypeVar

from metier.calls import JSON, Principal, ProjectId, RunId
from metier.workflow.commands import EntryKind, Failure, Key
from metier.workflow.definition import Workflow
from metier.workflow.replay import Replayed

__all__ = ["OVER", "Event", "Port", "Run", "RunStatus", "StepRecord"]

RunStatus: TypeAlias = Literal[
    "queued", "pending", "running", "waiting", "parked", "paused", "done", "failed", "cancelled", "dead"
]

OVER = ("done", "failed", "cancelled", "dead")
"""Where a run goes no further by itself."""

_Tx = TypeVar("_Tx", contravariant=True)


@dataclass(frozen=True, slots=True)
class Run:
    """One execution of a workflow, as people look at it."""

    id: RunId
    workflow: str
    definition: str
    """Hash of the definition it is pinned to."""
    status: RunStatus
    outcome: str | None
    """"done", or the status an end step gave; None while it is not done."""
    key_id: str
    project: str
    system: str
    dedupe: str | None
    parked_on: str | None
    wake_at: datetime | None
    cost_eur: Decimal
    failure: Failure | None
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None
    parent: RunId | None = None
    """The run that started it as one of its steps."""
    forked_from: RunId | None = None
    paused_at: datetime | None = None
    """Since when somebody wants it to stand still; it may still be on its way to its next boundary."""
    hours: str | None = None
    """In which alone it may begin."""
    opens_at: datetime | None = None
    """When these come, while it waits for them."""

    @property
    def over(self) -> bool:
        """Whether it goes no further by itself."""
        return self.status in OVER


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One line of the journal, as people look at it."""

    path: str
    attempt: int
    name: str
    kind: EntryKind
    value: JSON
    given: dict[str, JSON] | None
    """What the step was given, where it ended with a result."""
    cost_eur: Decimal
    calls: int
    started_at: datetime | None
    ended_at: datetime


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a run: a change of status, or a line of its journal."""

    run: RunId
    status: RunStatus | None = None
    path: str = ""
    attempt: int = 0
    name: str = ""
    kind: EntryKind | None = None


class Port(Protocol[_Tx]):
    """An engine as triggers, reviews, releases and the command line know it; `_Tx` is a transaction of its store.

    Where a transaction is given, what the engine does holds if and only if that transaction does.
    """

    async def start(
        self,
        workflow: Workflow,
        inputs: Mapping[str, JSON],
        principal: Principal,
        *,
        dedupe: str | None = None,
        priority: int = 0,
    ) -> RunId:
        """Start a run, pinned to this definition; the same `dedupe` gives the run it has already started."""

    async def emit(self, tx: _Tx | None, project: ProjectId, event: str, key: str, data: JSON, *, id: str) -> bool:
        """Tell an event to the runs that wait for it, once for each id; say whether it was the first time."""

    async def signal(self, tx: _Tx, run: RunId, key: Key, value: JSON) -> None:
        """Record a decision a run waits for, and make it go on; Conflict where it does not wait for it."""

    async def resume(self, run: RunId) -> None:
        """Let a failed run try its failed step once more, and a dead one go on where it stopped."""

    async def retry(self, tx: _Tx, run: RunId, path: str | None = None, told: Mapping[str, JSON] | None = None) -> bool:
        """Resume a run in the transaction given if it failed, at `path` where one is given, or is dead."""

    async def cancel(self, run: RunId) -> None:
        """End a run and those below it, whatever they do."""

    async def recover(self) -> int:
        """Make the runs of workers that died due again, and say how many; any worker may do it at any time."""

    async def drain(self) -> None:
        """Move everything that can move now, then return."""

    def follow(self, run: RunId) -> AsyncGenerator[Event, None]:
        """Tell what happens to a run, from its beginning until it is over; close it with `aclosing`."""

    async def get(self, run: RunId) -> Run:
        """Give a run without its contents."""

    async def list(
        self,
        *,
        workflow: str | None = None,
        project: str | None = None,
        status: RunStatus | None = None,
        before: RunId | None = None,
        limit: int = 50,
    ) -> tuple[Run, ...]:
        """Give one page of runs, newest first; the last one's id is the `before` of the next page."""

    async def steps(self, run: RunId) -> tuple[StepRecord, ...]:
        """Give the journal of a run in order, with what each step was given; traces are left out."""

    async def inputs(self, run: RunId) -> dict[str, JSON]:
        """Give what a run was started with."""

    async def result(self, run: RunId) -> JSON:
        """Give the output of a run that is done, or raise Conflict saying where it stands."""

    async def definition(self, run: RunId) -> Workflow:
        """Give the definition a run is pinned to."""

    async def replay(self, run: RunId) -> Replayed:
        """Go through the journal of a run again, without a call, and say where the interpreter disagrees with it."""
