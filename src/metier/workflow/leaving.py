"""How a run is left by its worker: put aside with what it waits for, ended, or given back."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Protocol

from metier.calls import JSON, ProjectId, RunId
from metier.errors import Broken
from metier.store import Row, Store, Tx
from metier.vault import Vault
from metier.workflow.children import Children
from metier.workflow.commands import (
    CHILD,
    Failure,
    Finish,
    Key,
    Park,
    Work,
)
from metier.workflow.context import Clock
from metier.workflow.definition import Workflow
from metier.workflow.dispatch import Dispatch
from metier.workflow.journal import Hold, Journal, Line, LostRun, sealed
from metier.workflow.trying import Held

__all__ = ["Desk", "Leaving", "Opening", "Overtaken", "Round"]


class Overtaken(Exception):
    """What was to be written is no longer so: something came in between, and has to be read first."""


@dataclass(frozen=True, slots=True)
class _Left:
    """What a run that is over leaves behind."""

    below: bool
    """Runs it has started."""
    waits: bool
    """What it still waited for."""


@dataclass(frozen=True, slots=True)
class Opening:
    """A task to open: where it comes from and what it asks."""

    run: RunId
    workflow: str
    project: ProjectId
    park: Park
    workspace: str = ""
    """The organisation under whose key it is sealed."""


class Desk(Protocol):
    """Where tasks are put; whoever does it uses the transaction given, so that task and run agree."""

    async def open(self, tx: Tx, opening: Opening) -> None:
        """Open a task with the parking of its run."""

    async def close(self, tx: Tx, run: RunId) -> None:
        """Cancel the open tasks of a run that is over."""


@dataclass(slots=True)
class Round:
    """What the frontier of a run comes to at one moment."""

    start: list[Work] = field(default_factory=list)
    """To do at once."""
    ask: list[Park] = field(default_factory=list)
    """Questions nobody was asked yet."""
    waits: list[str] = field(default_factory=list)
    """Paths that wait for others."""
    at: datetime | None = None
    """When the first of the times comes that something waits for."""
    end: Finish | None = None

    def until(self, at: datetime) -> None:
        """Note one more time that something waits for."""
        self.at = at if self.at is None else min(self.at, at)


class Leaving:
    """Writes what a run waits for or has come to, fenced by its epoch; signals that came meanwhile are read first."""

    def __init__(
        self, store: Store, vault: Vault, dispatch: Dispatch, children: Children, desk: Desk | None, clock: Clock
    ) -> None:
        self._store = store
        self._vault = vault
        self._queries = store.queries("engine")
        self._dispatch = dispatch
        self._children = children
        self._journal = Journal(store, vault)
        self._desk = desk
        self._clock = clock

    def notes(self, held: Held) -> list[Line]:
        """Give what was found out and is not written yet; whoever has written it empties the list."""
        now = self._clock()
        held.notes.extend(Line(n.path, n.attempt, n.kind, n.value, now) for n in held.walk.notes())
        return list(held.notes)

    async def reload(self, held: Held) -> None:
        """Take in what signals have brought since the last look."""
        row = await self._queries.one("look", {"id": held.hold.run, "epoch": held.hold.epoch})
        if row is None:
            raise LostRun(f"run {held.hold.run!r} is no longer held under epoch {held.hold.epoch}: it stops here")
        if row["signals"] == held.signals:
            return
        for entry in (await self._journal.load(held.hold.run, held.signals)).values():
            held.opened.discard(entry.key)
            held.walk.feed(entry)
        held.looked.clear()
        held.signals = row["signals"]

    async def ask(self, held: Held, parks: Sequence[Park]) -> None:
        """Open tasks while other branches go on."""
        flows = await self._children.prepare(held, parks)
        async with self._store.transaction() as tx:
            lines = await self._open(held, parks, flows, tx)
        self._opened(held, parks)
        for line in lines:
            held.walk.feed(line.entry())

    async def _open(self, held: Held, parks: Sequence[Park], flows: Mapping[Key, Workflow], tx: Tx) -> list[Line]:
        """Put questions where they are answered: to people, or to runs that begin for it."""
        run, lines = held.hold.run, list[Line]()
        for park in parks:
            flow = flows.get((park.path, park.attempt, park.name))
            if self._desk is None and flow is None:
                raise Broken(f"{park.path!r} of {run!r} asks a person, and no desk for tasks was handed in")
            place = {"run": run, "path": park.path, "attempt": park.attempt, "name": park.name}
            kind = "task" if flow is None else "run"
            nothing = {"kind": kind, "project": None, "event": None, "key": None, "epoch": held.hold.epoch}
            if await self._queries.one("open", {**place, **nothing}, tx) is None:
                raise LostRun(f"run {run!r} is no longer held under epoch {held.hold.epoch}: this worker stops here")
            if flow is not None:
                lines.append(await self._children.asked(tx, held, park, flow))
            elif self._desk is not None:
                who = held.principal
                await self._desk.open(tx, Opening(run, held.workflow.name, who.project, park, who.organisation))
        return lines

    def _opened(self, held: Held, parks: Sequence[Park]) -> None:
        held.opened.update((park.path, park.attempt, park.name) for park in parks)
        held.asked = [park for park in held.asked if (park.path, park.attempt, park.name) not in held.opened]

    async def left(self, held: Held, now: Round) -> bool:
        """Leave a run that only others can move; say no where it has to be looked at again instead."""
        if now.at is not None and (pause := (now.at - self._clock()).total_seconds()) <= self._dispatch.pace.poll_s:
            await asyncio.sleep(max(pause, 0))
            held.come = now.at
            return False
        notes, flows = self.notes(held), await self._children.prepare(held, now.ask)
        row = {
            "id": held.hold.run,
            "epoch": held.hold.epoch,
            "signals": held.signals,
            "path": next((park.path for park in now.ask), next(iter(now.waits), None)),
            "wake_at": now.at,
            "cost_eur": held.spent,
        }
        try:
            async with self._store.transaction() as tx:
                if notes:
                    await self._journal.append(held.hold, notes, tx)
                await self._open(held, now.ask, flows, tx)
                if not await self._queries.run("park", row, tx):
                    raise Overtaken
                if now.at is not None:
                    await self._dispatch.defer(tx, held.hold.run, now.at)
        except Overtaken:
            await self.reload(held)
            return False
        return True

    async def paused(self, held: Held) -> bool:
        """Stand still at a boundary, because somebody wants it; say no where they want it no longer."""
        row = {"id": held.hold.run, "epoch": held.hold.epoch, "cost_eur": held.spent}
        held.pausing = False
        return bool(await self._queries.run("halt", row))

    async def over(self, held: Held, finish: Finish) -> None:
        """End a run, with all it has begun."""
        notes = self.notes(held)
        below = any(name.startswith(CHILD) for _, _, name in held.entries)
        left = _Left(below, bool(held.opened))
        await self.finish(held.hold, held.row, finish, held.spent, left=left, notes=notes)

    async def broke(self, hold: Hold, row: Row, failure: Failure, status: str = "failed") -> None:
        """End a run that cannot be moved, with whatever it has begun; its journal says what it has cost."""
        await self.finish(hold, row, Finish(failure=failure), None, status, left=_Left(True, True))

    async def finish(
        self,
        hold: Hold,
        row: Row,
        finish: Finish,
        cost: Decimal | None,
        status: str = "failed",
        *,
        left: _Left,
        notes: Sequence[Line] = (),
    ) -> None:
        """Write what a run came to, and tell its parent in the same transaction."""
        failure = finish.failure
        error: JSON = None
        if failure is not None:
            error = {
                "code": failure.code,
                "message": failure.message,
                "path": failure.path,
                "attempt": failure.attempt,
            }
        ending = {
            "id": hold.run,
            "epoch": hold.epoch,
            "status": "done" if failure is None else status,
            "output": None if failure else sealed(self._vault, hold.run, "output", finish.output, hold.workspace),
            "outcome": None if failure else finish.outcome,
            "error": sealed(self._vault, hold.run, "error", error, hold.workspace) if failure else None,
            "cost_eur": cost,
        }
        lost = LostRun(f"run {hold.run!r} is no longer held under epoch {hold.epoch}: this worker stops here")
        nothing = left == _Left(False, False)
        if not notes and nothing and row.get("parent") is None:
            # Nothing has to be true together with it.
            if not await self._queries.run("finish", ending):
                raise lost
            return
        async with self._store.transaction() as tx:
            if notes:
                await self._journal.append(hold, notes, tx)
            if not await self._queries.run("finish", ending, tx):
                raise lost
            if left.waits:
                await self._queries.run("forget_waits", {"run": hold.run}, tx)
                if self._desk is not None:
                    await self._desk.close(tx, hold.run)
            if left.below:
                await self._children.cancel(tx, hold.run, None if self._desk is None else self._desk.close)
            if cost is None or not nothing:
                cost = await self._children.counted(tx, hold.run)
            await self._children.ended(tx, hold.run, row, finish, cost)

    async def give_back(self, hold: Hold) -> None:
        """Make a run due for another worker, when this one stops."""
        async with self._store.transaction() as tx:
            if await self._queries.run("give_back", {"id": hold.run, "epoch": hold.epoch}, tx):
                await self._dispatch.defer(tx, hold.run)
