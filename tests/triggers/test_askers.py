"""Whoever asks for a run with a key of their own does not approve it, though it works under the key of its trigger."""

from __future__ import annotations

from dataclasses import replace

import pytest

from metier.calls import KeyId, Principal, RunId
from metier.errors import NotAllowed
from metier.store import Store
from metier.triggers import Triggers
from metier.triggers.askers import Askers
from metier.vault import Vault
from metier.workflow.engine import Engine
from metier.workflow.operations import Operations
from metier.workflow.review import Review, Reviewer, TaskDesk
from metier.workflow.shape import Workflow
from tests.triggers.house import Known, told, trigger, who
from tests.workflow.flows import WHO, flow, step

LEA = replace(WHO, key_id=KeyId("key_lea"), name="lea")
ZOE = replace(WHO, key_id=KeyId("key_zoe"), name="zoe")


class Office:
    """An engine with a desk, and a flow of which programs and people ask runs over HTTP."""

    def __init__(self, store: Store, vault: Vault) -> None:
        self.engine = Engine(store, vault, {"code": told}, desk=TaskDesk(store, vault))
        self.review = Review(store, vault, self.engine)
        self.operations = Operations(store, vault, self.engine, None)
        self.triggers = Triggers.built(store, vault, self.engine, who, Known())

    async def ask(self, asker: Principal, once: str | None = None) -> RunId:
        run = (await self.triggers.ask(asker, "flow", {}, once)).run
        assert run is not None
        await self.engine.drain()
        return run

    async def bar(self, run: RunId, person: Principal) -> str | None:
        (task,) = await self.review.list(run=run)
        return await self.review.bar(task.id, Reviewer.behind(person))


@pytest.fixture
async def office(store: Store, vault: Vault) -> Office:
    made = Office(store, vault)
    await made.triggers.deployments.deploy(approval(), WHO, "ada")
    return made


def approval() -> Workflow:
    ask = step("approve", "human", {"assign": "group:sav", "title": "Payer ?"})
    return replace(flow(ask, output="{{ steps.approve }}"), triggers=(trigger("api"),))


async def test_whoever_asks_for_a_run_does_not_approve_it(office: Office) -> None:
    run = await office.ask(LEA)
    (task,) = await office.review.list(run=run)
    assert (await office.review.get(task.id)).started_by == "lea"
    with pytest.raises(NotAllowed, match="started the run"):
        await office.review.decide(task.id, Reviewer.behind(LEA), {"decision": "approve"})
    renewed = replace(LEA, key_id=KeyId("key_lea_2"))
    assert await office.bar(run, renewed) == "self", "a new key makes no new person"
    await office.review.decide(task.id, Reviewer.behind(ZOE), {"decision": "approve"})


async def test_nor_one_that_goes_on_from_it_and_asking_again_changes_nothing(office: Office) -> None:
    run = await office.ask(LEA, "order-7")
    assert await office.ask(ZOE, "order-7") == run, "the same cause: she has asked for nothing"
    assert (await office.bar(run, LEA), await office.bar(run, ZOE)) == ("self", None)
    made, _ = await office.operations.fork(run, approval())
    await office.engine.drain()
    assert (await office.bar(made, LEA), await office.bar(made, ZOE)) == ("self", None)


async def test_on_one_machine_people_are_told_by_their_account(office: Office, store: Store) -> None:
    run, ada = await office.ask(ZOE), replace(WHO, name="ada", key_id=KeyId("local, by ada"))
    await Askers(store).note(ada, WHO.project, "flow", "again")
    made, _ = await office.operations.fork(run, approval(), dedupe="again")
    await office.engine.drain()
    (task,) = await office.review.list(run=made)
    known = (("ada", "local"), ("max", "local, by ada"), ("bob", "local"), ("max", "local, by bob"))
    people = [Reviewer(name, id=id, everywhere=True) for name, id in known]
    assert [await office.review.bar(task.id, one) for one in people] == ["self", "self", None, None]


async def test_who_asked_is_forgotten_with_the_run(office: Office, store: Store) -> None:
    run = await office.ask(LEA)
    async with store.connection() as connection:
        await connection.execute("UPDATE run_askers SET at = at - interval '2 days'")
        await office.triggers.intake.forget()
        rows = await (await connection.execute("SELECT name FROM run_askers")).fetchall()
        assert [row["name"] for row in rows] == ["lea"]
        await connection.execute("DELETE FROM runs WHERE id = %s", (run,))
        await office.triggers.intake.forget()
        assert await (await connection.execute("SELECT name FROM run_askers")).fetchall() == []
