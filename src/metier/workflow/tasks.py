"""The nouns of the desk: a task, what happened to it, and how both are sealed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NewType, TypeAlias

from metier.calls import JSON, RunId
from metier.store import Row
from metier.vault import Vault
from metier.workflow.commands import ASK_BUDGET, ASK_HUMAN
from metier.workflow.journal import pack, unpack
from metier.workflow.reviewer import Reviewer, known_as

__all__ = [
    "NEGATIVE",
    "NOTE_MAX",
    "Bar",
    "EventKind",
    "Task",
    "TaskEvent",
    "TaskId",
    "TaskState",
    "barred",
    "contents",
    "opened",
    "read_event",
    "read_task",
    "sealed",
]

TaskId = NewType("TaskId", str)
TaskState: TypeAlias = Literal["open", "claimed", "decided", "expired", "cancelled"]
EventKind: TypeAlias = Literal[
    "opened", "claimed", "released", "commented", "handed_off", "reminded", "reassigned", "escalated", "changed",
    "decided", "expired", "cancelled", "agreed", "disagreed", "linked",
]  # fmt: skip
Bar: TypeAlias = Literal["self", "named", "reader"]
"""Why somebody may not decide: they started the run, the workflow names them, or they have read it before."""

NOTE_MAX = 10_000
"""Characters a note on a decision, a comment and what is said with a hand-off may have."""

NEGATIVE = frozenset({"reject", "changes"})
"""Decisions of human steps that need a reason."""


@dataclass(frozen=True, slots=True)
class TaskEvent:
    """One thing that happened to a task, opened."""

    kind: EventKind
    at: datetime
    by_name: str | None
    """Who did it; None for the platform, by a date or with the run."""
    by_id: str | None
    target: str | None
    """Who it is for from then on, where that changed."""
    words: str
    """A comment, the note of a hand-off or of a decision; empty where nothing was said."""

    @property
    def by(self) -> str | None:
        """Who did it, as shown to people."""
        return None if self.by_name is None else known_as(self.by_name, self.by_id)


@dataclass(frozen=True, slots=True)
class Task:
    """One question waiting for a person, opened."""

    id: TaskId
    run: RunId
    workflow: str
    path: str
    state: TaskState
    title: str
    assignee: str
    claimed_by: str | None
    claimed_id: str | None
    due_at: datetime | None
    reminded: int
    handed_off: int
    opened_at: datetime
    decided_by: str | None
    decided_id: str | None
    """Public part of the key of who decided; names are not unique."""
    decided_at: datetime | None
    show: Mapping[str, JSON]
    """What the reviewer needs to see, by the expression it comes from."""
    edit: JSON
    """The draft to correct; None when there is none."""
    schema: Mapping[str, JSON] | None
    """What the decision must look like."""
    decision: JSON
    note: str
    """Why, in the words of who decided; empty when they gave none."""
    reading: int = 1
    """2 for a blind second reading, 3 for the third person after two who disagreed."""
    agreed: bool | None = None
    """Of a second reading that has ended: whether it came to the same decision."""
    started_by: str | None = None
    """Name of the key that asked for the run, or that it was started with."""

    @property
    def claimer(self) -> str | None:
        """Who has it in hand, as shown to people."""
        return None if self.claimed_by is None else known_as(self.claimed_by, self.claimed_id)

    @property
    def decider(self) -> str | None:
        """Who decided it, as shown to people."""
        return None if self.decided_by is None else known_as(self.decided_by, self.decided_id)


def sealed(vault: Vault, task: TaskId, what: str, value: JSON, workspace: str) -> bytes:
    """Seal a part of a task, bound to it and to what it is."""
    return vault.seal("task", pack(value), f"{task}/{what}", workspace)


def opened(vault: Vault, task: TaskId, what: str, value: bytes) -> JSON:
    """Open a part of a task."""
    return unpack(vault.open("task", value, f"{task}/{what}"))


def contents(vault: Vault, row: Row) -> Mapping[str, Any]:
    """Open what a task shows and asks."""
    payload = opened(vault, TaskId(row["id"]), "payload", row["payload"])
    return payload if isinstance(payload, dict) else {}


def barred(row: Row, payload: Mapping[str, Any], reviewer: Reviewer) -> Bar | None:
    """Say why somebody may not decide a task, by its row and its opened payload; None when they may."""
    who = {reviewer.name, reviewer.id} - {None}
    if who & set(row["readers"]):
        return "reader"
    if row["name"] in (ASK_HUMAN, ASK_BUDGET):
        return None  # What the engine asks is no approval of what somebody started.
    if not payload.get("allow_self") and who & {row["starter"], row["starter_id"], *row["askers"]}:
        return "self"
    named = payload.get("not")
    names = named if isinstance(named, list) else [named]
    return "named" if who & {str(name).removeprefix("user:") for name in names if name} else None


def read_task(vault: Vault, row: Row, *, blind: bool = False) -> Task:
    """Open the row of a task; blind leaves out its decision."""
    id, parts = TaskId(row["id"]), contents(vault, row)
    show, schema = parts.get("show"), parts.get("schema")
    told = row if not blind else {**row, "decision": None, "note": None, "decided_by": None, "decided_id": None}
    return Task(
        id=id,
        run=RunId(row["run"]),
        workflow=row["workflow"],
        path=row["path"],
        state=row["state"],
        title=str(opened(vault, id, "title", row["title"])),
        assignee=row["assignee"],
        claimed_by=row["claimed_by"],
        claimed_id=row["claimed_id"],
        due_at=row["due_at"],
        reminded=row["reminded"],
        handed_off=row["handed_off"],
        opened_at=row["opened_at"],
        decided_by=told["decided_by"],
        decided_id=told["decided_id"],
        decided_at=row["decided_at"],
        show=show if isinstance(show, dict) else {},
        edit=parts.get("edit"),
        schema=schema if isinstance(schema, dict) else None,
        decision=None if told["decision"] is None else opened(vault, id, "decision", told["decision"]),
        note="" if told["note"] is None else str(opened(vault, id, "note", told["note"])),
        reading=row["reading"],
        agreed=row["agreed"],
        started_by=next(iter(row.get("askers") or ()), row["starter"]),
    )


def read_event(vault: Vault, row: Row) -> TaskEvent:
    """Open the row of something that happened to a task."""
    id = TaskId(row["task"])
    words = "" if row["words"] is None else str(opened(vault, id, "words", row["words"]))
    return TaskEvent(row["kind"], row["at"], row["by_name"], row["by_id"], row["target"], words)
