"""What stands before the application while a process stops: answers that end connections, and a word to balancers."""

from __future__ import annotations

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Duty"]

_STOPPING = orjson.dumps({"status": "stopping", "parts": {}})
_CLOSE = (b"connection", b"close")


class Duty:
    """Stands before the application and says, while the process stops, that it does."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.leaving = False
        """Connections are closed after their present answer."""
        self.stopping = False
        """And /readyz says that nothing should come here any more."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, the usual way while the process serves."""
        if not self.leaving or scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def last(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), _CLOSE]}
            await send(message)

        if self.stopping and scope["path"] == "/readyz":
            headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(_STOPPING))]
            await last({"type": "http.response.start", "status": 503, "headers": headers})
            await last({"type": "http.response.body", "body": _STOPPING})
            return
        await self._app(scope, receive, last)
