from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metier.api import chat_body
from metier.api.chat_body import IGNORED, NEUTRAL, parse
from metier.calls import KeyId, Principal, ProjectId, SystemId, Tool
from metier.errors import Invalid, MetierError

WHO = Principal(KeyId("k"), ProjectId("p"), SystemId("s"))
HELLO: dict[str, Any] = {"model": "petit", "messages": [{"role": "user", "content": "Bonjour"}]}
FIELDS = [*chat_body._Body.model_fields, *IGNORED, *NEUTRAL, "unknown"]

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
words = st.sampled_from(
    [
        "type",
        "text",
        "image_url",
        "input_audio",
        "file",
        "url",
        "data",
        "data:image/png;base64,AAAA",
        "cache_control",
        "ephemeral",
        "thinking_blocks",
        "reasoning_content",
        "function",
        "name",
        "arguments",
        "role",
        "user",
        "tool",
        "content",
        "json_schema",
        "schema",
        "auto",
    ]
)
values = st.recursive(
    scalars | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words | st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


def judged(data: bytes) -> None:
    """Parsing gives a call that can be written out again, or an error that is the sender's and says so."""
    try:
        asked = parse(data, WHO)
    except MetierError as error:
        assert 400 <= error.status < 500
        assert error.message
        return
    call = asked.call
    assert call.messages
    for tool in call.tools:
        orjson.dumps(dict(tool.parameters))
    orjson.dumps([message.text for message in call.messages])
    for message in call.messages:
        assert not (message.content and message.parts)
    if call.output is not None:
        orjson.dumps(dict(call.output.schema))


@given(st.binary(max_size=300))
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_taken_or_refused(data: bytes) -> None:
    judged(data)


@given(st.dictionaries(st.sampled_from(FIELDS), values, max_size=6))
@settings(max_examples=300, deadline=None)
def test_any_json_under_known_names_is_taken_or_refused(body: dict[str, Any]) -> None:
    judged(json.dumps({**HELLO, **body}).encode())


@given(st.lists(st.dictionaries(words, values, max_size=5), min_size=1, max_size=3))
@settings(max_examples=200, deadline=None)
def test_any_messages_are_taken_or_refused(messages: list[Any]) -> None:
    roles: list[dict[str, Any]] = [{"role": "user", **message} for message in messages]
    judged(json.dumps({**HELLO, "messages": roles}).encode())


@pytest.mark.parametrize("depth", [60, 500, 5_000, 200_000])
@pytest.mark.parametrize("place", ["tools", "response_format", "messages", "metadata"])
def test_no_depth_of_nesting_breaks_anything(depth: int, place: str) -> None:
    nested = "[" * depth + "]" * depth
    inside = {
        "tools": f'[{{"type":"function","function":{{"name":"f","parameters":{{"a":{nested}}}}}}}]',
        "response_format": f'{{"type":"json_schema","json_schema":{{"name":"f","schema":{{"a":{nested}}}}}}}',
        "messages": f'[{{"role":"user","content":{nested}}}]',
        "metadata": nested,
    }[place]
    body = orjson.dumps({k: v for k, v in HELLO.items() if k != place})[:-1]
    judged(body + f',"{place}":{inside}}}'.encode())


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "Bonjour"}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "king", "content": "a"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].tool_call_id"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content[0].image_url.url",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "video_url"}]}]}, "messages[0].content[0].type"),
        ({"model": None}, "model"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": "0"}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"n": 2}, "n"),
        ({"n": True}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),
        ({"reasoning_effort": "huge"}, "reasoning_effort"),
        ({"top_k": 0}, "top_k"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"user": 5}, "user"),
        ({"audio": {}}, "audio"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "any"}, "tool_choice"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "à b"}}]}, "tools[0].function.name"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], param: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse(orjson.dumps({**HELLO, **change}), WHO)
    assert caught.value.param == param


def test_what_asks_for_nothing_is_taken() -> None:
    neutral = {name: good[0] for name, good in NEUTRAL.items()}
    ignored = dict.fromkeys(IGNORED, "x")
    asked = parse(orjson.dumps({**HELLO, **neutral, **ignored, "reasoning_effort": None}), WHO)
    assert asked.call.messages[0].content == "Bonjour"


def test_everything_known_arrives_in_the_call() -> None:
    schema = {"type": "object"}
    asked = parse(
        orjson.dumps(
            {
                "model": "petit",
                "messages": [
                    {"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                    {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]},
                    {"role": "tool", "tool_call_id": "1", "content": "12"},
                ],
                "stream": True,
                "stream_options": {"include_usage": True},
                "temperature": 0,
                "top_p": 1,
                "max_tokens": 5,
                "max_completion_tokens": 6,
                "stop": "FIN",
                "seed": 3,
                "tools": [{"type": "function", "function": {"name": "f", "parameters": schema, "strict": True}}],
                "tool_choice": "required",
                "response_format": {"type": "json_object"},
            }
        ),
        WHO,
    )
    call = asked.call
    assert (asked.stream, asked.include_usage) == (True, True)
    assert (call.messages[0].role, call.messages[0].content) == ("system", "a\nb")
    assert call.messages[1].tool_calls[0].name == "f"
    assert (call.temperature, call.top_p, call.max_output_tokens, call.stop, call.seed) == (0, 1, 6, ("FIN",), 3)
    assert (call.tools, call.tool_choice) == ((Tool("f", "", schema, True),), "required")
    assert call.output is not None
    assert call.output.schema == {}
