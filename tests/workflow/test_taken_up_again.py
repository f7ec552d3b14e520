"""What is taken up and woken below a resumed run, attacked: dropped, failed again, asked, waited for, lent, cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal

import pytest

from metier.calls import JSON, RunId
from metier.errors import Conflict
from metier.store import Store
from metier.vault import Vault
from metier.workflow.commands import ASK_HUMAN
from metier.workflow.definition import OnError, Step, Workflow
from metier.workflow.engine import StepContext
from tests.workflow.engines import Acting, House, InMemory, Made, OnPostgres, make
from tests.workflow.flows import WHO, step
from tests.workflow.test_taken_up import SUB, TIRED, calls, failed, resumed, through

__all__ = ["make"]

ASK = "flow: ask\nschema: 1\nsteps:\n  - {id: ask, human: {assign: group:sav, title: '?'}}\noutput: yes\n"
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


@pytest.mark.parametrize("when", ["while it was over", "afterwards"])
async def test_what_was_left_behind_hears_the_event_it_waits_for(make: Made, when: str) -> None:
    house = make({})
    run, _ = await left(house, beside(step("sub", "call", {"flow": "l.yaml"}), files={"l.yaml": LISTEN}))
    if when == "while it was over":
        await house.engine.emit(None, WHO.project, "paid", "7", {"n": 1}, id="e1")
    await house.engine.resume(run)
    await house.settle()
    if when == "afterwards":
        await house.engine.emit(None, WHO.project, "paid", "7", {"n": 1}, id="e1")
        await house.settle()
    await whole(house, run)
    assert sorted(command[:2] for command in house.acting.commands) == [("after", 1), ("all[0].weak", 3)]
    assert (await house.engine.get(run)).cost_eur == Decimal("0.03")


@pytest.mark.parametrize("when", ["while it was over", "afterwards"])
async def test_a_run_that_failed_beside_a_wait_hears_its_event_once_resumed(make: Made, when: str) -> None:
    house = make({})
    run, _ = await left(house, beside(step("event", "wait", {"event": "paid", "key": "7"}), step("after")))
    if when == "while it was over":
        await house.engine.emit(None, WHO.project, "paid", "7", {"n": 1}, id="e1")
    await house.engine.resume(run)
    await house.settle()
    if when == "afterwards":
        await house.engine.emit(None, WHO.project, "paid", "7", {"n": 1}, id="e1")
        await house.settle()
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

    async def __call__(self, context: StepContext, given: dict[str, JSON]) -> JSON:
        if context.path == "weak" and context.attempt < 5:
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
