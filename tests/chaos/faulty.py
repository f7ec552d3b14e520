"""A provider that misbehaves on demand: one server on loopback, speaking the formats of four providers byte by byte.

Beside them it lends the tokens that two clouds want before they answer, and misbehaves at that too.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias
from urllib.parse import unquote

import orjson

from tests import fake_anthropic, upstream
from tests.providers import amazon, google

__all__ = [
    "CLOUDS", "FORMATS", "USAGE", "WIRES", "Act", "Asked", "Faulty", "Format", "Maker", "Piece", "Script", "chunked",
    "counted", "embedding", "faulty", "good", "head", "lent", "pieces", "refusal", "reported", "whole",
]  # fmt: skip

Format = Literal["openai", "anthropic", "gemini", "bedrock"]
FORMATS: tuple[Format, ...] = ("openai", "anthropic", "gemini", "bedrock")
Maker = Literal["openai", "anthropic", "gemini", "bedrock", "azure", "vertex"]
CLOUDS: tuple[Maker, ...] = ("azure", "vertex")
"""Those who answer in the format of another, at addresses of their own, to whoever has a token."""
WIRES: Mapping[Maker, Format] = {
    "openai": "openai", "anthropic": "anthropic", "gemini": "gemini", "bedrock": "bedrock",
    "azure": "openai", "vertex": "gemini",
}  # fmt: skip
"""The format each of them speaks."""
USAGE = (11, 7)
"""Input and output tokens that a good answer counts."""

_CODE = re.compile(rb"\[\[[A-Z_]+\d+\]\]")
_CELL = re.compile(r"cell-\d+-\d+")
_KINDS: Mapping[Format, str] = {"bedrock": "application/vnd.amazon.eventstream"}


@dataclass(frozen=True, slots=True)
class Piece:
    """One event of an answer."""

    kind: Literal["open", "text", "finish", "usage", "done"]
    """"finish" may carry the usage too; "done" says that nothing follows."""
    data: bytes


@dataclass(slots=True)
class Asked:
    """One request as it came."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    hanging: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once everything before a "hang" was sent."""

    @property
    def texts(self) -> tuple[str, ...]:
        """What a good answer says: it quotes a placeholder of the request, cut in the middle."""
        found = _CODE.search(self.body)
        code = "" if found is None else found[0].decode()
        return ("Bonjour ", code[:5], code[5:], ", à bientôt.")

    @property
    def streams(self) -> bool:
        """Whether a stream is asked for, where the format leaves the choice."""
        return b'"stream":false' not in self.body

    @property
    def echo(self) -> str:
        """What careless servers put into their messages: every header, credentials too, and the prompt."""
        return " ".join(f"{name}: {value}" for name, value in self.headers.items()) + " " + "".join(self.texts)


Act: TypeAlias = bytes | Literal["hang", "cut", "close", "pause"]
"""Bytes to send; silence until the caller leaves; a broken connection; a closed one; a moment for others."""

Script: TypeAlias = Callable[[Asked], Sequence[Act]]


@dataclass(slots=True)
class Faulty:
    """The server while it runs: what it does is chosen by the name of the cell in the model asked for."""

    port: int = 0
    scripts: dict[str, Script] = field(default_factory=dict)
    asked: dict[str, list[Asked]] = field(default_factory=dict)
    lending: dict[str, Script] = field(default_factory=dict)
    """How a cell gets its token, where not well."""
    lent: dict[str, list[Asked]] = field(default_factory=dict)
    """Requests for tokens, by the cell they name; those of the others under no name."""
    midway: int = 0
    """Connections whose answer has begun and neither ended nor been left."""
    _came: dict[str, asyncio.Event] = field(default_factory=dict)
    _serving: set[asyncio.Task[None]] = field(default_factory=set)

    def url(self, kind: Maker) -> str:
        """The address for a kind of provider."""
        paths = {"openai": "/v1", "gemini": "/v1beta", "vertex": "/v1"}
        return f"http://127.0.0.1:{self.port}" + paths.get(kind, "")

    def came(self, cell: str) -> asyncio.Event:
        """Set when a request of the cell is in a "hang"."""
        return self._came.setdefault(cell, asyncio.Event())

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            while (asked := await _request(reader)) is not None:
                found = _CELL.search(unquote(asked.path)) or _CELL.search(asked.body.decode("utf-8", "replace"))
                cell = "" if found is None else found[0]
                lending = "/token" in asked.path
                (self.lent if lending else self.asked).setdefault(cell, []).append(asked)
                script = self.lending.get(cell, lent) if lending else self.scripts[cell]
                self.midway += 1
                try:
                    if not await self._play(script(asked), cell, reader, writer):
                        return
                finally:
                    self.midway -= 1
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            return
        finally:
            self._serving.discard(task)
            writer.close()

    async def end(self) -> None:
        """Let go of every connection that is still open."""
        serving = tuple(self._serving)
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)

    async def _play(
        self, acts: Sequence[Act], cell: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Do what the script says; False when the connection is over."""
        for act in acts:
            if isinstance(act, bytes):
                writer.write(act)
                await writer.drain()
            elif act == "pause":
                await asyncio.sleep(0.02)
            elif act == "hang":
                self.came(cell).set()
                await reader.read()
                return False
            elif act == "cut":
                writer.transport.abort()
                return False
            else:
                return False
        return True


@asynccontextmanager
async def faulty() -> AsyncIterator[Faulty]:
    """Run the server on a free port of loopback."""
    made = Faulty()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        await made.end()


async def _request(reader: asyncio.StreamReader) -> Asked | None:
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = raw.decode("latin-1").rstrip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Asked(first.split(" ")[1], headers, body)


def head(kind: str, status: int = 200, **headers: str) -> bytes:
    """The head of an answer that comes in chunks."""
    told = {"content-type": kind, "transfer-encoding": "chunked", **headers}
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in told.items())
    return f"HTTP/1.1 {status} Said\r\n{lines}\r\n".encode()


def chunked(data: bytes) -> bytes:
    """One chunk of a body; none ends it."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def counted(kind: Format, given: float, made: float) -> dict[str, Any]:
    """A usage as this kind of provider writes it."""
    if kind == "openai":
        return {"prompt_tokens": given, "completion_tokens": made, "total_tokens": given + made}
    if kind == "anthropic":
        return {"input_tokens": given, "output_tokens": made}
    if kind == "gemini":
        return {"promptTokenCount": given, "candidatesTokenCount": made, "totalTokenCount": given + made}
    return {"inputTokens": given, "outputTokens": made, "totalTokens": given + made}


def pieces(kind: Format, texts: Sequence[str], usage: dict[str, Any] | None) -> list[Piece]:
    """A good stream, event by event; without a usage none of its events has any."""
    return {"openai": _openai, "anthropic": _anthropic, "gemini": _gemini, "bedrock": _bedrock}[kind](texts, usage)


def _openai(texts: Sequence[str], usage: dict[str, Any] | None) -> list[Piece]:
    said = [Piece("text", upstream.event({"content": text})) for text in texts]
    told = b"data: " + orjson.dumps({"id": "c", "choices": [], "usage": usage}) + b"\n\n"
    return [
        Piece("open", upstream.event({"role": "assistant", "content": ""})),
        *said,
        Piece("finish", upstream.event(finish="stop")),
        *([] if usage is None else [Piece("usage", told)]),
        Piece("done", b"data: [DONE]\n\n"),
    ]


def _anthropic(texts: Sequence[str], usage: dict[str, Any] | None) -> list[Piece]:
    event = fake_anthropic.event
    first: dict[str, Any] = {"id": "m", "type": "message", "role": "assistant", "content": [], "stop_reason": None}
    if usage is not None:
        first["usage"] = {**usage, "output_tokens": 1}
    said = [
        Piece("text", event("content_block_delta", index=0, delta={"type": "text_delta", "text": text}))
        for text in texts
    ]
    end: dict[str, Any] = {"delta": {"stop_reason": "end_turn", "stop_sequence": None}}
    if usage is not None:
        end["usage"] = usage
    return [
        Piece("open", event("message_start", message=first)),
        Piece("open", event("content_block_start", index=0, content_block={"type": "text", "text": ""})),
        *said,
        Piece("open", event("content_block_stop", index=0)),
        Piece("usage", event("message_delta", **end)),
        Piece("done", event("message_stop")),
    ]


def _gemini(texts: Sequence[str], usage: dict[str, Any] | None) -> list[Piece]:
    said = [
        Piece("text", google.event(candidates=[{"content": {"role": "model", "parts": [{"text": text}]}, "index": 0}]))
        for text in texts
    ]
    told = {} if usage is None else {"usageMetadata": usage}
    return [*said, Piece("finish", google.event(candidates=[{"finishReason": "STOP", "index": 0}], **told))]


def _bedrock(texts: Sequence[str], usage: dict[str, Any] | None) -> list[Piece]:
    event = amazon.event
    said = [Piece("text", event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": t}})) for t in texts]
    told: dict[str, Any] = {"metrics": {"latencyMs": 5}}
    if usage is not None:
        told["usage"] = usage
    return [
        Piece("open", event("messageStart", {"role": "assistant"})),
        *said,
        Piece("open", event("contentBlockStop", {"contentBlockIndex": 0})),
        Piece("finish", event("messageStop", {"stopReason": "end_turn"})),
        Piece("done", event("metadata", told)),
    ]


def whole(texts: Sequence[str], usage: dict[str, Any] | None) -> bytes:
    """A good answer in one piece, which only servers of OpenAI's format are asked for."""
    message = {"role": "assistant", "content": "".join(texts)}
    body = {"id": "c", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage}
    return orjson.dumps(body)


def embedding(kind: Maker, usage: float | None) -> bytes:
    """A good answer with one vector."""
    if kind == "vertex":
        told = {} if usage is None else {"statistics": {"token_count": usage}}
        return orjson.dumps({"predictions": [{"embeddings": {"values": [0.5, 0.25], **told}}]})
    if kind in ("openai", "azure"):
        told = {} if usage is None else {"usage": {"prompt_tokens": usage, "total_tokens": usage}}
        return orjson.dumps({"data": [{"index": 0, "embedding": [0.5, 0.25]}], **told})
    if kind == "gemini":
        told = {} if usage is None else {"usageMetadata": {"promptTokenCount": usage}}
        return orjson.dumps({"embeddings": [{"values": [0.5, 0.25]}], **told})
    count = {} if usage is None else {"inputTextTokenCount": usage}
    return orjson.dumps({"embedding": [0.5, 0.25], **count})


def good(kind: Format, asked: Asked, usage: dict[str, Any] | None) -> list[Act]:
    """Everything a good answer sends, whole or streamed as it was asked."""
    if not asked.streams:
        return [head("application/json"), chunked(whole(asked.texts, usage)), chunked(b"")]
    stream = pieces(kind, asked.texts, usage)
    return [head(stream_kind(kind)), *(chunked(piece.data) for piece in stream), chunked(b"")]


def stream_kind(kind: Format) -> str:
    """The content type of a stream."""
    return _KINDS.get(kind, "text/event-stream")


def lent(asked: Asked) -> list[Act]:
    """A token for an hour."""
    token = {"access_token": "sk-provider-lent-for-an-hour", "expires_in": 3599, "token_type": "Bearer"}
    return [head("application/json"), chunked(orjson.dumps(token)), chunked(b"")]


def refusal(kind: Format, asked: Asked, status: int, **headers: str) -> list[Act]:
    """A refusal in the shape of the provider, which quotes more than it should."""
    error: dict[str, Any] = {"message": f"refused: {asked.echo}", "type": "some_error", "code": status}
    body = {"message": error["message"]} if kind == "bedrock" else {"type": "error", "error": error}
    return [head("application/json", status, **headers), chunked(orjson.dumps(body)), chunked(b"")]


def reported(kind: Format, asked: Asked) -> bytes:
    """An error inside an answer of status 200."""
    said = f"overloaded: {asked.echo}"
    if kind == "openai":
        return b"data: " + orjson.dumps({"error": {"message": said, "type": "server_error", "code": 500}}) + b"\n\n"
    if kind == "anthropic":
        return fake_anthropic.event("error", error={"type": "overloaded_error", "message": said})
    if kind == "gemini":
        return google.event(error={"code": 503, "message": said, "status": "UNAVAILABLE"})
    return amazon.exception("internalServerException", {"message": said})
