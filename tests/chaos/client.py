"""One client of the platform: what it asks as bytes, when it leaves, and what it got."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.types import ASGIApp, Message

from tests.chaos.operations import BOUNDARY, form

__all__ = ["Heard", "content", "talk"]


def content(path: str, body: Mapping[str, Any]) -> tuple[bytes, str]:
    """A request as it goes over the wire, and its content type."""
    if path == "/v1/audio/transcriptions":
        return form(body), f"multipart/form-data; boundary={BOUNDARY}"
    return orjson.dumps(dict(body)), "application/json"


@dataclass(slots=True)
class Heard:
    """What one client got."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    ended: bool = False
    left: bool = False
    raised: BaseException | None = None

    @property
    def events(self) -> list[Any]:
        """The data of each event; "[DONE]" stays text."""
        blocks = [block for block in self.body.split(b"\n\n") if block]
        found = [line[6:] for block in blocks for line in block.split(b"\n") if line.startswith(b"data: ")]
        return ["[DONE]" if data == b"[DONE]" else orjson.loads(data) for data in found]

    @property
    def end(self) -> str:
        """How it ended: "clean", "error" with a type, "open" without any end, "both" when it contradicts itself."""
        if not self.headers.get("content-type", "").startswith("text/event-stream"):
            if not self.ended:
                return "open"
            body = orjson.loads(self.body)
            if self.status == 200:
                return "clean" if "error" not in body or body["error"] is None else "both"
            return "error" if body["error"]["type"] and body["error"]["message"] and self.status >= 400 else "both"
        kinds = [event if event == "[DONE]" else _kind(event) for event in self.events]
        clean = {"[DONE]", "message_stop", "response.completed", "response.incomplete"} & set(kinds)
        error = {"error", "response.failed"} & set(kinds)
        if clean and error:
            return "both"
        return "clean" if clean and self.ended else "error" if error and self.ended else "open"

    @property
    def text(self) -> str:
        """What was said to the client, in whatever shape."""
        if not self.headers.get("content-type", "").startswith("text/event-stream"):
            return _said(orjson.loads(self.body)) if self.status == 200 and self.ended else ""
        return "".join(_piece(event) for event in self.events if event != "[DONE]")


def _kind(event: Mapping[str, Any]) -> str:
    return str(event.get("type") or ("error" if event.get("error") else "chunk"))


def _said(body: Mapping[str, Any]) -> str:
    if isinstance(body.get("text"), str):
        return str(body["text"])
    if "choices" in body:
        return str(body["choices"][0]["message"]["content"])
    parts = body.get("content") or [part for item in body.get("output", ()) for part in item.get("content", ())]
    return "".join(part.get("text", "") for part in parts)


def _piece(event: Mapping[str, Any]) -> str:
    if event.get("type") == "response.output_text.delta":
        return str(event["delta"])
    if event.get("type") == "content_block_delta":
        return str(event["delta"].get("text", ""))
    return "".join(choice["delta"].get("content") or "" for choice in event.get("choices", ()))


async def talk(
    app: ASGIApp, path: str, body: Mapping[str, Any], secret: str, *,
    leave: asyncio.Event | None = None, first: bool = False, end: bool = False,
    conversation: str | None = None,
) -> Heard:  # fmt: skip
    """Ask as a client does; it leaves when `leave` is set, at the `first` bytes, or at the `end`."""
    heard, gone = Heard(), leave or asyncio.Event()
    data, kind = content(path, body)
    waiting = [data]

    async def receive() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        await gone.wait()
        heard.left = True
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if heard.left:
            return
        if message["type"] == "http.response.start":
            heard.status = message["status"]
            heard.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            return
        heard.body += message.get("body", b"")
        heard.ended = not message.get("more_body", False)
        if first or (end and heard.ended):
            gone.set()
        await asyncio.sleep(0)

    headers = {"host": "metier.test", "authorization": f"Bearer {secret}", "content-type": kind}
    if conversation is not None:
        headers["x-metier-conversation"] = conversation
    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "POST",
        "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2),
    }  # fmt: skip
    try:
        await app(scope, receive, send)
    except Exception as error:  # noqa: BLE001  # whatever comes out of the surface is what the cell is judged by
        heard.raised = error
    return heard
