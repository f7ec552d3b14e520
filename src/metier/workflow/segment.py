"""One segment of a run: take it, do at once all that may be done, and leave it when only others can go on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from datetime import datetime

import orjson
import psycopg

from metier.calls import JSON, KeyId, OrganisationId, Principal, ProjectId, RunId, SystemId
from metier.errors import Broken, MetierError
from metier.store import Row, Store, away
from metier.vault import Vault
from metier.workflow.children import Children, bounded
from metier.workflow.commands import (
    Command,
    Failure,
    Finish,
    Note,
    Park,
    RunStep,
    Sleep,
    Under,
    WaitUntil,
)
from metier.workflow.context import Clock, StepFunction, utc
from metier.workflow.definition import Kind, Workflow, from_data
from metier.workflow.dispatch import Dispatch
from metier.workflow.doing import Doing, Done
from metier.workflow.door import Door
from metier.workflow.events import Events
from metier.workflow.expressions import Expressions
from metier.workflow.interpreter import Walk
from metier.workflow.journal import Hold, Journal, Line, LostRun, opened, unpack
from metier.workflow.leaving import Desk, Leaving, Opening, Round
from metier.workflow.trying import Held, Tries

__all__ = ["Desk", "Opening", "Segments"]

_WIDTH = 10
"""Steps of one run under way at once."""
_GLANCE_S = 1.0
"""Between two looks for signals while steps are under way and something is waited for."""


class Segments:
    """Runs segments: the only place where runs are moved."""

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
        self.door = Door(store, dispatch, clock)
        self.events = Events(store, vault, dispatch, self.journal)
        self.children = Children(store, vault, dispatch, self.journal, self.events, self.door)
        self._leaving = Leaving(store, vault, dispatch, self.children, desk, clock)
        tries = Tries(store, vault, self.journal, steps, clock)
        self._doing = Doing(store, tries, self.children, self.events, self._leaving, clock)
        self._vault = vault
        self._queries = store.queries("engine")
        self._clock = clock
        self._max_strikes = max_strikes
        self._definitions: dict[str, Workflow] = {}
        self._expressions = Expressions()
        self.stopping: asyncio.Event | None = None
        """Set once no step is to begin here any more: what is under way ends, and its run goes to another worker."""

    async def run(self, run: RunId) -> None:
        """Move one run as far as it can go; silent when it is held by somebody else or over."""
        try:
            began = time.monotonic()
            row = await self._take(run)
            if row is None:
                await self._queries.run("halt", {"id": run, "epoch": None, "cost_eur": None})
                return
            hold = Hold(run, row["epoch"], began, self._vault.workspace(row["rights"]))
            try:
                held = await self._load(hold, row)
                await self._go_on(held)
            except MetierError as error:
                if isinstance(error, LostRun) or away(error):
                    raise
                # Whatever it is, whoever takes the run next would come to the same: it ends and says why.
                await self._leaving.broke(hold, row, Failure(error.code, error.message))
            except asyncio.CancelledError:
                await asyncio.shield(self._leaving.give_back(hold))
                raise
            await self.door.left(ProjectId(row["project"]))
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
            hold = Hold(run, row["epoch"], workspace=self._vault.workspace(row["rights"]))
            told = (
                f"its worker died {self._max_strikes} times in a row without finishing a step: look at it, then resume"
            )
            await self._leaving.broke(hold, row, Failure("dead", told), "dead")
            return None
        return row

    async def _load(self, hold: Hold, row: Row) -> Held:
        workflow, around = await self.definition(row["definition"]), None
        inputs = opened(self._vault, hold.run, "inputs", row["inputs"])
        if row["around_sealed"] is not None:
            around = unpack(self._vault.open("blob", row["around_sealed"], bytes(row["around"]).hex()))
        # Before the journal: what is settled in between is in the journal then, and not waited for.
        waits = await self._queries.all("opened", {"run": hold.run}) if row["signals"] or row["epoch"] > 1 else ()
        walk = Walk(
            bounded(workflow, row["allowance_eur"]),
            inputs,
            await self.journal.load(hold.run) if row["progress"] else {},
            {"id": hold.run},
            expressions=self._expressions,
            around=around if isinstance(around, dict) else None,
        )
        return Held(
            hold=hold,
            workflow=workflow,
            inputs=inputs,
            principal=_principal(row, opened(self._vault, hold.run, "rights", row["rights"])),
            walk=walk,
            row=row,
            signals=row["signals"],
            opened={(waiting["path"], waiting["attempt"], waiting["name"]) for waiting in waits},
        )

    async def _go_on(self, held: Held) -> None:
        """Do what may be done, side by side, until the run is over or only others can go on."""
        under: dict[str, asyncio.Task[Done]] = {}
        try:
            while True:
                if held.cut is not None and not under:
                    raise held.cut
                now = self._round(held, under)
                if now.end is not None and not under:
                    await self._leaving.over(held, now.end)
                    return
                if held.pausing and not under and await self._leaving.paused(held):
                    return
                stopping = self.stopping is not None and self.stopping.is_set()
                if stopping and not under and now.start:
                    # At a boundary nothing is in flight that another worker would have to pay for once more.
                    await self._leaving.give_back(held.hold)
                    return
                go = now.end is None and not held.pausing and held.cut is None and not stopping
                for command in now.start[: _WIDTH - len(under)] if go else ():
                    under[command.path] = asyncio.ensure_future(self._doing.do(held, command))
                if not under and await self._leaving.left(held, now):
                    return
                if not under:
                    continue
                try:
                    if now.ask and go:
                        await self._leaving.ask(held, now.ask)
                    await self._settle(held, under, now)
                except (psycopg.OperationalError, MetierError) as error:
                    if not away(error):
                        raise
                    # What is under way was paid for: it ends and is written, before whoever takes the run looks anew.
                    held.cut = held.cut or error
        finally:
            for task in under.values():
                task.cancel()
            await asyncio.gather(*under.values(), return_exceptions=True)

    def _round(self, held: Held, under: Mapping[str, object]) -> Round:
        found, now = Round(), max(self._clock(), held.come) if held.come else self._clock()
        for command in held.walk.frontier():
            self._sort(held, command, now, found, under)
        return found

    def _sort(self, held: Held, command: Command, now: datetime, found: Round, under: Mapping[str, object]) -> None:
        if isinstance(command, Finish):
            found.end = command
        if isinstance(command, Finish | Note):
            return
        path = command.path
        if path in under:
            return
        if isinstance(command, WaitUntil):
            if command.at > now:
                found.until(command.at)
                return
            command = command.then
        questions = [park for park in held.asked if park.path == path]
        found.ask.extend(questions)
        asked = bool(questions) or any(key[:2] == (path, command.attempt) and key[2] for key in held.opened)
        match command:
            case Park():
                found.waits.append(path)
                if (path, command.attempt, command.name) not in held.opened:
                    found.ask.append(command)
            case Sleep(event=event) if event is not None and (path, command.attempt, "") not in held.opened:
                found.start.append(command)
            case Sleep(at=at) if at is None or at > now:
                if at is not None:
                    found.until(at)
                else:
                    found.waits.append(path)
            case Under() if path in held.looked or not command.many:
                found.waits.append(path)
            case RunStep() if asked:
                found.waits.append(path)
            case _:
                found.start.append(command)

    async def _settle(self, held: Held, under: dict[str, asyncio.Task[Done]], now: Round) -> None:
        """Wait until something under way has ended, or a time has come, or it is time to look for signals."""
        pauses = [] if now.at is None else [max((now.at - self._clock()).total_seconds(), 0.0)]
        if held.opened or now.waits:
            pauses.append(_GLANCE_S)
        pause = min(pauses) if pauses else None
        done, _ = await asyncio.wait(under.values(), timeout=pause, return_when=asyncio.FIRST_COMPLETED)
        lines: list[Line] = []
        written: list[Line] = []
        parks: list[Park] = []
        broken: BaseException | None = None
        for path in [path for path, task in under.items() if task in done]:
            try:
                came = under.pop(path).result()
            except BaseException as error:  # noqa: BLE001  # told once what the others gave is written
                broken = broken or error
                continue
            match came:
                case Line():
                    lines.append(came)
                case list():
                    written.extend(came)
                case tuple():
                    parks.extend(came)
        if broken is not None and (isinstance(broken, LostRun) or not lines):
            raise broken
        if lines:
            lines = [*self._leaving.notes(held), *lines]
            held.pausing |= await self.journal.append(held.hold, lines)
            held.notes.clear()
        for line in (*written, *lines):
            held.walk.feed(line.entry())
        if broken is not None:
            raise broken
        if parks:
            held.asked.extend(parks)
        loop = asyncio.get_running_loop()
        if (held.opened or now.waits) and loop.time() - held.glanced >= _GLANCE_S:
            held.glanced = loop.time()
            await self._leaving.reload(held)


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
