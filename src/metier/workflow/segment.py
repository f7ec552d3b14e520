"""One segment of a run: take it, go on from its journal as far as it can, then park, wait or finish."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Protocol

import orjson
import psycopg

from metier.calls import JSON, KeyId, OrganisationId, Principal, ProjectId, RunId, SystemId
from metier.errors import Broken, Invalid, MetierError, RateLimited, Unavailable
from metier.store import Row, Store, Tx
from metier.vault import Vault
from metier.workflow.commands import Entry, Failure, Finish, Key, Note, Park, RunStep, WaitUntil
from metier.workflow.context import Asked, Clock, StepContext, StepFunction, fits, plain, utc
from metier.workflow.definition import Kind, Workflow, from_data
from metier.workflow.dispatch import Dispatch
from metier.workflow.expressions import Expressions
from metier.workflow.interpreter import advance
from metier.workflow.journal import Hold, Journal, Line, LostRun, opened, sealed

__all__ = ["Desk", "Opening", "Segments"]


_MOST_OUTAGES = 5
"""Of one attempt: a step that meets more of them brings them about."""
_PATIENCE_S = 60.0
_PAUSE_S = 0.2


@dataclass(frozen=True, slots=True)
class Opening:
    """A task to open: where it comes from and what it asks."""

    run: RunId
    workflow: str
    project: ProjectId
    park: Park


class Desk(Protocol):
    """Where tasks are put; whoever does it uses the transaction given, so that task and run agree."""

    async def open(self, tx: Tx, opening: Opening) -> None:
        """Open a task with the parking of its run."""

    async def close(self, tx: Tx, run: RunId) -> None:
        """Cancel the open tasks of a run that is over."""


@dataclass(slots=True)
class _Held:
    """A run as one worker holds it."""

    hold: Hold
    workflow: Workflow
    inputs: dict[str, JSON]
    principal: Principal
    entries: dict[Key, Entry]

    def add(self, lines: Sequence[Line]) -> None:
        for line in lines:
            entry = line.entry()
            self.entries[entry.key] = entry

    def spent(self) -> Decimal:
        return sum((entry.cost_eur for entry in self.entries.values() if not entry.name), start=Decimal(0))


class Segments:
    """Runs segments; the only place where step functions are called."""

    def __init__(
        self,
        store: Store,
        vault: Vault,
        dispatch: Dispatch,
        steps: Mapping[Kind, StepFunction],
        desk: Desk | None,
        *,
        clock: Clock = utc,
        max_strikes: int = 5,
    ) -> None:
        self.journal = Journal(store, vault)
        self._store = store
        self._vault = vault
        self._queries = store.queries("engine")
        self._dispatch = dispatch
        self._steps = steps
        self._desk = desk
        self._clock = clock
        self._max_strikes = max_strikes
        self._definitions: dict[str, Workflow] = {}
        self._expressions = Expressions()

    async def run(self, run: RunId) -> None:
        """Move one run as far as it can go; silent when it is held by somebody else or over."""
        try:
            row = await self._take(run)
            if row is None:
                return
            hold = Hold(run, row["epoch"])
            try:
                held = await self._load(hold, row)
                while await self._go_on(held):
                    pass
            except Broken as error:
                await self._finish(hold, Finish(failure=Failure(error.code, error.message)), None)
            except asyncio.CancelledError:
                await asyncio.shield(self._give_back(hold))
                raise
        except LostRun:
            return

    async def definition(self, hash: str) -> Workflow:
        """Give a pinned definition, from memory after the first time."""
        known = self._definitions.get(hash)
        if known is None:
            row = await self._queries.one("pinned", {"hash": hash})
            if row is None:
                raise Broken(f"the definition {hash!r} is not in the database: restore it from a backup")
            known = self._definitions[hash] = from_data(orjson.loads(row["data"]))
        return known

    async def _take(self, run: RunId) -> Row | None:
        row = await self._queries.one("take", {"id": run})
        if row is not None and row["strikes"] > self._max_strikes:
            hold = Hold(run, row["epoch"])
            told = (
                f"its worker died {self._max_strikes} times in a row without finishing a step: look at it, then resume"
            )
            await self._finish(hold, Finish(failure=Failure("dead", told)), Decimal(0), "dead")
            return None
        return row

    async def _load(self, hold: Hold, row: Row) -> _Held:
        return _Held(
            hold=hold,
            workflow=await self.definition(row["definition"]),
            inputs=opened(self._vault, hold.run, "inputs", row["inputs"]),
            principal=_principal(row, opened(self._vault, hold.run, "rights", row["rights"])),
            entries=await self.journal.load(hold.run),
        )

    async def _go_on(self, held: _Held) -> bool:
        """Do the next command of a run; say whether there may be another one now."""
        *found, last = advance(held.workflow, held.inputs, held.entries, {"id": held.hold.run}, self._expressions)
        now = self._clock()
        notes = [Line(n.path, n.attempt, n.kind, n.value, now) for n in found if isinstance(n, Note)]
        if isinstance(last, WaitUntil):
            pause = (last.at - now).total_seconds()
            if pause > self._dispatch.pace.poll_s:
                await self._wait(held, last.at, notes)
                return False
            await asyncio.sleep(max(pause, 0))
            last = last.then
        match last:
            case RunStep():
                line = await self._attempt(held, last)
                if isinstance(line, Park):
                    await self._park(held, line, notes)
                    return False
                lines = [*notes, line]
                await self.journal.append(held.hold, lines)
                held.add(lines)
                return True
            case Park():
                await self._park(held, last, notes)
            case Finish():
                await self._finish(held.hold, last, held.spent(), notes=notes)
        return False

    async def _attempt(self, held: _Held, command: RunStep) -> Line | Park:
        """Call the step function once and turn whatever happens into a line of the journal."""
        step, started = command.step, self._clock()
        context = StepContext(
            run=held.hold.run,
            path=command.path,
            attempt=command.attempt,
            step=step,
            workflow=held.workflow,
            principal=held.principal,
            budget_left_eur=command.budget_left_eur,
            _hold=held.hold,
            _entries=held.entries,
            _journal=self.journal,
            _clock=self._clock,
        )
        value: JSON
        try:
            function = self._steps.get(step.kind)
            if function is None:
                raise Invalid(f"no step function for {step.kind!r} is installed here: {command.path!r} cannot run")
            value = plain(await self._called(function, context, command))
            fits(value, step.output, f"the output of {command.path!r}")
            failed = False
        except LostRun:
            raise
        except Asked as asked:
            return Park(command.path, command.attempt, asked.name, step, asked.task, asked.schema)
        except TimeoutError:
            value = _error("timeout", f"{command.path!r} did not end within {step.timeout_s} s", retry=True)
            failed = True
        except MetierError as error:
            value = _error(error.code, error.message, retry=isinstance(error, Unavailable | RateLimited))
            failed = True
        except Exception as error:  # noqa: BLE001  # edge of foreign code: recorded in the journal with its trace
            told = f"{command.path!r} failed unexpectedly ({type(error).__name__}): its trace is in the journal"
            value = {**_error("step_failed", told, retry=True), "trace": traceback.format_exc(limit=-20)}
            failed = True
        cost, calls = context.spent
        return Line(
            path=command.path,
            attempt=command.attempt,
            kind="error" if failed else "result",
            value=value,
            started_at=started,
            duration_s=(self._clock() - started).total_seconds(),
            cost_eur=cost,
            calls=calls,
        )

    async def _called(self, function: StepFunction, context: StepContext, command: RunStep) -> JSON:
        """Call a step function; where the database went away under it, again once it is back: no attempt is spent."""
        outages = 0
        while True:
            try:
                async with asyncio.timeout(command.step.timeout_s):
                    return await function(context, command.with_)
            except (psycopg.OperationalError, MetierError) as error:
                outages += 1
                if isinstance(error, LostRun) or not _away(error) or outages > _MOST_OUTAGES:
                    raise
            await self._back(context.run, command.path)

    async def _back(self, run: RunId, path: str) -> None:
        """Wait until the database answers; where it does not for long, leave the run to whoever finds it idle."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _PATIENCE_S
        while True:
            try:
                async with self._store.connection() as connection:
                    await connection.execute("SELECT 1")
                return
            except (psycopg.OperationalError, Unavailable) as error:
                if loop.time() > deadline:
                    raise LostRun(
                        f"{path!r} of {run!r} lost the database, and it is not back within {_PATIENCE_S:g} s: "
                        "the run goes on from its last line once it is"
                    ) from error
            await asyncio.sleep(_PAUSE_S)

    async def _wait(self, held: _Held, at: datetime, notes: Sequence[Line]) -> None:
        async with self._store.transaction() as tx:
            await self._note(held.hold, notes, tx)
            row = {"id": held.hold.run, "epoch": held.hold.epoch, "wake_at": at, "cost_eur": held.spent()}
            self._kept(await self._queries.run("wait", row, tx), held.hold)
            await self._dispatch.defer(tx, held.hold.run, at)

    async def _park(self, held: _Held, park: Park, notes: Sequence[Line]) -> None:
        if self._desk is None:
            raise Broken(f"{park.path!r} of {held.hold.run!r} asks a person, and no desk for tasks was handed in")
        async with self._store.transaction() as tx:
            await self._note(held.hold, notes, tx)
            row = {"id": held.hold.run, "epoch": held.hold.epoch, "path": park.path, "cost_eur": held.spent()}
            self._kept(await self._queries.run("park", row, tx), held.hold)
            await self._desk.open(tx, Opening(held.hold.run, held.workflow.name, held.principal.project, park))

    async def _finish(
        self, hold: Hold, finish: Finish, cost: Decimal | None, status: str = "failed", notes: Sequence[Line] = ()
    ) -> None:
        failure = finish.failure
        error: JSON = None
        if failure is not None:
            error = {
                "code": failure.code,
                "message": failure.message,
                "path": failure.path,
                "attempt": failure.attempt,
            }
        row = {
            "id": hold.run,
            "epoch": hold.epoch,
            "status": "done" if failure is None else status,
            "output": None if failure else sealed(self._vault, hold.run, "output", finish.output),
            "outcome": None if failure else finish.outcome,
            "error": sealed(self._vault, hold.run, "error", error) if failure else None,
            "cost_eur": cost,
        }
        async with self._store.transaction() as tx:
            await self._note(hold, notes, tx)
            self._kept(await self._queries.run("finish", row, tx), hold)

    async def _give_back(self, hold: Hold) -> None:
        async with self._store.transaction() as tx:
            if await self._queries.run("give_back", {"id": hold.run, "epoch": hold.epoch}, tx):
                await self._dispatch.defer(tx, hold.run)

    async def _note(self, hold: Hold, notes: Sequence[Line], tx: Tx) -> None:
        if notes:
            await self.journal.append(hold, notes, tx)

    def _kept(self, rows: int, hold: Hold) -> None:
        if rows == 0:
            raise LostRun(f"run {hold.run!r} is no longer held under epoch {hold.epoch}: this worker stops here")


def _away(error: BaseException) -> bool:
    """Tell a database that went away, or the error one makes of it, from one that refuses what it was asked."""
    cause = error if isinstance(error, psycopg.Error) else error.__cause__
    if not isinstance(cause, psycopg.OperationalError):
        return False
    # No state: the connection broke. 08: it cannot be made. 57P: the server stops, crashed or starts.
    return cause.sqlstate is None or cause.sqlstate.startswith(("08", "57P"))


def _error(code: str, message: str, *, retry: bool) -> dict[str, JSON]:
    return {"code": code, "message": message, "retry": retry}


def _principal(row: Row, rights: Mapping[str, JSON]) -> Principal:
    groups, models = rights.get("groups"), rights.get("models")
    return Principal(
        key_id=KeyId(row["key_id"]),
        project=ProjectId(row["project"]),
        system=SystemId(row["system"]),
        name=str(rights.get("name") or ""),
        groups=frozenset(str(group) for group in groups) if isinstance(groups, list) else frozenset(),
        models=frozenset(str(model) for model in models) if isinstance(models, list) else None,
        organisation=OrganisationId(str(rights.get("organisation") or "main")),
    )
