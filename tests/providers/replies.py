"""What a provider's server on loopback sends to one request, and how it runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web
from aiohttp.typedefs import Handler

__all__ = ["Reply", "give", "running"]


@dataclass(slots=True)
class Reply:
    """What the server sends to one request that is signed well."""

    pieces: Sequence[bytes] = ()
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    then: str = "end"
    """After the pieces: "end", "cut" (the connection breaks) or "hang" (nothing more, until released)."""


async def give(
    request: web.Request, reply: Reply, headers: Mapping[str, str], gone: asyncio.Event, released: asyncio.Event
) -> web.StreamResponse:
    """Send a reply piece by piece; `gone` is set when whoever asked leaves, `released` ends a silence."""
    response = web.StreamResponse(status=reply.status, headers={**headers, **reply.headers})
    await response.prepare(request)
    try:
        for piece in reply.pieces:
            await response.write(piece)
        if reply.then == "hang":
            await released.wait()
    except (ConnectionError, asyncio.CancelledError):
        gone.set()
        raise
    if reply.then == "cut":
        assert request.transport is not None
        request.transport.abort()
    else:
        await response.write_eof()
    return response


@asynccontextmanager
async def running(handlers: Mapping[str, Handler], released: asyncio.Event) -> AsyncIterator[str]:
    """Run a server on a free port of loopback that answers a POST to each path; gives its address."""
    app = web.Application()
    for path, handler in handlers.items():
        app.router.add_post(path, handler)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        released.set()
        await runner.cleanup()
