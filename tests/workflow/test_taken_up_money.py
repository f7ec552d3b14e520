"""Families of runs that fail, are cancelled and resumed at random: money counted once, no more than lent."""

from __future__ import annotations

import random
from dataclasses import replace
from decimal import Decimal

import pytest

from metier.calls import JSON
from metier.errors import Conflict, NotAllowed
from metier.store import Store
from metier.vault import Vault
from metier.workflow.definition import RunBudget, Workflow
from metier.workflow.engine import StepContext
from tests.workflow.engines import Acting, House, InMemory, OnPostgres
from tests.workflow.flows import WHO, step
from tests.workflow.test_taken_up import calls, through

INNER = """
flow: inner
schema: 1
inputs: {}
steps:
  - {id: own, code: any, with: {}}
  - id: each
    foreach: {over: "{{ [1, 2, 3] }}", max: 3, as: runs, concurrency: 2}
    steps:
      - {id: first, code: any, with: {}}
      - {id: second, code: any, with: {}}
  - {id: last, code: any, with: {}}
output: "{{ steps.last }}"
"""


class Chance(Acting):
    """Spends what it may at random, fails at random, and knows what was really spent."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random = random.Random(seed)
        self.spent = Decimal(0)
        self.kind = False
        self.done: list[tuple[str, str]] = []
        self.house: House | None = None
        """Where it also cancels, now and then, the run below another one that it works for."""

    async def __call__(self, context: StepContext, given: dict[str, JSON]) -> JSON:
        if self.house is not None and not self.kind and self.random.random() < 0.1:
            await self.house.engine.cancel(context.run)
            return None
        cost = Decimal(self.random.choice(["0.01", "0.02", "0.003333333"]))
        left = context.budget_left_eur
        assert left is not None and left > 0
        cost = min(cost, left)
        self.spent += cost
        context.spend(cost)
        if not self.kind and self.random.random() < 0.25:
            raise NotAllowed("refused")
        self.done.append((context.run, context.path))
        return None


def family(kind: str) -> Workflow:
    sub = step("sub", "call", {"flow": "inner.yaml"})
    made = calls("inner.yaml") if kind == "called" else through(sub, **{"as": "runs"}, concurrency=2)
    return replace(made, files={"inner.yaml": INNER}, budget=RunBudget(Decimal("0.12"), "fail"))


async def purses(store: Store) -> None:
    """See that no money is put aside for anybody, and that nobody has spent more than was there."""
    async with store.connection() as connection:
        rows = await connection.execute(
            "SELECT held_eur, spent_eur, purse_eur FROM item_groups JOIN runs ON runs.id = item_groups.parent"
            " WHERE status IN ('done', 'failed') AND items_left = 0"
        )
        for row in await rows.fetchall():
            assert row["held_eur"] == 0 and row["spent_eur"] <= row["purse_eur"], row
        rows = await connection.execute("SELECT items_left FROM item_groups WHERE items_left < 0")
        assert await rows.fetchall() == []


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", ["called", "items"])
@pytest.mark.parametrize("engine", ["memory", "postgresql"])
async def test_whatever_fails_and_is_resumed_money_is_counted_once(
    store: Store, vault: Vault, engine: str, kind: str, seed: int
) -> None:
    chance = Chance(seed)
    house: House = InMemory({}, chance) if engine == "memory" else OnPostgres(store, vault, {}, chance)
    chance.house = house if seed % 2 else None
    run = await house.engine.start(family(kind), {"all": [1, 2]}, WHO)
    await house.settle()
    lent = 1
    for tries in range(40):
        found = await house.engine.get(run)
        assert found.cost_eur == chance.spent
        if engine == "postgresql":
            await purses(store)
            assert found.cost_eur <= Decimal("0.12") * lent
        if found.status == "done":
            break
        assert found.status == "failed", found
        chance.kind = tries > 4
        assert found.failure is not None
        short = Decimal("0.12") * lent - found.cost_eur < Decimal("0.000001")
        lent += short and found.failure.code == "run_budget_exceeded"
        await house.engine.resume(run)
        await house.settle()
    assert (await house.engine.get(run)).status == "done"
    assert len(chance.done) == len(set(chance.done)), "nothing that was done is done again"
    for one in await house.engine.list(limit=200):
        if one.status in ("done", "failed"):
            assert (await house.engine.replay(one.id)).differences == (), one


ASKING = INNER.replace(
    "      - {id: second", "      - {id: ask, human: {assign: group:sav, title: '?'}}\n      - {id: second"
)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("engine", ["memory", "postgresql"])
async def test_whatever_people_cancel_below_what_it_had_spent_counts_above_at_once(
    store: Store, vault: Vault, engine: str, seed: int
) -> None:
    chance, people = Chance(seed), random.Random(seed)
    house: House = InMemory({}, chance) if engine == "memory" else OnPostgres(store, vault, {}, chance)
    made = replace(family("called" if seed % 2 else "items"), budget=RunBudget(Decimal(9), "fail"))
    run = await house.engine.start(replace(made, files={"inner.yaml": ASKING}), {"all": [1, 2]}, WHO)
    await house.settle()
    cancelled = 0
    for tries in range(200):
        found = await house.engine.get(run)
        if found.over:
            # Whatever was under way below, and at whatever depth: nothing of it is lost, nothing counts twice.
            assert found.cost_eur == chance.spent, tries
        if found.status == "done":
            break
        chance.kind = tries > 20
        below = [one for one in await house.engine.list(limit=200) if one.parent is not None]
        parked = [one for one in below if one.status == "parked" and one.parked_on == "ask"]
        if found.over:
            await house.engine.resume(run)
        elif below and tries < 60 and (not cancelled or people.random() < 0.4):
            try:
                await house.engine.cancel(people.choice(below).id)
                cancelled += 1
            except Conflict:
                continue
        elif parked:
            await house.decide(people.choice(parked).id, ("ask", 1, ""), {"decision": "approve"})
        await house.settle()
    assert (await house.engine.get(run)).status == "done"
    assert len(chance.done) == len(set(chance.done)), "nothing that was done is done again"
    assert cancelled
