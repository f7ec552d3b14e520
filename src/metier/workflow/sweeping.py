"""What the dates of tasks bring about: reminders, other people, higher levels, and answers held ready."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from metier.calls import JSON
from metier.errors import Broken, Conflict, Invalid
from metier.store import Row, Store
from metier.vault import Vault
from metier.workflow.commands import FALLBACK
from metier.workflow.context import Clock
from metier.workflow.corrections import Corrections
from metier.workflow.settling import Settling
from metier.workflow.tasks import TaskId, opened

__all__ = ["Sweep", "Swept"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Swept:
    """What one look at the dates of tasks has done."""

    reminded: tuple[TaskId, ...]
    reassigned: tuple[TaskId, ...]
    expired: tuple[TaskId, ...]
    escalated: tuple[TaskId, ...] = ()


class Sweep:
    """Looks at the dates of tasks; any worker may do it at any time."""

    def __init__(self, store: Store, vault: Vault, settling: Settling, corrections: Corrections, clock: Clock) -> None:
        self._vault = vault
        self._settling = settling
        self._corrections = corrections
        self._queries = store.queries("review")
        self._clock = clock

    async def once(self) -> Swept:
        """Do what is due by now."""
        now = {"now": self._clock()}
        reminded = await self._queries.all("remind", now)
        reassigned = await self._queries.all("reassign", now)
        escalated = await self._queries.all("escalate", now)
        await self._corrections.purge()
        expired: list[TaskId] = []
        for row in await self._queries.all("overdue", now):
            try:
                await self._settling.settle(row, self._late(row))
            except Conflict:
                continue
            except (Invalid, Broken) as error:
                _log.warning("task %s is late and its answer cannot be used: %s", row["id"], error)
                await self._queries.run("misfit", {"id": row["id"], "assignee": FALLBACK, **now})
                continue
            expired.append(TaskId(row["id"]))
        return Swept(_ids(reminded), _ids(reassigned), tuple(expired), _ids(escalated))

    def _late(self, row: Row) -> JSON:
        """Give the answer a late task holds ready; tasks opened by earlier versions have it in the clear."""
        payload = opened(self._vault, TaskId(row["id"]), "payload", row["payload"])
        clear: JSON = row["on_timeout"]["output"]
        return payload.get("late", clear) if isinstance(payload, dict) else clear


def _ids(rows: Sequence[Row]) -> tuple[TaskId, ...]:
    return tuple(TaskId(row["id"]) for row in rows)
