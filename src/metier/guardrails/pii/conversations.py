"""Keeps the tables of conversations in PostgreSQL: sealed, allocated under a lock, forgotten after a while."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import TypeVar

from metier.calls import ConversationId, ProjectId, new_id
from metier.errors import Broken
from metier.guardrails.pii.kinds import Kind
from metier.guardrails.pii.placeholders import Code
from metier.guardrails.pii.table import Entry, Table
from metier.store import Row, Store
from metier.vault import Vault

__all__ = ["Conversations"]

_PURPOSE = "pseudonyms"
_T = TypeVar("_T")


class Conversations:
    """The tables of placeholders of all conversations, one row per spelling of a value."""

    def __init__(self, store: Store, vault: Vault, ttl: timedelta, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._vault = vault
        self._ttl = ttl
        self._clock = clock
        self._queries = store.queries("pseudonyms")

    async def load(self, project: ProjectId, conversation: ConversationId) -> Table:
        """Read the table of a conversation without a lock, and keep it alive; an expired one is empty."""
        now = self._clock()
        owner = {"project": project, "conversation": conversation}
        rows = await self._queries.all("load", {**owner, "now": now})
        if rows:
            end = {"expires_at": now + self._ttl, "before": now + self._ttl / 2, "now": now}
            await self._queries.run("prolong", {**owner, **end})
        return Table(self._entry(f"{project}/{conversation}", row) for row in rows)

    async def allocate(self, project: ProjectId, conversation: ConversationId, mask: Callable[[Table], _T]) -> _T:
        """Let `mask` add values to the table of a conversation, alone with it, and keep what it added."""
        now = self._clock()
        owner = {"project": project, "conversation": conversation}
        end = now + self._ttl
        async with self._store.transaction() as tx:
            claimed = await self._queries.one("claim", {**owner, "epoch": new_id("tbl"), "expires_at": end}, tx)
            if claimed is None:
                raise Broken(f"could not claim the placeholders of conversation {conversation!r}; try the call again")
            epoch: str = claimed["epoch"]
            if claimed["expires_at"] <= now:
                epoch = new_id("tbl")
                await self._queries.run("clear", owner, tx)
            await self._queries.run("renew", {**owner, "epoch": epoch, "expires_at": end}, tx)
            rows = await self._queries.all("load", {**owner, "now": now}, tx)
            scope = f"{project}/{conversation}"
            table = Table(self._entry(scope, row) for row in rows)
            masked = mask(table)
            if table.fresh:
                kept = [{**owner, **self._row(scope, epoch, entry)} for entry in table.fresh]
                await self._queries.many("keep", kept, tx)
        return masked

    async def forget(self, which: Sequence[tuple[str, str]]) -> int:
        """Delete the placeholders of some conversations; their old codes then stand for nothing."""
        return await self._queries.run("forget", _named(which))

    async def remembered(self, which: Sequence[tuple[str, str]]) -> int:
        """Count the tables that `forget` would delete."""
        row = await self._queries.one("remembered", _named(which))
        return 0 if row is None else int(row["tables"])

    async def purge(self) -> int:
        """Delete every table whose time is over, and tell how many."""
        return await self._queries.run("purge", {"now": self._clock()})

    def _entry(self, scope: str, row: Row) -> Entry:
        code = Code(Kind(row["kind"]), row["ordinal"], row["variant"])
        clear = self._vault.open(_PURPOSE, row["sealed"], f"{scope}/{row['epoch']}/{code}")
        return Entry(code, clear.decode())

    def _row(self, scope: str, epoch: str, entry: Entry) -> dict[str, object]:
        code, surface = entry.code, entry.surface
        return {
            "kind": code.kind.value,
            "ordinal": code.ordinal,
            "variant": code.variant,
            "spelling": self._vault.digest(_PURPOSE, f"{scope}\x00{epoch}\x00{code.kind}\x00{surface}".encode()),
            "sealed": self._vault.seal(_PURPOSE, surface.encode(), f"{scope}/{epoch}/{code}"),
        }


def _named(which: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    return {"projects": [project for project, _ in which], "conversations": [name for _, name in which]}
