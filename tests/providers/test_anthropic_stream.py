"""What Anthropic's streams say, from golden files: whole, cut anywhere, broken off, with errors inside."""

from __future__ import annotations

import itertools
import json
import pathlib
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metier.calls import Chunk, Reasoning, ToolCall, Usage
from metier.errors import Invalid, MetierError, ProviderTimeout, ProviderUnavailable
from metier.gateway import Thoughts, Tools
from metier.providers.anthropic_stream import Reading, whole
from tests.fake_anthropic import Said, event, events
from tests.providers.deployments import deployment

GOLDEN = pathlib.Path(__file__).parent / "golden" / "anthropic"
STREAMS = sorted(path.stem.removeprefix("stream-") for path in GOLDEN.glob("stream-*.sse"))
HERE = deployment(None, id="claude-a", provider="anthropic", model_id="claude-opus-5")
START = event("message_start", message={"usage": {"input_tokens": 3, "output_tokens": 1}})
TEXT: dict[str, Any] = {"type": "text", "text": "Oui"}


def told(chunks: list[Chunk]) -> dict[str, Any]:
    """What chunks say together, in the shape of the golden files."""
    tools, thoughts = Tools(), Thoughts()
    for chunk in chunks:
        tools.add(chunk.tool_calls)
        thoughts.add(chunk.reasoning)
    usages = [chunk.usage for chunk in chunks if chunk.usage]
    finishes = [chunk.finish for chunk in chunks if chunk.finish]
    assert len(usages) <= 1
    assert len(finishes) <= 1
    usage = usages[0] if usages else Usage()
    return {
        "text": "".join(chunk.text for chunk in chunks),
        "thoughts": [[thought.text, thought.signature, thought.sealed] for thought in thoughts.whole()],
        "tools": [[tool.id, tool.name, tool.arguments] for tool in tools.whole()],
        "finish": finishes[0] if finishes else None,
        "usage": [
            usage.input_tokens,
            usage.output_tokens,
            usage.cached_tokens,
            usage.cache_write_tokens,
            usage.reasoning_tokens,
        ],
    }


def read(pieces: list[bytes], answer_tool: str | None = None) -> list[Chunk]:
    reading = Reading(HERE, answer_tool)
    chunks = [chunk for piece in pieces for chunk in reading.take(piece)]
    return chunks + reading.end()


def golden(name: str) -> tuple[bytes, dict[str, Any], str | None]:
    expected = json.loads((GOLDEN / f"stream-{name}.json").read_text(encoding="utf-8"))
    return (GOLDEN / f"stream-{name}.sse").read_bytes(), expected, expected.pop("answer_tool")


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_says_the_same_at_once_and_byte_by_byte(name: str) -> None:
    data, expected, tool = golden(name)
    assert told(read([data], tool)) == expected
    assert told(read([data[at : at + 1] for at in range(len(data))], tool)) == expected


@given(name=st.sampled_from(STREAMS), cuts=st.lists(st.integers(0, 4000), max_size=12), crlf=st.booleans())
@settings(max_examples=150, deadline=None)
def test_a_stream_says_the_same_however_it_is_cut(name: str, cuts: list[int], crlf: bool) -> None:
    data, expected, tool = golden(name)
    data = data.replace(b"\n", b"\r\n") if crlf else data
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[start:end] for start, end in itertools.pairwise(places)]
    assert told(read(pieces, tool)) == expected


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_cut_before_its_end_is_no_answer(name: str) -> None:
    data, _, tool = golden(name)
    for stop in range(0, data.rindex(b"event: message_stop"), 23):
        with pytest.raises(ProviderUnavailable, match=r"before the message was finished|does not fit"):
            read([data[:stop]], tool)


@given(st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_noise_is_never_an_answer(data: bytes) -> None:
    with pytest.raises(MetierError):
        read([START, data])


def test_pieces_that_arrive_together_keep_their_order() -> None:
    blocks: list[dict[str, Any]] = [
        {"type": "thinking", "thinking": "a", "signature": "s"},
        TEXT,
        {"type": "tool_use", "id": "t", "name": "heure", "input": {}},
        {"type": "thinking", "thinking": "b", "signature": "z"},
        TEXT,
    ]
    chunks = read([b"".join(events(Said(blocks)))])
    assert len(chunks) == 2
    assert (chunks[0].reasoning[0].text, chunks[0].text, chunks[0].tool_calls[0].name) == ("a", "Oui", "heure")
    assert (chunks[1].reasoning[0].text, chunks[1].text, chunks[1].reasoning[0].index) == ("b", "Oui", 1)
    assert (chunks[1].finish, chunks[1].usage) == ("stop", Usage(20, 7))


def test_what_was_said_before_an_error_came_is_given() -> None:
    reading = Reading(HERE)
    said = reading.take(b"".join(events(Said([TEXT]))[:4]))
    assert [chunk.text for chunk in said] == ["Oui"]
    with pytest.raises(ProviderUnavailable, match="Surchauffe"):
        reading.take(event("error", error={"type": "overloaded_error", "message": "Surchauffe"}))


def test_a_usage_that_is_left_out_is_not_made_up() -> None:
    end = event("message_delta", delta={"stop_reason": "end_turn"}) + event("message_stop")
    assert [chunk.usage for chunk in read([START + end])] == [None]


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("overloaded_error", ProviderUnavailable),
        ("api_error", ProviderUnavailable),
        ("rate_limit_error", ProviderUnavailable),
        ("authentication_error", ProviderUnavailable),
        ("permission_error", ProviderUnavailable),
        ("not_found_error", ProviderUnavailable),
        ("billing_error", ProviderUnavailable),
        ("some_later_error", ProviderUnavailable),
        ("timeout_error", ProviderTimeout),
        ("invalid_request_error", Invalid),
        ("request_too_large", Invalid),
    ],
)
def test_an_error_inside_a_stream_is_classified_by_its_type(kind: str, error: type[MetierError]) -> None:
    failing = event("error", error={"type": kind, "message": "Surchauffe"})
    with pytest.raises(error, match="claude-a") as caught:
        read([START + failing])
    assert type(caught.value) is error


@pytest.mark.parametrize(
    "broken",
    [
        b"data: [1]\n\n",
        b"data: 7\n\n",
        b"data: {oups\n\n",
        event("content_block_delta", index=4, delta={"type": "text_delta", "text": "a"}),
        event("content_block_delta", index=0),
        event("content_block_start", index=0, content_block={"type": "tool_use", "id": "t"}),
        event("content_block_start", index=0, content_block=None),
        event("content_block_stop", index=9),
        event("message_start"),
        event("message_delta", delta=None),
        event("error"),
    ],
)
def test_an_event_that_does_not_fit_is_the_providers_fault(broken: bytes) -> None:
    with pytest.raises(ProviderUnavailable, match="does not fit"):
        read([broken])


def test_an_event_without_end_is_not_kept_for_ever() -> None:
    reading = Reading(HERE)
    with pytest.raises(ProviderUnavailable, match="longer than"):
        for _ in range(20):
            reading.take(b"data: " + b"x" * 1024 * 1024)


def test_a_message_that_comes_whole_says_the_same() -> None:
    blocks = [
        {"type": "thinking", "thinking": "a", "signature": "s"},
        {"type": "redacted_thinking", "data": "d"},
        TEXT,
        {"type": "tool_use", "id": "t", "name": "heure", "input": {"v": 1}},
        {"type": "tool_use", "id": "u", "name": "date", "input": {}},
    ]
    usage = {"input_tokens": 1, "cache_read_input_tokens": 2, "output_tokens": 3}
    body = {"type": "message", "content": blocks, "stop_reason": "tool_use", "usage": usage}
    found = told(whole(orjson.dumps(body), HERE))
    thoughts, tools = Thoughts(), Tools()
    for chunk in whole(orjson.dumps(body), HERE):
        thoughts.add(chunk.reasoning)
        tools.add(chunk.tool_calls)
    assert thoughts.whole() == (Reasoning("a", "s"), Reasoning(signature="d", sealed=True))
    assert tools.whole() == (ToolCall("t", "heure", '{"v":1}'), ToolCall("u", "date", "{}"))
    assert (found["text"], found["finish"], found["usage"]) == ("Oui", "tool_calls", [3, 3, 2, 0, 0])


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"type":"message"}', b'{"type":"message","content":[{}]}'])
def test_a_whole_answer_that_does_not_fit_is_the_providers_fault(body: bytes) -> None:
    with pytest.raises(ProviderUnavailable, match="does not fit"):
        whole(body, HERE)


def test_an_error_that_comes_with_status_200_is_one() -> None:
    with pytest.raises(ProviderUnavailable, match="529"):
        whole(orjson.dumps({"type": "error", "error": {"type": "overloaded_error", "message": "x"}}), HERE)
