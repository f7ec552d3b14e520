"""The table of releases: versions as they stand, and their moves, of which only one can win at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeAlias

from metier.errors import Conflict, NotFound
from metier.store import Store, Tx

__all__ = ["Release", "ReleaseTable", "State"]

State: TypeAlias = Literal["draft", "pilot", "canary", "all", "retired", "rolled_back"]


@dataclass(frozen=True, slots=True)
class Release:
    """One version of a workflow in a project."""

    project: str
    flow: str
    version: int
    definition: str
    """Hash its runs are pinned to."""
    state: State
    share: float
    """Part of the runs that are started with it while it is a canary, from 0 to 1."""
    pilots: tuple[str, ...]
    """Who gets it as a pilot and as a canary: user:<name> or group:<name>."""
    rules: tuple[str, ...]
    score: str | None
    """CEL over `output`, `outcome`, `status`, `cost_eur` and `seconds` that gives the quality of a run as a number."""
    before: int | None
    """Version that was for all until this one became it."""
    created_by: str
    created_at: datetime
    released_at: datetime | None
    revision: int
    """Of all the releases of the flow: hand it in with a change to be refused when somebody changed them since."""


class ReleaseTable:
    """Reads and moves the rows of releases."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._queries = store.queries("releases")

    async def page(self, place: Mapping[str, str | None], tx: Tx | None = None) -> tuple[Release, ...]:
        """Give releases, newest version first."""
        rows = await self._queries.all("page", place, tx)
        return tuple(Release(**{**row, "pilots": tuple(row["pilots"]), "rules": tuple(row["rules"])}) for row in rows)

    async def move(
        self,
        flow: str,
        project: str,
        version: int,
        by: str,
        change: Mapping[str, Any],
        *,
        seen: int | None,
        allowed: Sequence[State],
    ) -> None:
        """Put a version into another state; Conflict when somebody else changed the flow's releases since `seen`."""
        place = {"project": project, "flow": flow}
        if seen is None:
            row = await self._queries.one("head", place)
            seen = row["revision"] if row else 0
        async with self._store.transaction() as tx:
            await self._queries.one("lock_head", place, tx)
            every = await self.page(place, tx)
            one = next((each for each in every if each.version == version), None)
            if one is None:
                raise NotFound(f"there is no version {version!r} of {flow!r} in project {project!r}: list its releases")
            if not await self._queries.run("turn", {**place, "seen": seen}, tx):
                last = (await self._queries.all("moves", {**place, "version": None}, tx))[0]
                raise Conflict(
                    f"the releases of {flow!r} changed meanwhile: version {last['version']} became {last['state']!r} "
                    f"by {last['by']!r}; look at them again"
                )
            if one.state not in allowed:
                raise Conflict(f"version {version} of {flow!r} is {one.state!r}: that cannot be done with it any more")
            await self._apply(tx, every, one, by, change)

    async def _apply(self, tx: Tx, every: Sequence[Release], one: Release, by: str, change: Mapping[str, Any]) -> None:
        state: State = change["state"]
        reason = str(change.get("reason") or "")
        other = next((each for each in every if each.state == state and each is not one), None)
        before = None
        if state == "all" and other is not None:
            before = other.version
            await self._put(tx, other, by, {"state": "retired", "share": 0.0, "reason": f"replaced by {one.version}"})
        if state == "canary" and other is not None:
            raise Conflict(f"version {other.version} of {one.flow!r} is the canary: promote it or take it back first")
        await self._put(tx, one, by, {"pilots": one.pilots, **change, "before": before, "reason": reason})
        if state == "rolled_back" and one.state == "all":
            previous = next((each for each in every if each.version == one.before), None)
            if previous is None or previous.state != "retired":
                raise Conflict(
                    f"version {one.version} of {one.flow!r} is for all and none came before it: promote another instead"
                )
            again = {"state": "all", "share": 1.0, "reason": f"{one.version} was taken back"}
            await self._put(tx, previous, by, again)

    async def _put(self, tx: Tx, one: Release, by: str, change: Mapping[str, Any]) -> None:
        place = {"project": one.project, "flow": one.flow, "version": one.version}
        row = {"state": change["state"], "share": change["share"], "pilots": [*change.get("pilots", one.pilots)]}
        await self._queries.run("move", {**place, **row, "before": change.get("before")}, tx)
        note = {"was": one.state, "state": change["state"], "share": change["share"], "by": by}
        reason, figures = change.get("reason", ""), change.get("figures")
        await self._queries.run("note", {**place, **note, "reason": reason, "figures": figures}, tx)
