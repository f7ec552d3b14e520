"""`retrieve:` steps: what is found in the company's documents, for whom, and in which order."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

from metier.calls import JSON
from metier.store import Store
from metier.vault import Vault
from metier.workflow.engine import Engine, StepContext
from metier.workflow.steps.handed import Extract
from metier.workflow.steps.retrieve import RetrieveSteps
from tests.workflow.flows import WHO, flow, step
from tests.workflow.steps.flows import Bench, bench, one

PAGES = {
    "retours.md": "# Retours\n\nVous avez 14 jours pour renvoyer un article qui ne convient pas.",
    "livraison.md": "# Livraison\n\nLa livraison standard coûte 6,90 € et devient gratuite à partir de 60 € d'achat.",
    "garantie.md": "# Garantie\n\nLa perceuse est garantie deux ans, la batterie six mois.",
    "marges.md": "# Marges\n\nLa marge sur la livraison est de 12 %.",
}
SEARCH = 'retrieve: {collection: sav, query: "{{ inputs.text }}", top_k: 2}'


async def documents(b: Bench) -> None:
    ingest = b.app.ingest(b.who)
    await ingest.create("sav")
    for name, text in PAGES.items():
        groups = frozenset({"direction"} if name == "marges.md" else {"public"})
        await ingest.add("sav", name, text.encode(), groups)


def names(found: Any) -> list[str]:
    return [hit["document"] for hit in found["hits"]]


async def test_a_query_finds_what_the_caller_may_read(store: Store, tmp_path: pathlib.Path) -> None:
    async with bench(store, tmp_path) as b:
        await documents(b)
        found = await b.give(one(SEARCH), {"text": "Combien coûte la livraison ?"})
    assert names(found)[0] == "livraison.md"
    assert "marges.md" not in names(found)
    hit = found["hits"][0]
    assert set(hit) == {"id", "document", "title", "text", "score", "query"}
    assert "6,90 €" in hit["text"] and hit["query"] == 0


async def test_several_queries_are_taken_in_turn(store: Store, tmp_path: pathlib.Path) -> None:
    queries = "['renvoyer un article', '', 'garantie de la batterie']"
    step = f'retrieve: {{collection: sav, query: "{{{{ {queries} }}}}", top_k: 2}}'
    async with bench(store, tmp_path) as b:
        await documents(b)
        found = await b.give(one(step), {"text": ""})
    assert names(found) == ["retours.md", "garantie.md"]


async def test_with_questions_each_extract_shows_the_sentences_nearest_to_them(
    store: Store, tmp_path: pathlib.Path
) -> None:
    queries = "['combien de jours pour renvoyer un article ?', 'la batterie de la perceuse est-elle garantie ?']"
    search = f'retrieve: {{collection: sav, query: "{{{{ {queries} }}}}", top_k: 3}}'
    asked = f'with: {{questions: "{{{{ {queries} }}}}", language: fr}}'
    async with bench(store, tmp_path) as b:
        await documents(b)
        found = await b.give(one(f"{search}, {asked}"), {"text": ""})
    best: dict[int, tuple[float, str]] = {}
    for hit in found["hits"]:
        for near in hit["near"]:
            assert near["text"] in hit["text"] and 0 <= near["shared"] <= 1
            best[near["question"]] = max(best.get(near["question"], (0.0, "")), (near["score"], hit["document"]))
    assert {number: name for number, (_, name) in best.items()} == {0: "retours.md", 1: "garantie.md"}


async def test_a_wrong_search_is_told(store: Store, tmp_path: pathlib.Path) -> None:
    async with bench(store, tmp_path) as b:
        await documents(b)
        assert (await b.fail(one(SEARCH.replace("sav", "rh")), {"text": "x"}))[0] == "not_found"
        text = 'retrieve: {collection: sav, query: "{{ inputs }}"}'
        code, message = await b.fail(one(text), {"text": "secret 4970"})
        assert (code, "needs a collection and a query" in message) == ("invalid", True)
        assert "4970" not in message, "what was searched may be personal"


class Shelf:
    """A search whose results are known beforehand."""

    def __init__(self, found: dict[str, str]) -> None:
        self.found = {query: [Extract(id, id, id, id, 1.0) for id in ids] for query, ids in found.items()}
        self.asked: list[tuple[str, int, float | None]] = []

    async def __call__(
        self, _: StepContext, collection: str, query: str, top_k: int, least: float | None
    ) -> list[Extract]:
        self.asked.append((query, top_k, least))
        return self.found[query][:top_k]

    async def search(self, store: Store, vault: Vault, **config: JSON) -> list[Any]:
        """Ask everything it knows in one step, and give the hits."""
        engine = Engine(store, vault, {"retrieve": RetrieveSteps(self)})
        it = step("it", "retrieve", {"collection": "sav", **config}, with_={"query": [*self.found]})
        run = await engine.start(flow(it, output="{{ steps.it.hits }}"), {}, WHO)
        await engine.drain()
        hits = await engine.result(run)
        assert isinstance(hits, list)
        return hits


@pytest.mark.parametrize(("top_k", "expected"), [(1, "a"), (3, "adx"), (4, "adxb"), (6, "adxbce"), (50, "adxbce")])
async def test_no_question_is_crowded_out_by_another(store: Store, vault: Vault, top_k: int, expected: str) -> None:
    hits = await Shelf({"one": "abc", "two": "da", "three": "xbe"}).search(store, vault, top_k=top_k)
    assert "".join(hit["id"] for hit in hits) == expected
    assert [hit["query"] for hit in hits] == [{"a": 0, "b": 0, "c": 0, "d": 1, "x": 2, "e": 2}[id] for id in expected]


async def test_bounds_are_passed_on_and_at_most_six_searches_are_made(store: Store, vault: Vault) -> None:
    shelf = Shelf({f"q{n}": "a" for n in range(9)})
    hits = await shelf.search(store, vault, min_score=0.25)
    assert shelf.asked == [(f"q{n}", 6, 0.25) for n in range(6)]
    assert len(hits) == 1
