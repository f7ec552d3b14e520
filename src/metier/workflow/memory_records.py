"""What the engine in memory knows of one run, of the items of a step and of an event; and its clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TypeAlias

from metier.calls import JSON, Principal, ProjectId, RunId
from metier.workflow.calling import Held
from metier.workflow.commands import Await, Entry, Key, Park
from metier.workflow.definition import Workflow
from metier.workflow.leaving import Opening
from metier.workflow.port import Event, Run

__all__ = ["Group", "Origin", "People", "Record", "Told", "Virtual"]

_START = datetime(2026, 1, 1, tzinfo=UTC)

People: TypeAlias = Callable[[Opening], JSON]
"""Gives what somebody decides at once, or None to leave the question open."""


class Virtual:
    """A clock that stands still until it is told otherwise."""

    def __init__(self, now: datetime = _START) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def forward(self, seconds: float) -> None:
        """Let time pass."""
        self.now += timedelta(seconds=seconds)


@dataclass(slots=True)
class Group:
    """The items of one foreach that are runs of their own."""

    members: list[RunId]
    queued: list[RunId]
    left: int
    collects: bool


@dataclass(frozen=True, slots=True)
class Told:
    """An event that was told."""

    id: str
    project: ProjectId
    event: str
    key: str
    data: JSON
    at: datetime


@dataclass(frozen=True, slots=True)
class Origin:
    """The step of another run that a run was started for."""

    run: RunId
    path: str
    attempt: int
    item: int | None = None
    """Its number among the items of a foreach; None for a called flow."""
    around: dict[str, JSON] | None = None
    """What an item sees of the run around it."""


@dataclass(slots=True)
class Record:
    """All that is known of one run."""

    run: Run
    workflow: Workflow
    """Bounded by what its caller had left."""
    inputs: dict[str, JSON]
    principal: Principal
    origin: Origin | None = None
    told_eur: Decimal = Decimal(0)
    """What of its cost its parent has counted already."""
    left_behind: bool = False
    """Cancelled because the run it belongs to was over."""
    output: JSON = None
    lines: dict[Key, Entry] = field(default_factory=dict)
    """The journal, in the order it was written."""
    opened: dict[Key, Park | Await] = field(default_factory=dict)
    """What it waits for: questions to people, and events."""
    epoch: int = 0
    held: Held | None = None
    """As it is being moved; gone when the process that moves it is."""
    came: asyncio.Event = field(default_factory=asyncio.Event)
    """Something came from outside while it is being moved."""
    followers: list[asyncio.Queue[Event]] = field(default_factory=list)
