"""What is taken up and woken below a resumed run, attacked: dropped, failed again, asked, waited for, lent, cut."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal

import pytest

from metier.calls import JSON, RunId
from metier.catalog import Catalog
from metier.errors import Conflict
from metier.store import Store
from metier.vault import Vault
from metier.workflow.commands import ASK_HUMAN
from metier.workflow.definition import OnError, RunBudget, Step, Workflow
from metier.workflow.dispatch import Dispatch
from metier.workflow.engine import Engine, StepContext
from metier.workflow.foresee import Foresight
from metier.workflow.journal import Hold, Journal, LostRun
from metier.workflow.looking import Chosen
from metier.workflow.operations import Operations
from metier.workflow.rerun import Again, Rerun
from metier.workflow.reviving import Reviving
from tests.workflow.engines import QUICK, Acting, House, InMemory, Made, OnPostgres, functions, make
from tests.workflow.flows import WHO, step
from tests.workflow.test_rerun import Nobody
from tests.workflow.test_taken_up import SUB, TIRED, calls, failed, resumed, through

__all__ = ["make"]

ASK = "flow: ask\nschema: 1\nsteps:\n  - {id: ask, human: {assign: group:sav, title: '?'}}\noutput: yes\n"
ASKED = "  - {id: ask, human: {assign: group:sav, title: '?'}}\n"
LISTEN = """
flow: listen
schema: 1
steps:
  - {id: before, code: any, with: {eur: "0.02"}}
  - {id: event, wait: {event: paid, key: "7"}}
  - {id: after, code: any, with: {eur: "0.01"}}
output: "{{ steps.event.data }}"
"""


def beside(*under_way: Step, files: Mapping[str, str] | None = None) -> Workflow:
    """Make a flow that fails once a person says so, too far from what is under way beside it to wait for that."""
    gate = step("gate", "human", {"assign": "group:sav", "title": "?"}, when="item == 1")
    weak = step("weak", with_={"do": "later"}, retry=TIRED, when="item == 1")
    late = [replace(one, when="item == 3") for one in under_way]
    return replace(through(gate, weak, *late, concurrency=2, **{"as": "paths"}), files=dict(files or {}))


async def left(house: House, workflow: Workflow) -> tuple[RunId, list[RunId]]:
    """Start such a flow and let it fail; give it and the runs it has left behind."""
    run = await house.engine.start(workflow, {"all": [1, 2, 3]}, WHO)
    await house.settle()
    below = [one.id for one in await house.engine.list() if one.parent is not None]
    await house.decide(run, ("all[0].gate", 1, ""), {"decision": "approve"})
    await house.settle()
    assert (await house.engine.get(run)).status == "failed"
    for one in below:
        assert (await house.engine.get(one)).status == "cancelled"
    house.acting.commands.clear()
    return run, below


async def whole(house: House, run: RunId) -> None:
    """See that a family is done and that every journal of it can be gone through again."""
    for one in await house.engine.list():
        if one.status in ("done", "failed"):
            assert (await house.engine.replay(one.id)).differences == (), one
    found = await house.engine.get(run)
    assert found.status == "done", (found.status, found.failure)


async def told_and_resumed(house: House, run: RunId, when: str) -> None:
    """Resume a run, and tell the event it waits for before that or after."""
    if when == "while it was over":
        await house.engine.emit(None, WHO.project, "paid", "7", {"n": 1}, id="e1")
    await house.engine.resume(run)
    await house.settle()
    if when == "afterwards":
        await house.engine.emit(None, WHO.project, "paid", "7", {"n": 1}, id="e1")
        await house.settle()


@pytest.mark.parametrize("when", ["while it was over", "afterwards"])
async def test_what_was_left_behind_hears_the_event_it_waits_for(make: Made, when: str) -> None:
    house = make({})
    run, _ = await left(house, beside(step("sub", "call", {"flow": "l.yaml"}), files={"l.yaml": LISTEN}))
    await told_and_resumed(house, run, when)
    await whole(house, run)
    assert sorted(command[:2] for command in house.acting.commands) == [("after", 1), ("all[0].weak", 3)]
    assert (await house.engine.get(run)).cost_eur == Decimal("0.03")


@pytest.mark.parametrize("when", ["while it was over", "afterwards"])
async def test_a_run_that_failed_beside_a_wait_hears_its_event_once_resumed(make: Made, when: str) -> None:
    house = make({})
    run, _ = await left(house, beside(step("event", "wait", {"event": "paid", "key": "7"}), step("after")))
    await told_and_resumed(house, run, when)
    await whole(house, run)
    assert sorted(command[:2] for command in house.acting.commands) == [("all[0].weak", 3), ("all[2].after", 1)]


async def test_a_wait_whose_time_is_over_when_its_run_is_resumed_ends(store: Store, vault: Vault) -> None:
    house = OnPostgres(store, vault, {})
    waits = step("event", "wait", {"event": "paid", "key": "7"}, timeout_s=1, on_error=OnError(None, "continue"))
    run, _ = await left(house, beside(waits))
    async with store.connection() as connection:
        await connection.execute("SELECT pg_sleep(1.1)")
    await house.engine.resume(run)
    await house.settle()
    await whole(house, run)


class Asking(Acting):
    """Lets some steps ask a run of another flow, as agents do."""

    async def __call__(self, context: StepContext, given: dict[str, JSON]) -> JSON:
        if given.get("do") == "flow":
            self.commands.append((context.path, context.attempt, ""))
            return context.returned("other", str(given["flow"]), {}).value
        return await super().__call__(context, given)


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("kind", ["memory", "postgresql"])
async def test_a_flow_asked_by_a_step_answers_though_its_asker_was_left_behind(
    store: Store, vault: Vault, kind: str, deep: bool
) -> None:
    house: House = InMemory({}, Asking()) if kind == "memory" else OnPostgres(store, vault, {}, Asking())
    asks = (
        "flow: asks\nschema: 1\nsteps:\n  - {id: agent, code: any, with: {do: flow, flow: ask.yaml}}\n"
        "  - {id: never, when: 'false', call: {flow: ask.yaml}}\noutput: '{{ steps.agent }}'\n"
    )
    under_way = (
        step("sub", "call", {"flow": "asks.yaml"}) if deep else step("a", with_={"do": "flow", "flow": "ask.yaml"})
    )
    run, below = await left(house, beside(under_way, files={"ask.yaml": ASK, "asks.yaml": asks}))
    assert len(below) == 1 + deep
    await house.engine.resume(run)
    await house.settle()
    (asked,) = [one.id for one in await house.engine.list() if one.workflow == "ask"]
    assert (await house.engine.get(asked)).status == "parked"
    await house.decide(asked, ("ask", 1, ""), {"decision": "approve"})
    await house.settle()
    await whole(house, run)
    assert len(await house.engine.list()) == 2 + deep


async def test_who_said_that_a_step_below_fails_does_not_say_so_for_ever(make: Made) -> None:
    house = make({})
    sub = "flow: sub\nschema: 1\nsteps:\n  - id: weak\n    code: any\n    with: {do: later}\n" + (
        "    retry: {max: 1, backoff: constant, first: 1ms}\n    on_error: {then: human, assign: group:sav}\n"
    )
    made = replace(calls(), files={"sub.yaml": sub})
    run = await house.engine.start(made, {}, WHO)
    await house.settle()
    (below,) = [one.id for one in await house.engine.list() if one.parent == run]
    await house.decide(below, ("weak", 2, ASK_HUMAN), {"decision": "fail"})
    await house.settle()
    assert (await house.engine.get(run)).status == "failed"
    house.acting.commands.clear()
    await resumed(house, run)
    assert [command[:2] for command in house.acting.commands] == [("weak", 3)]


class Stubborn(Acting):
    """Fails as often as it is told to, however often it is tried."""

    patience = 5

    async def __call__(self, context: StepContext, given: dict[str, JSON]) -> JSON:
        if context.path == "weak" and context.attempt < self.patience:
            given = {**given, "do": "refuse"}
        return await super().__call__(context, given)


@pytest.mark.parametrize("items", [False, True])
@pytest.mark.parametrize("kind", ["memory", "postgresql"])
async def test_what_fails_again_and_again_costs_each_time_what_it_cost(
    store: Store, vault: Vault, kind: str, items: bool
) -> None:
    house: House = InMemory({}, Stubborn()) if kind == "memory" else OnPostgres(store, vault, {}, Stubborn())
    sub = step("sub", "call", {"flow": "sub.yaml"})
    made = through(sub, **{"as": "runs"}, concurrency=2) if items else calls()
    run = await failed(house, replace(made, files={"sub.yaml": SUB}), {"all": [1, 2]} if items else {})
    cost, many = Decimal("0.03"), 2 if items else 1
    for _ in range(3):
        found = await house.engine.get(run)
        assert (found.status, found.cost_eur) == ("failed", cost * many)
        await house.engine.resume(run)
        with pytest.raises(Conflict):
            await house.engine.resume(run)
        await house.settle()
        cost += Decimal("0.01")
    await house.engine.resume(run)
    await house.settle()
    await whole(house, run)
    assert (await house.engine.get(run)).cost_eur == (cost + Decimal("0.01")) * many
    assert [command[0] for command in house.acting.commands].count("dear") == 0
    assert len(await house.engine.list()) == (5 if items else 2)


async def test_items_dropped_from_the_line_once_more_keep_what_they_have_done(store: Store, vault: Vault) -> None:
    acting = Stubborn()
    house = OnPostgres(store, vault, {}, acting)
    dear = step("dear", with_={"eur": "0.02"})
    weak = step("weak", with_={"eur": "0.01"})
    run = await failed(house, through(dear, weak, **{"as": "runs"}, concurrency=3), {"all": [1, 2, 3]})
    assert (await house.engine.get(run)).cost_eur == Decimal("0.09")
    # One worker with room for one: the first item fails once more while the others are in line.
    narrow = Engine(store, vault, functions(acting), desk=house, pace=replace(QUICK, concurrency=1))
    for more in range(1, 3):
        await narrow.resume(run)
        await narrow.drain()
        found = await narrow.get(run)
        assert (found.status, found.cost_eur) == ("failed", Decimal("0.09") + more * Decimal("0.01"))
        assert sorted(one.status for one in await narrow.below(run)) == ["cancelled", "cancelled", "failed"]
    acting.patience = 1
    await narrow.resume(run)
    await narrow.drain()
    await whole(house, run)
    assert len(await narrow.below(run)) == 3
    assert not any(command[0] == "dear" for command in acting.commands)
    assert (await narrow.get(run)).cost_eur == Decimal("0.14")


async def test_what_is_below_an_item_in_line_ends_and_is_heard(store: Store, vault: Vault) -> None:
    house = OnPostgres(store, vault, {})
    inner = beside(step("sub", "call", {"flow": "l.yaml"})).steps[0]
    inside = replace(inner, id="in", config={**inner.config, "over": "{{ [1, 2, 3] }}"})  # type: ignore[dict-item]  # its config is a map
    made = replace(through(inside, **{"as": "runs"}), files={"l.yaml": LISTEN})
    run = await house.engine.start(made, {"all": [1]}, WHO)
    await house.settle()
    (item,) = [one.id for one in await house.engine.list() if one.parent == run]
    (below,) = [one.id for one in await house.engine.list() if one.parent == item]
    await house.decide(item, ("in[0].gate", 1, ""), {"decision": "approve"})
    await house.settle()
    assert [(await house.engine.get(one)).status for one in (run, item, below)] == ["failed", "failed", "cancelled"]
    await house.engine.emit(None, WHO.project, "paid", "7", {"n": 1}, id="e1")
    await house.engine.resume(run)
    dispatch = Dispatch(store)
    async with store.transaction() as tx:
        await dispatch.abort(tx, run)
    row = await store.queries("engine").one("take", {"id": run})
    assert row is not None
    hold, place = Hold(run, row["epoch"]), {"parent": run, "path": "all", "attempt": 2}
    await Reviving(store, vault, dispatch, Journal(store, vault)).items(hold, place, [0])
    await house.settle()
    assert [(await house.engine.get(one)).status for one in (run, item, below)] == ["running", "queued", "done"]
    await house.engine.recover()
    await house.settle()
    await whole(house, run)
    assert (await house.engine.get(run)).cost_eur == Decimal("0.03")


async def test_a_worker_that_lost_the_run_takes_up_none_of_its_items(store: Store, vault: Vault) -> None:
    house = OnPostgres(store, vault, {})
    weak = step("weak", with_={"do": "later"}, retry=TIRED)
    run = await failed(house, through(weak, **{"as": "runs"}), {"all": [1]})
    await house.engine.cancel(run)
    reviving, place = Reviving(store, vault, Dispatch(store), Journal(store, vault)), {"parent": run, "path": "all"}
    with pytest.raises(LostRun):
        await reviving.items(Hold(run, 2), {**place, "attempt": 2}, [0])
    assert [one.status for one in await house.engine.below(run)] == ["failed"]


async def test_done_again_from_a_step_what_went_on_beside_it_goes_on(store: Store, vault: Vault) -> None:
    house = OnPostgres(store, vault, {})
    operations = Operations(store, vault, house.engine, None)
    run, (below,) = await left(house, beside(step("sub", "call", {"flow": "ask.yaml"}), files={"ask.yaml": ASK}))
    await operations.retry(run, "all[0].gate", "zoe")
    await house.settle()
    assert [(await house.engine.get(one)).status for one in (run, below)] == ["parked", "parked"]
    await house.decide(below, ("ask", 1, ""), {"decision": "approve"})
    await house.settle()
    await house.decide(run, ("all[0].gate", 1, ""), {"decision": "approve"})
    await house.settle()
    # It begins with its first try, and fails as it did before; what was beside it has ended.
    assert (await house.engine.get(run)).status == "failed"
    assert (await house.engine.get(below)).status == "done"
    await house.engine.resume(run)
    await house.settle()
    await whole(house, run)
    assert len(await house.engine.below(run)) == 1


async def test_what_was_set_aside_is_not_woken_with_the_rest(store: Store, vault: Vault) -> None:
    house = OnPostgres(store, vault, {})
    operations = Operations(store, vault, house.engine, None)
    run, (below,) = await left(house, beside(step("sub", "call", {"flow": "ask.yaml"}), files={"ask.yaml": ASK}))
    await operations.retry(run, "all[2].sub", "zoe")
    await house.settle()
    assert (await house.engine.get(run)).status == "failed"
    await house.engine.resume(run)
    await house.settle()
    assert (await house.engine.get(below)).status == "cancelled"
    (other,) = [one for one in await house.engine.below(run) if one.status == "parked"]
    await house.decide(other.id, ("ask", 1, ""), {"decision": "approve"})
    await house.settle()
    assert (await house.engine.get(run)).status == "done"


async def test_what_was_paused_when_its_run_failed_goes_on_with_it(store: Store, vault: Vault) -> None:
    house = OnPostgres(store, vault, {})
    operations = Operations(store, vault, house.engine, None)
    made = beside(step("sub", "call", {"flow": "l.yaml"}), files={"l.yaml": LISTEN})
    run = await house.engine.start(made, {"all": [1, 2, 3]}, WHO)
    await house.settle()
    (below,) = [one.id for one in await house.engine.below(run)]
    await operations.pause(below)
    await house.decide(run, ("all[0].gate", 1, ""), {"decision": "approve"})
    await house.settle()
    assert (await house.engine.get(below)).status == "cancelled"
    await house.engine.emit(None, WHO.project, "paid", "7", {"n": 1}, id="e1")
    await house.engine.resume(run)
    await house.settle()
    await whole(house, run)


async def test_what_was_lent_below_is_not_more_than_is_left_above(make: Made) -> None:
    house = make({})
    sub = "flow: sub\nschema: 1\nbudget: {per_run_eur: 0.02, on_exceed: fail}\nsteps:\n" + "".join(
        f"  - {{id: {id}, code: any, with: {{eur: '{eur}'}}}}\n"
        for id, eur in (("a", "0.02"), ("b", "0.01"), ("c", "0.01"), ("d", "0.01"))
    )
    made = replace(calls(), files={"sub.yaml": sub}, budget=RunBudget(Decimal("0.03"), "fail"))
    run = await failed(house, made)
    for cost in ("0.03", "0.04", "0.05"):
        await house.engine.resume(run)
        await house.settle()
        assert (await house.engine.get(run)).cost_eur == Decimal(cost)
    await whole(house, run)
    assert [command[0] for command in house.acting.commands] == ["b", "c", "d"]


async def test_a_failed_run_below_one_that_went_on_is_left_as_it_ended(make: Made) -> None:
    house = make({})
    run = await house.engine.start(calls(on_error=OnError(None, "continue")), {}, WHO)
    await house.settle()
    (below,) = [one.id for one in await house.engine.list() if one.parent == run]
    if isinstance(house, OnPostgres):
        async with house.store.transaction() as tx:
            assert not await house.engine.retry(tx, below, "weak", {"delivery": "delivered"})
    else:
        assert not await house.engine.retry(None, below, "weak", {"delivery": "delivered"})
    await whole(house, run)


async def test_of_two_who_resume_at_once_one_does_and_a_cancel_is_final(store: Store, vault: Vault) -> None:
    house = OnPostgres(store, vault, {})
    run = await failed(house, calls())
    came = await asyncio.gather(*(house.engine.resume(run) for _ in range(4)), return_exceptions=True)
    assert [type(one) for one in came if one is not None] == [Conflict] * 3
    await house.engine.cancel(run)
    with pytest.raises(Conflict):
        await house.engine.resume(run)
    await house.settle()
    assert house.acting.commands == []
    assert sorted(one.status for one in await house.engine.list()) == ["cancelled", "failed"]


async def test_what_is_taken_up_under_a_pause_stands_still_until_it_is_over(store: Store, vault: Vault) -> None:
    house = OnPostgres(store, vault, {})
    operations = Operations(store, vault, house.engine, None)
    run = await failed(house, calls())
    await house.engine.resume(run)
    await operations.pause(run)
    await house.settle()
    assert house.acting.commands == []
    await operations.unpause(run)
    await house.settle()
    await whole(house, run)
    assert [command[:2] for command in house.acting.commands] == [("weak", 3)]


async def test_what_died_below_a_run_goes_on_with_it(store: Store, vault: Vault) -> None:
    house = OnPostgres(store, vault, {})
    made = replace(calls(), files={"sub.yaml": SUB.replace("  - {id: weak", ASKED + "  - {id: weak")})
    run = await house.engine.start(made, {}, WHO)
    await house.settle()
    (below,) = [one.id for one in await house.engine.below(run)]
    async with store.connection() as connection:  # what workers leave that die again and again in the same step
        await connection.execute(
            "UPDATE runs SET status = 'running', strikes = 5, progress = 1 WHERE id = %s", (below,)
        )
    await house.engine.recover()
    await house.settle()
    assert [(await house.engine.get(one)).status for one in (run, below)] == ["failed", "dead"]
    assert (await house.engine.get(run)).cost_eur == Decimal("0.02")
    await house.engine.resume(run)
    await house.settle()
    await house.decide(below, ("ask", 1, ""), {"decision": "approve"})
    await house.settle()
    assert (await house.engine.get(run)).status == "failed"
    await house.engine.resume(run)
    await house.settle()
    await whole(house, run)
    assert (await house.engine.get(run)).cost_eur == Decimal("0.05")
    assert [command[0] for command in house.acting.commands].count("dear") == 1


async def test_what_a_person_cancelled_below_goes_on_with_the_run_above(make: Made) -> None:
    house = make({})
    made = replace(calls(), files={"sub.yaml": SUB.replace("  - {id: weak", ASKED + "  - {id: weak")})
    run = await house.engine.start(made, {}, WHO)
    await house.settle()
    (below,) = [one.id for one in await house.engine.list() if one.parent == run]
    await house.engine.cancel(below)
    await house.settle()
    assert (await house.engine.get(run)).status == "failed"
    await house.engine.resume(run)
    await house.settle()
    assert [one.id for one in await house.engine.list() if one.parent == run] == [below]
    assert (await house.engine.get(below)).status == "parked"
    await house.decide(below, ("ask", 1, ""), {"decision": "approve"})
    await house.settle()
    await house.engine.resume(run)
    await house.settle()
    await whole(house, run)
    assert [command[0] for command in house.acting.commands].count("dear") == 1
    assert (await house.engine.get(run)).cost_eur == Decimal("0.05")


@pytest.mark.parametrize("seed", range(3))
async def test_people_who_click_at_once_on_a_family_wait_for_each_other_in_no_circle(
    store: Store, vault: Vault, seed: int
) -> None:
    house = OnPostgres(store, vault, {})
    operations = Operations(store, vault, house.engine, None)
    sub = step("sub", "call", {"flow": "sub.yaml"})
    made = replace(through(sub, **{"as": "runs"}, concurrency=2), files={"sub.yaml": SUB})
    run = await failed(house, made, {"all": [1, 2, 3]})
    chance = random.Random(seed)
    family = [one.id for one in await house.engine.below(run)]
    clicks = [operations.resume, house.engine.cancel, operations.pause, operations.unpause]
    for _ in range(4):
        chosen = [chance.choice(clicks)(chance.choice([run, run, *family])) for _ in range(6)]
        came = await asyncio.gather(house.engine.drain(), *chosen, return_exceptions=True)
        assert {type(one) for one in came if isinstance(one, BaseException)} <= {Conflict}, came
    for _ in range(6):
        await house.engine.recover()
        await house.settle()
        found = await house.engine.get(run)
        if found.status in ("done", "cancelled"):
            break
        await (operations.unpause(run) if found.status == "paused" else house.engine.resume(run))
    assert (await house.engine.get(run)).status in ("done", "cancelled")
    for one in await house.engine.list():
        assert one.status in ("done", "cancelled", "failed"), one
        if one.status in ("done", "failed"):
            assert (await house.engine.replay(one.id)).differences == (), one


async def test_many_families_go_on_together_and_can_be_forked_and_erased(store: Store, vault: Vault) -> None:
    house = OnPostgres(store, vault, {})
    operations = Operations(store, vault, house.engine, None)
    rerun = Rerun(house.engine, operations, Foresight(store, lambda: Catalog.from_yaml({}), {}, Nobody()))
    runs = [await failed(house, calls()) for _ in range(2)]
    done = await rerun.do(Chosen(statuses=("failed", "dead")), Again("resume"), "zoe")
    assert {one.run for one in done.able} == set(runs)
    await house.settle()
    for run in runs:
        await whole(house, run)
    assert [command[:2] for command in house.acting.commands] == [("weak", 3)] * 2
    house.acting.commands.clear()
    made = replace(calls(), output="another")
    fork, _ = await operations.fork(runs[0], replace(made, hash="another"))
    await house.settle()
    assert (await house.engine.result(fork), house.acting.commands) == ("another", [])
    await operations.retry(runs[0], "sub", "zoe")
    await house.settle()
    assert [command[:2] for command in house.acting.commands] == [("dear", 1), ("weak", 1), ("weak", 2)]
    assert sorted(one.status for one in await house.engine.below(runs[0])) == ["done", "failed"]
    assert (await house.engine.get(runs[0])).cost_eur == Decimal("0.09")
    async with store.connection() as connection:
        await connection.execute("UPDATE runs SET finished_at = now() - interval '9 days'")
    await operations.erase_older(WHO.project, 8)
    assert await house.engine.list() == ()
