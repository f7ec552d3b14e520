"""One HTTP request and its answer: credentials, body, departure of the client, headers and bytes out."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Self

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from metier.api import failures
from metier.api.frame import record, request_id
from metier.calls import Call, CallId, ConversationId, Reuse
from metier.errors import Broken, Invalid, MetierError, Mistaken, NotAuthenticated

__all__ = ["BODY_LIMIT", "Exchange", "Headers", "Presence"]

BODY_LIMIT = 8 * 1024 * 1024
"""Bytes of a request body above which it is refused with 413."""

Headers = list[tuple[bytes, bytes]]

_JSON = (b"content-type", b"application/json")
_TEXT = (b"content-type", b"text/plain; charset=utf-8")
_SSE = (b"content-type", b"text/event-stream; charset=utf-8")
_CONVERSATION = re.compile(r"[\w.:-]{1,128}", re.ASCII)
_UNSAFE = re.compile(rb"[^\x20-\x7e]")
_REUSES: Mapping[bytes, Reuse] = {b"usual": "usual", b"off": "off", b"refresh": "refresh", b"only": "only"}
_CREDENTIALS = (b"x-api-key", b"api-key", b"x-goog-api-key")


class Exchange:
    """Reads one request and writes its answer, or the refusal it comes to."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._headers: dict[bytes, bytes] = dict(scope["headers"])
        self.path: str = scope["path"]
        self._scope = scope
        self._call: CallId | None = None
        self._limits: Callable[[], Awaitable[Headers]] | None = None
        self.started = False
        """True once the status has been sent: from there on errors go into the stream."""

    @property
    def id(self) -> str:
        """What the client finds in x-request-id: the id of the call, where there is one."""
        return self._call or request_id(self._scope)

    def name(self, call: CallId, limits: Callable[[], Awaitable[Headers]] | None = None) -> None:
        """Take the id of the call as that of the request; `limits` tells what its headers say of what is left."""
        self._call = call
        self._limits = limits

    def secret(self) -> str:
        """Find the key the client presents, in any of the four usual headers, each at most once."""
        sent = [name for name, _ in self._scope["headers"] if name in (b"authorization", *_CREDENTIALS)]
        if len(set(sent)) != len(sent):
            # What stands in front may have looked at the other one.
            raise NotAuthenticated(f"{self.path!r} was sent two keys in one header: send each header of a key once")
        scheme, _, bearer = self._headers.get(b"authorization", b"").partition(b" ")
        found = bearer.strip() if scheme.lower() == b"bearer" else b""
        for name in _CREDENTIALS:
            found = found or self._headers.get(name, b"").strip()
        if not found:
            raise NotAuthenticated(
                f"{self.path!r} needs a key: send it as `Authorization: Bearer sk-mt-…`, x-api-key, api-key or "
                "x-goog-api-key"
            )
        return found.decode("latin-1")

    def conversation(self) -> ConversationId | None:
        """Read which conversation the call belongs to, from x-metier-conversation."""
        raw = self._headers.get(b"x-metier-conversation")
        if raw is None:
            return None
        name = raw.decode("latin-1")
        if not _CONVERSATION.fullmatch(name):
            raise Invalid(
                f"x-metier-conversation is {name[:60]!r}: use 1 to 128 letters, digits, '.', ':', '_' or '-'",
                param="x-metier-conversation",
            )
        return ConversationId(name)

    def wanting(self, call: Call) -> Call:
        """Give the call what its client wants of kept answers: x-metier-cache, or cache-control: no-store."""
        raw = self._headers.get(b"x-metier-cache")
        wanted = _REUSES.get(b"usual" if raw is None else raw.strip().lower())
        if wanted is None:
            raise Invalid(
                f"x-metier-cache is {(raw or b'')[:60].decode('latin-1')!r}: say off, refresh or only, or leave it out",
                param="x-metier-cache",
            )
        if b"no-store" in self._headers.get(b"cache-control", b"").lower():
            wanted = "off"
        return call if wanted == "usual" else replace(call, reuse=wanted)

    def content_type(self) -> bytes:
        """Read what the body is said to be."""
        return self._headers.get(b"content-type", b"")

    async def body(self, limit: int = BODY_LIMIT) -> bytes | None:
        """Read the request body; None says it was over the limit and has been answered 413."""
        if self._headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise Mistaken("the request body is compressed: send it without content-encoding")
        announced = self._headers.get(b"content-length", b"")
        if announced.isdigit() and len(announced) <= 18 and int(announced) > limit:
            await self._too_large(limit)
            return None
        parts: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            part: bytes = message.get("body", b"")
            size += len(part)
            if size > limit:
                await self._too_large(limit)
                return None
            if not message.get("more_body", False):
                return part if not parts else b"".join([*parts, part])
            parts.append(part)

    def presence(self, after_s: float = 0.0) -> Presence:
        """Watch for the departure of the client while a block runs, or once it has run for a while.

        Only once the body is read.
        """
        return Presence(self._receive, after_s=after_s)

    async def json(self, body: bytes, headers: Headers | None = None, status: int = 200) -> None:
        """Answer with a whole JSON body."""
        await self._start(status, [_JSON, (b"content-length", b"%d" % len(body)), *(headers or ())])
        await self._send({"type": "http.response.body", "body": body})

    async def text(self, body: str, headers: Headers) -> None:
        """Answer with a plain text."""
        data = body.encode("utf-8", "replace")
        await self._start(200, [_TEXT, (b"content-length", b"%d" % len(data)), *headers])
        await self._send({"type": "http.response.body", "body": data})

    async def raw(self, body: bytes, content_type: str) -> None:
        """Answer with a whole body of another type."""
        named = (b"content-type", content_type.encode())
        await self._start(200, [named, (b"content-length", b"%d" % len(body))])
        await self._send({"type": "http.response.body", "body": body})

    async def open_stream(self, headers: Headers) -> None:
        """Answer 200 and begin a stream of server-sent events."""
        await self._start(200, [_SSE, (b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"), *headers])

    async def write(self, data: bytes) -> None:
        """Send a piece of the stream."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def close_stream(self, data: bytes) -> None:
        """Send the last piece of the stream."""
        await self._send({"type": "http.response.body", "body": data})

    async def run(self, handle: Callable[[Self], Awaitable[None]]) -> None:
        """Let `handle` answer, and turn whatever it raises into an answer of OpenAI's shape."""
        try:
            await handle(self)
            return
        except ClientDisconnect:
            return
        except MetierError as error:
            failure: MetierError = error
            unexpected: Exception | None = error.__cause__ if isinstance(error, Broken) else None  # type: ignore[assignment]
        except Exception as error:  # noqa: BLE001  # the edge of the process: recorded, and answered 500
            failure = Broken(f"request {self.id!r} failed inside Métier; report this id to whoever runs it")
            unexpected = error
        if failure.status >= 500:
            record(self.id, self.path, failure.code, unexpected, failure)
        await self._refuse(failure)

    async def _refuse(self, error: MetierError) -> None:
        data = failures.body(error)
        if self.started:
            await self.close_stream(b"data: " + data + b"\n\n")
        else:
            await self.json(data, failures.headers(error), error.status)

    async def _too_large(self, limit: int) -> None:
        text = f"the request body is over {limit} bytes: send less, or in several requests"
        data = failures.plain_body(413, text, "too_large")
        await self.json(data, [(b"connection", b"close"), (b"x-should-retry", b"false")], 413)

    async def _start(self, status: int, headers: Headers) -> None:
        named = [pair if _UNSAFE.search(pair[1]) is None else (pair[0], _UNSAFE.sub(b"?", pair[1])) for pair in headers]
        if self._limits is not None:
            named.extend(await self._limits())
        self.started = True
        named.append((b"x-request-id", self.id.encode()))
        await self._send({"type": "http.response.start", "status": status, "headers": named})


class Presence:
    """A block that is cancelled when the client leaves, and then raises ClientDisconnect.

    It listens at once, or `after_s` seconds later: what ends before that need not pay for it.
    """

    def __init__(self, receive: Receive, again_s: float = 1.0, after_s: float = 0.0) -> None:
        self._receive = receive
        self._again_s = again_s
        self._after_s = after_s
        self._cancels = 0
        self._later: asyncio.TimerHandle | None = None
        self._watch: asyncio.Task[None] | None = None

    async def __aenter__(self) -> None:
        """Begin to listen; the request body must have been read."""
        task = asyncio.current_task()
        assert task is not None
        self._inside = task
        if self._after_s:
            self._later = asyncio.get_running_loop().call_later(self._after_s, self._listening)
        else:
            self._listening()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop listening; a cancellation of our own making becomes ClientDisconnect."""
        if self._later is not None:
            self._later.cancel()
        if self._watch is not None:
            self._watch.cancel()
        ours = self._cancels > 0
        for _ in range(self._cancels):
            ours = self._inside.uncancel() == 0
        if ours and kind is asyncio.CancelledError:
            raise ClientDisconnect from error

    def _listening(self) -> None:
        self._watch = asyncio.get_running_loop().create_task(self._listen())

    async def _listen(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        while True:
            self._cancels += 1
            self._inside.cancel()
            # On Python 3.11 wait_for, and so psycopg, may swallow a cancellation: the client would be served for ever.
            await asyncio.sleep(self._again_s)
