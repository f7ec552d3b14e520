"""GET /review/tasks/…: one task whole, with the form of its decision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from starlette.responses import Response

from metier.calls import RunId
from metier.console.answer import NOTE, choices, fields, takes_note
from metier.console.fields import Problem
from metier.console.reading import read
from metier.console.rendering import Renderer
from metier.console.visit import Visit
from metier.errors import Invalid
from metier.record.ledger import Ledger
from metier.workflow.review import NOTE_MAX, Absence, Review, Task

__all__ = ["Footprint", "TaskShow"]


@dataclass(frozen=True, slots=True)
class Footprint:
    """What the calls to models behind a task have used."""

    calls: int
    cost_eur: float
    energy_wh: tuple[float, float] | None
    """Least and most; None unless every call that reached a model could be estimated."""
    masked: int
    """Personal values the models never saw."""


class TaskShow:
    """Shows a task, also again after a form that did not fit."""

    def __init__(self, review: Review, ledger: Ledger, renderer: Renderer) -> None:
        self._review = review
        self._ledger = ledger
        self._renderer = renderer

    async def __call__(self, visit: Visit) -> Response:
        """Show it as it stands."""
        task = await self._review.get(visit.task, visit.who)
        return await self.page(visit, task, {}, None)

    async def page(
        self,
        visit: Visit,
        task: Task,
        sent: Mapping[str, str],
        fault: Invalid | None,
        problems: Mapping[str, Problem] | None = None,
    ) -> Response:
        """Fill the page with what was sent, where something was, and with what is wrong with it."""
        events = await self._review.history(task.id, visit.who)
        return self._renderer.page(
            visit,
            "task.html",
            200 if fault is None and not problems else Invalid.status,
            task=task,
            sent=sent,
            reading=read(task, visit.words.language),
            fields=fields(task, sent, problems),
            choices=choices(task),
            note_name=NOTE if takes_note(task) else None,
            note_max=NOTE_MAX,
            problems=problems or {},
            events=events,
            talk=[event for event in events if event.kind in ("commented", "handed_off")],
            bar=await self._review.bar(task.id, visit.who),
            away=await self._away(visit, task),
            fault=fault,
            said=visit.request.query_params.get("said"),
            footprint=await self._footprint(task.run),
        )

    async def _away(self, visit: Visit, task: Task) -> Absence | None:
        """The absence on account of which the visitor sees a task of somebody else."""
        kind, _, name = task.assignee.partition(":")
        if kind != "user" or name == visit.who.name:
            return None
        return await self._review.absences.of(name, visit.who.organisation)

    async def _footprint(self, run: RunId) -> Footprint | None:
        rows = await self._ledger.of_run(run)
        if not rows:
            return None
        reached = [row for row in rows if row["deployment"] is not None]
        known = bool(reached) and all(row["energy_high_kwh"] is not None for row in reached)
        low, high = (sum(row[f"energy_{end}_kwh"] * 1000 for row in reached) if known else 0 for end in ("low", "high"))
        return Footprint(
            calls=len(rows),
            cost_eur=float(sum(row["cost_eur"] for row in rows)),
            energy_wh=(low, high) if known else None,
            masked=max(sum((row["masked"] or {}).values()) for row in rows),
        )
