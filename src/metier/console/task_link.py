"""GET and POST /review/links/…: the link of an e-mail; looking decides nothing, a button opens the task or approves."""

from __future__ import annotations

from starlette.responses import Response

from metier.calls import KeyId
from metier.console.answer import choices, fields
from metier.console.door import Door
from metier.console.reading import read
from metier.console.rendering import Renderer
from metier.console.visit import Visit
from metier.errors import Conflict, Invalid
from metier.workflow.links import Link, Links
from metier.workflow.review import Review

__all__ = ["TaskLink"]


class TaskLink:
    """Shows what a link is for, and takes it once."""

    def __init__(self, review: Review, links: Links, door: Door, renderer: Renderer) -> None:
        self._review = review
        self._links = links
        self._door = door
        self._renderer = renderer

    async def __call__(self, visit: Visit) -> Response:
        """Show it, or do what the button says."""
        token = str(visit.request.path_params["link"])
        link = await self._links.read(token)
        if link.state != "good":
            return self._renderer.page(visit, "link.html", 410, state=link.state, task=None, fields=(), choice="")
        if visit.request.method != "POST":
            return await self._look(visit, link)
        await self._links.use(token)
        where = f"/review/tasks/{link.task}"
        if visit.form.get("do") == "approve":
            task = await self._review.get(link.task, link.reviewer)
            try:
                await self._review.decide(
                    task.id, link.reviewer, {"decision": choices(task)[0]} if choices(task) else {}
                )
            except (Invalid, Conflict):
                # What is missing, or who has it in hand, stands on the page of the task; the link is used either way.
                return self._door.admit(visit, self._renderer.back(where), KeyId(link.id))
            return self._renderer.page(visit, "link.html", state="done", task=None, fields=(), choice="")
        return self._door.admit(visit, self._renderer.back(where), KeyId(link.id))

    async def _look(self, visit: Visit, link: Link) -> Response:
        task = await self._review.get(link.task, link.reviewer)
        shown = [field for field in fields(task, {}) if field.draft]
        bar = await self._review.bar(task.id, link.reviewer)
        choice = choices(task)[0] if choices(task) and not bar else ""
        # Whoever approves from here has not seen the page of the task: what code found wrong is said here too.
        checks = read(task, visit.words.language).checks
        return self._renderer.page(
            visit, "link.html", state="good", task=task, fields=shown, choice=choice, checks=checks
        )
