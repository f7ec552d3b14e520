"""What a form was sent with: its fields, and its files as far as they are taken, whatever their size."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl

import orjson
from starlette.requests import Request

from metier.api import multipart
from metier.errors import Mistaken, RateLimited
from metier.triggers import Form
from metier.triggers.uploads import WHOLE, Upload

__all__ = ["BODY_LIMIT", "Held", "Sent", "Taking", "read", "read_files"]

BODY_LIMIT: Final = 1024 * 1024
"""Bytes of the text of a form."""
_FIELDS_MOST = 200
_READ_MOST: Final = 256 * 1024 * 1024
"""Bytes read of a form whose files are too large, so that what follows them is not lost to whoever typed it."""
_WAIT_S = 30.0
_STALLS_S = 30.0
_ARRIVES_S = 600.0


@dataclass(frozen=True, slots=True)
class Sent:
    """A form as it was sent."""

    values: Mapping[str, str]
    once: str
    """The number that makes sending it twice one event."""
    uploads: Mapping[str, Sequence[Upload]]


class Held:
    """Counts the bytes of files that this process holds, over all forms; a part gives its own back at its end."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._now = 0

    def take(self, size: int) -> None:
        """Count bytes, or raise RateLimited where too many are held already."""
        if self._now + size > self._most:
            refusal = RateLimited("too many files arrive at once: send the form again in half a minute")
            vars(refusal)["retry_after_s"] = _WAIT_S
            raise refusal
        self._now += size

    def give(self, size: int) -> None:
        """Count bytes as held no more."""
        self._now -= size


async def read(request: Request, *, is_json: bool) -> Sent:
    """Read a form without files, or JSON in its place."""
    body = b""
    async with _arriving(_STALLS_S) as heard:
        async for part in request.stream():
            heard()
            body += part
            if len(body) > BODY_LIMIT:
                raise Mistaken(f"the form has over {BODY_LIMIT} bytes: send less")
    try:
        if request.headers.get("content-type", "").startswith("application/json"):
            raw = orjson.loads(body)
            if not isinstance(raw, dict):
                raise Mistaken("the body is no JSON object: send one with the names of the fields")
            fields = {
                name: value if isinstance(value, str) else orjson.dumps(value).decode() for name, value in raw.items()
            }
        else:
            fields = dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_FIELDS_MOST))
    except (ValueError, orjson.JSONEncodeError):
        raise Mistaken("the form cannot be read: send JSON, or a form in UTF-8 of up to 200 fields") from None
    return _sent(request, fields, {}, is_json=is_json)


async def read_files(
    request: Request, form: Form, taking: Taking, *, is_json: bool, stalls_s: float = _STALLS_S
) -> Sent:
    """Read a form with files; of files that are too large, too many or not asked for, only the size is kept."""
    cutter = multipart.Cutter(request.headers.get("content-type", "").encode("latin-1"))
    size = 0
    async with _arriving(stalls_s) as heard:
        async for part in request.stream():
            heard()
            size += len(part)
            taking.take(cutter.feed(part))
            if size > _READ_MOST:
                taking.stop(form.file_bytes)
                break
    return _sent(request, *taking.ended(), is_json=is_json)


@contextlib.asynccontextmanager
async def _arriving(stalls_s: float) -> AsyncIterator[Callable[[], None]]:
    """Bound how long nothing of a form comes and how long all of it takes: what it holds, others wait for."""
    clock = asyncio.get_running_loop().time
    last = clock() + _ARRIVES_S
    try:
        async with asyncio.timeout(stalls_s) as limit:
            yield lambda: None if limit.expired() else limit.reschedule(min(clock() + stalls_s, last))
    except TimeoutError:
        raise Mistaken(
            f"the form stopped on its way for {stalls_s:g} s, or took over {_ARRIVES_S:g} s: send it again"
        ) from None


class Taking:
    """A form with files while it comes."""

    def __init__(self, form: Form, held: Held) -> None:
        self._form = form
        self._held = held
        self._values: dict[str, bytearray] = {}
        self._files: dict[str, list[_Coming]] = {}
        self._open: bytearray | _Coming | None = None
        self._text = 0
        self._size = 0
        self._whole = False

    def take(self, found: Sequence[multipart.Opened | bytes | multipart.Ended]) -> None:
        """Take what the form says next."""
        for each in found:
            if isinstance(each, multipart.Opened):
                self._begin(each)
            elif isinstance(each, multipart.Ended):
                self._whole = True
            elif isinstance(self._open, bytearray):
                self._text += len(each)
                if self._text > BODY_LIMIT:
                    raise Mistaken(f"the text of the form has over {BODY_LIMIT} bytes: write less, or send a file")
                self._open += each
            elif self._open is not None:
                self._keep(self._open, each)

    def stop(self, limit: int) -> None:
        """Take what came as all there is; the file that was coming is larger than the limit."""
        self._whole = True
        if isinstance(self._open, _Coming):
            self._open.size = max(self._open.size, limit + 1)

    def ended(self) -> tuple[dict[str, str], dict[str, list[Upload]]]:
        """Give the fields and the files, once the form has come to its end."""
        if not self._whole:
            raise Mistaken("the form ends before its last boundary: send it whole")
        # A field for files nobody chose a file for is sent too, without a name and empty.
        files = {
            name: [
                Upload(one.name, one.media_type, bytes(one.data), one.size) for one in coming if one.name or one.size
            ]
            for name, coming in self._files.items()
        }
        values = {name: multipart.Field(bytes(value)).text for name, value in self._values.items()}
        return values, {name: uploads for name, uploads in files.items() if uploads}

    def drop(self) -> None:
        """Hold nothing any more."""
        self._held.give(self._size)
        self._size = 0
        self._files.clear()

    def _begin(self, opened: multipart.Opened) -> None:
        if opened.filename is None:
            self._open = self._values[opened.name] = bytearray()
            return
        asked, before = self._form.files.get(opened.name), self._files.setdefault(opened.name, [])
        self._open = _Coming(opened.filename, opened.media_type, asked is not None and len(before) < asked.most)
        before.append(self._open)

    def _keep(self, coming: _Coming, data: bytes) -> None:
        coming.size += len(data)
        if not coming.is_kept:
            return
        if coming.size > self._form.file_bytes or self._size + len(data) > WHOLE:
            coming.is_kept = False
            self._size -= len(coming.data)
            self._held.give(len(coming.data))
            coming.data.clear()
            return
        self._held.take(len(data))
        self._size += len(data)
        coming.data += data


@dataclass(slots=True)
class _Coming:
    name: str
    media_type: str
    is_kept: bool
    data: bytearray = field(default_factory=bytearray)
    size: int = 0


def _sent(request: Request, fields: dict[str, str], uploads: Mapping[str, Sequence[Upload]], *, is_json: bool) -> Sent:
    once = (
        request.headers.get("idempotency-key")
        or fields.pop("_once", "")
        or (secrets.token_urlsafe(18) if is_json else "")
    )
    return Sent(fields, once, uploads)
