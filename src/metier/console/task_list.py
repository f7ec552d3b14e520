"""GET /review: the tasks and the e-mails in doubt that wait for the one who is signed in, oldest first."""

from __future__ import annotations

from starlette.responses import Response

from metier.connectors.deliveries import Deliveries
from metier.console.rendering import Renderer
from metier.console.visit import Visit
from metier.workflow.review import Review, TaskId

__all__ = ["TaskList"]

_PAGE = 50


class TaskList:
    """Lists what a reviewer may take."""

    def __init__(self, review: Review, deliveries: Deliveries, renderer: Renderer) -> None:
        self._review = review
        self._deliveries = deliveries
        self._renderer = renderer

    async def __call__(self, visit: Visit) -> Response:
        """Show one page of tasks."""
        after = visit.request.query_params.get("after")
        found = await self._review.list(visit.who, after=TaskId(after) if after else None, limit=_PAGE + 1)
        tasks = found[:_PAGE]
        following = tasks[-1].id if len(found) > _PAGE else None
        doubtful = () if after else await self._deliveries.list(visit.who)
        said = visit.request.query_params.get("said")
        return self._renderer.page(
            visit, "tasks.html", tasks=tasks, doubtful=doubtful, following=following, first=not after, said=said
        )
