from __future__ import annotations

import dataclasses
import pathlib
import random
import time
from collections.abc import Sequence
from datetime import date
from decimal import Decimal

import pytest

from metier.calls import Call, Chunk, Impact, Message, Range, Tool, Usage
from metier.deployment import Deployment
from metier.errors import BudgetExceeded, Invalid, NotAllowed, NotFound, RateLimited
from metier.governance.register import ADMITTED
from metier.policy.admission import Admission, Surroundings, Verdict
from metier.policy.limits import Action, Limit, LimitPeriod, Limits, Measure, Scope, period_end, period_start
from metier.record.entry import Entry
from metier.record.ledger import Ledger
from metier.store import Store
from tests.record.world import World, build, spend


def limit(scope: Scope, subject: str, measure: Measure, period: LimitPeriod, amount: str, action: Action = "refuse",
          degrade_to: str | None = None) -> Limit:  # fmt: skip
    return Limit("", scope, subject, measure, period, Decimal(amount), action, degrade_to)


class House:
    """A world with a real key, so that every level exists."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.admission = world.admission("w")
        self.ledger = world.ledger("w", self.admission)

    async def set(self, *limits: Limit) -> list[Limit]:
        return [await self.admission.limits.set(one, "Nadia") for one in limits]

    async def spend(self, output: int = 10, asked: int | None = None) -> Entry:
        return await spend(self.world, self.ledger, self.admission, output, asked)

    async def admitted(self, call: Call) -> Verdict:
        """Admit a call that then ends without any use."""
        async with self.ledger.entry(call) as entry:
            return await self.admission.admit(call, self.world.catalog.model(call.model), entry)

    async def spent(self) -> dict[tuple[str, str], Decimal]:
        await self.ledger.flush()
        return {(row["scope"], row["measure"]): row["spent"] for row in await self.admission.limits.standings()}


async def house(store: Store, folder: pathlib.Path) -> House:
    world = await build(store, folder)
    issued = await world.keys.issue("poste", "Clients", world.principal.system, "Nadia")
    world.principal = dataclasses.replace(world.principal, key_id=issued.key.id, organisation="main")  # type: ignore[arg-type]  # the id of the first one
    return House(world)


def levels(world: World) -> list[tuple[Scope, str]]:
    who = world.principal
    return [("organisation", "main"), ("project", who.project), ("system", who.system), ("key", who.key_id)]


@pytest.mark.parametrize("at", range(5))
async def test_every_level_is_enforced_and_all_are_charged(store: Store, tmp_path: pathlib.Path, at: int) -> None:
    here = await house(store, tmp_path)
    scopes: list[tuple[Scope, str]] = [*levels(here.world), ("end_user", here.world.principal.project)]
    for number, (scope, subject) in reversed([*enumerate(scopes)]):
        await here.set(limit(scope, subject, "requests", "day", "2" if number == at else "100"))
    await here.spend()
    await here.spend()
    with pytest.raises(BudgetExceeded, match="requests per day"):
        await here.spend()
    assert set((await here.spent()).values()) == {Decimal(2)}
    assert await here.admission.drift() == []


async def test_a_month_of_tokens_and_money_is_charged_as_it_was_used(store: Store, tmp_path: pathlib.Path) -> None:
    here = await house(store, tmp_path)
    who = here.world.principal
    await here.set(
        limit("organisation", "main", "money", "month", "50"), limit("project", who.project, "money", "total", "20"),
        limit("key", who.key_id, "tokens", "month", "5000"), limit("system", who.system, "money", "day", "0.03"),
    )  # fmt: skip
    await here.spend(output=10, asked=15)
    await here.spend(output=12, asked=15)
    with pytest.raises(BudgetExceeded, match="system 'Assistant'"):
        await here.spend(output=10, asked=15)
    assert await here.spent() == {
        ("organisation", "money"): Decimal("0.022"), ("project", "money"): Decimal("0.022"),
        ("system", "money"): Decimal("0.022"), ("key", "tokens"): Decimal(22),
    }  # fmt: skip
    assert await here.admission.drift() == []
    await here.ledger.close()
    assert all(row["held"] == 0 for row in await here.admission.limits.standings())


async def test_a_rate_refuses_with_the_wait_and_leaves_nothing_held(store: Store, tmp_path: pathlib.Path) -> None:
    here = await house(store, tmp_path)
    who = here.world.principal
    await here.set(
        limit("key", who.key_id, "requests", "minute", "2"), limit("project", who.project, "money", "month", "1"),
        limit("organisation", "main", "concurrency", "now", "1"),
    )  # fmt: skip
    began = time.monotonic()
    await here.spend()
    await here.spend()
    with pytest.raises(RateLimited, match="2 requests per minute") as caught:
        await here.spend()
    # From the first of them on: on a busy machine a part of it is over.
    assert began + 60 - time.monotonic() < vars(caught.value)["retry_after_s"] <= 62
    await here.ledger.flush()
    await here.admission.tick(idle_s=0)
    assert (await here.admission.budget(who.project)).held_eur == 0  # type: ignore[union-attr]  # it was just set
    told = await here.admission.remaining(here.world.call())
    assert (told["requests"].limit, told["requests"].remaining) == (2, 0)


async def test_a_call_larger_than_the_minute_is_told_that_it_never_passes(store: Store, tmp_path: pathlib.Path) -> None:
    here = await house(store, tmp_path)
    await here.set(limit("key", here.world.principal.key_id, "tokens", "minute", "50"))
    with pytest.raises(RateLimited, match="never pass") as caught:
        await here.spend(output=100)
    assert "retry_after_s" not in vars(caught.value)


async def test_one_call_at_a_time(store: Store, tmp_path: pathlib.Path) -> None:
    here = await house(store, tmp_path)
    await here.set(limit("key", here.world.principal.key_id, "concurrency", "now", "1"))
    call = here.world.call()
    async with here.ledger.entry(call) as entry:
        await here.admission.admit(call, here.world.model, entry)
        with pytest.raises(RateLimited, match="1 at a time"):
            await here.spend()
    await here.spend()


async def test_end_users_are_limited_each_alone_and_those_not_named_together(
    store: Store, tmp_path: pathlib.Path
) -> None:
    here = await house(store, tmp_path)
    await here.set(limit("end_user", here.world.principal.key_id, "requests", "day", "1"))
    for name in ("Ada", "Bo", None):
        await here.admitted(dataclasses.replace(here.world.call(), end_user=name))
        with pytest.raises(BudgetExceeded, match="this end user"):
            await here.admitted(dataclasses.replace(here.world.call(), end_user=name))
    async with store.connection() as connection:
        rows = await (await connection.execute("SELECT member FROM standings ORDER BY member")).fetchall()
    assert [row["member"] for row in rows] == ["", "main Ada", "main Bo"], "as the house digests them"


def watts(deployment: Deployment, usage: Usage, seconds: float) -> Impact:
    used = usage.output_tokens / 1_000_000
    return Impact("test", Range(used / 2, used), Range(used * 50, used * 100))


async def test_energy_and_carbon_are_budgets_too(store: Store, tmp_path: pathlib.Path) -> None:
    here = await house(store, tmp_path)
    world = here.world
    around = Surroundings(footprint=watts)
    here.admission = Admission(store, "e", world.register.statuses, ADMITTED, around=around)
    ledger = world.ledger("e", here.admission)
    who = world.principal
    await here.set(
        limit("project", who.project, "energy", "month", "0.25"), limit("key", who.key_id, "carbon", "day", "1")
    )
    call = world.call(output=100)
    for _ in range(2):
        async with ledger.entry(call) as entry:
            await here.admission.admit(call, world.model, entry)
            entry.deployment, entry.usage = world.deployment, Usage(output_tokens=100)
            entry.receipt()
            entry.impact = watts(world.deployment, entry.usage, 1)
        call = dataclasses.replace(call, id=world.call().id)
    with pytest.raises(BudgetExceeded, match="Wh per month"):
        await here.admission.admit(call, world.model, ledger.entry(call))
    await ledger.flush()
    rows = {row["measure"]: row["spent"] for row in await here.admission.limits.standings()}
    assert rows == {"energy": Decimal("0.2"), "carbon": Decimal("0.02")}
    assert await here.admission.drift() == []


async def test_an_unknown_footprint_is_refused_unless_the_limit_lets_it_pass(
    store: Store, tmp_path: pathlib.Path
) -> None:
    here = await house(store, tmp_path)
    (one,) = await here.set(limit("project", here.world.principal.project, "energy", "month", "5"))
    with pytest.raises(NotAllowed, match="energy card"):
        await here.spend()
    await here.admission.limits.set(dataclasses.replace(one, unknown_passes=True), "Nadia")
    await here.spend()


async def test_a_limit_that_degrades_names_another_model_and_one_that_alerts_refuses_nothing(
    store: Store, tmp_path: pathlib.Path
) -> None:
    here = await house(store, tmp_path)
    who = here.world.principal
    await here.set(
        limit("project", who.project, "money", "month", "0.02", "degrade", "local"),
        limit("organisation", "main", "money", "month", "0.001", "alert"),
    )
    await here.spend(output=10, asked=15)
    assert (await here.admitted(here.world.call(output=15))).instead == "local"
    assert (await here.admitted(here.world.call("local"))).instead is None
    narrow = dataclasses.replace(who, models=frozenset({"chat"}))
    with pytest.raises(BudgetExceeded):
        await here.admitted(dataclasses.replace(here.world.call(output=15), principal=narrow))
    assert await here.spent() == {("project", "money"): Decimal("0.01"), ("organisation", "money"): Decimal("0.01")}


async def test_an_answer_past_what_was_held_holds_more_and_then_is_cut_off(
    store: Store, tmp_path: pathlib.Path
) -> None:
    here = await house(store, tmp_path)
    who = here.world.principal
    await here.set(limit("project", who.project, "money", "month", "0.5"))
    for _ in range(20):
        await here.spend(output=10)
    call = here.world.call()
    with pytest.raises(BudgetExceeded, match="cut off after about") as caught:
        async with here.ledger.entry(call) as entry:
            verdict = await here.admission.admit(call, here.world.model, entry)
            assert verdict.meter is not None and verdict.meter.tokens == 15, "1.5 x p95 of this key"
            assert entry.reserved < Decimal("0.0151")
            entry.deployment = here.world.deployment
            for _ in range(1000):
                chunk = Chunk(text="x" * 30)
                if verdict.meter.passed(chunk):
                    await verdict.meter.extend()
                entry.observe(chunk)
    assert caught.value.code == "budget_exceeded"
    budget = await here.admission.budget(who.project)
    await here.ledger.flush()
    budget = await here.admission.budget(who.project)
    assert budget is not None and Decimal("0.45") < budget.spent_eur <= Decimal("0.51")
    assert await here.admission.drift() == []


async def test_a_key_that_says_no_maximum_does_not_hold_everything(store: Store, tmp_path: pathlib.Path) -> None:
    here = await house(store, tmp_path)
    await here.set(limit("project", here.world.principal.project, "money", "month", "1.5"))
    calls = []
    for _ in range(20):
        await here.spend(output=20, asked=20)
    for _ in range(30):
        call = here.world.call()
        entry = here.ledger.entry(call)
        await here.admission.admit(call, here.world.model, entry)
        calls.append(entry)
    assert sum(entry.reserved for entry in calls) < Decimal("1.0"), "each holds 30 tokens, not the 1,000 of the model"


async def test_a_key_is_kept_to_its_tools(store: Store, tmp_path: pathlib.Path) -> None:
    here = await house(store, tmp_path)
    who = dataclasses.replace(here.world.principal, tools=frozenset({"search"}))
    tools = (Tool("search", "", {}), Tool("pay", "", {}))
    await here.admitted(dataclasses.replace(here.world.call(), principal=who, tools=tools[:1]))
    with pytest.raises(NotAllowed, match="'pay'"):
        await here.admitted(dataclasses.replace(here.world.call(), principal=who, tools=tools))


async def test_an_owner_gives_no_more_than_it_has_and_nonsense_is_refused(store: Store, tmp_path: pathlib.Path) -> None:
    here = await house(store, tmp_path)
    who = here.world.principal
    await here.set(
        limit("organisation", "main", "requests", "minute", "100"), limit("project", who.project, "money", "day", "5")
    )
    for one in (
        limit("project", who.project, "requests", "minute", "101"),
        limit("key", who.key_id, "money", "day", "6"),
    ):
        with pytest.raises(Invalid, match="cannot have"):
            await here.set(one)
    wrong: Sequence[Limit] = (
        limit("key", who.key_id, "money", "minute", "1"), limit("key", who.key_id, "requests", "minute", "1.5"),
        limit("key", who.key_id, "concurrency", "day", "1"), limit("key", who.key_id, "money", "day", "-1"),
        limit("key", who.key_id, "money", "day", "NaN"), limit("key", who.key_id, "money", "day", "1", "degrade"),
        limit("key", who.key_id, "tokens", "minute", "1", "alert"),
    )  # fmt: skip
    for one in wrong:
        with pytest.raises(Invalid):
            await here.set(one)
    with pytest.raises(NotFound):
        await here.set(limit("project", "nowhere", "money", "day", "1"))


async def test_limits_change_within_a_second_elsewhere_and_at_once_here(store: Store, tmp_path: pathlib.Path) -> None:
    here = await house(store, tmp_path)
    clock = [0.0]
    elsewhere = Limits(store, clock=lambda: clock[0])
    assert await elsewhere.of(here.world.principal) == ()
    (made,) = await here.set(limit("key", here.world.principal.key_id, "requests", "day", "3"))
    assert await here.admission.limits.of(here.world.principal) == (made,)
    clock[0] = 1.0
    assert await elsewhere.of(here.world.principal) == (made,)
    assert await elsewhere.drop([made.id]) == 1 and await elsewhere.of(here.world.principal) == ()


async def test_a_call_without_limits_asks_nothing_and_holds_nothing(store: Store, tmp_path: pathlib.Path) -> None:
    here = await house(store, tmp_path)
    assert await here.admitted(here.world.call()) == Verdict()
    async with store.transaction() as tx:
        await tx.execute("LOCK TABLE limits, standings, leases, grants, systems IN ACCESS EXCLUSIVE MODE")
        assert await here.admitted(here.world.call()) == Verdict()


def test_periods_begin_and_end() -> None:
    assert period_start("month", date(2027, 12, 31)) == date(2027, 12, 1)
    assert period_end("month", date(2027, 12, 1)) == date(2028, 1, 1)
    assert period_end("month", date(2027, 1, 1)) == date(2027, 2, 1)
    assert period_end("day", date(2028, 2, 28)) == date(2028, 2, 29) and period_end("total", date(2000, 1, 1)) is None


@pytest.mark.parametrize("seed", [4, 5])
async def test_whatever_workers_do_and_die_of_no_level_is_overspent(
    store: Store, tmp_path: pathlib.Path, seed: int
) -> None:
    """Used beyond every limit at most by what calls used beyond what they held, over workers that die."""
    here, chance = await house(store, tmp_path), random.Random(seed)
    world, who = here.world, here.world.principal
    await here.set(
        limit("organisation", "main", "money", "month", "1.2"), limit("project", who.project, "money", "month", "1"),
        limit("key", who.key_id, "tokens", "day", "1500"), limit("system", who.system, "requests", "day", "150"),
    )  # fmt: skip
    dead, beyond, spoiled = 0, {"money": Decimal(0), "tokens": Decimal(0)}, Decimal(0)
    workers: list[tuple[Admission, Ledger]] = []
    for number in range(3):
        admission = world.admission(f"v{number}")
        workers.append((admission, world.ledger(f"v{number}", admission)))
    for _ in range(220):
        at = chance.randrange(len(workers))
        admission, ledger = workers[at]
        call = dataclasses.replace(world.call(output=chance.choice([5, 20, 40])), messages=(Message("user", "x"),))
        if chance.random() < 0.03:
            # A disk is lost too: what that worker held counts as spent.
            spoiled += await admission.write_off(f"v{at}" if at < 3 and dead == 0 else vars(admission)["_worker"])
            dead += 1
            admission = world.admission(f"r{dead}")
            workers[at] = (admission, world.ledger(f"r{dead}", admission))
            continue
        try:
            async with ledger.entry(call) as entry:
                await admission.admit(call, world.model, entry)
                entry.deployment = world.deployment
                entry.usage = Usage(output_tokens=chance.randrange(0, 45))
                beyond["money"] += max(Decimal(0), Decimal(entry.usage.output_tokens) / 1000 - entry.reserved)
                entry.receipt()
        except BudgetExceeded:
            continue
        if chance.random() < 0.2:
            await ledger.flush()
            await admission.tick(idle_s=0)
    for _, ledger in workers:
        await ledger.flush()
    rows = {(row["scope"], row["measure"]): row for row in await here.admission.limits.standings()}
    assert rows["organisation", "money"]["spent"] <= Decimal("1.2") + beyond["money"]
    assert rows["project", "money"]["spent"] <= 1 + beyond["money"]
    assert rows["system", "requests"]["spent"] <= 150 + dead
    assert dead >= 1
