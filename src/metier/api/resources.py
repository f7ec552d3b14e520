"""What tells a platform that the server is alive, and whether it can serve calls now."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import orjson
from starlette.types import Receive, Scope, Send

from metier.api.exchange import Exchange

__all__ = ["Alive", "Ready"]


class Alive:
    """GET /healthz: the process answers; says nothing about what it depends on."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await Exchange(scope, receive, send).json(b'{"status":"ok"}')


class Ready:
    """GET /readyz: 200 when every part can serve calls, 503 with the parts that cannot."""

    def __init__(
        self,
        ready: Callable[[], Awaitable[Mapping[str, bool]]],
        remarks: Callable[[], Mapping[str, object]] = dict,
    ) -> None:
        self._ready = ready
        self._remarks = remarks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await Exchange(scope, receive, send).run(self._handle)

    async def _handle(self, exchange: Exchange) -> None:
        parts = dict(await self._ready())
        well = all(parts.values())
        body = orjson.dumps({"status": "ready" if well else "not ready", "parts": parts, **self._remarks()})
        await exchange.json(body, status=200 if well else 503)
