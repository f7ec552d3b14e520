"""Gives kept answers again on the road: looks, lets one of many identical calls ask, and keeps what it got."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import orjson

from metier.cache.alike import Alike
from metier.cache.entries import Entries, Found, Keeping
from metier.cache.kept import Collecting, KeptAnswer
from metier.cache.place import Caching, Place, Places
from metier.calls import Call, Chunk, Kept, Receipt
from metier.deployment import Model
from metier.errors import MetierError, NotFound

__all__ = ["Cache", "Embedded", "Entry", "Reusing"]

Embedded = tuple[str, Sequence[float]]
"""Which model embedded a question, with its revision, and the vector."""

_CODE = re.compile(r"\[\[([A-Z_]+)_\d+[a-z]*\]\]")
_log = logging.getLogger(__name__)


class Entry(Protocol):
    """What is needed of the record of a call."""

    kept: Kept | None

    def receipt(self) -> Receipt:
        """Price the answer, which is complete by now."""
        ...


@dataclass(frozen=True, slots=True)
class _Landed:
    """How the first of several identical calls ended."""

    found: Found | None = None
    hit: Literal["exact", "semantic"] = "exact"
    again: bool = False
    """It was left before its end: one of those that wait may take its place."""


class Cache:
    """Answers calls from what was answered before, where the rules of their system say so."""

    def __init__(
        self,
        entries: Entries,
        places: Places,
        codes: Callable[[str], frozenset[str]],
        language: Callable[[Call], str | None],
        embed: Callable[[Call, str], Awaitable[Embedded | None]] | None = None,
        *,
        clock: Callable[[], float] = time.time,
        patience_s: float = 60.0,
    ) -> None:
        self.entries = entries
        self.places = places
        self.codes = codes
        """The placeholders in a text, in a form that can be compared."""
        self.clock = clock
        self.flights: dict[bytes, asyncio.Future[_Landed]] = {}
        """Calls under way that others like them wait for."""
        self.patience_s = patience_s
        self.alike = Alike()
        self._language = language
        self._embed = embed

    def begin(self, masked: Call, model: Model, caching: Caching | None, entry: Entry) -> Reusing | None:
        """Accompany a masked call whose answer may be kept; None when it is none of the cache's business."""
        place = None
        if caching is not None and masked.reuse != "off":
            place = self.places.find(masked, model, caching, self._language(masked))
        if place is None or caching is None:
            if masked.reuse == "only":
                raise _nothing(masked)
            return None
        if masked.origin is not None and masked.origin.attempt > 1 and masked.reuse == "usual":
            # A step tries again because the answer would not do: the same one would not either.
            masked = replace(masked, reuse="refresh")
        return Reusing(self, masked, place, caching, entry)

    async def vector(self, call: Call, question: str) -> Embedded | None:
        """Have a question embedded in the name of its caller; None where that is not possible now."""
        if self._embed is None:
            return None
        try:
            # Placeholders count as the word for their kind: their numbers mean nothing.
            return await self._embed(call, _CODE.sub(lambda code: code[1].replace("_", " ").lower(), question))
        except MetierError as error:
            _log.info("a question was not compared with kept ones: %s", error.code)
            return None


class Reusing:
    """One call on its way: `answer` stands in place of the provider's, `shown` around what the caller sees."""

    def __init__(self, cache: Cache, masked: Call, place: Place, caching: Caching, entry: Entry) -> None:
        self._cache = cache
        self._call = masked
        self._place = place
        self._caching = caching
        self._entry = entry
        self._purge: int | None = None
        self._embedded: Embedded | None = None
        self._collecting: Collecting | None = None
        self._flight: asyncio.Future[_Landed] | None = None

    async def answer(self, asked: AsyncGenerator[Chunk, None]) -> AsyncGenerator[Chunk, None]:
        """Yield a kept answer, or else what `asked` yields; masked, as it came from the provider."""
        found, hit = await self._look()
        if found is not None:
            answer = found.answer
            age_s = max(0.0, self._cache.clock() - answer.made_at)
            self._entry.kept = Kept(hit, age_s, answer.cost_eur, answer.energy_kwh, answer.usage)
            self._cache.entries.hit(found.key)
            self._land(_Landed(found, hit))
            for chunk in answer.chunks():
                yield chunk
            return
        if self._call.reuse == "only":
            raise _nothing(self._call)
        self._entry.kept = Kept()
        collecting = self._collecting = Collecting()
        async with aclosing(asked):
            async for chunk in asked:
                collecting.add(chunk)
                yield chunk

    async def shown(self, released: AsyncGenerator[Chunk, None]) -> AsyncGenerator[Chunk, None]:
        """Pass on what the guardrails let out; only an answer they let out to its very end is kept."""
        first = True
        try:
            async with aclosing(released):
                async for chunk in released:
                    yield replace(chunk, kept=self._entry.kept) if first else chunk
                    first = False
            kept = self._keep()
            self._land(_Landed() if kept is None else _Landed(Found(self._place.key, kept)))
        except Exception:
            self._land(_Landed())
            raise
        finally:
            self._land(_Landed(again=True))

    async def _look(self) -> tuple[Found | None, Literal["exact", "semantic"]]:
        landed = await self._joined() if self._call.reuse == "usual" else None
        if landed is not None and landed.found is not None and self._fits(landed.found):
            return landed.found, landed.hit
        found, self._purge = await self._cache.entries.exact(self._place, self._caching.ttl_s)
        if found is not None and self._call.reuse != "refresh" and self._fits(found):
            return found, "exact"
        return await self._near(), "semantic"

    async def _joined(self) -> _Landed | None:
        """Wait for a call like this one that is under way, or be the one that others wait for."""
        flights, key = self._cache.flights, self._place.key
        while (flight := flights.get(key)) is not None:
            # Waited for without cancelling it: it is everybody's.
            await asyncio.wait([flight], timeout=self._cache.patience_s)
            landed = flight.result() if flight.done() else _Landed()
            if not landed.again:
                return landed
        self._flight = flights[key] = asyncio.get_running_loop().create_future()
        return None

    async def _near(self) -> Found | None:
        caching, question = self._caching, self._place.question
        if caching.mode != "semantic" or not question:
            return None
        self._embedded = await self._cache.vector(self._call, question)
        if self._embedded is None:
            return None
        if self._call.reuse == "refresh":
            return None
        embedder, vector = self._embedded
        near = self._cache.entries.near
        for found in await near(self._place, embedder, _literal(vector), caching.threshold, caching.ttl_s):
            if self._cache.alike(found.answer.question, question) and self._fits(found):
                return found
        return None

    def _fits(self, found: Found) -> bool:
        """An answer is given only to a caller whose own call holds every placeholder in it."""
        codes = self._cache.codes(found.answer.text)
        return not codes or codes <= self._own()

    def _own(self) -> frozenset[str]:
        return self._cache.codes("\n".join(message.text for message in self._call.messages))

    def _keep(self) -> KeptAnswer | None:
        whole = self._collecting.whole() if self._collecting is not None else None
        if whole is None:
            return None
        text, reasoning = whole
        codes = self._cache.codes(text)
        if (codes and not codes <= self._own()) or (self._call.output is not None and not _is_json(text)):
            return None
        receipt = self._entry.receipt()
        energy = receipt.impact.energy_kwh
        answer = KeptAnswer(
            question=self._place.question,
            text=text,
            usage=receipt.usage,
            reasoning=reasoning,
            made_at=self._cache.clock(),
            cost_eur=receipt.cost_eur,
            energy_kwh=None if energy is None else (energy.low + energy.high) / 2,
        )
        if self._purge is not None:
            embedder, vector = self._embedded or (None, None)
            caching, call = self._caching, self._call
            self._cache.entries.keep(
                Keeping(
                    self._place,
                    answer,
                    call.principal,
                    call.model,
                    caching.ttl_s,
                    caching.max_entries,
                    self._purge,
                    embedder,
                    None if vector is None else _literal(vector),
                    call.id,
                )
            )
        return answer

    def _land(self, landed: _Landed) -> None:
        """Tell those that wait how it ended; only the first word counts."""
        flight, self._flight = self._flight, None
        if flight is not None:
            del self._cache.flights[self._place.key]
            flight.set_result(landed)


def _nothing(call: Call) -> NotFound:
    return NotFound(
        f"no kept answer fits this call to {call.model!r}, and `x-metier-cache: only` asks for no other: leave the "
        "header out to have the call made"
    )


def _is_json(text: str) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


def _literal(vector: Sequence[float]) -> str:
    return "[" + ",".join(f"{value:.7g}" for value in vector) + "]"
