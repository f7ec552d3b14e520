from __future__ import annotations

import random
from typing import Any

import orjson
import pytest

from metier.batches.lines import Cutter, Fault, Request, read
from tests.batches.house import CHAT, line


def cut(data: bytes, step: int, limit: int = 1000) -> list[tuple[int, int, int, bytes | None]]:
    cutter = Cutter(limit)
    found = [each for at in range(0, len(data), step) for each in cutter.feed(data[at : at + step])]
    return [(c.number, c.start, c.size, c.data) for c in [*found, *cutter.end()]]


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
def test_lines_are_found_wherever_the_bytes_are_cut(step: int) -> None:
    data = b"un\n\n  \r\ndeux\r\ntrois"
    found = cut(data, step)
    assert [(number, text) for number, _, _, text in found] == [(1, b"un"), (4, b"deux\r"), (5, b"trois")]
    assert all(data[start : start + size] == text for _, start, size, text in found)


@pytest.mark.parametrize("step", [1, 5, 64, 10_000])
def test_a_line_that_is_too_long_is_named_and_never_held(step: int) -> None:
    data = b"a\n" + b"x" * 5000 + b"\nb\n" + b"y" * 1001
    assert cut(data, step) == [(1, 0, 1, b"a"), (2, 2, 5000, None), (3, 5003, 1, b"b"), (4, 5005, 1001, None)]


def test_any_bytes_are_cut_without_loss() -> None:
    chance = random.Random(3)
    for _ in range(200):
        data = bytes(chance.choice(b"ab\n\r ") for _ in range(chance.randrange(60)))
        wanted = [text for text in data.split(b"\n") if text.strip()]
        assert [text for *_, text in cut(data, chance.randrange(1, 9))] == wanted


@pytest.mark.parametrize(
    ("raw", "code", "param"),
    [
        (b"not json", "invalid_json_line", None),
        ("été".encode("utf-16"), "invalid_json_line", None),
        (b'{"custom_id": "\xe9"}', "invalid_json_line", None),
        (b"[1]", "invalid_json_line", None),
        (b"[" * 100_000, "invalid_json_line", None),
        (b'{"custom_id": "a", "body": ' + b'{"a":' * 900 + b"1" + b"}" * 901, "invalid_json_line", None),
        ({"method": "POST"}, "missing_custom_id", "custom_id"),
        (line(custom_id=7), "invalid_custom_id", "custom_id"),
        (line(custom_id=" "), "invalid_custom_id", "custom_id"),
        (line(custom_id="x" * 513), "invalid_custom_id", "custom_id"),
        (line(method="GET"), "invalid_method", "method"),
        (line(url="/v1/embeddings"), "mismatched_url", "url"),
        (line(url=None), "mismatched_url", "url"),
        (line(body=[]), "invalid_body", "body"),
        (line(body={"stream": True}), "invalid_body", "body.stream"),
        (line(priority=1), "unknown_parameter", "priority"),
    ],
)
def test_what_is_no_request_is_told_by_code(raw: Any, code: str, param: str | None) -> None:
    data = raw if isinstance(raw, bytes) else orjson.dumps(raw)
    _, fault = read(data, CHAT)
    assert isinstance(fault, Fault)
    assert (fault.code, fault.param) == (code, param)
    assert len(fault.message) < 400


def test_a_mark_of_utf8_before_the_first_line_does_no_harm() -> None:
    name, asked = read(b"\xef\xbb\xbf" + orjson.dumps(line("é-1")), CHAT)
    assert (name, type(asked)) == ("é-1", Request)
