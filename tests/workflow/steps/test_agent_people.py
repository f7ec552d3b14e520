"""Tool calls that wait for a person, and what agents remember together."""

from __future__ import annotations

import dataclasses
import pathlib

from metier.calls import JSON, Principal, ProjectId, SystemId
from metier.providers.scripted import ScriptedProvider, asks, says
from metier.store import Store
from metier.testing import StillClock
from metier.vault import member
from metier.workflow.steps.agent_memory import DAYS, Memory
from tests.workflow.steps.agents import desk, shop, told, turn

ASKED: dict[str, JSON] = {"approve": ["shop.pay_back"]}


async def test_a_tool_call_waits_for_a_person(store: Store, tmp_path: pathlib.Path) -> None:
    provider = ScriptedProvider(turn(("shop_pay_back", {"eur": 30}), text="The parcel was lost."), says("Paid back."))
    async with shop(store, tmp_path, provider) as s:
        run = await s.play(desk(ASKED))
        assert (run.status, run.parked_on, len(s.pay.calls), len(provider.calls)) == ("parked", "it", 0, 1)
        (task,) = await s.review.of_run(run.id)
        assert task.show == {
            "tool": "shop.pay_back", "what": "Pays an amount back.", "why": "The parcel was lost.",
            "arguments": {"eur": 30}, "agent": "it",
        }  # fmt: skip
        assert (task.edit, task.title) == ({"eur": 30}, "Autoriser shop.pay_back ?")
        run = await s.decide(run, {"decision": "approve"})
        assert run.status == "done"
        assert (s.pay.calls, len(provider.calls)) == ([{"eur": 30}], 2)
    assert told(provider)[-1] == ("tool", "paid")


async def test_what_a_person_changed_is_used_and_told(store: Store, tmp_path: pathlib.Path) -> None:
    provider = ScriptedProvider(asks("shop_pay_back", {"eur": 3000}), says("Thirty it is."))
    async with shop(store, tmp_path, provider) as s:
        run = await s.decide(await s.play(desk(ASKED)), {"decision": "approve", "edited": {"eur": 30}})
        assert (run.status, s.pay.calls) == ("done", [{"eur": 30}])
    assert '"arguments":{"eur":30}' in told(provider)[-1][1] and '"result":"paid"' in told(provider)[-1][1]


async def test_a_refusal_is_told_with_its_reason(store: Store, tmp_path: pathlib.Path) -> None:
    provider = ScriptedProvider(asks("shop_pay_back", {"eur": 3000}), says("Sorry."))
    async with shop(store, tmp_path, provider) as s:
        run = await s.decide(await s.play(desk(ASKED)), {"decision": "reject", "reason": "Too much."})
        assert (run.status, s.pay.calls) == ("done", [])
    assert told(provider)[-1] == ("tool", "error: a person refused this call: Too much.")
    assert provider.calls[-1].messages[-1].failed


async def test_each_of_several_calls_is_approved_and_the_others_are_done_once(
    store: Store, tmp_path: pathlib.Path
) -> None:
    calls: list[tuple[str, JSON]] = [
        ("shop_pay_back", {"eur": 1}),
        ("shop_find", {"number": 7}),
        ("shop_pay_back", {"eur": 2}),
    ]
    provider = ScriptedProvider(turn(*calls), says("Done."))
    async with shop(store, tmp_path, provider) as s:
        run = await s.play(desk(ASKED))
        assert (run.status, len(s.find.calls)) == ("parked", 1), "what needs nobody is done meanwhile"
        run = await s.decide(run, {"decision": "approve"})
        assert (run.status, s.pay.calls) == ("parked", [{"eur": 1}])
        run = await s.decide(run, {"decision": "approve"})
        assert (run.status, s.pay.calls) == ("done", [{"eur": 1}, {"eur": 2}])
        assert (len(s.find.calls), len(provider.calls)) == (1, 2)


async def test_arguments_that_do_not_fit_ask_nobody(store: Store, tmp_path: pathlib.Path) -> None:
    provider = ScriptedProvider(asks("shop_pay_back", {"eur": "much"}), says("I cannot."))
    async with shop(store, tmp_path, provider) as s:
        assert (await s.play(desk(ASKED))).status == "done"


async def test_agents_of_several_runs_remember_together(store: Store, tmp_path: pathlib.Path) -> None:
    provider = ScriptedProvider(says("Tuesday."), says("As I said, Tuesday."), says("Who?"))
    async with shop(store, tmp_path, provider) as s:
        key = {"conversation": "trip-12"}
        with_: dict[str, JSON] = {"shop": "the bakery", "conversation": "trip-12"}
        await s.give(desk(dict(key), with_={**with_, "message": "When do we leave?"}))
        other = desk({**key, "instructions": "agents/accounts.md"}, with_={**with_, "message": "When?"})
        await s.give(other)
        assert told(provider, 1) == [
            ("system", "You know invoices."),
            ("user", "When do we leave?"),
            ("assistant", "Tuesday."),
            ("user", "When?"),
        ]
        assert provider.calls[0].conversation == provider.calls[1].conversation
        await s.give(desk({"conversation": "trip-13"}, message="When?"))
        assert len(provider.calls[2].messages) == 2, "another key, another conversation"


async def test_another_project_or_fewer_groups_read_nothing(store: Store, tmp_path: pathlib.Path) -> None:
    async with shop(store, tmp_path, ScriptedProvider(says("Tuesday."))) as s:
        await s.give(desk({"conversation": "trip"}))
        assert len(await _said(s.memory, s.who)) == 1
        assert await _said(s.memory, dataclasses.replace(s.who, groups=frozenset({"public"}))) == []
        assert await _said(s.memory, dataclasses.replace(s.who, project=ProjectId("other"))) == []
        assert await _said(s.memory, dataclasses.replace(s.who, system=SystemId("other"))) == []


async def test_a_conversation_ends_with_its_time_and_with_its_person(store: Store, tmp_path: pathlib.Path) -> None:
    with_: dict[str, JSON] = {"shop": "the bakery", "message": "Hello", "person": "ana@exemple.example"}
    provider = ScriptedProvider(says("Hello."))
    async with shop(store, tmp_path, provider) as s:
        await s.give(desk({"conversation": "trip"}, with_=with_))
        await s.give(desk({"conversation": "trip"}))
        assert [call.end_user for call in provider.calls] == ["ana@exemple.example", None]
        subject = member(s.app.vault, s.who.organisation, "ana@exemple.example")
        assert await s.memory.erase(s.who.organisation, subject, dry_run=True) == 1
        assert len(await _said(s.memory, s.who)) == 2
        assert await s.memory.erase(s.who.organisation, subject) == 1
        assert len(await _said(s.memory, s.who)) == 1
        clock = StillClock()
        clock.forward(DAYS * 86_400 + 60)
        later = Memory(s.app.store, s.app.vault, clock=clock)
        assert await _said(later, s.who) == []
        assert (await s.memory.purge(), await later.purge()) == (0, 1)


async def _said(memory: Memory, who: Principal) -> list[JSON]:
    return await memory.before(who, "trip")
