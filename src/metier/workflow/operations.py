"""What people do to runs: make them stand still and go on, do them again from a step, fork them, look back in time."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Coroutine, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, Protocol, TypeAlias

from metier.calls import JSON, ProjectId, RunId, new_id
from metier.errors import Conflict, NotFound
from metier.store import Row, Store, Tx
from metier.vault import Vault
from metier.workflow.children import pin
from metier.workflow.commands import GATHERED, MARKS, Entry
from metier.workflow.context import plain, utc
from metier.workflow.cutting import Cut, cut, reused
from metier.workflow.definition import Workflow, accept
from metier.workflow.dispatch import Dispatch, Pace
from metier.workflow.engine import Engine, Run
from metier.workflow.interpreter import Walk
from metier.workflow.journal import Journal, Line, opened, sealed
from metier.workflow.limits import Limits
from metier.workflow.reviving import Reviving
from metier.workflow.run_people import RunPeople
from metier.workflow.run_retention import ExpiredRuns, RunRetention, RunRules
from metier.workflow.settled import persistently
from metier.workflow.spent_aside import began_at, spent_below, told_by

__all__ = ["Difference", "Moment", "Moving", "Operations", "RunRules", "Tasks"]

Moving: TypeAlias = Literal["pause", "unpause", "cancel", "resume"]

_NOTHING = Decimal(0)
_MOST_CHANGES = 5
_STILL = ("parked", "waiting", "paused", "done", "failed", "dead", "cancelled")
"""Where no worker does anything for a run."""


class Tasks(Protocol):
    """Where tasks are, so far as looking after runs needs it."""

    async def close(self, tx: Tx, run: RunId) -> None:
        """Cancel the open tasks of a run that is over."""

    async def set_aside(self, tx: Tx, run: RunId, kept: Collection[str], mark: str) -> None:
        """Cancel the open tasks of a run at all but some paths, and mark the paths of those."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A run as it stood after some line of its journal."""

    line: int
    """Lines it had by then."""
    lines: int
    """Lines it has now."""
    last: Entry | None
    """The line it had just got."""
    values: Mapping[str, JSON]
    """What each step had given, by path."""
    next: tuple[str, ...]
    """What it did next, by path."""
    cost_eur: float


@dataclass(frozen=True, slots=True)
class Difference:
    """A path at which two runs do not stand the same."""

    path: str
    here: JSON
    there: JSON
    here_kind: str
    """Kind of the last line; empty where the run was never there."""
    there_kind: str


class Operations:
    """Looks after runs for people; beside the engine, on its tables."""

    def __init__(
        self,
        store: Store,
        vault: Vault,
        engine: Engine,
        tasks: Tasks | None,
        pace: Pace | None = None,
    ) -> None:
        self._store = store
        self._vault = vault
        self._engine = engine
        self._tasks = tasks
        self._dispatch = Dispatch(store, pace)
        self._journal = Journal(store, vault)
        self._reviving = Reviving(store, vault, self._dispatch, self._journal)
        self._queries = store.queries("engine")
        self.people = RunPeople(store, vault, engine)
        self.retention = RunRetention(store, vault)

    def read(self, config: Mapping[str, Any]) -> Callable[[], None]:
        """Read the sections `workflows` and `runs` of a configuration, or refuse them; give what puts them in force."""
        limits, rules = Limits.from_yaml(config.get("workflows")), RunRules.from_yaml(config.get("runs"))

        def use() -> None:
            self._engine.limit(limits)
            self.retention.rules = rules

        return use

    def keep(self) -> Coroutine[Any, Any, None]:
        """Note who is in runs that have ended, and delete what is old enough, for ever."""
        return self.retention.run(self.people.look)

    async def pause(self, run: RunId) -> int:
        """Make a run and those below it stand still at their next boundary; say how many that is.

        What is under way ends and is kept; no answer that was paid for is lost.
        """

        async def work(tx: Tx) -> int:
            await self._queries.all("lock_below", {"id": run}, tx)
            return len(await self._queries.all("pause", {"id": run}, tx))

        found = await persistently(self._store, work)
        if not found:
            now = await self._engine.get(run)
            raise Conflict(f"run {run!r} is {now.status!r}: only runs that are under way or wait can be paused")
        return found

    async def unpause(self, run: RunId) -> int:
        """Let a run and those below it go on where they stood still; say how many that is."""

        async def work(tx: Tx) -> int:
            await self._queries.all("lock_below", {"id": run}, tx)
            return await self._wake(tx, run)

        found = await persistently(self._store, work)
        if not found:
            now = await self._engine.get(run)
            why = "not paused: there is nothing to unpause"
            if now.paused_at is not None and not now.over:
                why = f"paused with {now.parent!r}, which started it: unpause that one"
            raise Conflict(f"run {run!r} is {now.status!r}, and {why}")
        return found

    async def resume(self, run: RunId) -> None:
        """Let a failed or dead run go on; what failed below another run goes on with that one, which has counted it."""
        _refuse_counted(await self._engine.get(run))
        await self._engine.resume(run)

    async def retry(self, run: RunId, path: str, by: str, *, dry_run: bool = False) -> Cut:
        """Do a run again from a step; what came before holds, and what is set aside stays to be seen."""
        if dry_run:
            return await self._cut(run, path)

        async def work(tx: Tx, seen: Row | None, found: Cut) -> bool:
            await self._queries.all("lock_below", {"id": run}, tx)
            row = await self._queries.one("lock", {"id": run}, tx)
            _refuse_moving(run, row, path)
            if row is None or await self._queries.one("stamp", {"id": run}, tx) != seen:
                return False
            await self._set_aside(tx, run, path, by, found)
            if row["status"] == "paused":
                await self._wake(tx, run)
            return True

        for _ in range(_MOST_CHANGES):
            # Found out before the transaction: many at once would hold all connections, and each wait for another one.
            seen = await self._queries.one("stamp", {"id": run})
            _refuse_moving(run, seen, path)
            found = await self._cut(run, path)
            if await persistently(self._store, functools.partial(work, seen=seen, found=found)):
                return found
        raise Conflict(f"run {run!r} was changed again and again meanwhile: pause it, then do it again from {path!r}")

    async def reuse(self, run: RunId, workflow: Workflow, *, afresh: bool = False) -> Cut:
        """Say what of a run would hold for another definition, without doing anything; afresh, nothing would."""
        row = await self._parts(run)
        entries = {} if afresh else await self._journal.load(run)
        inputs = accept(workflow, plain(opened(self._vault, run, "inputs", row["inputs"])))
        return reused(await self._engine.definition(run), workflow, inputs, entries, {"id": run})

    async def fork(
        self,
        run: RunId,
        workflow: Workflow,
        *,
        afresh: bool = False,
        dedupe: str | None = None,
        window: str | None = None,
    ) -> tuple[RunId, Cut]:
        """Start another run with the inputs and the rights of one, and the lines of it that still hold.

        With `afresh` none of them is taken over; the same `dedupe` gives the run it has already made. It begins in the
        hours that one was asked for with, unless `window` names others.
        """
        row, made = await self._parts(run), RunId(new_id("run"))
        found = await self.reuse(run, workflow, afresh=afresh)
        inputs = accept(workflow, plain(opened(self._vault, run, "inputs", row["inputs"])))
        rights, whose = opened(self._vault, run, "rights", row["rights"]), self._vault.workspace(row["rights"])
        params: Row = {
            "id": made,
            "from": run,
            "workflow": workflow.name,
            "definition": workflow.hash,
            "dedupe": dedupe,
            "rights": sealed(self._vault, made, "rights", rights, whose),
            "inputs": sealed(self._vault, made, "inputs", inputs, whose),
        }
        project, door, asked = ProjectId(row["project"]), self._engine.door, window or row["asked_hours"]
        async with self._store.transaction() as tx:
            await pin(self._queries.run, tx, workflow)
            entrance = await door.ask(tx, project, workflow.name, asked)
            params |= {
                "status": "queued" if entrance.queued else "pending",
                "hours": entrance.hours,
                "asked_hours": asked,
                "opens_at": entrance.opens_at,
            }
            if await self._queries.one("fork", params, tx) is None:
                cause = {"project": row["project"], "workflow": workflow.name, "dedupe": dedupe}
                known = await self._queries.one("by_dedupe", cause, tx)
                if known is None:
                    raise NotFound(f"no run {run!r}: it may have been erased")
                return RunId(known["id"]), found
            origin: JSON = {"forked_from": run, "lines": len(found.kept), "definition": workflow.hash}
            first = Entry(f"{MARKS}fork", 1, "", "choice", origin, utc())
            await self._journal.graft(tx, made, [first, *found.kept])
            await self._queries.run("copy_people", {"run": made, "from": run}, tx)
            if not entrance.queued:
                await self._dispatch.defer(tx, made, rank=entrance.rank)
        if entrance.queued:
            await door.left(project)
        return made, found

    async def at(self, run: RunId, line: int | None = None) -> Moment:
        """Give the values of every step as they stood after a line of the journal; None is the last one."""
        row = await self._queries.one("sealed_parts", {"id": run})
        if row is None:
            raise NotFound(f"no run {run!r}: list the runs to find its id")
        entries = [*(await self._journal.load(run)).values()]
        number = len(entries) if line is None else line
        if not 0 <= number <= len(entries):
            raise NotFound(f"run {run!r} has {len(entries)} lines, and so no state after line {line}")
        then = entries[:number]
        seen = {entry.key: entry for entry in then}
        parent = row["parent"] is not None
        workflow, inputs = await self._engine.definition(run), opened(self._vault, run, "inputs", row["inputs"])
        walk = None if parent else Walk(workflow, inputs, seen, {"id": run})
        coming = () if walk is None else walk.frontier()
        return Moment(
            line=number,
            lines=len(entries),
            last=then[-1] if then else None,
            values=_values(then),
            next=tuple(path for command in coming if (path := str(getattr(command, "path", "")))),
            cost_eur=float(sum(entry.cost_eur for entry in then if entry.name in ("", GATHERED))),
        )

    async def differences(self, here: RunId, there: RunId) -> tuple[Difference, ...]:
        """Compare what the steps of two runs have given, path by path, in the order of the first."""
        one, other = await self._last(here), await self._last(there)
        found = []
        for path in dict.fromkeys((*one, *other)):
            mine, theirs = one.get(path), other.get(path)
            if mine is None or theirs is None or (mine.kind, mine.value) != (theirs.kind, theirs.value):
                kinds = [entry.kind if entry is not None else "" for entry in (mine, theirs)]
                values = [entry.value if entry is not None else None for entry in (mine, theirs)]
                found.append(Difference(path, values[0], values[1], kinds[0], kinds[1]))
        return tuple(found)

    async def lines(self, run: RunId) -> tuple[Entry, ...]:
        """Give the journal of a run as the engine reads it."""
        return tuple((await self._journal.load(run)).values())

    async def touched(self, run: RunId, what: Moving) -> tuple[Run, ...]:
        """Say which runs would be paused, unpaused, cancelled or resumed, without doing it; Conflict where none is."""
        family = (await self._engine.get(run), *await self._engine.below(run))
        if what == "resume":
            _refuse_counted(family[0])
            found = [one for one in family[:1] if one.status in ("failed", "dead")]
        elif what == "unpause":
            above = family[0].parent and (await self._engine.get(family[0].parent)).paused_at
            found = [] if above else [one for one in family if one.paused_at is not None and not one.over]
        elif what == "cancel":
            top = family[0]
            # The engine ends these too, which could still be resumed; a run above has counted what failed below it.
            ends = not top.over or (top.status in ("failed", "dead") and top.parent is None)
            found = [top, *(one for one in family[1:] if not one.over)] if ends else []
        else:
            found = [one for one in family if one.paused_at is None and not one.over]
            found = [one for one in found if one.status != "queued" or one.id == run]
        if not found:
            raise Conflict(f"run {run!r} is {family[0].status!r}: there is nothing to {what}")
        return tuple(found)

    async def erase_older(self, project: str, days: int, *, dry_run: bool = False) -> tuple[ExpiredRuns, ...]:
        """Delete the runs of one project that have been over for so many days, or say which."""
        await self.people.look()  # a legal hold on a person is found by who is in a run
        return await self.retention.older(project, days, dry_run=dry_run)

    async def history(self, run: RunId) -> tuple[tuple[int, Entry], ...]:
        """Give what was set aside of a run, with the number of the retry that did it."""
        return tuple(await self._journal.aside(run))

    async def _wake(self, tx: Tx, run: RunId) -> int:
        rows = await self._queries.all("unpause", {"id": run}, tx)
        for row in rows:
            if row["status"] == "pending":
                await self._dispatch.hasten(tx, RunId(row["id"]))
        return len(rows)

    async def _last(self, run: RunId) -> dict[str, Entry]:
        await self._engine.get(run)
        entries = (await self._journal.load(run)).values()
        return {e.path: e for e in entries if not e.path.startswith(MARKS) and e.name in ("", GATHERED)}

    async def _parts(self, run: RunId) -> Row:
        row = await self._queries.one("sealed_parts", {"id": run})
        if row is None:
            raise NotFound(f"no run {run!r}: list the runs to find its id")
        if row["parent"] is not None:
            raise Conflict(f"run {run!r} belongs to {row['parent']!r}: do that to the run it belongs to")
        return row

    async def _cut(self, run: RunId, path: str) -> Cut:
        row = await self._parts(run)
        inputs = opened(self._vault, run, "inputs", row["inputs"])
        workflow = await self._engine.definition(run)
        return cut(workflow, inputs, await self._journal.load(run), path, {"id": run})

    async def _set_aside(self, tx: Tx, run: RunId, path: str, by: str, found: Cut) -> None:
        began = began_at(found.aside)
        spent = await spent_below(self._queries, tx, run, began)
        number = await self._journal.set_aside(tx, run, [entry.key for entry in found.aside])
        mark = f" {MARKS}{number}"
        gone = {entry.path for entry in found.aside}
        kept = {one for one in found.reached if one not in gone and one != path}
        for below in await self._queries.all("drop_below", {"run": run, "paths": [*began], "mark": mark}, tx):
            if below["begun"]:
                await self._dispatch.abort(tx, RunId(below["id"]))
                await self._queries.run("forget_waits", {"run": below["id"]}, tx)
                if self._tasks is not None:
                    await self._tasks.close(tx, RunId(below["id"]))
        await self._queries.run("drop_groups", {"run": run, "paths": [*began]}, tx)
        waits = {entry.path for entry in found.kept} | kept
        await self._queries.run("drop_waits", {"run": run, "kept": [*waits]}, tx)
        if self._tasks is not None:
            await self._tasks.set_aside(tx, run, waits, mark)
        await self._queries.run("revive", {"id": run}, tx)
        # What went on beside the step, and ended because the run did, goes on with it.
        await self._reviving.below(tx, [run])
        # What was set aside has cost what it has cost: it stays part of the money of the run.
        cost = spent + told_by(found.aside)
        said: JSON = {"again_from": path, "by": by, "set_aside": len(found.aside)}
        line = Line(f"{MARKS}{number}", 1, "choice", said, utc(), cost_eur=cost)
        await self._journal.tell(tx, run, line)
        await self._dispatch.hasten(tx, run)


def _refuse_moving(run: RunId, row: Row | None, path: str) -> None:
    if row is not None and row["status"] not in _STILL:
        raise Conflict(f"run {run!r} is {row['status']!r}: pause it first, then do it again from {path!r}")


def _refuse_counted(run: Run) -> None:
    """A run that ended below another has told it so: what it came to later on would count twice, or for nothing."""
    if run.status in ("failed", "dead", "cancelled") and run.parent is not None:
        what = "was cancelled" if run.status == "cancelled" else "failed"
        raise Conflict(
            f"run {run.id!r} {what} below {run.parent!r}, which counted it: resume that one, and this goes on with it"
        )


def _values(entries: Collection[Entry]) -> dict[str, JSON]:
    return {e.path: e.value for e in entries if e.kind in ("result", "decision") and not e.name}
