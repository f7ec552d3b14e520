"""Pausing a run while it, or a run below it, ends: whoever comes first wins, and nothing is lost or done twice."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest

from metier.calls import JSON, RunId
from metier.errors import Conflict, Invalid
from metier.store import Store
from metier.vault import Vault
from metier.workflow.definition import Workflow
from metier.workflow.engine import Engine, StepContext
from metier.workflow.operations import Operations
from metier.workflow.review import TaskDesk
from tests.workflow.flows import WHO, flow, step

ENDING = "NEW.status IN ('done', 'failed') AND OLD.status = 'running'"
PAUSING = "NEW.paused_at IS NOT NULL AND OLD.paused_at IS NULL"
STOP = """
CREATE FUNCTION stop_here() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN PERFORM pg_advisory_xact_lock(42); RETURN NULL; END $$
"""
"""Stops a transaction once it has changed a row of runs, which it then holds, for as long as a test wants."""
WAITING = """
SELECT count(*) AS found FROM pg_stat_activity
 WHERE datname = current_database() AND wait_event_type = 'Lock' AND (wait_event = 'advisory') = %s
"""
SUB = "flow: sub\nschema: 1\nsteps:\n  - {id: last, code: work}\noutput: '{{ steps.last }}'\n"


class Gate:
    """Lets a test say when a transaction that it holds goes on, and wait until another stands behind it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.open = asyncio.Event()

    async def reached(self, *, behind: bool = False) -> None:
        """Wait until a transaction stands at the gate, or another one waits for what that one holds."""
        async with self.store.connection() as connection:
            while True:
                row = await (await connection.execute(WAITING, (not behind,))).fetchone()
                if row is not None and row["found"]:
                    return
                await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def gate(store: Store, when: str) -> AsyncIterator[Gate]:
    """Hold what changes a run in one way, until the gate is opened."""
    made = Gate(store)
    async with store.connection() as connection:
        await connection.execute(STOP)
        trigger = "CREATE TRIGGER stop_here AFTER UPDATE ON runs FOR EACH ROW WHEN"
        await connection.execute(f"{trigger} ({when}) EXECUTE FUNCTION stop_here()".encode())

    async def hold() -> None:
        async with store.transaction() as tx:
            await tx.execute("SELECT pg_advisory_xact_lock(42)")
            held.set()
            await made.open.wait()

    held = asyncio.Event()
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(hold())
        await held.wait()
        try:
            yield made
        finally:
            made.open.set()


class Working:
    """A step function that can be held up, and counts what it did."""

    def __init__(self, *, fails: bool = False, held: bool = False) -> None:
        self.fails, self.paths = fails, list[str]()
        self.inside, self.go = asyncio.Event(), asyncio.Event()
        if not held:
            self.go.set()

    async def __call__(self, context: StepContext, given: dict[str, JSON]) -> JSON:
        self.paths.append(context.path)
        self.inside.set()
        await self.go.wait()
        if self.fails:
            raise Invalid("cannot work today")
        return 7


def made(store: Store, vault: Vault, working: Working) -> tuple[Engine, Operations]:
    """Make an engine, and what looks after its runs."""
    engine = Engine(store, vault, {"code": working})
    return engine, Operations(store, vault, engine, TaskDesk(store, vault))


def calling() -> Workflow:
    """A flow whose first step is a run of its own."""
    call = step("sub", "call", {"flow": "sub.yaml"})
    return replace(flow(call, step("after"), output="{{ steps.sub }}"), files={"sub.yaml": SUB})


def each() -> Workflow:
    """A flow whose items are runs of their own."""
    many = step("each", "foreach", {"over": "{{ [1] }}", "max": 1, "as": "runs"}, steps=(step("last"),))
    return flow(many, step("after"), output="{{ steps.each.items[0] }}")


@pytest.mark.parametrize("fails", [False, True])
async def test_a_run_that_is_ending_when_it_is_paused_has_ended(store: Store, vault: Vault, fails: bool) -> None:
    working = Working(fails=fails)
    engine, operations = made(store, vault, working)
    run = await engine.start(flow(step("last"), output="{{ steps.last }}"), {}, WHO)
    async with gate(store, ENDING) as held, asyncio.TaskGroup() as group:
        group.create_task(engine.drain())
        await held.reached()
        pausing = group.create_task(refused(operations, run))
        await held.reached(behind=True)
        held.open.set()
    assert ("failed" if fails else "done") in await pausing
    found = await engine.get(run)
    assert (found.status, found.paused_at, working.paths) == ("failed" if fails else "done", None, ["last"])


@pytest.mark.parametrize("fails", [False, True])
async def test_a_run_that_is_paused_within_its_last_step_ends_and_is_not_paused(
    store: Store, vault: Vault, fails: bool
) -> None:
    working = Working(fails=fails, held=True)
    engine, operations = made(store, vault, working)
    run = await engine.start(flow(step("last"), output="{{ steps.last }}"), {}, WHO)
    async with gate(store, PAUSING) as held, asyncio.TaskGroup() as group:
        group.create_task(engine.drain())
        await working.inside.wait()
        pausing = group.create_task(operations.pause(run))
        await held.reached()
        working.go.set()
        await held.reached(behind=True)
        held.open.set()
    found = await engine.get(run)
    assert (pausing.result(), found.status, working.paths) == (1, "failed" if fails else "done", ["last"])
    with pytest.raises(Conflict, match="failed" if fails else "done"):
        await operations.unpause(run)
    if fails:
        working.fails = False
        await engine.resume(run)
        await engine.drain()
        assert await engine.result(run) == 7


@pytest.mark.parametrize("made_of", [calling, each])
async def test_a_child_that_is_ending_when_its_parent_is_paused_has_ended(
    store: Store, vault: Vault, made_of: Callable[[], Workflow]
) -> None:
    working = Working()
    engine, operations = made(store, vault, working)
    run = await engine.start(made_of(), {}, WHO)
    async with gate(store, ENDING) as held, asyncio.TaskGroup() as group:
        group.create_task(engine.drain())
        await held.reached()
        pausing = group.create_task(operations.pause(run))
        await held.reached(behind=True)
        held.open.set()
    assert pausing.result() == 1
    await stands_then_goes_on(engine, operations, run, working)


@pytest.mark.parametrize("made_of", [calling, each])
async def test_a_child_whose_parent_was_paused_within_its_last_step_is_done_and_its_parent_stands_still(
    store: Store, vault: Vault, made_of: Callable[[], Workflow]
) -> None:
    working = Working(held=True)
    engine, operations = made(store, vault, working)
    run = await engine.start(made_of(), {}, WHO)
    async with gate(store, PAUSING) as held, asyncio.TaskGroup() as group:
        group.create_task(engine.drain())
        await working.inside.wait()
        pausing = group.create_task(operations.pause(run))
        await held.reached()
        working.go.set()
        await held.reached(behind=True)
        held.open.set()
    assert pausing.result() == 2
    await stands_then_goes_on(engine, operations, run, working)


async def stands_then_goes_on(engine: Engine, operations: Operations, run: RunId, working: Working) -> None:
    """Whatever came first: the child has ended, its parent stands still, then goes on with what the child gave."""
    await engine.drain()
    (child,) = await engine.below(run)
    assert ((await engine.get(run)).status, child.status) == ("paused", "done")
    assert [path.rpartition(".")[2] for path in working.paths] == ["last"]
    await operations.unpause(run)
    await engine.drain()
    assert (await engine.result(run), len(working.paths)) == (7, 2)
    assert (await engine.replay(run)).same


async def refused(operations: Operations, run: RunId) -> str:
    """Pause a run that cannot be, and give what is said."""
    with pytest.raises(Conflict) as told:
        await operations.pause(run)
    return told.value.message
