"""A document is there for the groups it was given to; for anybody else it does not exist, in any answer."""

from __future__ import annotations

import random
import secrets

import pytest

from metier.errors import NotFound
from metier.knowledge.ingest import Ingest
from metier.knowledge.retrieve import Arm, Retrieve
from metier.postgres import Embedded
from metier.store import Store, create_database, packaged_migrations
from tests.knowledge.world import embedder

GROUPS = ("sales", "legal", "staff", "board")
WORDS = "garantie livraison retour facture contrat salaire prime audit réserve fusion budget litige".split()


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_no_reader_ever_meets_a_document_of_others(store: Store, seed: int) -> None:
    chance = random.Random(seed)
    ingest, retrieve = Ingest(store, embedder()), Retrieve(store, embedder())
    await ingest.create("firm")
    readers: dict[str, frozenset[str]] = {}
    for number in range(16):
        name = f"fiche {number}.md"
        readers[name] = frozenset(chance.sample(GROUPS, chance.randint(1, 2)))
        text = f"# Fiche {number}\n\nRéférence AF-{number:05d}. " + " ".join(chance.choices(WORDS, k=12))
        await ingest.add("firm", name, text.encode(), readers[name])
    for name in chance.sample(sorted(readers), 4):
        readers[name] = frozenset(chance.sample(GROUPS, 1))
        text = f"# {name}\n\nNouvelle version. " + " ".join(chance.choices(WORDS, k=12))
        await ingest.add("firm", name, text.encode(), readers[name])
    gone = chance.choice(sorted(readers))
    await ingest.remove("firm", gone)
    del readers[gone]

    every = tuple(f"fiche-{number}-{chunk}" for number in range(16) for chunk in (1, 2))
    arms: tuple[Arm, ...] = ("both", "words", "meaning")
    for _ in range(12):
        reader = frozenset(chance.sample(GROUPS, chance.randint(0, 3)))
        mine = {name for name, groups in readers.items() if groups & reader}
        question = " ".join([*chance.choices(WORDS, k=3), f"AF-{chance.randrange(16):05d}"])
        for arm in arms:
            hits = await retrieve.search("firm", question, reader, top_k=50, arm=arm)
            assert {hit.document for hit in hits} <= mine
            if arm == "meaning":
                assert {hit.document for hit in hits} == mine, "the rights do not push readable documents out"
        assert {extract.document for extract in await retrieve.extracts("firm", every, reader)} == mine
        assert {document.name for document in await retrieve.documents("firm", reader)} == mine


async def test_another_organisation_meets_nothing_whatever_its_groups_are_called(store: Store) -> None:
    async with store.connection() as connection:
        await connection.execute("INSERT INTO organisations (id, name) VALUES ('org_sud', 'Sud')")
    staff = frozenset({"staff"})
    ours, theirs = Ingest(store, embedder()), Ingest(store, embedder(), organisation="org_sud")
    reader = Retrieve(store, embedder(), organisation="org_sud")
    await ours.create("firm")
    await ours.add("firm", "a.md", b"La garantie AF-00012 est de deux ans.", staff)
    attempts = (
        lambda: reader.search("firm", "garantie", staff),
        lambda: theirs.list("firm"),
        lambda: theirs.add("firm", "b.md", b"Rien.", staff),
        lambda: theirs.remove("firm", "a.md"),
        lambda: theirs.drop("firm"),
    )
    for attempt in attempts:
        with pytest.raises(NotFound):
            await attempt()
    assert await theirs.collections() == ()
    assert await reader.extracts("firm", ["a-1"], staff) == () == await reader.documents("firm", staff)
    # The same name is free elsewhere, and holds what was put there: no word, count, slug or id is shared.
    await theirs.create("firm", "en")
    report = await theirs.add("firm", "a.md", b"La garantie AF-00012 est de trois ans.", staff)
    assert (report.status, report.chunks) == ("added", 1)
    arms: tuple[Arm, ...] = ("both", "words", "meaning")
    for arm in arms:
        for retrieve, years in ((Retrieve(store, embedder()), "deux"), (reader, "trois")):
            (hit,) = await retrieve.search("firm", "garantie AF-00012", staff, arm=arm)
            assert hit.id == "a-1" and years in hit.text
    assert [one.text for one in await reader.extracts("firm", ["a-1"], staff)] != []
    await theirs.drop("firm")
    assert [(one.name, one.documents, one.chunks) for one in await ours.collections()] == [("firm", 1, 1)]


async def test_a_group_with_an_odd_name_gives_no_other_rights(store: Store) -> None:
    ingest, retrieve = Ingest(store), Retrieve(store)
    await ingest.create("firm")
    await ingest.add("firm", "a.md", b"La garantie est de deux ans.", frozenset({"board"}))
    for odd in ("", "*", "%", "Board", "board ", "{board}", "board,sales", "board'--", "_oard"):
        assert await retrieve.search("firm", "garantie", frozenset({odd})) == ()
        assert await retrieve.extracts("firm", ["a-1"], frozenset({odd})) == ()


async def test_readable_documents_are_found_under_a_crowd_of_others(store: Store) -> None:
    ingest, retrieve = Ingest(store, embedder()), Retrieve(store, embedder())
    await ingest.create("firm")
    crowd = "\n\n".join(f"# Partie {number}\n\nLa garantie du contrat {number}." for number in range(120))
    await ingest.add("firm", "crowd.md", crowd.encode(), frozenset({"board"}))
    await ingest.add("firm", "mine.md", "Autre sujet, la garantie y est citée.".encode(), frozenset({"sales"}))
    hits = await retrieve.search("firm", "garantie du contrat", frozenset({"sales"}))
    assert [hit.id for hit in hits] == ["mine-1"]


async def test_collections_of_earlier_versions_are_those_of_main_with_all_they_hold(server: Embedded) -> None:
    """A database of an earlier version, with a document and a refused e-mail in it, goes on after the migration."""
    name = f"earlier_{secrets.token_hex(4)}"
    await create_database(server.url("postgres"), name)
    migrations = {one.name: one.sql for one in packaged_migrations()}
    later = ("0026_collections", "0027_outbox_error")
    said = "the mail server 'm.exemple' answered 550 '5.1.1 <anne@exemple.fr> unknown': check the address"
    async with Store(server.url(name), size=2) as store:
        async with store.connection() as connection:
            for number, text in migrations.items():
                if number < later[0]:
                    await connection.execute(text.encode())
            await connection.execute(
                "INSERT INTO collections (name, language, chunks, length, pinned) VALUES ('firm', 'fr', 1, 2, 2);"
                "INSERT INTO documents (id, collection, name, slug, groups, hash, made_with, text, warnings,"
                " next_number) VALUES ('doc_1', 'firm', 'a.md', 'a', '{staff}', 'h', '1/fr', 'La garantie', '{}', 2);"
                "INSERT INTO terms (collection, term, chunks) VALUES ('firm', 'garant', 1);"
                "INSERT INTO chunks (collection, id, document, place, text, headings, char_start, char_end,"
                " parent_start, parent_end, hash, terms, counts, length, codes)"
                " VALUES ('firm', 'a-1', 'doc_1', 1, 'La garantie', '{}', 0, 11, 0, 11, 'h',"
                " (SELECT array_agg(id) FROM terms), '{1}', 2, '{}')"
            )
            for key, error in (("run_1/send", said), ("run_2/send", "the connection broke")):
                await connection.execute(
                    "INSERT INTO outbox (key, message_id, content, error) VALUES (%s, %s, '', %s)", (key, key, error)
                )
            for number in later:
                await connection.execute(migrations[number].encode())
            kept = await (await connection.execute("SELECT error FROM outbox ORDER BY key")).fetchall()
        assert [row["error"] for row in kept] == ["answered 550", None]
        ingest, retrieve, staff = Ingest(store), Retrieve(store), frozenset({"staff"})
        assert [(one.name, one.documents) for one in await ingest.collections()] == [("firm", 1)]
        assert [one.id for one in await retrieve.extracts("firm", ["a-1"], staff)] == ["a-1"]
        assert (await ingest.add("firm", "a.md", b"La garantie dure.", staff)).status == "replaced"
        (hit,) = await retrieve.search("firm", "garantie", staff)
        assert hit.id == "a-2"
        await ingest.drop("firm")
        async with store.connection() as connection:
            left = await (await connection.execute("SELECT count(*) AS n FROM chunks")).fetchone()
        assert left == {"n": 0}
