"""Speaks ASGI to an application in-process, and can leave at a chosen moment."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.types import ASGIApp, Message

__all__ = ["Response", "ask"]


@dataclass(slots=True)
class Response:
    """What came back."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    pieces: list[bytes] = field(default_factory=list)
    ended: bool = False

    @property
    def body(self) -> bytes:
        """The whole body."""
        return b"".join(self.pieces)

    @property
    def json(self) -> Any:
        """The body, read as JSON."""
        return orjson.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """The data of each event of a stream, read as JSON; "[DONE]" stays text."""
        found = [block.removeprefix(b"data: ") for block in self.body.split(b"\n\n") if block]
        return ["[DONE]" if data == b"[DONE]" else orjson.loads(data) for data in found]


async def ask(
    app: ASGIApp,
    path: str,
    body: bytes | Mapping[str, Any] | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    leave_after: int | None = None,
    pieces: int = 1,
    method: str | None = None,
) -> Response:
    """Send one request; `leave_after` disconnects once that many body messages have come back (0: at once)."""
    data = b"" if body is None else body if isinstance(body, bytes) else orjson.dumps(dict(body))
    response = Response()
    gone = asyncio.Event()
    if leave_after == 0:
        gone.set()
    size = -(-len(data) // pieces) or 1
    waiting = [data[start : start + size] for start in range(0, len(data), size)] or [b""]

    async def receive() -> Message:
        if waiting:
            part = waiting.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(waiting)}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            response.status = message["status"]
            response.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            return
        response.pieces.append(message.get("body", b""))
        response.ended = not message.get("more_body", False)
        if leave_after is not None and len(response.pieces) >= leave_after:
            gone.set()
        # As a server does between two writes, let whatever else is due run.
        await asyncio.sleep(0)

    sent = {"host": "metier.test", **(headers or {})}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method or ("GET" if body is None else "POST"),
        "scheme": "http",
        "path": path.partition("?")[0],
        "raw_path": path.partition("?")[0].encode(),
        "query_string": path.partition("?")[2].encode(),
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in sent.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
    await app(scope, receive, send)
    return response
