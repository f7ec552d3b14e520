"""What agents remember together: exchanges under a key, sealed, for a time, shared by steps and runs of a project."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import orjson

from metier.calls import JSON, ConversationId, Principal
from metier.record.erasure import Target
from metier.store import Store
from metier.vault import Vault, member
from metier.workflow.engine import StepContext

__all__ = ["DAYS", "Exchange", "Memory"]

DAYS: Final = 90
"""How long an exchange is remembered, unless its system keeps contents for less."""

_PURPOSE = "conversation"
_MOST = 50
"""Exchanges given back, the newest."""
_MOST_CHARACTERS = 100_000


@dataclass(frozen=True, slots=True)
class Exchange:
    """What an agent was told in one step, and what it answered in the end."""

    agent: str
    message: str
    answer: str


class Memory:
    """Keeps exchanges; a key is that of one project and system, read by runs that have all groups of who wrote it."""

    def __init__(
        self, store: Store, vault: Vault, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._queries = store.queries("conversation")
        self._vault = vault
        self._clock = clock

    def name(self, principal: Principal, key: str | None) -> ConversationId | None:
        """Give the name under which calls of a conversation share their placeholders; None without a key."""
        return None if key is None else ConversationId(f"agents-{self._digest(principal, key)[:40]}")

    async def before(self, principal: Principal, key: str) -> list[JSON]:
        """Give what was said so far under a key, the oldest first: the newest exchanges that fit."""
        digest = self._digest(principal, key)
        which = {"conversation": digest, "groups": sorted(principal.groups), "now": self._clock(), "most": _MOST}
        found: list[JSON] = []
        size = 0
        for row in await self._queries.all("newest", which):
            clear = self._vault.open(_PURPOSE, row["sealed"], f"{digest}/{row['id']}")
            size += len(clear)
            if found and size > _MOST_CHARACTERS:
                break
            found.append(orjson.loads(clear))
        return found[::-1]

    async def keep(self, context: StepContext, key: str, person: str | None, exchange: Exchange) -> bool:
        """Keep an exchange, once for a step; False where it was there, or its system keeps no contents."""
        principal = context.principal
        digest, id = self._digest(principal, key), f"{context.run}/{context.path}/{context.attempt}"
        clear = orjson.dumps({"agent": exchange.agent, "message": exchange.message, "answer": exchange.answer})
        row = {
            "id": id,
            "organisation": principal.organisation,
            "project": principal.project,
            "system": principal.system,
            "groups": sorted(principal.groups),
            "conversation": digest,
            "subject": member(self._vault, principal.organisation, person) if person else principal.project,
            "run": context.run,
            "sealed": self._vault.seal(_PURPOSE, clear, f"{digest}/{id}", principal.organisation),
            "now": self._clock(),
            "days": DAYS,
        }
        return bool(await self._queries.run("keep", row))

    async def purge(self) -> int:
        """Delete what is over its time and under no legal hold, and say how much that was."""
        return await self._queries.run("purge", {"now": self._clock()})

    async def erase(self, organisation: str, subject: str | None, *, dry_run: bool = False) -> int:
        """Delete what was said with a subject (digest of an end user, or a project), and say how much that was."""
        which = {"organisation": organisation, "subject": subject}
        if not dry_run:
            return await self._queries.run("erase", which)
        row = await self._queries.one("count_erasable", which)
        return 0 if row is None else int(row["exchanges"])

    async def forget(self, target: Target, by: str, dry_run: bool) -> int:
        """Take part in an erasure: what was said with its person, or in its project with nobody named."""
        return await self.erase(target.organisation, target.subject, dry_run=dry_run)

    def _digest(self, principal: Principal, key: str) -> str:
        place = orjson.dumps([principal.organisation, principal.project, principal.system, key])
        return self._vault.digest(_PURPOSE, place).hex()
