"""What answers at the root of the port: people are led to their pages, programs are told where things are."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping

import orjson
from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.types import Receive, Scope, Send

from metier.api.exchange import Exchange
from metier.api.surface import Surface
from metier.errors import MetierError

__all__ = ["Welcome"]

_PLACES: Mapping[str, str] = {
    "name": "Métier",
    "api": "/v1",
    "ready": "/readyz",
    "documentation": "docs/reference/http-api.md in the sources",
}


class Welcome:
    """GET /: to the pages for people, or where the API is and what says whether it serves; the version needs a key."""

    def __init__(self, keys: Surface, pages: str | None = None) -> None:
        self._keys = keys
        self._pages = pages
        self._version = importlib.metadata.version("metier")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if self._pages is not None and "text/html" in Request(scope).headers.get("accept", "").lower():
            answer = RedirectResponse(self._pages, 303, {"vary": "accept", "cache-control": "no-store"})
            await answer(scope, receive, send)
            return
        await Exchange(scope, receive, send).run(self._handle)

    async def _handle(self, exchange: Exchange) -> None:
        told = _PLACES if self._pages is None else {**_PLACES, "pages": self._pages}
        if await self._known(exchange):
            # Which faults a server may have is for those it serves.
            told = {**told, "version": self._version}
        await exchange.json(orjson.dumps(told), [(b"vary", b"accept, authorization"), (b"cache-control", b"no-store")])

    async def _known(self, exchange: Exchange) -> bool:
        """Tell whether a good key was shown; whoever shows none, or another, is a stranger."""
        try:
            await self._keys.authenticate(exchange.secret())
        except MetierError:
            return False
        return True
