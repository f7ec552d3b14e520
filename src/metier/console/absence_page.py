"""GET and POST /review/absences: when one is away, and who stands in."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

from starlette.responses import Response

from metier.console.rendering import Renderer
from metier.console.visit import Visit
from metier.errors import Invalid, NotFound
from metier.workflow.review import Review

__all__ = ["AbsenceEnd", "AbsencePage"]


class AbsencePage:
    """Shows the absences one is concerned by, and declares one's own."""

    def __init__(self, review: Review, renderer: Renderer) -> None:
        self._review = review
        self._renderer = renderer

    async def __call__(self, visit: Visit) -> Response:
        """Show them, or declare one and show them again."""
        fault: Invalid | None = None
        if visit.request.method == "POST":
            try:
                await self._declare(visit)
            except Invalid as error:
                fault = error
            else:
                return self._renderer.back("/review/absences", "absent")
        return self._renderer.page(
            visit,
            "absences.html",
            200 if fault is None else fault.status,
            absences=await self._review.absences.list(visit.who),
            fault=fault,
            said=visit.request.query_params.get("said"),
        )

    async def _declare(self, visit: Visit) -> None:
        form = visit.form
        since, until = _day(form.get("from", "")), _day(form.get("until", "")) + timedelta(days=1)
        substitute = f"{form.get('kind', '')}:{form.get('name', '').strip()}"
        await self._review.absences.declare(visit.who, since, until, substitute)


class AbsenceEnd:
    """Ends an absence of one's own."""

    def __init__(self, review: Review, renderer: Renderer) -> None:
        self._review = review
        self._renderer = renderer

    async def __call__(self, visit: Visit) -> Response:
        """End it and show what is left."""
        absence = str(visit.request.path_params["absence"])
        if not absence.isprintable():
            raise NotFound(f"no absence {absence[:80]!r} of yours lies ahead: list them to find its id")
        await self._review.absences.end(absence, visit.who)
        return self._renderer.back("/review/absences", "back")


def _day(text: str) -> datetime:
    """The beginning of a day where the server stands."""
    try:
        return datetime.combine(date.fromisoformat(text.strip()), time()).astimezone().astimezone(UTC)
    except (ValueError, OverflowError):
        raise Invalid(f"{text[:40]!r} is no date: write it like 2026-03-31", param="from") from None
