"""People around tasks: who may not decide, second readings, absences, levels, discussions, corrections kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import psycopg
import pytest

from metier.calls import JSON, RunId
from metier.errors import Conflict, Invalid, NotAllowed, NotFound
from metier.record.erasure import Target
from metier.store import Queries, Row, Store, Tx
from metier.vault import Vault
from metier.workflow.definition import Workflow
from metier.workflow.desk import read_twice
from metier.workflow.engine import Engine
from metier.workflow.review import Review, Reviewer, Task, TaskDesk
from tests.workflow.flows import WHO, Counting, Ticking, flow, step

ZOE = Reviewer("zoe", frozenset({"sav"}), "key_z")
MAX = Reviewer("max", frozenset({"sav"}), "key_m")
IDA = Reviewer("ida", frozenset({"sav"}), "key_i")
EVE = Reviewer("eve", frozenset({"compta"}), "key_e")
STARTER = Reviewer("robot", frozenset({"sav"}), WHO.key_id)
NOBODY: dict[str, JSON] = {"not": ["{{ lower(inputs.who) }}", "user:max"]}
ROOT = Reviewer("root", id="local", everywhere=True)

DECISION: dict[str, JSON] = {
    "type": "object",
    "properties": {
        "decision": {"enum": ["approve", "changes", "reject"]},
        "edited": {"type": "object"},
        "note": {"type": "string"},
    },
    "required": ["decision", "edited"],
    "additionalProperties": False,
}


@dataclass
class Office:
    """An engine with a desk, and the people's side of it."""

    engine: Engine
    review: Review
    clock: Ticking

    async def park(self, **more: JSON) -> Task:
        run = await self.engine.start(approval(**more), {"who": "Zoé"}, WHO)
        await self.engine.drain()
        return await self.task(run)

    async def task(self, run: RunId) -> Task:
        (task,) = await self.review.list(run=run)
        return task

    async def kinds(self, task: Task) -> list[str]:
        return [event.kind for event in await self.review.history(task.id)]


@pytest.fixture
def office(store: Store, vault: Vault) -> Office:
    """A small office whose time stands still."""
    clock = Ticking()
    engine = Engine(store, vault, {"code": Counting()}, desk=TaskDesk(store, vault, clock=clock), clock=clock)
    return Office(engine, Review(store, vault, engine, clock=clock), clock)


class Watched(Store):
    """A store that notes which queries of reviews are made."""

    def __init__(self, url: str) -> None:
        super().__init__(url, size=2)
        self.asked: list[str] = []

    def queries(self, owner: str) -> Queries:
        """Give queries that are noted, by name."""
        return Noted(self) if owner == "review" else super().queries(owner)


class Noted(Queries):
    """The queries of reviews, noted in their store."""

    def __init__(self, store: Watched) -> None:
        super().__init__(store, "review")
        self._asked = store.asked

    async def one(self, name: str, params: Mapping[str, object] | None = None, tx: Tx | None = None) -> Row | None:
        """Run a query, and note it."""
        self._asked.append(name)
        return await super().one(name, params, tx)


def approval(**more: JSON) -> Workflow:
    config: JSON = {"assign": "group:sav", "title": "Valider", "edit": "steps.draft", **more}
    ask = step("approve", "human", config, output=DECISION)
    return flow(step("draft"), ask, output="{{ steps.approve }}")


async def test_who_started_the_run_does_not_decide_it_unless_the_step_lets_them(office: Office) -> None:
    task = await office.park()
    assert await office.review.bar(task.id, STARTER) == "self"
    for act in (office.review.claim(task.id, STARTER), office.review.decide(task.id, STARTER, {"decision": "approve"})):
        with pytest.raises(NotAllowed, match="started the run"):
            await act
    await office.review.comment(task.id, STARTER, "Merci de regarder")
    await office.review.decide(task.id, ZOE, {"decision": "approve"})
    own = await office.park(allow_self=True)
    await office.review.decide(own.id, STARTER, {"decision": "approve"})


async def test_a_workflow_names_people_who_may_not_decide(office: Office) -> None:
    task = await office.park(**NOBODY)
    with pytest.raises(NotAllowed, match="'max'"):
        await office.review.decide(task.id, MAX, {"decision": "approve"})
    assert await office.review.bar(task.id, Reviewer("zoé", frozenset({"sav"}))) == "named"
    await office.review.decide(task.id, IDA, {"decision": "approve"})


@pytest.mark.parametrize("choice", ["reject", "changes"])
async def test_a_refusal_needs_its_reason_and_the_step_gets_it(office: Office, choice: str) -> None:
    task = await office.park()
    for empty in ("", "  \n"):
        with pytest.raises(Invalid, match="note"):
            await office.review.decide(task.id, ZOE, {"decision": choice}, empty)
    await office.review.decide(task.id, ZOE, {"decision": choice}, "Plus court")
    await office.engine.drain()
    result = await office.engine.result(task.run)
    assert result == {"decision": choice, "edited": {"path": "draft"}, "note": "Plus court"}


async def test_everything_that_happens_is_kept_in_order_and_nothing_can_be_changed(
    office: Office, store: Store
) -> None:
    task = await office.park()
    await office.review.claim(task.id, ZOE)
    await office.review.release(task.id, ZOE)
    await office.review.comment(task.id, MAX, "  Le client a rappelé.\nDeux fois. ")
    with pytest.raises(Invalid):
        await office.review.hand_off(task.id, ZOE, "group:compta", " ")
    await office.review.hand_off(task.id, ZOE, "group:compta", "C'est une facture")
    with pytest.raises(NotAllowed):
        await office.review.comment(task.id, MAX, "Trop tard")
    await office.review.decide(task.id, EVE, {"decision": "approve"}, "vu")
    events = await office.review.history(task.id, EVE)
    assert [(event.kind, event.by, event.target, event.words) for event in events] == [
        ("opened", None, "group:sav", ""),
        ("claimed", "zoe (key_z)", None, ""),
        ("released", "zoe (key_z)", None, ""),
        ("commented", "max (key_m)", None, "Le client a rappelé.\nDeux fois."),
        ("handed_off", "zoe (key_z)", "group:compta", "C'est une facture"),
        ("decided", "eve (key_e)", None, "vu"),
    ]
    async with store.connection() as connection:
        rows = await (await connection.execute("SELECT words FROM task_events WHERE words IS NOT NULL")).fetchall()
        assert not any(b"client" in bytes(row["words"]) for row in rows)
        for statement in ("UPDATE task_events SET by_name = 'x'", "DELETE FROM task_events"):
            with pytest.raises(psycopg.errors.RaiseException, match="append-only"):
                await connection.execute(statement)
        await connection.execute("DELETE FROM runs WHERE id = %s", (task.run,))
        left = await (await connection.execute("SELECT count(*) AS n FROM task_events")).fetchone()
    assert left == {"n": 0}, "they go with their run"


async def test_a_task_nobody_decides_climbs_from_level_to_level(office: Office) -> None:
    levels: list[JSON] = [{"after": "2d", "to": "group:direction"}, {"after": "1d", "to": "group:chefs"}]
    task = await office.park(escalate=levels)
    assert (await office.review.sweep()).escalated == ()
    await office.review.claim(task.id, ZOE)
    for seconds, to in ((86_401, "group:chefs"), (86_400, "group:direction")):
        office.clock.forward(seconds)
        assert (await office.review.sweep()).escalated == (task.id,)
        assert (await office.review.sweep()).escalated == ()
        now = await office.review.get(task.id)
        assert (now.assignee, now.state) == (to, "open")
    assert await office.kinds(task) == ["opened", "claimed", "escalated", "escalated"]


async def test_who_stands_in_has_the_tasks_of_the_absent_as_long_as_it_lasts(office: Office) -> None:
    task, now = await office.park(assign="user:eve"), office.clock.now
    absences = office.review.absences
    assert await office.review.list(MAX) == ()
    made = await absences.declare(EVE, now + timedelta(hours=1), now + timedelta(days=2), "user:zoe")
    await absences.declare(ZOE, now - timedelta(hours=1), now + timedelta(days=1), "user:max")
    assert await office.review.list(MAX) == (), "the absence has not begun"
    office.clock.forward(3_601)
    assert [one.id for one in await office.review.list(MAX)] == [task.id], "zoe is away too"
    assert [one.id for one in await office.review.list(EVE)] == [task.id], "it stays hers"
    assert await absences.of("eve", None) == made
    with pytest.raises(NotFound):
        await office.review.get(task.id, IDA)
    await office.review.decide(task.id, MAX, {"decision": "approve"})
    other = await office.park(assign="user:eve")
    await absences.end(made.id, EVE)
    assert await office.review.list(ZOE) == () and (await office.task(other.run)).assignee == "user:eve"


async def test_an_absence_is_ones_own_and_makes_sense(office: Office) -> None:
    now, absences = office.clock.now, office.review.absences
    day = timedelta(days=1)
    for since, until, to, person in (
        (now, now, "user:max", None),
        (now - 2 * day, now - day, "user:max", None),
        (now, now + day, "user:zoe", None),
        (now, now + day, "max", None),
        (now, now + day, "user:max", "eve"),
    ):
        with pytest.raises(Invalid):
            await absences.declare(ZOE, since, until, to, person=person)
    made = await absences.declare(ROOT, now, now + day, "group:sav", person="eve")
    elsewhere = Reviewer("ida", frozenset({"sav"}), "key_x", "autre")
    assert await absences.standing(elsewhere) == elsewhere, "of another organisation"
    for who in (MAX, elsewhere):
        with pytest.raises(NotFound):
            await absences.end(made.id, who)
    assert [one.person for one in await absences.list(MAX)] == ["eve"]
    assert await absences.list(Reviewer("tom")) == ()


async def test_a_share_is_read_twice_and_the_second_does_not_see_the_first(office: Office) -> None:
    task = await office.park(second_reading=1)
    await office.review.decide(task.id, ZOE, {"decision": "approve", "edited": {"path": "better"}})
    await office.engine.drain()
    assert (await office.engine.get(task.run)).status == "parked"
    assert await office.review.list(ZOE) == ()
    (second,) = await office.review.list(MAX)
    assert second.id != task.id and second.edit == {"path": "draft"}, "as it was before the first reader"
    seen = await office.review.get(task.id, MAX)
    assert (seen.decision, seen.decided_by, seen.note) == (None, None, "")
    assert "decided" not in [event.kind for event in await office.review.history(task.id, MAX)]
    assert (await office.review.get(task.id, ZOE)).decided_by == "zoe"
    for who in (ZOE, Reviewer("zoe", frozenset({"sav"}), "key_other")):
        with pytest.raises(NotAllowed, match="read"):
            await office.review.decide(second.id, who, {"decision": "approve"})
    await office.review.decide(second.id, MAX, {"decision": "approve"})
    await office.engine.drain()
    assert await office.engine.result(task.run) == {"decision": "approve", "edited": {"path": "better"}}
    assert (await office.review.get(second.id)).agreed is True
    assert await office.review.agreement() == [{"workflow": "flow", "path": "approve", "twice": 1, "agreed": 1}]


async def test_two_readers_who_disagree_leave_it_to_a_third(office: Office) -> None:
    task = await office.park(second_reading=1)
    await office.review.decide(task.id, ZOE, {"decision": "approve"})
    (second,) = await office.review.list(run=task.run)
    await office.review.decide(second.id, MAX, {"decision": "reject"}, "faux")
    (third,) = await office.review.list(run=task.run)
    assert third.reading == 3 and await office.review.list(ZOE) == () and await office.review.list(MAX) == ()
    with pytest.raises(Conflict):
        await office.review.decide(second.id, IDA, {"decision": "approve"})
    await office.review.decide(third.id, IDA, {"decision": "reject"}, "faux en effet")
    await office.engine.drain()
    assert (await office.engine.get(task.run)).status == "done"
    assert (await office.kinds(second))[-1] == "disagreed"
    assert await office.review.agreement("flow") == [{"workflow": "flow", "path": "approve", "twice": 1, "agreed": 0}]


async def test_a_run_that_is_cancelled_between_two_readings_is_over(office: Office) -> None:
    task = await office.park(second_reading=1)
    await office.review.decide(task.id, ZOE, {"decision": "approve"})
    (second,) = await office.review.list(run=task.run)
    await office.engine.cancel(task.run)
    with pytest.raises(Conflict):
        await office.review.decide(second.id, MAX, {"decision": "approve"})
    assert (await office.kinds(second))[-1] == "cancelled"


def test_the_share_that_is_read_twice_is_the_one_asked_for_and_always_the_same() -> None:
    runs = [RunId(f"run_{number}") for number in range(2_000)]
    drawn = [run for run in runs if read_twice(run, "approve", 0.1)]
    assert 140 < len(drawn) < 260 and drawn == [run for run in runs if read_twice(run, "approve", 0.1)]
    assert not any(read_twice(run, "approve", 0) for run in runs) and read_twice(runs[0], "a", 1)


async def test_what_was_corrected_is_kept_as_an_example_for_a_time(office: Office, store: Store) -> None:
    same, refused, better = [await office.park() for _ in range(3)]
    await office.review.decide(same.id, ZOE, {"decision": "approve"})
    await office.review.decide(refused.id, ZOE, {"decision": "reject", "edited": {"path": "no"}}, "non")
    await office.review.decide(better.id, ZOE, {"decision": "approve", "edited": {"path": "better"}})
    (kept,) = await office.review.corrections.list(workflow="flow")
    assert (kept.original, kept.edited, kept.path) == ({"path": "draft"}, {"path": "better"}, "approve")
    assert (kept.run, kept.by, kept.prompt) == (better.run, "zoe (key_z)", None) and kept.definition.startswith("flow")
    assert await office.review.corrections.list(workflow="other") == ()
    assert "changed" in await office.kinds(better) and "changed" not in await office.kinds(same)
    async with store.connection() as connection:
        (row,) = await (await connection.execute("SELECT contents FROM corrections")).fetchall()
    assert b"better" not in bytes(row["contents"])
    office.clock.forward(366 * 86_400)
    await office.review.sweep()
    assert await office.review.corrections.list() == ()


async def test_an_erasure_of_a_person_takes_the_corrections_about_them(office: Office, store: Store) -> None:
    call = (
        "INSERT INTO calls (id, at, key, project, system, model, deployment, operation, outcome, cost_eur, method, "
        "duration_s, run, organisation, end_user) VALUES (%s, now(), 'k', 'sales', 's', 'm', 'd', 'chat', 'answered', "
        "0, 'm', 1, %s, 'main', %s)"
    )
    for person in ("aa", "bb", None):
        task = await office.park()
        async with store.connection() as connection:
            await connection.execute(call, (f"c_{person}", task.run, person))
        await office.review.decide(task.id, ZOE, {"decision": "approve", "edited": {"path": str(person)}})
    erase = office.review.corrections.erase
    assert await erase(Target("elsewhere", person="aa"), "Camille", False) == 0
    assert (await erase(Target("main", person="aa"), "Camille", True)) == 1
    assert (await erase(Target("main", person="aa"), "Camille", False)) == 1
    assert (await erase(Target("main", call="c_bb"), "Camille", False)) == 1
    (left,) = await office.review.corrections.list()
    assert left.edited == {"path": "None"}
    assert (await erase(Target("main", project="sales"), "Camille", False)) == 1


async def test_whose_a_task_is_is_read_with_the_task_and_not_looked_up_again(
    office: Office, store: Store, vault: Vault
) -> None:
    task = await office.park()
    watched = Watched(store.url)
    async with watched:
        review = Review(watched, vault, office.engine, clock=office.clock)
        await review.comment(task.id, ZOE, "elle a rappelé")
        await review.hand_off(task.id, ZOE, "user:max", "à toi")
        await review.decide(task.id, MAX, {"decision": "approve", "edited": {}}, "vu avec elle")
    assert watched.asked == ["get"] * 3
    told = [event.words for event in await office.review.history(task.id) if event.words]
    assert told == ["elle a rappelé", "à toi", "vu avec elle"]
