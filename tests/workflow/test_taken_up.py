"""What failed below a run goes on when the run is resumed, and buys and does nothing a second time: on both engines."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from metier.calls import JSON, RunId
from metier.store import Store
from metier.vault import Vault
from metier.workflow.commands import ASK_HUMAN
from metier.workflow.definition import OnError, Retry, RunBudget, Step, Workflow
from metier.workflow.dispatch import Dispatch
from metier.workflow.journal import Hold, Journal
from metier.workflow.port import Run
from metier.workflow.reviving import Reviving
from tests.workflow.engines import House, Made, OnPostgres, make
from tests.workflow.flows import WHO, flow, step

__all__ = ["make"]

TIRED = Retry(1, "constant", 0)
"""Tries twice, where the step of the tests needs three tries: it fails once, and not when it is resumed."""
SUB = """
flow: sub
schema: 1
inputs: {}
steps:
  - {id: dear, code: any, with: {eur: "0.02"}}
  - {id: weak, code: any, with: {do: later, eur: "0.01"}, retry: {max: 1, backoff: constant, first: 1ms}}
output: "{{ steps.weak.path }}"
"""
OUTER = """
flow: outer
schema: 1
inputs: {}
steps:
  - {id: own, code: any, with: {eur: "0.04"}}
  - {id: inner, call: {flow: sub.yaml}}
output: "{{ steps.inner }}"
"""


def calls(name: str = "sub.yaml", **more: object) -> Workflow:
    made = flow(step("sub", "call", {"flow": name}, **more), output="{{ steps.sub }}")
    return replace(made, files={"sub.yaml": SUB, "outer.yaml": OUTER})


def through(*body: Step, **config: JSON) -> Workflow:
    each = step("all", "foreach", {"over": "{{ inputs.all }}", "max": 80, **config}, steps=body)
    return flow(each, output="{{ steps.all.items }}")


async def failed(house: House, workflow: Workflow, inputs: dict[str, JSON] | None = None) -> RunId:
    """Start a run that fails, and forget which functions it has called."""
    run = await house.engine.start(workflow, inputs or {}, WHO)
    await house.settle()
    assert (await house.engine.get(run)).status == "failed"
    house.acting.commands.clear()
    return run


async def resumed(house: House, run: RunId) -> Run:
    await house.engine.resume(run)
    await house.settle()
    found = await house.engine.get(run)
    assert found.status == "done", found.failure
    assert (await house.engine.replay(run)).differences == ()
    return found


async def test_a_called_flow_that_failed_goes_on_from_its_failed_step(make: Made) -> None:
    house = make({})
    run = await failed(house, calls())
    assert (await house.engine.get(run)).cost_eur == Decimal("0.04")
    found = await resumed(house, run)
    assert await house.engine.result(run) == "weak"
    assert [command[:2] for command in house.acting.commands] == [("weak", 3)]
    assert found.cost_eur == Decimal("0.05")
    assert len(await house.engine.list()) == 2


async def test_a_flow_called_by_one_that_was_called_goes_on_too(make: Made) -> None:
    house = make({})
    run = await failed(house, calls("outer.yaml"))
    found = await resumed(house, run)
    assert [command[:2] for command in house.acting.commands] == [("weak", 3)]
    assert found.cost_eur == Decimal("0.09")
    assert len(await house.engine.list()) == 3


async def test_items_that_failed_go_on_from_their_failed_steps(make: Made) -> None:
    house = make({})
    dear = step("dear", with_={"eur": "0.02", "n": "{{ item }}"})
    weak = step("weak", with_={"do": "{{ item == 'b' ? 'later' : null }}", "eur": "0.01"}, retry=TIRED)
    run = await failed(house, through(dear, weak, **{"as": "runs"}, concurrency=2), {"all": ["a", "b", "c", "d"]})
    found = await resumed(house, run)
    again = [command[:2] for command in house.acting.commands]
    assert again.count(("weak", 3)) == 1
    assert ("dear", 2) not in again
    # What was dropped from the line when one failed begins; what was done is not done again.
    assert len(again) % 2 == 1
    assert found.cost_eur == Decimal("0.14")
    assert len(await house.engine.result(run)) == 4  # type: ignore[arg-type]  # a list
    seen = [one.status for one in await house.engine.list()]
    assert seen.count("done") == 5 and set(seen) <= {"done", "cancelled"}


async def test_a_death_while_items_are_taken_up_loses_none(store: Store, vault: Vault) -> None:
    house = OnPostgres(store, vault, {})
    weak = step("weak", with_={"do": "{{ item < 3 ? 'later' : null }}"}, retry=TIRED)
    run = await failed(house, through(weak, **{"as": "runs"}, concurrency=4), {"all": [1, 2, 3, 4]})
    await house.engine.resume(run)
    # As far as a worker came that died: one item is in line again, and no line of the journal says so.
    row = await store.queries("engine").one("take", {"id": run})
    assert row is not None
    place = {"parent": run, "path": "all", "attempt": 2}
    await Reviving(store, vault, Dispatch(store), Journal(store, vault)).items(Hold(run, row["epoch"]), place, [1])
    await house.settle()
    assert (await house.engine.get(run)).status == "done"
    assert (await house.engine.replay(run)).differences == ()
    assert sorted(command[:2] for command in house.acting.commands) == [("weak", 3)] * 2
    assert len(await house.engine.list()) == 5


async def test_a_flow_called_for_each_item_goes_on(make: Made) -> None:
    house = make({})
    sub = step("sub", "call", {"flow": "outer.yaml"})
    made = replace(through(sub, **{"as": "runs"}), files={"sub.yaml": SUB, "outer.yaml": OUTER})
    run = await failed(house, made, {"all": [1, 2]})
    found = await resumed(house, run)
    assert [command[:2] for command in house.acting.commands] == [("weak", 3)] * 2
    assert found.cost_eur == Decimal("0.18")


async def test_retries_of_the_definition_begin_anew(make: Made) -> None:
    house = make({})
    run = await failed(house, calls(retry=TIRED))
    await resumed(house, run)
    # The run of the second try goes on; nobody has asked for the first one.
    assert [command[:2] for command in house.acting.commands] == [("weak", 3)]
    assert sorted(one.status for one in await house.engine.list()) == ["done", "done", "failed"]


async def test_a_person_who_is_asked_lets_the_called_flow_go_on(make: Made) -> None:
    house = make({})
    run = await house.engine.start(calls(on_error=OnError(None, "human", "group:sav")), {}, WHO)
    await house.settle()
    assert (await house.engine.get(run)).status == "parked"
    house.acting.commands.clear()
    await house.decide(run, ("sub", 1, ASK_HUMAN), {"decision": "retry"})
    await house.settle()
    assert (await house.engine.get(run)).status == "done"
    assert [command[:2] for command in house.acting.commands] == [("weak", 3)]


async def test_what_went_on_may_spend_what_its_caller_has_left_and_no_more(make: Made) -> None:
    house = make({})
    made = replace(calls(), budget=RunBudget(Decimal("0.02"), "fail"))
    run = await house.engine.start(made, {}, WHO)
    await house.settle()
    failure = (await house.engine.get(run)).failure
    assert failure is not None
    assert failure.code == "run_budget_exceeded"
    # Where it stands for want of money, resuming lends it the same again: at first, and after its weak step has failed.
    for most in ("0.04", "0.04", "0.06"):
        await house.engine.resume(run)
        await house.settle()
        assert (await house.engine.get(run)).cost_eur <= Decimal(most)
    assert await house.engine.result(run) == "weak"
    assert [command[0] for command in house.acting.commands].count("dear") == 1


async def test_what_was_under_way_beside_the_failure_goes_on(make: Made) -> None:
    """A run that fails takes along what it has begun; resumed, it has that back, and its questions are asked again."""
    house = make({})
    ask = "flow: ask\nschema: 1\nsteps:\n  - {id: ask, human: {assign: group:sav, title: '?'}}\noutput: yes\n"
    gate = step("gate", "human", {"assign": "group:sav", "title": "?"}, when="item == 1")
    weak = step("weak", with_={"do": "later"}, retry=Retry(1, "constant", 0), when="item == 1")
    sub = step("sub", "call", {"flow": "ask.yaml"}, when="item == 3")
    made = replace(through(gate, weak, sub, concurrency=2, **{"as": "paths"}), files={"ask.yaml": ask})
    run = await house.engine.start(made, {"all": [1, 2, 3]}, WHO)
    await house.settle()
    (asked,) = [one.id for one in await house.engine.list() if one.parent == run]
    assert (await house.engine.get(asked)).status == "parked"
    # The first item fails; the third is too far behind it to be waited for.
    await house.decide(run, ("all[0].gate", 1, ""), {"decision": "approve"})
    await house.settle()
    assert (await house.engine.get(run)).status == "failed"
    assert (await house.engine.get(asked)).status == "cancelled"
    house.acting.commands.clear()
    await house.engine.resume(run)
    await house.settle()
    assert (await house.engine.get(asked)).status == "parked"
    await house.decide(asked, ("ask", 1, ""), {"decision": "approve"})
    await house.settle()
    assert (await house.engine.get(run)).status == "done"
    assert [command[:2] for command in house.acting.commands] == [("all[0].weak", 3)]
