"""Files that clients bring and batches write: kept in sealed pieces, read in parts, deleted when their time is over."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, TypeAlias

from metier.batches.rules import Rules
from metier.calls import KeyId, Principal, ProjectId, new_id
from metier.errors import Broken, Conflict, Invalid, NotFound
from metier.store import Queries, Row, Store, Tx
from metier.vault import Vault
from metier.workflow.context import Clock, utc

__all__ = ["Files", "Purpose", "StoredFile", "Writing"]

Purpose: TypeAlias = Literal["batch", "batch_output", "user_data"]

_PIECE = 256 * 1024
_SEALED_FOR = "file"
_ARRIVING = timedelta(hours=6)
"""How long an upload may take before what came of it is deleted."""
_SHORTEST_S = 3_600
_LONGEST_NAME = 255


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file as its project sees it."""

    id: str
    project: ProjectId
    purpose: Purpose
    name: str
    bytes: int
    created_at: datetime
    expires_at: datetime


@dataclass(slots=True)
class Writing:
    """A file while it is written: takes bytes as they come and keeps them piece by piece."""

    id: str
    project: ProjectId
    workspace: str
    """The organisation under whose key it is sealed."""
    _queries: Queries
    _vault: Vault
    _tx: Tx | None = None
    size: int = 0
    _number: int = 0
    _held: bytearray = field(default_factory=bytearray)

    async def feed(self, data: bytes) -> None:
        """Take some more bytes."""
        self.size += len(data)
        self._held += data
        while len(self._held) >= _PIECE:
            await self._keep(bytes(self._held[:_PIECE]))
            del self._held[:_PIECE]

    async def end(self) -> None:
        """Keep what is left; the file is whole."""
        if self._held:
            await self._keep(bytes(self._held))
            self._held.clear()

    async def _keep(self, piece: bytes) -> None:
        bound = _place(self.id, self._number)
        # Compressing and sealing 256 kB takes milliseconds in which calls would wait.
        sealed = await asyncio.to_thread(
            lambda: self._vault.seal(_SEALED_FOR, zlib.compress(piece, 1), bound, self.workspace)
        )
        row = {"file": self.id, "number": self._number, "sealed": sealed}
        await self._queries.run("keep_piece", row, self._tx)
        self._number += 1


class Files:
    """Keeps files for the projects they belong to; another project is told that they do not exist."""

    def __init__(self, store: Store, vault: Vault, rules: Rules, *, clock: Clock = utc) -> None:
        self.rules = rules
        self._store = store
        self._vault = vault
        self._clock = clock
        self._queries = store.queries("files")

    async def begin(self, principal: Principal) -> Writing:
        """Open a file that arrives; nobody sees it before it is stored."""
        return await self._begin(principal.project, principal.organisation, principal.key_id, None)

    async def store(
        self, writing: Writing, name: str, purpose: Purpose, keep_s: int | None = None, *, tx: Tx | None = None
    ) -> StoredFile:
        """Make a whole file known to its project; one a client brought is refused where there is no room left."""
        if keep_s is not None and not _SHORTEST_S <= keep_s <= self.rules.keep_s:
            raise Invalid(
                f"a file cannot be kept for {keep_s!r} s: give {_SHORTEST_S} to {self.rules.keep_s} seconds",
                param="expires_after",
            )
        await writing.end()
        now, named = self._clock(), name[:_LONGEST_NAME].encode("utf-8", "replace")
        row = {
            "id": writing.id,
            "purpose": purpose,
            "name": self._vault.seal(_SEALED_FOR, named, writing.id, writing.workspace),
            "bytes": writing.size,
            "expires_at": now + timedelta(seconds=keep_s or self.rules.keep_s),
        }
        if tx is not None:
            return await self._known(row, tx)
        async with self._store.transaction() as own:
            # What a batch wrote was paid for, and is kept in any case.
            await self._queries.one("lock_project", {"project": writing.project}, own)
            held = await self._queries.one("held", {"project": writing.project, "now": now}, own)
            assert held is not None
            self._room(held, writing)
            return await self._known(row, own)

    async def discard(self, writing: Writing) -> None:
        """Forget a file that did not arrive whole."""
        await self._queries.run("drop", {"id": writing.id})

    async def compose(self, project: ProjectId, workspace: str, tx: Tx) -> Writing:
        """Open a file of an organisation that is written in a transaction: it exists with it, or not at all."""
        return await self._begin(project, workspace, None, tx)

    async def get(self, project: str, id: str) -> StoredFile:
        """Give a file of a project."""
        params = {"id": id, "project": project, "now": self._clock()}
        row = await self._queries.one("get", params) if id.isprintable() else None
        if row is None:
            raise _unknown(id)
        return self._stored(row)

    async def list(
        self,
        project: str,
        *,
        purpose: str | None = None,
        after: str | None = None,
        limit: int = 100,
        newest: bool = True,
    ) -> tuple[StoredFile, ...]:
        """Give one page of the files of a project."""
        for name, text in (("purpose", purpose), ("after", after)):
            if text is not None and not text.isprintable():
                raise Invalid(f"{name} is {text[:60]!r}, which names nothing here: leave it out", param=name)
        asked = {"project": project, "purpose": purpose, "after": after, "limit": limit, "now": self._clock()}
        return tuple(self._stored(row) for row in await self._queries.all("newest" if newest else "oldest", asked))

    async def delete(self, project: str, id: str) -> None:
        """Delete a file of a project for good, unless a batch still reads it."""
        if not id.isprintable():
            raise _unknown(id)
        async with self._store.transaction() as tx:
            if await self._queries.one("lock", {"id": id, "project": project, "now": self._clock()}, tx) is None:
                raise _unknown(id)
            reader = await self._queries.one("reader", {"id": id}, tx)
            if reader is not None:
                raise Conflict(f"the file {id!r} is read by the batch {reader['id']!r}: cancel it or wait for its end")
            await self._queries.run("drop", {"id": id}, tx)

    async def content(self, id: str, size: int, start: int = 0) -> AsyncGenerator[bytes, None]:
        """Give `size` bytes of a file from `start` on, piece by piece."""
        end = start + size
        for number in range(start // _PIECE, -(-end // _PIECE)):
            piece = await self._piece(id, number)
            first = number * _PIECE
            yield piece[max(start - first, 0) : end - first]

    async def extract(self, id: str, start: int, size: int) -> bytes:
        """Give a part of a file whole."""
        return b"".join([piece async for piece in self.content(id, size, start)])

    async def purge(self) -> int:
        """Delete files whose time is over and uploads nobody ended; says how many."""
        return await self._queries.run("purge", {"now": self._clock()})

    async def _begin(self, project: ProjectId, workspace: str, key: KeyId | None, tx: Tx | None) -> Writing:
        now, id = self._clock(), new_id("file")
        row = {"id": id, "project": project, "key_id": key or "", "now": now, "expires_at": now + _ARRIVING}
        await self._queries.run("begin", row, tx)
        return Writing(id, project, workspace, self._queries, self._vault, tx)

    async def _known(self, row: Row, tx: Tx) -> StoredFile:
        stored = await self._queries.one("stored", row, tx)
        if stored is None:
            raise Conflict(f"the file {row['id']!r} took too long to arrive and was given up: send it again")
        return self._stored(stored)

    async def _piece(self, id: str, number: int) -> bytes:
        row = await self._queries.one("piece", {"file": id, "number": number})
        if row is None:
            raise Broken(f"piece {number} of the file {id!r} is gone: it was deleted while it was read")
        sealed = row["sealed"]
        return await asyncio.to_thread(
            lambda: zlib.decompress(self._vault.open(_SEALED_FOR, sealed, _place(id, number)))
        )

    def _room(self, held: Row, writing: Writing) -> None:
        if held["files"] >= self.rules.project_files:
            raise Conflict(
                f"the project keeps {held['files']} files, as many as it may: delete some, or wait for their end"
            )
        if held["bytes"] + writing.size > self.rules.project_bytes:
            raise Conflict(
                f"the files of the project would pass {self.rules.project_mib} MiB: delete some, or wait for their end"
            )

    def _stored(self, row: Row) -> StoredFile:
        name = self._vault.open(_SEALED_FOR, row["name"], row["id"]).decode()
        return StoredFile(**{**row, "name": name})


def _place(id: str, number: int) -> str:
    return f"{id}/{number}"


def _unknown(id: str) -> NotFound:
    return NotFound(f"there is no file {id[:80]!r} in this project: GET /v1/files lists them", param="file_id")
