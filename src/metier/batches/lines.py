"""The lines of a batch's file: cut out of bytes as they come, and checked one by one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import orjson

from metier.calls import Answer, Call, Principal
from metier.errors import MetierError
from metier.nesting import DEEPEST, read_deeper

__all__ = ["LINE_LIMIT", "Cut", "Cutter", "Fault", "Prepared", "Request", "Surface", "prepare", "read"]

LINE_LIMIT = 8 * 1024 * 1024
"""Bytes of one line: as many as one request may have."""

_MARK = b"\xef\xbb\xbf"
_LONGEST_NAME = 512


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request a surface has understood: the call it comes to, and how its answer is written."""

    call: Call
    write: Callable[[Answer], bytes]


Surface: TypeAlias = Callable[[bytes, Principal], Prepared]
"""Understands the body of a request as the endpoint does that it is meant for, or raises what that would answer."""


@dataclass(frozen=True, slots=True)
class Cut:
    """One line as it stands in the file."""

    number: int
    """From 1."""
    start: int
    """Where it begins, in bytes."""
    size: int
    data: bytes | None
    """None when it is too long to be looked at."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a line cannot be called."""

    code: str
    message: str
    param: str | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """What a line asks for."""

    custom_id: str
    body: bytes


class Cutter:
    """Cuts bytes into lines as they come, holding one line at most; blank lines count and are left out."""

    def __init__(self, limit: int = LINE_LIMIT) -> None:
        self._limit = limit
        self._held = bytearray()
        self._number = 1
        self._start = 0
        self._skipped = 0
        """Bytes of a line that is too long, thrown away."""

    def feed(self, data: bytes) -> list[Cut]:
        """Take some more bytes and give the lines that end in them."""
        found: list[Cut] = []
        at = 0
        while (end := data.find(b"\n", at)) >= 0:
            self._hold(data[at:end])
            found += self._cut(1)
            at = end + 1
        self._hold(data[at:])
        return found

    def end(self) -> list[Cut]:
        """Give the last line, where no line end stands behind it."""
        return self._cut(0)

    def _hold(self, data: bytes) -> None:
        if self._skipped or len(self._held) + len(data) > self._limit:
            self._skipped += len(self._held) + len(data)
            self._held.clear()
        else:
            self._held += data

    def _cut(self, ending: int) -> list[Cut]:
        size = self._skipped or len(self._held)
        cut = Cut(self._number, self._start, size, None if self._skipped else bytes(self._held))
        blank = not self._skipped and not self._held.strip()
        self._number, self._start, self._skipped = self._number + 1, self._start + size + ending, 0
        self._held.clear()
        return [] if blank else [cut]


def read(data: bytes, endpoint: str) -> tuple[str | None, Request | Fault]:
    """Read one line: its custom_id as far as it has one, and what it asks for or why that cannot be known."""
    try:
        raw = orjson.loads(data.removeprefix(_MARK))
    except orjson.JSONDecodeError as error:
        return None, Fault("invalid_json_line", f"the line is not JSON in UTF-8 ({error.msg} at column {error.colno})")
    if read_deeper(data, raw):
        return None, Fault("invalid_json_line", f"the line is nested more than {DEEPEST} levels deep: flatten it")
    if not isinstance(raw, dict):
        return None, Fault("invalid_json_line", f"the line is a JSON {type(raw).__name__}: write one JSON object")
    given = raw.get("custom_id")
    if not isinstance(given, str) or not given.strip() or len(given) > _LONGEST_NAME:
        told = f"custom_id is missing, or no text of 1 to {_LONGEST_NAME} characters"
        return None, Fault("missing_custom_id" if given is None else "invalid_custom_id", told, "custom_id")
    return given, _asked(given, raw, endpoint)


def prepare(request: Request, surface: Surface, principal: Principal) -> Prepared | Fault:
    """Let the surface of a batch understand what a line asks for."""
    try:
        return surface(request.body, principal)
    except MetierError as error:
        return Fault(error.code, error.message, f"body.{error.param}" if error.param else "body")


def _asked(custom_id: str, raw: dict[str, Any], endpoint: str) -> Request | Fault:
    unknown = sorted(raw.keys() - {"custom_id", "method", "url", "body"})
    if unknown:
        return Fault("unknown_parameter", f"{unknown[0][:80]!r} is no part of a line: leave it out", unknown[0][:80])
    if raw.get("method") != "POST":
        return Fault("invalid_method", f"method is {str(raw.get('method'))[:40]!r}: write 'POST'", "method")
    if raw.get("url") != endpoint:
        told = f"url is {str(raw.get('url'))[:80]!r}: the endpoint of this batch is {endpoint!r}"
        return Fault("mismatched_url", told, "url")
    body = raw.get("body")
    if not isinstance(body, dict):
        return Fault("invalid_body", "body is missing, or no JSON object", "body")
    if body.get("stream"):
        return Fault("invalid_body", "a batch answers whole: leave `stream` out", "body.stream")
    return Request(custom_id, orjson.dumps(body))
