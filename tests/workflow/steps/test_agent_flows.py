"""Other workflows as tools of agents: runs of their own, started and paid once, whoever dies or decides between."""

from __future__ import annotations

import asyncio
import pathlib
from decimal import Decimal

import pytest

from metier.catalog import Catalog
from metier.errors import Invalid
from metier.providers.scripted import ScriptedProvider, asks, gives, says
from metier.store import Store
from metier.testing import build_for_tests, caller
from metier.workflow.definition import Workflow, parse
from metier.workflow.engine import Engine, StepContext
from metier.workflow.lint import Known, lint
from metier.workflow.memory import Memory
from metier.workflow.plan_costs import ModelCosts
from metier.workflow.review import Reviewer
from metier.workflow.steps.agent import AgentParts, AgentSteps
from metier.workflow.steps.agent_flows import FlowCalls
from tests.workflow.steps.agents import turn

REFUND = """
flow: refund
schema: 1
description: |
  Pays an order back,
  once a person agrees.
inputs: {order: integer, reason: {type: string, default: none}}
steps:
  - id: allow
    human: {assign: "group:sav", title: "Refund {{ string(inputs.order) }}?"}
    output: {decision: {enum: [approve, reject]}}
output: {refunded: "{{ steps.allow.decision == 'approve' }}", order: "{{ inputs.order }}"}
"""
PRICE = """
flow: price
schema: 1
inputs: {article: string}
steps:
  - id: guess
    llm: {model: writer, prompt: prompts/guess.md}
    with: {article: "{{ inputs.article }}"}
    output: {eur: number}
output: "{{ steps.guess.eur }}"
"""
DESK = """
flow: desk
schema: 1
inputs: {text: string}
steps:
  - id: it
    agent: {instructions: agents/desk.md, model: writer, tools: [%s], max_turns: 4}
    with: {text: "{{ inputs.text }}"}
output: "{{ steps.it.text }}"
"""
FILES = {
    "agents/desk.md": "You help.\n---\n{{ text }}",
    "flows/refund.yaml": REFUND,
    "flows/price.yaml": PRICE,
    "flows/prompts/guess.md": "{{ article }}",
}
ZOE = Reviewer("zoe", everywhere=True)


def desk(tools: str = "flows.refund") -> Workflow:
    return parse(DESK % tools, FILES)


async def test_an_agent_waits_for_the_run_of_another_workflow_and_pays_nothing_twice(
    store: Store, tmp_path: pathlib.Path
) -> None:
    provider = ScriptedProvider(asks("flows_refund", {"order": 7}), says("Refunded."))
    async with build_for_tests(tmp_path, store.url, provider) as app:
        who = await caller(app)
        run = await app.engine.start(desk(), {"text": "My money!"}, who)
        await app.engine.drain()
        assert (await app.engine.get(run)).status == "parked"
        (task,) = await app.review.list(ZOE)
        child = task.run
        assert child != run and (await app.engine.get(child)).workflow == "refund"
        await app.review.decide(task.id, ZOE, {"decision": "approve"})
        await app.engine.drain()
        assert await app.engine.result(run) == "Refunded."
        assert (await app.engine.get(child)).status == "done"
    (tool,) = provider.calls[0].tools
    assert (tool.name, tool.description) == ("flows_refund", "Pays an order back,\nonce a person agrees.")
    assert provider.calls[-1].messages[-1].content == '{"refunded":true,"order":7}'
    assert len(provider.calls) == 2


async def test_an_agent_killed_while_the_other_run_works_goes_on_with_what_it_came_to(
    store: Store, tmp_path: pathlib.Path
) -> None:
    """Its worker is gone between the question and the answer; another one finds the same run, not a second one."""
    provider = ScriptedProvider(
        turn(("flows_price", {"article": "drill"}), ("flows_price", {"article": "saw"})),
        gives({"eur": 30}), gives({"eur": 12}), says("42 in all."),
    )  # fmt: skip
    async with build_for_tests(tmp_path, store.url, provider) as app:
        who = await caller(app)
        steps = AgentSteps.built(app.gateway.collect, {}, {}, AgentParts(None, FlowCalls()))
        asked = asyncio.Event()

        async def dies(context: StepContext, with_: dict[str, object]) -> None:
            try:
                await steps(context, with_)  # type: ignore[arg-type]  # the same, seen by a step function
            finally:
                asked.set()

        run = await app.engine.start(desk("flows.price"), {"text": "How much?"}, who)
        first = asyncio.create_task(Engine(app.store, app.vault, {"agent": dies}).drain())  # type: ignore[dict-item]  # as above
        await asked.wait()
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await app.engine.drain()
        assert await app.engine.result(run) == "42 in all."
        children = [one for one in await app.engine.list() if one.workflow == "price"]
        assert [one.status for one in children] == ["done", "done"]
        whole = (await app.engine.get(run)).cost_eur
        assert whole == sum((one.cost_eur for one in children), Decimal(0)) + sum(
            (
                line.cost_eur
                for line in await app.engine.steps(run)
                if line.name.startswith("turn.") and "tool" not in line.name
            ),
            Decimal(0),
        )
    assert len(provider.calls) == 4


async def test_a_run_that_fails_is_told_to_the_model(store: Store, tmp_path: pathlib.Path) -> None:
    provider = ScriptedProvider(asks("flows_refund", {"order": "x"}), asks("flows_refund", {"order": 8}), says("No."))
    async with build_for_tests(tmp_path, store.url, provider) as app:
        run = await app.engine.start(desk(), {"text": "My money!"}, await caller(app))
        await app.engine.drain()
        assert "do not fit" in provider.calls[1].messages[-1].content
        (task,) = await app.review.list(ZOE)
        await app.engine.cancel(task.run)
        await app.engine.drain()
        assert await app.engine.result(run) == "No."
    assert "cancelled" in provider.calls[-1].messages[-1].content


async def test_a_cancelled_agent_takes_the_runs_it_asked_along(store: Store, tmp_path: pathlib.Path) -> None:
    provider = ScriptedProvider(asks("flows_refund", {"order": 7}))
    async with build_for_tests(tmp_path, store.url, provider) as app:
        run = await app.engine.start(desk(), {"text": "My money!"}, await caller(app))
        await app.engine.drain()
        (task,) = await app.review.list(ZOE)
        await app.engine.cancel(run)
        assert (await app.engine.get(task.run)).status == "cancelled"
        assert [*await app.review.list(ZOE)] == []


async def test_the_engine_in_memory_does_the_same(store: Store, tmp_path: pathlib.Path) -> None:
    provider = ScriptedProvider(asks("flows_refund", {"order": 7}), says("Refunded."))
    async with build_for_tests(tmp_path, store.url, provider) as app:
        steps = AgentSteps.built(app.gateway.collect, {}, {}, AgentParts(None, FlowCalls()))
        engine = Memory({"agent": steps}, people={"allow": {"decision": "reject"}})
        run = await engine.start(desk(), {"text": "My money!"}, await caller(app))
        await engine.play()
        assert await engine.result(run) == "Refunded."
    assert provider.calls[-1].messages[-1].content == '{"refunded":false,"order":7}'


def test_what_an_agent_may_call_is_read_and_checked_with_it() -> None:
    workflow = desk("flows.refund, flows.price, flows.tariff@2")
    assert {"flows/refund.yaml", "flows/price.yaml", "flows/prompts/guess.md"} <= workflow.files.keys()
    found = lint(workflow, Known(flows=frozenset({"tariff@3"}), models={"writer"}))
    assert [(finding.code, finding.line) for finding in found if finding.severity == "error"] == [
        ("unknown-workflow", 7)
    ]
    with pytest.raises(Invalid, match=r"flow.yaml:7:\d+: step 'it': there is no workflow 'flows/else.yaml'"):
        desk("flows.else")
    broken = {**FILES, "flows/price.yaml": PRICE.replace("inputs.article", "inputs.artikel")}
    assert any(f.file == "flows/price.yaml" for f in lint(parse(DESK % "flows.price", broken)))


def test_a_plan_says_that_nothing_but_the_budget_bounds_what_an_agent_calls() -> None:
    costs = ModelCosts(Catalog.from_yaml({}), {})
    for tools in ("flows.refund", "flows.tariff@2"):
        workflow = desk(tools)
        found = costs(workflow, workflow.steps[0])
        assert {"eur", "seconds"} <= found.most.unknown and "workflows it calls" in found.source
    alone = parse(DESK % "crm.find_contact", FILES)
    assert "workflows it calls" not in costs(alone, alone.steps[0]).source
