"""POST /review/runs/…/pause, unpause, resume, cancel and retry: what people do to a run."""

from __future__ import annotations

from typing import Literal, TypeAlias

from starlette.responses import Response

from metier.console.rendering import Renderer
from metier.console.run_door import RunDoor
from metier.console.run_show import RunShow
from metier.console.visit import Visit
from metier.errors import Conflict, NotFound
from metier.workflow.engine import Engine
from metier.workflow.operations import Operations

__all__ = ["MOVES", "RunMove", "What"]

What: TypeAlias = Literal["pause", "unpause", "resume", "cancel", "retry"]

MOVES: tuple[What, ...] = ("pause", "unpause", "resume", "cancel", "retry")
"""Everything a page can do to a run."""


class RunMove:
    """Does one thing to a run; what cannot be done is told on its page."""

    def __init__(
        self, what: What, door: RunDoor, engine: Engine, operations: Operations, show: RunShow, renderer: Renderer
    ) -> None:
        self._what = what
        self._door = door
        self._engine = engine
        self._operations = operations
        self._show = show
        self._renderer = renderer

    async def __call__(self, visit: Visit) -> Response:
        """Do it and show the run again."""
        run = await self._door.run(visit)
        try:
            if self._what == "retry":
                await self._operations.retry(run.id, visit.form.get("step", ""), visit.who.name)
            elif self._what == "pause":
                await self._operations.pause(run.id)
            elif self._what == "unpause":
                await self._operations.unpause(run.id)
            elif self._what == "resume":
                await self._operations.resume(run.id)
            else:
                await self._engine.cancel(run.id)
        except (Conflict, NotFound) as error:
            return await self._show.page(visit, fault=error)
        return self._renderer.back(f"/review/runs/{run.id}", self._what)
