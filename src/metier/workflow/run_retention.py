"""Deletes runs that have been over for long enough, events nobody waits for any more, and large values left over."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import psycopg
from psycopg.types.json import Jsonb

from metier.errors import ConfigError, Invalid, MetierError
from metier.store import Store
from metier.vault import Vault
from metier.workflow.context import Clock, utc
from metier.workflow.journal import Journal

__all__ = ["ExpiredRuns", "RunRetention", "RunRules", "Swept"]

_LOCK = 0x6D657469657231
_RUNS = 50
_ROWS = 1_000
_BLOBS_AFTER = timedelta(days=1)
_SECTION = ("days", "events_days", "flows", "projects")
_LONGEST = 36_500
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunRules:
    """How long runs are kept after their end: the section `runs` of metier.yaml."""

    days: int = 365
    """For runs of flows and projects that are not named."""
    events_days: int = 90
    """For events: a run that begins to wait later no longer finds them."""
    flows: Mapping[str, int] = field(default_factory=dict)
    """Days by name of the flow; before those of the project."""
    projects: Mapping[str, int] = field(default_factory=dict)
    """Days by id of the project."""

    @classmethod
    def from_yaml(cls, section: object) -> RunRules:
        """Read the section, or say which entry is wrong; what is left out keeps its value."""
        if section is None:
            return cls()
        entries = _mapping(section, "runs")
        for name in entries:
            if name not in _SECTION:
                raise ConfigError(f"runs in metier.yaml: unknown entry {name!r}: known are {', '.join(_SECTION)}")
        usual = cls()
        return cls(
            days=_days(entries.get("days", usual.days), "runs.days"),
            events_days=_days(entries.get("events_days", usual.events_days), "runs.events_days"),
            flows=_each(entries.get("flows"), "runs.flows"),
            projects=_each(entries.get("projects"), "runs.projects"),
        )


@dataclass(frozen=True, slots=True)
class ExpiredRuns:
    """Runs of one flow in one project that are due; what is under a legal hold is not in it."""

    flow: str
    project: str
    runs: int
    oldest: datetime


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep deleted, or with a dry run would delete."""

    runs: tuple[ExpiredRuns, ...]
    events: int
    blobs: int
    """Large values nothing named any more; a dry run does not count them."""


class RunRetention:
    """Applies the time runs are kept; of many workers, the one that has the lock does it."""

    def __init__(self, store: Store, vault: Vault, rules: RunRules | None = None, *, clock: Clock = utc) -> None:
        self.rules = rules or RunRules()
        """In force now; replaced when metier.yaml changes."""
        self._store = store
        self._journal = Journal(store, vault)
        self._queries = store.queries("engine")
        self._effects = store.queries("outbox")
        self._clock = clock

    async def older(self, project: str, days: int, *, dry_run: bool = False) -> tuple[ExpiredRuns, ...]:
        """Delete the runs of one project that have been over for so many days, or say which; holds have precedence."""
        if not 0 <= days <= _LONGEST:
            raise Invalid(f"cannot delete runs over for {days!r} days: give 0 to {_LONGEST}", param="older_than_days")
        which = {"now": self._clock(), "days": days, "flows": Jsonb({}), "projects": Jsonb({}), "project": project}
        found = await self._expired(which)
        while not dry_run and await self._queries.run("expire_runs", {**which, "most": _RUNS}):
            pass
        if not dry_run:
            await self._effects.run("drop_orphans")
        return found

    async def sweep(self, *, dry_run: bool = False) -> Swept | None:
        """Delete what is due in small transactions, so that nobody waits; None where another worker is at it."""
        if dry_run:
            return Swept(await self._expired(self._times(self._clock())), await self._old_events(), 0)
        async with self._store.connection() as connection:
            cursor = await connection.execute("SELECT pg_try_advisory_lock(%s) AS mine", (_LOCK,))
            row = await cursor.fetchone()
            if row is None or not row["mine"]:
                return None
            try:
                return await self._sweep()
            finally:
                await connection.execute("SELECT pg_advisory_unlock(%s)", (_LOCK,))

    async def run(
        self, beside: Callable[[], Awaitable[object]], every_s: float = 3600.0, first_s: float = 90.0
    ) -> None:
        """Sweep for ever, with one more thing to do each time; owned by the lifespan of the process."""
        await asyncio.sleep(first_s)
        while True:
            try:
                await beside()
                for expired in (await self.sweep() or Swept((), 0, 0)).runs:
                    _log.info("%s in %s: %d runs were due", expired.flow, expired.project, expired.runs)
            except (MetierError, psycopg.Error, TimeoutError) as error:
                _log.warning("runs that are old could not be deleted: %s", error)
            await asyncio.sleep(every_s)

    async def _sweep(self) -> Swept:
        now = self._clock()
        due = await self._expired(self._times(now))
        while await self._queries.run("expire_runs", {**self._times(now), "most": _RUNS}):
            pass
        await self._effects.run("drop_orphans")
        before = {"before": now - timedelta(days=self.rules.events_days), "most": _ROWS}
        events = await _all(lambda: self._queries.run("expire_events", before))
        blobs = await _all(lambda: self._journal.drop_blobs(now - _BLOBS_AFTER, _ROWS))
        return Swept(due, events, blobs)

    async def _expired(self, which: Mapping[str, object]) -> tuple[ExpiredRuns, ...]:
        rows = await self._queries.all("expired_runs", which)
        return tuple(ExpiredRuns(row["workflow"], row["project"], row["runs"], row["oldest"]) for row in rows)

    async def _old_events(self) -> int:
        before = self._clock() - timedelta(days=self.rules.events_days)
        row = await self._queries.one("old_events", {"before": before})
        return 0 if row is None else int(row["events"])

    def _times(self, now: datetime) -> dict[str, object]:
        rules = self.rules
        return {
            "now": now,
            "days": rules.days,
            "flows": Jsonb(dict(rules.flows)),
            "projects": Jsonb(dict(rules.projects)),
            "project": None,
        }


async def _all(batch: Callable[[], Awaitable[int]]) -> int:
    total = 0
    while deleted := await batch():
        total += deleted
    return total


def _each(section: object, where: str) -> dict[str, int]:
    if section is None:
        return {}
    return {str(name): _days(days, f"{where}.{name}") for name, days in _mapping(section, where).items()}


def _days(value: object, where: str) -> int:
    if type(value) is not int or not 1 <= value <= _LONGEST:
        raise ConfigError(f"{where} in metier.yaml is {value!r}: give a whole number of days from 1 on")
    return value


def _mapping(section: object, where: str) -> Mapping[object, object]:
    if not isinstance(section, Mapping):
        raise ConfigError(f"{where} in metier.yaml is a {type(section).__name__}: write a mapping")
    return section
