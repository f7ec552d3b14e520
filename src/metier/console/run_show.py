"""GET /review/runs/…: one run whole: how it stands, as it stood after each line, and what may be done to it."""

from __future__ import annotations

from starlette.responses import Response

from metier.console.rendering import Renderer
from metier.console.run_door import RunDoor
from metier.console.visit import Visit
from metier.errors import MetierError
from metier.guardrails.pii import Table, hide
from metier.workflow.context import plain
from metier.workflow.cutting import Cut
from metier.workflow.engine import Engine
from metier.workflow.operations import Operations

__all__ = ["RunShow"]


class RunShow:
    """Shows a run, also again after something that could not be done to it."""

    def __init__(self, door: RunDoor, engine: Engine, operations: Operations, renderer: Renderer) -> None:
        self._door = door
        self._engine = engine
        self._operations = operations
        self._renderer = renderer

    async def __call__(self, visit: Visit) -> Response:
        """Show it as it stands, or after the line asked for; `again` asks what a retry from a path would do."""
        asked = visit.request.query_params
        line, again = asked.get("line", ""), asked.get("again", "")
        cut: Cut | None = None
        fault: MetierError | None = None
        run = await self._door.run(visit)
        if again:
            try:
                cut = await self._operations.retry(run.id, again, visit.who.name, dry_run=True)
            except MetierError as error:
                fault = error
        return await self.page(visit, int(line) if line.isdecimal() and len(line) < 9 else None, again, cut, fault)

    async def page(
        self, visit: Visit, line: int | None = None, again: str = "", cut: Cut | None = None,
        fault: MetierError | None = None,
    ) -> Response:  # fmt: skip
        """Fill the page; personal data in it is masked."""
        run, table = await self._door.run(visit), Table()
        lines = await self._engine.steps(run.id)
        then = await self._operations.at(run.id, None if line is None else min(line, len(lines)))
        aside: dict[int, list[str]] = {}
        for number, entry in await self._operations.history(run.id):
            aside.setdefault(number, []).append(entry.path)
        return self._renderer.page(
            visit,
            "run.html",
            200 if fault is None else fault.status,
            run=run,
            failure=None if run.failure is None else hide(run.failure.message, table),
            lines=lines,
            then=then,
            values={path: hide(plain(value), table) for path, value in then.values.items()},
            below=await self._engine.below(run.id, 200),
            aside={number: list(dict.fromkeys(paths)) for number, paths in aside.items()},
            again=again,
            cut=cut,
            redone=() if cut is None else cut.redone,
            fault=fault,
            said=visit.request.query_params.get("said"),
        )
