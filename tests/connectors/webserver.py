"""A real HTTP server on loopback for tests of connectors, with scripted answers; it can cut the line."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

__all__ = ["Asked", "Server", "serving"]


@dataclass(frozen=True)
class Asked:
    """One request as it arrived."""

    method: str
    path: str
    """With its query, as it was written."""
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Server:
    """Answers as scripted, then with 200 and {}; keeps what it was asked.

    An answer is a status, (status, JSON or text), (status, body, headers), or "cut" before or "taken then cut" after
    it is kept, or "hang".
    """

    answers: list[Any] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    done: set[str] = field(default_factory=set)
    """Idempotency keys of what it did: a second time is answered and not done."""
    url: str = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        body = await request.read()
        answer = self.answers.pop(0) if self.answers else (200, {})
        self.asked.append(Asked(request.method, request.raw_path, request.headers, body))
        key = request.headers.get("Idempotency-Key") or request.headers.get("webhook-id")
        if answer in ("cut", "taken then cut"):
            if answer != "cut" and key:
                self.done.add(key)
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if answer == "hang":
            await asyncio.sleep(30)
        status, given, headers = (*((answer,) if isinstance(answer, int) else answer), None, None)[:3]
        if key and 200 <= status < 300:
            self.done.add(key)
        if isinstance(given, bytes | str):
            return web.Response(status=status, body=given, headers=headers, content_type="text/plain")
        return web.json_response({} if given is None else given, status=status, headers=headers)


@contextlib.asynccontextmanager
async def serving(*answers: Any) -> AsyncIterator[Server]:
    """Open the server; its `url` leads there."""
    made = Server(list(answers))
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", made.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    made.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"  # type: ignore[attr-defined]  # asyncio's
    try:
        yield made
    finally:
        await runner.cleanup()
