"""Doing many runs again: which ones, from where, for how much at most, and with counted calls."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from metier.calls import JSON, RunId
from metier.catalog import Catalog
from metier.errors import BudgetExceeded, Conflict, Invalid, NotFound, Unavailable
from metier.store import Store
from metier.vault import Vault
from metier.workflow.context import utc
from metier.workflow.engine import Engine, StepContext
from metier.workflow.foresee import Foresight
from metier.workflow.looking import Chosen
from metier.workflow.operations import Operations
from metier.workflow.rerun import Again, Rerun
from metier.workflow.review import TaskDesk
from metier.workflow.shape import Workflow
from tests.workflow.flows import WHO, flow, step

_MODEL = {
    "operation": "chat",
    "deployments": [{"provider": "scripted", "model_id": "m", "price": {"input": 1, "output": 4}}],
}
CATALOG = Catalog.from_yaml({"writer": _MODEL, "judge": _MODEL})


class Nobody:
    """Releases nothing."""

    async def resolve(self, reference: str, project: str) -> Workflow:
        raise NotFound(f"no {reference} in {project}")


class Paying:
    """Step functions that count what is paid for, and fail where they are told to."""

    def __init__(self) -> None:
        self.paid: list[str] = []
        self.broken: set[str] = set()

    async def __call__(self, context: StepContext, given: dict[str, JSON]) -> JSON:
        self.paid.append(context.path)
        if context.path in self.broken:
            raise Unavailable("the provider is away: try again")
        return {"n": len(self.paid)}


def ask(id: str, model: str = "writer") -> Any:
    return step(id, "llm", {"model": model, "prompt": "p.md", "max_output_tokens": 100})


class House:
    """An engine with what looks after its runs."""

    def __init__(self, store: Store, vault: Vault) -> None:
        self.paying = Paying()
        self.engine = Engine(store, vault, {"llm": self.paying, "code": self.paying}, desk=TaskDesk(store, vault))
        self.operations = Operations(store, vault, self.engine, TaskDesk(store, vault))
        foresight = Foresight(store, lambda: CATALOG, {}, Nobody())
        self.rerun = Rerun(self.engine, self.operations, foresight)

    async def ran(self, workflow: Workflow, times: int) -> list[RunId]:
        runs = [await self.engine.start(workflow, {}, WHO) for _ in range(times)]
        await self.engine.drain()
        return runs


@pytest.fixture
def house(store: Store, vault: Vault) -> House:
    """One for each test."""
    return House(store, vault)


async def test_failed_runs_go_on_together_and_pay_for_nothing_twice(house: House) -> None:
    house.paying.broken = {"b"}
    chain = flow(ask("a"), ask("b"), ask("c"), output="{{ steps.c.n }}")
    runs = await house.ran(chain, 3)
    other = await house.ran(flow(ask("b"), name="other"), 1)
    house.paying.broken.clear()
    house.paying.paid.clear()
    chosen = Chosen(workflow="flow", statuses=("failed", "dead"), code="unavailable")
    dry = await house.rerun.foresee(chosen, Again("resume"))
    assert ([one.run for one in dry.runs], dry.more) == (sorted(runs, reverse=True), False)
    assert {one.first for one in dry.runs} == {("b",)}
    whole = await house.rerun.foresight.left(chain, frozenset(), "sales")
    assert whole is not None
    assert dry.most_eur == 3 * whole / 3 * 2, "two of three steps are still to be paid"
    assert house.paying.paid == []
    with pytest.raises(BudgetExceeded, match="3 runs"):
        await house.rerun.do(chosen, Again("resume"), "zoe", at_most_eur=Decimal("0.0001"))
    done = await house.rerun.do(chosen, Again("resume"), "zoe", at_most_eur=dry.most_eur)
    assert {one.made for one in done.runs} == set(runs)
    await house.engine.drain()
    assert sorted(house.paying.paid) == ["b", "b", "b", "c", "c", "c"]
    assert {(await house.engine.get(run)).status for run in runs} == {"done"}
    assert (await house.engine.get(other[0])).status == "failed"
    assert not (await house.rerun.foresee(chosen, Again("resume"))).runs


async def test_runs_are_done_again_with_another_model_and_once_for_a_label(house: House) -> None:
    runs = await house.ran(flow(ask("a"), ask("b", "judge"), output=1), 2)
    house.paying.paid.clear()
    again = Again("fork", models={"judge": "writer"}, label="larger")
    dry = await house.rerun.foresee(Chosen(statuses=("done",)), again)
    assert [one.first for one in dry.able] == [("b",), ("b",)]
    for _ in range(2):
        done = await house.rerun.do(Chosen(statuses=("done",), until=utc()), again, "zoe")
        await house.engine.drain()
    assert house.paying.paid == ["b", "b"]
    assert {one.made for one in done.runs if one.run in runs} == {
        one.id for one in await house.engine.search(Chosen()) if one.forked_from in runs
    }


async def test_from_a_step_and_afresh(house: House) -> None:
    (run,) = await house.ran(flow(ask("a"), ask("b"), output=1), 1)
    house.paying.paid.clear()
    await house.rerun.do(Chosen(), Again("retry", step="b"), "zoe")
    await house.engine.drain()
    assert house.paying.paid == ["b"]
    wrong = await house.rerun.foresee(Chosen(), Again("retry", step="c"))
    assert "c" in wrong.runs[0].why_not and wrong.able == () and wrong.most_eur == 0
    await house.rerun.do(Chosen(), Again("afresh"), "zoe")
    await house.engine.drain()
    assert house.paying.paid == ["b", "a", "b"]
    assert [one.forked_from for one in await house.engine.search(Chosen())] == [run, None]


async def test_what_is_under_way_or_too_much_or_of_an_unknown_price_is_told(house: House) -> None:
    runs = await house.ran(flow(ask("a", "stranger"), output=1), 3)
    ahead = await house.engine.start(flow(ask("a"), name="ahead"), {}, WHO)
    dry = await house.rerun.foresee(Chosen(limit=2), Again("afresh"))
    assert (dry.more, [one.why_not for one in dry.runs]) == (True, ["it is pending", ""])
    assert (dry.unpriced, dry.runs[0].run) == (1, ahead)
    with pytest.raises(BudgetExceeded, match="price"):
        await house.rerun.do(Chosen(workflow="flow"), Again("afresh"), "zoe", at_most_eur=Decimal(1000))
    assert len(await house.engine.search(Chosen())) == len(runs) + 1
    late = Chosen(since=utc() + timedelta(hours=1))
    assert not (await house.rerun.foresee(late, Again("afresh"))).runs


async def test_hours_that_are_none_are_told_before_anything_is_foreseen_or_done(house: House) -> None:
    await house.ran(flow(step("b"), output=1), 1)
    for work in (house.rerun.foresee, lambda chosen, again: house.rerun.do(chosen, again, "zoe")):
        with pytest.raises(Invalid, match="write hours and a zone"):
            await work(Chosen(), Again("afresh", window="at night"))
    assert len(await house.engine.search(Chosen())) == 1


async def test_items_a_run_went_on_without_are_neither_stuck_nor_in_the_way_of_runs_that_are(house: House) -> None:
    house.paying.broken = {"v", "b"}
    over: dict[str, JSON] = {"over": "{{ range(5) }}", "max": 9, "as": "runs", "on_item_error": "collect"}
    (stuck,) = await house.ran(flow(ask("b")), 1)
    each = flow(step("each", "foreach", over, steps=(step("v"),)), name="many")
    (went_on,) = await house.ran(each, 1)
    (halted,) = await house.ran(flow(step("each", "foreach", {**over, "on_item_error": "fail"}, steps=(step("v"),))), 1)
    assert (await house.engine.get(went_on)).status == "done"
    failed = Chosen(statuses=("failed", "dead"), children=True, stuck=True)
    found = {one.id: one.parent for one in await house.engine.search(failed)}
    assert {stuck, halted} < set(found) and set(found.values()) == {None, halted}
    dry = await house.rerun.foresee(replace(failed, limit=2), Again("resume"))
    assert ([one.run for one in dry.able], dry.more) == ([halted, stuck], False)


@pytest.mark.parametrize(
    "again",
    [Again("retry"), Again("resume", step="a"), Again("resume", models={"a": "b"}), Again("fork")],
    ids=["no step", "a step too many", "models of its own", "nothing else"],
)
async def test_what_makes_no_sense_is_refused(house: House, again: Again) -> None:
    with pytest.raises(Invalid):
        await house.rerun.foresee(Chosen(), again)


async def test_what_would_be_touched_is_told_before(house: House) -> None:
    ask_: JSON = {"assign": "group:sav", "title": "?"}
    config: JSON = {"over": "{{ [1, 2] }}", "max": 2, "as": "runs"}
    run = await house.engine.start(flow(step("each", "foreach", config, steps=(step("q", "human", ask_),))), {}, WHO)
    await house.engine.drain()
    assert len(await house.operations.touched(run, "pause")) == 3
    with pytest.raises(Conflict, match="nothing to unpause"):
        await house.operations.touched(run, "unpause")
    await house.operations.pause(run)
    below = await house.engine.below(run)
    assert {(one.parent, one.status) for one in below} == {(run, "paused")}
    assert len(await house.operations.touched(run, "unpause")) == 3
    with pytest.raises(Conflict):
        await house.operations.touched(below[0].id, "unpause")
    assert len(await house.operations.touched(run, "cancel")) == 3
    await house.engine.cancel(run)
    assert {one.status for one in await house.engine.below(run)} == {"cancelled"}
    with pytest.raises(Conflict, match="cancelled"):
        await house.operations.touched(run, "resume")
