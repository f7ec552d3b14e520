"""What people do with tasks: find, claim, comment, hand off and decide; whoever may not decide is told why."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta

from metier.calls import JSON, RunId
from metier.errors import Conflict, Invalid, NotAllowed, NotFound
from metier.store import Row, Store, Tx
from metier.vault import Vault
from metier.workflow.absences import Absence, Absences
from metier.workflow.commands import ASK_HUMAN, assignee
from metier.workflow.context import Clock, utc
from metier.workflow.corrections import Corrections
from metier.workflow.desk import TaskDesk
from metier.workflow.engine import Engine
from metier.workflow.links import LASTS, Link, Links
from metier.workflow.reviewer import Reviewer, known_as
from metier.workflow.settling import Settling
from metier.workflow.sweeping import Sweep, Swept
from metier.workflow.tasks import (
    NOTE_MAX,
    Bar,
    Task,
    TaskEvent,
    TaskId,
    TaskState,
    barred,
    contents,
    read_event,
    read_task,
)

__all__ = [
    "NOTE_MAX",
    "Absence",
    "Bar",
    "Review",
    "Reviewer",
    "Swept",
    "Task",
    "TaskDesk",
    "TaskEvent",
    "TaskId",
    "TaskState",
    "known_as",
]

_PAGE_MAX = 200
_NAME_MAX = 200
_GROUP = "group:"
_BARS: Mapping[Bar, str] = {
    "self": "you started the run of task {task!r}: somebody else decides it",
    "named": "the workflow lets somebody else than {name!r} decide task {task!r}: hand it off",
    "reader": "you have read what task {task!r} asks before: somebody else reads it now",
}

_BARRED: Mapping[Bar, str] = {
    "self": "they started its run",
    "named": "the workflow lets somebody else decide",
    "reader": "they have read it before",
}


class Review:
    """What people do with tasks: find, claim, hand off and decide."""

    def __init__(self, store: Store, vault: Vault, engine: Engine, *, clock: Clock = utc) -> None:
        self.absences = Absences(store, clock=clock)
        self.links = Links(store, vault, clock=clock)
        self.corrections = Corrections(store, vault, clock=clock)
        self._store = store
        self._vault = vault
        self._settling = Settling(store, vault, engine, self.corrections, clock)
        self._sweep = Sweep(store, vault, self._settling, self.corrections, clock)
        self._queries = store.queries("review")

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
        if reviewer is not None:
            reviewer = await self.absences.standing(reviewer)
        theirs = None if reviewer is None or reviewer.everywhere else reviewer.assignees()
        if assignees is not None:
            theirs = [one for one in assignees if theirs is None or one in theirs]
        if after is not None and not after.isprintable():
            raise Invalid(f"cannot list the tasks after {after[:80]!r}: give the id of a task", param="after")
        narrow = reviewer is not None and not reviewer.everywhere
        filters = {
            "assignees": theirs,
            "organisation": None if reviewer is None else reviewer.organisation,
            "who": [reviewer.name, *([reviewer.id] if reviewer.id else [])] if narrow and reviewer else None,
            "run": run,
            "after": after,
            "limit": limit,
        }
        return tuple(read_task(self._vault, row) for row in await self._queries.all("page", filters))

    async def of_run(self, run: RunId) -> tuple[Task, ...]:
        """Give every task a run has opened, those that are over too, in the order they were opened."""
        return tuple(read_task(self._vault, row) for row in await self._queries.all("of_run", {"run": run}))

    async def get(self, task: TaskId, reviewer: Reviewer | None = None) -> Task:
        """Give one task; a reviewer sees only what is theirs, and no decision while a blind reading is under way."""
        row = await self._row(task, reviewer)
        if reviewer is None or reviewer.everywhere:
            return read_task(self._vault, row)
        if not (await self.absences.standing(reviewer)).may(row["assignee"]):
            raise NotFound(f"no task {task!r} is assigned to you: list your tasks to find its id")
        return read_task(self._vault, row, blind=_hidden(row, reviewer))

    async def history(self, task: TaskId, reviewer: Reviewer | None = None) -> tuple[TaskEvent, ...]:
        """Give everything that happened to a task, oldest first; no decision while a blind reading is under way."""
        await self.get(task, reviewer)
        row = await self._row(task, reviewer)
        hidden = reviewer is not None and not reviewer.everywhere and _hidden(row, reviewer)
        found = [read_event(self._vault, each) for each in await self._queries.all("history", {"task": task})]
        return tuple(event for event in found if not hidden or event.kind not in ("decided", "changed"))

    async def bar(self, task: TaskId, reviewer: Reviewer) -> Bar | None:
        """Say why a reviewer may not decide a task that is theirs; None when they may."""
        row = await self._row(task, reviewer)
        return barred(row, contents(self._vault, row), reviewer)

    async def claim(self, task: TaskId, reviewer: Reviewer) -> None:
        """Say that one is on it, so that nobody else decides it meanwhile."""
        row = await self._mine(task, reviewer, deciding=True)
        async with self._store.transaction() as tx:
            if not await self._queries.run("claim", {**_by(reviewer), "id": task, "seen": row["assignee"]}, tx):
                raise await self._taken(task)
            await self._settling.tell(tx, row, "claimed", reviewer)

    async def release(self, task: TaskId, reviewer: Reviewer) -> None:
        """Put a claimed task back for the others it is assigned to."""
        async with self._store.transaction() as tx:
            if not await self._queries.run("release", {**_by(reviewer), "id": task}, tx):
                raise Conflict(f"task {task!r} is not claimed by {reviewer.known_as!r}: there is nothing to release")
            await self._settling.tell(tx, {"id": task}, "released", reviewer)

    async def comment(self, task: TaskId, reviewer: Reviewer, words: str) -> None:
        """Say something on a task to whoever works on it, without deciding."""
        row, said = await self._mine(task, reviewer), _words(words, "the comment")
        async with self._store.transaction() as tx:
            await self._settling.tell(tx, row, "commented", reviewer, said)

    async def hand_off(self, task: TaskId, reviewer: Reviewer, to: str, note: str) -> None:
        """Give a task to another group or person, with what they need to know; the operator may, whoever claimed it."""
        row = await self._mine(task, reviewer)
        target, said = assignee(to), _words(note, "the note that goes with a hand-off")
        change = {
            **_by(reviewer),
            "everywhere": reviewer.everywhere,
            "id": task,
            "seen": row["assignee"],
            "assignee": target,
        }
        async with self._store.transaction() as tx:
            if not await self._queries.run("hand_off", change, tx):
                raise await self._taken(task)
            await self._settling.tell(tx, row, "handed_off", reviewer, said, target)

    async def link(
        self,
        task: TaskId,
        by: Reviewer,
        person: str,
        groups: Collection[str] | None,
        lasts: timedelta = LASTS,
    ) -> tuple[str, Link]:
        """Make a link for somebody a task waits for, of these groups, and note who made it; None takes their word."""
        row = await self._row(task, by)
        if not person.strip() or len(person) > _NAME_MAX or not person.isprintable():
            raise Invalid(f"{person[:80]!r} is no name of a person", param="person")
        if row["state"] not in ("open", "claimed") or (row["state"] == "claimed" and row["claimed_by"] != person):
            raise await self._taken(task)
        if groups is not None:
            await self._theirs(row, by, person, groups)
        async with self._store.transaction() as tx:
            token = await self.links.make(read_task(self._vault, row), person, lasts, tx)
            await self._settling.tell(tx, row, "linked", by, token.partition(".")[0], f"user:{person}")
        return token, await self.links.read(token)

    async def decide(self, task: TaskId, reviewer: Reviewer, decision: JSON, note: str = "") -> None:
        """Record a decision with its reason and make the run go on, together; the second of two gets Conflict."""
        row = await self._mine(task, reviewer, deciding=True)
        if row["state"] not in ("open", "claimed"):
            raise await self._taken(task)
        if row["state"] == "claimed" and not _has(reviewer, row):
            raise await self._taken(task)
        if len(note) > NOTE_MAX:
            raise Invalid(f"the note has {len(note):,} characters, more than {NOTE_MAX:,}: shorten it", param="note")
        try:
            await self._settling.settle(row, decision, reviewer, note.strip())
        except Conflict:
            now = await self._row(task)
            if now["state"] == "open" or (now["state"] == "claimed" and _has(reviewer, now)):
                raise
            raise await self._taken(task) from None

    async def retry(self, tx: Tx, run: RunId, path: str, by: Reviewer, told: Mapping[str, JSON]) -> bool:
        """Answer the question a failed step has open with another try, in the transaction given; say if it had one."""
        for row in await self._queries.all("of_run", {"run": run}, tx):
            if (row["path"], row["name"]) == (path, ASK_HUMAN) and row["state"] in ("open", "claimed"):
                await self._settling.end(tx, row, {"decision": "retry", **told}, by)
                return True
        return False

    async def sweep(self) -> Swept:
        """Remind, reassign, escalate and expire by the dates of tasks; any worker may do it at any time."""
        return await self._sweep.once()

    async def agreement(self, workflow: str | None = None, project: str | None = None) -> Sequence[Mapping[str, JSON]]:
        """Count, by workflow and step, the questions read twice and the readings that agreed."""
        return await self._queries.all("agreement", {"workflow": workflow, "project": project})

    async def _mine(self, task: TaskId, reviewer: Reviewer, *, deciding: bool = False) -> Row:
        row = await self._row(task, reviewer)
        if not (await self.absences.standing(reviewer)).may(row["assignee"]):
            raise NotAllowed(
                f"task {task!r} is assigned to {row['assignee']!r} and {reviewer.name!r} is not among them: "
                "ask one of them to hand it off"
            )
        bar = barred(row, contents(self._vault, row), reviewer) if deciding else None
        if bar is not None and row["state"] in ("open", "claimed"):
            raise NotAllowed(_BARS[bar].format(task=task, name=reviewer.name))
        return row

    async def _theirs(self, row: Row, by: Reviewer, person: str, groups: Collection[str]) -> None:
        """Refuse a link for somebody the task does not wait for, and where either of them may not decide it."""
        if (bar := barred(row, contents(self._vault, row), by)) is not None:
            # Whoever holds a link can follow it.
            raise NotAllowed(_BARS[bar].format(task=row["id"], name=by.name))
        task, to = row["id"], str(row["assignee"])
        held = {to.removeprefix(_GROUP)} & set(groups) if to.startswith(_GROUP) else ()
        reviewer = Reviewer(person, frozenset(held), None, by.organisation)
        if not (await self.absences.standing(reviewer)).may(to):
            raise Invalid(
                f"task {task!r} waits for {to!r} and {person[:80]!r} is not among them: name one of them",
                param="person",
            )
        if (bar := barred(row, contents(self._vault, row), reviewer)) is not None:
            raise NotAllowed(f"{person!r} may not decide task {task!r} ({_BARRED[bar]}): name somebody else")

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


def _by(reviewer: Reviewer) -> dict[str, object]:
    return {"by": reviewer.name, "by_id": reviewer.id, "linked": reviewer.linked}


def _has(reviewer: Reviewer, row: Row) -> bool:
    return reviewer.claimed(row["claimed_by"], row["claimed_id"])


def _hidden(row: Row, reviewer: Reviewer) -> bool:
    """Whether a first decision must not be seen yet: by nobody but who took it, while a second reading is open."""
    return bool(row["blind"]) and (row["decided_by"], row["decided_id"]) != (reviewer.name, reviewer.id)


def _words(text: str, what: str) -> str:
    said = text.strip()
    if not said:
        raise Invalid(f"{what} is empty: write it", param="note")
    if len(said) > NOTE_MAX:
        raise Invalid(f"{what} has {len(said):,} characters, more than {NOTE_MAX:,}: shorten it", param="note")
    return said
