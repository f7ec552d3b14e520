"""E-mails in doubt: a mail server cuts the line after DATA, a person finds out, the run goes on once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest

from metier.calls import JSON, RunId
from metier.connectors.deliveries import Deliveries, Settlement
from metier.connectors.outbox import Outbox
from metier.connectors.smtp import Smtp
from metier.connectors.tools import compose, tools
from metier.errors import Conflict, Invalid, NotFound
from metier.store import Store
from metier.vault import Vault
from metier.workflow.definition import OnError, Retry, Workflow
from metier.workflow.engine import Engine
from metier.workflow.review import Review, Reviewer, TaskDesk
from metier.workflow.run_retention import RunRetention
from metier.workflow.steps.tool import ToolSteps
from tests.connectors.mailserver import Server, serving
from tests.workflow.flows import WHO, Counting, Ticking, flow, step

ADA = Reviewer("ada", frozenset({"admins"}), "key_ada")
BEN = Reviewer("ben", frozenset({"admins"}), "key_ben")
ZOE = Reviewer("zoe", frozenset({"sav"}), "key_zoe")
EVE = Reviewer("eve", frozenset({"compta"}), "key_eve")
BODY = "Bonjour,\n\nVotre colis part demain.\n"


@dataclass
class Office:
    """An engine that sends real e-mails to a server of the test."""

    engine: Engine
    review: Review
    deliveries: Deliveries
    outbox: Outbox
    server: Server
    after: Counting
    clock: Ticking

    async def sent(self, workflow: Workflow) -> RunId:
        run = await self.engine.start(workflow, {}, WHO)
        await self.engine.drain()
        return run

    async def status(self, run: RunId) -> str:
        return (await self.engine.get(run)).status


@asynccontextmanager
async def office(store: Store, vault: Vault, *answers: str) -> AsyncIterator[Office]:
    server, after, clock = Server(*answers), Counting(), Ticking()
    async with serving(server) as account:
        outbox = Outbox(store, vault, Smtp(account), _unknown, domain="exemple.fr")
        steps = ToolSteps({"email.send": tools(outbox, None, "sav@exemple.fr")["email.send"]})
        engine = Engine(store, vault, {"tool": steps, "code": after}, desk=TaskDesk(store, vault))
        review = Review(store, vault, engine)
        deliveries = Deliveries(store, vault, engine, review, clock=clock)
        yield Office(engine, review, deliveries, outbox, server, after, clock)


async def _unknown(_: str) -> bool | None:
    return None


def mail(**more: object) -> Workflow:
    given: dict[str, JSON] = {"to": "client@exemple.fr", "subject": "Réponse <b>", "body": BODY}
    return flow(step("send", "tool", "email.send", with_=given, **more), step("after"), output="{{ steps.after.path }}")


ASKS: dict[str, object] = {"on_error": OnError(None, "human", "group:sav")}


@pytest.mark.parametrize("asks", [{}, ASKS], ids=["failed", "parked"])
@pytest.mark.parametrize(
    ("cut", "found", "taken"), [("250 then cut", "delivered", 1), ("cut", "again", 1), ("250 then cut", "again", 2)]
)
async def test_a_letter_in_doubt_is_settled_by_a_person_and_its_run_goes_on(
    store: Store, vault: Vault, asks: dict[str, object], cut: str, found: Settlement, taken: int
) -> None:
    async with office(store, vault, cut) as here:
        run = await here.sent(mail(**asks))
        assert await here.status(run) == ("parked" if asks else "failed") and here.after.runs == []
        (doubtful,) = await here.deliveries.list()
        assert (doubtful.run, doubtful.path, doubtful.state) == (run, "send", "unsure")
        assert (doubtful.recipient, doubtful.subject) == ("client@exemple.fr", "Réponse <b>")
        assert doubtful.body.splitlines() == BODY.splitlines()
        settled = await here.deliveries.settle(doubtful.key, ADA, found)
        assert (settled.settled_as, settled.settled_by) == (found, "ada (key_ada)")
        assert settled.settled_at == here.clock.now and await here.deliveries.list() == ()
        await here.engine.drain()
        assert await here.engine.result(run) == "after"
        assert here.after.runs == [("after", 1)] and len(here.server.taken) == taken
        (told,) = [line.value for line in await here.engine.steps(run) if line.kind == "decision"]
        assert told == {
            "decision": "retry", "delivery": found, "by": "ada (key_ada)", "at": here.clock.now.isoformat(),
        }  # fmt: skip
        (kept,) = await here.deliveries.of_run(run)
        assert kept.state == "sent" and not kept.doubtful


async def test_a_resumed_run_without_an_answer_stays_in_doubt_and_says_what_to_do(store: Store, vault: Vault) -> None:
    async with office(store, vault, "250 then cut") as here:
        run = await here.sent(mail())
        await here.engine.resume(run)
        await here.engine.drain()
        failure = (await here.engine.get(run)).failure
        assert failure is not None and f"metier review settle {run}/send" in failure.message
        assert len(here.server.taken) == 1 and len(await here.deliveries.list()) == 1


async def test_of_two_people_at_once_one_settles_and_the_other_is_told(store: Store, vault: Vault) -> None:
    async with office(store, vault, "250 then cut") as here:
        run = await here.sent(mail())
        key = f"{run}/send"
        ended = await asyncio.gather(
            here.deliveries.settle(key, ADA, "delivered"),
            here.deliveries.settle(key, BEN, "again"),
            return_exceptions=True,
        )
        (lost,) = [end for end in ended if isinstance(end, BaseException)]
        assert isinstance(lost, Conflict) and "settled by" in lost.message
        await here.engine.drain()
        settled = await here.deliveries.get(key)
        assert (await here.status(run), settled.state) == ("done", "sent")
        assert len(here.server.taken) == (1 if settled.settled_as == "delivered" else 2)
        with pytest.raises(Conflict, match="settled by"):
            await here.deliveries.settle(key, ADA, "again")


async def test_people_see_the_letters_of_runs_that_asked_them(store: Store, vault: Vault) -> None:
    async with office(store, vault, "cut", "cut") as here:
        asked, plain = await here.sent(mail(**ASKS)), await here.sent(mail())
        for who, runs in ((ADA, {asked, plain}), (ZOE, {asked}), (EVE, set())):
            assert {each.run for each in await here.deliveries.list(who)} == runs
        for act in (here.deliveries.get(f"{asked}/send", EVE), here.deliveries.settle(f"{plain}/send", ZOE, "again")):
            with pytest.raises(NotFound):
                await act
        for name in ("run_none/send", "", "a\x00b"):
            with pytest.raises(NotFound):
                await here.deliveries.get(name)
        with pytest.raises(Invalid, match="again or dropped"):
            await here.deliveries.settle(f"{plain}/send", ADA, "perhaps")  # type: ignore[arg-type]  # from a form


async def test_a_run_that_is_over_sends_nothing_again(store: Store, vault: Vault) -> None:
    async with office(store, vault, "cut", "cut") as here:
        over = await here.sent(mail(on_error=OnError({"message_id": "?"}, "continue")))
        gone = await here.sent(mail())
        await here.engine.cancel(gone)
        listed = {each.run: each.cancelled for each in await here.deliveries.list()}
        assert (await here.status(over), listed) == ("done", {over: False, gone: True})
        for run in (over, gone):
            with pytest.raises(Conflict, match="write to the customer"):
                await here.deliveries.settle(f"{run}/send", ADA, "again")
            assert (await here.deliveries.get(f"{run}/send")).doubtful
            assert (await here.deliveries.settle(f"{run}/send", ADA, "delivered")).state == "sent"
        assert await here.status(gone) == "cancelled" and here.server.taken == []


async def test_a_try_that_waits_goes_on_with_what_a_person_found_meanwhile(store: Store, vault: Vault) -> None:
    async with office(store, vault, "250 then cut") as here:
        run = await here.sent(mail(retry=Retry(2, "constant", 3600)))
        assert await here.status(run) == "waiting"
        with pytest.raises(Conflict, match="wait if the run is at work"):
            await here.deliveries.settle(f"{run}/send", ADA, "again")
        await here.deliveries.settle(f"{run}/send", ADA, "delivered")
        message = compose("sav@exemple.fr", "client@exemple.fr", "Réponse", BODY)
        await here.outbox.send(f"{run}/send", message, "main")
        assert len(here.server.taken) == 1


async def test_a_letter_whose_sender_died_is_in_doubt_after_a_while(store: Store, vault: Vault) -> None:
    async with office(store, vault, "cut") as here:
        run = await here.sent(mail())
        async with store.connection() as connection:
            await connection.execute("UPDATE outbox SET state = 'sending'")
        assert await here.deliveries.list() == ()
        with pytest.raises(Conflict, match="in no doubt"):
            await here.deliveries.settle(f"{run}/send", ADA, "again")
        here.clock.forward(660)
        (doubtful,) = await here.deliveries.list()
        assert doubtful.state == "sending" and doubtful.doubtful


async def test_what_the_server_took_is_sent_whatever_another_worker_thought(store: Store, vault: Vault) -> None:
    async with office(store, vault) as here:
        outbox = here.outbox
        new = {"key": "run_1/send", "message_id": "m", "content": b"", "tool": "email.send", "target": ""}
        await store.queries("outbox").run("prepare", new)
        await store.queries("outbox").one("claim", {"key": "run_1/send", "mark": None})
        await store.queries("outbox").run(
            "move", {"key": "run_1/send", "from": "sending", "to": "unsure", "error": None}
        )
        await store.queries("outbox").run("taken", {"key": "run_1/send", "result": None})
        assert await outbox.state("run_1/send") == "sent"


async def test_what_is_of_no_run_any_more_or_a_notice_is_shown_to_nobody(store: Store, vault: Vault) -> None:
    async with office(store, vault, "cut") as here:
        home = replace(ADA, organisation="main")
        run = await here.sent(mail())
        async with store.connection() as connection:
            assert [one.run for one in await here.deliveries.list(home)] == [run]
            await connection.execute("UPDATE outbox SET tool = 'task.notice'")
            for reviewer in (ADA, home, None):
                assert await here.deliveries.list(reviewer) == ()
                with pytest.raises(NotFound):
                    await here.deliveries.get(f"{run}/send", reviewer)
            await connection.execute("UPDATE outbox SET tool = 'email.send'")
            await connection.execute("DELETE FROM runs")
            assert await here.deliveries.list(home) == ()
            with pytest.raises(NotFound):
                await here.deliveries.get(f"{run}/send", home)
            await connection.execute("INSERT INTO outbox (key, message_id, content) VALUES ('notice/7/zoe', 'n', '')")
            await RunRetention(store, vault).older("sales", 1)
            rows = await connection.execute("SELECT key FROM outbox")
            assert [row["key"] for row in await rows.fetchall()] == ["notice/7/zoe"]


async def test_a_called_flow_whose_letter_is_in_doubt_is_not_called_anew_by_itself(store: Store, vault: Vault) -> None:
    sub = "flow: sub\nschema: 1\nsteps:\n" + (
        "  - {id: send, tool: email.send, with: {to: client@exemple.fr, subject: Réponse, body: Bonjour}}\n"
    )
    call = step("sub", "call", {"flow": "sub.yaml"}, retry=Retry(3, "constant", 0))
    async with office(store, vault, "cut", "250") as here:
        run = await here.sent(replace(flow(call), files={"sub.yaml": sub}))
        assert await here.status(run) == "failed"
        assert [one.state for one in await here.deliveries.list()] == ["unsure"]
        assert [one.workflow for one in await here.engine.below(run)] == ["sub"]


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_letter_that_never_left_may_be_given_up(store: Store, vault: Vault, cancelled: bool) -> None:
    async with office(store, vault, "cut") as here:
        run = await here.sent(mail())
        if cancelled:
            await here.engine.cancel(run)
        (doubtful,) = await here.deliveries.list()
        settled = await here.deliveries.settle(doubtful.key, ADA, "dropped")
        assert (settled.state, settled.settled_as, settled.doubtful) == ("dropped", "dropped", False)
        assert await here.deliveries.list() == ()
        assert await here.status(run) == ("cancelled" if cancelled else "failed")
        with pytest.raises(Conflict, match="ada"):
            await here.deliveries.settle(doubtful.key, BEN, "again")
        if not cancelled:
            await here.engine.resume(run)
            await here.engine.drain()
            failure = (await here.engine.get(run)).failure
            assert failure is not None and "settled" in failure.message and "dropped" in failure.message
        assert here.server.taken == [] and here.after.runs == []


SUB = """
flow: letter
schema: 1
inputs: {}
steps:
  - {id: before, code: any, with: {}}
  - {id: send, tool: email.send, with: {to: client@exemple.fr, subject: Réponse, body: Bonjour}}
output: sent
"""


@pytest.mark.parametrize("asks", [{}, ASKS], ids=["failed", "parked"])
@pytest.mark.parametrize("kind", ["call", "items"])
@pytest.mark.parametrize("found", ["delivered", "again"])
async def test_a_letter_in_doubt_below_a_run_makes_that_run_go_on_once_it_is_settled(
    store: Store, vault: Vault, asks: dict[str, object], kind: str, found: Settlement
) -> None:
    async with office(store, vault, "250 then cut") as here:
        call = step("sub", "call", {"flow": "letter.yaml"})
        each = step("each", "foreach", {"times": 1, "max": 1, "as": "runs"}, steps=(call,), **asks)
        first = each if kind == "items" else replace(call, **asks)  # type: ignore[arg-type]  # what a step has
        made = replace(flow(first, step("after"), output="{{ steps.after.path }}"), files={"letter.yaml": SUB})
        run = await here.sent(made)
        assert await here.status(run) == ("parked" if asks else "failed")
        (doubtful,) = await here.deliveries.list()
        assert doubtful.run != run
        await here.deliveries.settle(doubtful.key, ADA, found)
        await here.engine.drain()
        assert await here.engine.result(run) == "after"
        assert here.after.runs == [("before", 1), ("after", 1)]
        assert len(here.server.taken) == (2 if found == "again" else 1)
        (kept,) = await here.deliveries.of_run(doubtful.run)
        assert kept.state == "sent" and not kept.doubtful
