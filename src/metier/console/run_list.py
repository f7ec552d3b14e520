"""GET /review/runs: the runs of a project, newest first, or those that go no further by themselves."""

from __future__ import annotations

from typing import cast, get_args

from starlette.responses import Response

from metier.calls import RunId
from metier.console.rendering import Renderer
from metier.console.run_door import RunDoor
from metier.console.visit import Visit
from metier.workflow.engine import Engine
from metier.workflow.looking import Chosen
from metier.workflow.port import RunStatus

__all__ = ["RunList"]

_PAGE = 50


class RunList:
    """Lists what somebody looks after."""

    def __init__(self, door: RunDoor, engine: Engine, renderer: Renderer) -> None:
        self._door = door
        self._engine = engine
        self._renderer = renderer

    async def __call__(self, visit: Visit) -> Response:
        """Show one page of runs; `status=stuck` shows those that failed or are dead, those of other runs included."""
        principal, asked = await self._door.who(visit), visit.request.query_params
        status, flow, after = asked.get("status", ""), asked.get("flow", "").strip(), asked.get("after")
        flow = flow if flow.isprintable() else ""
        known = status in get_args(RunStatus)
        statuses = ("failed", "dead") if status == "stuck" else (cast(RunStatus, status),) if known else ()
        found = await self._engine.search(
            Chosen(
                workflow=flow or None,
                project=principal.project,
                statuses=cast(tuple[RunStatus, ...], statuses),
                before=RunId(after) if after and after.isprintable() else None,
                limit=_PAGE + 1,
                children=status == "stuck",
                stuck=status == "stuck",
            )
        )
        runs = found[:_PAGE]
        return self._renderer.page(
            visit,
            "runs.html",
            runs=runs,
            statuses=("stuck", *get_args(RunStatus)),
            asked=status,
            flow=flow,
            following=runs[-1].id if len(found) > _PAGE else None,
            first=not after,
        )
