"""A real HTTP server on loopback that speaks Anthropic's Messages API, and refuses what Anthropic refuses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web

__all__ = ["KEY", "FakeAnthropic", "Said", "event", "events", "fake_anthropic"]

KEY = "sk-ant-secret"
_KNOWN = {
    "max_tokens", "messages", "metadata", "model", "output_config", "stop_sequences", "stream", "system", "temperature",
    "thinking", "tool_choice", "tools", "top_k", "top_p",
}  # fmt: skip
_USAGE = {"input_tokens": 20, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 1}


@dataclass(slots=True)
class Said:
    """What the server answers to one message: blocks of a message, or bytes, or an error."""

    content: Sequence[dict[str, Any]] = ()
    stop_reason: str = "end_turn"
    usage: dict[str, int] = field(default_factory=dict)
    """What the usage says beside or instead of the usual."""
    raw: bytes | None = None
    """Sent as it is, in place of the events of the content."""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    """Bytes after which the connection breaks."""
    step: int = 0
    """Bytes sent at once; 0 sends all together."""
    hang: bool = False
    """Sends nothing more after the pieces, until the server ends."""


@dataclass(slots=True)
class FakeAnthropic:
    """The server while it runs."""

    url: str = ""
    replies: list[Said] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a client left before its answer ended."""
    released: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Check one request as Anthropic does, then give the next answer; the last one repeats."""
        body = orjson.loads(await request.read())
        self.requests.append(body)
        self.headers.append(dict(request.headers))
        self.paths.append(request.path)
        refused = _refused(body, request)
        if refused is not None:
            return _error(*refused)
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if reply.status != 200:
            kind = {429: "rate_limit_error", 529: "overloaded_error"}.get(reply.status, "api_error")
            return _error(reply.status, kind, f"refused with {reply.status}", reply.headers)
        if request.path.endswith("/count_tokens"):
            return web.json_response({"input_tokens": 3 + len(str(body["messages"]))})
        return await self._answer(request, body, reply)

    async def _answer(self, request: web.Request, body: dict[str, Any], reply: Said) -> web.StreamResponse:
        data = b"".join(events(reply, body["model"])) if reply.raw is None else reply.raw
        data = data if reply.cut is None else data[: reply.cut]
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8", **reply.headers})
        await response.prepare(request)
        try:
            step = reply.step or len(data) or 1
            for start in range(0, len(data), step):
                await response.write(data[start : start + step])
            if reply.hang:
                await self.released.wait()
        except (ConnectionError, asyncio.CancelledError):
            self.gone.set()
            raise
        if reply.cut is not None:
            assert request.transport is not None
            request.transport.abort()
        else:
            await response.write_eof()
        return response


@asynccontextmanager
async def fake_anthropic(*replies: Said) -> AsyncIterator[FakeAnthropic]:
    """Run the server on a free port of loopback; its url is what Anthropic's client calls the base."""
    server = FakeAnthropic(replies=list(replies))
    app = web.Application()
    app.router.add_post("/v1/messages", server.handle)
    app.router.add_post("/v1/messages/count_tokens", server.handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        server.released.set()
        await runner.cleanup()


def event(kind: str, **fields: Any) -> bytes:
    """One event of a stream."""
    return f"event: {kind}\n".encode() + b"data: " + orjson.dumps({"type": kind, **fields}) + b"\n\n"


def events(reply: Said, model: str = "claude") -> list[bytes]:
    """A message as the events Anthropic streams it in: each block opened, filled in pieces and closed."""
    usage = {**_USAGE, **reply.usage}
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": model, "content": []}
    first = {**head, "stop_reason": None, "stop_sequence": None, "usage": {**usage, "output_tokens": 1}}
    found = [event("message_start", message=first), event("ping")]
    for index, block in enumerate(reply.content):
        found.append(event("content_block_start", index=index, content_block=_empty(block)))
        found += [event("content_block_delta", index=index, delta=delta) for delta in _deltas(block)]
        found.append(event("content_block_stop", index=index))
    ending = {"stop_reason": reply.stop_reason, "stop_sequence": None}
    written = {"output_tokens": 7, **{name: value for name, value in reply.usage.items() if "output" in name}}
    return [*found, event("message_delta", delta=ending, usage=written), event("message_stop")]


def _empty(block: dict[str, Any]) -> dict[str, Any]:
    empty: dict[str, dict[str, Any]] = {
        "text": {"text": ""},
        "thinking": {"thinking": "", "signature": ""},
        "tool_use": {"input": {}},
    }
    return {**block, **empty.get(block["type"], {})}


def _deltas(block: dict[str, Any]) -> list[dict[str, Any]]:
    if block["type"] == "text":
        return [{"type": "text_delta", "text": piece} for piece in _pieces(block["text"])]
    if block["type"] == "thinking":
        said = [{"type": "thinking_delta", "thinking": piece} for piece in _pieces(block["thinking"])]
        return [*said, {"type": "signature_delta", "signature": block["signature"]}]
    if block["type"] == "tool_use":
        text = orjson.dumps(block["input"]).decode() if block["input"] else ""
        return [{"type": "input_json_delta", "partial_json": piece} for piece in ("", *_pieces(text))]
    return []


def _pieces(text: str) -> list[str]:
    return [text[start : start + 6] for start in range(0, len(text), 6)]


def _error(status: int, kind: str, message: str, headers: dict[str, str] | None = None) -> web.Response:
    body = {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}
    return web.json_response(body, status=status, headers=headers)


def _refused(body: dict[str, Any], request: web.Request) -> tuple[int, str, str] | None:
    """Say what Anthropic would not take of a request."""
    if request.headers.get("x-api-key") != KEY:
        return 401, "authentication_error", "invalid x-api-key"
    faults = [
        *([] if request.headers.get("anthropic-version") == "2023-06-01" else ["anthropic-version: missing"]),
        *(f"{name}: Extra inputs are not permitted" for name in sorted(body.keys() - _KNOWN)),
        *_sampling_faults(body),
        *_turn_faults(body["messages"]),
    ]
    if not request.path.endswith("/count_tokens") and not body.get("max_tokens"):
        faults.append("max_tokens: Field required")
    return (400, "invalid_request_error", faults[0]) if faults else None


def _sampling_faults(body: dict[str, Any]) -> list[str]:
    faults = []
    thinking = body.get("thinking", {"type": "disabled"})
    if thinking["type"] != "disabled":
        if body.get("temperature", 1) != 1 or "top_k" in body or body.get("top_p", 1) < 0.95:
            faults.append("temperature, top_p or top_k with thinking")
        if body.get("tool_choice", {}).get("type") in ("any", "tool"):
            faults.append("Thinking may not be enabled when tool_choice forces tool use.")
    if thinking["type"] == "enabled" and not 1024 <= thinking["budget_tokens"] < body.get("max_tokens", 10**9):
        faults.append("thinking.budget_tokens")
    if body.get("temperature", 0) > 1:
        faults.append("temperature: range: 0..1")
    if "tool_choice" in body and not body.get("tools"):
        faults.append("tool_choice may only be specified while providing tools")
    return faults


def _turn_faults(turns: list[dict[str, Any]]) -> list[str]:
    faults = []
    waiting: set[str] = set()
    for place, turn in enumerate(turns):
        if place and turns[place - 1]["role"] == turn["role"]:
            faults.append(f"messages.{place}: two turns of the {turn['role']}")
        blocks = turn["content"]
        given = {block["tool_use_id"] for block in blocks if block["type"] == "tool_result"}
        if given != waiting:
            faults.append(f"messages.{place}: tool_use ids {sorted(waiting)} and results {sorted(given)} differ")
        waiting = {block["id"] for block in blocks if block["type"] == "tool_use"}
        if any(block["type"] == "text" and not block["text"] for block in blocks):
            faults.append(f"messages.{place}: text content blocks must be non-empty")
        if any(block["type"] == "thinking" and not block["signature"] for block in blocks):
            faults.append(f"messages.{place}: thinking without signature")
    return faults
