"""Tables of conversations on a real PostgreSQL: shared, sealed, allocated once, forgotten in time."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from metier.calls import Call, Chunk, ConversationId, KeyId, Message, Principal, ProjectId, SystemId
from metier.errors import Broken, Unavailable
from metier.guardrails import Chain, PersonalData
from metier.store import Store
from metier.vault import Vault

TTL = timedelta(days=30)


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 21, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


def call(text: str, conversation: str = "c1", project: str = "p1") -> Call:
    principal = Principal(KeyId("key"), ProjectId(project), SystemId("s"))
    return Call(principal, "model", messages=(Message("user", text),), conversation=ConversationId(conversation))


def said(checked_call: Call) -> str:
    return checked_call.messages[-1].content


async def test_a_conversation_keeps_its_codes_across_calls_and_workers(store: Store, vault: Vault) -> None:
    one, other = PersonalData(store, vault), PersonalData(store, vault)
    assert said((await one.check_input(call("Je suis Karim Haddad"))).call) == "Je suis [[PERSONNE_1]]"
    checked = await other.check_input(call("M. Haddad et Hélène Lefèvre"))
    assert said(checked.call) == "M. [[PERSONNE_1b]] et [[PERSONNE_2]]"
    assert checked.output is not None
    assert checked.output.feed(Chunk(text="M. [[PERSONNE_1b]]!")) == Chunk(text="M. Haddad!")
    again = await one.check_input(call("haddad a payé"))
    assert said(again.call) == "[[PERSONNE_1c]] a payé"


async def test_conversations_and_projects_do_not_share(store: Store, vault: Vault) -> None:
    guardrail = PersonalData(store, vault)
    await guardrail.check_input(call("Je suis Karim Haddad"))
    assert said((await guardrail.check_input(call("Je suis Marc Roy", "c2"))).call) == "Je suis [[PERSONNE_1]]"
    assert said((await guardrail.check_input(call("haddad", "c1", "p2"))).call) == "haddad"


async def test_calls_at_the_same_time_never_give_one_code_to_two_people(store: Store, vault: Vault) -> None:
    workers = [PersonalData(store, vault) for _ in range(4)]
    names = ["Karim Haddad", "Hélène Lefèvre", "Marc Roy", "Fatima Benali", "Julien Moreau", "Sophie Garnier"] * 3
    checked = await asyncio.gather(
        *(workers[place % 4].check_input(call(f"Je suis {name}")) for place, name in enumerate(names))
    )
    codes: dict[str, set[str]] = {}
    for name, result in zip(names, checked, strict=True):
        codes.setdefault(name, set()).add(said(result.call))
        assert result.output is not None
        code = said(result.call).removeprefix("Je suis ")
        assert result.output.feed(Chunk(text=code)) == Chunk(text=name)
    assert all(len(given) == 1 for given in codes.values())
    assert len(set.union(*codes.values())) == 6


async def test_nothing_is_readable_in_the_database(store: Store, vault: Vault) -> None:
    await PersonalData(store, vault).check_input(call("Je suis Karim Haddad, karim@courriel.example"))
    async with store.transaction() as tx:
        rows = await (await tx.execute("SELECT p::text AS row FROM pseudonyms p")).fetchall()
    assert len(rows) == 2
    for row in rows:
        stored = row["row"].lower()
        assert "karim" not in stored
        assert b"Karim".hex() not in stored


async def test_a_sealed_value_does_not_open_in_another_place(store: Store, vault: Vault) -> None:
    guardrail = PersonalData(store, vault)
    await guardrail.check_input(call("Je suis Karim Haddad et voici Hélène Lefèvre"))
    async with store.transaction() as tx:
        await tx.execute(
            "UPDATE pseudonyms SET sealed = (SELECT sealed FROM pseudonyms WHERE ordinal = 2) WHERE ordinal = 1"
        )
    with pytest.raises(Broken):
        await guardrail.check_input(call("Bonjour"))


async def test_an_old_conversation_begins_anew_and_is_purged(store: Store, vault: Vault) -> None:
    clock = Clock()
    guardrail = PersonalData(store, vault, TTL, clock)
    await guardrail.check_input(call("Je suis Karim Haddad"))
    clock.now += timedelta(days=20)
    assert said((await guardrail.check_input(call("Haddad"))).call) == "[[PERSONNE_1b]]"
    clock.now += timedelta(days=20)
    assert await guardrail.purge() == 0
    clock.now += timedelta(days=11)
    assert said((await guardrail.check_input(call("Je suis Marc Roy"))).call) == "Je suis [[PERSONNE_1]]"
    assert said((await guardrail.check_input(call("haddad"))).call) == "haddad"
    clock.now += timedelta(days=31)
    assert await guardrail.purge() == 1
    async with store.transaction() as tx:
        assert await (await tx.execute("SELECT 1 FROM pseudonyms")).fetchall() == []


async def test_without_its_database_no_call_goes_on(store: Store, vault: Vault) -> None:
    guardrail = PersonalData(store, vault)
    async with store.transaction() as tx:
        await tx.execute("DROP TABLE pseudonyms")
    with pytest.raises(Broken, match="not made"):
        await Chain([guardrail]).check_input(call("Bonjour"))


async def test_while_its_database_is_away_no_call_goes_on_and_a_later_one_may(store: Store, vault: Vault) -> None:
    async with Store(store.url, size=1) as other:
        guardrail = PersonalData(other, vault)
    with pytest.raises(Unavailable, match="not made; try again later"):
        await Chain([guardrail]).check_input(call("Bonjour"))


async def test_without_a_conversation_nothing_is_stored(store: Store, vault: Vault) -> None:
    guardrail = PersonalData(store, vault)
    checked = await guardrail.check_input(replace(call("Je suis Karim Haddad"), conversation=None))
    assert said(checked.call) == "Je suis [[PERSONNE_1]]"
    async with store.transaction() as tx:
        assert await (await tx.execute("SELECT 1 FROM conversations")).fetchall() == []


async def test_a_conversation_can_be_forgotten(store: Store, vault: Vault) -> None:
    guardrail = PersonalData(store, vault)
    await guardrail.check_input(call("Je suis Karim Haddad"))
    assert await guardrail.forget([("p1", "c1"), ("p1", "never")]) == 1
    assert said((await guardrail.check_input(call("haddad"))).call) == "haddad"
