"""A provider that writes down every request it served, and has outages when it is told to.

    python bench/day_provider.py PORT JOURNAL

Two houses, /a/v1 and /b/v1, speak OpenAI's chat completions and embeddings. What a request is answered with follows
from the mark its text carries, so that the books can be made again from the marks alone. `POST /mode {"a": "hang"}`
begins an outage: hang, storm (429), error (500), cut (the connection ends midway), or ok. `POST /flush` writes the
journal out: one JSON line a request with mark, house, what happened, tokens counted, when it came and when it ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import pathlib
import re
import sys
import time
import zlib
from collections.abc import Sequence
from typing import TextIO, cast

import uvloop

MARK = re.compile(rb"mk[a-p]{10}q")
PLACEHOLDER = re.compile(r"\[\[[^\[\]]{2,40}\d\]\]")
PERSONAL = b"@exemple.fr"
SLOWLY = b"lentement"
MODES = ("ok", "hang", "storm", "error", "cut")
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_REASONS = {200: b"OK", 400: b"Bad Request", 429: b"Too Many Requests", 500: b"Internal Server Error"}


def script(mark: str) -> tuple[int, int, float]:
    """What a request with this mark is answered with: prompt tokens, pieces of the answer, seconds to the first."""
    number = zlib.crc32(mark.encode())
    return 30 + number % 41, 4 + number // 41 % 17, 0.004 + number // 697 % 16 / 1000


def frame(data: bytes) -> bytes:
    """One piece of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(delta: dict[str, object] | None, finish: str | None = None, usage: object = None) -> bytes:
    """One server-sent event of a chat completion, framed."""
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    body = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices}
    told = body if usage is None else body | {"usage": usage}
    return frame(b"data: " + json.dumps(told).encode() + b"\n\n")


class Journal:
    """What was asked and what was given, one line a request."""

    def __init__(self, path: pathlib.Path) -> None:
        self.modes = {"a": "ok", "b": "ok"}
        self.hanging: set[Served] = set()
        self._file: TextIO = path.open("w", encoding="utf-8")

    def note(self, served: Served, happened: str, tokens: int) -> None:
        """Write down how a request ended."""
        line = [served.mark, served.house, served.operation, happened, served.prompt, tokens,
                served.began, served.first, time.time()]  # fmt: skip
        self._file.write(json.dumps(line) + "\n")

    def flush(self) -> None:
        """Write out what was kept in memory."""
        self._file.flush()


class Served:
    """One request while it is answered."""

    def __init__(self, wire: Wire, house: str, operation: str, body: bytes) -> None:
        marks = MARK.findall(body)
        # A conversation that goes on carries the marks of its earlier turns before its own.
        self.mark = marks[-1].decode() if marks else ""
        self.house, self.operation = house, operation
        self.began = time.time()
        self.first = 0.0
        self.prompt, self.pieces, self.delay = script(self.mark)
        self.wire = wire
        self.sent = 0
        self.over = False
        self.stream = b'"stream":true' in body or b'"stream": true' in body
        self.tools = b'"tools"' in body and b'"tool_calls"' not in body
        self.texts = max(1, len(marks)) if operation == "embed" else 1
        self.echo = self._echo(body)
        self.pause = 0.2 if SLOWLY in body else 0.004
        self.leaked = PERSONAL in body

    def end(self, happened: str, tokens: int) -> None:
        """Note it once."""
        if not self.over:
            self.over = True
            self.wire.journal.hanging.discard(self)
            self.wire.journal.note(self, "leaked" if self.leaked else happened, tokens)

    def words(self) -> list[str]:
        """The pieces of the answer; placeholders found in the question stand in it, each cut in two."""
        words = [f"mot{n} " for n in range(self.pieces - 1)]
        if self.echo:
            found = " ".join(self.echo)
            words[:2] = [found[:5], found[5:] + " "]
        return [*words, f"fin {self.mark}"]

    @staticmethod
    def _echo(body: bytes) -> list[str]:
        if b"[[" not in body:
            return []
        return list(dict.fromkeys(PLACEHOLDER.findall(body.decode("utf-8", "replace"))))


class Wire(asyncio.Protocol):
    """Reads requests with a content-length, one after the other, and answers each."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self._data = b""
        self._now: Served | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to answer."""
        # uvloop's transports do not inherit from asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Note a request whose asker left."""
        if self._now is not None:
            self._now.end("left", self._now.sent)

    def data_received(self, data: bytes) -> None:
        """Answer every request that is complete."""
        self._data += data
        while (end := self._data.find(b"\r\n\r\n")) >= 0:
            head = self._data[:end]
            found = _LENGTH.search(head)
            size = int(found[1]) if found else 0
            if len(self._data) < end + 4 + size:
                return
            body, self._data = self._data[end + 4 : end + 4 + size], self._data[end + 4 + size :]
            self._asked(head.split(b" ", 2)[1].decode(), body)

    def _asked(self, path: str, body: bytes) -> None:
        if path == "/mode":
            self.journal.modes |= json.loads(body)
            for hanging in list(self.journal.hanging):
                hanging.wire._transport.abort()
            self._answer(200, b"{}")
            return
        if path == "/flush":
            self.journal.flush()
            self._answer(200, b"{}")
            return
        served = Served(self, path[1], "embed" if path.endswith("embeddings") else "chat", body)
        self._now = served
        match self.journal.modes[served.house]:
            case "hang":
                self.journal.hanging.add(served)
            case "storm":
                served.end("storm", 0)
                self._answer(429, b'{"error":{"message":"slow down","code":"rate_limit_exceeded"}}', "retry-after: 1")
            case "error":
                served.end("error", 0)
                self._answer(500, b'{"error":{"message":"broken"}}')
            case mode:
                asyncio.get_running_loop().call_later(served.delay, self._begin, served, mode == "cut")

    def _begin(self, served: Served, cut: bool) -> None:
        if self._transport.is_closing():
            return
        served.first = time.time()
        if served.operation == "embed":
            vectors = [{"index": n, "embedding": [0.25, 0.5, 0.125, 1.0]} for n in range(served.texts)]
            usage = {"prompt_tokens": served.prompt, "total_tokens": served.prompt}
            self._whole(served, {"object": "list", "data": vectors, "model": "m", "usage": usage}, 0, cut)
        elif served.stream:
            head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            self._transport.write(head)
            self._pieces(served, self._deltas(served), cut)
        else:
            self._whole(served, self._completion(served), served.pieces, cut)

    def _whole(self, served: Served, told: dict[str, object], tokens: int, cut: bool) -> None:
        data = json.dumps(told).encode()
        if cut:
            self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
                                  % (len(data), data[: len(data) // 2]))  # fmt: skip
            served.end("cut", tokens)
            self._transport.close()
            return
        self._answer(200, data)
        served.end("served", tokens)

    def _pieces(self, served: Served, deltas: Sequence[dict[str, object]], cut: bool) -> None:
        """Send a third of the stream, and the rest a little later."""
        if self._transport.is_closing():
            return
        now, later = deltas[: max(1, served.pieces // 3)], deltas[max(1, served.pieces // 3) :]
        served.sent += len(now)
        data = b"".join([event(delta) for delta in now])
        if cut and served.sent > 1:
            self._transport.write(data)
            served.end("cut", served.sent)
            self._transport.close()
        elif later:
            self._transport.write(data)
            asyncio.get_running_loop().call_later(served.pause, self._pieces, served, later, cut)
        else:
            usage = {"prompt_tokens": served.prompt, "completion_tokens": served.pieces}
            finish = "tool_calls" if served.tools else "stop"
            data += event({}, finish) + event(None, usage=usage) + frame(b"data: [DONE]\n\n") + b"0\r\n\r\n"
            self._transport.write(data)
            served.end("served", served.pieces)

    @staticmethod
    def _deltas(served: Served) -> list[dict[str, object]]:
        if not served.tools:
            return [{"content": word} for word in served.words()]
        call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "find", "arguments": ""}}
        parts = ['{"text": "', *["x"] * (served.pieces - 3), f'{served.mark}"}}']
        return [{"tool_calls": [call]}, *({"tool_calls": [{"index": 0, "function": {"arguments": p}}]} for p in parts)]

    @staticmethod
    def _completion(served: Served) -> dict[str, object]:
        message: dict[str, object] = {"role": "assistant", "content": "".join(served.words())}
        if served.tools:
            function = {"name": "find", "arguments": json.dumps({"text": served.mark})}
            message = {"role": "assistant", "content": None,
                       "tool_calls": [{"id": "call_1", "type": "function", "function": function}]}  # fmt: skip
        choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if served.tools else "stop"}
        usage = {"prompt_tokens": served.prompt, "completion_tokens": served.pieces}
        return {"id": "c", "object": "chat.completion", "model": "m", "choices": [choice], "usage": usage}

    def _answer(self, status: int, body: bytes, more: str = "x-none: 0") -> None:
        head = b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n%b\r\n\r\n"
        self._transport.write(head % (status, _REASONS[status], len(body), more.encode()) + body)


async def main(port: int, path: pathlib.Path) -> None:
    """Serve until killed."""
    journal = Journal(path)
    server = await asyncio.get_running_loop().create_server(lambda: Wire(journal), "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(main(int(sys.argv[1]), pathlib.Path(sys.argv[2])))
