"""Frames compared with those Amazon publishes.

The encoded messages are the decoding cases of botocore, github.com/boto/botocore tests/unit/test_eventstream.py
(Apache-2.0), which are those of the event stream test suite of the AWS SDKs.
"""

from __future__ import annotations

import binascii
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metier.providers.eventstream import Frame, Frames

JSON_FRAME = (
    b"\x00\x00\x00=\x00\x00\x00 \x07\xfd\x83\x96\x0ccontent-type\x07\x00\x10application/json"
    b"{'foo':'bar'}\x8d\x9c\x08\xb1"
)
GOOD: list[tuple[bytes, dict[str, Any], bytes]] = [
    (b"\x00\x00\x00\x10\x00\x00\x00\x00\x05\xc2H\xeb}\x98\xc8\xff", {}, b""),
    (b"\x00\x00\x00\x17\x00\x00\x00\x07)\x86\x01X\x04byte\x02\xff\xc2\xf8i\xdc", {"byte": -1}, b""),
    (b"\x00\x00\x00\x19\x00\x00\x00\tq\x0e\x92>\x05short\x03\xff\xff\xb2|\xb6\xcc", {"short": -1}, b""),
    (
        b"\x00\x00\x00\x1d\x00\x00\x00\r\x83\xe3\xf0\xe7\x07integer\x04\xff\xff\xff\xff\x8b\x8e\x12\xeb",
        {"integer": -1},
        b"",
    ),
    (
        b"\x00\x00\x00\x1e\x00\x00\x00\x0e]J\xdb\x8d\x04long\x05\xff\xff\xff\xff\xff\xff\xff\xffK\xc22\xda",
        {"long": -1},
        b"",
    ),
    (b"\x00\x00\x00\x1d\x00\x00\x00\x00\xfdR\x8cZ{'foo':'bar'}\xc3e96", {}, b"{'foo':'bar'}"),
    (JSON_FRAME, {"content-type": "application/json"}, b"{'foo':'bar'}"),
    (
        b"\x00\x00\x00\x62\x00\x00\x00\x52\x03\xb5\xcb\x9c\x010\x00\x011\x01\x012\x02\x02\x013\x03\x00\x03"
        b"\x014\x04\x00\x00\x00\x04\x015\x05\x00\x00\x00\x00\x00\x00\x00\x05\x016\x06\x00\x05bytes\x017\x07\x00\x04utf8"
        b"\x018\x08\x00\x00\x00\x00\x00\x00\x00\x08\x019\x090123456789abcdef\x63\x35\x36\x71",
        {
            "0": True, "1": False, "2": 2, "3": 3, "4": 4, "5": 5, "6": b"bytes", "7": "utf8", "8": 8,
            "9": b"0123456789abcdef",
        },
        b"",
    ),
    (
        b"\x00\x00\x00\x52\x00\x00\x00\x42\xbf\x23\x63\x7e\x0d:message-type\x07\x00\x05error"
        b"\x0b:error-code\x07\x00\x04code\x0e:error-message\x07\x00\x07message\x6b\x6c\xea\x3d",
        {":message-type": "error", ":error-code": "code", ":error-message": "message"},
        b"",
    ),
]  # fmt: skip
WHOLE = b"".join(encoded for encoded, _, _ in GOOD)
EXPECTED = [Frame(headers, payload) for _, headers, payload in GOOD]

BAD = {
    "length": b"\x01\x00\x00\x1d\x00\x00\x00\x00\xfdR\x8cZ{'foo':'bar'}\xc3e96",
    "payload": b"\x00\x00\x00\x1d\x00\x00\x00\x00\xfdR\x8cZ{'foo':'bar'\x8d\xc3e96",
    "headers": JSON_FRAME.replace(b"content-type", b"content+type"),
    "headers length": b"\x00\x00\x00=\xff\x00\x01\x02" + JSON_FRAME[8:],
    "header twice": (
        b"\x00\x00\x00\x24\x00\x00\x00\x14\x4b\xb9\x82\xd0\x04test\x04asdf\x04test\x04asdf\xf3\xf4\x75\x63"
    ),
}


def framed(headers: bytes, payload: bytes = b"", size: int | None = None, headers_size: int | None = None) -> bytes:
    """A frame whose checksums are right, whatever its lengths and headers say."""
    total = 16 + len(headers) + len(payload) if size is None else size
    head = struct.pack(">II", total, len(headers) if headers_size is None else headers_size)
    head += struct.pack(">I", binascii.crc32(head))
    body = head + headers + payload
    return body + struct.pack(">I", binascii.crc32(body))


@pytest.mark.parametrize(("encoded", "headers", "payload"), GOOD)
def test_a_frame_is_read_as_amazon_writes_it(encoded: bytes, headers: dict[str, Any], payload: bytes) -> None:
    assert Frames().feed(encoded) == [Frame(headers, payload)]


@pytest.mark.parametrize("name", BAD)
def test_a_damaged_frame_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="frame"):
        Frames().feed(BAD[name])


@pytest.mark.parametrize(
    "encoded",
    [
        framed(b"\x01a\x0c"),
        framed(b"\x01a\x07\x00\x09abc"),
        framed(b"\x09a"),
        framed(b"\x01a"),
        framed(b"\x01a\x07\x00\x01\xff"),
        framed(b"\x01a\x04\x00"),
        framed(b"", size=15),
        framed(b"", size=(1 << 24) + 1),
        framed(b"", headers_size=1),
    ],
    ids=["unknown type", "short text", "short name", "no type", "no text", "short number", "short", "long", "headers"],
)
def test_a_frame_that_contradicts_itself_is_refused(encoded: bytes) -> None:
    with pytest.raises(ValueError, match=r"frame"):
        Frames().feed(encoded)


def test_bytes_may_come_one_by_one() -> None:
    frames = Frames()
    found = [frame for byte in WHOLE for frame in frames.feed(bytes([byte]))]
    assert found == EXPECTED
    assert frames.waiting() == 0


@given(st.lists(st.integers(0, len(WHOLE)), max_size=12).map(sorted))
@settings(max_examples=100, deadline=None)
def test_frames_do_not_depend_on_how_they_were_cut(cuts: list[int]) -> None:
    frames = Frames()
    found = [
        frame
        for start, end in zip([0, *cuts], [*cuts, len(WHOLE)], strict=True)
        for frame in frames.feed(WHOLE[start:end])
    ]
    assert found == EXPECTED


@given(st.integers(0, len(JSON_FRAME) - 1), st.integers(1, 255))
@settings(max_examples=100, deadline=None)
def test_one_changed_byte_is_always_noticed(place: int, change: int) -> None:
    damaged = bytearray(JSON_FRAME)
    damaged[place] ^= change
    with pytest.raises(ValueError, match="frame"):
        Frames().feed(bytes(damaged))


def test_half_a_frame_is_held() -> None:
    frames = Frames()
    assert frames.feed(JSON_FRAME[:20]) == []
    assert frames.waiting() == 20
