"""A small platform that keeps answers, with a clock that only moves when told to."""

from __future__ import annotations

import pathlib
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from metier.cache.entries import Entries
from metier.cache.place import Places
from metier.cache.reuse import Cache, Embedded
from metier.calls import Answer, Call, Chunk, Message
from metier.guardrails.pii import PersonalData
from metier.guardrails.pii.placeholders import codes
from metier.providers.base import Provider
from metier.router import language_of
from metier.store import Store
from metier.vault import Vault
from tests.world import MODELS, World, world

__all__ = ["Desk", "Time", "asked", "chunks", "desk", "kept"]


class Time:
    """Stands still until told to go on; both the clock on the wall and the stopwatch."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass(slots=True)
class Desk:
    """A platform, its cache and its time."""

    world: World
    cache: Cache
    time: Time
    vectors: dict[str, list[float]]
    """What each question is embedded as; any other has a vector of its own."""
    embedded: list[str]

    async def ask(self, text: str = "Quel est le délai ?", **more: Any) -> Answer:
        """Ask as the key of this world, and have what is to be kept written."""
        answer = await self.world.gateway.collect(asked(self.world, text, **more))
        await self.cache.entries.write()
        return answer


def asked(here: World, text: str, **more: Any) -> Call:
    """A call of one turn."""
    return here.call(messages=(Message("user", text),), **more)


def kept(answer: Answer) -> str | None:
    """How an answer came: "exact", "semantic", "miss", or None where nothing is kept."""
    assert answer.receipt is not None
    found = answer.receipt.kept
    return None if found is None else found.hit or "miss"


async def chunks(here: World, call: Call) -> list[Chunk]:
    """Every piece of an answer."""
    async with aclosing(here.gateway.stream(call)) as stream:
        return [chunk async for chunk in stream]


@asynccontextmanager
async def desk(
    store: Store,
    vault: Vault,
    folder: pathlib.Path,
    provider: Provider,
    cache: object = "exact",
    *,
    models: Mapping[str, Any] = MODELS,
    patience_s: float = 60.0,
) -> AsyncIterator[Desk]:
    """Build it; `cache` is what metier.yaml says of the one system."""
    guardrails = [PersonalData(store, vault)]
    time, vectors, embedded = Time(), dict[str, list[float]](), list[str]()

    async def embed(call: Call, question: str) -> Embedded | None:
        embedded.append(question)
        return "v1", vectors.get(question, [0.0, 1.0])

    async with world(
        store, vault, folder, provider, models=models, guardrails=guardrails, systems={"Essai": {"cache": cache}}
    ) as here:
        entries = Entries(store, vault, clock=time, steady=time)
        here.gateway.cache = Cache(
            entries, Places(vault, "g1"), codes, language_of, embed, clock=time, patience_s=patience_s
        )
        yield Desk(here, here.gateway.cache, time, vectors, embedded)
