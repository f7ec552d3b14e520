"""Runs of runs: called flows and items of a foreach; how they begin, and what their end does to their parent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Protocol

import orjson

from metier.calls import JSON, Principal, RunId, new_id
from metier.errors import Broken, NotFound
from metier.store import Row, Store, Tx
from metier.vault import Vault
from metier.workflow.commands import CHILD, GATHERED, Call, Finish, Items, Key, Park, Under
from metier.workflow.context import plain
from metier.workflow.definition import RunBudget, Step, Workflow, accept, embedded, to_data
from metier.workflow.dispatch import Dispatch
from metier.workflow.door import Door
from metier.workflow.events import Events
from metier.workflow.journal import Journal, Line, LostRun, opened, sealed, unsealed
from metier.workflow.pinned import hashed
from metier.workflow.reviving import Reviving
from metier.workflow.trying import Held, error_value

__all__ = ["Children", "Flows", "bounded", "called", "item_flow", "pin", "returned", "rights_of", "shallow"]

_CHUNK = 500
"""Items made in one statement."""

_DEEPEST = 20
"""Runs inside one another; released flows that call each other would begin new ones for ever."""


class Flows(Protocol):
    """Where released flows are found by `name@version`."""

    async def find(self, name: str, principal: Principal) -> Workflow:
        """Give a released flow, or raise NotFound or NotAllowed."""


class Children:
    """Starts runs for steps of other runs, and tells those when they are over."""

    def __init__(
        self,
        store: Store,
        vault: Vault,
        dispatch: Dispatch,
        journal: Journal,
        events: Events,
        door: Door,
    ) -> None:
        self._store = store
        self._vault = vault
        self._queries = store.queries("engine")
        self._effects = store.queries("outbox")
        self._dispatch = dispatch
        self._journal = journal
        self._events = events
        self._door = door
        self.reviving = Reviving(store, vault, dispatch, journal)
        self.flows: Flows | None = None

    async def call(self, held: Held, command: Call) -> Line:
        """Start the run of a called flow, or let the one that failed go on, with the line that says so."""
        await self._shallow(held, command.flow)
        workflow = await called(held.workflow, command.flow, self.flows, held.principal)
        inputs = accept(workflow, plain(dict(command.with_)))
        place: Row = {"parent": held.hold.run, "path": command.path, "attempt": command.attempt}
        async with self._store.transaction() as tx:
            child, left = None, command.budget_left_eur
            if command.again:
                child = await self.reviving.called(tx, place, workflow.budget, left)
            child = child or await self._start(tx, held, workflow, inputs, command.path, command)
            line = _began(command.path, command.attempt, {"run": child})
            await self._journal.append(held.hold, [line], tx)
        return line

    async def prepare(self, held: Held, parks: Sequence[Park]) -> dict[Key, Workflow]:
        """Find the workflows whose runs are asked something, before the transaction that starts them."""
        found = {(park.path, park.attempt, park.name): park.flow for park in parks}
        for flow in found.values():
            if flow is not None:
                await self._shallow(held, flow)
        return {
            key: await called(held.workflow, flow, self.flows, held.principal)
            for key, flow in found.items()
            if flow is not None
        }

    async def asked(self, tx: Tx, held: Held, park: Park, workflow: Workflow) -> Line:
        """Start the run that a step asks, in the transaction that notes what the step waits for."""
        inputs = accept(workflow, plain(dict(park.task)))
        child = await self._start(tx, held, workflow, inputs, f"{park.path}{park.name}", park)
        line = _began(park.path, park.attempt, {"run": child}, park.name)
        await self._journal.append(held.hold, [line], tx)
        return line

    async def _shallow(self, held: Held, flow: str) -> None:
        if held.row.get("parent") is None:
            return
        row = await self._queries.one("depth", {"id": held.hold.run, "most": _DEEPEST})
        shallow(flow, 0 if row is None else row["depth"])

    async def _start(
        self, tx: Tx, held: Held, workflow: Workflow, inputs: JSON, path: str, command: Call | Park
    ) -> RunId:
        child = RunId(new_id("run"))
        row: Row = {
            "id": child,
            "workflow": workflow.name,
            "definition": workflow.hash,
            "rights": sealed(self._vault, child, "rights", rights_of(held.principal), held.principal.organisation),
            "inputs": sealed(self._vault, child, "inputs", inputs, held.principal.organisation),
            "parent": held.hold.run,
            "path": path,
            "attempt": command.attempt,
            "allowance_eur": command.budget_left_eur,
        }
        await pin(self._queries.run, tx, workflow)
        if await self._queries.one("start_child", row, tx) is None:
            known = await self._queries.one("child_of", row, tx)
            child = RunId(known["id"]) if known is not None else child
        await self._dispatch.defer(tx, child)
        return child

    async def begin(self, held: Held, command: Items) -> Line:
        """Make a queued run for each item, then let the first ones go with the line that says so."""
        body, hold = item_flow(held.workflow, command.step), held.hold
        numbers = range(len(command.items)) if command.only is None else command.only
        ids = [RunId(new_id("run")) for _ in numbers]
        place: Row = {"parent": held.hold.run, "path": command.path, "attempt": command.attempt}
        async with self._store.transaction() as tx:
            await pin(self._queries.run, tx, body)
            around = await self._journal.blob(tx, command.given, held.principal.organisation)
        if command.only is not None:
            await self.reviving.items(hold, place, numbers)
        rights, whose = rights_of(held.principal), held.principal.organisation
        for first in range(0, len(ids), _CHUNK):
            part = range(first, min(first + _CHUNK, len(ids)))
            inputs = [
                sealed(self._vault, ids[n], "inputs", {"item": command.items[numbers[n]], "index": numbers[n]}, whose)
                for n in part
            ]
            rows: Row = {
                **place,
                "epoch": hold.epoch,
                "ids": [ids[n] for n in part],
                "rights": [sealed(self._vault, ids[n], "rights", rights, whose) for n in part],
                "inputs": inputs,
                "items": [numbers[n] for n in part],
                "workflow": body.name,
                "definition": body.hash,
                "around": around,
                "allowance_eur": command.budget_left_eur,
            }
            if await self._queries.one("start_items", rows) is None:
                # Under an attempt that others may have passed by now nobody would ever gather them.
                raise LostRun(f"run {hold.run!r} is no longer held under epoch {hold.epoch}: this worker stops here")
        line = _began(command.path, command.attempt, {"items": len(ids)})
        async with self._store.transaction() as tx:
            await self._journal.append(held.hold, [line], tx)
            purse = command.budget_left_eur
            group = {**place, "items_left": len(ids), "collects": command.collect, "purse_eur": purse}
            await self._queries.run("begin_items", group, tx)
            await self._next(tx, place, command.width)
        await self._door.left(held.principal.project)
        return line

    async def gathered(self, held: Held, command: Under) -> Line | None:
        """Read what the items came to, in one query, once all are over."""
        place: Row = {"parent": held.hold.run, "path": command.path, "attempt": command.attempt}
        left = await self._queries.one("items_left", place)
        if left is None or left["items_left"] > 0:
            return None
        outcomes: list[JSON] = []
        cost = Decimal(0)
        for row in await self._queries.all("outcomes", place):
            cost += row["cost_eur"]
            outcomes.append(self._outcome(RunId(row["id"]), row))
        now = datetime.now(UTC)
        value: JSON = {"outcomes": outcomes}
        return Line(command.path, command.attempt, "choice", value, now, name=GATHERED, cost_eur=cost)

    async def ended(self, tx: Tx, child: RunId, row: Mapping[str, object], finish: Finish, cost: Decimal) -> None:
        """Tell the parent of a run that it is over, in the transaction that ends it."""
        if row.get("parent") is None:
            return
        parent, told = RunId(str(row["parent"])), _euros(row.get("told_eur"))
        cost = max(cost - told, Decimal(0))
        if row.get("item") is None:
            attempt = row["parent_attempt"]
            assert isinstance(attempt, int)
            doubt = None if finish.failure is None else await self._effects.one("doubt_below", {"run": child}, tx)
            line = returned(str(row["parent_path"]), attempt, child, finish, cost, retry=doubt is None)
            if line.name:
                place = {"run": parent, "path": line.path, "attempt": attempt, "name": line.name}
                if await self._queries.one("settle", place, tx) is None:
                    return
            await self._events.tell(tx, parent, line)
            return
        place = {"parent": parent, "path": row["parent_path"], "attempt": row["parent_attempt"]}
        lent = None if row.get("allowance_eur") is None else _euros(row["allowance_eur"]) - told
        over: Row = {**place, "number": 1, "spent_eur": cost, "held_eur": lent}
        group = await self._queries.one("item_ended", over, tx)
        if group is None:
            return
        left = int(group["items_left"])
        if finish.failure is not None and not group["collects"]:
            dropped = await self._queries.all("drop_items", place, tx)
            if dropped:
                held = sum((one["held_eur"] or Decimal(0) for one in dropped), Decimal(0))
                over = {**place, "number": len(dropped), "spent_eur": 0, "held_eur": held}
                counted = await self._queries.one("item_ended", over, tx)
                left = int(counted["items_left"]) if counted is not None else 0
        elif row.get("let_in", True):
            await self._next(tx, place, 1)
        if left == 0:
            await self._events.tell(tx, parent, None)

    async def counted(self, tx: Tx, run: RunId) -> Decimal:
        """Count what a run that is over has cost, with what those it leaves behind below it have spent; once each."""
        every, level, told = [run], [run], Decimal(0)
        while level:
            # Level by level: in one statement the indices are not used for many, or not for few.
            rows = await self._queries.all("untold", {"ids": level}, tx)
            level = [RunId(row["id"]) for row in rows]
            told += sum((row["told_eur"] for row in rows), Decimal(0))
            every.extend(level)
        row = await self._queries.one("count_spent", {"id": run, "ids": every, "told_eur": told}, tx)
        return _euros(None if row is None else row["cost_eur"])

    async def cancel(self, tx: Tx, run: RunId, close: Callable[[Tx, RunId], Awaitable[None]] | None) -> None:
        """End every run below a run that is not over."""
        for row in await self._queries.all("descendants", {"id": run}, tx):
            if row["begun"]:
                below = RunId(row["id"])
                await self._dispatch.abort(tx, below)
                if close is not None:
                    await close(tx, below)

    async def _next(self, tx: Tx, place: Mapping[str, object], number: int) -> None:
        await self._queries.all("next_items", {**place, "number": number}, tx)

    def _outcome(self, run: RunId, row: Row) -> JSON:
        if row["status"] == "done" and row["output"] is not None:
            return {"value": unsealed(self._vault, run, "output", row["output"])}
        if row["error"] is not None:
            error = opened(self._vault, run, "error", row["error"])
            return {"code": error.get("code"), "message": error.get("message")}
        return {"code": str(row["status"]), "message": f"the run of the item was {row['status']}"}


async def called(workflow: Workflow, written: str, flows: Flows | None, principal: Principal) -> Workflow:
    """Find the flow that a step calls: beside its own, or among those released."""
    if written in workflow.files or "@" not in written:
        return embedded(workflow, written)
    if flows is None:
        raise NotFound(f"cannot call {written!r}: no released flows are known here; name a file beside the workflow")
    return await flows.find(written, principal)


def shallow(flow: str, depth: int) -> None:
    """Refuse to start a run below too many others, or flows that call each other would never end."""
    if depth >= _DEEPEST:
        raise Broken(
            f"cannot start a run of {flow!r}: {_DEEPEST} runs stand inside one another already; "
            "look whether the flows call each other"
        )


def item_flow(workflow: Workflow, step: Step) -> Workflow:
    """Make the flow that one item of a foreach is a run of."""
    config = step.config if isinstance(step.config, dict) else {}
    each = config.get("each")
    made = replace(
        workflow,
        name=f"{workflow.name}/{step.id}",
        inputs={"type": "object"},
        steps=step.steps,
        output=f"{{{{ steps.{step.steps[-1].id} }}}}" if each is None else each,
        budget=None,
        tests=(),
        triggers=(),
        source="",
    )
    return replace(made, hash=hashed(made))


def bounded(workflow: Workflow, allowance_eur: Decimal | None) -> Workflow:
    """Bound a flow that was called by what its caller had left."""
    if allowance_eur is None:
        return workflow
    own = workflow.budget
    if own is None:
        return replace(workflow, budget=RunBudget(allowance_eur, "fail"))
    return replace(workflow, budget=replace(own, per_run_eur=min(own.per_run_eur, allowance_eur)))


def rights_of(principal: Principal) -> dict[str, JSON]:
    """Give what a run has to know of whoever it runs for."""
    return {
        "name": principal.name,
        "groups": [*sorted(principal.groups)],
        "organisation": principal.organisation,
        "models": None if principal.models is None else [*sorted(principal.models)],
    }


async def pin(run: Callable[..., Awaitable[int]], tx: Tx, workflow: Workflow) -> None:
    """Keep a definition for the runs of it."""
    data = orjson.dumps(to_data(workflow)).decode()
    await run("pin", {"hash": workflow.hash, "name": workflow.name, "data": data}, tx)


def _euros(amount: object) -> Decimal:
    return amount if isinstance(amount, Decimal) else Decimal(0)


def _began(path: str, attempt: int, value: JSON, name: str = "") -> Line:
    return Line(path, attempt, "choice", value, datetime.now(UTC), name=f"{CHILD}{name}")


def returned(path: str, attempt: int, child: RunId, finish: Finish, cost: Decimal, *, retry: bool = True) -> Line:
    """Say what the end of a called run is to the step that called it, or that asked it under a name.

    Without `retry` it is called anew by a person alone: another run would do again what may have been done. Nor does
    what somebody has cancelled begin anew by itself.
    """
    now = datetime.now(UTC)
    failure = finish.failure
    path, mark, name = path.partition("!")
    if mark:
        told: JSON = {"ok": finish.output} if failure is None else {"error": failure.message, "code": failure.code}
        return Line(path, attempt, "answer", told, now, name=f"{mark}{name}", cost_eur=cost)
    if failure is None:
        return Line(path, attempt, "result", finish.output, now, cost_eur=cost)
    why = f"the run {child!r} it called failed at {failure.path!r}: {failure.message}"
    anew = retry and failure.code != "cancelled"
    return Line(path, attempt, "error", error_value(failure.code, why, retry=anew), now, cost_eur=cost)
