"""Which version of a workflow a run is started with: drafts, pilots, a share, all; moved by people and by rules."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeAlias

import orjson

from metier.calls import Principal, RunId
from metier.errors import Conflict, Invalid, MetierError, NotFound
from metier.store import Row, Store
from metier.vault import Vault
from metier.workflow.commands import assignee
from metier.workflow.definition import Workflow, from_data, to_data
from metier.workflow.expressions import Expressions, parse
from metier.workflow.journal import unsealed
from metier.workflow.release_figures import Difference, Figures, RunFigures, differ, measured
from metier.workflow.release_keys import EVENT, PERSON, Cause, bucket, checked, key_of
from metier.workflow.release_rules import broken, read
from metier.workflow.release_table import Change, Changed, Release, ReleaseTable, State

__all__ = [
    "Called",
    "Cause",
    "Change",
    "Changed",
    "Comparison",
    "Move",
    "Release",
    "Releases",
    "State",
    "Tell",
    "Told",
    "bucket",
    "to_all",
    "to_nobody",
    "to_pilots",
    "to_share",
]

_OPEN: tuple[State, ...] = ("pilot", "canary", "all")
_LATEST = 2_000
_WIDEST = 200


@dataclass(frozen=True, slots=True)
class Move:
    """One change of a release, as it was written down."""

    version: int
    before: str
    state: str
    share: float
    by: str
    reason: str
    figures: Mapping[str, Any] | None
    """What a rule was decided on."""
    at: datetime


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two versions side by side."""

    first: Figures
    second: Figures
    differences: tuple[Difference, ...]


@dataclass(frozen=True, slots=True)
class Told:
    """A version that a rule has taken back."""

    id: int
    """The same however often it is told."""
    project: str
    flow: str
    version: int
    reason: str
    figures: Mapping[str, Any]
    at: datetime


Tell: TypeAlias = Callable[[Told], Awaitable[None]]
"""Tells people of a version taken back; told again until it returns."""


def to_pilots(pilots: Sequence[str]) -> Change:
    """Give a version to named users and groups, and to nobody else."""
    if not 1 <= len(pilots) <= _WIDEST:
        raise Invalid(f"a pilot needs 1 to {_WIDEST} users or groups, not {len(pilots)}: name them", param="to")
    return Change("pilot", ("draft", "pilot"), pilots=tuple(dict.fromkeys(_pilot(one) for one in pilots)))


def _pilot(written: str) -> str:
    try:
        return assignee(written or "nobody")
    except Invalid:
        raise Invalid(
            f"a pilot cannot be {written[:80]!r}: write user:<name of a key> or group:<group of keys>", param="to"
        ) from None


def to_share(share: float, per: str | None = None) -> Change:
    """Give a version to its pilots and to a share of the others, who keep it while the share only grows.

    `per` says what keeps runs on one side: `event`, `person`, or CEL over the inputs. Without it a canary keeps what it
    has, and a version that becomes one goes per person.
    """
    if not 0 < share < 1:
        raise Invalid(f"a canary gets a share between 0 and 1, not {share!r}: promote it to give it all", param="share")
    return Change("canary", ("draft", "pilot", "canary"), float(share), per=per)


def to_all() -> Change:
    """Make a version the one for all; the one that was it until now is kept to go back to."""
    return Change("all", ("draft", "pilot", "canary", "retired"), 1.0)


def to_nobody(reason: str = "", figures: str | None = None) -> Change:
    """Take a version back: no run is started with it again; from all, the version before it is for all again."""
    return Change("rolled_back", _OPEN, reason=reason, figures=figures)


class Releases:
    """Makes, moves, chooses and compares versions; owner of the tables of releases."""

    def __init__(self, store: Store, vault: Vault, tell: Tell | None = None) -> None:
        self._store = store
        self._vault = vault
        self._queries = store.queries("releases")
        self._table = ReleaseTable(store)
        self._tell = tell
        self._expressions = Expressions()
        self._known: dict[str, Workflow] = {}

    async def create(
        self,
        workflow: Workflow,
        project: str,
        by: str,
        *,
        score: str | None = None,
        rules: Sequence[str] = (),
        dry_run: bool = False,
    ) -> Release:
        """Keep a definition as the next version of its flow, a draft; dry, give what it would be and keep nothing."""
        for rule in rules:
            if read(rule).measure == "quality" and score is None:
                raise Invalid(f"the rule {rule!r} needs a score: give the release a CEL expression that measures it")
        if score is not None:
            parse(score)
        row = {
            "project": project,
            "flow": workflow.name,
            "definition": workflow.hash,
            "data": orjson.dumps(to_data(workflow)).decode(),
            "rules": [*rules],
            "score": score,
            "by": by,
        }
        return await self._table.create(row, dry_run=dry_run)

    async def list(self, project: str | None = None, flow: str | None = None) -> tuple[Release, ...]:
        """Give the releases of a project, newest version first."""
        return await self._table.page({"project": project, "flow": flow})

    async def get(self, flow: str, project: str, version: int) -> Release:
        """Give one version."""
        found = [one for one in await self.list(project, flow) if one.version == version]
        if not found:
            where = await self._table.place(project)
            raise NotFound(f"there is no version {version!r} of {flow!r} in project {where}: list its releases")
        return found[0]

    async def moves(self, flow: str, project: str, version: int | None = None) -> tuple[Move, ...]:
        """Give what was done with the releases of a flow, latest first."""
        rows = await self._queries.all("moves", {"project": project, "flow": flow, "version": version})
        return tuple(Move(**{**row, "figures": _figures(row["figures"])}) for row in rows)

    async def pilot(
        self, flow: str, project: str, version: int, by: str, pilots: Sequence[str], *, seen: int | None = None
    ) -> Release:
        """Give a version to named users and groups, and to nobody else."""
        return (await self._table.move(flow, project, version, by, to_pilots(pilots), seen=seen))[0].after

    async def canary(
        self,
        flow: str,
        project: str,
        version: int,
        by: str,
        share: float,
        *,
        per: str | None = None,
        seen: int | None = None,
    ) -> Release:
        """Give a version to its pilots and to a share of the others, who keep it while the share only grows."""
        return (await self.move(flow, project, version, by, to_share(share, per), seen=seen))[0].after

    async def promote(self, flow: str, project: str, version: int, by: str, *, seen: int | None = None) -> Release:
        """Make a version the one for all; the one that was it until now is kept to go back to."""
        return (await self._table.move(flow, project, version, by, to_all(), seen=seen))[0].after

    async def rollback(
        self, flow: str, project: str, version: int, by: str, reason: str = "", *, seen: int | None = None
    ) -> Release:
        """Take a version back: no run is started with it again; from all, the version before it is for all again."""
        return (await self._table.move(flow, project, version, by, to_nobody(reason), seen=seen))[0].after

    async def move(
        self,
        flow: str,
        project: str,
        version: int,
        by: str,
        change: Change,
        *,
        seen: int | None = None,
        dry_run: bool = False,
    ) -> tuple[Changed, ...]:
        """Make a change, and tell every version that stands otherwise by it, that one first.

        `to_pilots`, `to_share`, `to_all` and `to_nobody` make changes. Dry, it is refused and told as it would be, and
        nothing is changed.
        """
        if change.state == "canary":
            one = await self.get(flow, project, version)
            seen = one.revision if seen is None else seen
            if change.per is not None or one.per is None:
                # Without one it is a canary of a node from before there were keys, which shares per event.
                usual = EVENT if one.state == "canary" else PERSON
                per = checked(change.per or usual, await self._workflow(one))
                change = replace(change, per=per, reason=change.reason or f"per {per}")
        return await self._table.move(flow, project, version, by, change, seen=seen, dry_run=dry_run)

    async def choose(self, flow: str, project: str, who: Principal, cause: Cause | None = None) -> Workflow:
        """Give the definition a run of somebody is started with; what keeps it on one side always gives the same."""
        return await self._workflow(await self.choice(flow, project, who, cause))

    async def choice(self, flow: str, project: str, who: Principal, cause: Cause | None = None) -> Release:
        """Give the version a run of somebody is started with."""
        own = {f"user:{who.name}", *(f"group:{group}" for group in who.groups)}
        cause = cause or Cause(str(who.key_id), {})
        every = await self.list(project, flow)
        for one in every:
            if one.state in ("pilot", "canary") and own & set(one.pilots):
                return one
        for one in every:
            if one.state == "canary":
                key = key_of(one.per or EVENT, cause, who, self._expressions)
                if bucket(project, flow, one.version, key) < one.share:
                    return one
        for one in every:
            if one.state == "all":
                return one
        where = await self._table.place(project)
        raise NotFound(f"no version of {flow!r} is released to {who.name!r} in project {where}: promote one")

    async def resolve(self, reference: str, project: str) -> Workflow:
        """Give the definition behind `name@version`, or behind a bare name the version that is for all."""
        name, separator, written = reference.partition("@")
        if separator and not (written.isdigit() and len(written) < 10):
            raise Invalid(f"cannot find {reference[:80]!r}: a released flow is written name@version, such as refund@3")
        if not separator:
            found = next((one for one in await self.list(project, name) if one.state == "all"), None)
            if found is None:
                where = await self._table.place(project)
                raise NotFound(f"no version of {name!r} is for all in project {where}: name one, or promote one")
            return await self._workflow(found)
        one = await self.get(name, project, int(written))
        if one.state in ("draft", "rolled_back"):
            where = await self._table.place(project)
            raise Conflict(f"{reference!r} is {one.state!r} in project {where}: release it, or name another version")
        return await self._workflow(one)

    async def figures(self, one: Release, *, since: datetime | None = None) -> tuple[RunFigures, ...]:
        """Give what the latest runs of a version took and how good they were."""
        asked = {"project": one.project, "definition": one.definition, "since": since, "limit": _LATEST}
        return tuple(self._run(one, row) for row in await self._queries.all("figures", asked))

    async def compare(self, flow: str, project: str, first: int, second: int) -> Comparison:
        """Put two versions side by side on errors, cost, duration and quality, by the score of the second."""
        if first == second:
            raise Invalid(
                f"version {first} of {flow!r} cannot be compared with itself: name two versions, or show this one"
            )
        one, other = await self.get(flow, project, first), await self.get(flow, project, second)
        score = other.score or one.score
        before = await self.figures(replace(one, score=score))
        after = await self.figures(replace(other, score=score))
        return Comparison(measured(first, before), measured(second, after), differ(before, after))

    async def watch(self) -> int:
        """Take back versions that break one of their rules, and tell; any worker may do it at any time."""
        every, taken = await self.list(), 0
        for one in every:
            if one.state in _OPEN and one.rules:
                taken += await self._judge(one, every)
        await self._tell_all()
        return taken

    async def _judge(self, one: Release, every: Sequence[Release]) -> bool:
        others = [o for o in every if (o.project, o.flow) == (one.project, one.flow)]
        wanted = one.before if one.state == "all" else next((o.version for o in others if o.state == "all"), None)
        if one.state == "all" and wanted is None:
            return False  # nothing to go back to
        base = next((o for o in others if o.version == wanted), None)
        found = measured(one.version, await self.figures(one))
        beside = None
        if base is not None and any(read(rule).relative for rule in one.rules):
            beside = measured(base.version, await self.figures(replace(base, score=one.score)))
        told = next((why for rule in one.rules if (why := broken(read(rule), found, beside))), None)
        if told is None:
            return False
        figures = {"found": found.data(), "base": None if beside is None else beside.data()}
        change = to_nobody(told, orjson.dumps(figures).decode())
        try:
            await self._table.move(one.flow, one.project, one.version, "rule", change, seen=one.revision)
        except Conflict:
            return False  # somebody moved it meanwhile: it is looked at again at the next watch
        return True

    async def _tell_all(self) -> None:
        """Tell what waits to be told; without anybody to tell it to, it goes on waiting for a worker that can."""
        if self._tell is None:
            return
        async with self._store.transaction() as tx:
            for row in await self._queries.all("untold", {}, tx):
                figures = _figures(row["figures"]) or {}
                told = {name: row[name] for name in ("id", "project", "flow", "version", "reason", "at")}
                await self._tell(Told(**told, figures=figures))
                await self._queries.run("told", {"id": row["id"]}, tx)

    async def _workflow(self, one: Release) -> Workflow:
        known = self._known.get(one.definition)
        if known is None:
            place = {"project": one.project, "flow": one.flow, "version": one.version}
            row = await self._queries.one("data", place)
            if row is None:
                raise NotFound(f"version {one.version} of {one.flow!r} is gone: list its releases")
            known = self._known[one.definition] = from_data(orjson.loads(row["data"]))
        return known

    def _run(self, one: Release, row: Row) -> RunFigures:
        failed = row["status"] != "done"
        cost, lasted = float(row["cost_eur"]), float(row["seconds"])
        quality: float | None = None
        if one.score is not None and row["output"] is not None:
            output = unsealed(self._vault, RunId(row["id"]), "output", row["output"])
            scope = {
                "output": output, "outcome": row["outcome"], "status": row["status"],
                "cost_eur": cost, "seconds": lasted,
            }  # fmt: skip
            try:
                found = self._expressions.evaluate(one.score, scope)
            except MetierError:
                found = None
            if isinstance(found, bool | int | float):
                quality = float(found)
        return RunFigures(failed, cost, lasted, quality)


@dataclass(frozen=True, slots=True)
class Called:
    """Released flows as runs find those they call."""

    releases: Releases

    async def find(self, name: str, principal: Principal) -> Workflow:
        """Give the flow called by `name@version`, in the project of whoever the run works for."""
        return await self.releases.resolve(name, principal.project)


def _figures(written: str | None) -> Mapping[str, Any] | None:
    found: Mapping[str, Any] | None = None if written is None else orjson.loads(written)
    return found
