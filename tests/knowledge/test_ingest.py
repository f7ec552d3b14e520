"""Documents go in, change and leave: what is searched is what is there, at once, and for nobody else."""

from __future__ import annotations

import psycopg
import pytest

from metier.errors import Conflict, Invalid, NotFound
from metier.knowledge.embedding import Embedder
from metier.knowledge.ingest import Ingest
from metier.knowledge.retrieve import Retrieve
from metier.store import Store
from tests.knowledge.world import Counting, embedder, hashed, pdf, word, workbook

ALL = frozenset({"all"})
DELAYS = "# Livraison\n\n## Délais\n\nLa livraison prend 14 jours ouvrés.\n\n## Frais\n\nLes frais sont de 4,90 €.\n"


async def test_a_document_is_added_found_replaced_and_gone(store: Store) -> None:
    ingest, retrieve = Ingest(store, embedder()), Retrieve(store, embedder())
    await ingest.create("client")

    report = await ingest.add("client", "livraison.md", DELAYS.encode(), ALL)
    assert (report.status, report.chunks, report.embedded, report.warnings) == ("added", 2, 2, ())
    hits = await retrieve.search("client", "Quel est le délai de livraison ?", ALL)
    assert hits[0].id == "livraison-1"
    assert hits[0].text == "La livraison prend 14 jours ouvrés."
    assert hits[0].path == "Livraison › Délais"

    report = await ingest.add("client", "livraison.md", DELAYS.replace("14", "21").encode(), ALL)
    assert (report.status, report.embedded) == ("replaced", 1)
    hits = await retrieve.search("client", "délai de livraison", ALL)
    assert "21 jours" in hits[0].text
    assert not any("14" in hit.text for hit in hits)

    await ingest.remove("client", "livraison.md")
    assert await retrieve.search("client", "délai de livraison", ALL) == ()
    assert await retrieve.documents("client", ALL) == ()


async def test_nothing_is_left_of_a_removed_document(store: Store) -> None:
    ingest = Ingest(store, embedder())
    await ingest.create("client")
    await ingest.add("client", "a.md", DELAYS.encode(), ALL)
    before = await counts(store)
    await ingest.add("client", "secret.md", b"# Zorglub\n\nLe zorglubien est secret.", ALL)
    await ingest.remove("client", "secret.md")
    assert await counts(store) == before
    async with store.connection() as connection:
        found = await connection.execute("SELECT 1 FROM terms WHERE term LIKE 'zorglub%'")
        assert await found.fetchone() is None


async def test_the_same_bytes_are_not_embedded_again(store: Store) -> None:
    counting = Counting()
    ingest = Ingest(store, Embedder("counting", counting))
    await ingest.create("client")
    await ingest.add("client", "livraison.md", DELAYS.encode(), ALL)
    paid = len(counting.texts)
    report = await ingest.add("client", "livraison.md", DELAYS.encode(), ALL)
    assert (report.status, report.embedded, len(counting.texts)) == ("unchanged", 0, paid)
    await ingest.add("client", "livraison.md", DELAYS.replace("4,90", "5,90").encode(), ALL)
    assert len(counting.texts) == paid + 1, "only the text that changed is embedded"


async def test_rights_change_without_the_text_changing(store: Store) -> None:
    ingest, retrieve = Ingest(store), Retrieve(store)
    await ingest.create("client")
    await ingest.add("client", "livraison.md", DELAYS.encode(), ALL)
    report = await ingest.add("client", "livraison.md", DELAYS.encode(), frozenset({"staff"}))
    assert report.status == "rights changed"
    assert await retrieve.search("client", "délai de livraison", ALL) == ()
    assert await retrieve.search("client", "délai de livraison", frozenset({"staff"}))


async def test_another_embedding_model_embeds_anew_and_vectors_never_meet(store: Store) -> None:
    await Ingest(store, embedder("one")).create("client")
    await Ingest(store, embedder("one")).add("client", "livraison.md", DELAYS.encode(), ALL)
    hit = (await Retrieve(store, embedder("two")).search("client", "délai de livraison", ALL))[0]
    assert hit.cosine is None, "found by its words alone"
    report = await Ingest(store, embedder("two")).add("client", "livraison.md", DELAYS.encode(), ALL)
    assert report.embedded == 2
    hit = (await Retrieve(store, embedder("two")).search("client", "délai de livraison", ALL))[0]
    assert hit.cosine is not None


async def test_unchanged_text_keeps_its_citation_id(store: Store) -> None:
    ingest, retrieve = Ingest(store), Retrieve(store)
    await ingest.create("client")
    await ingest.add("client", "livraison.md", DELAYS.encode(), ALL)
    longer = DELAYS.replace("## Délais", "## Zones\n\nLa France et l'Europe.\n\n## Délais")
    await ingest.add("client", "livraison.md", longer.encode(), ALL)
    (fees,) = await retrieve.extracts("client", ["livraison-2"], ALL)
    (zones,) = await retrieve.extracts("client", ["livraison-3"], ALL)
    assert (fees.text, zones.text) == ("Les frais sont de 4,90 €.", "La France et l'Europe.")
    assert fees.section == "Frais\n\nLes frais sont de 4,90 €."


async def test_two_documents_of_one_stem_have_different_citation_ids(store: Store) -> None:
    ingest, retrieve = Ingest(store), Retrieve(store)
    await ingest.create("client")
    await ingest.add("client", "fr/Conditions générales.md", b"Le retour est possible.", ALL)
    await ingest.add("client", "be/Conditions générales.md", b"Le retour est impossible.", ALL)
    hits = await retrieve.search("client", "retour", ALL)
    assert {hit.id for hit in hits} == {"conditions-generales-1", "conditions-generales-2-1"}


async def test_office_files_are_found_with_their_anchors(store: Store) -> None:
    ingest, retrieve = Ingest(store), Retrieve(store)
    await ingest.create("client")
    for name, data in (("a.docx", word()), ("guide.pdf", pdf()), ("tarifs.xlsx", workbook())):
        await ingest.add("client", name, data, ALL)
    (part, *_) = await retrieve.search("client", "Prix de la pièce AF-00012 dans les tarifs ?", ALL)
    assert part.document == "tarifs.xlsx"
    assert "AF-00012" in part.text
    assert part.anchor.rows is not None
    assert part.anchor.rows[0] <= 16 <= part.anchor.rows[1], "the reference stands on row 16 of the sheet"
    returns = await retrieve.search("client", "retour possible", ALL)
    assert {(hit.document, hit.anchor.page) for hit in returns} >= {("guide.pdf", 2), ("a.docx", None)}


async def test_bm25_weights_are_those_of_the_formula_after_every_change(store: Store) -> None:
    ingest = Ingest(store)
    await ingest.create("client")
    for number in range(6):
        text = f"# Fiche {number}\n\n" + "La garantie couvre la réparation. " * (number + 1)
        await ingest.add("client", f"{number}.md", text.encode(), ALL)
    await ingest.remove("client", "2.md")
    await ingest.add("client", "4.md", b"Plus rien.", ALL)
    async with store.connection() as connection:
        rows = await (
            await connection.execute(
                "SELECT c.bm25::text AS bm25, c.terms, c.counts, c.length, k.pinned, k.length AS whole, k.chunks "
                "FROM chunks c JOIN collections k ON k.id = c.collection"
            )
        ).fetchall()
        words = await (
            await connection.execute(
                "SELECT t.chunks, (SELECT count(*) FROM chunks c WHERE t.id = ANY (c.terms)) AS really FROM terms t"
            )
        ).fetchall()
    for row in rows:
        mean = row["pinned"]
        assert abs(row["whole"] / row["chunks"] - mean) <= 0.05 * mean + 1e-9
        stored = dict(pair.split(":") for pair in row["bm25"].split("}")[0].strip("{").split(","))
        for term, times in zip(row["terms"], row["counts"], strict=True):
            weight = times * 2.2 / (times + 1.2 * (0.25 + 0.75 * row["length"] / mean))
            assert float(stored[str(term)]) == pytest.approx(weight, rel=1e-5)
    assert all(row["chunks"] == row["really"] for row in words)
    assert sum(row["length"] for row in rows) == rows[0]["whole"]


async def test_a_document_that_cannot_be_written_leaves_the_old_one(store: Store) -> None:
    ingest, retrieve = Ingest(store), Retrieve(store)
    await ingest.create("client")
    await ingest.add("client", "livraison.md", DELAYS.encode(), ALL)
    async with store.connection() as connection:
        await connection.execute("ALTER TABLE chunks ADD CONSTRAINT no_euro CHECK (text NOT LIKE '%9,99 €%')")
    with pytest.raises(psycopg.errors.CheckViolation):
        await ingest.add("client", "livraison.md", DELAYS.replace("4,90", "9,99").encode(), ALL)
    assert "4,90" in (await retrieve.search("client", "frais", ALL))[0].text
    assert await counts(store) == {"collections": 1, "documents": 1, "chunks": 2, "whole": 2}


async def test_mistakes_are_refused_with_a_reason(store: Store) -> None:
    ingest = Ingest(store)
    await ingest.create("client")
    with pytest.raises(Conflict, match="exists already"):
        await ingest.create("client")
    with pytest.raises(Invalid, match="small letters"):
        await ingest.create("Client €")
    with pytest.raises(NotFound, match="'nowhere' does not exist"):
        await ingest.add("nowhere", "a.md", b"texte", ALL)
    with pytest.raises(Invalid, match="at least one group"):
        await ingest.add("client", "a.md", b"texte", frozenset())
    with pytest.raises(NotFound, match="no such document"):
        await ingest.remove("client", "a.md")
    with pytest.raises(NotFound):
        await Retrieve(store, Embedder("hashed", hashed)).search("nowhere", "question", ALL)


async def test_lists_show_what_is_there(store: Store) -> None:
    ingest = Ingest(store)
    await ingest.create("client", "fr")
    await ingest.create("staff", "en")
    text = b"---\ntitle: Delivery\nversion: '2026-03'\nlanguage: en\n---\n\nDelivered in 14 days."
    await ingest.add("staff", "delivery.md", text, frozenset({"b", "a"}))
    (document,) = await ingest.list("staff")
    assert (document.title, document.version, document.language) == ("Delivery", "2026-03", "en")
    assert (document.groups, document.chunks) == (frozenset({"a", "b"}), 1)
    assert [(c.name, c.language, c.documents, c.chunks) for c in await ingest.collections()] == [
        ("client", "fr", 0, 0),
        ("staff", "en", 1, 1),
    ]
    await ingest.drop("staff")
    assert len(await ingest.collections()) == 1


async def counts(store: Store) -> dict[str, int]:
    """How many rows each table has, and what the collection says it has."""
    async with store.connection() as connection:
        row = await (
            await connection.execute(
                "SELECT (SELECT count(*) FROM collections) AS collections,"
                " (SELECT count(*) FROM documents) AS documents,"
                " (SELECT count(*) FROM chunks) AS chunks, (SELECT sum(chunks) FROM collections)::integer AS whole"
            )
        ).fetchone()
    assert row is not None
    return dict(row)
