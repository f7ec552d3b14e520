"""A worker that stood still and lost a run makes no items of it: the run, its line and its money stay as they were."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from metier.calls import JSON, RunId
from metier.store import Row, Store
from metier.vault import Vault
from metier.workflow.commands import Items
from metier.workflow.definition import Workflow
from metier.workflow.dispatch import Dispatch
from metier.workflow.engine import Engine
from metier.workflow.interpreter import Walk
from metier.workflow.journal import Hold, LostRun
from metier.workflow.segment import Segments
from metier.workflow.trying import Held
from tests.workflow.flows import WHO, Counting, flow, step


def items(number: int) -> Workflow:
    config: JSON = {"over": f"{{{{ {[*range(number)]} }}}}", "max": number, "as": "runs", "concurrency": 2}
    return flow(step("each", "foreach", config, steps=(step("do"),)), output="{{ steps.each.items }}")


@dataclass(frozen=True)
class Worker:
    """A run as one worker has taken it, at the moment it is about to make its items."""

    segments: Segments
    held: Held
    command: Items

    async def begin(self) -> None:
        await self.segments.children.begin(self.held, self.command)


async def taken(store: Store, vault: Vault, run: RunId, workflow: Workflow) -> Worker:
    row: Row | None = await store.queries("engine").one("take", {"id": run})
    assert row is not None
    walk = Walk(workflow, {}, {}, {"id": run})
    (command,) = walk.frontier()
    assert isinstance(command, Items)
    held = Held(Hold(run, row["epoch"]), workflow, {}, WHO, walk, row, row["signals"])
    return Worker(Segments(store, vault, Dispatch(store), {}, None), held, command)


async def family(store: Store, run: RunId) -> list[tuple[int, str]]:
    async with store.connection() as connection:
        rows = await connection.execute("SELECT item, status FROM runs WHERE parent = %s ORDER BY item", (run,))
        return [(row["item"], row["status"]) for row in await rows.fetchall()]


@pytest.mark.parametrize("lost", ["taken by another", "cancelled"])
async def test_a_stale_worker_is_refused_before_it_makes_items(store: Store, vault: Vault, lost: str) -> None:
    counting = Counting()
    engine, made = Engine(store, vault, {"code": counting}), items(3)
    run = await engine.start(made, {}, WHO)
    stale = await taken(store, vault, run, made)
    if lost == "cancelled":
        await engine.cancel(run)
    else:
        await taken(store, vault, run, made)
    with pytest.raises(LostRun, match="no longer held"):
        await stale.begin()
    assert await family(store, run) == []
    async with store.connection() as connection:
        rows = await connection.execute("SELECT count(*) AS number FROM item_groups WHERE parent = %s", (run,))
        assert (await rows.fetchone() or {})["number"] == 0


async def test_a_stale_worker_leaves_the_items_of_its_successor_alone(store: Store, vault: Vault) -> None:
    counting = Counting()
    engine, made = Engine(store, vault, {"code": counting}), items(3)
    run = await engine.start(made, {}, WHO)
    stale = await taken(store, vault, run, made)
    await engine.recover()
    await engine.drain()
    assert (await engine.get(run)).status == "done"
    with pytest.raises(LostRun):
        await stale.begin()
    assert await family(store, run) == [(0, "done"), (1, "done"), (2, "done")]


async def test_items_of_a_worker_that_died_go_on_and_none_is_made_twice(store: Store, vault: Vault) -> None:
    engine, made = Engine(store, vault, {"code": Counting()}), items(3)
    run = await engine.start(made, {}, WHO)
    first = await taken(store, vault, run, made)
    await first.begin()
    before = await family(store, run)
    assert [number for number, _ in before] == [0, 1, 2]
    await engine.recover()
    await engine.drain()
    assert await family(store, run) == [(0, "done"), (1, "done"), (2, "done")]
