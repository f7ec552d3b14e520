"""What somebody cancelled below a run: it goes on with it, nothing paid twice, and what it spent counts above."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from metier.calls import JSON, RunId
from metier.errors import Conflict
from metier.store import Store
from metier.vault import Vault
from metier.workflow.definition import Retry
from metier.workflow.engine import Engine, StepContext
from metier.workflow.operations import Operations
from tests.workflow.engines import QUICK, Acting, House, InMemory, Made, OnPostgres, functions, make, thought
from tests.workflow.flows import WHO, step
from tests.workflow.test_taken_up import OUTER, SUB, TIRED, calls, failed, through
from tests.workflow.test_taken_up_again import ASKED, beside, left, whole

__all__ = ["make"]

ASKING = SUB.replace("  - {id: weak", ASKED + "  - {id: weak").replace("do: later, ", "")
"""Pays, asks somebody, and pays again."""

EACH = """
flow: sub
schema: 1
steps:
  - id: each
    foreach: {over: "{{ [1, 2] }}", max: 2, as: runs, concurrency: 2}
    steps:
      - {id: dear, code: any, with: {eur: "0.02"}}
      - {id: ask, when: "item == 2", human: {assign: group:sav, title: "?"}}
output: all
"""


class Cancelling(Acting):
    """Cancels its own run once, in the middle of a step that has an answer already."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self.house: House | None = None
        self.thoughts = 0

    async def __call__(self, context: StepContext, given: dict[str, JSON]) -> JSON:
        if context.path == self.path:
            await context.once("think", lambda: self._think(context))
            if self.house is not None:
                house, self.house = self.house, None
                await house.engine.cancel(context.run)
        return await super().__call__(context, given)

    async def _think(self, context: StepContext) -> JSON:
        self.thoughts += 1
        return await thought(context)


def house_of(kind: str, store: Store, vault: Vault, acting: Acting | None = None) -> House:
    return InMemory({}, acting) if kind == "memory" else OnPostgres(store, vault, {}, acting)


async def below(house: House, run: RunId) -> list[RunId]:
    return [one.id for one in await house.engine.list() if one.parent == run]


async def cost(house: House, run: RunId) -> Decimal:
    return (await house.engine.get(run)).cost_eur


@pytest.mark.parametrize("kind", ["memory", "postgresql"])
async def test_what_was_cancelled_in_the_middle_of_a_step_counts_above_and_is_not_paid_again(
    store: Store, vault: Vault, kind: str
) -> None:
    acting = Cancelling("weak")
    house = acting.house = house_of(kind, store, vault, acting)
    made = replace(calls(), files={"sub.yaml": SUB.replace("do: later, ", "")})
    run = await failed(house, made)
    found = await house.engine.get(run)
    assert found.failure is not None and found.failure.code == "cancelled"
    # The step that paid, and the answer of the one under way.
    assert found.cost_eur == Decimal("0.021")
    (child,) = await below(house, run)
    assert await cost(house, child) == Decimal("0.021")
    acting.commands.clear()
    await house.engine.resume(run)
    await house.settle()
    await whole(house, run)
    assert ([command[:2] for command in acting.commands], acting.thoughts) == ([("weak", 1)], 1)
    assert await cost(house, run) == await cost(house, child) == Decimal("0.031")
    assert await below(house, run) == [child]


async def test_what_is_below_one_that_was_cancelled_counts_and_goes_on_with_it(make: Made) -> None:
    house = make({})
    made = replace(calls("outer.yaml"), files={"sub.yaml": ASKING, "outer.yaml": OUTER})
    run = await house.engine.start(made, {}, WHO)
    await house.settle()
    (outer,) = await below(house, run)
    (inner,) = await below(house, outer)
    await house.engine.cancel(outer)
    await house.settle()
    assert [(await house.engine.get(one)).status for one in (run, outer, inner)] == ["failed", "cancelled", "cancelled"]
    assert await cost(house, run) == Decimal("0.06")
    house.acting.commands.clear()
    await house.engine.resume(run)
    await house.settle()
    await house.decide(inner, ("ask", 1, ""), {"decision": "approve"})
    await house.settle()
    await whole(house, run)
    assert [command[0] for command in house.acting.commands] == ["weak"]
    assert await cost(house, run) == Decimal("0.07")
    assert len(await house.engine.list()) == 3


async def test_an_item_that_was_cancelled_goes_on_and_the_others_are_not_done_again(make: Made) -> None:
    house = make({})
    body = (step("dear", with_={"eur": "0.02"}), step("ask", "human", {"assign": "group:sav", "title": "?"}))
    made = through(*body, step("last", with_={"eur": "0.01"}), **{"as": "runs"}, concurrency=3)
    run = await house.engine.start(made, {"all": [1, 2, 3]}, WHO)
    await house.settle()
    first, second, third = sorted(await below(house, run))
    for one in (first, third):
        await house.decide(one, ("ask", 1, ""), {"decision": "approve"})
    await house.settle()
    await house.engine.cancel(second)
    with pytest.raises(Conflict):
        await house.engine.cancel(second)
    await house.settle()
    assert ((await house.engine.get(run)).status, await cost(house, run)) == ("failed", Decimal("0.08"))
    house.acting.commands.clear()
    await house.engine.resume(run)
    await house.settle()
    await house.decide(second, ("ask", 1, ""), {"decision": "approve"})
    await house.settle()
    await whole(house, run)
    assert [command[0] for command in house.acting.commands] == ["last"]
    assert await cost(house, run) == Decimal("0.09")
    assert sorted(await below(house, run)) == [first, second, third]


async def test_items_that_were_not_gathered_count_in_a_run_that_is_cancelled(make: Made) -> None:
    house = make({})
    run = await house.engine.start(replace(calls(), files={"sub.yaml": EACH}), {}, WHO)
    await house.settle()
    (child,) = await below(house, run)
    await house.engine.cancel(child)
    await house.settle()
    # One item was done and one was under way; no line of the run they belong to tells of either.
    assert await cost(house, run) == await cost(house, child) == Decimal("0.04")
    house.acting.commands.clear()
    await house.engine.resume(run)
    await house.settle()
    waits = next(one.id for one in await house.engine.list() if one.parent == child and one.status == "parked")
    await house.decide(waits, ("ask", 1, ""), {"decision": "approve"})
    await house.settle()
    await whole(house, run)
    assert house.acting.commands == []
    assert await cost(house, run) == Decimal("0.04")


async def test_what_a_run_leaves_behind_when_it_fails_counts_in_it_at_once(make: Made) -> None:
    house = make({})
    run, _ = await left(house, beside(step("sub", "call", {"flow": "s.yaml"}), files={"s.yaml": ASKING}))
    assert await cost(house, run) == Decimal("0.02")
    (child,) = await below(house, run)
    await house.engine.resume(run)
    await house.settle()
    await house.decide(child, ("ask", 1, ""), {"decision": "approve"})
    await house.settle()
    await whole(house, run)
    assert await cost(house, run) == Decimal("0.03")


async def test_a_retry_of_the_definition_does_not_begin_anew_what_was_cancelled(make: Made) -> None:
    house = make({})
    made = replace(calls(retry=Retry(3, "constant", 0)), files={"sub.yaml": ASKING})
    run = await house.engine.start(made, {}, WHO)
    await house.settle()
    (child,) = await below(house, run)
    await house.engine.cancel(child)
    await house.settle()
    assert (await house.engine.get(run)).status == "failed"
    assert await below(house, run) == [child]


async def test_one_that_is_cancelled_again_and_again_costs_what_it_cost(make: Made) -> None:
    house = make({})
    run = await house.engine.start(replace(calls(), files={"sub.yaml": ASKING}), {}, WHO)
    await house.settle()
    (child,) = await below(house, run)
    for _ in range(3):
        await house.engine.cancel(child)
        await house.settle()
        assert ((await house.engine.get(run)).status, await cost(house, run)) == ("failed", Decimal("0.02"))
        await house.engine.resume(run)
        await house.settle()
        assert (await house.engine.get(child)).status == "parked"
    await house.decide(child, ("ask", 1, ""), {"decision": "approve"})
    await house.settle()
    await whole(house, run)
    assert await cost(house, run) == Decimal("0.03")


async def test_who_resumes_what_was_cancelled_is_told_which_run_to_resume(store: Store, vault: Vault) -> None:
    house = OnPostgres(store, vault, {})
    run = await house.engine.start(replace(calls(), files={"sub.yaml": ASKING}), {}, WHO)
    await house.settle()
    (child,) = await below(house, run)
    await house.engine.cancel(child)
    await house.settle()
    with pytest.raises(Conflict, match=rf"was cancelled below '{run}', which counted it: resume that one"):
        await Operations(store, vault, house.engine, None).resume(child)


async def test_items_cancelled_in_line_keep_their_place_below(store: Store, vault: Vault) -> None:
    acting = Acting()
    house = OnPostgres(store, vault, {}, acting)
    weak = step("weak", with_={"do": "{{ item == 1 ? 'later' : null }}", "eur": "0.01"}, retry=TIRED)
    narrow = Engine(store, vault, functions(acting), desk=house, pace=replace(QUICK, concurrency=1))
    run = await narrow.start(through(weak, **{"as": "runs"}, concurrency=1), {"all": [1, 2, 3]}, WHO)
    await narrow.drain()
    dropped = sorted(one.id for one in await narrow.below(run))
    assert sorted(one.status for one in await narrow.below(run)) == ["cancelled", "cancelled", "failed"]
    await narrow.resume(run)
    await narrow.drain()
    await whole(house, run)
    assert sorted(one.id for one in await narrow.below(run)) == dropped
    assert await cost(house, run) == Decimal("0.05")
