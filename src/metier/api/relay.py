"""One call taken down the one road for a client that may leave: its answer whole, or its pieces as they come."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from typing import Protocol

from metier.api import answers
from metier.api.exchange import Exchange, Headers
from metier.api.surface import limit_headers
from metier.calls import Answer, Call, Chunk
from metier.gateway import Gateway

__all__ = ["Events", "collect", "stream"]

_SOON_S = 0.1
"""A whole answer that comes sooner is not given up for a client that leaves: what is kept, refused or short."""


class Events(Protocol):
    """Writes the pieces of an answer as one surface shows them."""

    def write(self, chunk: Chunk) -> bytes:
        """Write one piece; empty where the surface says nothing of it."""
        ...


async def collect(exchange: Exchange, gateway: Gateway, call: Call) -> Answer:
    """Ask for the whole answer; the call ends when the client leaves, unless its answer is there at once."""
    exchange.name(call.id, lambda: limit_headers(gateway, call))
    async with exchange.presence(_SOON_S):
        return await gateway.collect(call)


async def stream(
    exchange: Exchange, gateway: Gateway, call: Call, events: Events, more: Callable[[], Headers] = list
) -> None:
    """Pass the pieces on as they come, up to the last; what ends the stream is written by whoever asked."""
    exchange.name(call.id, lambda: limit_headers(gateway, call))
    async with exchange.presence(), aclosing(gateway.stream(call)) as chunks:
        # The first chunk comes before the headers, so that a refusal is an HTTP status.
        first = await anext(chunks)
        told = [(b"x-metier-call-id", call.id.encode()), *answers.kept_headers(first.kept), *more()]
        await exchange.open_stream(told)
        opening = events.write(first)
        if opening:
            await exchange.write(opening)
        async for chunk in chunks:
            data = events.write(chunk)
            if data:
                await exchange.write(data)
