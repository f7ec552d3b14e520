"""The kept answers: sealed in PostgreSQL, the latest of them in the memory of this worker."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

import psycopg

from metier.cache.kept import KeptAnswer
from metier.cache.place import Place
from metier.calls import Principal
from metier.errors import Broken, Unavailable
from metier.store import Row, Store
from metier.vault import Vault

__all__ = ["Entries", "Found", "Keeping", "Purge", "Totals"]

_PURPOSE = "cache"
_AWAY = (psycopg.Error, Unavailable, TimeoutError)
_PATIENCE_S = 1.0
_REST_S = 2.0
_DEAF_S = 2.0
"""Memory is used only while this worker hears of purges: its last look at them is no older than this."""
_MOST_WAITING = 1_000
_NEAREST = 5
_SWEEP_EVERY = 600
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Found:
    """A kept answer, with the key it is kept under and how near its question is."""

    key: bytes
    answer: KeptAnswer
    similarity: float = 1.0


@dataclass(frozen=True, slots=True)
class Keeping:
    """An answer to be kept."""

    place: Place
    answer: KeptAnswer
    principal: Principal
    model: str
    ttl_s: float
    most: int
    """Answers its system may keep."""
    purge: int
    """Number of the newest purge when its call began."""
    embedder: str | None = None
    vector: str | None = None
    """Of the question, as PostgreSQL reads it."""
    call: str | None = None
    """The id of its call."""


@dataclass(frozen=True, slots=True)
class Purge:
    """Which kept answers to delete: those that fit every criterion given."""

    organisation: str | None = None
    project: str | None = None
    system: str | None = None
    model: str | None = None
    person: bytes | None = None
    """The digest of an end user, as their place has it."""
    before: datetime | None = None
    call: str | None = None
    """The call that made it."""


@dataclass(frozen=True, slots=True)
class Totals:
    """What is kept for one system and model."""

    organisation: str
    project: str
    system: str
    model: str
    entries: int
    comparable: int
    """Those whose question can be compared by its meaning."""
    bytes: int
    hits: int
    saved_eur: Decimal
    saved_kwh: float | None
    oldest: datetime
    newest: datetime


class Entries:
    """Finds, keeps and deletes answers; `run` writes what waits, and nothing is lost but an answer if it stops."""

    def __init__(
        self,
        store: Store,
        vault: Vault,
        *,
        memory_bytes: int = 16 << 20,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queries = store.queries("cache")
        self._store = store
        self._vault = vault
        self._clock = clock
        self._steady = steady
        self._memory = _Memory(memory_bytes)
        self._purge = 0
        self._heard = float("-inf")
        self._away_until = float("-inf")
        self._waiting: OrderedDict[bytes, Keeping] = OrderedDict()
        self._hits: Counter[bytes] = Counter()
        self._wake = asyncio.Event()

    async def exact(self, place: Place, ttl_s: float) -> tuple[Found | None, int | None]:
        """Find the answer to the very same question, and the newest purge; None for both when nobody can tell."""
        now = self._clock()
        waiting = self._waiting.get(place.key)
        if waiting is not None:
            return self._fresh(Found(place.key, waiting.answer), now, ttl_s), waiting.purge
        if self._steady() - self._heard < _DEAF_S:
            held = self._memory.get(place.key, now)
            if held is not None:
                return self._fresh(Found(place.key, held), now, ttl_s), self._purge
        params = {"key": place.key, "partition": place.partition, "now": _moment(now)}
        row = await self._asked("exact", params)
        if not row:
            return None, None
        purge: int = row[0]["purge"]
        self._hear(purge)
        found = row[0]["sealed"] and self._opened(place.key, place, row[0]["sealed"])
        fresh = found and self._fresh(found, now, ttl_s)
        if fresh:
            self._memory.put(place.key, fresh.answer, fresh.answer.made_at + ttl_s)
        return fresh or None, purge

    async def near(self, place: Place, embedder: str, vector: str, least: float, ttl_s: float) -> list[Found]:
        """Find the answers whose questions are nearest in meaning, inside the partition of `place` and nowhere else."""
        now = self._clock()
        params = {
            "partition": place.partition,
            "embedder": embedder,
            "vector": vector,
            "least": least,
            "most": _NEAREST,
            "now": _moment(now),
        }
        found: list[Found] = []
        for row in await self._asked("near", params):
            key = bytes(row["key"])
            opened = self._opened(key, Place(place.partition, key, "", None), row["sealed"], row["similarity"])
            fresh = opened and self._fresh(opened, now, ttl_s)
            if fresh:
                found.append(fresh)
        return found

    def keep(self, keeping: Keeping) -> None:
        """Note an answer to be written soon; without room it is not kept."""
        if keeping.purge < self._purge or len(self._waiting) >= _MOST_WAITING:
            return
        self._waiting[keeping.place.key] = keeping
        self._memory.put(keeping.place.key, keeping.answer, self._clock() + keeping.ttl_s)
        self._wake.set()

    def hit(self, key: bytes) -> None:
        """Count a hit, to be written soon."""
        if key in self._hits or len(self._hits) < _MOST_WAITING:
            self._hits[key] += 1

    async def write(self) -> int:
        """Write what waits, each answer unless something was purged meanwhile; gives how many were tried."""
        if not self._waiting and not self._hits:
            return 0
        batch, hits = list(self._waiting.values()), self._hits
        self._hits = Counter()
        try:
            if batch:
                await self._write(batch)
        finally:
            # Written or not: one that could not be is asked for again.
            for keeping in batch:
                if self._waiting.get(keeping.place.key) is keeping:
                    del self._waiting[keeping.place.key]
        if hits:
            await self._queries.run("count_hits", {"keys": [*hits], "hits": [*hits.values()]})
        return len(batch)

    async def listen(self) -> None:
        """Look whether something was purged; if so, forget what is in memory."""
        asked = self._steady()
        row = await self._queries.one("newest_purge")
        self._hear(row["purge"] if row else 0)
        self._heard = asked

    async def purge(self, criteria: Purge, by: str) -> int:
        """Delete answers everywhere, and note who did it; answers under way are not kept either."""
        now = _moment(self._clock())
        chosen = {name: getattr(criteria, name) for name in Purge.__slots__}
        async with self._store.transaction() as tx:
            await self._queries.all("alone", None, tx)
            noted = await self._queries.one("note_purge", {**chosen, "by": by, "now": now}, tx)
            if noted is None:
                raise Broken("writing down the purge of kept answers gave no number; try again")
            deleted = await self._queries.run("purge", chosen, tx)
            await self._queries.run("close_purge", {"id": noted["id"], "deleted": deleted}, tx)
        self._hear(noted["id"])
        return deleted

    async def count(self, criteria: Purge) -> int:
        """Count the answers that a purge would delete."""
        row = await self._queries.one("count", {name: getattr(criteria, name) for name in Purge.__slots__})
        return 0 if row is None else int(row["entries"])

    async def expire(self) -> int:
        """Delete the answers whose time is over."""
        return await self._queries.run("expire", {"now": _moment(self._clock())})

    async def totals(self, system: str | None = None) -> tuple[Totals, ...]:
        """Tell what is kept, by system and model."""
        rows = await self._queries.all("totals", {"now": _moment(self._clock()), "system": system})
        return tuple(Totals(**row) for row in rows)

    async def run(self, every_s: float = 0.5) -> None:
        """Write, listen and sweep for ever; owned by the lifespan of the process."""
        turn = 0
        while True:
            try:
                await self.write()
                if self._memory:
                    await self.listen()
                if turn % _SWEEP_EVERY == 0:
                    await self.expire()
            except _AWAY as error:
                _log.warning("kept answers wait: the database does not take them (%s)", type(error).__name__)
            turn += 1
            self._wake.clear()
            try:
                async with asyncio.timeout(every_s):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _write(self, batch: Sequence[Keeping]) -> None:
        async with self._store.transaction() as tx:
            await self._queries.all("share", None, tx)
            await self._queries.many("keep", [self._row(keeping) for keeping in batch], tx)
        for system, most in {keeping.principal.system: keeping.most for keeping in batch}.items():
            await self._queries.run("trim", {"system": system, "most": most})

    def _hear(self, purge: int) -> None:
        if purge > self._purge:
            # What waits may be older than the purge: it is not written.
            self._memory.clear()
            self._waiting.clear()
            self._purge = purge

    async def _asked(self, query: str, params: dict[str, object]) -> list[Row]:
        """Ask with little patience: when the database is away, calls are made as if nothing were kept."""
        if self._steady() < self._away_until:
            return []
        try:
            async with asyncio.timeout(_PATIENCE_S):
                return await self._queries.all(query, params)
        except _AWAY as error:
            self._away_until = self._steady() + _REST_S
            _log.warning("kept answers cannot be read (%s): calls are made as if there were none", type(error).__name__)
            return []

    def _opened(self, key: bytes, place: Place, sealed: bytes, similarity: float = 1.0) -> Found | None:
        try:
            clear = self._vault.open(_PURPOSE, sealed, place.bound_to)
        except Broken as error:
            # Sealed under a master key of before, or moved: as good as not there.
            _log.warning("%s", error.message)
            return None
        return Found(key, KeptAnswer.unpacked(clear), similarity)

    def _fresh(self, found: Found, now: float, ttl_s: float) -> Found | None:
        return found if now - found.answer.made_at < ttl_s else None

    def _row(self, keeping: Keeping) -> dict[str, object]:
        place, answer, principal = keeping.place, keeping.answer, keeping.principal
        return {
            "key": place.key,
            "partition": place.partition,
            "organisation": principal.organisation,
            "project": principal.project,
            "system": principal.system,
            "model": keeping.model,
            "end_user": place.end_user,
            "made_at": _moment(answer.made_at),
            "expires_at": _moment(answer.made_at + keeping.ttl_s),
            "sealed": self._vault.seal(_PURPOSE, answer.packed(), place.bound_to),
            "embedder": keeping.embedder,
            "vector": keeping.vector,
            "cost_eur": answer.cost_eur,
            "energy_kwh": answer.energy_kwh,
            "purge": keeping.purge,
            "call": keeping.call,
        }


class _Memory:
    """The answers used last, up to so many bytes."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._size = 0
        self._held: OrderedDict[bytes, tuple[KeptAnswer, float, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: bytes, now: float) -> KeptAnswer | None:
        held = self._held.get(key)
        if held is None or now >= held[1]:
            return None
        self._held.move_to_end(key)
        return held[0]

    def put(self, key: bytes, answer: KeptAnswer, expires_at: float) -> None:
        # A character takes up to four bytes, an entry some two kilobytes beside its texts.
        size = 2_000 + 4 * (len(answer.text) + len(answer.question) + sum(len(one.text) for one in answer.reasoning))
        before = self._held.pop(key, None)
        self._size += size - (before[2] if before else 0)
        self._held[key] = (answer, expires_at, size)
        while self._size > self._most:
            _, (_, _, freed) = self._held.popitem(last=False)
            self._size -= freed

    def clear(self) -> None:
        self._held.clear()
        self._size = 0


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
