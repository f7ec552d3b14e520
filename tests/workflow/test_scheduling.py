"""Who begins when: lines per project, bounds, priority, hours, money of items, items tried again, workers that die."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from metier.calls import JSON, Principal, ProjectId, RunId
from metier.errors import ConfigError, Invalid, NotAllowed
from metier.store import Store
from metier.vault import Vault
from metier.workflow.definition import OnError, Step, Workflow
from metier.workflow.dispatch import Pace
from metier.workflow.engine import Engine, StepContext
from metier.workflow.limits import Limit, Limits
from metier.workflow.operations import Operations
from metier.workflow.review import Review, Reviewer, TaskDesk
from tests.workflow.flows import WHO, Counting, Ticking, flow, step

ZOE = Reviewer("zoe", frozenset({"sav", "admins"}))
NARROW = Pace(concurrency=4)
ALONE = Pace(concurrency=1)


def of(project: str) -> Principal:
    return dataclasses.replace(WHO, project=ProjectId(project))


async def statuses(engine: Engine, runs: list[RunId]) -> list[str]:
    return [(await engine.get(run)).status for run in runs]


class Order:
    """A step that notes who was let through, in which order, and how many at once."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.under: dict[str, int] = {}
        self.most: dict[str, int] = {}

    async def __call__(self, context: StepContext, given: dict[str, JSON]) -> JSON:
        who = str(given.get("who", context.principal.project))
        self.seen.append(who)
        self.under[who] = self.under.get(who, 0) + 1
        self.most[who] = max(self.most.get(who, 0), self.under[who])
        await asyncio.sleep(0)
        self.under[who] -= 1
        return None


async def test_the_single_run_of_a_project_does_not_wait_behind_the_many_of_another(store: Store, vault: Vault) -> None:
    order = Order()
    engine = Engine(store, vault, {"code": order}, pace=ALONE)
    many = [await engine.start(flow(step("a")), {}, of("many")) for _ in range(30)]
    assert (await statuses(engine, many)).count("pending") == 1, "the rest waits in line"
    single = await engine.start(flow(step("a")), {}, of("single"))
    assert (await engine.get(single)).status == "pending"
    await engine.drain()
    assert order.seen.index("single") <= 1, "at most the one that was let in already comes first"
    assert await statuses(engine, many) == ["done"] * 30


async def test_wakes_of_many_runs_take_turns_with_those_of_others(store: Store, vault: Vault) -> None:
    order = Order()
    engine = Engine(store, vault, {"code": order}, pace=ALONE)
    wait = step("wait", "wait", {"event": "go", "key": "{{ inputs.key }}"})
    for project, number in (("many", 20), ("few", 2)):
        for _ in range(number):
            await engine.start(flow(wait, step("a")), {"key": "k"}, of(project))
    await engine.drain()
    for project in ("many", "few"):
        await engine.emit(None, ProjectId(project), "go", "k", None, id=f"{project}-1")
    await engine.drain()
    assert len(order.seen) == 22
    assert max(index for index, who in enumerate(order.seen) if who == "few") <= 5


async def test_a_project_never_holds_every_slot(store: Store, vault: Vault) -> None:
    order = Order()
    engine = Engine(store, vault, {"code": order}, pace=NARROW)
    runs = [await engine.start(flow(step("a")), {}, of("many")) for _ in range(12)]
    assert (await statuses(engine, runs)).count("pending") == 3
    engine.limit(Limits(share=1))
    await engine.drain()
    assert await statuses(engine, runs) == ["done"] * 12


async def test_projects_and_flows_are_bounded(store: Store, vault: Vault) -> None:
    order = Order()
    engine = Engine(store, vault, {"code": order}, pace=Pace(concurrency=10))
    engine.limit(Limits(projects={"a": Limit(concurrency=2)}, flows={"slow": Limit(concurrency=1)}))
    slow = flow(step("a", with_={"who": "slow"}), name="slow")
    started = [await engine.start(flow(step("a")), {}, of("a")) for _ in range(8)]
    started += [await engine.start(slow, {}, of(project)) for project in ("b", "c", "b", "c")]
    found = await statuses(engine, started)
    assert found[:8].count("pending") == 2
    assert found[8:].count("pending") == 1
    await engine.drain()
    assert await statuses(engine, started) == ["done"] * 12
    assert order.most["a"] <= 2
    assert order.most["slow"] == 1


async def test_starts_of_a_project_are_spread_over_minutes(store: Store, vault: Vault) -> None:
    clock = Ticking()
    engine = Engine(store, vault, {"code": Counting()}, clock=clock)
    engine.limit(Limits(projects={"a": Limit(rate=2)}))
    runs = [await engine.start(flow(step("a")), {}, of("a")) for _ in range(5)]
    for done in (2, 4, 5):
        await engine.drain()
        assert (await statuses(engine, runs)).count("done") == done
        clock.forward(61)


async def test_a_clock_that_was_an_hour_fast_stops_no_run_once_it_is_right_again(store: Store, vault: Vault) -> None:
    clock = Ticking()
    engine = Engine(store, vault, {"code": Counting()}, clock=clock)
    engine.limit(Limits(projects={"a": Limit(rate=2)}, flows={"flow": Limit(rate=2)}))
    right = clock.now
    clock.forward(3600)
    early = [await engine.start(flow(step("a")), {}, of("a")) for _ in range(3)]
    await engine.drain()
    assert (await statuses(engine, early)).count("done") == 2
    clock.now = right
    await engine.drain()
    assert await statuses(engine, early) == ["done"] * 3


async def test_priority_goes_first_and_ages(store: Store, vault: Vault) -> None:
    order = Order()
    engine = Engine(store, vault, {"code": order}, pace=ALONE)

    async def start(who: str, priority: int = 0) -> RunId:
        return await engine.start(flow(step("a", with_={"who": who})), {}, WHO, priority=priority)

    await start("first")
    await start("usual")
    old = await start("old")
    await start("urgent", 10)
    async with store.transaction() as tx:
        await tx.execute("UPDATE runs SET place = place - interval '11 minutes' WHERE id = %s", (old,))
    await engine.drain()
    assert order.seen == ["first", "old", "urgent", "usual"]


async def test_runs_begin_in_their_hours_only(store: Store, vault: Vault) -> None:
    clock = Ticking()
    clock.now = datetime(2026, 3, 2, 12, tzinfo=UTC)
    engine = Engine(store, vault, {"code": Counting()}, clock=clock)
    engine.limit(Limits(flows={"flow": Limit(window="22:00-06:00 Europe/Paris")}))
    night = await engine.start(flow(step("a")), {}, WHO)
    noon = await engine.start(flow(step("a")), {}, WHO, window="12:00-14:00 UTC")
    always = await engine.start(flow(step("a")), {}, WHO, window="always")
    await engine.drain()
    assert await statuses(engine, [night, noon, always]) == ["queued", "done", "done"]
    clock.now = datetime(2026, 3, 2, 20, 59, tzinfo=UTC)
    await engine.drain()
    assert (await engine.get(night)).status == "queued"
    clock.now = datetime(2026, 3, 2, 21, 1, tzinfo=UTC)
    await engine.drain()
    assert (await engine.get(night)).status == "done"
    with pytest.raises(Invalid, match="write hours and a zone"):
        await engine.start(flow(step("a")), {}, WHO, window="at night")


async def test_a_fork_keeps_the_hours_a_run_was_asked_for_with(store: Store, vault: Vault) -> None:
    clock, one = Ticking(), flow(step("a"))
    clock.now = datetime(2026, 3, 2, 12, tzinfo=UTC)
    engine = Engine(store, vault, {"code": Counting()}, clock=clock)
    operations = Operations(store, vault, engine, None)
    engine.limit(Limits(flows={"flow": Limit(window="22:00-06:00 UTC")}))
    plain, always = await engine.start(one, {}, WHO), await engine.start(one, {}, WHO, window="always")
    later = await engine.start(one, {}, WHO, window="14:00-15:00 UTC")
    engine.limit(Limits(flows={"flow": Limit(window="20:00-21:00 UTC")}))
    made = [(await operations.fork(run, one))[0] for run in (plain, always, later)]
    made.append((await operations.fork(made[2], one))[0])
    made.append((await operations.fork(later, one, window="16:00-17:00 UTC"))[0])
    made.append((await operations.fork(made[4], one))[0])
    found = [(await engine.get(run)).hours for run in made]
    assert found[:2] == ["20:00-21:00 UTC", None], "where none was asked for, those of its flow hold as they are now"
    assert found[2:] == ["14:00-15:00 UTC"] * 2 + ["16:00-17:00 UTC"] * 2
    await engine.drain()
    assert await statuses(engine, made) == ["queued", "done", *["queued"] * 4]
    with pytest.raises(Invalid, match="write hours and a zone"):
        await operations.fork(plain, one, window="at night")


async def test_hours_that_go_by_while_runs_are_in_line_come_again(store: Store, vault: Vault) -> None:
    clock = Ticking()
    clock.now = datetime(2026, 3, 2, 23, tzinfo=UTC)
    engine = Engine(store, vault, {"code": Counting()}, clock=clock, pace=ALONE)
    runs = [await engine.start(flow(step("a")), {}, WHO, window="22:00-06:00 UTC") for _ in range(3)]
    clock.now = datetime(2026, 3, 3, 7, tzinfo=UTC)
    await engine.drain()
    assert sorted(await statuses(engine, runs)) == ["done", "queued", "queued"]
    clock.now = datetime(2026, 3, 3, 22, 30, tzinfo=UTC)
    await engine.drain()
    assert await statuses(engine, runs) == ["done"] * 3


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ({"projects": {"a": {"concurrency": 0}}}, "workflows.projects.a.concurrency"),
        ({"flows": {"f": {"window": "night"}}}, "workflows.flows.f.window"),
        ({"projects": {"a": {"window": "22:00-06:00 UTC"}}}, "unknown entry 'window'"),
        ({"share": 2}, "workflows.share"),
        ({"tenants": {}}, "unknown entry 'tenants'"),
        ([], "is a list"),
        ({"flows": {"f": {"rate": True}}}, "workflows.flows.f.rate"),
    ],
)
def test_a_wrong_section_says_what_is_wrong(section: object, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Limits.from_yaml(section)


def test_a_section_is_read() -> None:
    read = Limits.from_yaml({
        "share": 0.5, "projects": {"a": {"concurrency": 5, "rate": 60}},
        "flows": {"f": {"window": "22:00-06:00 Europe/Paris"}, "g": {"window": "always"}},
    })  # fmt: skip
    assert read.projects["a"] == Limit(5, 60)
    assert read.flows == {"f": Limit(window="22:00-06:00 Europe/Paris"), "g": Limit()}
    assert [read.cap(slots) for slots in (1, 2, 10, 20)] == [1, 1, 5, 10]
    assert [Limits().cap(slots) for slots in (1, 2, 4, 10, 20)] == [1, 1, 3, 8, 16]
    assert Limits.from_yaml(None) == Limits()


def items(**config: JSON) -> Step:
    body = step("do", with_={"x": "{{ item }}"})
    return step("each", "foreach", {"over": "{{ inputs.all }}", "max": 50, "as": "runs", **config}, steps=(body,))


def fan(each: Step, budget: str | None = None) -> Workflow:
    return flow(each, output="{{ steps.each.items }}", budget=budget)


class Moody:
    """A step that refuses some numbers until it is told better."""

    def __init__(self, *refused: int) -> None:
        self.refused = {*refused}
        self.seen: list[JSON] = []

    async def __call__(self, context: StepContext, given: Mapping[str, JSON]) -> JSON:
        self.seen.append(given["x"])
        if given["x"] in self.refused:
            raise NotAllowed("not today")
        return given["x"]


async def test_only_the_items_that_failed_run_again_when_their_parent_is_resumed(store: Store, vault: Vault) -> None:
    moody = Moody(1, 3)
    engine = Engine(store, vault, {"code": moody})
    run = await engine.start(fan(items(concurrency=5)), {"all": [0, 1, 2, 3, 4]}, WHO)
    await engine.drain()
    failure = (await engine.get(run)).failure
    assert failure is not None
    assert (failure.path, failure.attempt) == ("each[1]", 1)
    moody.refused, moody.seen = {3}, []
    await engine.resume(run)
    await engine.drain()
    assert sorted(map(str, moody.seen)) == ["1", "3"]
    failure = (await engine.get(run)).failure
    assert failure is not None
    assert (failure.path, failure.attempt) == ("each[3]", 2)
    moody.refused, moody.seen = set(), []
    await engine.resume(run)
    await engine.drain()
    assert moody.seen == [3]
    assert await engine.result(run) == [0, 1, 2, 3, 4]
    assert not (await engine.replay(run)).differences


@pytest.mark.parametrize("decision", ["retry", "output", "fail"])
async def test_a_person_decides_about_items_that_failed(store: Store, vault: Vault, decision: str) -> None:
    moody = Moody(1)
    engine = Engine(store, vault, {"code": moody}, desk=TaskDesk(store, vault))
    review = Review(store, vault, engine)
    each = dataclasses.replace(items(), on_error=OnError(None, "human", "group:sav"))
    run = await engine.start(fan(each), {"all": [0, 1, 2]}, WHO)
    await engine.drain()
    assert (await engine.get(run)).status == "parked"
    (task,) = await review.list(ZOE)
    moody.refused = set()
    told: dict[str, JSON] = {"decision": decision}
    await review.decide(task.id, ZOE, told | ({"output": {"items": ["mine"]}} if decision == "output" else {}))
    await engine.drain()
    if decision == "fail":
        assert (await engine.get(run)).status == "failed"
    else:
        assert await engine.result(run) == ([0, 1, 2] if decision == "retry" else ["mine"])


async def test_items_side_by_side_cannot_spend_more_than_their_parent_has(store: Store, vault: Vault) -> None:
    spent: list[Decimal] = []

    async def dear(context: StepContext, given: dict[str, JSON]) -> JSON:
        left = context.budget_left_eur
        assert left is not None
        cost = min(left, Decimal("0.06"))
        context.spend(cost)
        spent.append(cost)
        await asyncio.sleep(0.01)
        return None

    engine = Engine(store, vault, {"code": dear})
    each = items(concurrency=5, on_item_error="collect")
    run = await engine.start(fan(each, budget="0.20"), {"all": [*range(10)]}, WHO)
    await engine.drain()
    assert sum(spent) <= Decimal("0.20")
    assert (await engine.get(run)).cost_eur <= Decimal("0.20")
    assert len(spent) >= 5
