"""What a worker writes about the batch it holds: every write names the epoch, so that an older holder is refused."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeAlias

import orjson
import psycopg

from metier.batches.batch import SEALED_FOR, Status
from metier.calls import KeyId, ProjectId, RunId
from metier.errors import Conflict, Unavailable
from metier.store import Queries, Row, Store, Tx
from metier.vault import Vault
from metier.workflow.dispatch import Dispatch

__all__ = ["Held", "Line", "LostBatch", "Noted", "Outcome", "Progress", "Result"]

Outcome: TypeAlias = Literal["done", "failed"]


class LostBatch(Conflict):
    """The batch was given to another worker, or could not be written: this one must stop."""


@dataclass(frozen=True, slots=True)
class Held:
    """A batch as taken by one worker."""

    id: str
    project: ProjectId
    organisation: str
    """Whose the project is: what is sealed for the batch is sealed under its key."""
    key_id: KeyId
    endpoint: str
    input_file: str
    status: Status
    epoch: int
    quiet_hours: str
    keep_s: int
    stalls: int
    ending: Status | None
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Line:
    """A line taken to be called."""

    number: int
    start: int
    size: int
    custom_id: str
    begun: int
    """How often a call for it was begun and not heard of again, this one included."""
    tries: int
    outages: int
    """How often it was given back because nobody answered."""


@dataclass(frozen=True, slots=True)
class Noted:
    """A line that was checked: to be called, or with the line of the error file that says why not."""

    number: int
    start: int
    size: int
    custom_id: str | None
    error: bytes | None


@dataclass(frozen=True, slots=True)
class Result:
    """How a line stands at the end."""

    number: int
    outcome: Outcome | None
    """None when it was never called."""
    custom_id: str | None
    answer: bytes | None


class Progress:
    """Takes a batch and writes what becomes of it; owner of `batch_lines`."""

    def __init__(self, store: Store, vault: Vault, dispatch: Dispatch, *, patience_s: float = 60.0) -> None:
        self._store = store
        self._vault = vault
        self._dispatch = dispatch
        self._queries: Queries = store.queries("batches")
        self._patience_s = patience_s
        """How long a write is tried again while the database is away; what it holds was paid for."""

    async def take(self, id: str) -> Held | None:
        """Take a batch that is not over, from whoever died with it; None when there is nothing to do."""
        async with self._store.transaction() as tx:
            row = await self._queries.one("take", {"id": id}, tx)
            if row is None:
                return None
            await self._queries.run("reopen", {"id": id}, tx)
            return Held(**row)

    async def clear(self, held: Held) -> None:
        """Forget the lines that were noted before the worker died that read them."""
        await self._queries.run("clear", {"id": held.id})

    async def note(self, held: Held, lines: Sequence[Noted]) -> bool:
        """Write checked lines; says whether the batch is still being validated by this worker."""
        row = {
            **_mine(held),
            "numbers": [line.number for line in lines],
            "starts": [line.start for line in lines],
            "sizes": [line.size for line in lines],
            "names": [_sealed_name(self._vault, held, line.number, line.custom_id) for line in lines],
            "states": ["todo" if line.error is None else "failed" for line in lines],
            "answers": [None if line.error is None else self._sealed(held, line.number, line.error) for line in lines],
        }
        return await self._queries.run("note", row) == len(lines)

    async def begin(self, held: Held, now: datetime) -> bool:
        """Say that every line is known; False when the batch was cancelled or lost meanwhile."""
        return bool(await self._queries.run("begin", {**_mine(held), "now": now}))

    async def claim(self, held: Held, most: int, after: int) -> Line | None:
        """Take the next line behind `after`, or one given back, where the project has a place left."""
        asked = {**_mine(held), "project": held.project, "most": most}
        async with self._store.transaction() as tx:
            await self._queries.one("lock_project", {"project": held.project}, tx)
            row = await self._queries.one("claim", {**asked, "after": after}, tx)
            if row is None:
                row = await self._queries.one("claim_again", asked, tx)
        if row is None:
            return None
        name = self._vault.open(SEALED_FOR, row.pop("name"), _name(held, row["number"])).decode()
        return Line(**row, custom_id=name)

    async def standing(self, held: Held) -> tuple[Status, Status | None, int]:
        """Give status, ending and lines still to call, or raise LostBatch."""
        row = await self._queries.one("standing", _mine(held))
        if row is None:
            raise LostBatch(f"the batch {held.id!r} is held by another worker: this one stops here")
        return row["status"], row["ending"], row["todo"]

    async def keep(self, held: Held, line: Line, outcome: Outcome, answer: bytes) -> None:
        """Keep what came back for a line, through an outage of the database."""
        sealed = self._sealed(held, line.number, answer)
        row = {**_mine(held), "number": line.number, "state": outcome, "answer": sealed}
        if not await self._patiently(lambda: self._queries.run("keep", row)):
            raise LostBatch(f"line {line.number} of {held.id!r} was given to another worker: this one stops here")

    async def release(self, held: Held, line: Line, *, outage: bool) -> None:
        """Give a line back for which there is no answer."""
        row = {**_mine(held), "number": line.number, "outage": int(outage)}
        await self._patiently(lambda: self._queries.run("release", row))

    async def flow(self, held: Held) -> None:
        """Say that calls are answered again."""
        await self._queries.run("flow", _mine(held))

    async def pause(self, held: Held, why: str, at: datetime, stalls: int) -> bool:
        """Put the batch aside until a time; False when it was cancelled or lost meanwhile."""
        row = {**_mine(held), "why": why, "at": at, "stalls": stalls}
        async with self._store.transaction() as tx:
            if not await self._queries.run("pause", row, tx):
                return False
            await self._dispatch.defer(tx, RunId(held.id), at)
            return True

    async def give_back(self, held: Held) -> None:
        """Make the batch due again, for the next worker."""
        async with self._store.transaction() as tx:
            await self._dispatch.defer(tx, RunId(held.id))

    async def close(self, held: Held, ending: Status, now: datetime, errors: Sequence[Mapping[str, Any]] = ()) -> None:
        """Say how the batch ends; from then on no call is made."""
        sealed = None
        if errors:
            sealed = self._vault.seal(SEALED_FOR, orjson.dumps([*errors]), f"{held.id}/errors", held.organisation)
        await self._queries.run("close", {**_mine(held), "ending": ending, "now": now, "errors": sealed})

    async def results(self, held: Held) -> AsyncGenerator[Result, None]:
        """Give every line of a batch in the order of its file, a page at a time."""
        after = 0
        while rows := await self._queries.all("results", {"id": held.id, "after": after}):
            for result in await asyncio.to_thread(self._opened, held, rows):
                yield result
            after = rows[-1]["number"]

    async def finish(self, held: Held, files: tuple[str | None, str | None], counts: Row, tx: Tx) -> None:
        """End the batch in the transaction that wrote its files, and forget its lines."""
        row = {**_mine(held), "output_file": files[0], "error_file": files[1], **counts}
        if not await self._queries.run("finish", row, tx):
            raise LostBatch(f"the batch {held.id!r} is held by another worker: this one stops here")
        await self._queries.run("clear", {"id": held.id}, tx)

    async def idle(self, id: str | None = None, tx: Tx | None = None) -> list[str]:
        """Find the batches that should move and for which nothing is due; or look again at one whose row is held."""
        return [row["id"] for row in await self._queries.all("idle", {"id": id}, tx)]

    async def _patiently(self, write: Callable[[], Awaitable[int]]) -> int:
        loop = asyncio.get_running_loop()
        deadline, pause = loop.time() + self._patience_s, 0.1
        while True:
            try:
                return await write()
            except (psycopg.OperationalError, Unavailable) as error:
                if loop.time() + pause > deadline:
                    raise LostBatch(f"an answer could not be kept within {self._patience_s:g} s: {error}") from error
            await asyncio.sleep(pause)
            pause = min(pause * 2, 2.0)

    def _opened(self, held: Held, rows: Sequence[Row]) -> list[Result]:
        return [self._result(held, row) for row in rows]

    def _result(self, held: Held, row: Row) -> Result:
        number, state = row["number"], row["state"]
        name = None if row["name"] is None else self._vault.open(SEALED_FOR, row["name"], _name(held, number)).decode()
        answer = row["answer"]
        if answer is not None:
            answer = zlib.decompress(self._vault.open(SEALED_FOR, answer, f"{held.id}/{number}"))
        return Result(number, state if state in ("done", "failed") else None, name, answer)

    def _sealed(self, held: Held, number: int, answer: bytes) -> bytes:
        return self._vault.seal(SEALED_FOR, zlib.compress(answer, 1), f"{held.id}/{number}", held.organisation)


def _sealed_name(vault: Vault, held: Held, number: int, name: str | None) -> bytes | None:
    return None if name is None else vault.seal(SEALED_FOR, name.encode(), _name(held, number), held.organisation)


def _mine(held: Held) -> Row:
    return {"id": held.id, "epoch": held.epoch}


def _name(held: Held, number: int) -> str:
    return f"{held.id}/{number}/name"
