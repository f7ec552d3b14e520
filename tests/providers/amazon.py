"""A server on loopback that answers like Amazon Bedrock: it checks signatures by itself and speaks in frames."""

from __future__ import annotations

import asyncio
import binascii
import hashlib
import hmac
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any
from urllib.parse import quote

import orjson
from aiohttp import web

from tests.providers.replies import Reply, give, running

__all__ = ["KEY_ID", "REGION", "SECRET", "TOKEN", "Amazon", "Reply", "amazon", "event", "exception", "frame", "stream"]

KEY_ID = "AKIDEXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
TOKEN = "lent-for-an-hour/+=="
REGION = "eu-west-3"
_FIVE_MINUTES = 300


def frame(headers: dict[str, str], payload: bytes) -> bytes:
    """One message of an event stream, all its headers texts."""
    head = b"".join(
        bytes([len(name)]) + name.encode() + b"\x07" + struct.pack(">H", len(value.encode())) + value.encode()
        for name, value in headers.items()
    )
    prelude = struct.pack(">II", 16 + len(head) + len(payload), len(head))
    body = prelude + struct.pack(">I", binascii.crc32(prelude)) + head + payload
    return body + struct.pack(">I", binascii.crc32(body))


def event(kind: str, payload: Any) -> bytes:
    """One event of an answer."""
    headers = {":event-type": kind, ":content-type": "application/json", ":message-type": "event"}
    return frame(headers, orjson.dumps(payload))


def exception(kind: str, payload: Any) -> bytes:
    """One failure inside an answer."""
    headers = {":exception-type": kind, ":content-type": "application/json", ":message-type": "exception"}
    return frame(headers, orjson.dumps(payload))


def stream(*texts: str, stop: str = "end_turn", usage: dict[str, int] | None = None) -> bytes:
    """A whole good answer of text."""
    deltas = [event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": text}}) for text in texts]
    figures = usage or {"inputTokens": 11, "outputTokens": 7, "totalTokens": 18}
    return b"".join((
        event("messageStart", {"role": "assistant"}),
        *deltas,
        event("contentBlockStop", {"contentBlockIndex": 0}),
        event("messageStop", {"stopReason": stop}),
        event("metadata", {"usage": figures, "metrics": {"latencyMs": 5}}),
    ))  # fmt: skip


@dataclass(slots=True)
class Amazon:
    """The server while it runs."""

    url: str = ""
    replies: list[Reply] = field(default_factory=list)
    requests: list[Any] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    """As they came, nothing decoded."""
    refused: list[str] = field(default_factory=list)
    """Why requests were not let in."""
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    token: str | None = None
    """The session token that must come with the key."""
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Check who asks, then send the next reply; the last one repeats."""
        body = await request.read()
        date = {"date": format_datetime(self.now, usegmt=True)}
        reason = self._reason(request, body)
        if reason:
            self.refused.append(reason)
            told = {"message": reason}
            name = {"x-amzn-errortype": "InvalidSignatureException"}
            return web.json_response(told, status=403, headers={**date, **name})
        self.requests.append(orjson.loads(body))
        self.paths.append(request.raw_path)
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        streams = request.raw_path.endswith("-stream") and reply.status == 200
        kind = "application/vnd.amazon.eventstream" if streams else "application/json"
        return await give(request, reply, {"content-type": kind, **date}, self.gone, self.released)

    def _reason(self, request: web.Request, body: bytes) -> str:
        headers = request.headers
        told = headers.get("Authorization", "")
        if told == "Bearer bedrock-api-key":
            return ""
        method, _, fields = told.partition(" ")
        parts = dict(part.strip().split("=", 1) for part in fields.split(",") if "=" in part)
        scope = parts.get("Credential", "").split("/")
        if method != "AWS4-HMAC-SHA256" or len(scope) != 5 or scope[0] != KEY_ID:
            return "The security token included in the request is invalid."
        if scope[2:] != [REGION, "bedrock", "aws4_request"]:
            return "Credential should be scoped to a valid region and service."
        at = headers["X-Amz-Date"]
        sent = datetime.strptime(at, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        if abs((sent - self.now).total_seconds()) > _FIVE_MINUTES:
            return f"Signature expired: {at} is not near {self.now}"
        if headers.get("X-Amz-Security-Token") != self.token:
            return "The security token included in the request is expired"
        names = parts["SignedHeaders"].split(";")
        if not {"host", "x-amz-date", *(["x-amz-security-token"] if self.token else [])} <= set(names):
            return "SignedHeaders lacks a header that must be signed"
        path, _, query = request.raw_path.partition("?")
        lines = [request.method, quote(path, safe="/-_.~"), query, *(f"{n}:{headers[n].strip()}" for n in names), ""]
        canonical = "\n".join([*lines, ";".join(names), hashlib.sha256(body).hexdigest()])
        text = "\n".join(["AWS4-HMAC-SHA256", at, "/".join(scope[1:]), hashlib.sha256(canonical.encode()).hexdigest()])
        key = b"AWS4" + SECRET.encode()
        for word in (*scope[1:], text):
            key = hmac.digest(key, word.encode(), "sha256")
        if not hmac.compare_digest(key.hex(), parts["Signature"]):
            return "The request signature we calculated does not match the signature you provided."
        return ""


@asynccontextmanager
async def amazon(*replies: Reply) -> AsyncIterator[Amazon]:
    """Run the server on a free port of loopback."""
    server = Amazon(replies=list(replies))
    async with running({"/{path:.*}": server.handle}, server.released) as server.url:
        yield server
