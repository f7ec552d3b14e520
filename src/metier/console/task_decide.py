"""POST /review/tasks/…/decide: records a decision with the corrected draft; the run goes on."""

from __future__ import annotations

from starlette.responses import Response

from metier.console.answer import NOTE, answer, fields, note, takes_note
from metier.console.fields import Field
from metier.console.rendering import Renderer
from metier.console.task_show import TaskShow
from metier.console.visit import Visit
from metier.errors import Conflict, Invalid
from metier.workflow.review import Review

__all__ = ["TaskDecide"]


class TaskDecide:
    """Ends a task; the second of two people is told that the first was faster, and keeps what they wrote."""

    def __init__(self, review: Review, show: TaskShow, renderer: Renderer) -> None:
        self._review = review
        self._show = show
        self._renderer = renderer

    async def __call__(self, visit: Visit) -> Response:
        """Decide, or show the form again with what is wrong, field by field."""
        task = await self._review.get(visit.task, visit.who)
        given = answer(task, visit.form)
        try:
            if given.problems and task.state in ("open", "claimed"):
                return await self._show.page(visit, task, visit.form, None, given.problems)
            await self._review.decide(task.id, visit.who, given.decision, note(task, visit.form))
        except Invalid as error:
            return await self._show.page(visit, task, visit.form, error)
        except Conflict as error:
            now = await self._review.get(task.id, visit.who)
            kept = [field for field in fields(task, visit.form) if field.name in visit.form and field.value]
            if takes_note(task) and (why := note(task, visit.form)):
                kept.append(Field(NOTE, "note", "text", why))
            return self._renderer.page(visit, "error.html", error.status, error=error, task=now, kept=kept)
        return self._renderer.back("/review", "decided")
