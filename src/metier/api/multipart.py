"""The body of a form with files, whole or as it comes: no file is written, nothing decoded that was not asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from typing import Final, Literal

from metier.errors import Mistaken

__all__ = ["Cutter", "Ended", "Field", "Opened", "read"]

_MOST_FIELDS: Final = 64
_LONGEST_HEAD: Final = 4096
_BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a form, as it came."""

    data: bytes
    filename: str | None = None
    """Given when the field is a file."""
    media_type: str = "text/plain"

    @property
    def text(self) -> str:
        """The value of a field that is no file."""
        try:
            return self.data.decode()
        except UnicodeDecodeError:
            raise Mistaken("a field of the form is not UTF-8: encode its text in UTF-8") from None


def read(body: bytes, content_type: bytes) -> Mapping[str, list[Field]]:
    """Cut a multipart/form-data body into its fields by name, or refuse what is no such body."""
    mark = _mark(content_type)
    # With a line end before it, the first boundary is found like all others.
    pieces = (b"\r\n" + body).split(b"\r\n--" + mark, _MOST_FIELDS + 2)
    if len(pieces) > _MOST_FIELDS + 2:
        raise Mistaken(f"the form has more than {_MOST_FIELDS} fields: send only those that are documented")
    if len(pieces) < 2 or not pieces[-1].startswith(b"--"):
        raise Mistaken("the form ends before its last boundary: send it whole")
    found: dict[str, list[Field]] = {}
    for piece in pieces[1:-1]:
        name, field = _field(piece)
        found.setdefault(name, []).append(field)
    return found


@dataclass(frozen=True, slots=True)
class Opened:
    """A field of a form begins; its bytes follow, until the next one begins."""

    name: str
    filename: str | None
    media_type: str = "text/plain"


@dataclass(frozen=True, slots=True)
class Ended:
    """The form ends."""


class Cutter:
    """Cuts a form as it comes, however its bytes are parted, and holds no more of it than a head of a field."""

    def __init__(self, content_type: bytes) -> None:
        self._mark = b"\r\n--" + _mark(content_type)
        # With a line end before it, the first boundary is found like all others.
        self._held = bytearray(b"\r\n")
        self._state: Literal["before", "head", "data", "over"] = "before"
        self._fields = 0

    def feed(self, data: bytes) -> list[Opened | bytes | Ended]:
        """Take some more bytes and give what they say: fields that begin, their bytes, the end of the form."""
        found: list[Opened | bytes | Ended] = []
        if self._state == "over":
            return found
        self._held += data
        while True:
            if self._state == "head":
                opened = self._head()
                if opened is not None:
                    found.append(opened)
                if opened is None or isinstance(opened, Ended):
                    return found
                continue
            at = self._held.find(self._mark)
            # What may be the beginning of a boundary waits for the bytes that tell.
            end = at if at >= 0 else max(len(self._held) - len(self._mark) + 1, 0)
            if end and self._state == "data":
                found.append(bytes(self._held[:end]))
            del self._held[: end if at < 0 else at + len(self._mark)]
            if at < 0:
                return found
            self._state = "head"

    def _head(self) -> Opened | Ended | None:
        if self._held.startswith(b"--"):
            self._state = "over"
            self._held.clear()
            return Ended()
        end = self._held.find(b"\r\n\r\n")
        if end < 0:
            if len(self._held) > _LONGEST_HEAD + 4:
                raise Mistaken("a field of the form has no head that can be read: let a library write the form")
            return None
        self._fields += 1
        if self._fields > _MOST_FIELDS:
            raise Mistaken(f"the form has more than {_MOST_FIELDS} fields: send only those that are documented")
        name, field = _field(bytes(self._held[: end + 4]))
        del self._held[: end + 4]
        self._state = "data"
        return Opened(name, field.filename, field.media_type)


def _mark(content_type: bytes) -> bytes:
    head = _header(content_type.decode("latin-1"))
    boundary = head.get_param("boundary")
    if head.get_content_type() != "multipart/form-data" or not isinstance(boundary, str):
        raise Mistaken("the request body is no form: send multipart/form-data with a boundary, as clients for files do")
    mark = boundary.encode("latin-1", "replace")
    if not _BOUNDARY.fullmatch(mark):
        raise Mistaken("the boundary of the form is no boundary: use up to 70 letters and digits")
    return mark


def _field(piece: bytes) -> tuple[str, Field]:
    padding, ended, rest = piece.partition(b"\r\n")
    top, cut, data = rest.partition(b"\r\n\r\n")
    if padding.strip(b" \t") or not ended or not cut or len(top) > _LONGEST_HEAD:
        raise Mistaken("a field of the form has no head that can be read: let a library write the form")
    heads = {}
    for line in top.decode("utf-8", "replace").split("\r\n"):
        key, _, value = line.partition(":")
        heads[key.strip().lower()] = value.strip()
    disposition = _header(heads.get("content-disposition", ""), "content-disposition")
    name = disposition.get_param("name", header="content-disposition")
    if not isinstance(name, str):
        raise Mistaken("a field of the form has no name: let a library write the form")
    try:
        filename = disposition.get_filename()
    except (ValueError, LookupError):
        raise Mistaken("the name of a file in the form cannot be read: send it in UTF-8") from None
    if filename is not None:
        # A declared character set can give halves of characters, which nothing can write.
        filename = filename.encode("utf-8", "replace").decode()
    media_type = heads.get("content-type", "text/plain").partition(";")[0].strip().lower()
    return name, Field(data, filename, media_type)


def _header(value: str, name: str = "content-type") -> Message:
    head = Message()
    head[name] = value.replace("\r", " ").replace("\n", " ")
    return head
