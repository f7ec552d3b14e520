"""The fields of a posted form, read within bounds."""

from __future__ import annotations

import urllib.parse
from collections.abc import Mapping

from starlette.requests import Request

from metier.errors import Mistaken

__all__ = ["read"]

_MOST_BYTES = 4 << 20
_MOST_FIELDS = 200


async def read(request: Request) -> Mapping[str, str]:
    """Give the fields of a form by name, line ends as one character; a name given twice keeps its last value."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise Mistaken(f"cannot read a form sent as {kind[:80]!r}: send application/x-www-form-urlencoded")
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > _MOST_BYTES:
            raise Mistaken(f"the form is larger than {_MOST_BYTES >> 20} MB: shorten what it holds")
    try:
        pairs = urllib.parse.parse_qsl(
            data.decode(), keep_blank_values=True, errors="strict", max_num_fields=_MOST_FIELDS
        )
    except ValueError as error:
        raise Mistaken("the form is not text in UTF-8 of a reasonable number of fields: send it again") from error
    return {name: value.replace("\r\n", "\n").replace("\r", "\n") for name, value in pairs}
