"""The table of releases: versions as they stand, and their moves, of which only one can win at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeAlias

import psycopg

from metier.errors import Conflict, NotFound
from metier.store import Store, Tx

__all__ = ["Change", "Changed", "Release", "ReleaseTable", "State"]

State: TypeAlias = Literal["draft", "pilot", "canary", "all", "retired", "rolled_back"]


_NEXT: Mapping[State, str] = {
    "draft": "nobody gets it yet; give it to pilots, to a share or to all",
    "pilot": "name other pilots, give it to a share or to all, or take it back",
    "canary": "give it to another share or to all, or take it back",
    "all": "everybody gets it; take it back, or make another version of a changed workflow",
    "retired": "it was replaced; promote it, or make another version of a changed workflow",
    "rolled_back": "what was taken back is not given again; make another version of a changed workflow",
}
"""What may be done with a version as it stands, for whoever asked for something else."""


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
    per: str | None
    """What keeps runs on one side of the share: event, person, or CEL over the inputs; None until it is a canary."""
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


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of a version: where it goes, who gets it there, and from where it may come."""

    state: State
    allowed: tuple[State, ...]
    """States it may be in before."""
    share: float = 0.0
    pilots: tuple[str, ...] | None = None
    """Who gets it by name; None leaves them as they are."""
    per: str | None = None
    """What keeps runs on one side of the share; None leaves it as it is."""
    reason: str = ""
    figures: str | None = None
    """What a rule decided it on, as JSON."""


@dataclass(frozen=True, slots=True)
class Changed:
    """A version before and after a change; its rows are the same where the change was only foreseen."""

    before: Release | None
    """None where it was not there yet."""
    after: Release


class ReleaseTable:
    """Reads and moves the rows of releases."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._queries = store.queries("releases")

    async def page(self, place: Mapping[str, str | None], tx: Tx | None = None) -> tuple[Release, ...]:
        """Give releases, newest version first."""
        rows = await self._queries.all("page", place, tx)
        return tuple(Release(**{**row, "pilots": tuple(row["pilots"]), "rules": tuple(row["rules"])}) for row in rows)

    async def place(self, project: str, tx: Tx | None = None) -> str:
        """Name a project as errors do: by the name people gave it, beside its id."""
        row = await self._queries.one("named", {"project": project}, tx)
        return repr(project) if row is None else f"{row['name']!r} ({project})"

    async def create(self, made: Mapping[str, Any], *, dry_run: bool = False) -> Release:
        """Keep a definition as the next version of its flow, a draft; Conflict when that content is one already."""
        place = {"project": made["project"], "flow": made["flow"]}
        found: tuple[Release, ...] = ()
        async with self._store.transaction() as tx:
            await self._queries.run("open_head", place, tx)
            await self._queries.one("lock_head", place, tx)
            row = await self._queries.one("create", made, tx)
            found = await self.page(place, tx)
            if row is None:
                known = next(one for one in found if one.definition == made["definition"])
                raise Conflict(
                    f"this content is version {known.version} of {known.flow!r} already, {known.state!r}: "
                    f"{_NEXT[known.state]}"
                )
            note = {"version": row["version"], "was": "", "state": "draft", "share": 0.0, "by": made["by"]}
            await self._queries.run("note", {**place, **note, "reason": "made", "figures": None}, tx)
            if dry_run:
                raise psycopg.Rollback
        return found[0]

    async def move(
        self, flow: str, project: str, version: int, by: str, change: Change, *, seen: int | None, dry_run: bool = False
    ) -> tuple[Changed, ...]:
        """Put a version into another state and say which ones changed by it, that one first; dry, none has changed.

        Conflict when somebody else changed the flow's releases since `seen`.
        """
        place = {"project": project, "flow": flow}
        if seen is None:
            row = await self._queries.one("head", place)
            seen = row["revision"] if row else 0
        found: tuple[Changed, ...] = ()
        async with self._store.transaction() as tx:
            await self._queries.one("lock_head", place, tx)
            every = await self.page(place, tx)
            one = next((each for each in every if each.version == version), None)
            if one is None:
                where = await self.place(project, tx)
                raise NotFound(f"there is no version {version!r} of {flow!r} in project {where}: list its releases")
            if not await self._queries.run("turn", {**place, "seen": seen}, tx):
                last = (await self._queries.all("moves", {**place, "version": None}, tx))[0]
                raise Conflict(
                    f"the releases of {flow!r} changed meanwhile: version {last['version']} became {last['state']!r} "
                    f"by {last['by']!r}; look at them again"
                )
            if one.state not in change.allowed:
                raise Conflict(
                    f"version {version} of {flow!r} is {one.state!r} and cannot become {change.state!r}: "
                    f"{_NEXT[one.state]}"
                )
            await self._apply(tx, every, one, by, change)
            found = _apart(one, every, await self.page(place, tx))
            if dry_run:
                raise psycopg.Rollback
        return found

    async def _apply(self, tx: Tx, every: Sequence[Release], one: Release, by: str, change: Change) -> None:
        other = next((each for each in every if each.state == change.state and each is not one), None)
        before = None
        if change.state == "all" and other is not None:
            before = other.version
            await self._put(tx, other, by, Change("retired", (), reason=f"replaced by {one.version}"))
        if change.state == "canary" and other is not None:
            raise Conflict(f"version {other.version} of {one.flow!r} is the canary: promote it or take it back first")
        await self._put(tx, one, by, change, before)
        if change.state == "rolled_back" and one.state == "all":
            previous = next((each for each in every if each.version == one.before), None)
            if previous is None or previous.state != "retired":
                raise Conflict(
                    f"version {one.version} of {one.flow!r} is for all and none came before it: promote another instead"
                )
            await self._put(tx, previous, by, Change("all", (), 1.0, reason=f"{one.version} was taken back"))

    async def _put(self, tx: Tx, one: Release, by: str, change: Change, before: int | None = None) -> None:
        place = {"project": one.project, "flow": one.flow, "version": one.version}
        pilots = one.pilots if change.pilots is None else change.pilots
        row = {"state": change.state, "share": change.share, "pilots": [*pilots], "per": change.per}
        await self._queries.run("move", {**place, **row, "before": before}, tx)
        note = {"was": one.state, "state": change.state, "share": change.share, "by": by}
        await self._queries.run("note", {**place, **note, "reason": change.reason, "figures": change.figures}, tx)


def _apart(one: Release, before: Sequence[Release], after: Sequence[Release]) -> tuple[Changed, ...]:
    """Say which versions stand otherwise than they stood, the one that was moved first."""
    known = {each.version: each for each in before}
    found = [Changed(known[now.version], now) for now in after]
    moved = [each for each in found if each.after.version == one.version]
    others = [each for each in found if each.before is not None and each.before.state != each.after.state]
    return (*moved, *(each for each in others if each not in moved))
