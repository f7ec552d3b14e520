"""Steps that ask a person in the middle: the run is left, and the step goes on from what it has kept."""

from __future__ import annotations

import pytest

from metier.calls import JSON
from metier.errors import Invalid
from metier.store import Store
from metier.vault import Vault
from metier.workflow.engine import Engine, StepContext
from metier.workflow.review import Review, Reviewer, TaskDesk
from tests.workflow.engines import Made, make
from tests.workflow.flows import WHO, flow, step

__all__ = ["make"]

ZOE = Reviewer("zoe", frozenset({"sav"}))
SCHEMA: dict[str, JSON] = {"type": "object", "properties": {"decision": {"enum": ["approve", "reject"]}}}


async def test_a_step_asks_in_the_middle_and_keeps_what_it_had(store: Store, vault: Vault) -> None:
    bought: list[str] = []
    seen: list[JSON] = []

    async def careful(context: StepContext, given: dict[str, JSON]) -> JSON:
        async def buy() -> JSON:
            bought.append(context.path)
            return "a draft"

        draft = await context.once("draft", buy)
        seen.append(context.decided("send"))
        first = await context.ask("send", {"title": "Send?", "assign": "group:sav", "show": {"draft": draft}}, SCHEMA)
        second = await context.ask("copy", {"title": "Copy?", "assign": "group:sav"})
        return [draft, first, second]

    engine = Engine(store, vault, {"code": careful}, desk=TaskDesk(store, vault))
    review = Review(store, vault, engine)
    run = await engine.start(flow(step("a"), output="{{ steps.a }}"), {}, WHO)
    for title, decision in (("Send?", "approve"), ("Copy?", "reject")):
        await engine.drain()
        assert (await engine.get(run)).status == "parked"
        (task,) = await review.list(ZOE)
        assert task.title == title
        if title == "Send?":
            assert task.show == {"draft": "a draft"}
            with pytest.raises(Invalid):
                await review.decide(task.id, ZOE, {"decision": "perhaps"})
        await review.decide(task.id, ZOE, {"decision": decision})
    await engine.drain()
    assert await engine.result(run) == ["a draft", {"decision": "approve"}, {"decision": "reject"}]
    assert bought == ["a"]
    assert seen == [None, {"decision": "approve"}, {"decision": "approve"}]


@pytest.mark.parametrize("name", ["", "human", "budget"])
async def test_the_questions_of_the_engine_are_its_own(store: Store, vault: Vault, name: str) -> None:
    async def rude(context: StepContext, given: dict[str, JSON]) -> JSON:
        with pytest.raises(Invalid):
            await context.ask(name, {"title": "?"})
        return "refused"

    engine = Engine(store, vault, {"code": rude})
    run = await engine.start(flow(step("a"), output="{{ steps.a }}"), {}, WHO)
    await engine.drain()
    assert await engine.result(run) == "refused"


async def test_a_step_that_asks_a_flow_nobody_knows_ends_its_run_with_that_reason(make: Made) -> None:
    house = make({})
    run = await house.engine.start(flow(step("a", with_={"do": "ask a flow", "flow": "nobody@3"})), {}, WHO)
    await house.settle()
    found = await house.engine.get(run)
    assert found.status == "failed" and found.failure is not None
    assert "nobody@3" in found.failure.message
