"""The door of the house: runs wait in the line of their project until one of them may begin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from metier.calls import ProjectId, RunId, new_id
from metier.store import Row, Store, Tx
from metier.window import Window
from metier.workflow.dispatch import Dispatch
from metier.workflow.limits import Limit, Limits

__all__ = ["Door", "Entrance"]

_NONE = Limit()


@dataclass(frozen=True, slots=True)
class Entrance:
    """How a run begins: at once, or in line."""

    queued: bool
    hours: str | None
    """In which alone it may begin."""
    opens_at: datetime | None
    """When these come, if they have not."""
    rank: int
    """Priority of its segment, where it begins at once."""


class Door:
    """Lets runs in: no project holds all slots of the workers, and bounds of projects and flows are kept."""

    def __init__(self, store: Store, dispatch: Dispatch, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._dispatch = dispatch
        self._clock = clock
        self._queries = store.queries("schedule")
        self._runs = store.queries("engine")
        self._names: dict[ProjectId, str] = {}
        self._admitting: dict[ProjectId, bool] = {}
        """Projects of which this process lets runs in just now, and whether it has to look once more after that."""
        self._worker = new_id("worker")
        self.limits = Limits()

    async def ask(self, tx: Tx, project: ProjectId, workflow: str, window: str | None) -> Entrance:
        """Say whether a new run may begin at once; one that may not is to be admitted once it is kept."""
        limit = self.limits.flows.get(workflow, _NONE)
        hours = None if (asked := window or limit.window) is None or Window.parse(asked) is None else asked
        now = self._clock()
        opens_at = self._opens(hours, now)
        if opens_at is not None or limit is not _NONE or await self._limit(project, tx) is not _NONE:
            # Bounds are kept by one who holds the door: this run goes the way of those in line.
            return Entrance(True, hours, opens_at, 0)
        room = await self._room(project, now, tx)
        active = int(room["active"])
        return Entrance(bool(room["line"]) or active >= self._cap(room), hours, None, -min(active, 100))

    async def admit(self, project: ProjectId) -> int:
        """Let in as many of those in line as may begin now, and say how many."""
        limits, limit = self.limits, await self._limit(project)
        async with self._store.transaction() as tx:
            # Where flows are bounded over all projects there is one door for all of them.
            await self._queries.one("door", {"door": "*" if limits.flows else project}, tx)
            now = self._clock()
            room = await self._room(project, now, tx)
            active = int(room["active"])
            free = min(self._cap(room), limit.concurrency or self._cap(room)) - active
            if limit.rate is not None:
                started = await self._queries.one("let_in_lately", {"project": project, "now": now}, tx)
                free = min(free, limit.rate - int(started["started"]) if started else 0)
            flows = await self._flows(tx, now) if limits.flows and free > 0 else {}
            let_in: list[RunId] = []
            while len(let_in) < free:
                # One at a time where flows are bounded: each that is let in may fill its flow.
                number = 1 if flows else free - len(let_in)
                chosen = await self._next(tx, project, flows, now, number)
                if chosen is None:
                    continue
                if not chosen:
                    break
                counted = now if limit.rate is not None or flows else None
                await self._runs.run("let_in", {"ids": [*chosen], "counted": counted}, tx)
                first = active + len(let_in)
                await self._dispatch.defer_all(tx, {run: -min(first + n, 100) for n, run in enumerate(chosen)})
                let_in.extend(chosen)
            return len(let_in)

    async def left(self, project: ProjectId) -> None:
        """Let the next ones in, after a run of a project has ended or was put aside."""
        if self.limits.flows:
            await self.sweep()
            return
        if project in self._admitting:
            # Somebody here is at it: what came free meanwhile is filled once more, together.
            self._admitting[project] = True
            return
        self._admitting[project] = True
        try:
            while self._admitting[project]:
                self._admitting[project] = False
                room = await self._room(project, self._clock())
                # Where all slots are taken, whoever leaves next looks again.
                if room["line"] and int(room["active"]) < self._cap(room):
                    await self.admit(project)
        finally:
            del self._admitting[project]

    async def sweep(self) -> int:
        """Let in of every line what may begin: hours have come, a minute is over, or a worker died in between."""
        return sum([await self.admit(ProjectId(row["project"])) for row in await self._queries.all("lines")])

    async def look(self) -> None:
        """Say that this worker is there, and look after every line; for workers, every few seconds."""
        await self._queries.run("seen", {"worker": self._worker, "slots": self._dispatch.pace.concurrency})
        await self.sweep()

    async def close(self) -> None:
        """Say that this worker is gone."""
        await self._queries.run("left", {"worker": self._worker})

    async def _next(
        self, tx: Tx, project: ProjectId, flows: dict[str, int], now: datetime, number: int
    ) -> list[RunId] | None:
        """Give those next in line; None to ask again, where hours have gone by that some waited for."""
        full = [flow for flow, free in flows.items() if free <= 0]
        row: Row = {"project": project, "full": full, "now": now, "number": number}
        chosen: list[RunId] = []
        for found in await self._runs.all("in_line", row, tx):
            opens_at = self._opens(found["hours"], now)
            if opens_at is not None:
                await self._runs.run("shut", {**row, "hours": found["hours"], "opens_at": opens_at}, tx)
                return chosen or None
            flow = str(found["workflow"]).partition("/")[0]
            if flow in flows:
                flows[flow] -= 1
            chosen.append(RunId(found["id"]))
        return chosen

    async def _room(self, project: ProjectId, now: datetime, tx: Tx | None = None) -> Row:
        row = {"project": project, "now": now, "stall_s": self._dispatch.pace.stall_s}
        found = await self._queries.one("room", row, tx)
        assert found is not None
        return found

    def _cap(self, room: Row) -> int:
        return self.limits.cap(int(room["slots"] or self._dispatch.pace.concurrency))

    async def _flows(self, tx: Tx, now: datetime) -> dict[str, int]:
        """Give how many more runs of each bounded flow may be let in."""
        bounded = {
            name: one for name, one in self.limits.flows.items() if one.concurrency is not None or one.rate is not None
        }
        if not bounded:
            return {}
        free: dict[str, int] = {}
        for row in await self._queries.all("flows", {"flows": [*bounded], "now": now}, tx):
            limit = bounded[row["name"]]
            bounds = [] if limit.concurrency is None else [limit.concurrency - int(row["active"])]
            bounds.extend([] if limit.rate is None else [limit.rate - int(row["started"])])
            free[row["name"]] = min(bounds)
        return free

    async def _limit(self, project: ProjectId, tx: Tx | None = None) -> Limit:
        """Find what a project is held to, by its name or its id."""
        projects = self.limits.projects
        if not projects or project in projects:
            return projects.get(project, _NONE)
        name = self._names.get(project)
        if name is None:
            row = await self._queries.one("project", {"project": project}, tx)
            name = self._names[project] = "" if row is None else str(row["name"])
        return projects.get(name, _NONE)

    def _opens(self, hours: str | None, now: datetime) -> datetime | None:
        """Say when hours come, or None where they are there."""
        window = None if hours is None else Window.parse(hours)
        return None if window is None or window.open(now) else window.next(now)
