"""`agent:` steps: turns, tools, hand-offs, and everything a model may do wrong."""

from __future__ import annotations

import asyncio
import pathlib
from dataclasses import replace
from decimal import Decimal

import psycopg
import pytest

from metier.calls import JSON, Chunk, Reasoning, ReasoningDelta, ToolCallDelta
from metier.errors import Invalid, Unavailable
from metier.providers.scripted import Script, ScriptedProvider, asks, breaks, fails, gives, says
from metier.store import Store
from metier.workflow.definition import Retry
from tests.workflow.steps.agents import desk, shop, told, turn

COST = Decimal("0.000044")


async def test_an_agent_looks_up_then_answers(store: Store, tmp_path: pathlib.Path) -> None:
    provider = ScriptedProvider(asks("shop_find", {"number": 7}), says("It was sent."))
    async with shop(store, tmp_path, provider) as s:
        run = await s.play(desk())
        assert await s.engine.result(run.id) == {"text": "It was sent.", "agent": "it"}
        assert await s.names(run) == ["turn.1", "turn.1.tool.1", "turn.2", ""]
        assert run.cost_eur == 2 * COST
        assert s.find.calls == [{"number": 7}]
    first, second = provider.calls
    assert told(provider, 0) == [("system", "You answer for the bakery."), ("user", "Where is order 7?")]
    assert [tool.name for tool in first.tools] == ["shop_find", "shop_pay_back"]
    assert first.tools[0].description == "Finds an order by its number."
    assert first.origin is not None and (first.origin.run, first.origin.path) == (run.id, "it")
    assert [message.role for message in second.messages] == ["system", "user", "assistant", "tool"]
    asked, answered = second.messages[2:]
    assert asked.tool_calls[0].id == answered.tool_call_id == "t0001m001"
    assert answered.content == '{"number":7,"state":"sent"}'


async def test_instructions_speak_the_language_and_may_hold_the_first_message(
    store: Store, tmp_path: pathlib.Path
) -> None:
    provider = ScriptedProvider(says("Bien."))
    async with shop(store, tmp_path, provider) as s:
        await s.give(desk(with_={"shop": "the bakery", "language": "fr", "message": "Bonjour"}))
        await s.give(desk({"instructions": "agents/both.md"}, with_={"order": 7}))
        await s.give(desk({"tools": []}, with_={"shop": "the bakery", "order": 7}))
    assert told(provider, 0) == [("system", "Tu réponds pour the bakery."), ("user", "Bonjour")]
    assert told(provider, 1) == [("system", "You are terse."), ("user", "The order is 7.")]
    assert provider.calls[2].tools == ()


async def test_tools_of_one_turn_run_together_and_keep_their_order(store: Store, tmp_path: pathlib.Path) -> None:
    calls: list[tuple[str, JSON]] = [
        ("shop_find", {"number": 1}),
        ("shop_pay_back", {"eur": 2}),
        ("shop_find", {"number": 3}),
    ]
    provider = ScriptedProvider(turn(*calls), says("Done."))
    async with shop(store, tmp_path, provider) as s:
        run = await s.play(desk())
        assert sorted(await s.names(run)) == ["", "turn.1", "turn.1.tool.1", "turn.1.tool.2", "turn.1.tool.3", "turn.2"]
    last = provider.calls[-1].messages
    assert [one.id for one in last[2].tool_calls] == ["t0001m001", "t0001m002", "t0001m003"], (
        "the provider's were equal"
    )
    assert [(one.tool_call_id, one.content) for one in last[3:]] == [
        ("t0001m001", '{"number":7,"state":"sent"}'),
        ("t0001m002", "paid"),
        ("t0001m003", '{"number":7,"state":"sent"}'),
    ]


@pytest.mark.parametrize(
    ("name", "arguments", "told_of"),
    [
        ("shop_find", '{"number": ', "not JSON"),
        ("shop_find", "[7]", "no JSON object"),
        ("shop_find", '{"number": "seven"}', "do not fit the schema"),
        ("shop_find", "{}", "'number' is a required property"),
        ("shop_lose", "{}", "shop_lose"),
    ],
)
async def test_a_call_that_makes_no_sense_is_told_to_the_model(
    store: Store, tmp_path: pathlib.Path, name: str, arguments: str, told_of: str
) -> None:
    provider = ScriptedProvider(turn((name, arguments)), asks("shop_find", {"number": 7}), says("Sent."))
    async with shop(store, tmp_path, provider) as s:
        assert (await s.give(desk()))["text"] == "Sent."
        assert s.find.calls == [{"number": 7}]
    assert told_of in told(provider, 1)[-1][1]


async def test_a_database_that_is_away_is_no_fault_of_the_tool(store: Store, tmp_path: pathlib.Path) -> None:
    provider = ScriptedProvider(asks("shop_find", {"number": 7}), says("Sent."))
    async with shop(store, tmp_path, provider) as s:
        s.find.error = psycopg.OperationalError("the connection is lost")

        async def comes_back() -> None:
            while not s.find.calls:  # noqa: ASYNC110  # what it waits for is a list
                await asyncio.sleep(0)
            s.find.error = None

        back = asyncio.ensure_future(comes_back())
        assert (await s.give(desk()))["text"] == "Sent."
        await back
        assert len(s.find.calls) == 2 and len(s.find.effects) == 1
    assert not provider.calls[1].messages[-1].failed


@pytest.mark.parametrize("error", [Invalid("no such order"), Unavailable("the shop is closed"), ValueError("boom")])
async def test_a_tool_that_fails_is_told_to_the_model(store: Store, tmp_path: pathlib.Path, error: Exception) -> None:
    provider = ScriptedProvider(asks("shop_find", {"number": 7}), says("I could not find it."))
    async with shop(store, tmp_path, provider) as s:
        s.find.error = error
        run = await s.play(desk())
        assert run.status == "done"
        lines = {line.name: line.value for line in await s.engine.steps(run.id)}
    message = provider.calls[1].messages[-1]
    assert message.failed
    if isinstance(error, ValueError):
        assert "boom" not in message.content and "failed unexpectedly (ValueError)" in message.content
        kept = lines["turn.1.tool.1"]
        assert isinstance(kept, dict) and "boom" in str(kept["trace"])
    else:
        assert message.content == f"error: {error}"


async def test_a_model_that_never_stops_is_stopped(store: Store, tmp_path: pathlib.Path) -> None:
    provider = ScriptedProvider(asks("shop_find", {"number": 7}))
    async with shop(store, tmp_path, provider) as s:
        run = await s.play(desk({"max_turns": 3}, retry=Retry(3, "constant", 0)))
        assert run.failure is not None
        assert (run.failure.code, len(provider.calls), len(s.find.calls)) == ("step_failed", 3, 3)
        assert "no answer after 3 turns" in run.failure.message
        assert run.cost_eur == 3 * COST
        assert len(s.find.effects) == 3, "the model asked three times, so it was done three times"


async def test_the_output_is_enforced_with_one_repair(store: Store, tmp_path: pathlib.Path) -> None:
    schema: dict[str, JSON] = {"type": "object", "properties": {"score": {"type": "integer"}}, "required": ["score"]}
    provider = ScriptedProvider(says("Well, eight."), asks("shop_find", {"number": 7}), gives({"score": 8}), says("no"))
    async with shop(store, tmp_path, provider) as s:
        assert await s.give(desk(output=schema)) == {"score": 8}
        assert provider.calls[0].output is not None and provider.calls[0].output.schema == schema
        assert "it is not JSON" in told(provider, 1)[-1][1]
        assert told(provider, 1)[-2] == ("assistant", "Well, eight.")
        code, message = await s.fail(desk(output=schema))
        assert code == "step_failed" and "even after one repair" in message
        bounded = desk({"max_turns": 1}, output=schema)
        code, message = await s.fail(bounded)
        assert "no answer after 1 turns" in message, "a repair is a turn"


async def test_an_empty_answer_is_asked_again(store: Store, tmp_path: pathlib.Path) -> None:
    provider = ScriptedProvider(says(""), says("Here."))
    async with shop(store, tmp_path, provider) as s:
        assert (await s.give(desk()))["text"] == "Here."
    assert "it is empty" in told(provider, 1)[-1][1]


async def test_a_blocked_turn_ends_the_step(store: Store, tmp_path: pathlib.Path) -> None:
    provider = ScriptedProvider(says("", finish="content_filter"))
    async with shop(store, tmp_path, provider) as s:
        code, message = await s.fail(desk())
    assert (code, "turn 1" in message) == ("guardrail_blocked", True)


@pytest.mark.parametrize("broken", [fails(503), breaks("I think", status=502)])
async def test_a_provider_that_breaks_off_costs_no_turn_before_it(
    store: Store, tmp_path: pathlib.Path, broken: object
) -> None:
    scripts = [asks("shop_pay_back", {"eur": 5}), broken, says("Paid.")]
    provider = ScriptedProvider(*scripts)  # type: ignore[arg-type]  # parametrised
    async with shop(store, tmp_path, provider) as s:
        run = await s.play(desk(retry=Retry(2, "constant", 0)))
        assert run.failure is None, run.failure
        assert len(provider.calls) == 3, "the first turn is not asked again by the second attempt"
        assert (len(s.pay.calls), run.cost_eur) == (1, 2 * COST)
        lines = [(line.attempt, line.name, line.kind) for line in await s.engine.steps(run.id)]
        assert (1, "", "error") in lines and (2, "turn.1", "answer") in lines


async def test_another_try_by_a_person_starts_anew_but_repeats_no_effect(store: Store, tmp_path: pathlib.Path) -> None:
    provider = ScriptedProvider(asks("shop_pay_back", {"eur": 5}))
    async with shop(store, tmp_path, provider) as s:
        run = await s.play(desk({"max_turns": 2}))
        assert run.failure is not None and len(s.pay.effects) == 2
        keys = [*s.pay.effects]
        await s.engine.resume(run.id)
        await s.engine.drain()
        assert len(provider.calls) == 4
        assert [*s.pay.effects] == keys, "the same effects under the same keys"


async def test_the_budget_of_the_step_holds_before_each_turn(store: Store, tmp_path: pathlib.Path) -> None:
    provider = ScriptedProvider(asks("shop_find", {"number": 7}))
    async with shop(store, tmp_path, provider) as s:
        code, message = await s.fail(desk(budget_eur=Decimal("0.00008")))
    assert (code, len(provider.calls)) == ("budget_exceeded", 2)
    assert "turn 3" in message


async def test_agents_hand_over_and_back(store: Store, tmp_path: pathlib.Path) -> None:
    config: dict[str, JSON] = {
        "handoffs": {
            "accounts": {
                "instructions": "agents/accounts.md", "model": "judge", "tools": ["shop.pay_back"], "approve": [],
                "handoffs": [], "description": "Knows invoices.",
            }
        },
        "tools": ["shop.find"],
    }  # fmt: skip
    provider = ScriptedProvider(asks("transfer_to_accounts", {}), asks("shop_pay_back", {"eur": 3}), says("Paid back."))
    async with shop(store, tmp_path, provider) as s:
        assert await s.give(desk(config)) == {"text": "Paid back.", "agent": "accounts"}
    assert [[tool.name for tool in call.tools] for call in provider.calls] == [
        ["shop_find", "transfer_to_accounts"], ["shop_pay_back"], ["shop_pay_back"]
    ]  # fmt: skip
    assert "Knows invoices." in provider.calls[0].tools[1].description
    assert provider.deployments == ["scripted-writer", "scripted-judge", "scripted-judge"]
    assert told(provider, 1)[0] == ("system", "You know invoices.")
    assert told(provider, 1)[1] == ("user", "Where is order 7?"), "the other agent sees what was said"


async def test_a_wrong_configuration_is_told_before_anything_is_paid(store: Store, tmp_path: pathlib.Path) -> None:
    provider = ScriptedProvider(says("?"))
    wrong: list[tuple[dict[str, JSON], str]] = [
        ({"tools": ["shop.lose"]}, "shop.find"),
        ({"tools": ["crm.*"]}, "which is none of"),
        ({"tools": ["flows.refund"]}, "which is none of"),
        ({"approve": ["echo"]}, "approvals for tools it does not have"),
        ({"max_turns": 0}, "from 1 to 50"),
        ({"handoffs": {"it": {"instructions": "agents/accounts.md"}}}, "two agents"),
        ({"conversation": "{{ inputs.key }}"}, "conversation key"),
        ({"instructions": "agents/none.md"}, "agents/none.md"),
    ]
    async with shop(store, tmp_path, provider) as s:
        for config, said in wrong:
            _, message = await s.fail(desk(config))
            assert said in message, message
    assert provider.calls == []


async def test_a_step_out_of_time_keeps_what_it_has_paid(store: Store, tmp_path: pathlib.Path) -> None:
    hung = asyncio.Event()
    slow = replace(says("Late."), before=hung.wait)
    provider = ScriptedProvider(asks("shop_pay_back", {"eur": 5}), slow, says("Now."))
    async with shop(store, tmp_path, provider) as s:
        run = await s.play(desk(timeout_s=3.0, retry=Retry(1, "constant", 0)))
        assert await s.engine.result(run.id) == {"text": "Now.", "agent": "it"}
        assert (len(provider.calls), len(s.pay.calls)) == (3, 1)


async def test_thoughts_and_proofs_go_back_to_the_model_unchanged(store: Store, tmp_path: pathlib.Path) -> None:
    thought = ReasoningDelta(0, text="The order first.", signature="proof-1")
    call = ToolCallDelta(0, "c", "shop_find", '{"number": 7}', signature="proof-2")
    first = Script(
        (Chunk(reasoning=(thought,)), Chunk(text="Looking."), Chunk(tool_calls=(call,)), Chunk(finish="tool_calls"))
    )
    provider = ScriptedProvider(first, says("Sent."))
    async with shop(store, tmp_path, provider) as s:
        await s.give(desk())
    message = provider.calls[1].messages[2]
    assert (message.content, message.tool_calls[0].signature) == ("Looking.", "proof-2")
    assert message.reasoning == (Reasoning("The order first.", "proof-1"),)
