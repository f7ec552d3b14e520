"""A provider that tells whatever it was sent: in answers, errors, headers, redirects, and in the middle of streams."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote

import orjson
from aiohttp import web

__all__ = ["OUTCOMES", "Echo", "echo"]

OUTCOMES: Final = ("400", "401", "403", "404", "429", "500", "302", "garbage", "cut", "mid-stream", "quoted")
"""What the server can do to a request; "quoted" is a 500 with the credentials in other spellings."""

_CREDENTIALS: Final = ("authorization", "api-key", "x-api-key", "x-goog-api-key", "cookie", "proxy-authorization")


@dataclass(slots=True)
class Echo:
    """The server while it runs."""

    url: str = ""
    outcome: str = "500"
    told: list[str] = field(default_factory=list)
    """The credentials it has seen, as they came."""
    bodies: list[bytes] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer in the way that is set, with what came."""
        body = await request.read()
        self.bodies.append(body)
        seen = [value for name, value in request.headers.items() if name.lower() in _CREDENTIALS]
        self.told += seen
        words = f"you sent {dict(request.headers)!r} to {request.path_qs!r}; " + "; ".join(seen)
        if self.outcome == "quoted":
            bare = [value.removeprefix("Bearer ") for value in seen]
            words = " ".join(
                spelt
                for one in bare
                for spelt in (quote(one, safe=""), base64.b64encode(one.encode()).decode(), f"{one[:24]}…", one.upper())
            )
        if self.outcome == "302":
            return web.Response(status=302, text=words, headers={"location": f"{self.url}/{'/'.join(seen)}"})
        if self.outcome == "garbage":
            return web.Response(body=b'{"choices": ' + words.encode(), content_type="application/json")
        error = {"error": {"message": words, "type": "x", "code": 500, "status": "INTERNAL"}, "type": "error"}
        if self.outcome in ("cut", "mid-stream"):
            return await self._stream(request, error)
        status = int(self.outcome) if self.outcome.isdecimal() else 500
        headers = {"x-echo": seen[0] if seen else "", "retry-after": "0", "x-request-id": " ".join(seen)[:200]}
        return web.json_response(error, status=status, headers=headers)

    async def _stream(self, request: web.Request, error: object) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        delta = {"id": "1", "choices": [{"index": 0, "delta": {"content": "Bon"}}]}
        await response.write(b"data: " + orjson.dumps(delta) + b"\n\n")
        if self.outcome == "cut":
            assert request.transport is not None
            request.transport.abort()
            return response
        await response.write(b"event: error\ndata: " + orjson.dumps(error) + b"\n\n")
        await response.write_eof()
        return response


@asynccontextmanager
async def echo() -> AsyncIterator[Echo]:
    """Run the server on a free port of loopback."""
    server = Echo()
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        await runner.cleanup()
