"""POST /review/tasks/…/hand-off: gives a task to another group or person."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import Response

from metier.console.rendering import Renderer
from metier.console.task_show import TaskShow
from metier.console.visit import Visit
from metier.errors import Invalid
from metier.workflow.review import Review

__all__ = ["TaskHandOff"]

_LONGEST = 100


class TaskHandOff:
    """Leaves a task to somebody better placed."""

    def __init__(self, review: Review, show: TaskShow, renderer: Renderer) -> None:
        self._review = review
        self._show = show
        self._renderer = renderer

    async def __call__(self, visit: Visit) -> Response:
        """Hand it off and go back to the list, as it may be no longer one's own."""
        task = await self._review.get(visit.task, visit.who)
        try:
            await self._review.hand_off(task.id, visit.who, _assignee(visit.form), visit.form.get("to.note", ""))
        except Invalid as error:
            return await self._show.page(visit, task, visit.form, error)
        return self._renderer.back("/review", "handed_off")


def _assignee(form: Mapping[str, str]) -> str:
    kind, name = form.get("to.kind", ""), form.get("to.name", "").strip()
    if not name or len(name) > _LONGEST:
        raise Invalid(f"cannot hand a task off to {name[:_LONGEST]!r}: write the name of a group or person")
    return f"{kind}:{name}"
