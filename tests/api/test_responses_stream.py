"""Whatever order an answer comes in, its events are numbered, open and close every item, and say what it says."""

from __future__ import annotations

from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from metier.api.responses_answers import ResponseStream
from metier.api.responses_body import parse
from metier.api.responses_items import turns
from metier.calls import Chunk, FinishReason, KeyId, Principal, ProjectId, Reasoning, ReasoningDelta, SystemId
from metier.calls import ToolCallDelta as Piece
from metier.errors import ProviderUnavailable
from metier.gateway import Thoughts, Tools

WHO = Principal(KeyId("k"), ProjectId("p"), SystemId("s"))
HELLO = orjson.dumps({"model": "petit", "input": "Bonjour", "stream": True})

texts = st.text(max_size=6)
thoughts = st.builds(ReasoningDelta, st.integers(0, 2), texts, st.sampled_from(["", "", "sig"]))
sealed = st.builds(ReasoningDelta, st.integers(3, 4), st.just(""), st.sampled_from(["un", "deux"]), st.just(True))
pieces = st.builds(Piece, st.integers(0, 2), st.none() | st.just("c"), st.none() | st.just("f"), texts)
chunks = st.lists(
    st.builds(
        Chunk,
        text=texts,
        tool_calls=st.lists(pieces, max_size=2).map(tuple),
        reasoning=st.lists(thoughts | sealed, max_size=2).map(tuple),
    ),
    max_size=12,
)
finishes: st.SearchStrategy[FinishReason] = st.sampled_from(["stop", "length", "tool_calls", "content_filter"])


def seal(thought: Reasoning) -> str:
    return orjson.dumps([thought.text, thought.signature, thought.sealed]).decode()


def opened(held: str) -> Reasoning:
    return Reasoning(*orjson.loads(held))


def read(data: bytes) -> list[Any]:
    """The events, each checked for its name and its number."""
    found = []
    for number, block in enumerate(data.decode().split("\n\n")[:-1]):
        name, line = block.split("\n", 1)
        event = orjson.loads(line.removeprefix("data: "))
        assert (name, event["sequence_number"]) == (f"event: {event['type']}", number)
        found.append(event)
    return found


def rebuilt(found: list[Any]) -> list[Any]:
    """What a client has put together from the events alone."""
    items: dict[int, Any] = {}
    done: dict[int, Any] = {}
    parts: dict[tuple[int, int], str] = {}
    for event in found[2:-1]:
        kind, place = event["type"].removeprefix("response."), event["output_index"]
        if kind == "output_item.added":
            assert place == len(items)
            items[place] = event["item"]
            continue
        assert place not in done, "an item was closed before its last event"
        assert event.get("item_id", items[place]["id"]) == items[place]["id"]
        part = (place, event.get("content_index", event.get("summary_index", 0)))
        if kind.endswith("part.added"):
            assert part not in parts
            parts[part] = ""
        elif kind.endswith(".delta"):
            parts[part] = parts.get(part, "") + event["delta"]
        elif kind.endswith("_text.done"):
            assert parts[part] == event["text"]
        elif kind == "function_call_arguments.done":
            assert parts.get(part, "") == event["arguments"]
        elif kind == "output_item.done":
            done[place] = event["item"]
    assert done.keys() == items.keys()
    for place, item in done.items():
        whole = "".join(text for part, text in sorted(parts.items()) if part[0] == place)
        if item["type"] == "reasoning":
            assert "".join(shown["text"] for shown in item["summary"]) == whole
        elif item["type"] == "message":
            assert item["content"][0]["text"] == whole
        else:
            assert item["arguments"] == whole
    return [done[place] for place in sorted(done)]


@given(chunks, finishes)
@settings(max_examples=300, deadline=None)
def test_the_events_say_what_the_answer_says(answer: list[Chunk], finish: FinishReason) -> None:
    asked = parse(HELLO, WHO)
    stream = ResponseStream(asked, seal)
    data = b"".join([stream.write(chunk) for chunk in (*answer, Chunk(finish=finish))])
    closing, body = stream.finish()
    found = read(data + closing + stream.end(body))
    assert [event["type"] for event in found[:2]] == ["response.created", "response.in_progress"]
    assert found[-1]["type"] == f"response.{body['status']}"
    output = rebuilt(found)
    assert output == body["output"] == found[-1]["response"]["output"]
    tools, thinking = Tools(), Thoughts()
    for chunk in answer:
        tools.add(chunk.tool_calls)
        thinking.add(chunk.reasoning)
    said = "".join(item["content"][0]["text"] for item in output if item["type"] == "message")
    assert said == "".join(chunk.text for chunk in answer)
    calls = {call.id: call for call in tools.whole()}
    shown = [item for item in output if item["type"] == "function_call"]
    assert len(shown) == len(tools.whole())
    assert sorted((item["name"], item["arguments"]) for item in shown) == sorted(
        (call.name, call.arguments) for call in tools.whole()
    )
    assert {item["call_id"] for item in shown} == calls.keys()
    held = [opened(item["encrypted_content"]) for item in output if item.get("encrypted_content")]
    assert sorted(map(repr, held)) == sorted(repr(one) for one in thinking.whole() if one.text or one.signature)


@given(chunks, st.integers(0, 12))
@settings(max_examples=150, deadline=None)
def test_a_stream_that_breaks_off_anywhere_ends_with_what_was_said(answer: list[Chunk], after: int) -> None:
    stream = ResponseStream(parse(HELLO, WHO), seal)
    data = b"".join([stream.write(chunk) for chunk in (Chunk(), *answer[:after])])
    found = read(data + stream.failed(ProviderUnavailable("rompu")))
    last = found[-1]["response"]
    assert (found[-1]["type"], last["status"], last["error"]["metier_code"]) == (
        "response.failed",
        "failed",
        "provider_unavailable",
    )
    said = "".join(item["content"][0]["text"] for item in last["output"] if item["type"] == "message")
    assert said == "".join(chunk.text for chunk in answer[:after])


@given(chunks)
@settings(max_examples=150, deadline=None)
def test_what_came_out_can_be_sent_back(answer: list[Chunk]) -> None:
    stream = ResponseStream(parse(HELLO, WHO), seal)
    for chunk in answer:
        stream.write(chunk)
    _, body = stream.finish()
    calls = [item for item in body["output"] if item["type"] == "function_call"]
    # Names and ids a model left out, or gave twice, are not for a client to mend.
    if len({item["call_id"] for item in calls}) < len(calls) or not all(item["name"] for item in calls):
        return
    results = [{"type": "function_call_output", "call_id": item["call_id"], "output": "1"} for item in calls]
    again = parse(
        orjson.dumps({"model": "petit", "input": [{"role": "user", "content": "a"}, *body["output"], *results]}), WHO
    )
    found = turns([(f"input[{index}]", item) for index, item in enumerate(again.items)], opened)
    texts = [chunk.text for chunk in answer]
    assert "".join(message.content for message in found if message.role == "assistant") == "".join(texts)
    made = [call.id for message in found for call in message.tool_calls]
    assert sorted(made) == sorted(item["call_id"] for item in calls)
