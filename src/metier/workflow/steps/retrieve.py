"""`retrieve:` steps: extracts of the company's documents that the run may read."""

from __future__ import annotations

from collections.abc import Sequence

from metier.calls import JSON
from metier.errors import Invalid
from metier.workflow.engine import StepContext
from metier.workflow.steps.handed import Extract, Search

__all__ = ["RetrieveSteps"]

_MOST = 50
_QUERIES = 6


class RetrieveSteps:
    """Runs `retrieve:` steps, giving `hits`: id, document, title, text, score and the query that found each."""

    def __init__(self, search: Search) -> None:
        self._search = search

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
            await self._search(context, collection, query, top_k, bound)
            for query in queries[:_QUERIES]
            if query.strip()
        ]
        return {"hits": _in_turn(found, top_k)}


def _in_turn(found: Sequence[Sequence[Extract]], most: int) -> list[JSON]:
    """The best of each search, then the second of each, without repeats: no question is crowded out by another."""
    kept: dict[str, dict[str, JSON]] = {}
    for rank in range(most):
        for number, extracts in enumerate(found):
            if rank < len(extracts) and len(kept) < most:
                extract = extracts[rank]
                kept.setdefault(extract.id, {**extract.data(), "query": number})
    return [*kept.values()]
