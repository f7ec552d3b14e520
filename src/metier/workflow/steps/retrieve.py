"""`retrieve:` steps: extracts of the company's documents that the run may read."""

from __future__ import annotations

from metier.calls import JSON
from metier.errors import Invalid
from metier.workflow.engine import StepContext
from metier.workflow.steps.handed import Search

__all__ = ["RetrieveSteps"]

_MOST = 50


class RetrieveSteps:
    """Runs `retrieve:` steps, giving `hits`: id, document, title, text and score of each extract."""

    def __init__(self, search: Search) -> None:
        self._search = search

    async def __call__(self, context: StepContext, with_: dict[str, JSON]) -> JSON:
        """Search the collection the step names for `query`."""
        config = context.step.config if isinstance(context.step.config, dict) else {}
        query, collection = with_.get("query"), config.get("collection")
        if not isinstance(query, str) or not isinstance(collection, str):
            raise Invalid(f"step {context.path!r} needs a collection and a query that is text, got {query!r}")
        top_k, least = config.get("top_k", 6), config.get("min_score")
        if not isinstance(top_k, int) or not 1 <= top_k <= _MOST:
            raise Invalid(f"step {context.path!r} asks for {top_k!r} extracts: give a number from 1 to {_MOST}")
        if not query.strip():
            return {"hits": []}
        found = await self._search(
            context, collection, query, top_k, float(least) if isinstance(least, int | float) else None
        )
        return {"hits": [extract.data() for extract in found]}
