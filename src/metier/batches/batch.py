"""Batches as their clients see them: made, looked at, listed, cancelled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Literal, TypeAlias

import orjson

from metier.batches.files import Files
from metier.batches.rules import Rules
from metier.calls import KeyId, Principal, ProjectId, Range, RunId, new_id
from metier.errors import Conflict, Invalid, NotFound
from metier.store import Row, Store, Tx
from metier.vault import Vault
from metier.window import ALWAYS, Window
from metier.workflow.context import Clock, utc
from metier.workflow.dispatch import Dispatch, Pace

__all__ = ["SEALED_FOR", "WINDOW_KEY", "Batch", "Batches", "Status", "Totals"]

Status: TypeAlias = Literal[
    "validating", "in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled"
]

SEALED_FOR = "batch"
"""What metadata, names and answers of batches are sealed for."""
WINDOW_KEY = "metier_window"
"""The entry of a batch's metadata that says when its calls may be made."""

_LIFE = timedelta(hours=24)
_SHORTEST_S = 3_600


@dataclass(frozen=True, slots=True)
class Totals:
    """What the calls of a batch took, as recorded; tries that gave no answer count too."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cost_eur: Decimal = Decimal(0)
    energy_kwh: Range | None = None
    """None where it could not be estimated."""
    carbon_g: Range | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch as its client sees it."""

    id: str
    project: ProjectId
    key_id: KeyId
    endpoint: str
    input_file: str
    status: Status
    window: str
    """When its calls may be made; `always` without one."""
    metadata: Mapping[str, str]
    paused: str | None
    """Code of what it waits for: the window, or the error that was met."""
    resume_at: datetime | None
    errors: tuple[Mapping[str, Any], ...]
    """Why it failed: code, message, param and line."""
    output_file: str | None
    error_file: str | None
    total: int
    done: int
    failed: int
    created_at: datetime
    expires_at: datetime
    in_progress_at: datetime | None
    finalizing_at: datetime | None
    cancelling_at: datetime | None
    ended_at: datetime | None
    totals: Totals = field(default_factory=Totals)

    @property
    def over(self) -> bool:
        """Whether nothing more happens to it."""
        return self.status in ("completed", "failed", "expired", "cancelled")


class Batches:
    """Makes and shows batches; the work is done by whoever runs `metier.batches.runner`."""

    @classmethod
    def built(cls, store: Store, vault: Vault, section: object, pace: Pace | None = None) -> Batches:
        """Make what the section `batches` of metier.yaml says."""
        return cls(store, vault, Files(store, vault, Rules.from_yaml(section)), pace=pace)

    def __init__(
        self, store: Store, vault: Vault, files: Files, *, pace: Pace | None = None, clock: Clock = utc
    ) -> None:
        self.files = files
        self.store = store
        self.vault = vault
        self.clock = clock
        self.dispatch = Dispatch(store, pace, queue="batches", task="metier.batch", hold="hold_batch")
        self._queries = store.queries("batches")

    @property
    def rules(self) -> Rules:
        """What the house allows."""
        return self.files.rules

    async def create(
        self,
        principal: Principal,
        endpoint: str,
        input_file: str,
        metadata: Mapping[str, str] | None = None,
        keep_s: int | None = None,
    ) -> Batch:
        """Make a batch of a file of the caller's project; calls are made in the name of the caller's key."""
        asked = dict(metadata or {})
        window = Window.parse(asked.get(WINDOW_KEY, self.rules.window), f"metadata.{WINDOW_KEY}")
        if keep_s is not None and not _SHORTEST_S <= keep_s <= self.rules.keep_s:
            raise Invalid(
                f"results cannot be kept for {keep_s!r} s: give {_SHORTEST_S} to {self.rules.keep_s} seconds",
                param="output_expires_after",
            )
        file = await self.files.get(principal.project, input_file)
        if file.purpose != "batch":
            raise Invalid(
                f"the file {input_file!r} was sent for {file.purpose!r}: send it again with the purpose 'batch'",
                param="input_file_id",
            )
        id, now = new_id("batch"), self.clock()
        row = {
            "id": id,
            "project": principal.project,
            "key_id": principal.key_id,
            "endpoint": endpoint,
            "input_file": input_file,
            "quiet_hours": "" if window is None else str(window),
            "metadata": self.vault.seal(SEALED_FOR, orjson.dumps(asked), f"{id}/metadata", principal.organisation),
            "keep_s": keep_s or self.rules.keep_s,
            "now": now,
            "expires_at": now + _LIFE,
        }
        async with self.store.transaction() as tx:
            await self._queries.one("lock_project", {"project": principal.project}, tx)
            counted = await self._queries.one("open", {"project": principal.project}, tx)
            if counted is not None and counted["batches"] >= self.rules.open:
                raise Conflict(
                    f"the project has {counted['batches']} batches that are not over, as many as it may: wait for one"
                )
            if await self._queries.one("create", row, tx) is None:
                raise NotFound(f"the file {input_file!r} was deleted just now: send it again", param="input_file_id")
            await self.dispatch.defer(tx, RunId(id))
        return await self.get(id, principal.project)

    async def get(self, id: str, project: str | None = None) -> Batch:
        """Give a batch, with what it took so far; of a project, or of any."""
        row = await self._queries.one("get", {"id": id, "project": project}) if id.isprintable() else None
        if row is None:
            raise NotFound(f"there is no batch {id[:80]!r} here: list the batches to find its id", param="batch_id")
        return (await self._shown([row]))[0]

    async def list(self, project: str | None = None, *, after: str | None = None, limit: int = 20) -> tuple[Batch, ...]:
        """Give one page of batches, newest first; the last one's id is the `after` of the next page."""
        if not 1 <= limit <= 100:
            raise Invalid(f"cannot list {limit!r} batches: ask for 1 to 100", param="limit")
        if after is not None and not after.isprintable():
            raise Invalid(f"cannot list the batches after {after[:60]!r}: give the id of a batch", param="after")
        asked = {"project": project, "after": after, "limit": limit}
        return await self._shown(await self._queries.all("page", asked))

    async def cancel(self, id: str, project: str | None = None) -> Batch:
        """Ask a batch to end: calls under way are waited for, and what was answered is given."""
        found = await self.get(id, project)
        async with self.store.transaction() as tx:
            if await self._queries.run("cancel", {"id": id, "now": self.clock()}, tx):
                await self._hasten(tx, id)
            elif found.status not in ("cancelling", "cancelled"):
                now = await self.get(id, project)
                raise Conflict(f"the batch {id!r} is {now.status!r}: there is nothing left to cancel")
        return await self.get(id, project)

    async def _hasten(self, tx: Tx, id: str) -> None:
        """Give a batch its turn now; the worker that is at it, if one is, notices by itself."""
        await self._queries.all("withdraw", {"id": id}, tx)
        if await self._queries.one("held", {"id": id}, tx) is None:
            await self.dispatch.defer(tx, RunId(id))

    async def _shown(self, rows: Sequence[Row]) -> tuple[Batch, ...]:
        sums = await self._queries.all("totals", {"ids": [row["id"] for row in rows]})
        totals = {row["batch"]: _totals(row) for row in sums}
        return tuple(self._batch(row, totals.get(row["id"], Totals())) for row in rows)

    def _batch(self, row: Row, totals: Totals) -> Batch:
        id = row["id"]
        errors = (
            () if row["errors"] is None else orjson.loads(self.vault.open(SEALED_FOR, row["errors"], f"{id}/errors"))
        )
        shown = {
            **row,
            "metadata": orjson.loads(self.vault.open(SEALED_FOR, row["metadata"], f"{id}/metadata")),
            "errors": tuple(errors),
            "window": row["quiet_hours"] or ALWAYS,
            "totals": totals,
        }
        del shown["quiet_hours"]
        return Batch(**shown)


def _totals(row: Row) -> Totals:
    def between(measure: str, unit: str) -> Range | None:
        low, high = row[f"{measure}_low_{unit}"], row[f"{measure}_high_{unit}"]
        return None if low is None or high is None else Range(low, high)

    return Totals(
        calls=row["calls"],
        input_tokens=row["input_tokens"],
        output_tokens=row["output_tokens"],
        cached_tokens=row["cached_tokens"],
        cost_eur=row["cost_eur"],
        energy_kwh=between("energy", "kwh"),
        carbon_g=between("carbon", "g"),
    )
