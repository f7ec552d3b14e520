from __future__ import annotations

import asyncio
import dataclasses
import pathlib
import random
import sys
from collections.abc import Sequence
from datetime import date
from decimal import Decimal

import pytest

from metier.calls import Call, Impact, Message, Usage
from metier.catalog import Catalog
from metier.errors import BudgetExceeded, Invalid, NotAllowed, SystemNotApproved, Unavailable
from metier.governance.register import ADMITTED
from metier.policy.admission import Admission, Hold, Period, Surroundings
from metier.policy.leases import Leases
from metier.policy.limits import Limit
from metier.store import Row, Store
from metier.tokens import bound, shape_of
from tests.record.world import World, build


class Held:
    """The part of an entry admission knows."""

    def __init__(self) -> None:
        self.hold_: Hold | None = None
        self.input_tokens = 0
        self.usage: Usage | None = None
        self.impact = Impact("not estimated")

    def hold(self, hold: Hold | None, input_tokens: int) -> None:
        self.hold_, self.input_tokens = hold, input_tokens


async def admit(world: World, admission: Admission, output: int, **changes: object) -> Hold:
    held = Held()
    await admission.admit(dataclasses.replace(world.call(output=output), **changes), world.model, held)  # type: ignore[arg-type]  # fields by name
    assert held.hold_ is not None
    return held.hold_


def recorded(lease: str, cost: Decimal) -> Row:
    """What the ledger tells of a call it has written down."""
    return {"lease": lease, "outcome": "answered", "cost_eur": cost, "tokens": 0, "energy_wh": None, "carbon_g": None}


async def test_what_a_call_may_cost_at_most_is_held_before_it_is_made(store: Store, tmp_path: pathlib.Path) -> None:
    world = await build(store, tmp_path, "10")
    admission = world.admission("w")
    held = Held()
    await admission.admit(world.call(), world.model, held)
    assert held.hold_ is not None and held.input_tokens > 0
    most = bound(shape_of(world.call()), {d.tokenizer for d in world.model.deployments})
    assert held.hold_.amount == 1 + Decimal(most) / 1_000_000, "the deployment's own maximum"
    assert held.input_tokens < most, "what is held is cautious; what the record falls back on is likely"
    assert (await admit(world, admission, 10)).amount < Decimal("0.0101"), "or what was asked for"
    held = Held()
    local = world.call("local")
    await admission.admit(local, world.catalog.model("local"), held)
    assert held.hold_ is not None and held.hold_.amount == 0 and not held.hold_.lease, "a free model holds nothing"


async def test_the_refusal_says_limit_spent_and_held(store: Store, tmp_path: pathlib.Path) -> None:
    world = await build(store, tmp_path, "1")
    admission = world.admission("w")
    await admit(world, admission, 900)
    with pytest.raises(BudgetExceeded) as caught:
        await admit(world, admission, 200)
    for said in ("1 € per month", "0 € are spent", "held by calls under way", "limit raised", "or wait until 20"):
        assert said in caught.value.message
    assert (await admit(world, admission, 90)).amount > Decimal("0.09"), "exactly the need, when no more is left"


async def test_the_settled_cost_replaces_the_reservation(store: Store, tmp_path: pathlib.Path) -> None:
    world = await build(store, tmp_path, "1")
    admission = world.admission("w")
    for _ in range(20):
        (await admit(world, admission, 900)).settle(Decimal("0.001"))
    with pytest.raises(BudgetExceeded):
        await admit(world, admission, 999)


async def test_most_calls_reserve_without_asking_the_database(store: Store, tmp_path: pathlib.Path) -> None:
    world = await build(store, tmp_path, "100")
    clock = [0.0]
    admission = Admission(store, "w", world.register.statuses, ADMITTED, clock=lambda: clock[0])
    await admit(world, admission, 10)
    async with store.transaction() as tx:
        await tx.execute("LOCK TABLE limits, standings, leases, systems IN ACCESS EXCLUSIVE MODE")
        for _ in range(100):
            async with asyncio.timeout(60):
                await admit(world, admission, 10)


async def test_a_suspended_system_is_refused_as_soon_as_the_mirror_is_a_second_old(
    store: Store, tmp_path: pathlib.Path
) -> None:
    world = await build(store, tmp_path)
    clock = [0.0]
    admission = Admission(store, "w", world.register.statuses, ADMITTED, clock=lambda: clock[0])
    await admission.admit(world.call(), world.model, Held())
    await world.register.suspend(world.principal.system, "Sécurité")
    clock[0] = 1.0
    with pytest.raises(SystemNotApproved, match="'suspended'"):
        await admission.admit(world.call(), world.model, Held())
    await world.register.approve(world.principal.system, "Claire")
    await admission.tick()
    await admission.admit(world.call(), world.model, Held())


@pytest.mark.parametrize("reachable", [True, False])
async def test_a_refused_system_is_named_as_people_do(store: Store, tmp_path: pathlib.Path, reachable: bool) -> None:
    world = await build(store, tmp_path)
    system = world.principal.system

    async def away(_: Sequence[str]) -> dict[str, str]:
        raise TimeoutError

    around = Surroundings(names=world.register.names if reachable else away)
    admission = Admission(store, "w", world.register.statuses, ADMITTED, around=around)
    await world.register.suspend(system, "Sécurité")
    with pytest.raises(SystemNotApproved) as refused:
        await admission.approved(world.principal)
    named = (await world.register.get(system)).name if reachable else system
    assert named != system or not reachable
    assert refused.value.message.startswith(f"the system {named!r} is 'suspended' in the register")


async def test_a_key_is_kept_to_its_models_and_a_model_to_its_operation(store: Store, tmp_path: pathlib.Path) -> None:
    world = await build(store, tmp_path)
    admission = world.admission("w")
    narrow = dataclasses.replace(world.principal, models=frozenset({"other"}))
    with pytest.raises(NotAllowed, match="'chat'"):
        await admission.admit(Call(narrow, "chat"), world.model, Held())
    with pytest.raises(Invalid, match="for 'chat', not 'embed'"):
        await admission.admit(Call(world.principal, "chat", operation="embed"), world.model, Held())


async def test_a_model_without_a_price_is_refused_unless_that_is_accepted(store: Store, tmp_path: pathlib.Path) -> None:
    world = await build(store, tmp_path, "1")
    admission = world.admission("w")
    for accepted in (False, True):
        entry = {"provider": "openai", "model_id": "unheard", "base_url": "http://x/v1", "allow_unpriced": accepted}
        model = Catalog.from_yaml({"m": {"deployments": [entry]}}).model("m")
        call = Call(world.principal, "m", messages=(Message("user", "x"),))
        if accepted:
            await admission.admit(call, model, Held())
        else:
            with pytest.raises(NotAllowed, match="allow_unpriced"):
                await admission.admit(call, model, Held())


async def test_idle_money_goes_back_to_the_budget_and_a_closed_lease_is_replaced(
    store: Store, tmp_path: pathlib.Path
) -> None:
    world = await build(store, tmp_path, "1")
    admission = world.admission("w")
    hold = await admit(world, admission, 300)
    hold.settle(Decimal(0))
    await admission.tick(idle_s=0)
    budget = await admission.budget(world.principal.project)
    assert budget is not None and budget.held_eur == 0 and await admission.drift() == []
    await admit(world, admission, 300)
    await admission.write_off("w")
    await admission.tick()
    await admit(world, admission, 300)
    with pytest.raises(BudgetExceeded):
        await admit(world, admission, 500)


@pytest.mark.parametrize(("period", "later"), [("day", date(2027, 3, 15)), ("month", date(2027, 4, 1))])
async def test_a_new_period_starts_from_nothing_and_old_promises_do_not_touch_it(
    store: Store, tmp_path: pathlib.Path, period: Period, later: date
) -> None:
    world = await build(store, tmp_path)
    today = [date(2027, 3, 14)]
    admission = Admission(store, "w", world.register.statuses, ADMITTED, today=lambda: today[0])
    slow = Admission(store, "slow", world.register.statuses, ADMITTED, today=lambda: date(2027, 3, 14))
    await admission.set_budget(world.principal.project, Decimal(1), period)
    old = await admit(world, admission, 900)
    with pytest.raises(BudgetExceeded):
        await admit(world, admission, 900)
    today[0] = later
    new = await admit(world, admission, 900)
    assert new.lease != old.lease
    with pytest.raises(BudgetExceeded):
        await admit(world, slow, 900)
    assert (await admit(world, slow, 50)).lease not in (old.lease, new.lease)
    async with store.transaction() as tx:
        await admission.charge(tx, [recorded(old.lease, Decimal("0.9"))])
        await admission.charge(tx, [recorded(new.lease, Decimal("0.5"))])
    budget = await admission.budget(world.principal.project)
    assert budget is not None and budget.spent_eur == Decimal("0.5")
    assert budget.starts_on == (later if period == "day" else later.replace(day=1))


async def test_a_budget_set_on_a_busy_project_counts_what_was_spent(store: Store, tmp_path: pathlib.Path) -> None:
    world = await build(store, tmp_path)
    admission = world.admission("w")
    assert await admission.budget(world.principal.project) is None
    assert (await admission.set_budget(world.principal.project, Decimal(5), "day")).limit_eur == 5
    await admit(world, admission, 1000)
    raised = await admission.set_budget(world.principal.project, Decimal(50), "day")
    assert raised.limit_eur == 50 and raised.held_eur >= 1
    await admission.drop_budget(world.principal.project)
    assert await admission.budget(world.principal.project) is None


async def test_eight_workers_hammering_never_pass_the_limit(store: Store, tmp_path: pathlib.Path) -> None:
    world = await build(store, tmp_path, "1")
    chance = random.Random(20271)
    spent = [Decimal(0)]

    async def worker(name: str) -> None:
        admission = world.admission(name)
        for n in range(40):
            asked = chance.randrange(1, 60)
            try:
                hold = await admit(world, admission, asked)
            except BudgetExceeded:
                continue
            await asyncio.sleep(0)
            cost = (hold.amount * chance.randrange(0, 101) / 100).quantize(Decimal("0.000000001"))
            hold.settle(cost)
            spent[0] += cost
            async with store.transaction() as tx:
                await admission.charge(tx, [recorded(hold.lease, cost)])
            if n % 10 == 9:
                await admission.tick(idle_s=0)

    async with asyncio.TaskGroup() as group:
        for n in range(8):
            group.create_task(worker(f"w{n}"))
    judge = world.admission("judge")
    budget = await judge.budget(world.principal.project)
    assert budget is not None
    assert budget.spent_eur == spent[0] <= 1 and budget.spent_eur + budget.held_eur <= 1
    assert budget.spent_eur > Decimal("0.5"), "the money can really be used"
    assert len(await judge.drift()) == 1, "charged without calls, as this test does"


HAMMER = """
import asyncio, pathlib, sys
from metier.calls import KeyId, Principal, ProjectId, SystemId
from metier.catalog import Catalog
from metier.errors import BudgetExceeded
from metier.governance.register import Register
from metier.store import Row, Store
from tests.record.world import World, CATALOG, spend

async def main():
    url, folder, project, system, worker = sys.argv[1:]
    async with Store(url, size=4) as store:
        principal = Principal(KeyId("abc"), ProjectId(project), SystemId(system))
        world = World(store, Register(store), None, Catalog.from_yaml(CATALOG), principal, pathlib.Path(folder))
        admission = world.admission(worker)
        ledger = world.ledger(worker, admission)
        async def one():
            for n in range(60):
                try:
                    await spend(world, ledger, admission, 10, asked=20)
                except BudgetExceeded:
                    await asyncio.sleep(0)
        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(one())
        await ledger.close()

asyncio.run(main())
"""


async def test_two_processes_hammering_spend_the_budget_and_not_a_cent_more(
    store: Store, tmp_path: pathlib.Path
) -> None:
    world = await build(store, tmp_path, "2")
    root = pathlib.Path(__file__).parents[2]
    who = [store.url, str(world.folder), world.principal.project, world.principal.system]
    processes = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", HAMMER, *who, f"p{n}", cwd=root) for n in range(2)
    ]
    assert [await process.wait() for process in processes] == [0, 0]
    judge = world.admission("judge")
    budget = await judge.budget(world.principal.project)
    assert budget is not None and budget.held_eur == 0
    assert Decimal("1.9") < budget.spent_eur <= 2
    assert await judge.drift() == []
    async with store.connection() as connection:
        row = await (await connection.execute("SELECT sum(cost_eur) AS cost, count(*) AS n FROM calls")).fetchone()
    assert row == {"cost": budget.spent_eur, "n": 480}


async def test_a_budget_that_cannot_be_asked_is_unavailable_and_not_broken(store: Store) -> None:
    async with Store(store.url, size=1) as away:
        leases = Leases(away, "w")
    with pytest.raises(Unavailable, match="does not answer; try again later"):
        await leases.reserve(Limit("l", "project", "p", "money", "month", Decimal(1)), "", Decimal("0.1"))
