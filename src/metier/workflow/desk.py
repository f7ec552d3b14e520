"""Where the engine puts its questions: tasks opened with the parking of a run, and closed with its end."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Any

import orjson

from metier.calls import JSON, RunId, new_id
from metier.errors import Invalid
from metier.store import Row, Store, Tx
from metier.vault import Vault
from metier.workflow.commands import assignee
from metier.workflow.context import Clock, utc
from metier.workflow.engine import Opening
from metier.workflow.quantities import seconds
from metier.workflow.tasks import TaskId, contents, opened, sealed

__all__ = ["TaskDesk", "read_twice"]

_BOUND = ("due", "remind", "escalate", "allow_self", "not")
"""What a further reading of the same question is opened with again."""


class TaskDesk:
    """Opens and cancels tasks for the engine, in the engine's own transactions."""

    def __init__(self, store: Store, vault: Vault, *, clock: Clock = utc) -> None:
        self._vault = vault
        self._queries = store.queries("review")
        self._clock = clock

    async def open(self, tx: Tx, opening: Opening) -> None:
        """Open a task with the parking of its run."""
        park, asked = opening.park, opening.park.task
        late, to = asked.get("on_timeout"), assignee(asked.get("assign"))
        payload: dict[str, JSON] = {
            "show": asked.get("show"),
            "edit": asked.get("edit"),
            "schema": None if park.schema is None else dict(park.schema),
            "late": late.get("output") if isinstance(late, dict) else None,
            "reassign": _late(late).get("reassign") if late is not None else None,
            "assign": to,
            "asked": {key: asked[key] for key in _BOUND if key in asked},
            "allow_self": asked.get("allow_self") is True,
            "not": asked.get("not"),
        }
        share = asked.get("second_reading")
        twice = isinstance(share, int | float) and to.startswith("group:") and read_twice(opening.run, park.path, share)
        place = {
            "run": opening.run,
            "workflow": opening.workflow,
            "project": opening.project,
            "path": park.path,
            "attempt": park.attempt,
            "name": park.name,
            "reading": 1,
            "readings": 2 if twice else 1,
            "readers": [],
            "assignee": to,
            "on_timeout": orjson.dumps(_late(late)).decode() if late is not None else None,
        }
        await self._insert(
            tx, place, _title(asked.get("title")) or f"{opening.workflow}: {park.path}", payload, opening.workspace
        )

    async def again(self, tx: Tx, row: Row, readers: list[str]) -> TaskId:
        """Open a further reading of a question, for those it was first assigned to, without what others said."""
        payload = dict(contents(self._vault, row))
        place = {key: row[key] for key in ("run", "workflow", "project", "path", "attempt", "name", "readings")}
        late, reassign = payload.get("late"), payload.get("reassign")
        then: dict[str, JSON] | None = (
            {"reassign": reassign} if reassign else None if late is None else {"output": None}
        )
        place |= {
            "reading": row["reading"] + 1,
            "readers": readers,
            "assignee": payload.get("assign") or row["assignee"],
            "on_timeout": None if then is None else orjson.dumps(then).decode(),
        }
        title = opened(self._vault, TaskId(row["id"]), "title", row["title"])
        return await self._insert(tx, place, title, payload, self._vault.workspace(row["payload"]))

    async def close(self, tx: Tx, run: RunId) -> None:
        """Cancel the open tasks of a run that is over."""
        await self._queries.run("close", {"run": run, "now": self._clock()}, tx)

    async def set_aside(self, tx: Tx, run: RunId, kept: Collection[str], mark: str) -> None:
        """Cancel the open tasks of a run at all but some paths, and mark the paths of those, so that they are free."""
        now = self._clock()
        await self._queries.run("set_aside", {"run": run, "kept": [*kept], "mark": mark, "now": now}, tx)

    async def _insert(
        self, tx: Tx, place: Mapping[str, object], title: JSON, payload: Mapping[str, JSON], workspace: str
    ) -> TaskId:
        id, now = TaskId(new_id("task")), self._clock()
        found = payload.get("asked")
        asked: Mapping[str, Any] = found if isinstance(found, dict) else {}
        due, remind = asked.get("due"), asked.get("remind")
        reminders = sorted(now + _length(each) for each in remind) if isinstance(remind, list) else []
        climbs = _climbs(asked.get("escalate"), now)
        row = {
            **place,
            "id": id,
            "title": sealed(self._vault, id, "title", title, workspace),
            "payload": sealed(self._vault, id, "payload", dict(payload), workspace),
            "due_at": None if due is None else now + _length(due),
            "remind_at": reminders[0] if reminders else None,
            "reminders": reminders[1:],
            "escalate_at": climbs[0]["at"] if climbs else None,
            "escalations": orjson.dumps(climbs).decode(),
            "opened_at": now,
        }
        await self._queries.run("open", row, tx)
        return id


def read_twice(run: RunId, path: str, share: float) -> bool:
    """Say whether a question is among the share that two people read: always the same answer for the same place."""
    drawn = int.from_bytes(hashlib.sha256(f"{run}/{path}".encode()).digest()[:8], "big") / 2**64
    return drawn < share


def _climbs(written: Any, now: datetime) -> list[dict[str, str]]:
    """Read the levels of an escalation, in the order in which they come."""
    levels = [(now + _length(one["after"]), assignee(one["to"])) for one in written or ()]
    return [{"at": at.isoformat(), "to": to} for at, to in sorted(levels)]


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
