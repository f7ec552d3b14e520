"""POST /review/tasks/…/claim: claims a task."""

from __future__ import annotations

from starlette.responses import Response

from metier.console.rendering import Renderer
from metier.console.visit import Visit
from metier.workflow.review import Review

__all__ = ["TaskClaim"]


class TaskClaim:
    """Says that one is on it, so that nobody else decides it meanwhile."""

    def __init__(self, review: Review, renderer: Renderer) -> None:
        self._review = review
        self._renderer = renderer

    async def __call__(self, visit: Visit) -> Response:
        """Do it and show the task again."""
        task = await self._review.get(visit.task, visit.who)
        await self._review.claim(task.id, visit.who)
        return self._renderer.back(f"/review/tasks/{task.id}", "claimed")
