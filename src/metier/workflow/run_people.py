"""Who is in a run: keyed digests of addresses and short inputs, by which an erasure finds it; nothing is readable."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any, Protocol

from metier.calls import JSON, RunId
from metier.errors import Broken, Conflict, Invalid
from metier.store import Row, Store
from metier.vault import Vault
from metier.workflow.engine import Engine
from metier.workflow.events import opened_event
from metier.workflow.journal import Journal, opened, unpack, unsealed
from metier.workflow.people_found import people_in

__all__ = ["RunPeople", "Written"]

_log = logging.getLogger(__name__)
_BATCH = 100
_OVER = ("done", "failed", "cancelled", "dead")


class _Target(Protocol):
    @property
    def organisation(self) -> str: ...

    @property
    def person(self) -> str | None: ...


class Written(Protocol):
    """Writes down that rows of a person were erased in one room alone."""

    async def __call__(self, what: str, target: Any, rows: int, by: str, reason: str) -> object:
        """Write it down."""
        ...


class RunPeople:
    """Notes who is in runs, and erases the runs of a person; those under way are cancelled first."""

    def __init__(self, store: Store, vault: Vault, engine: Engine) -> None:
        self._store = store
        self._vault = vault
        self._engine = engine
        self._journal = Journal(store, vault)
        self._queries = store.queries("engine")
        self._effects = store.queries("outbox")
        self.written: Written | None = None
        """Writes down what was erased here alone, where the platform keeps such records."""

    async def look(self) -> int:
        """Go through what runs that are over hold, once for each end, and say how many that were."""
        looked = 0
        while rows := await self._queries.all("not_looked_at", {"most": _BATCH}):
            for row in rows:
                found = await self._found(row)
                if found is None:
                    await self._queries.run("looked_at", {"id": row["id"]})
                    continue
                async with self._store.transaction() as tx:
                    # A run that was taken up again meanwhile is gone through at its next end.
                    if await self._queries.run("looked_at", {"id": row["id"]}, tx):
                        await self._queries.run("add_people", {"run": row["id"], "people": sorted(found)}, tx)
            looked += len(rows)
        return looked

    async def erase(self, target: _Target, by: str, dry_run: bool, project: str | None = None) -> int:
        """Delete the runs a person is in, with all they hold and started; give how many that is, or would be.

        With a project, those of other projects stay. What steps keep, and events, go where they hold an address of
        that person.
        """
        person = target.person
        if person is None:
            return 0
        await self.look()
        await self._look_at_standing()
        rows = await self._queries.all("of_person", {"person": person, "project": project})
        held = next((row for row in rows if row["hold"] is not None), None)
        if held is not None:
            raise Conflict(f"run {held['id']!r} is under the legal hold {held['hold']!r}: release it first")
        if dry_run:
            return len(rows)
        for row in rows:
            if row["status"] not in _OVER:
                with contextlib.suppress(Conflict):  # it came to its end by itself
                    await self._engine.cancel(RunId(row["id"]))
            await self._queries.run("erase_run", {"id": row["id"]})
        await self._effects.run("drop_orphans")
        await self._forget(target.organisation, person, project)
        return len(rows)

    async def erase_alone(self, target: _Target, by: str, reason: str, dry_run: bool, project: str | None) -> int:
        """Delete the runs of a person and nothing else of theirs, and have that written down with its reason."""
        if not by.strip() or not reason.strip():
            raise Invalid("an erasure needs the name of who does it and a reason", param="reason")
        count = await self.erase(target, by, dry_run, project)
        if count and not dry_run and self.written is not None:
            await self.written("runs", target, count, by, reason)
        return count

    async def _forget(self, organisation: str, person: str, project: str | None) -> None:
        """Go through what is kept beside runs; it may be of runs that are there no more."""
        after = b""
        while rows := await self._queries.all("kept_page", {"after": after, "most": _BATCH}):
            # Others have people of their own; what was kept before organisations had keys may be of any of them.
            values = {
                row["digest"]: self._vault.open("kept", row["sealed"], bytes(row["digest"]).hex())
                for row in rows
                if self._vault.workspace(row["sealed"]) in ("", organisation)
            }
            gone = [key for key, value in values.items() if self._names(organisation, person, unpack(value))]
            await self._queries.run("drop_kept", {"digests": gone})
            after = rows[-1]["digest"]
        place, last = {"organisation": organisation, "project": project, "person": person, "most": _BATCH}, ""
        while rows := await self._queries.all("events_page", {**place, "after": last}):
            told = {row["id"]: opened_event(self._vault, row["id"], row["data"]) for row in rows}
            gone = [id for id, value in told.items() if self._names(organisation, person, value)]
            await self._queries.run("drop_events", {"ids": gone})
            last = rows[-1]["id"]

    def _names(self, organisation: str, person: str, value: JSON) -> bool:
        return person in people_in(self._vault, organisation, value, whole=True)

    async def _look_at_standing(self) -> None:
        """Go through what runs hold that are not over: one that is parked may hold for months what it has found."""
        after = ""
        while rows := await self._queries.all("standing", {"after": after, "most": _BATCH}):
            for row in rows:
                if found := await self._found(row):
                    await self._queries.run("add_people", {"run": row["id"], "people": sorted(found)})
            after = rows[-1]["id"]

    async def _found(self, row: Row) -> set[str] | None:
        """Give who is in a run; None where nobody can read it."""
        run = RunId(row["id"])
        try:
            organisation = str(opened(self._vault, run, "rights", row["rights"]).get("organisation") or "main")
            found = set(people_in(self._vault, organisation, *self._held(run, row), whole=True))
            for entry in (await self._journal.load(run)).values():
                found.update(people_in(self._vault, organisation, entry.value))
            for _, entry in await self._journal.aside(run):
                found.update(people_in(self._vault, organisation, entry.value))
        except Broken as error:
            # What nobody can read must not keep the others from being erased or deleted in their time.
            _log.warning("run %s cannot be read, so nobody is noted as being in it: %s", run, error.message)
            return None
        return found

    def _held(self, run: RunId, row: Row) -> Iterator[JSON]:
        yield unsealed(self._vault, run, "inputs", row["inputs"])
        for what in ("output", "error"):
            if row[what] is not None:
                yield unsealed(self._vault, run, what, row[what])
        if row["around_sealed"] is not None:
            yield unpack(self._vault.open("blob", row["around_sealed"], bytes(row["around"]).hex()))
