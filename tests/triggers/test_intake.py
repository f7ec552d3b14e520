"""From an event to exactly one run: with, when, dedupe, dead letters, crashes between starting and noting."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from metier.calls import JSON, KeyId, Principal, RunId
from metier.errors import Conflict, Invalid, NotAuthenticated, NotFound
from metier.store import Store
from metier.triggers import Event, Triggers
from metier.triggers.intake import Starter
from metier.vault import Vault
from metier.workflow.shape import Trigger, Workflow
from tests.sealing import age, found, own, proven
from tests.triggers.house import House, Known, trigger, triggered, who
from tests.workflow.flows import WHO

TEXT: Mapping[str, JSON] = {"text": {"type": "string"}}


async def test_an_event_becomes_one_run_however_often_and_by_how_many_it_is_taken(store: Store, vault: Vault) -> None:
    house = House(store, vault)
    id = await house.deploy(triggered(trigger("api", with_={"text": "Bonjour {{ event.name }}"}), inputs=TEXT))
    found = await house.triggers.deployments.get(id)
    taken = await asyncio.gather(*(house.triggers.intake.take(found, Event("e1", {"name": "Zoé"})) for _ in range(6)))
    assert len({t.run for t in taken}) == 1
    assert await house.runs() == [{"text": "Bonjour Zoé"}]
    assert (await house.triggers.deployments.get(id)).taken == 1
    await house.triggers.intake.take(found, Event("e2", {"name": "Ada"}))
    assert await house.count() == 2


async def test_dedupe_and_when_are_asked_about_the_event(store: Store, vault: Vault) -> None:
    house = House(store, vault)
    made = trigger("api", with_={"text": "{{ event.text }}"}, dedupe="event.order", when="event.amount > 10")
    found = await house.triggers.deployments.get(await house.deploy(triggered(made, inputs=TEXT)))
    for number, (order, amount) in enumerate([("a", 20), ("a", 30), ("b", 5), ("c", 11)]):
        event = Event(f"e{number}", {"order": order, "amount": amount, "text": f"{order}{amount}"})
        taken = await house.triggers.intake.take(found, event)
        assert taken.outcome == ["started", "known", "skipped", "started"][number]
    assert [run["text"] for run in await house.runs()] == ["a20", "c11"]


class Dying:
    """An engine whose process dies before or after it has started a run, once."""

    def __init__(self, inner: Starter, after: bool) -> None:
        self.inner = inner
        self.after = after
        self.died = False

    async def start(
        self, workflow: Workflow, inputs: Mapping[str, JSON], principal: Principal, *, dedupe: str | None = None
    ) -> RunId:
        if not self.died and not self.after:
            self.died = True
            raise asyncio.CancelledError
        run = await self.inner.start(workflow, inputs, principal, dedupe=dedupe)
        if not self.died:
            self.died = True
            raise asyncio.CancelledError
        return run


@pytest.mark.parametrize("after", [False, True])
async def test_a_crash_between_starting_and_noting_starts_no_second_run(
    store: Store, vault: Vault, after: bool
) -> None:
    house = House(store, vault)
    triggers = Triggers.built(store, vault, Dying(house.engine, after), who, Known())
    found = await triggers.deployments.get(await house.deploy(triggered(trigger("api"))))
    with pytest.raises(asyncio.CancelledError):
        await triggers.intake.take(found, Event("e1", {}))
    assert (await triggers.intake.take(found, Event("e1", {}))).outcome == "started"
    assert (await triggers.intake.take(found, Event("e1", {}))).outcome == "known"
    assert await house.count() == 1


async def test_an_event_that_becomes_no_run_is_kept_sealed_and_taken_again_once_mended(
    store: Store, vault: Vault
) -> None:
    house = House(store, vault)
    first = triggered(trigger("api", with_={"text": "{{ event.body.text }}"}), inputs=TEXT)
    found = await house.triggers.deployments.get(await house.deploy(first))
    event = Event("e1", {"message": "canari-7d21"})
    taken = await house.triggers.intake.take(found, event)
    assert taken.outcome == "failed"
    assert (await house.triggers.intake.take(found, event)).outcome == "known"
    (letter,) = await house.triggers.intake.letters()
    assert (letter.data, letter.flow, letter.tries) == ({"message": "canari-7d21"}, "flow", 1)
    async with store.connection() as connection:
        rows = await (await connection.execute("SELECT l::text AS line FROM trigger_letters l")).fetchall()
    assert not [row for row in rows if "canari-7d21" in row["line"] or b"canari-7d21".hex() in row["line"]]
    assert (await house.triggers.intake.retry(letter.id)).outcome == "failed"
    assert (await house.triggers.intake.letters())[0].tries == 2
    await house.deploy(triggered(trigger("api", with_={"text": "{{ event.message }}"}), inputs=TEXT))
    again = await house.triggers.intake.retry(letter.id)
    assert again.outcome == "started"
    assert await house.runs() == [{"text": "canari-7d21"}]
    assert await house.triggers.intake.letters() == []
    with pytest.raises(NotFound, match="no failed event"):
        await house.triggers.intake.retry(letter.id)
    assert (await house.triggers.intake.take(found, event)).run == again.run


async def test_a_letter_is_sealed_for_the_organisation_of_its_project_and_one_from_before_that_is_taken_again(
    store: Store, vault: Vault
) -> None:
    await own(store, WHO.project, "org_a")
    house = House(store, vault)
    made = trigger("api", with_={"text": "{{ event.message }}"})
    id = await house.deploy(triggered(made, inputs={"text": {"type": "integer"}}))
    await house.triggers.intake.take(await house.triggers.deployments.get(id), Event("e1", {"message": "Bonjour"}))
    for tries in (1, 2):
        ((letter, data, error),) = await found(store, "trigger_letters", "id", "data", "error")
        assert b"Bonjour" in proven(vault, "org_a", "trigger", data, f"{letter}/data")
        assert b"integer" in proven(vault, "org_a", "trigger", error, f"{letter}/error")
        assert [one.tries for one in await house.triggers.intake.letters()] == [tries]
        await house.triggers.intake.retry(letter)
    for column in ("data", "error"):
        ((sealed,),) = await found(store, "trigger_letters", column)
        clear = vault.open("trigger", sealed, f"{letter}/{column}")
        await age(store, "trigger_letters", column, sealed, vault.seal("trigger", clear, f"{letter}/{column}"))
    (before,) = await house.triggers.intake.letters()
    assert before.data == {"message": "Bonjour"} and "integer" in before.error
    await house.deploy(triggered(made, inputs=TEXT))
    assert (await house.triggers.intake.retry(letter)).outcome == "started"


async def test_what_is_not_the_events_fault_is_raised_and_nothing_is_noted(store: Store, vault: Vault) -> None:
    house = House(store, vault)
    refusing = True

    async def revoked(key: KeyId) -> Principal:
        if refusing:
            raise NotAuthenticated(f"the key {key!r} was revoked")
        return WHO

    triggers = Triggers.built(store, vault, house.engine, revoked, Known())
    found = await triggers.deployments.get(await house.deploy(triggered(trigger("api"))))
    with pytest.raises(NotAuthenticated, match="revoked"):
        await triggers.intake.take(found, Event("e1", {}))
    refusing = False
    assert (await triggers.intake.take(found, Event("e1", {}))).outcome == "started"


async def test_two_contents_under_one_id_are_refused(store: Store, vault: Vault) -> None:
    house = House(store, vault)
    found = await house.triggers.deployments.get(await house.deploy(triggered(trigger("api"))))
    await house.triggers.intake.take(found, Event("e1", {}, content=b"one"))
    assert (await house.triggers.intake.take(found, Event("e1", {}, content=b"one"))).outcome == "known"
    with pytest.raises(Conflict, match="under the same id"):
        await house.triggers.intake.take(found, Event("e1", {}, content=b"two"))


async def test_a_preview_starts_nothing(store: Store, vault: Vault) -> None:
    house = House(store, vault)
    found = await house.triggers.deployments.get(await house.deploy(triggered(trigger("api"), inputs=TEXT)))
    seen = await house.triggers.intake.preview(found, Event("e1", {"text": "x", "more": 1}))
    assert (seen.holds, seen.inputs, seen.cause) == (True, {"text": "x"}, "e1")
    with pytest.raises(Invalid):
        await house.triggers.intake.preview(found, Event("e1", {"text": 3}))
    assert await house.count() == 0


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (trigger("cron", {"schedule": "never"}), "flow.yaml:3:5: cannot read the schedule"),
        (trigger("cron", {"schedule": "@daily", "backfill": "some"}), "none, last or all"),
        (trigger("folder", {"path": "in"}), "from the root"),
        (trigger("folder", {"path": "/in", "poll": "often"}), "length of time"),
        (trigger("email", {}), "needs 'mailbox'"),
        (trigger("email", {"mailbox": "a@b.fr", "after": "burn"}), "keep, seen or move"),
        (trigger("webhook", {}), "needs 'secret'"),
        (trigger("row", {"secret": "s", "table": "t; DROP", "watermark": "w", "key": "k"}), "cannot name a table"),
        (trigger("event", {}), "needs 'event'"),
        (trigger("api", {"colour": "red"}), "knows no 'colour'"),
        (trigger("api", with_={"text": "{{ event. }}"}), "flow.yaml:3:5"),
        (trigger("api", with_={"texte": "x"}), "no input"),
        (trigger("api", when="event.x >"), "flow.yaml:3:5"),
    ],
)
async def test_triggers_that_cannot_work_are_refused_with_their_place(
    store: Store, vault: Vault, made: Trigger, message: str
) -> None:
    house = House(store, vault)
    with pytest.raises(Invalid, match=message):
        await house.deploy(triggered(made, inputs=TEXT))
    assert await house.triggers.deployments.list() == []


async def test_deployed_again_what_is_alike_goes_on_and_what_is_gone_ends(store: Store, vault: Vault) -> None:
    house = House(store, vault)
    cron, hook = trigger("cron", {"schedule": "@daily"}), trigger("webhook", {"secret": "crm"})
    before = await house.triggers.deployments.deploy(triggered(cron, hook), WHO, "ada")
    assert [t.kind for t in before] == ["cron", "webhook"]
    changed = trigger("cron", {"schedule": "@daily"}, when="true")
    after = await house.triggers.deployments.deploy(triggered(changed), WHO, "ada")
    assert [(t.id, t.when, t.revision) for t in after] == [(before[0].id, "true", 2)]
    await house.triggers.deployments.remove("sales", "flow")
    assert await house.triggers.deployments.list() == []
    with pytest.raises(NotFound, match="not deployed"):
        await house.triggers.deployments.remove("sales", "flow")
    with pytest.raises(Invalid, match="two cron triggers alike"):
        await house.triggers.deployments.deploy(triggered(cron, cron), WHO, "ada")


async def test_an_event_that_cannot_be_read_says_why_and_not_that_its_key_is_missing(
    store: Store, vault: Vault
) -> None:
    house = House(store, vault)
    config: dict[str, JSON] = {"mailbox": "support@exemple.fr"}
    written = trigger("email", config, dedupe="event.message_id")
    found = await house.triggers.deployments.get(await house.deploy(triggered(written)))
    event = Event("unreadable:1", {"problems": ["no header"]}, fault="this is not an e-mail: it has no header")
    taken = await house.triggers.intake.take(found, event)
    assert (taken.outcome, taken.error) == ("failed", "this is not an e-mail: it has no header")
    assert [one.error for one in await house.triggers.intake.letters()] == [taken.error]
