"""Durable runs of workflows: start, decide, resume, cancel, look, and work until asked to stop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import Any

import orjson
import psycopg

from metier.calls import JSON, Principal, ProjectId, RunId, new_id
from metier.errors import Broken, Conflict, MetierError, NotFound
from metier.store import Row, Store, Tx
from metier.vault import Vault
from metier.workflow.children import Flows, pin, rights_of
from metier.workflow.commands import Failure, Finish, Key
from metier.workflow.context import Clock, StepContext, StepFunction, fits, plain, utc
from metier.workflow.definition import Kind, Workflow, accept
from metier.workflow.dispatch import Chore, Dispatch, Pace
from metier.workflow.door import Door
from metier.workflow.events import Heard
from metier.workflow.ground import Purse
from metier.workflow.journal import CHANNEL, Line, sealed
from metier.workflow.limits import Limits
from metier.workflow.looking import Looking
from metier.workflow.people_found import people_in
from metier.workflow.port import OVER, Event, Run, RunStatus, StepRecord
from metier.workflow.reviving import failed_for, once_more
from metier.workflow.segment import Desk, Opening, Segments
from metier.workflow.settled import persistently

__all__ = [
    "Desk",
    "Engine",
    "Event",
    "Opening",
    "Run",
    "RunStatus",
    "StepContext",
    "StepFunction",
    "StepRecord",
    "fits",
]


class Engine(Looking):
    """The port through which everything else starts and steers runs; it knows no model and no connector."""

    def __init__(
        self,
        store: Store,
        vault: Vault,
        steps: Mapping[Kind, StepFunction],
        *,
        desk: Desk | None = None,
        pace: Pace | None = None,
        clock: Clock = utc,
        max_strikes: int = 5,
    ) -> None:
        self._desk = desk
        self._dispatch = Dispatch(store, pace)
        segments = Segments(store, vault, self._dispatch, steps, desk, clock=clock, max_strikes=max_strikes)
        super().__init__(store, vault, segments)
        self._door = segments.door
        self._pinned: set[str] = set()
        """Definitions known to be in the database, which keeps them for good."""

    @property
    def door(self) -> Door:
        """Where runs wait until they may begin."""
        return self._door

    async def start(
        self,
        workflow: Workflow,
        inputs: Mapping[str, JSON],
        principal: Principal,
        *,
        dedupe: str | None = None,
        priority: int = 0,
        window: str | None = None,
    ) -> RunId:
        """Start a run, pinned to this definition; the same `dedupe` gives the run it has already started.

        It waits in line where its project holds its share of the workers, or outside of the hours of `window`.
        """
        clear = accept(workflow, plain(dict(inputs)))
        run = RunId(new_id("run"))
        row: Row = {
            "id": run,
            "workflow": workflow.name,
            "definition": workflow.hash,
            "key_id": principal.key_id,
            "project": principal.project,
            "system": principal.system,
            "rights": sealed(self._vault, run, "rights", rights_of(principal), principal.organisation),
            "dedupe": dedupe,
            "inputs": sealed(self._vault, run, "inputs", clear, principal.organisation),
            "priority": priority,
        }
        people = people_in(self._vault, principal.organisation, clear, whole=True)
        pinned = workflow.hash in self._pinned
        async with self._store.connection() as tx:
            entrance = await self._door.ask(tx, principal.project, workflow.name, window)
            row |= {
                "status": "queued" if entrance.queued else "pending",
                "hours": entrance.hours,
                "asked_hours": window,
                "opens_at": entrance.opens_at,
            }
            # A run in line is one row: nothing else has to be true together with it.
            alone = entrance.queued and pinned and not people
            async with contextlib.nullcontext() if alone else tx.transaction():
                if not pinned:
                    await pin(self._queries.run, tx, workflow)
                made = await self._queries.one("create", row, tx) is not None
                if made and people:
                    await self._queries.run("add_people", {"run": run, "people": sorted(people)}, tx)
                if made and not entrance.queued:
                    await self._dispatch.defer(tx, run, rank=entrance.rank, first=True)
            cause = {"project": principal.project, "workflow": workflow.name, "dedupe": dedupe}
            known = None if made else await self._queries.one("by_dedupe", cause, tx)
        self._pinned.add(workflow.hash)
        if made:
            if entrance.queued:
                await self._door.left(principal.project)
            return run
        if known is None:
            raise Broken(f"run {run!r} of {workflow.name!r} was neither made nor found under {dedupe!r}")
        return RunId(known["id"])

    async def emit(self, tx: Tx | None, project: ProjectId, event: str, key: str, data: JSON, *, id: str) -> bool:
        """Tell an event to the runs that wait for it, once for each id; say whether it was the first time."""
        if tx is not None:
            return await self._segments.events.emit(tx, project, event, key, plain(data), id=id)
        async with self._store.transaction() as own:
            return await self._segments.events.emit(own, project, event, key, plain(data), id=id)

    def wire(self, *, flows: Flows | None = None, heard: Heard | None = None) -> None:
        """Hand in what is built after the engine: where released flows are, and who starts flows by events."""
        self._segments.children.flows = flows or self._segments.children.flows
        self._segments.events.heard = heard or self._segments.events.heard

    async def signal(self, tx: Tx, run: RunId, key: Key, value: JSON) -> None:
        """Record a decision a run waits for, and make the run go on, in the transaction given."""
        row = await self._queries.one("lock", {"id": run}, tx)
        if row is None:
            raise NotFound(f"no run {run!r}: it may have been erased")
        path, attempt, name = key
        place = {"run": run, "path": path, "attempt": attempt, "name": name}
        line = Line(path, attempt, "decision", value, utc(), name=name)
        if (
            row["status"] in OVER
            or await self._queries.one("settle", place, tx) is None
            or not await self._segments.events.tell(tx, run, line)
        ):
            raise Conflict(f"run {run!r} is {row['status']!r} and does not wait for this decision: look at it again")

    async def resume(self, run: RunId) -> None:
        """Let a failed run try its failed step once more, and a dead one go on where it stopped."""
        async with self._store.transaction() as tx:
            if not await self.retry(tx, run):
                found = await self.get(run)
                raise Conflict(f"run {run!r} is {found.status!r}: only failed or dead runs are resumed")

    async def retry(self, tx: Tx, run: RunId, path: str | None = None, told: Mapping[str, JSON] | None = None) -> bool:
        """Resume a run in the transaction given if it failed, at `path` where one is given, or is dead.

        One that failed below another goes on with that one, which is resumed if it has failed for this reason.
        """
        row = await self._queries.one("lock", {"id": run}, tx)
        if row is None:
            raise NotFound(f"no run {run!r}: list the runs to find its id")
        failure = self._failure(run, row["error"])
        failed = row["status"] == "failed" and path in (None, failure.path if failure else None)
        if not failed and row["status"] != "dead":
            return False
        below = row["parent"] is not None
        if not below:
            await self._queries.run("revive", {"id": run}, tx)
        elif not await self._above(tx, row):
            return False
        if failure is not None and failure.path:
            entries, spent = {}, True
            if failure.code == "run_budget_exceeded":
                entries, budget = await self._journal.load(run), (await self.definition(run)).budget
                spent = Purse(budget, entries.values()).empty
            for key, decision in once_more(failure, entries, spent=spent, told=told):
                line = Line(key[0], key[1], "decision", decision, utc(), name=key[2])
                if not await self._journal.tell(tx, run, line, replace=True):
                    raise Conflict(f"{key[0]!r} of run {run!r} was decided in the meantime: look at it again")
        if not below:
            await self._segments.children.reviving.below(tx, [run])
            await self._dispatch.defer(tx, run)
        return True

    async def _above(self, tx: Tx, below: Row) -> bool:
        """Resume the run that failed because one below it did; it takes that one up."""
        above = RunId(below["parent"])
        row = await self._queries.one("lock", {"id": above}, tx)
        failure = None if row is None else self._failure(above, row["error"])
        if failure is None or not failed_for(failure, below["parent_path"], below["parent_attempt"], below["item"]):
            return False
        return await self.retry(tx, above, failure.path)

    async def above(self, tx: Tx, run: RunId) -> tuple[RunId, str] | None:
        """Say which step of which other run a failed one was started by."""
        row = await self._queries.one("lock", {"id": run}, tx)
        if row is None or row["parent"] is None or row["status"] not in ("failed", "dead"):
            return None
        return RunId(row["parent"]), str(row["parent_path"])

    async def cancel(self, run: RunId) -> None:
        """End a run whatever it does; the step in progress is interrupted and can write nothing more."""

        async def end(tx: Tx) -> ProjectId:
            await self._queries.all("lock_below", {"id": run}, tx)
            family = await self._queries.one("cancel", {"id": run}, tx)
            if family is None:
                found = await self._queries.one("get", {"id": run}, tx)
                if found is None:
                    raise NotFound(f"no run {run!r}: list the runs to find its id")
                raise Conflict(f"run {run!r} is already {found['status']!r}: there is nothing to cancel")
            await self._dispatch.abort(tx, run)
            await self._queries.run("forget_waits", {"run": run}, tx)
            if self._desk is not None:
                await self._desk.close(tx, run)
            await self._segments.children.cancel(tx, run, None if self._desk is None else self._desk.close)
            over = Finish(failure=Failure("cancelled", "it was cancelled"))
            cost = await self._segments.children.counted(tx, run)
            await self._segments.children.ended(tx, run, family, over, cost)
            return ProjectId(family["project"])

        await self._door.left(await persistently(self._store, end))

    async def recover(self) -> int:
        """Make the runs of dead workers due again, and say how many; any worker may do it at any time."""
        found = 0
        for stalled in await self._dispatch.stalled():
            found += await self._dispatch.revive(stalled)
        for run in await self._dispatch.idle():
            async with self._store.transaction() as tx:
                await self._dispatch.hold(tx, run)
                if await self._dispatch.still_idle(tx, run):
                    await self._dispatch.defer(tx, run)
                    found += 1
        await self._dispatch.rerank()
        return found

    def limit(self, limits: Limits) -> None:
        """Bound from now on how many runs begin, where and when."""
        self._door.limits = limits

    async def work(self, stop: asyncio.Event, beside: Sequence[Chore] = ()) -> None:
        """Move runs until asked to stop, doing chores beside; steps in progress then get a while to end."""
        self._segments.stopping = stop
        try:
            await self._dispatch.work(self._segments.run, stop, [self._door.look, self.recover, *beside])
        finally:
            self._segments.stopping = None
            with contextlib.suppress(MetierError, psycopg.Error):
                await self._door.close()

    async def drain(self) -> None:
        """Move everything that can move now, then return; for the foreground and for tests."""
        await self._door.sweep()
        await self._dispatch.drain(self._segments.run)

    async def follow(self, run: RunId) -> AsyncGenerator[Event, None]:
        """Tell what happens to a run, from its beginning until it is over; close it with `aclosing`."""
        told: set[tuple[str, int, str, str]] = set()
        async with self._store.listen(CHANNEL) as payloads:
            for step in await self.steps(run):
                told.add((step.path, step.attempt, step.name, step.kind))
                yield Event(run, path=step.path, attempt=step.attempt, name=step.name, kind=step.kind)
            now = await self.get(run)
            yield Event(run, status=now.status)
            if now.over:
                return
            async with contextlib.aclosing(_events(run, payloads)) as events:
                async for event in events:
                    if event.kind is not None:
                        if (key := (event.path, event.attempt, event.name, event.kind)) in told:
                            continue
                        told.add(key)
                    yield event
                    if event.status in OVER:
                        return


async def _events(run: RunId, payloads: AsyncIterator[str]) -> AsyncGenerator[Event, None]:
    async for payload in payloads:
        told: dict[str, Any] = orjson.loads(payload)
        if told["run"] == run:
            yield Event(**told)
