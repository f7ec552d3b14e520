"""A provider that answers at once and always the same: what is measured behind it is not its own time.

python bench/mock_upstream.py PORT [CHUNKS] [PAUSE_S]     PAUSE_S > 0 sends the chunks one by one, that far apart
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from typing import cast

import uvloop

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
USAGE = {"prompt_tokens": 90, "completion_tokens": 100, "total_tokens": 190}
TEXT = " ".join(f"mot{n}" for n in range(100))


def frame(data: bytes) -> bytes:
    """One piece of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(choices: list[dict[str, object]], **more: object) -> bytes:
    """One server-sent event of a chat completion, framed."""
    body = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices, **more}
    return frame(b"data: " + json.dumps(body).encode() + b"\n\n")


def stream(chunks: int) -> list[bytes]:
    """The pieces of a whole stream."""
    words = [event([{"index": 0, "delta": {"content": f"mot{n} "}, "finish_reason": None}]) for n in range(chunks)]
    ending = event([{"index": 0, "delta": {}, "finish_reason": "stop"}]) + event([], usage=USAGE)
    return [*words, ending + frame(b"data: [DONE]\n\n") + b"0\r\n\r\n"]


def whole() -> bytes:
    """The answer to a request that does not ask for a stream."""
    message = {"role": "assistant", "content": TEXT}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    body = json.dumps({"id": "c", "object": "chat.completion", "choices": [choice], "usage": USAGE}).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


class Mock(asyncio.Protocol):
    """Reads requests with a content-length, one after the other, and answers each."""

    def __init__(self, chunks: int, pause_s: float) -> None:
        self._pieces = stream(chunks)
        self._burst = HEAD + b"".join(self._pieces)
        self._whole = whole()
        self._pause_s = pause_s
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to answer."""
        # uvloop's transports do not inherit from asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Answer every request that is complete."""
        self._data += data
        while (end := self._data.find(b"\r\n\r\n")) >= 0:
            head = self._data[:end].lower()
            at = head.find(b"content-length:")
            size = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._data) < end + 4 + size:
                return
            body, self._data = self._data[end + 4 : end + 4 + size], self._data[end + 4 + size :]
            if b'"stream":true' not in body.replace(b" ", b""):
                self._transport.write(self._whole)
            elif self._pause_s:
                self._transport.write(HEAD)
                self._next(0)
            else:
                self._transport.write(self._burst)

    def _next(self, number: int) -> None:
        if self._transport.is_closing():
            return
        self._transport.write(self._pieces[number])
        if number + 1 < len(self._pieces):
            asyncio.get_running_loop().call_later(self._pause_s, self._next, number + 1)


async def main(port: int, chunks: int, pause_s: float) -> None:
    """Serve until killed."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Mock(chunks, pause_s), "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    given = [*sys.argv[1:], *["9100", "100", "0"][len(sys.argv) - 1 :]]
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(main(int(given[0]), int(given[1]), float(given[2])))
