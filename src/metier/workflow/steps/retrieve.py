"""`retrieve:` steps: extracts of the company's documents that the run may read."""

from __future__ import annotations

from collections.abc import Sequence

from metier.calls import JSON
from metier.errors import Invalid
from metier.knowledge.analyser import Language
from metier.knowledge.closest import Asked, Near, Passage, closest
from metier.workflow.engine import StepContext
from metier.workflow.steps.handed import Embedding, Extract, Search

__all__ = ["RetrieveSteps"]

_MOST = 50
_QUERIES = 6
_SENTENCES = 3


class RetrieveSteps:
    """Runs `retrieve:` steps, giving `hits`: id, document, title, text, score and the query that found each."""

    def __init__(self, search: Search, embedder: Embedding = lambda context: None) -> None:
        self._search = search
        self._embedder = embedder

    async def __call__(self, context: StepContext, with_: dict[str, JSON]) -> JSON:
        """Search the collection for `query`, one text or several; several are taken in turn, best first each."""
        config = context.step.config if isinstance(context.step.config, dict) else {}
        collection, asked = config.get("collection"), with_.get("query")
        queries = [one for one in (asked if isinstance(asked, list) else [asked]) if isinstance(one, str)]
        if not isinstance(collection, str) or not queries:
            raise Invalid(
                f"step {context.path!r} needs a collection and a query that is text, got {type(asked).__name__}"
            )
        top_k, least = config.get("top_k", 6), config.get("min_score")
        if not isinstance(top_k, int) or not 1 <= top_k <= _MOST:
            raise Invalid(f"step {context.path!r} asks for {top_k!r} extracts: give a number from 1 to {_MOST}")
        bound = float(least) if isinstance(least, int | float) else None
        found = [
            await self._search(context, collection, query, top_k, bound) if query.strip() else ()
            for query in queries[:_QUERIES]
        ]
        questions = with_.get("questions")
        if not isinstance(questions, list):
            return {"hits": _in_turn([one for one in found if one], top_k)}
        pairs = [Asked(str(one), query) for one, query in zip(questions, queries, strict=False)][:_QUERIES]
        language: Language = "en" if with_.get("language") == "en" else "fr"
        near = await closest(pairs, _passages(found), self._embedder(context), language, _SENTENCES)
        return {"hits": _nearest(found, near)}


def _in_turn(found: Sequence[Sequence[Extract]], most: int) -> list[JSON]:
    """The best of each search, then the second of each, without repeats: no question is crowded out by another."""
    kept: dict[str, dict[str, JSON]] = {}
    for rank in range(most):
        for number, extracts in enumerate(found):
            if rank < len(extracts) and len(kept) < most:
                extract = extracts[rank]
                kept.setdefault(extract.id, {**extract.data(), "query": number})
    return [*kept.values()]


def _passages(found: Sequence[Sequence[Extract]]) -> list[Passage]:
    known: dict[str, tuple[Extract, dict[int, int]]] = {}
    for number, extracts in enumerate(found):
        for rank, extract in enumerate(extracts):
            known.setdefault(extract.id, (extract, {}))[1][number] = rank
    return [Passage(one.id, one.title, one.text, ranks) for one, ranks in known.values()]


def _nearest(found: Sequence[Sequence[Extract]], near: Sequence[Sequence[Near]]) -> list[JSON]:
    """The extracts that hold a sentence near some question, each with those sentences under `near`."""
    known = {extract.id: extract for extracts in found for extract in extracts}
    kept: dict[str, list[JSON]] = {}
    first: dict[str, int] = {}
    for number, ranked in enumerate(near):
        for one in ranked:
            first.setdefault(one.id, number)
            told: JSON = {
                "question": number, "text": one.text, "score": round(one.score, 4), "shared": round(one.shared, 4)
            }  # fmt: skip
            kept.setdefault(one.id, []).append(told)
    return [{**known[id].data(), "query": first[id], "near": told} for id, told in kept.items()]
