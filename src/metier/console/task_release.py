"""POST /review/tasks/…/release: puts a claimed task back."""

from __future__ import annotations

from starlette.responses import Response

from metier.console.rendering import Renderer
from metier.console.visit import Visit
from metier.workflow.review import Review

__all__ = ["TaskRelease"]


class TaskRelease:
    """Leaves a task one had in hand to the others it is assigned to."""

    def __init__(self, review: Review, renderer: Renderer) -> None:
        self._review = review
        self._renderer = renderer

    async def __call__(self, visit: Visit) -> Response:
        """Do it and show the task again."""
        task = await self._review.get(visit.task, visit.who)
        await self._review.release(task.id, visit.who)
        return self._renderer.back(f"/review/tasks/{task.id}", "released")
