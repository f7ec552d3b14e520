"""The body of a form with files, read in memory: no file is written, nothing is decoded that was not asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from typing import Final

from metier.errors import Mistaken

__all__ = ["Field", "read"]

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
    head = _header(content_type.decode("latin-1"))
    boundary = head.get_param("boundary")
    if head.get_content_type() != "multipart/form-data" or not isinstance(boundary, str):
        raise Mistaken("the request body is no form: send multipart/form-data with a boundary, as clients for files do")
    mark = boundary.encode("latin-1", "replace")
    if not _BOUNDARY.fullmatch(mark):
        raise Mistaken("the boundary of the form is no boundary: use up to 70 letters and digits")
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
    filename = disposition.get_filename()
    media_type = heads.get("content-type", "text/plain").partition(";")[0].strip().lower()
    return name, Field(data, filename, media_type)


def _header(value: str, name: str = "content-type") -> Message:
    head = Message()
    head[name] = value.replace("\r", " ").replace("\n", " ")
    return head
