"""Looking at runs: their state, their journal with what each step was given, what they came to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from metier.calls import JSON, RunId
from metier.errors import Conflict, Invalid, NotFound
from metier.store import Row, Store
from metier.vault import Vault
from metier.workflow.children import bounded
from metier.workflow.commands import Entry, EntryKind, Failure, Finish
from metier.workflow.definition import Workflow
from metier.workflow.interpreter import Walk
from metier.workflow.journal import opened, unpack, unsealed
from metier.workflow.port import Run, RunStatus, StepRecord
from metier.workflow.replay import Replayed, replay
from metier.workflow.segment import Segments

__all__ = ["Chosen", "Looking", "records"]

_PAGE_MAX = 200
_PAGES_MAX = 100
"""Of a search: what is older than that many runs is not found."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which runs are meant; what is None does not matter."""

    workflow: str | None = None
    project: str | None = None
    statuses: tuple[RunStatus, ...] = ()
    """Any of them; none means every status."""
    code: str | None = None
    """Of the failure; it is sealed, so that runs are opened one by one to find it."""
    since: datetime | None = None
    """When they were started."""
    until: datetime | None = None
    before: RunId | None = None
    """Only runs older than this one: the last of the page before."""
    children: bool = False
    """Runs that others have started as their steps are among them."""
    stuck: bool = False
    """Not those below a run that is done or cancelled: it went on without them, and nobody resumes them."""
    limit: int = 100


class Looking:
    """The side of the engine that only reads."""

    def __init__(self, store: Store, vault: Vault, segments: Segments) -> None:
        self._store = store
        self._vault = vault
        self._queries = store.queries("engine")
        self._segments = segments
        self._journal = segments.journal

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

    async def search(self, chosen: Chosen) -> tuple[Run, ...]:
        """Give the runs that are as chosen, newest first; those of other runs only where that says so."""
        found: list[Run] = []
        before = chosen.before
        for _ in range(_PAGES_MAX):
            filters = {
                "workflow": chosen.workflow,
                "project": chosen.project,
                "statuses": list(chosen.statuses) or None,
                "since": chosen.since,
                "until": chosen.until,
                "before": before,
                "children": chosen.children,
                "stuck": chosen.stuck,
                "limit": _PAGE_MAX,
            }
            page = [self._run(row) for row in await self._queries.all("search", filters)]
            for run in page:
                if chosen.code is None or (run.failure is not None and run.failure.code == chosen.code):
                    found.append(run)
                if len(found) == chosen.limit:
                    return tuple(found)
            if len(page) < _PAGE_MAX:
                break
            before = page[-1].id
        return tuple(found)

    async def below(self, run: RunId, limit: int = 1_000) -> tuple[Run, ...]:
        """Give the runs a run has started as its steps, and those they have started, the oldest first."""
        return tuple(self._run(row) for row in await self._queries.all("below", {"id": run, "most": limit}))

    async def steps(self, run: RunId) -> tuple[StepRecord, ...]:
        """Give the journal of a run in order, with what each step was given; traces are left out."""
        row = await self._contents(run)
        inputs = opened(self._vault, run, "inputs", row["inputs"])
        entries = await self._journal.load(run)
        workflow = await self._segments.definition(row["definition"])
        shown = Walk(workflow, inputs, dict(entries), {"id": run}, around=self._around(row)).shown()
        return records(entries.values(), shown)

    async def replay(self, run: RunId) -> Replayed:
        """Go through the journal of a run again, without a call, and say where the interpreter disagrees with it."""
        row, found = await self._contents(run), await self.get(run)
        ended = None
        if found.status in ("done", "failed"):
            output = None if row["output"] is None else unsealed(self._vault, run, "output", row["output"])
            ended = Finish(output, found.outcome or "done", found.failure)
        return replay(
            bounded(await self._segments.definition(row["definition"]), row["allowance_eur"]),
            opened(self._vault, run, "inputs", row["inputs"]),
            (await self._journal.load(run)).values(),
            {"id": run},
            around=self._around(row),
            ended=ended,
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

    async def _contents(self, run: RunId) -> Row:
        row = await self._queries.one("contents", {"id": run})
        if row is None:
            raise NotFound(f"no run {run!r}: list the runs to find its id")
        return row

    def _around(self, row: Row) -> dict[str, JSON] | None:
        """Open what the run of an item saw around it."""
        if row["around_sealed"] is None:
            return None
        around = unpack(self._vault.open("blob", row["around_sealed"], bytes(row["around"]).hex()))
        return around if isinstance(around, dict) else None

    def _failure(self, run: RunId, error: bytes | None) -> Failure | None:
        if error is None:
            return None
        told: dict[str, Any] = opened(self._vault, run, "error", error)
        return Failure(**told)

    def _run(self, row: Row) -> Run:
        fields = {key: value for key, value in row.items() if key not in ("error", "strikes")}
        return Run(**fields, failure=self._failure(RunId(row["id"]), row["error"]))


def records(lines: Iterable[Entry], shown: Mapping[str, dict[str, JSON]]) -> tuple[StepRecord, ...]:
    """Make the lines of a journal what people look at, with what each step was given."""
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
        for entry in lines
    )


def _untraced(kind: EntryKind, value: JSON) -> JSON:
    if kind == "error" and isinstance(value, dict):
        return {key: part for key, part in value.items() if key != "trace"}
    return value
