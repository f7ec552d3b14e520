"""Who is away, and who stands in: tasks of somebody absent are also those of their substitute, as long as it lasts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from metier.calls import new_id
from metier.errors import Invalid, NotFound
from metier.store import Row, Store
from metier.workflow.commands import assignee
from metier.workflow.context import Clock, utc
from metier.workflow.reviewer import Reviewer

__all__ = ["Absence", "Absences"]

_LINKS = 5
"""Substitutes that are absent themselves, one after the other, before nobody is looked for any more."""
_LONGEST = 200


@dataclass(frozen=True, slots=True)
class Absence:
    """One time somebody is away."""

    id: str
    organisation: str
    person: str
    substitute: str
    """`user:<name>` or `group:<name>`."""
    from_at: datetime
    until_at: datetime
    declared_by: str
    declared_id: str | None
    declared_at: datetime


class Absences:
    """Declares and ends absences, and says for whom somebody stands in now."""

    def __init__(self, store: Store, *, clock: Clock = utc) -> None:
        self._queries = store.queries("absences")
        self._clock = clock

    async def declare(
        self, by: Reviewer, from_at: datetime, until_at: datetime, substitute: str, *, person: str | None = None
    ) -> Absence:
        """Declare an absence of one's own; the operator declares those of others by naming them."""
        whose = self._whose(by, person)
        to = assignee(substitute)
        if to == f"user:{whose}":
            raise Invalid(f"{whose!r} cannot stand in for themselves: name somebody else", param="substitute")
        if from_at.tzinfo is None or until_at.tzinfo is None or from_at >= until_at:
            raise Invalid("an absence ends after it begins, both with a time zone: mend the dates", param="until")
        if until_at <= self._clock():
            raise Invalid(f"the absence ended on {until_at.isoformat()}: give a date to come", param="until")
        row = {
            "id": new_id("absence"),
            "organisation": by.organisation or "main",
            "person": whose,
            "substitute": to,
            "from_at": from_at,
            "until_at": until_at,
            "declared_by": by.name,
            "declared_id": by.id,
            "declared_at": self._clock(),
        }
        await self._queries.run("declare", row)
        return _absence(row)

    async def end(self, absence: str, by: Reviewer) -> None:
        """End an absence of one's own, which began or not; the operator ends any."""
        params = {
            "id": absence,
            "person": None if by.everywhere else by.name,
            "organisation": by.organisation,
            "now": self._clock(),
        }
        if not absence.isprintable() or not await self._queries.run("end", params):
            raise NotFound(f"no absence {absence[:80]!r} of yours lies ahead: list them to find its id")

    async def list(self, by: Reviewer) -> tuple[Absence, ...]:
        """Give the absences that are not over: one's own and those one stands in for; all of them to the operator."""
        params = {
            "organisation": by.organisation,
            "person": None if by.everywhere else by.name,
            "substitutes": by.assignees(),
            "now": self._clock(),
        }
        return tuple(_absence(row) for row in await self._queries.all("coming", params))

    async def of(self, person: str, organisation: str | None) -> Absence | None:
        """Give the absence somebody has now, if any."""
        params = {"person": person, "organisation": organisation, "now": self._clock()}
        row = await self._queries.one("now", params)
        return None if row is None else _absence(row)

    async def standing(self, reviewer: Reviewer) -> Reviewer:
        """Give the same person with those they stand in for now, and those these stood in for."""
        if reviewer.everywhere:
            return reviewer
        seen: frozenset[str] = frozenset()
        places: Sequence[str] = reviewer.assignees()
        for _ in range(_LINKS):
            params = {"substitutes": [*places], "organisation": reviewer.organisation, "now": self._clock()}
            rows = await self._queries.all("absent", params)
            fresh = {str(row["person"]) for row in rows} - seen - {reviewer.name}
            if not fresh:
                break
            seen |= fresh
            places = [f"user:{name}" for name in sorted(fresh)]
        return replace(reviewer, stands_for=seen) if seen else reviewer

    def _whose(self, by: Reviewer, person: str | None) -> str:
        name = (person or by.name).strip()
        if person is not None and not by.everywhere and name != by.name:
            raise Invalid(f"you can only declare absences of your own, not of {name[:80]!r}", param="person")
        if not name or len(name) > _LONGEST or not name.isprintable():
            raise Invalid(f"{name[:80]!r} is no name of a person", param="person")
        return name


def _absence(row: Row) -> Absence:
    return Absence(**{key: value for key, value in row.items() if key != "ended_at"})
