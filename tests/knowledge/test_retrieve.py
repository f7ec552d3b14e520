"""A question finds its extracts by words, meaning and codes, with scores that mean the same from search to search."""

from __future__ import annotations

import pytest

from metier.errors import Invalid
from metier.knowledge.ingest import Ingest
from metier.knowledge.retrieve import Retrieve
from metier.store import Store
from tests.knowledge.world import embedder

ALL = frozenset({"all"})
SHEETS = {
    "garantie.md": "# Garantie\n\nLa garantie légale de conformité dure deux ans. La réparation est gratuite.",
    "retours.md": "# Retours\n\nUn produit peut être retourné sous 30 jours. Le remboursement suit sous 14 jours.",
    "pieces.md": "# Pièces\n\n## Filtre\n\nLe filtre AF-00012 convient aux modèles X200.\n\n"
    "## Joint\n\nLe joint AF-00013.",
    "horaires.md": "# Horaires\n\nLe magasin ouvre de 9h à 18h30 du lundi au samedi.",
}


async def world(store: Store, embedded: bool = True) -> Retrieve:
    model = embedder() if embedded else None
    ingest = Ingest(store, model)
    await ingest.create("shop")
    for name, text in SHEETS.items():
        await ingest.add("shop", name, text.encode(), ALL)
    return Retrieve(store, model)


@pytest.mark.parametrize("embedded", [True, False])
async def test_the_best_extract_comes_first_with_its_scores(store: Store, embedded: bool) -> None:
    retrieve = await world(store, embedded)
    hits = await retrieve.search("shop", "Combien de temps ai-je pour retourner un produit ?", ALL)
    assert hits[0].document == "retours.md"
    assert 0 < hits[0].words <= 1
    assert (hits[0].cosine is not None) is embedded
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert all(0 < hit.score <= 1 for hit in hits)


async def test_a_code_finds_its_part_and_not_its_neighbour(store: Store) -> None:
    retrieve = await world(store)
    for question in ("AF-00012", "Avez-vous la pièce af00012 ?", "réf. AF 00012 svp"):
        hits = await retrieve.search("shop", question, ALL)
        assert hits[0].id == "pieces-1", question
        assert (hits[0].exact, hits[0].score > 0.5) == (0.5, True)
        assert all(hit.exact == 0 for hit in hits[1:])
    beginning = await retrieve.search("shop", "AF-0001", ALL)
    assert {hit.id for hit in beginning if hit.exact == 0.25} == {"pieces-1", "pieces-2"}


async def test_a_score_does_not_depend_on_what_else_is_readable(store: Store) -> None:
    retrieve = await world(store)
    question = "remboursement d'un produit retourné"
    before = (await retrieve.search("shop", question, ALL))[0]
    ingest = Ingest(store, embedder())
    for number in range(5):
        text = f"# Avis {number}\n\nLe remboursement d'un produit retourné, cas {number}."
        await ingest.add("shop", f"avis-{number}.md", text.encode(), frozenset({"others"}))
    for number in range(5):
        await ingest.remove("shop", f"avis-{number}.md")
    after = (await retrieve.search("shop", question, ALL))[0]
    assert after.id == before.id
    assert after.score == pytest.approx(before.score, abs=1e-6)


async def test_min_score_keeps_out_what_has_nothing_to_do_with_the_question(store: Store) -> None:
    retrieve = await world(store, embedded=False)
    assert await retrieve.search("shop", "Quelle est la capitale de l'Australie ?", ALL) == ()
    weak = await retrieve.search("shop", "Le filtre de ma cafetière italienne fait du bruit la nuit", ALL)
    assert weak
    assert await retrieve.search("shop", "Le filtre de ma cafetière italienne fait du bruit", ALL, min_score=0.2) == ()
    assert await retrieve.search("shop", "garantie légale de conformité", ALL, min_score=0.2)


async def test_equal_scores_keep_one_order(store: Store) -> None:
    ingest, retrieve = Ingest(store, embedder()), Retrieve(store, embedder())
    await ingest.create("shop")
    for number in (3, 1, 2):
        await ingest.add("shop", f"copie-{number}.md", "Le même texte.".encode(), ALL)
    for _ in range(3):
        hits = await retrieve.search("shop", "texte", ALL)
        assert [hit.document for hit in hits] == ["copie-1.md", "copie-2.md", "copie-3.md"]


@pytest.mark.parametrize(
    "question", ["", "   ", "?!", "\x00", "le la les", "x" * 100_000, "mot " * 50_000, "%(a)s {0} '; --"]
)
async def test_any_question_is_answered_or_finds_nothing(store: Store, question: str) -> None:
    retrieve = await world(store, embedded=False)
    assert isinstance(await retrieve.search("shop", question, ALL), tuple)


async def test_top_k_bounds_the_answer(store: Store) -> None:
    retrieve = await world(store)
    assert len(await retrieve.search("shop", "produit garantie magasin filtre", ALL, top_k=2)) == 2
    for top_k in (0, 51):
        with pytest.raises(Invalid, match="give 1 to 50"):
            await retrieve.search("shop", "produit", ALL, top_k=top_k)


async def test_an_english_collection_is_searched_in_english(store: Store) -> None:
    ingest, retrieve = Ingest(store), Retrieve(store)
    await ingest.create("shop", "en")
    await ingest.add("shop", "delivery.md", b"# Delivery\n\nOrders are delivered within 14 business days.", ALL)
    assert (await retrieve.search("shop", "How long is a delivery of my order?", ALL))[0].id == "delivery-1"
