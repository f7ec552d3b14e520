"""POST /review/tasks/…/comment: says something on a task without deciding it."""

from __future__ import annotations

from starlette.responses import Response

from metier.console.answer import touched
from metier.console.rendering import Renderer
from metier.console.task_show import TaskShow
from metier.console.visit import Visit
from metier.errors import Invalid
from metier.workflow.review import Review

__all__ = ["TaskComment"]


class TaskComment:
    """Adds to the discussion of a task; a draft being corrected stays as it was typed."""

    def __init__(self, review: Review, show: TaskShow, renderer: Renderer) -> None:
        self._review = review
        self._show = show
        self._renderer = renderer

    async def __call__(self, visit: Visit) -> Response:
        """Keep the comment and show the task again."""
        task = await self._review.get(visit.task, visit.who)
        try:
            await self._review.comment(task.id, visit.who, visit.form.get("comment", ""))
        except Invalid as error:
            return await self._show.page(visit, task, visit.form, error)
        if touched(task, visit.form):
            kept = {name: text for name, text in visit.form.items() if name != "comment"}
            return await self._show.page(visit, task, kept, None)
        return self._renderer.back(f"/review/tasks/{task.id}", "commented")
