"""`llm:` steps: what the model is asked, what must come back, what is kept and what it may cost."""

from __future__ import annotations

import asyncio
import dataclasses
import pathlib
from decimal import Decimal

from metier.app import Parts
from metier.calls import Call
from metier.providers.scripted import Script, ScriptedProvider, fails, gives, says
from metier.store import Store
from metier.workflow.definition import parse
from metier.workflow.dispatch import Pace
from tests.workflow.steps.flows import FILES, bench, one

ASK = 'llm: {model: writer, prompt: prompts/ask.md}, with: {text: "{{ inputs.text }}"}'
SCORED = f"{ASK}, output: {{score: {{type: integer, minimum: 0, maximum: 10}}}}"
COST = Decimal("0.000044")
"""Twelve tokens in at 1 € and eight out at 4 € per million."""


def said(call: Call) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in call.messages]


async def test_without_a_schema_the_text_is_the_value(store: Store, tmp_path: pathlib.Path) -> None:
    provider = ScriptedProvider(says(" Bonjour", " à vous \n"))
    async with bench(store, tmp_path, provider) as b:
        assert await b.give(one(ASK), {"text": "Salut"}) == {"text": "Bonjour à vous"}
    (call,) = provider.calls
    assert said(call) == [("system", "Tu es conseiller."), ("user", "Salut")]
    assert (call.output, call.temperature, provider.deployments) == (None, None, ["scripted-writer"])


async def test_the_schema_is_asked_for_and_enforced(store: Store, tmp_path: pathlib.Path) -> None:
    provider = ScriptedProvider(gives({"score": 7}))
    async with bench(store, tmp_path, provider) as b:
        run = await b.play(one(f"{SCORED}, timeout: 30s"), {"text": "Note"})
        assert await b.app.engine.result(run.id) == {"score": 7}
        (call,) = provider.calls
        assert call.output is not None
        assert call.output.schema["properties"] == {"score": {"type": "integer", "minimum": 0, "maximum": 10}}
        assert call.origin is not None
        assert (call.origin.run, call.origin.path, str(call.conversation)) == (run.id, "it", str(run.id))


async def test_json_wrapped_in_prose_is_read(store: Store, tmp_path: pathlib.Path) -> None:
    async with bench(
        store, tmp_path, ScriptedProvider(says('Voici :\n```json\n{"score": 3}\n```\nBonne journée'))
    ) as b:
        assert await b.give(one(SCORED), {"text": "Note"}) == {"score": 3}


async def test_an_answer_that_does_not_fit_is_repaired_once(store: Store, tmp_path: pathlib.Path) -> None:
    provider = ScriptedProvider(gives({"score": 70}), gives({"score": 7}))
    async with bench(store, tmp_path, provider) as b:
        run = await b.play(one(SCORED), {"text": "Note"})
        assert await b.app.engine.result(run.id) == {"score": 7}
        lines = await b.lines(run.id)
        assert [(line.name, line.kind, line.cost_eur) for line in lines] == [
            ("answer", "answer", COST), ("repair", "answer", COST), ("", "result", 2 * COST)
        ]  # fmt: skip
        assert (run.cost_eur, lines[-1].calls) == (2 * COST, 2)
    first, second = provider.calls
    assert said(second)[:2] == said(first)
    assert said(second)[2] == ("assistant", '{"score":70}')
    assert "score: maximum 10" in said(second)[3][1] and "ne convient pas" in said(second)[3][1]
    assert (second.output, second.origin, second.conversation) == (first.output, first.origin, first.conversation)
    assert second.temperature is first.temperature is None, "some providers refuse any temperature"


async def test_the_repair_speaks_the_language_of_the_step(store: Store, tmp_path: pathlib.Path) -> None:
    provider = ScriptedProvider(says("no JSON"), gives({"score": 1}))
    spoken = SCORED.replace('text: "{{ inputs.text }}"', 'text: "{{ inputs.text }}", language: en')
    async with bench(store, tmp_path, provider) as b:
        assert await b.give(one(spoken), {"text": "Rate"}) == {"score": 1}
    assert "Your answer does not fit: it is not JSON" in said(provider.calls[1])[3][1]


async def test_after_one_repair_the_step_fails_and_what_was_paid_is_known(store: Store, tmp_path: pathlib.Path) -> None:
    provider = ScriptedProvider(gives({"note": 1}))
    async with bench(store, tmp_path, provider) as b:
        run = await b.play(one(f"{SCORED}, retry: {{max: 3, backoff: constant, first: 1ms}}"), {"text": "Note"})
        assert run.failure is not None
        assert (run.failure.code, len(provider.calls)) == ("step_failed", 2), "a model that cannot is not asked again"
        assert "even after one repair" in run.failure.message
        assert run.cost_eur == 2 * COST


async def test_a_refused_repair_keeps_the_first_answer_in_the_books(store: Store, tmp_path: pathlib.Path) -> None:
    provider = ScriptedProvider(says("not JSON"), fails(503), gives({"score": 2}))
    async with bench(store, tmp_path, provider) as b:
        run = await b.play(one(f"{SCORED}, retry: {{max: 1, backoff: constant, first: 1ms}}"), {"text": "Note"})
        assert await b.app.engine.result(run.id) == {"score": 2}
        kept = [(line.attempt, line.name, line.kind) for line in await b.lines(run.id)]
        assert kept == [(1, "answer", "answer"), (1, "", "error"), (2, "answer", "answer"), (2, "", "result")]
        assert run.cost_eur == 2 * COST


async def test_an_answer_is_kept_before_it_is_used(store: Store, tmp_path: pathlib.Path) -> None:
    """The worker stops while it waits for the repair: the first answer is not asked, nor paid, again."""
    reached, never = asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        reached.set()
        await never.wait()

    slow = dataclasses.replace(gives({"score": 9}), before=hang)
    provider = ScriptedProvider(says("not JSON"), slow, gives({"score": 5}))
    pace = Pace(heartbeat_s=0.2, stall_s=1.0, recover_s=0.2, poll_s=0.2, grace_s=0.1)
    async with bench(store, tmp_path, provider, Parts(pace=pace)) as b:
        run = await b.app.engine.start(parse(one(SCORED), FILES), {"text": "Note"}, b.who)
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(b.app.engine.work(stop))
            await asyncio.wait_for(reached.wait(), 60)
            assert [line.name for line in await b.lines(run)] == ["answer"]
            stop.set()
    async with bench(store, tmp_path, provider) as b:
        await b.app.engine.drain()
        assert await b.app.engine.result(run) == {"score": 5}
        assert [len(call.messages) for call in provider.calls] == [2, 4, 4]
        assert (await b.app.engine.get(run)).cost_eur == 2 * COST


async def test_a_step_stops_at_its_own_budget(store: Store, tmp_path: pathlib.Path) -> None:
    provider = ScriptedProvider(gives({"note": 1}))
    async with bench(store, tmp_path, provider) as b:
        failing = f"{SCORED}, budget: 0.00005, retry: {{max: 5, backoff: constant, first: 1ms}}"
        code, _ = await b.fail(one(failing), {"text": "Note"})
    assert (code, len(provider.calls)) == ("step_failed", 2)


async def test_a_run_that_spent_its_money_to_the_cent_asks_a_person(store: Store, tmp_path: pathlib.Path) -> None:
    flow = f"""
flow: essai
schema: 1
inputs: {{text: string}}
budget: {{per_run_eur: 0.000044, on_exceed: human}}
steps:
  - {{id: first, {SCORED}}}
  - {{id: second, {SCORED}}}
output: "{{{{ steps.second.score }}}}"
"""
    async with bench(store, tmp_path, ScriptedProvider(gives({"score": 1}))) as b:
        run = await b.play(flow, {"text": "Note"})
        assert (run.status, run.parked_on, run.cost_eur) == ("parked", "second", COST)


async def test_the_prompt_of_another_language_and_the_role_are_chosen(store: Store, tmp_path: pathlib.Path) -> None:
    files = {"prompts/note.fr.md": "Note : {{ text }}", "prompts/note.en.md": "Rate: {{ text }}"}
    provider = ScriptedProvider(answer=lambda call: says(call.messages[-1].content))
    config = "{model: judge, prompt: prompts/note.md, temperature: 0.5, max_output_tokens: 9}"
    step = f"llm: {config}, with: {{text: x, language: en}}"
    async with bench(store, tmp_path, provider, Parts(roles={"judge": "writer"})) as b:
        assert await b.give(one(step), {"text": ""}, **files) == {"text": "Rate: x"}
    (call,) = provider.calls
    assert (call.model, call.temperature, call.max_output_tokens) == ("writer", 0.5, 9)


async def test_the_model_a_key_may_not_use_is_refused(store: Store, tmp_path: pathlib.Path) -> None:
    provider = ScriptedProvider()
    async with bench(store, tmp_path, provider) as b:
        b.who = dataclasses.replace(b.who, models=frozenset({"judge"}))
        assert (await b.fail(one(ASK), {"text": "Salut"}))[0] == "not_allowed"
        unknown = ASK.replace("writer", "poet")
        b.who = dataclasses.replace(b.who, models=None)
        assert (await b.fail(one(unknown), {"text": "Salut"}))[0] == "not_found"
    assert provider.calls == []


async def test_a_provider_that_is_away_is_tried_again(store: Store, tmp_path: pathlib.Path) -> None:
    provider = ScriptedProvider(Script(status=503), Script(status=503), gives({"score": 4}))
    async with bench(store, tmp_path, provider) as b:
        assert await b.give(one(f"{SCORED}, retry: {{max: 2, backoff: constant, first: 1ms}}"), {"text": "x"}) == {
            "score": 4
        }
