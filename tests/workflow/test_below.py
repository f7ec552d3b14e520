"""Runs below others under what people do to them: counted once, bounded in money and depth, never run twice."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from decimal import Decimal

import pytest

from metier.calls import JSON, Principal
from metier.errors import Conflict, NotAllowed
from metier.store import Store
from metier.vault import Vault
from metier.workflow.definition import Workflow
from metier.workflow.engine import Engine, StepContext
from metier.workflow.operations import Operations
from metier.workflow.review import Review, Reviewer, TaskDesk
from tests.workflow.flows import WHO, Counting, branch, flow, step

ZOE = Reviewer("zoe", frozenset({"sav", "admins"}))
ASK: JSON = {"assign": "group:sav", "title": "Read it"}


async def fails_first(context: StepContext, given: dict[str, JSON]) -> JSON:
    """Fail for the first item alone."""
    if given["n"] == 0:
        raise NotAllowed("not this one")
    return given


def items(number: int, concurrency: int) -> Workflow:
    """Make a flow whose items do something and then ask."""
    config: JSON = {
        "over": f"{{{{ {[*range(number)]} }}}}", "max": number, "as": "runs", "concurrency": concurrency,
        "on_item_error": "collect", "each": "{{ index }}",
    }  # fmt: skip
    body = (step("do", with_={"n": "{{ item }}"}), step("ask", "human", ASK))
    return flow(step("each", "foreach", config, steps=body), output="{{ steps.each }}", budget="1")


@pytest.mark.parametrize("what", ["resume", "cancel"])
async def test_an_item_that_failed_and_was_counted_is_not_counted_again(store: Store, vault: Vault, what: str) -> None:
    engine = Engine(store, vault, {"code": fails_first}, desk=TaskDesk(store, vault))
    operations, review = Operations(store, vault, engine, TaskDesk(store, vault)), Review(store, vault, engine)
    run = await engine.start(items(3, 3), {}, WHO)
    await engine.drain()
    (failed,) = [one for one in await engine.below(run) if one.status == "failed"]
    with pytest.raises(Conflict):
        await (operations.resume(failed.id) if what == "resume" else engine.cancel(failed.id))
    await engine.drain()
    tasks = await review.list(ZOE)
    await review.decide(tasks[0].id, ZOE, {"ok": True})
    await engine.drain()
    assert (await engine.get(run)).status == "parked"
    await review.decide(tasks[1].id, ZOE, {"ok": True})
    await engine.drain()
    value = await engine.result(run)
    assert isinstance(value, dict)
    assert (value["items"], value["failed"]) == ([None, 1, 2], 1)


async def test_an_item_cancelled_before_its_turn_gives_back_no_money_it_never_had(store: Store, vault: Vault) -> None:
    engine = Engine(store, vault, {"code": Counting()}, desk=TaskDesk(store, vault))
    run = await engine.start(items(4, 1), {}, WHO)
    await engine.drain()
    queued = [one for one in await engine.below(run) if one.status == "queued"]
    await engine.cancel(queued[-1].id)
    async with store.connection() as connection:
        rows = await connection.execute(
            "SELECT held_eur, purse_eur, items_left FROM item_groups WHERE parent = %s", (run,)
        )
        (group,) = await rows.fetchall()
    assert (group["held_eur"], group["items_left"]) == (Decimal(1), 3)


class Itself:
    """Finds one flow under whatever name, as a release that calls itself does."""

    def __init__(self, workflow: Workflow) -> None:
        self.workflow = workflow

    async def find(self, name: str, principal: Principal) -> Workflow:
        return self.workflow


async def test_flows_that_call_each_other_for_ever_are_stopped(store: Store, vault: Vault) -> None:
    counting = Counting()
    engine = Engine(store, vault, {"code": counting})
    endless = flow(step("do"), step("again", "call", {"flow": "endless@1"}), name="endless")
    engine.wire(flows=Itself(endless))
    run = await engine.start(endless, {}, WHO)
    for _ in range(60):
        await engine.drain()
        if (await engine.get(run)).over:
            break
    found = await engine.get(run)
    assert found.status == "failed"
    assert found.failure is not None
    assert "inside one another" in found.failure.message
    assert len(counting.runs) < 40


async def test_what_stood_still_goes_on_when_its_run_is_done_again_from_a_step(store: Store, vault: Vault) -> None:
    engine = Engine(store, vault, {"code": Counting()}, desk=TaskDesk(store, vault))
    operations, review = Operations(store, vault, engine, TaskDesk(store, vault)), Review(store, vault, engine)
    config: JSON = {"over": "{{ [1, 2] }}", "max": 2, "as": "runs", "each": "{{ index }}"}
    each = step("each", "foreach", config, steps=(step("ask", "human", ASK),))
    ways = (replace(branch(None, each), name="one"), replace(branch(None, step("b")), name="other"))
    run = await engine.start(flow(step("all", "parallel", branches=ways), output=1), {}, WHO)
    await engine.drain()
    await operations.pause(run)
    await operations.retry(run, "all.other.b", "zoe")
    await engine.drain()
    for task in await review.list(ZOE):
        await review.decide(task.id, ZOE, {"ok": True})
    await engine.drain()
    assert (await engine.get(run)).status == "done"


async def test_money_lent_to_a_run_is_not_lent_to_what_is_forked_from_it(store: Store, vault: Vault) -> None:
    async def pays(context: StepContext, given: dict[str, JSON]) -> JSON:
        context.spend(Decimal("0.02"))
        return context.path

    engine = Engine(store, vault, {"code": pays}, desk=TaskDesk(store, vault))
    operations, review = Operations(store, vault, engine, TaskDesk(store, vault)), Review(store, vault, engine)
    run = await engine.start(flow(step("a"), step("b"), step("c"), step("d"), budget="0.015"), {}, WHO)
    await engine.drain()
    (task,) = await review.list(ZOE)
    await review.decide(task.id, ZOE, {"decision": "continue"})
    await engine.drain()
    assert ((await engine.get(run)).cost_eur, (await engine.get(run)).parked_on) == (Decimal("0.04"), "c")
    other = flow(step("a"), step("b"), step("c", with_={"new": 1}), step("d"), budget="0.015")
    made, cut = await operations.fork(run, other)
    await engine.drain()
    assert (cut.first, (await engine.get(made)).parked_on) == (("c",), "d")


async def test_many_runs_are_done_again_at_once_with_few_connections(store: Store, vault: Vault) -> None:
    engine = Engine(store, vault, {"code": Counting()})
    runs = [await engine.start(flow(step("a"), step("b"), output=1), {}, WHO) for _ in range(8)]
    await engine.drain()
    async with Store(store.url, size=3) as narrow:
        operations = Operations(narrow, vault, Engine(narrow, vault, {}), None)
        await asyncio.gather(*(operations.retry(run, "b", "zoe") for run in runs))
        with pytest.raises(Conflict, match="pause it first"):
            await operations.retry(runs[0], "b", "zoe")
    await engine.drain()
    assert {(await engine.get(run)).status for run in runs} == {"done"}
