"""Keeps the trace a request belongs to, where spans of calls are sent to a collector."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from metier.record.otel import TRACEPARENT

__all__ = ["Traced"]

_HEADER = b"traceparent"


class Traced:
    """Notes the header `traceparent` for whatever the request comes to."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""
        found = next((value for name, value in scope.get("headers", ()) if name == _HEADER), b"")
        TRACEPARENT.set(found.decode("latin-1"))
        await self._app(scope, receive, send)
