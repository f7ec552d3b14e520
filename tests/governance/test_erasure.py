"""The one erasure, through the whole platform: contents, responses, placeholders, kept answers."""

from __future__ import annotations

import pathlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from psycopg import sql

from metier.app import App, Parts, build
from metier.calls import Call, ConversationId, Message, Principal
from metier.catalog import Catalog
from metier.errors import Conflict, NotFound
from metier.providers.scripted import ScriptedProvider, says
from metier.settings import Settings
from metier.store import Store
from metier.testing import MODELS, caller

NAME = "erasing"
TABLES = ("contents", "responses", "conversations", "pseudonyms", "cache_entries")
NOTHING = {"agent_exchanges": 0, "corrections": 0, "runs": 0}


@dataclass(slots=True)
class House:
    """A platform that keeps everything it can keep of its calls."""

    app: App
    who: Principal

    async def said(self, text: str, end_user: str | None, conversation: str, *, stored: bool = True) -> Call:
        """Make a call, have its answer kept in the cache, and store its response."""
        call = Call(
            self.who, "writer", messages=(Message("user", text),), end_user=end_user,
            conversation=ConversationId(conversation),
        )  # fmt: skip
        await self.app.gateway.collect(call)
        assert self.app.gateway.cache is not None
        await self.app.gateway.cache.entries.write()
        if stored:
            await self.app.responses.keep(call, {"id": f"resp_{call.id}", "previous_response_id": None}, [])
        await self.app.ledger.flush()
        return call

    async def left(self) -> tuple[int, ...]:
        """Rows in each table that keeps something of people."""
        found = []
        async with self.app.store.connection() as connection:
            for table in TABLES:
                rows = await connection.execute(sql.SQL("SELECT 1 FROM {}").format(sql.Identifier(table)))
                found.append(len(await rows.fetchall()))
        return tuple(found)


@pytest.fixture
async def house(store: Store, tmp_path: pathlib.Path) -> AsyncIterator[House]:
    """The platform, with contents captured and answers kept."""
    settings = Settings(
        home=tmp_path,
        config_path=tmp_path / "metier.yaml",
        config={"systems": {NAME: {"cache": {"mode": "exact"}}}},
        database_url=store.url,
    )
    parts = Parts(providers={"scripted": ScriptedProvider(answer=lambda _: says("Bien.", usage=None))},
                  catalog=Catalog.from_yaml(MODELS))  # fmt: skip
    async with build(settings, parts) as app:
        who = await caller(app, NAME)
        await app.records.keepings.decide(who.system, "Claire", "a test", capture="full")
        await app.records.contents.refresh()
        yield House(app, who)


async def three(house: House) -> tuple[Call, Call, Call]:
    """One call for each of two people, and one for nobody in particular."""
    return (
        await house.said("Je suis Jean Dupont", "client-42", "c42"),
        await house.said("Je suis Marie Martin, et vous ?", "client-43", "c43"),
        await house.said("Je suis Karim Haddad, bonjour", None, "c0"),
    )


async def test_erasing_a_person_reaches_every_room_and_counts_what_it_finds(house: House) -> None:
    await three(house)
    assert await house.left() == (3, 3, 3, 3, 3)
    erasure, asked = house.app.records.erasure, ("main", "client-42", "Claire", "article 17")
    one_each = {**NOTHING, "responses": 1, "conversations": 1, "kept_answers": 1}
    dry = await erasure.person(*asked, dry_run=True)
    assert (dry.records, dry.unlinked, dry.elsewhere) == (1, 1, one_each)
    assert await house.left() == (3, 3, 3, 3, 3)
    done = await erasure.person(*asked)
    assert (done.records, done.unlinked, done.elsewhere) == (1, 1, one_each)
    assert await house.left() == (2, 2, 2, 2, 2)
    async with house.app.store.connection() as connection:
        [row] = await (await connection.execute("SELECT elsewhere FROM erasures")).fetchall()
    assert row["elsewhere"] == one_each
    again = await erasure.person(*asked, dry_run=True)
    assert (again.records, again.unlinked, sum(again.elsewhere.values())) == (0, 0, 0)


async def test_erasing_what_named_nobody_leaves_people_in_their_conversations(house: House) -> None:
    await three(house)
    done = await house.app.records.erasure.project("main", house.who.project, "Claire", "closed")
    counts = {**NOTHING, "responses": 1, "conversations": 1, "kept_answers": 3}
    assert done.elsewhere == counts, "every kept answer of the project"
    assert await house.left() == (2, 2, 2, 2, 0)


async def test_erasing_one_call_takes_its_answer_and_the_placeholders_of_its_conversation(house: House) -> None:
    _, second, _ = await three(house)
    erasure = house.app.records.erasure
    done = await erasure.call(second.id, "Claire", "sent by mistake")
    assert (done.records, done.elsewhere) == (1, {**NOTHING, "responses": 1, "conversations": 1, "kept_answers": 1})
    assert await house.left() == (2, 2, 2, 2, 2)
    with pytest.raises(NotFound, match="nothing is kept"):
        await erasure.call(second.id, "Claire", "again")


async def test_a_hold_on_what_only_other_rooms_keep_stops_the_erasure(house: House) -> None:
    keepings, erasure = house.app.records.keepings, house.app.records.erasure
    await keepings.decide(house.who.system, "Claire", "a test", capture="none")
    await house.app.records.contents.refresh()
    call = await house.said("Je suis Jean Dupont", "client-42", "c42", stored=False)
    before = await house.left()
    held = await keepings.hold("call", call.id, "Claire", "trial")
    for _ in range(2):
        with pytest.raises(Conflict, match=held.id):
            await erasure.person("main", "client-42", "Claire", "article 17")
        with pytest.raises(Conflict, match=held.id):
            await erasure.call(call.id, "Claire", "asked")
    assert await house.left() == before == (0, 0, 1, 1, 1)
    await keepings.release(held.id, "Claire")
    assert (await erasure.person("main", "client-42", "Claire", "article 17")).elsewhere["conversations"] == 1
    assert await house.left() == (0, 0, 0, 0, 0)
