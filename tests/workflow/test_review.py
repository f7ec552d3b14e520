"""Tasks: opened with the parking, decided once by somebody who may, handed off, reminded, never late unseen."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from metier.calls import JSON, RunId
from metier.errors import Conflict, Invalid, NotAllowed, NotFound
from metier.store import Store
from metier.vault import Vault
from metier.workflow.commands import ASK_HUMAN, FALLBACK
from metier.workflow.definition import OnError, Workflow
from metier.workflow.engine import Engine
from metier.workflow.review import Review, Reviewer, TaskDesk
from tests.workflow.flows import WHO, Counting, Ticking, flow, step

ZOE = Reviewer("zoe", frozenset({"sav"}))
MAX = Reviewer("max", frozenset({"sav"}))
EVE = Reviewer("eve", frozenset({"compta"}))

DECISION: dict[str, JSON] = {
    "type": "object",
    "properties": {"decision": {"enum": ["approve", "reject"]}, "edited": {"type": "object"}},
    "required": ["decision", "edited"],
    "additionalProperties": False,
}


@dataclass
class Office:
    """An engine with a desk, and the people's side of it."""

    engine: Engine
    review: Review
    clock: Ticking
    done: Counting

    async def parked(self, workflow: Workflow, who: str = "Zoé") -> RunId:
        run = await self.engine.start(workflow, {"who": who}, WHO)
        await self.engine.drain()
        assert (await self.engine.get(run)).status == "parked"
        return run


@pytest.fixture
def office(store: Store, vault: Vault) -> Office:
    """A small office whose time stands still."""
    clock, done = Ticking(), Counting()
    engine = Engine(store, vault, {"code": done}, desk=TaskDesk(store, vault, clock=clock), clock=clock)
    return Office(engine, Review(store, vault, engine, clock=clock), clock, done)


def approval(**more: JSON) -> Workflow:
    config: JSON = {
        "assign": "group:sav",
        "title": "Valider {{ inputs.who }}",
        "show": ["inputs.who"],
        "edit": "steps.draft",
        **more,
    }
    ask = step("approve", "human", config, output=DECISION)
    return flow(
        step("draft"), ask, step("send", with_={"body": "{{ steps.approve.edited }}"}), output="{{ steps.send }}"
    )


async def test_a_draft_is_shown_edited_and_sent(office: Office) -> None:
    run = await office.parked(approval())
    assert (await office.engine.get(run)).parked_on == "approve"
    (task,) = await office.review.list(ZOE)
    assert (task.title, task.show, task.edit) == ("Valider Zoé", {"inputs.who": "Zoé"}, {"path": "draft"})
    await office.review.decide(task.id, ZOE, {"decision": "approve", "edited": {"path": "better"}})
    await office.engine.drain()
    assert await office.engine.result(run) == {"path": "send", "body": {"path": "better"}}
    ended = await office.review.get(task.id)
    assert (ended.state, ended.decided_by) == ("decided", "zoe")
    assert ended.decision == {"decision": "approve", "edited": {"path": "better"}}
    assert await office.review.list(ZOE) == ()
    assert office.done.runs == [("draft", 1), ("send", 1)]


async def test_a_draft_nobody_changed_is_sent_as_it_was(office: Office) -> None:
    run = await office.parked(approval())
    (task,) = await office.review.list(run=run)
    await office.review.decide(task.id, ZOE, {"decision": "approve"})
    await office.engine.drain()
    assert await office.engine.result(run) == {"path": "send", "body": {"path": "draft"}}


@pytest.mark.parametrize("odd", [{"decision": "perhaps"}, {}, "yes", {"decision": "approve", "more": 1}])
async def test_a_decision_that_does_not_fit_leaves_the_task_open(office: Office, odd: JSON) -> None:
    run = await office.parked(approval())
    (task,) = await office.review.list(ZOE)
    with pytest.raises(Invalid):
        await office.review.decide(task.id, ZOE, odd)
    assert (await office.review.get(task.id)).state == "open"
    assert (await office.engine.get(run)).status == "parked"


@pytest.mark.parametrize(
    "odd",
    [{"path": "x" * (17 << 20)}, {1: "a number is no name"}, {"path": {"a set"}}, {"path": 1 << 70}, {"\ud800": 1}],
)
async def test_an_edit_that_is_too_large_or_no_json_is_refused_and_the_task_stays(office: Office, odd: Any) -> None:
    run = await office.parked(approval())
    (task,) = await office.review.list(ZOE)
    with pytest.raises(Invalid):
        await office.review.decide(task.id, ZOE, {"decision": "approve", "edited": odd})
    assert ((await office.review.get(task.id)).state, (await office.engine.get(run)).status) == ("open", "parked")


async def test_of_two_people_at_once_one_decides(office: Office) -> None:
    run = await office.parked(approval())
    (task,) = await office.review.list(ZOE)
    ended = await asyncio.gather(
        *(
            office.review.decide(task.id, who, {"decision": say}, "bon")
            for who, say in ((ZOE, "approve"), (MAX, "reject"))
        ),
        return_exceptions=True,
    )
    assert [type(end) for end in ended if end] == [Conflict]
    await office.engine.drain()
    assert (await office.engine.get(run)).status == "done"
    assert len([line for line in await office.engine.steps(run) if line.kind == "decision"]) == 1
    with pytest.raises(Conflict):
        await office.review.decide(task.id, ZOE, {"decision": "approve"})


async def test_a_claimed_task_is_left_to_who_claimed_it(office: Office) -> None:
    await office.parked(approval())
    (task,) = await office.review.list(ZOE)
    await office.review.claim(task.id, ZOE)
    for act in (office.review.claim(task.id, MAX), office.review.decide(task.id, MAX, {"decision": "approve"})):
        with pytest.raises(Conflict, match="zoe"):
            await act
    with pytest.raises(Conflict):
        await office.review.release(task.id, MAX)
    await office.review.release(task.id, ZOE)
    await office.review.decide(task.id, MAX, {"decision": "approve"})


async def test_people_of_one_name_are_told_apart_by_their_id(office: Office) -> None:
    one, other = (Reviewer("zoe", frozenset({"sav"}), id) for id in ("key_8", "key_9"))
    run = await office.parked(approval())
    (task,) = await office.review.list(one)
    await office.review.claim(task.id, one)
    with pytest.raises(Conflict, match=r"zoe \(key_8\)"):
        await office.review.decide(task.id, other, {"decision": "approve"})
    for act in (office.review.release(task.id, other), office.review.hand_off(task.id, other, "user:max", "voyez")):
        with pytest.raises(Conflict):
            await act
    await office.review.decide(task.id, one, {"decision": "reject"}, "  trop court ")
    (ended,) = await office.review.of_run(run)
    assert (ended.decider, ended.note, ended.decision) == (
        "zoe (key_8)", "trop court", {"decision": "reject", "edited": {"path": "draft"}},
    )  # fmt: skip


async def test_the_operator_takes_a_task_from_who_is_away(office: Office) -> None:
    await office.parked(approval())
    (task,) = await office.review.list(ZOE)
    await office.review.claim(task.id, ZOE)
    operator = Reviewer("root", id="local", everywhere=True)
    with pytest.raises(Conflict, match="zoe"):
        await office.review.decide(task.id, operator, {"decision": "reject"})
    await office.review.hand_off(task.id, operator, "user:max", "voyez")
    await office.review.decide(task.id, MAX, {"decision": "reject"}, "non")


async def test_a_task_belongs_to_those_it_is_assigned_to(office: Office) -> None:
    await office.parked(approval())
    (task,) = await office.review.list(ZOE)
    assert await office.review.list(EVE) == ()
    for act in (office.review.claim(task.id, EVE), office.review.decide(task.id, EVE, {"decision": "approve"})):
        with pytest.raises(NotAllowed):
            await act
    with pytest.raises(NotFound):
        await office.review.get(task.id, EVE)
    await office.review.hand_off(task.id, ZOE, "user:eve", "voyez")
    assert (await office.review.get(task.id, EVE)).handed_off == 1
    assert await office.review.list(ZOE) == ()
    await office.review.decide(task.id, EVE, {"decision": "reject"}, "non")
    with pytest.raises(Invalid, match="group"):
        await office.review.hand_off(task.id, EVE, "somebody", "voyez")


async def test_reminders_come_once_each_and_a_late_task_changes_hands(office: Office) -> None:
    late: JSON = {"reassign": "group:compta"}
    run = await office.parked(approval(due="4h", remind=["1h", "3h"], on_timeout=late))
    (task,) = await office.review.list(run=run)
    assert task.due_at is not None
    assert (task.due_at - task.opened_at).total_seconds() == 4 * 3600
    assert (await office.review.sweep()).reminded == ()
    for hours, reminded in ((1.1, 1), (0.1, 1), (2, 2)):
        office.clock.forward(hours * 3600)
        await office.review.sweep()
        assert (await office.review.get(task.id)).reminded == reminded
    office.clock.forward(3600)
    assert (await office.review.sweep()).reassigned == (task.id,)
    assert (await office.review.sweep()).reassigned == ()
    assert (await office.review.get(task.id)).assignee == "group:compta"
    await office.review.decide(task.id, EVE, {"decision": "approve"})


async def test_a_late_task_may_hold_its_answer_ready(office: Office) -> None:
    run = await office.parked(approval(due="1d", on_timeout={"output": {"decision": "reject"}}))
    (task,) = await office.review.list(run=run)
    office.clock.forward(86_401)
    assert (await office.review.sweep()).expired == (task.id,)
    await office.engine.drain()
    assert (await office.engine.get(run)).status == "done"
    assert (await office.review.get(task.id)).state == "expired"


async def test_what_holds_when_a_task_is_late_is_computed_like_the_rest(office: Office, store: Store) -> None:
    answer: JSON = {"output": {"decision": "approve", "edited": {"path": "{{ steps.draft.path }} of {{ inputs.who }}"}}}
    run = await office.parked(approval(due="1d", on_timeout=answer))
    other = await office.parked(approval(due="1h", on_timeout={"reassign": "group:{{ lower(inputs.who) }}"}), "Compta")
    every = {"who": None, "assignees": None, "organisation": None, "run": None, "after": None, "limit": 9}
    kept = await store.queries("review").all("page", every)
    assert "Zoé" not in str([row["on_timeout"] for row in kept]), "what may name a person is sealed with the task"
    office.clock.forward(3_601)
    (task,) = await office.review.list(run=other)
    assert (await office.review.sweep()).reassigned == (task.id,)
    assert (await office.review.get(task.id, EVE)).assignee == "group:compta"
    office.clock.forward(86_400)
    await office.review.sweep()
    await office.engine.drain()
    assert await office.engine.result(run) == {"path": "send", "body": {"path": "draft of Zoé"}}


async def test_a_ready_answer_that_does_not_fit_goes_to_people_and_stops_no_other(office: Office) -> None:
    run = await office.parked(approval(due="1h", on_timeout={"output": {"decision": "{{ inputs.who }}"}}))
    good = await office.parked(approval(due="1h", on_timeout={"output": {"decision": "{{ inputs.who }}"}}), "reject")
    (task,), (other,) = [await office.review.list(run=one) for one in (run, good)]
    office.clock.forward(3_601)
    assert (await office.review.sweep()).expired == (other.id,)
    assert (await office.review.get(task.id)).assignee == FALLBACK
    assert (await office.review.sweep()).expired == ()


@pytest.mark.parametrize("wrong", [{"assign": "{{ inputs.who }}"}, {"on_timeout": {"reassign": "{{ inputs.who }}"}}])
async def test_a_name_that_was_computed_and_is_none_ends_the_run_with_a_reason(
    office: Office, wrong: dict[str, JSON]
) -> None:
    run = await office.engine.start(approval(due="1h", **wrong), {"who": "Zoé"}, WHO)
    await office.engine.drain()
    found = await office.engine.get(run)
    assert found.status == "failed" and found.failure is not None
    assert found.failure.path == "approve" and "group:<name>" in found.failure.message


async def test_tasks_of_a_cancelled_run_are_closed(office: Office) -> None:
    run = await office.parked(approval())
    (task,) = await office.review.list(run=run)
    await office.engine.cancel(run)
    assert (await office.review.get(task.id)).state == "cancelled"
    with pytest.raises(Conflict):
        await office.review.decide(task.id, ZOE, {"decision": "approve"})


async def test_a_step_that_failed_asks_a_person(store: Store, vault: Vault) -> None:
    engine = Engine(store, vault, {}, desk=TaskDesk(store, vault))
    review = Review(store, vault, engine)
    admin = Reviewer("ada", frozenset({"admins"}))
    run = await engine.start(flow(step("a", on_error=OnError(None, "human")), output="{{ steps.a }}"), {}, WHO)
    await engine.drain()
    (task,) = await review.list(admin)
    assert (task.assignee, task.path) == (FALLBACK, "a")
    await review.decide(task.id, admin, {"decision": "output", "output": "by hand"})
    await engine.drain()
    assert await engine.result(run) == "by hand"
    assert ("a", ASK_HUMAN) in [(line.path, line.name) for line in await engine.steps(run)]


async def test_tasks_are_listed_by_page_and_for_one_assignee(office: Office) -> None:
    for who in ("a", "b", "c"):
        await office.parked(approval(), who)
    first = await office.review.list(ZOE, limit=2)
    rest = await office.review.list(ZOE, after=first[-1].id)
    assert [task.show["inputs.who"] for task in (*first, *rest)] == ["a", "b", "c"]
    assert len(await office.review.list(ZOE, assignees=["group:sav"])) == 3
    assert await office.review.list(ZOE, assignees=["group:compta"]) == ()
    assert len(await office.review.list(Reviewer("root", everywhere=True), assignees=["group:sav"])) == 3
    assert len(await office.review.list(Reviewer("root", everywhere=True))) == 3


async def test_many_parked_runs_wait_as_rows_and_all_go_on(office: Office) -> None:
    runs = await asyncio.gather(*(office.engine.start(approval(), {"who": str(n)}, WHO) for n in range(200)))
    await office.engine.drain()
    assert len(await office.review.list(ZOE, limit=200)) == 200
    before = list(office.done.runs)
    await office.engine.drain()
    assert office.done.runs == before
    for task in await office.review.list(ZOE, limit=200):
        await office.review.decide(task.id, ZOE, {"decision": "approve"})
    await office.engine.drain()
    assert {(await office.engine.get(run)).status for run in runs} == {"done"}
    assert len(office.done.runs) == 400
