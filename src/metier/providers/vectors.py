"""Embeddings that take several requests: sent a few at a time, their parts put together and counted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

from metier.calls import JSON, Call, Chunk, Usage
from metier.catalog import Deployment
from metier.errors import ProviderUnavailable
from metier.providers.cause import caused

__all__ = ["Part", "gather"]

Part: TypeAlias = tuple[tuple[tuple[float, ...], ...], int | None]
"""Vectors of one answer, with the input tokens it counted, where it did."""

_SENDS_AT_ONCE: Final = 8


async def gather(
    call: Call, deployment: Deployment, bodies: Sequence[JSON], send: Callable[[JSON], Awaitable[Part]]
) -> Chunk:
    """Send every body and give all vectors, in the order of the texts; the first failure ends the others."""
    turn = asyncio.Semaphore(_SENDS_AT_ONCE)

    async def one(body: JSON) -> Part:
        async with turn:
            return await send(body)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(body)) for body in bodies]
    except ExceptionGroup as errors:
        raise _first(errors) from errors
    parts = [task.result() for task in tasks]
    vectors = tuple(vector for found, _ in parts for vector in found)
    if len(vectors) != len(call.inputs):
        told = f"deployment {deployment.id!r} sent {len(vectors)} vectors for {len(call.inputs)} texts"
        raise caused(ProviderUnavailable(f"{told}; try again, or check what serves that address"), "unreadable")
    counts = [count for _, count in parts if count is not None]
    return Chunk(vectors=vectors, usage=Usage(sum(counts)) if len(counts) == len(parts) else None)


def _first(errors: ExceptionGroup[Exception]) -> Exception:
    first = errors.exceptions[0]
    return _first(first) if isinstance(first, ExceptionGroup) else first
