"""A real HTTP server on loopback that answers like an OpenAI-compatible provider, well or badly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web

__all__ = ["Reply", "Upstream", "answer", "event", "upstream"]


@dataclass(slots=True)
class Reply:
    """What the server sends to one request."""

    pieces: Sequence[bytes] = ()
    status: int = 200
    kind: str = "text/event-stream"
    headers: dict[str, str] = field(default_factory=dict)
    then: str = "end"
    """After the pieces: "end", "cut" (the connection breaks) or "hang" (nothing more, until released)."""


@dataclass(slots=True)
class Upstream:
    """The server while it runs."""

    url: str = ""
    replies: list[Reply] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    """What was asked: JSON, or the fields of a form, a file as its name, kind and bytes."""
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    queries: list[str] = field(default_factory=list)
    peers: list[object] = field(default_factory=list)
    """The client's port at each request: equal when a connection was used again."""
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a client left before its answer ended."""
    released: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Send the next reply; the last one repeats."""
        self.requests.append(await _asked(request))
        self.headers.append(dict(request.headers))
        self.paths.append(request.path)
        self.queries.append(request.query_string)
        assert request.transport is not None
        self.peers.append(request.transport.get_extra_info("peername"))
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        response = web.StreamResponse(status=reply.status, headers={"content-type": reply.kind, **reply.headers})
        await response.prepare(request)
        try:
            for piece in reply.pieces:
                await response.write(piece)
            if reply.then == "hang":
                await self.released.wait()
        except (ConnectionError, asyncio.CancelledError):
            self.gone.set()
            raise
        if reply.then == "cut":
            request.transport.abort()
        else:
            await response.write_eof()
        return response


async def _asked(request: web.Request) -> dict[str, Any]:
    if request.content_type == "application/json":
        asked: dict[str, Any] = orjson.loads(await request.read())
        return asked
    found: dict[str, Any] = {}
    for name, value in (await request.post()).items():
        if isinstance(value, web.FileField):
            found[name] = (value.filename, value.content_type, value.file.read())
            value.file.close()
        else:
            found[name] = value
    return found


@asynccontextmanager
async def upstream(*replies: Reply) -> AsyncIterator[Upstream]:
    """Run the server on a free port of loopback."""
    server = Upstream(replies=list(replies))
    app = web.Application()
    app.router.add_post("/{path:.*}", server.handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    server.url = f"http://127.0.0.1:{port}/v1"
    try:
        yield server
    finally:
        server.released.set()
        await runner.cleanup()


def event(delta: dict[str, Any] | None = None, finish: str | None = None, **more: Any) -> bytes:
    """One chat completion chunk as a server-sent event."""
    choices = [{"index": 0, "delta": delta or {}, "finish_reason": finish}]
    return b"data: " + orjson.dumps({"id": "c", "choices": choices, **more}) + b"\n\n"


def answer(*texts: str, usage: dict[str, Any] | None = None) -> bytes:
    """A whole good stream: the texts, the finish, the usage and [DONE]."""
    figures = usage or {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
    last = b"data: " + orjson.dumps({"id": "c", "choices": [], "usage": figures}) + b"\n\n"
    said = b"".join(event({"content": text}) for text in texts)
    return event({"role": "assistant", "content": ""}) + said + event(finish="stop") + last + b"data: [DONE]\n\n"
