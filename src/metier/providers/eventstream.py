"""Amazon's binary event stream: frames with a checksum over their head and one over all of it."""

from __future__ import annotations

import binascii
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

__all__ = ["Frame", "Frames"]

_PRELUDE: Final = struct.Struct(">III")
_SUM: Final = struct.Struct(">I")
_SIZE: Final = struct.Struct(">H")
_LONGEST_FRAME: Final = 16 * 1024 * 1024
_LONGEST_HEADERS: Final = 128 * 1024
# What follows the name of a header, by its type: numbers of a fixed size, or a length and so many bytes.
_NUMBERS: Final = {2: struct.Struct(">b"), 3: struct.Struct(">h"), 4: struct.Struct(">i"), 5: struct.Struct(">q")}
_TRUE, _FALSE, _BYTES, _TEXT, _TIME, _UUID = 0, 1, 6, 7, 8, 9


@dataclass(frozen=True, slots=True)
class Frame:
    """One message of the stream."""

    headers: Mapping[str, bool | int | str | bytes]
    payload: bytes


class Frames:
    """Cuts a byte stream into frames, however the bytes were split; one that does not add up is a ValueError."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """Take the next bytes and return every frame they complete."""
        self._rest += data
        found = []
        start = 0
        while len(self._rest) - start >= _PRELUDE.size:
            size, headers_size = _prelude(self._rest, start)
            if len(self._rest) - start < size:
                break
            found.append(_frame(bytes(self._rest[start : start + size]), headers_size))
            start += size
        del self._rest[:start]
        return found

    def waiting(self) -> int:
        """Count the bytes held until their frame is complete."""
        return len(self._rest)


def _prelude(data: bytearray, start: int) -> tuple[int, int]:
    size, headers_size, told = _PRELUDE.unpack_from(data, start)
    if binascii.crc32(data[start : start + 8]) != told:
        raise ValueError("the checksum of the head of a frame is wrong")
    least = _PRELUDE.size + headers_size + _SUM.size
    if not least <= size <= _LONGEST_FRAME or headers_size > _LONGEST_HEADERS:
        raise ValueError(f"a frame of {size} bytes with {headers_size} bytes of headers cannot be")
    return size, headers_size


def _frame(data: bytes, headers_size: int) -> Frame:
    (told,) = _SUM.unpack_from(data, len(data) - _SUM.size)
    if binascii.crc32(data[: -_SUM.size]) != told:
        raise ValueError("the checksum of a frame is wrong")
    end = _PRELUDE.size + headers_size
    return Frame(_headers(data[_PRELUDE.size : end]), data[end : -_SUM.size])


def _headers(data: bytes) -> dict[str, bool | int | str | bytes]:
    found: dict[str, bool | int | str | bytes] = {}
    at = 0
    try:
        while at < len(data):
            start = at + 1
            at = start + data[at] + 1
            name, kind = data[start : at - 1].decode(), data[at - 1]
            if name in found:
                raise ValueError(f"the header {name!r} stands twice in a frame")
            found[name], at = _value(data, at, kind)
    except (IndexError, struct.error, UnicodeDecodeError) as error:
        raise ValueError("the headers of a frame cannot be read") from error
    if at != len(data):
        raise ValueError("the headers of a frame are longer than it says")
    return found


def _value(data: bytes, at: int, kind: int) -> tuple[bool | int | str | bytes, int]:
    if kind in (_TRUE, _FALSE):
        return kind == _TRUE, at
    if kind in _NUMBERS or kind == _TIME:
        number = _NUMBERS[5 if kind == _TIME else kind]
        return number.unpack_from(data, at)[0], at + number.size
    if kind == _UUID:
        return data[at : at + 16], at + 16
    if kind not in (_BYTES, _TEXT):
        raise ValueError(f"a header of the unknown type {kind} stands in a frame")
    (size,) = _SIZE.unpack_from(data, at)
    at += _SIZE.size
    value = data[at : at + size]
    return (value.decode() if kind == _TEXT else value), at + size
