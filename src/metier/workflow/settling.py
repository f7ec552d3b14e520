"""How a task ends: its decision checked, kept and handed to the run, after a second reading where there is one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from metier.calls import JSON, RunId
from metier.errors import Conflict, Invalid
from metier.store import Row, Store, Tx
from metier.vault import Vault
from metier.workflow.context import Clock, plain
from metier.workflow.corrections import Corrections
from metier.workflow.desk import TaskDesk
from metier.workflow.engine import Engine, fits
from metier.workflow.reviewer import Reviewer
from metier.workflow.tasks import NEGATIVE, EventKind, TaskId, contents, opened, sealed

__all__ = ["Settling"]

_DECISION_MAX = 16 << 20


class Settling:
    """Ends tasks, and notes what happens to them in the same transaction."""

    def __init__(self, store: Store, vault: Vault, engine: Engine, corrections: Corrections, clock: Clock) -> None:
        self._store = store
        self._vault = vault
        self._engine = engine
        self._corrections = corrections
        self._desk = TaskDesk(store, vault, clock=clock)
        self._queries = store.queries("review")
        self._clock = clock

    async def tell(
        self, tx: Tx, row: Row, kind: EventKind, by: Reviewer | None, words: str = "", target: str | None = None
    ) -> None:
        """Note that something happened to a task, by its row; words are sealed as what it shows is."""
        task = TaskId(row["id"])
        told = {
            "task": task,
            "kind": kind,
            "at": self._clock(),
            "by": None if by is None else by.name,
            "by_id": None if by is None else by.id,
            "target": target,
            "words": sealed(self._vault, task, "words", words, self._vault.workspace(row["payload"]))
            if words
            else None,
        }
        await self._queries.run("tell", told, tx)

    async def settle(self, row: Row, decision: JSON, by: Reviewer | None = None, note: str = "") -> None:
        """Record a decision, by the date that passed when nobody took it."""
        id, payload = TaskId(row["id"]), contents(self._vault, row)
        value = plain(_completed(decision, payload, note))
        if (size := len(orjson.dumps(value))) > _DECISION_MAX:
            raise Invalid(f"the decision has {size:,} bytes, more than {_DECISION_MAX:,}: shorten what was edited")
        schema = payload.get("schema")
        fits(value, schema if isinstance(schema, dict) else None, f"the decision on task {id!r}")
        if by is not None:
            _reasoned(row, value, note)
        changed = by is not None and _changed(value, payload)
        workflow = await self._engine.definition(RunId(row["run"])) if changed else None
        # The run before the task, as everywhere: two orders of locking could wait for each other.
        async with self._store.transaction() as tx:
            if not await self._read_on(tx, row, value, by, note):
                await self.end(tx, row, value, by, note)
            if workflow is not None and by is not None and isinstance(value, dict):
                await self._corrections.add(tx, row, payload, value["edited"], by, workflow)
                await self.tell(tx, row, "changed", by)

    async def end(self, tx: Tx, row: Row, value: JSON, by: Reviewer | None, note: str = "") -> None:
        """Hand a decision to the run and close the task."""
        await self._engine.signal(tx, RunId(row["run"]), (row["path"], row["attempt"], row["name"]), value)
        await self._close(tx, row, value, by, note)

    async def _read_on(self, tx: Tx, row: Row, value: JSON, by: Reviewer | None, note: str) -> bool:
        """Where a question is read twice, say whether this reading is not the one that makes the run go on."""
        if row["readings"] < 2 or row["reading"] > 2 or by is None:
            return False
        id = TaskId(row["id"])
        readers = sorted({*row["readers"], by.name, *([by.id] if by.id else [])})
        if row["reading"] == 1:
            await self._parked(tx, row)
            await self._close(tx, row, value, by, note)
            await self._desk.again(tx, row, readers)
            return True
        first = (await self._queries.all("first", dict(row), tx))[0]
        before = opened(self._vault, TaskId(first["id"]), "decision", first["decision"])
        agreed = _choice(before) == _choice(value)
        if agreed:
            # The words of the first reader leave; the second has only confirmed the choice.
            await self._engine.signal(tx, RunId(row["run"]), (row["path"], row["attempt"], row["name"]), before)
        else:
            await self._parked(tx, row)
        await self._close(tx, row, value, by, note)
        await self._queries.run("agree", {"id": id, "agreed": agreed}, tx)
        await self.tell(tx, row, "agreed" if agreed else "disagreed", None)
        if not agreed:
            await self._desk.again(tx, row, readers)
        return True

    async def _parked(self, tx: Tx, row: Row) -> None:
        if await self._queries.one("hold_run", {"run": row["run"]}, tx) is None:
            raise Conflict(f"run {row['run']!r} waits for no decision any more: look at it again")

    async def _close(self, tx: Tx, row: Row, value: JSON, by: Reviewer | None, note: str) -> None:
        id, whose = TaskId(row["id"]), self._vault.workspace(row["payload"])
        settled = {
            "id": id,
            "state": "expired" if by is None else "decided",
            "by": "due date" if by is None else by.name,
            "by_id": None if by is None else by.id,
            "linked": by is not None and by.linked,
            "seen": row["assignee"],
            "now": self._clock(),
            "decision": sealed(self._vault, id, "decision", value, whose),
            "note": sealed(self._vault, id, "note", note, whose) if note else None,
        }
        if not await self._queries.run("settle", settled, tx):
            raise Conflict(f"task {id!r} has changed since you opened it: look at it again")
        await self.tell(tx, row, "expired" if by is None else "decided", by, note)


def _choice(value: JSON) -> JSON:
    """What two readings are compared by: the choice, or the whole where there is none."""
    return value.get("decision", value) if isinstance(value, dict) else value


def _changed(value: JSON, payload: Mapping[str, Any]) -> bool:
    draft = payload.get("edit")
    return (
        draft is not None
        and isinstance(value, dict)
        and "edited" in value
        and value["edited"] != draft
        and value.get("decision") not in NEGATIVE
    )


def _reasoned(row: Row, value: JSON, note: str) -> None:
    """A refusal helps nobody without its reason; what the engine itself asks has its own."""
    if row["name"] or not isinstance(value, dict) or value.get("decision") not in NEGATIVE:
        return
    given = (note, *(value.get(key) for key in ("note", "reason", "changes")))
    if not any(isinstance(one, str) and one.strip() for one in given):
        what = "what to change" if value["decision"] == "changes" else "why"
        raise Invalid(f"{value['decision']!r} needs a note that says {what}: write it", param="note")


def _completed(decision: JSON, payload: Mapping[str, Any], note: str) -> JSON:
    """A draft nobody changed counts as edited to what it was, and a note as the one the step asks for."""
    draft, schema = payload.get("edit"), payload.get("schema")
    found = schema.get("properties") if isinstance(schema, dict) else None
    places: Mapping[str, Any] | None = found if isinstance(found, dict) else None
    if not isinstance(decision, dict):
        return decision
    made = dict(decision)
    if draft is not None and (found is None or (places is not None and "edited" in places)):
        made.setdefault("edited", draft)
    if note and places is not None and "note" in places:
        made.setdefault("note", note)
    return made
