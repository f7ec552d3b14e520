"""The clients of a day: many kinds of calls over raw HTTP/1.1, each remembered as the client saw it."""

from __future__ import annotations

import asyncio
import json
import random
import re
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["KINDS", "Address", "Day", "Phase", "Said", "mark_of", "users"]

_LETTERS = "abcdefghijklmnop"
_CODE = re.compile(rb'"code": ?"([a-z_]+)"')
_TYPE = re.compile(rb'"type": ?"([a-z_]+_error|insufficient_quota)"')
_ENDS = (b"data: [DONE]", b"event: message_stop", b"response.completed")
_SILENCE_S = 90.0
KINDS: Mapping[str, int] = {
    "plain": 28, "stream": 20, "left midway": 6, "left early": 2, "tools": 6, "embeddings": 8, "messages": 5,
    "messages stream": 5, "responses": 5, "repeated": 8, "personal": 6, "mistaken": 1,
}  # fmt: skip
"""Kinds of calls, and how many of a hundred are of each."""
_TOOLS = [{"type": "function", "function": {"name": "find", "parameters": {
    "type": "object", "properties": {"text": {"type": "string"}}}}}]  # fmt: skip


def mark_of(number: int) -> str:
    """A word that names one question, in letters alone, so that nothing takes it for personal data."""
    digits = [_LETTERS[number >> shift & 15] for shift in range(36, -4, -4)]
    return f"mk{''.join(digits)}q"


@dataclass(slots=True)
class Said:
    """One call as its client saw it."""

    mark: str
    kind: str
    key: str
    phase: int
    at: float
    until: float = 0.0
    status: int = 0
    outcome: str = "broken"
    """answered, refused, failed, left (by the client's own will), broken (no end, or none of Métier's), silent."""
    call: str = ""
    code: str = ""
    first_s: float = 0.0
    cost: str = ""
    """Euros, where a header told them."""
    wrong: str = ""
    """What is wrong with an answer that looks right."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where clients go."""

    port: int
    tls: ssl.SSLContext | None = None


@dataclass(slots=True)
class Phase:
    """A part of the day: so many calls at least, at a pace, until what happens meanwhile is over."""

    name: str
    calls: int
    pace: float
    """Calls a second at most."""
    event: Callable[[], Any] | None = None
    began: float = 0.0
    ended: float = 0.0
    made: int = 0
    cpu_s: float = 0.0
    """What the nodes used meanwhile."""
    over: asyncio.Event = field(default_factory=asyncio.Event)


class Day:
    """What all clients share: who calls, with which keys, what has been said, and where in the day they are."""

    def __init__(self, seed: int, secrets: Mapping[str, str], shares: Mapping[str, int], questions: int) -> None:
        self.dice = random.Random(seed)
        self.secrets = dict(secrets)
        """Secrets by the names of keys; changed when a key is rotated."""
        self._names, self._weights = list(shares), list(shares.values())
        self._kinds, self._kind_weights = list(KINDS), list(KINDS.values())
        self._questions = questions
        self.said: list[Said] = []
        self.phase = 0
        self._number = 0

    def next(self) -> Said:
        """Draw the next call."""
        self._number += 1
        kind = self.dice.choices(self._kinds, self._kind_weights)[0]
        key = "repeats" if kind == "repeated" else self.dice.choices(self._names, self._weights)[0]
        number = (1 << 36) + self.dice.randrange(self._questions) if kind == "repeated" else self._number
        said = Said(mark_of(number), kind, key, self.phase, time.time())
        self.said.append(said)
        return said


class _Gone(Exception):
    """The connection ended where an answer was due."""


class _Line:
    """One connection, opened again when it was closed."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def send(self, path: str, secret: str, body: bytes, more: str = "") -> None:
        """Send one request."""
        if self._writer is None or self._writer.is_closing() or (self._reader is not None and self._reader.at_eof()):
            self.hang_up()
            self._reader, self._writer = await asyncio.open_connection(
                "127.0.0.1", self._address.port, ssl=self._address.tls,
                server_hostname="ai.example" if self._address.tls else None,
            )  # fmt: skip
        head = (
            f"POST {path} HTTP/1.1\r\nhost: ai.example\r\nauthorization: Bearer {secret}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n{more}\r\n"
        )
        self._writer.write(head.encode() + body)

    async def head(self) -> tuple[int, dict[str, str]]:
        """Read the status and the headers."""
        assert self._reader is not None
        raw = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in raw[1:] if line)}
        return int(raw[0].split(" ", 2)[1]), headers

    async def whole(self, headers: Mapping[str, str]) -> bytes:
        """Read the rest of an answer."""
        assert self._reader is not None
        if "content-length" in headers:
            data = await self._reader.readexactly(int(headers["content-length"]))
        else:
            parts = []
            while part := await self.piece():
                parts.append(part)
            data = b"".join(parts)
        if headers.get("connection", "") == "close":
            self.hang_up()
        return data

    async def piece(self) -> bytes:
        """Read one piece of a chunked answer; empty at its end."""
        assert self._reader is not None
        size = int((await self._reader.readuntil(b"\r\n")).split(b";")[0], 16)
        data = await self._reader.readexactly(size + 2)
        return data[:-2]

    def hang_up(self) -> None:
        """Leave at once, whatever is under way: a polite end of TLS would wait for the answer first."""
        if self._writer is not None:
            self._writer.transport.abort()
        self._reader = self._writer = None


class _User:
    """Makes one call after the other."""

    def __init__(self, day: Day, address: Address) -> None:
        self._day = day
        self._line = _Line(address)
        self._kept = ""
        """The last response that was stored for this user, to be continued, and the key it belongs to."""

    async def call(self) -> None:
        """Make the next call and remember how it went."""
        said = self._day.next()
        try:
            async with asyncio.timeout(_SILENCE_S):
                await self._make(said)
        except TimeoutError:
            said.outcome = "silent"
            self._line.hang_up()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError, _Gone) as error:
            said.wrong = said.wrong or type(error).__name__
            self._line.hang_up()
        said.until = time.time()

    def close(self) -> None:
        """Leave."""
        self._line.hang_up()

    async def _make(self, said: Said) -> None:
        path, body, more = self._request(said)
        line, began = self._line, time.perf_counter()
        await line.send(path, self._day.secrets[said.key], json.dumps(body, ensure_ascii=False).encode(), more)
        if said.kind == "left early":
            await asyncio.sleep(self._day.dice.uniform(0, 0.02))
            said.outcome = "left"
            line.hang_up()
            return
        said.status, headers = await line.head()
        said.first_s = time.perf_counter() - began
        said.call = headers.get("x-request-id", "")
        said.cost = headers.get("x-metier-cost-eur", "")
        if said.kind == "left midway" and said.status == 200:
            for _ in range(self._day.dice.randrange(3)):
                await line.piece()
            said.outcome = "left"
            line.hang_up()
            return
        self._judge(said, await line.whole(headers), headers)

    def _judge(self, said: Said, data: bytes, headers: Mapping[str, str]) -> None:
        """Say how a call ended; an end that is none of Métier's stays broken."""
        streamed = headers.get("content-type", "").startswith("text/event-stream")
        found = _CODE.search(data) or _TYPE.search(data)
        if said.status == 200 and (not streamed or any(end in data[-600:] for end in _ENDS)):
            said.outcome = "answered"
            self._check(said, data)
        elif found and (said.status >= 400 or streamed):
            said.code = found[1].decode()
            said.outcome = "refused" if 400 <= said.status < 500 else "failed"
            if said.status == 200 and said.code in ("budget_exceeded", "insufficient_quota"):
                said.outcome = "refused"

    def _check(self, said: Said, data: bytes) -> None:
        if said.kind == "embeddings":
            if data.count(b'"embedding":') < 1:
                said.wrong = "no vector"
            return
        text = data if b"data: " not in data[:200] else b"".join(_texts(data))
        if said.mark.encode() not in text:
            said.wrong = "the answer is to another question"
        if said.kind == "personal" and _person(said.mark).encode() not in text:
            said.wrong = "a personal value did not come back"
        if said.kind == "responses":
            told = json.loads(data)
            self._kept = f"{said.key} {told['id']}" if told["store"] else ""

    def _request(self, said: Said) -> tuple[str, dict[str, Any], str]:
        chat, messages = "/v1/chat/completions", "/v1/messages"
        model = "solo" if self._day.dice.random() < 0.15 else "chat"
        asked = f"Où en est mon dossier {said.mark} ?"
        if said.kind == "personal":
            asked = f"Mon adresse est {_person(said.mark)} : où en est mon dossier {said.mark} ?"
        talk = [{"role": "system", "content": "Tu es un conseiller."}, {"role": "user", "content": asked}]
        body: dict[str, Any] = {"model": model, "messages": talk, "max_tokens": 40}
        match said.kind:
            case "stream":
                return chat, body | {"stream": True}, ""
            case "left midway":
                talk[0]["content"] = "Réponds lentement."
                return chat, body | {"stream": True}, ""
            case "left early":
                # The client never hears the name of this call: the books know it by its conversation.
                return chat, body | {"stream": self._day.dice.random() < 0.5}, f"x-metier-conversation: {said.mark}\r\n"
            case "tools":
                return chat, body | {"tools": _TOOLS, "stream": self._day.dice.random() < 0.5}, ""
            case "embeddings":
                return "/v1/embeddings", {"model": "embed", "input": asked}, ""
            case "messages":
                return messages, body | {"messages": talk[1:], "system": "Tu es un conseiller."}, ""
            case "messages stream":
                return messages, body | {"messages": talk[1:], "stream": True}, ""
            case "responses":
                key, _, before = self._kept.partition(" ")
                continued = {"previous_response_id": before} if before and key == said.key else {}
                kept = {"model": model, "input": asked, "max_output_tokens": 40, **continued}
                self._kept = ""
                return "/v1/responses", kept, ""
            case "repeated":
                return chat, body | {"model": "chat", "temperature": 0}, ""
            case "personal":
                return chat, body | {"stream": self._day.dice.random() < 0.5}, ""
            case "mistaken":
                return chat, body | {"model": "none", "messages": talk}, ""
        return chat, body, ""


def _person(mark: str) -> str:
    return f"c{mark[6:]}@exemple.fr"


def _texts(data: bytes) -> Sequence[bytes]:
    """The pieces of text of a stream, put one after the other."""
    found = re.findall(rb'"(?:content|text|arguments|partial_json|delta)": ?"((?:[^"\\]|\\.)*)"', data)
    return [piece.replace(b'\\"', b'"') for piece in found]


async def users(
    day: Day, addresses: Sequence[Address], number: int, phases: Sequence[Phase], used: Callable[[], float]
) -> None:
    """Let so many users live through the phases; `used` tells what the nodes have used so far."""
    for index, phase in enumerate(phases):
        before = used()
        day.phase, phase.began = index, time.time()
        happening = asyncio.create_task(_happen(phase))
        made = [asyncio.create_task(_live(_User(day, addresses[n % len(addresses)]), phase)) for n in range(number)]
        await asyncio.gather(*made)
        await happening
        phase.ended, phase.cpu_s = time.time(), used() - before


async def _happen(phase: Phase) -> None:
    try:
        if phase.event is not None:
            await phase.event()
    finally:
        phase.over.set()


async def _live(user: _User, phase: Phase) -> None:
    while phase.made < phase.calls or not phase.over.is_set():
        due = phase.began + phase.made / phase.pace
        phase.made += 1
        wait = due - time.time()
        if wait > 0:
            await asyncio.sleep(wait)
        await user.call()
    user.close()
