"""What the steps of a run gave: one fenced write per line, sealed, never given out to a worker that lost the run."""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal

import orjson
import psycopg
from psycopg_pool import PoolClosed

from metier.calls import JSON, RunId
from metier.errors import Broken, Conflict, Unavailable
from metier.store import Row, Store, Tx
from metier.vault import Vault
from metier.workflow.commands import Entry, EntryKind, Key

__all__ = ["CHANNEL", "Hold", "Journal", "Line", "LostRun", "opened", "pack", "sealed", "unpack", "unsealed"]

CHANNEL = "metier_runs"
"""Channel on which every journalled line and change of status is told; never with contents."""

_INLINE = 64 * 1024
_SURE_S = 1.0
"""For so long after a worker has seen that it holds a run nobody looks again."""
_PURPOSE = "journal"


class LostRun(Conflict):
    """The run was given to another worker, cancelled, or could not be written: this one must stop."""


@dataclass(slots=True)
class Hold:
    """A run as taken by one worker; every write names the epoch, so that older holders are refused."""

    run: RunId
    epoch: int
    seen: float = field(default_factory=time.monotonic, compare=False)
    """When the worker began to do what showed last that it holds the run."""
    workspace: str = field(default="", compare=False)
    """The organisation under whose key its values are sealed."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line to write."""

    path: str
    attempt: int
    kind: EntryKind
    value: JSON
    started_at: datetime
    duration_s: float = 0.0
    name: str = ""
    cost_eur: Decimal = Decimal(0)
    calls: int = 0

    def entry(self) -> Entry:
        """The same line as the interpreter reads it."""
        return Entry(
            path=self.path,
            attempt=self.attempt,
            name=self.name,
            kind=self.kind,
            value=self.value,
            at=self.started_at + timedelta(seconds=self.duration_s),
            cost_eur=self.cost_eur,
            calls=self.calls,
            started_at=self.started_at,
        )


def pack(value: JSON) -> bytes:
    """Turn a JSON value into compressed bytes."""
    return zlib.compress(orjson.dumps(value), 1)


def unpack(packed: bytes) -> JSON:
    """Turn compressed bytes back into the JSON value."""
    value: JSON = orjson.loads(zlib.decompress(packed))
    return value


def sealed(vault: Vault, run: RunId, what: str, value: JSON, workspace: str) -> bytes:
    """Seal a value that belongs to a run itself: its inputs, rights, output or error."""
    return vault.seal("run", pack(value), f"{run}/{what}", workspace)


def unsealed(vault: Vault, run: RunId, what: str, value: bytes) -> JSON:
    """Open what `sealed` made."""
    return unpack(vault.open("run", value, f"{run}/{what}"))


def opened(vault: Vault, run: RunId, what: str, value: bytes) -> dict[str, JSON]:
    """Open what `sealed` made of an object."""
    clear = unsealed(vault, run, what, value)
    if not isinstance(clear, dict):
        raise Broken(f"the {what} of run {run!r} are no object: {type(clear).__name__}")
    return clear


class Journal:
    """Writes and reads the journal of runs; owner of the tables `journal` and `blobs`."""

    def __init__(self, store: Store, vault: Vault, *, patience_s: float = 86_400.0) -> None:
        self._store = store
        self._vault = vault
        self._queries = store.queries("journal")
        self._patience_s = patience_s
        """How long a write is tried again while the database is away: what it holds was paid for.

        It holds its run meanwhile as long as nobody else saw it silent.
        """

    async def append(self, hold: Hold, lines: Sequence[Line], tx: Tx | None = None) -> bool:
        """Write lines for the holder of a run, or raise LostRun when it has lost it; say if somebody wants a pause.

        No lines at all only look whether it is held still, where that was not seen a moment ago.
        """
        if not lines:
            await self._sure(hold)
            return False
        sealed = [
            self._sealed(hold.run, (line.path, line.attempt, line.name), line.value, hold.workspace) for line in lines
        ]
        params: Row = {
            "run": hold.run,
            "epoch": hold.epoch,
            "paths": [line.path for line in lines],
            "attempts": [line.attempt for line in lines],
            "names": [line.name for line in lines],
            "kinds": [line.kind for line in lines],
            "values": [value for value, _, _ in sealed],
            "blobs": [digest for _, digest, _ in sealed],
            "costs": [line.cost_eur for line in lines],
            "calls": [line.calls for line in lines],
            "started": [line.started_at for line in lines],
            "durations": [line.duration_s for line in lines],
        }
        blobs = [blob for _, _, blob in sealed if blob is not None]
        if tx is not None:
            return await self._write(hold, params, blobs, tx)

        async def write() -> bool:
            if not blobs:
                return await self._write(hold, params, (), None)
            async with self._store.transaction() as own:
                return await self._write(hold, params, blobs, own)

        return await self._patiently(hold, f"journal {lines[-1].path!r}", write)

    async def load(self, run: RunId, after: int | None = None, tx: Tx | None = None) -> dict[Key, Entry]:
        """Read the journal of a run, opened, in the order it was written; or what came with signals after a count."""
        entries = (self._entry(run, row) for row in await self._queries.all("of_run", {"run": run, "after": after}, tx))
        return {entry.key: entry for entry in entries}

    async def tell(self, tx: Tx, run: RunId, line: Line, *, replace: bool = False) -> bool:
        """Write what came from outside the worker, and say if it was the first to say so.

        The caller has counted the signal on the row of the run in the same transaction, and so holds it.
        """
        whose = await self._workspace(run, tx)
        packed, digest, blob = self._sealed(run, (line.path, line.attempt, line.name), line.value, whose)
        if blob is not None:
            await self._queries.run("keep_blob", blob, tx)
        row = {
            "run": run,
            "path": line.path,
            "attempt": line.attempt,
            "name": line.name,
            "kind": line.kind,
            "value": packed,
            "blob": digest,
            "cost_eur": line.cost_eur,
            "calls": line.calls,
            "replace": replace,
        }
        return bool(await self._queries.run("tell", row, tx))

    async def blob(self, tx: Tx, value: JSON, workspace: str) -> bytes:
        """Keep a value that several runs share once, and give what it is found by."""
        clear = orjson.dumps(value)
        found = self._blob(clear, zlib.compress(clear, 1), workspace)
        await self._queries.run("keep_blob", found, tx)
        return bytes(found["digest"])

    async def set_aside(self, tx: Tx, run: RunId, keys: Sequence[Key]) -> int:
        """Move lines out of the journal, to where people still see them; give the number of this cut."""
        row = await self._queries.one("cuts", {"run": run}, tx)
        cut = int(row["cuts"]) + 1 if row is not None else 1
        columns = {
            "paths": [path for path, _, _ in keys],
            "attempts": [attempt for _, attempt, _ in keys],
            "names": [name for _, _, name in keys],
        }
        await self._queries.run("set_aside", {"run": run, "cut": cut, **columns}, tx)
        return cut

    async def aside(self, run: RunId) -> list[tuple[int, Entry]]:
        """Read what was set aside of a run, opened, with the number of the cut."""
        return [(row["cut"], self._entry(run, row)) for row in await self._queries.all("aside", {"run": run})]

    async def graft(self, tx: Tx, run: RunId, entries: Iterable[Entry]) -> None:
        """Write lines of another run as lines of one that has not begun; they cost it nothing."""
        whose = await self._workspace(run, tx)
        for entry in entries:
            value, digest, blob = self._sealed(run, entry.key, entry.value, whose)
            if blob is not None:
                await self._queries.run("keep_blob", blob, tx)
            began = entry.started_at or entry.at
            row = {
                "run": run,
                "path": entry.path,
                "attempt": entry.attempt,
                "name": entry.name,
                "kind": entry.kind,
                "value": value,
                "blob": digest,
                "started_at": began,
                "duration_s": (entry.at - began).total_seconds(),
            }
            await self._queries.run("graft", row, tx)

    async def drop_blobs(self, before: datetime, most: int) -> int:
        """Delete large values that are old and that nothing names any more."""
        return await self._queries.run("drop_blobs", {"before": before, "most": most})

    async def _sure(self, hold: Hold) -> None:
        """A worker that stood still may have been taken for dead: then another one does what it is about to do."""
        if time.monotonic() - hold.seen < _SURE_S:
            return

        async def look() -> bool:
            return await self._queries.one("held", {"run": hold.run, "epoch": hold.epoch}) is not None

        if not await self._patiently(hold, "look", look):
            raise LostRun(f"run {hold.run!r} is no longer held under epoch {hold.epoch}: this worker stops here")

    async def _patiently(self, hold: Hold, what: str, work: Callable[[], Awaitable[bool]]) -> bool:
        """Do something that shows that the run is held; again and again while the database is away."""
        deadline, pause = time.monotonic() + self._patience_s, 0.1
        while True:
            began = time.monotonic()
            try:
                found = await work()
                hold.seen = began
                return found
            except (psycopg.OperationalError, Unavailable) as error:
                if time.monotonic() + pause > deadline or isinstance(error, PoolClosed):
                    raise LostRun(
                        f"could not {what} for {hold.run!r} within {self._patience_s:g} s: {error}; "
                        "the run goes on from its last line once the database is back"
                    ) from error
            await asyncio.sleep(pause)
            pause = min(pause * 2, 2.0)

    async def _write(self, hold: Hold, params: Row, blobs: Sequence[Row], tx: Tx | None) -> bool:
        for blob in blobs:
            await self._queries.run("keep_blob", blob, tx)
        number = len(params["paths"])
        if number == 1:
            # The same for one line, which most writes are of: half the work for the client, and less for the server.
            params = {name: value[0] if isinstance(value, list) else value for name, value in params.items()}
        rows = await self._queries.all("append" if number != 1 else "append_one", params, tx)
        if len(rows) != number:
            raise LostRun(f"run {hold.run!r} is no longer held under epoch {hold.epoch}: this worker stops here")
        return any(row["pausing"] for row in rows)

    async def _workspace(self, run: RunId, tx: Tx) -> str:
        """Say whose run it is, as its rights are sealed."""
        row = await self._queries.one("rights", {"run": run}, tx)
        return "" if row is None else self._vault.workspace(row["rights"])

    def _sealed(
        self, run: RunId, key: Key, value: JSON, workspace: str
    ) -> tuple[bytes | None, bytes | None, Row | None]:
        """Give the sealed value, or the digest of a blob and the blob itself when it is large."""
        clear = orjson.dumps(value)
        packed = zlib.compress(clear, 1)
        if len(packed) <= _INLINE:
            return self._vault.seal(_PURPOSE, packed, _place(run, key), workspace), None, None
        blob = self._blob(clear, packed, workspace)
        return None, blob["digest"], blob

    def _blob(self, clear: bytes, packed: bytes, workspace: str) -> Row:
        """Give the row of a large value; the same one in two workspaces is two, each under a key of its own."""
        # Those from before there were keys of workspaces keep the digest they have.
        digest = self._vault.digest(_PURPOSE, workspace.encode() + b"\0" + clear if workspace else clear)
        sealed = self._vault.seal("blob", packed, digest.hex(), workspace)
        return {"digest": digest, "sealed": sealed, "size": len(clear)}

    def _entry(self, run: RunId, row: Row) -> Entry:
        key: Key = (row["path"], row["attempt"], row["name"])
        if row["blob"] is not None:
            packed = self._vault.open("blob", row["sealed"], bytes(row["blob"]).hex())
        else:
            packed = self._vault.open(_PURPOSE, row["value"], _place(run, key))
        return Entry(
            path=row["path"],
            attempt=row["attempt"],
            name=row["name"],
            kind=row["kind"],
            value=unpack(packed),
            at=row["started_at"] + timedelta(seconds=row["duration_s"]),
            cost_eur=row["cost_eur"],
            calls=row["calls"],
            started_at=row["started_at"],
        )


def _place(run: RunId, key: Key) -> str:
    path, attempt, name = key
    return f"{run}/{path}/{attempt}/{name}"
