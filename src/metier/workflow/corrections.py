"""What people changed in drafts before they let them go, kept as examples for prompts and training, for a time."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from metier.calls import JSON, RunId, new_id
from metier.errors import Invalid
from metier.store import Row, Store, Tx
from metier.vault import Vault
from metier.workflow.context import Clock, utc
from metier.workflow.definition import Workflow
from metier.workflow.journal import pack, unpack
from metier.workflow.reviewer import Reviewer, known_as

__all__ = ["KEPT", "Correction", "Corrections"]

KEPT = timedelta(days=365)
"""How long a correction is kept, unless the house says otherwise."""

_PURPOSE = "correction"
_STEP = re.compile(r"steps\.([a-z][a-z0-9_]*)")
_PAGE_MAX = 1_000


class _Target(Protocol):
    """What an erasure is after; exactly one of person, project and call is given."""

    @property
    def organisation(self) -> str: ...
    @property
    def person(self) -> str | None: ...
    @property
    def project(self) -> str | None: ...
    @property
    def call(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Correction:
    """One draft as it was, and as a person let it go."""

    id: str
    run: RunId
    workflow: str
    definition: str
    """Hash of the definition the run is pinned to."""
    path: str
    prompt: str | None
    """Path of the prompt that wrote the draft; None where a step without a prompt gave it."""
    shown: JSON
    """What the reviewer saw beside the draft: what it answers and what it rests on."""
    original: JSON
    edited: JSON
    by: str
    made_at: datetime
    expires_at: datetime


class Corrections:
    """Keeps corrections sealed, gives them out, and forgets them by age and by person."""

    def __init__(self, store: Store, vault: Vault, *, kept: timedelta = KEPT, clock: Clock = utc) -> None:
        self._vault = vault
        self._queries = store.queries("corrections")
        self._kept = kept
        self._clock = clock

    async def add(
        self, tx: Tx, row: Row, payload: Mapping[str, JSON], edited: JSON, by: Reviewer, workflow: Workflow
    ) -> None:
        """Keep a correction in the transaction that decides its task."""
        id, now = new_id("correction"), self._clock()
        kept: JSON = {"shown": payload.get("show"), "original": payload.get("edit"), "edited": edited}
        found = {
            "id": id,
            "task": row["id"],
            "run": row["run"],
            "project": row["project"],
            "workflow": row["workflow"],
            "definition": workflow.hash,
            "path": row["path"],
            "prompt": _prompt(workflow, row["path"]),
            "contents": self._vault.seal(_PURPOSE, pack(kept), id, self._vault.workspace(row["payload"])),
            "by": by.name,
            "by_id": by.id,
            "made_at": now,
            "expires_at": now + self._kept,
        }
        await self._queries.run("add", found, tx)

    async def list(
        self, *, workflow: str | None = None, after: str | None = None, limit: int = 50, project: str | None = None
    ) -> tuple[Correction, ...]:
        """Give corrections, of one project where it is named, oldest first."""
        if not 1 <= limit <= _PAGE_MAX:
            raise Invalid(f"cannot list {limit!r} corrections: ask for 1 to {_PAGE_MAX}", param="limit")
        params = {"workflow": workflow, "after": after, "limit": limit, "project": project}
        return tuple(self._correction(row) for row in await self._queries.all("page", params))

    async def get(self, id: str, project: str | None = None) -> Correction | None:
        """Give one correction, or None: it is gone, or of another project than the one named."""
        row = await self._queries.one("get", {"id": id, "project": project})
        return None if row is None else self._correction(row)

    async def purge(self) -> int:
        """Delete those whose time is over, and say how many."""
        return await self._queries.run("purge", {"now": self._clock()})

    async def erase(self, target: _Target, by: str, dry_run: bool) -> int:
        """Delete, or only count, what an erasure of a person, of a project or of a call reaches."""
        which = {
            "organisation": target.organisation,
            "person": target.person,
            "project": target.project,
            "call": target.call,
        }
        if dry_run:
            row = await self._queries.one("reached", which)
            return 0 if row is None else int(row["found"])
        return await self._queries.run("erase", which)

    def _correction(self, row: Row) -> Correction:
        found = unpack(self._vault.open(_PURPOSE, row["contents"], row["id"]))
        kept: Mapping[str, JSON] = found if isinstance(found, dict) else {}
        return Correction(
            id=row["id"],
            run=RunId(row["run"]),
            workflow=row["workflow"],
            definition=row["definition"],
            path=row["path"],
            prompt=row["prompt"],
            shown=kept.get("shown"),
            original=kept.get("original"),
            edited=kept.get("edited"),
            by=known_as(row["by_name"], row["by_id"]),
            made_at=row["made_at"],
            expires_at=row["expires_at"],
        )


def _prompt(workflow: Workflow, path: str) -> str | None:
    """The prompt of the step whose output was edited, where the expression of the draft names one."""
    step = workflow.step(path.rsplit(".", 1)[-1])
    config = step.config if step is not None and isinstance(step.config, dict) else {}
    named = _STEP.match(str(config.get("edit") or ""))
    writer = workflow.step(named[1]) if named is not None else None
    settings = writer.config if writer is not None and isinstance(writer.config, dict) else {}
    prompt = settings.get("prompt")
    return prompt if isinstance(prompt, str) else None
