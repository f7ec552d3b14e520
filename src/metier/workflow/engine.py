"""Durable runs of workflows: start, decide, resume, cancel, look, and work until asked to stop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal, TypeAlias

import orjson

from metier.calls import JSON, Principal, RunId, new_id
from metier.errors import Broken, Conflict, Invalid, NotFound
from metier.store import Row, Store, Tx
from metier.vault import Vault
from metier.workflow.commands import ASK_BUDGET, ASK_HUMAN, EntryKind, Failure, Key
from metier.workflow.context import Clock, StepContext, StepFunction, fits, plain, utc
from metier.workflow.definition import Kind, Workflow, accept, to_data
from metier.workflow.dispatch import Chore, Dispatch, Pace
from metier.workflow.interpreter import given
from metier.workflow.journal import CHANNEL, opened, sealed, unsealed
from metier.workflow.segment import Desk, Opening, Segments

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

RunStatus: TypeAlias = Literal["pending", "running", "waiting", "parked", "done", "failed", "cancelled", "dead"]

_OVER = ("done", "failed", "cancelled", "dead")
_PAGE_MAX = 200


@dataclass(frozen=True, slots=True)
class Run:
    """One execution of a workflow, as people look at it."""

    id: RunId
    workflow: str
    definition: str
    """Hash of the definition it is pinned to."""
    status: RunStatus
    outcome: str | None
    """"done", or the status an end step gave; None while it is not done."""
    key_id: str
    project: str
    system: str
    dedupe: str | None
    parked_on: str | None
    wake_at: datetime | None
    cost_eur: Decimal
    failure: Failure | None
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None

    @property
    def over(self) -> bool:
        """Whether it goes no further by itself."""
        return self.status in _OVER


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One line of the journal, as people look at it."""

    path: str
    attempt: int
    name: str
    kind: EntryKind
    value: JSON
    given: dict[str, JSON] | None
    """What the step was given, where it ended with a result."""
    cost_eur: Decimal
    calls: int
    started_at: datetime | None
    ended_at: datetime


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a run: a change of status, or a line of its journal."""

    run: RunId
    status: RunStatus | None = None
    path: str = ""
    attempt: int = 0
    name: str = ""
    kind: EntryKind | None = None


class Engine:
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
        self._store = store
        self._vault = vault
        self._queries = store.queries("engine")
        self._desk = desk
        self._dispatch = Dispatch(store, pace)
        self._segments = Segments(store, vault, self._dispatch, steps, desk, clock=clock, max_strikes=max_strikes)
        self._journal = self._segments.journal

    async def start(
        self, workflow: Workflow, inputs: Mapping[str, JSON], principal: Principal, *, dedupe: str | None = None
    ) -> RunId:
        """Start a run, pinned to this definition; the same `dedupe` gives the run it has already started."""
        clear = accept(workflow, plain(dict(inputs)))
        run = RunId(new_id("run"))
        rights: dict[str, JSON] = {
            "name": principal.name,
            "groups": [*sorted(principal.groups)],
            "organisation": principal.organisation,
            "models": None if principal.models is None else [*sorted(principal.models)],
        }
        row = {
            "id": run,
            "workflow": workflow.name,
            "definition": workflow.hash,
            "key_id": principal.key_id,
            "project": principal.project,
            "system": principal.system,
            "rights": sealed(self._vault, run, "rights", rights),
            "dedupe": dedupe,
            "inputs": sealed(self._vault, run, "inputs", clear),
        }
        async with self._store.transaction() as tx:
            await self._pin(tx, workflow)
            if await self._queries.one("create", row, tx) is not None:
                await self._dispatch.defer(tx, run)
                return run
            cause = {"project": principal.project, "workflow": workflow.name, "dedupe": dedupe}
            known = await self._queries.one("by_dedupe", cause, tx)
        if known is None:
            raise Broken(f"run {run!r} of {workflow.name!r} was neither made nor found under {dedupe!r}")
        return RunId(known["id"])

    async def signal(self, tx: Tx, run: RunId, key: Key, value: JSON) -> None:
        """Record a decision a parked run waits for, and make the run go on, in the transaction given."""
        row = await self._queries.one("lock", {"id": run}, tx)
        if row is None:
            raise NotFound(f"no run {run!r}: it may have been erased")
        if row["status"] != "parked":
            raise Conflict(f"run {run!r} is {row['status']!r} and waits for no decision: look at it again")
        await self._journal.decide(tx, run, key, value)
        await self._queries.run("revive", {"id": run}, tx)
        await self._dispatch.defer(tx, run)

    async def resume(self, run: RunId) -> None:
        """Let a failed run try its failed step once more, and a dead one go on where it stopped."""
        async with self._store.transaction() as tx:
            if not await self.retry(tx, run):
                found = await self.get(run)
                raise Conflict(f"run {run!r} is {found.status!r}: only failed or dead runs are resumed")

    async def retry(self, tx: Tx, run: RunId, path: str | None = None, told: Mapping[str, JSON] | None = None) -> bool:
        """Resume a run in the transaction given if it failed, at `path` where one is given, or is dead."""
        row = await self._queries.one("lock", {"id": run}, tx)
        if row is None:
            raise NotFound(f"no run {run!r}: list the runs to find its id")
        failure = self._failure(run, row["error"])
        failed = row["status"] == "failed" and path in (None, failure.path if failure else None)
        if not failed and row["status"] != "dead":
            return False
        if failure is not None and failure.path:
            broke = failure.code == "run_budget_exceeded"
            key = (failure.path, failure.attempt, ASK_BUDGET if broke else ASK_HUMAN)
            decision: JSON = {"decision": "continue" if broke else "retry", **(told or {})}
            await self._journal.decide(tx, run, key, decision, replace=True)
        await self._queries.run("revive", {"id": run}, tx)
        await self._dispatch.defer(tx, run)
        return True

    async def cancel(self, run: RunId) -> None:
        """End a run whatever it does; the step in progress is interrupted and can write nothing more."""
        async with self._store.transaction() as tx:
            if not await self._queries.run("cancel", {"id": run}, tx):
                found = await self._queries.one("get", {"id": run}, tx)
                if found is None:
                    raise NotFound(f"no run {run!r}: list the runs to find its id")
                raise Conflict(f"run {run!r} is already {found['status']!r}: there is nothing to cancel")
            await self._dispatch.abort(tx, run)
            if self._desk is not None:
                await self._desk.close(tx, run)

    async def get(self, run: RunId) -> Run:
        """Give a run without its contents."""
        row = await self._queries.one("get", {"id": run})
        if row is None:
            raise NotFound(f"no run {run!r}: list the runs to find its id")
        return self._run(row)

    async def list(
        self,
        *,
        workflow: str | None = None,
        project: str | None = None,
        status: RunStatus | None = None,
        before: RunId | None = None,
        limit: int = 50,
    ) -> tuple[Run, ...]:
        """Give one page of runs, newest first; the last one's id is the `before` of the next page."""
        if not 1 <= limit <= _PAGE_MAX:
            raise Invalid(f"cannot list {limit!r} runs: ask for 1 to {_PAGE_MAX}", param="limit")
        filters = {"workflow": workflow, "project": project, "status": status, "before": before, "limit": limit}
        return tuple(self._run(row) for row in await self._queries.all("page", filters))

    async def steps(self, run: RunId) -> tuple[StepRecord, ...]:
        """Give the journal of a run in order, with what each step was given; traces are left out."""
        row = await self._contents(run)
        inputs = opened(self._vault, run, "inputs", row["inputs"])
        entries = await self._journal.load(run)
        workflow = await self._segments.definition(row["definition"])
        shown = given(workflow, inputs, entries, {"id": run})
        return tuple(
            StepRecord(
                path=entry.path,
                attempt=entry.attempt,
                name=entry.name,
                kind=entry.kind,
                value=_untraced(entry.kind, entry.value),
                given=shown.get(entry.path) if entry.kind == "result" else None,
                cost_eur=entry.cost_eur,
                calls=entry.calls,
                started_at=entry.started_at,
                ended_at=entry.at,
            )
            for entry in entries.values()
        )

    async def inputs(self, run: RunId) -> dict[str, JSON]:
        """Give what a run was started with."""
        return opened(self._vault, run, "inputs", (await self._contents(run))["inputs"])

    async def result(self, run: RunId) -> JSON:
        """Give the output of a run that is done, or raise Conflict saying where it stands."""
        row = await self._contents(run)
        if row["output"] is None:
            found = await self.get(run)
            why = f": {found.failure.message}" if found.failure else ""
            raise Conflict(f"run {run!r} has no output, it is {found.status!r}{why}")
        return unsealed(self._vault, run, "output", row["output"])

    async def definition(self, run: RunId) -> Workflow:
        """Give the definition a run is pinned to."""
        return await self._segments.definition((await self._contents(run))["definition"])

    async def recover(self) -> int:
        """Make the runs of dead workers due again, and say how many; any worker may do it at any time."""
        found = 0
        for stalled in await self._dispatch.stalled():
            async with self._store.transaction() as tx:
                if await self._dispatch.drop(tx, stalled):
                    await self._dispatch.defer(tx, stalled.run)
                    found += 1
        for run in await self._dispatch.idle():
            async with self._store.transaction() as tx:
                await self._queries.one("lock", {"id": run}, tx)
                await self._dispatch.defer(tx, run)
                found += 1
        return found

    async def work(self, stop: asyncio.Event, beside: Sequence[Chore] = ()) -> None:
        """Move runs until asked to stop, doing chores beside; steps in progress then get a while to end."""
        await self._dispatch.work(self._segments.run, stop, [self.recover, *beside])

    async def drain(self) -> None:
        """Move everything that can move now, then return; for the foreground and for tests."""
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
                    if event.status in _OVER:
                        return

    async def _pin(self, tx: Tx, workflow: Workflow) -> None:
        data = orjson.dumps(to_data(workflow)).decode()
        await self._queries.run("pin", {"hash": workflow.hash, "name": workflow.name, "data": data}, tx)

    async def _contents(self, run: RunId) -> Row:
        row = await self._queries.one("contents", {"id": run})
        if row is None:
            raise NotFound(f"no run {run!r}: list the runs to find its id")
        return row

    def _failure(self, run: RunId, error: bytes | None) -> Failure | None:
        if error is None:
            return None
        told: dict[str, Any] = opened(self._vault, run, "error", error)
        return Failure(**told)

    def _run(self, row: Row) -> Run:
        fields = {key: value for key, value in row.items() if key not in ("error", "strikes")}
        return Run(**fields, failure=self._failure(RunId(row["id"]), row["error"]))


async def _events(run: RunId, payloads: AsyncIterator[str]) -> AsyncGenerator[Event, None]:
    async for payload in payloads:
        told: dict[str, Any] = orjson.loads(payload)
        if told["run"] == run:
            yield Event(**told)


def _untraced(kind: EntryKind, value: JSON) -> JSON:
    if kind == "error" and isinstance(value, dict):
        return {key: part for key, part in value.items() if key != "trace"}
    return value
