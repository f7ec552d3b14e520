"""Looking after runs: pause, go on, do again from a step, fork, look back in time."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from decimal import Decimal
from functools import partial

import pytest

from metier.calls import JSON, RunId
from metier.errors import Conflict, Invalid, NotFound
from metier.store import Store
from metier.vault import Vault
from metier.workflow.cutting import with_models
from metier.workflow.engine import Engine, StepContext
from metier.workflow.operations import Operations
from metier.workflow.review import Review, Reviewer, TaskDesk
from metier.workflow.shape import Branch
from tests.workflow.flows import HERE, WHO, Counting, flow, step

SAV = Reviewer("zoe", frozenset({"sav", "admins"}))
ASK: JSON = {"assign": "group:sav", "title": "Read it"}


def made(store: Store, vault: Vault, steps: dict[str, object]) -> tuple[Engine, Operations]:
    """Make an engine and what looks after its runs."""
    engine = Engine(store, vault, steps, desk=TaskDesk(store, vault))  # type: ignore[arg-type]  # terse tests
    return engine, Operations(store, vault, engine, TaskDesk(store, vault))


class Paying:
    """A step function that pays for each answer, and can be held up inside one step."""

    def __init__(self, hold: str = "") -> None:
        self.paid: list[str] = []
        self.hold = hold
        self.inside = asyncio.Event()
        self.go = asyncio.Event()

    async def __call__(self, context: StepContext, given: dict[str, JSON]) -> JSON:
        if context.path == self.hold:
            self.inside.set()
            await self.go.wait()
        self.paid.append(context.path)
        return {"n": len(self.paid), **given}


async def test_a_run_stands_still_at_its_next_boundary_and_goes_on(store: Store, vault: Vault) -> None:
    paying = Paying("b")
    engine, operations = made(store, vault, {"code": paying})
    run = await engine.start(flow(step("a"), step("b"), step("c"), output="{{ steps.c.n }}"), {}, WHO)
    moving = asyncio.create_task(engine.drain())
    await paying.inside.wait()
    assert await operations.pause(run) == 1
    paying.go.set()
    await moving
    assert ((await engine.get(run)).status, paying.paid) == ("paused", ["a", "b"])
    with pytest.raises(Conflict, match="paused"):
        await operations.pause(run)
    await engine.recover()
    await engine.drain()
    assert paying.paid == ["a", "b"]
    assert await operations.unpause(run) == 1
    await engine.drain()
    assert (await engine.result(run), paying.paid) == (3, ["a", "b", "c"])
    with pytest.raises(Conflict, match="'done', and not paused: there is nothing to unpause"):
        await operations.unpause(run)


async def test_what_is_decided_of_a_paused_run_is_kept_for_later(store: Store, vault: Vault) -> None:
    engine, operations = made(store, vault, {"code": Counting()})
    review = Review(store, vault, engine)
    run = await engine.start(flow(step("ask", "human", ASK), step("b"), output="{{ steps.ask.ok }}"), {}, WHO)
    await engine.drain()
    await operations.pause(run)
    (task,) = await review.list(run=run)
    await review.decide(task.id, SAV, {"ok": True})
    await engine.drain()
    assert (await engine.get(run)).status == "paused"
    await operations.unpause(run)
    await engine.drain()
    assert await engine.result(run) is True


async def test_children_stand_still_with_their_parent(store: Store, vault: Vault) -> None:
    counting = Counting()
    engine, operations = made(store, vault, {"code": counting})
    body = step("ask", "human", ASK)
    config: JSON = {"over": "{{ inputs.n }}", "max": 9, "as": "runs", "concurrency": 2}
    run = await engine.start(
        flow(step("each", "foreach", config, steps=(body, step("v"))), output=1), {"n": [1, 2, 3]}, WHO
    )
    await engine.drain()
    assert await operations.pause(run) == 3
    review = Review(store, vault, engine)
    below = [found for found in await engine.list(limit=10) if found.id != run]
    for child in below:
        for task in await review.list(run=child.id):
            await review.decide(task.id, SAV, {"ok": 1})
    await engine.drain()
    assert counting.runs == []
    with pytest.raises(Conflict, match="started it"):
        await operations.unpause(next(one.id for one in below if one.status == "paused"))
    await operations.unpause(run)
    await engine.drain()
    assert [path for path, _ in counting.runs] == ["v", "v"]
    (last,) = [task for child in below for task in await review.list(run=child.id)]
    await review.decide(last.id, SAV, {"ok": 1})
    await engine.drain()
    assert (await engine.get(run)).status == "done"


async def test_again_from_a_step_keeps_what_came_before_and_beside(store: Store, vault: Vault) -> None:
    paying = Paying()
    engine, operations = made(store, vault, {"code": paying})
    sections = (
        Branch(None, (step("l1"), step("l2")), HERE, "left"),
        Branch(None, (step("r1"), step("r2")), HERE, "right"),
    )
    run = await engine.start(
        flow(step("a"), step("both", "parallel", {}, branches=sections), step("z"), output="{{ steps.z.n }}"), {}, WHO
    )
    await engine.drain()
    before = len(paying.paid)
    told = await operations.retry(run, "both.left.l2", "zoe", dry_run=True)
    assert {entry.path for entry in told.aside} == {"both.left.l2", "z"}
    assert len(paying.paid) == before
    found = await operations.retry(run, "both.left.l2", "zoe")
    await engine.drain()
    assert paying.paid[before:] == ["both.left.l2", "z"]
    assert await engine.result(run) == before + 2
    assert {entry.path for _, entry in await operations.history(run)} == {entry.path for entry in found.aside}
    assert (await engine.replay(run)).same
    with pytest.raises(NotFound, match=r"both\.left\.l2"):
        await operations.retry(run, "both.left.l3", "zoe")


async def test_a_question_is_asked_again_and_the_first_answer_stays(store: Store, vault: Vault) -> None:
    engine, operations = made(store, vault, {"code": Counting()})
    review = Review(store, vault, engine)
    run = await engine.start(flow(step("a"), step("ask", "human", ASK), output="{{ steps.ask.ok }}"), {}, WHO)
    await engine.drain()
    (task,) = await review.list(run=run)
    await review.decide(task.id, SAV, {"ok": 1})
    await engine.drain()
    await operations.retry(run, "ask", "zoe")
    await engine.drain()
    (again,) = await review.list(run=run)
    assert again.id != task.id
    await review.decide(again.id, SAV, {"ok": 2})
    await engine.drain()
    assert await engine.result(run) == 2
    assert {(one.path, one.state) for one in await review.of_run(run)} == {("ask", "decided"), ("ask ~1", "decided")}


async def test_a_called_flow_is_called_again(store: Store, vault: Vault) -> None:
    counting = Counting()
    engine, operations = made(store, vault, {"code": counting})
    config: JSON = {"over": "{{ inputs.n }}", "max": 9, "as": "runs"}
    run = await engine.start(
        flow(step("each", "foreach", config, steps=(step("v"),)), step("z"), output="{{ steps.each.count }}"),
        {"n": [1, 2, 3]}, WHO,
    )  # fmt: skip
    await engine.drain()
    await operations.retry(run, "each", "zoe")
    await engine.drain()
    assert await engine.result(run) == 3
    assert [path for path, _ in counting.runs] == ["v", "v", "v", "z"] * 2


async def test_a_fork_pays_only_from_the_first_step_that_is_different(store: Store, vault: Vault) -> None:
    paying = Paying()
    engine, operations = made(store, vault, {"code": paying, "llm": paying})
    old = flow(
        step("a"), step("b", "llm", {"model": "writer"}, with_={"x": "{{ steps.a.n }}"}), step("c"),
        output="{{ steps.c.n }}",
    )  # fmt: skip
    run = await engine.start(old, {}, WHO)
    await engine.drain()
    new = with_models(old, {"writer": "judge"})
    assert [entry.path for entry in (await operations.reuse(run, new)).kept] == ["a"]
    assert [entry.path for entry in (await operations.reuse(run, old)).kept] == ["a", "b", "c"]
    other, found = await operations.fork(run, new)
    assert (found.first, len(paying.paid)) == (("b",), 3)
    await engine.drain()
    assert (paying.paid[3:], await engine.result(other)) == (["b", "c"], 5)
    assert [one.path for one in await operations.differences(run, other)] == ["b", "c"]
    same, _ = await operations.fork(run, old)
    await engine.drain()
    assert (await engine.result(same), len(paying.paid)) == (3, 5)
    assert (await engine.get(same)).cost_eur == 0
    with pytest.raises(Invalid, match="writer"):
        with_models(old, {"wirter": "judge"})


async def test_the_same_cause_forks_once(store: Store, vault: Vault) -> None:
    paying = Paying()
    engine, operations = made(store, vault, {"code": paying})
    workflow = flow(step("a"), output=1)
    run = await engine.start(workflow, {}, WHO)
    await engine.drain()
    forks = {(await operations.fork(run, workflow, afresh=True, dedupe="batch"))[0] for _ in range(3)}
    await engine.drain()
    assert (len(forks), paying.paid) == (1, ["a", "a"])


async def test_a_run_is_seen_as_it_stood_after_a_line(store: Store, vault: Vault) -> None:
    engine, operations = made(store, vault, {"code": Paying()})
    run = await engine.start(flow(step("a"), step("b"), output=1), {}, WHO)
    await engine.drain()
    then = await operations.at(run, 1)
    assert (then.line, then.lines, then.values, then.next) == (1, 2, {"a": {"n": 1}}, ("b",))
    assert (await operations.at(run)).values == {"a": {"n": 1}, "b": {"n": 2}}
    with pytest.raises(NotFound, match="2 lines"):
        await operations.at(run, 3)
    with pytest.raises(NotFound):
        await operations.at(RunId("run_none"))


async def test_money_set_aside_still_counts_for_the_run(store: Store, vault: Vault) -> None:
    async def dear(context: StepContext, given: dict[str, JSON]) -> JSON:
        context.spend(Decimal("0.5"))
        return {}

    engine, operations = made(store, vault, {"code": dear})
    run = await engine.start(flow(step("a"), step("b"), output=1), {}, WHO)
    await engine.drain()
    await operations.retry(run, "b", "zoe")
    await engine.drain()
    assert float((await engine.get(run)).cost_eur) == 1.5


@pytest.mark.parametrize("cancelled", [False, True], ids=["parked", "cancelled"])
async def test_money_of_what_had_not_ended_counts_too_once_it_is_set_aside(
    store: Store, vault: Vault, cancelled: bool
) -> None:
    async def dear(context: StepContext, given: dict[str, JSON]) -> JSON:
        await context.once("answer", partial(spent, context))
        if context.path == "asks":
            return await context.ask("ok", {"title": "?", "assign": "group:sav"})
        return {}

    async def spent(context: StepContext) -> JSON:
        context.spend(Decimal("0.5"))
        return 1

    engine, operations = made(store, vault, {"code": dear})
    review = Review(store, vault, engine)
    ask = step("ask", "human", ASK)
    config: JSON = {"over": "{{ [1, 2, 3] }}", "max": 9, "as": "runs", "concurrency": 2}
    sub = "flow: sub\nschema: 1\nsteps: [{id: x, code: x}, {id: y, human: {assign: 'group:sav', title: y}}]\n"
    each = step("each", "foreach", config, steps=(step("v"), ask))
    sections = [Branch(None, (one,), HERE, one.id) for one in (each, step("called", "call", {"flow": "sub.yaml"}))]
    sections.append(Branch(None, (step("asks"),), HERE, "asked"))
    both = step("both", "parallel", {"concurrency": None}, branches=tuple(sections))
    run = await engine.start(replace(flow(both, output=1), files={"sub.yaml": sub}), {}, WHO)
    await engine.drain()
    if cancelled:
        await engine.cancel(run)
    await operations.retry(run, "both", "zoe")
    await engine.drain()
    while tasks := await review.list(limit=50):
        for task in tasks:
            await review.decide(task.id, SAV, {"decision": "approve"})
        await engine.drain()
    found = await engine.get(run)
    assert found.status == "done"
    assert found.cost_eur == Decimal("4.5"), "two items, a flow and an answer before; three items and those after"
