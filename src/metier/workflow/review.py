"""Tasks: questions of a run to a person, opened with its parking and decided with its going on."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, NewType, TypeAlias

import orjson

from metier.calls import JSON, RunId, new_id
from metier.errors import Broken, Conflict, Invalid, NotAllowed, NotFound
from metier.store import Row, Store, Tx
from metier.vault import Vault
from metier.workflow.commands import ASK_HUMAN, FALLBACK, assignee
from metier.workflow.context import Clock, plain, utc
from metier.workflow.engine import Engine, Opening, fits
from metier.workflow.journal import pack, unpack
from metier.workflow.quantities import seconds
from metier.workflow.reviewer import Reviewer, known_as

__all__ = ["NOTE_MAX", "Review", "Reviewer", "Swept", "Task", "TaskDesk", "TaskId", "TaskState", "known_as"]

TaskId = NewType("TaskId", str)
TaskState: TypeAlias = Literal["open", "claimed", "decided", "expired", "cancelled"]

_log = logging.getLogger(__name__)

NOTE_MAX = 10_000
"""Characters a note on a decision may have."""

_PAGE_MAX = 200
_DECISION_MAX = 16 << 20


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

    @property
    def claimer(self) -> str | None:
        """Who has it in hand, as shown to people."""
        return None if self.claimed_by is None else known_as(self.claimed_by, self.claimed_id)

    @property
    def decider(self) -> str | None:
        """Who decided it, as shown to people."""
        return None if self.decided_by is None else known_as(self.decided_by, self.decided_id)


@dataclass(frozen=True, slots=True)
class Swept:
    """What one look at the dates of tasks has done."""

    reminded: tuple[TaskId, ...]
    reassigned: tuple[TaskId, ...]
    expired: tuple[TaskId, ...]


class TaskDesk:
    """Opens and cancels tasks for the engine, in the engine's own transactions."""

    def __init__(self, store: Store, vault: Vault, *, clock: Clock = utc) -> None:
        self._vault = vault
        self._queries = store.queries("review")
        self._clock = clock

    async def open(self, tx: Tx, opening: Opening) -> None:
        """Open a task with the parking of its run."""
        park, now, id = opening.park, self._clock(), TaskId(new_id("task"))
        asked = park.task
        due, remind, late = asked.get("due"), asked.get("remind"), asked.get("on_timeout")
        payload: dict[str, JSON] = {
            "show": asked.get("show"),
            "edit": asked.get("edit"),
            "schema": None if park.schema is None else dict(park.schema),
            "late": late.get("output") if isinstance(late, dict) else None,
        }
        reminders = [now + _length(each) for each in remind] if isinstance(remind, list) else []
        reminders.sort()
        row = {
            "id": id,
            "run": opening.run,
            "workflow": opening.workflow,
            "project": opening.project,
            "path": park.path,
            "attempt": park.attempt,
            "name": park.name,
            "title": _seal(self._vault, id, "title", _title(asked.get("title")) or f"{opening.workflow}: {park.path}"),
            "assignee": assignee(asked.get("assign")),
            "payload": _seal(self._vault, id, "payload", payload),
            "due_at": None if due is None else now + _length(due),
            "remind_at": reminders[0] if reminders else None,
            "reminders": reminders[1:],
            "on_timeout": orjson.dumps(_late(late)).decode() if late is not None else None,
            "opened_at": now,
        }
        await self._queries.run("open", row, tx)

    async def close(self, tx: Tx, run: RunId) -> None:
        """Cancel the open tasks of a run that is over."""
        await self._queries.run("close", {"run": run, "now": self._clock()}, tx)


class Review:
    """What people do with tasks: find, claim, hand off and decide."""

    def __init__(self, store: Store, vault: Vault, engine: Engine, *, clock: Clock = utc) -> None:
        self._store = store
        self._vault = vault
        self._engine = engine
        self._queries = store.queries("review")
        self._clock = clock

    async def list(
        self,
        reviewer: Reviewer | None = None,
        *,
        assignees: Sequence[str] | None = None,
        run: RunId | None = None,
        after: TaskId | None = None,
        limit: int = 50,
    ) -> tuple[Task, ...]:
        """Give the tasks that wait for a reviewer, or for some assignees, oldest first."""
        if not 1 <= limit <= _PAGE_MAX:
            raise Invalid(f"cannot list {limit!r} tasks: ask for 1 to {_PAGE_MAX}", param="limit")
        theirs = None if reviewer is None or reviewer.everywhere else reviewer.assignees()
        if assignees is not None:
            theirs = [one for one in assignees if theirs is None or one in theirs]
        if after is not None and not after.isprintable():
            raise Invalid(f"cannot list the tasks after {after[:80]!r}: give the id of a task", param="after")
        within = None if reviewer is None else reviewer.organisation
        filters = {"assignees": theirs, "organisation": within, "run": run, "after": after, "limit": limit}
        return tuple(self._task(row) for row in await self._queries.all("page", filters))

    async def of_run(self, run: RunId) -> tuple[Task, ...]:
        """Give every task a run has opened, those that are over too, in the order they were opened."""
        return tuple(self._task(row) for row in await self._queries.all("of_run", {"run": run}))

    async def get(self, task: TaskId, reviewer: Reviewer | None = None) -> Task:
        """Give one task; a reviewer sees only what is theirs."""
        found = self._task(await self._row(task, reviewer))
        if reviewer is not None and not reviewer.may(found.assignee):
            raise NotFound(f"no task {task!r} is assigned to you: list your tasks to find its id")
        return found

    async def claim(self, task: TaskId, reviewer: Reviewer) -> None:
        """Say that one is on it, so that nobody else decides it meanwhile."""
        row = await self._mine(task, reviewer)
        if not await self._queries.run("claim", {**_by(reviewer), "id": task, "seen": row["assignee"]}):
            raise await self._taken(task)

    async def release(self, task: TaskId, reviewer: Reviewer) -> None:
        """Put a claimed task back for the others it is assigned to."""
        if not await self._queries.run("release", {**_by(reviewer), "id": task}):
            raise Conflict(f"task {task!r} is not claimed by {reviewer.known_as!r}: there is nothing to release")

    async def hand_off(self, task: TaskId, reviewer: Reviewer, to: str) -> None:
        """Give a task to another group or person; the operator may, whoever claimed it."""
        row = await self._mine(task, reviewer)
        change = {
            **_by(reviewer),
            "everywhere": reviewer.everywhere,
            "id": task,
            "seen": row["assignee"],
            "assignee": assignee(to),
        }
        if not await self._queries.run("hand_off", change):
            raise await self._taken(task)

    async def decide(self, task: TaskId, reviewer: Reviewer, decision: JSON, note: str = "") -> None:
        """Record a decision with its reason and make the run go on, together; the second of two gets Conflict."""
        row = await self._mine(task, reviewer)
        if row["state"] not in ("open", "claimed"):
            raise await self._taken(task)
        if len(note) > NOTE_MAX:
            raise Invalid(f"the note has {len(note):,} characters, more than {NOTE_MAX:,}: shorten it", param="note")
        await self._settle(row, decision, reviewer, note.strip())

    async def retry(self, tx: Tx, run: RunId, path: str, by: Reviewer, told: Mapping[str, JSON]) -> bool:
        """Answer the question a failed step has open with another try, in the transaction given; say if it had one."""
        for row in await self._queries.all("of_run", {"run": run}, tx):
            if (row["path"], row["name"]) == (path, ASK_HUMAN) and row["state"] in ("open", "claimed"):
                await self._end(tx, row, {"decision": "retry", **told}, by)
                return True
        return False

    async def sweep(self) -> Swept:
        """Remind, reassign and expire by the dates of tasks; any worker may do it at any time."""
        now = {"now": self._clock()}
        reminded = await self._queries.all("remind", now)
        reassigned = await self._queries.all("reassign", now)
        expired: list[TaskId] = []
        for row in await self._queries.all("overdue", now):
            try:
                await self._settle(row, self._late(row))
            except Conflict:
                continue
            except (Invalid, Broken) as error:
                _log.warning("task %s is late and its answer cannot be used: %s", row["id"], error)
                await self._queries.run("misfit", {"id": row["id"], "assignee": FALLBACK})
                continue
            expired.append(TaskId(row["id"]))
        return Swept(_ids(reminded), _ids(reassigned), tuple(expired))

    def _late(self, row: Row) -> JSON:
        """Give the answer a late task holds ready; tasks opened by earlier versions have it in the clear."""
        payload = _open(self._vault, TaskId(row["id"]), "payload", row["payload"])
        clear: JSON = row["on_timeout"]["output"]
        return payload.get("late", clear) if isinstance(payload, dict) else clear

    async def _settle(self, row: Row, decision: JSON, by: Reviewer | None = None, note: str = "") -> None:
        """Record a decision, by the date that passed when nobody took it."""
        id = TaskId(row["id"])
        payload = _open(self._vault, id, "payload", row["payload"])
        if not isinstance(payload, dict):
            raise Broken(f"the contents of task {id!r} are damaged")
        value = plain(_completed(decision, payload))
        if (size := len(orjson.dumps(value))) > _DECISION_MAX:
            raise Invalid(f"the decision has {size:,} bytes, more than {_DECISION_MAX:,}: shorten what was edited")
        schema = payload.get("schema")
        fits(value, schema if isinstance(schema, dict) else None, f"the decision on task {id!r}")
        # The run before the task, as everywhere: two orders of locking could wait for each other.
        async with self._store.transaction() as tx:
            await self._end(tx, row, value, by, note)

    async def _end(self, tx: Tx, row: Row, value: JSON, by: Reviewer | None, note: str = "") -> None:
        id = TaskId(row["id"])
        await self._engine.signal(tx, RunId(row["run"]), (row["path"], row["attempt"], row["name"]), value)
        settled = {
            "id": id,
            "state": "expired" if by is None else "decided",
            "by": "due date" if by is None else by.name,
            "by_id": None if by is None else by.id,
            "seen": row["assignee"],
            "now": self._clock(),
            "decision": _seal(self._vault, id, "decision", value),
            "note": _seal(self._vault, id, "note", note) if note else None,
        }
        if not await self._queries.run("settle", settled, tx):
            raise await self._taken(id)

    async def _mine(self, task: TaskId, reviewer: Reviewer) -> Row:
        row = await self._row(task, reviewer)
        if not reviewer.may(row["assignee"]):
            raise NotAllowed(
                f"task {task!r} is assigned to {row['assignee']!r} and {reviewer.name!r} is not among them: "
                "ask one of them to hand it off"
            )
        return row

    async def _row(self, task: TaskId, reviewer: Reviewer | None = None) -> Row:
        params = {"id": task, "organisation": None if reviewer is None else reviewer.organisation}
        row = await self._queries.one("get", params) if task.isprintable() else None
        if row is None:
            raise NotFound(f"no task {task!r}: list your tasks to find its id")
        return row

    async def _taken(self, task: TaskId) -> Conflict:
        row = await self._row(task)
        who, id = row["decided_by"], row["decided_id"]
        if row["state"] == "claimed":
            who, id = row["claimed_by"], row["claimed_id"]
        by = f" by {known_as(who, id)!r}" if who else ""
        return Conflict(f"task {task!r} is already {row['state']}{by}: look at it again")

    def _task(self, row: Row) -> Task:
        id = TaskId(row["id"])
        payload = _open(self._vault, id, "payload", row["payload"])
        contents = payload if isinstance(payload, dict) else {}
        show, schema = contents.get("show"), contents.get("schema")
        return Task(
            id=id,
            run=RunId(row["run"]),
            workflow=row["workflow"],
            path=row["path"],
            state=row["state"],
            title=str(_open(self._vault, id, "title", row["title"])),
            assignee=row["assignee"],
            claimed_by=row["claimed_by"],
            claimed_id=row["claimed_id"],
            due_at=row["due_at"],
            reminded=row["reminded"],
            handed_off=row["handed_off"],
            opened_at=row["opened_at"],
            decided_by=row["decided_by"],
            decided_id=row["decided_id"],
            decided_at=row["decided_at"],
            show=show if isinstance(show, dict) else {},
            edit=contents.get("edit"),
            schema=schema if isinstance(schema, dict) else None,
            decision=None if row["decision"] is None else _open(self._vault, id, "decision", row["decision"]),
            note="" if row["note"] is None else str(_open(self._vault, id, "note", row["note"])),
        )


def _by(reviewer: Reviewer) -> dict[str, object]:
    return {"by": reviewer.name, "by_id": reviewer.id}


def _completed(decision: JSON, payload: Mapping[str, JSON]) -> JSON:
    """A draft that nobody changed counts as edited to what it was, where the step has a place for it."""
    draft, schema = payload.get("edit"), payload.get("schema")
    places = schema.get("properties") if isinstance(schema, dict) else None
    wanted = places is None or (isinstance(places, dict) and "edited" in places)
    if draft is None or not wanted or not isinstance(decision, dict):
        return decision
    return {**decision, "edited": decision.get("edited", draft)}


def _title(written: JSON) -> JSON:
    """A title may be given in several languages: French first, as everywhere in this house."""
    if isinstance(written, dict):
        return written.get("fr") or next(iter(written.values()), None)
    return written


def _late(late: JSON) -> dict[str, JSON]:
    """Read what holds when the due date passes: another assignee, or a decision, which is sealed with the task."""
    if isinstance(late, dict) and "reassign" in late:
        return {"reassign": assignee(late["reassign"])}
    if isinstance(late, dict) and "output" in late:
        return {"output": None}
    raise Invalid(f"cannot use {late!r} when a task is late: write {{reassign: group:…}} or {{output: …}}")


def _length(written: JSON) -> timedelta:
    return timedelta(seconds=float(written) if isinstance(written, int | float) else seconds(written))


def _ids(rows: Sequence[Row]) -> tuple[TaskId, ...]:
    return tuple(TaskId(row["id"]) for row in rows)


def _seal(vault: Vault, task: TaskId, what: str, value: JSON) -> bytes:
    return vault.seal("task", pack(value), f"{task}/{what}")


def _open(vault: Vault, task: TaskId, what: str, value: bytes) -> JSON:
    return unpack(vault.open("task", value, f"{task}/{what}"))
