"""Every part of a chat message arrives as it was meant, or is refused by the name of what is wrong with it."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from metier.api.chat_body import parse
from metier.calls import Call, KeyId, Media, Message, Principal, ProjectId, Reasoning, SystemId, Text, ToolCall
from metier.errors import Invalid

WHO = Principal(KeyId("k"), ProjectId("p"), SystemId("s"))
EPHEMERAL = {"type": "ephemeral"}


def read(*messages: Any, **more: Any) -> Call:
    return parse(orjson.dumps({"model": "petit", "messages": messages, **more}), WHO).call


def user(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": parts}


def test_texts_and_media_arrive_in_order() -> None:
    [message] = read(
        user(
            {"type": "text", "text": "Vois"},
            {"type": "image_url", "image_url": {"url": "data:image/PNG;base64,AAAA", "detail": "high"}},
            {"type": "image_url", "image_url": "data:image/jpeg;charset=binary;base64,AAAA"},
            {"type": "input_audio", "input_audio": {"data": "BBBB", "format": "mp3"}},
            {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,CCCC"}},
            {"type": "file", "file": {"filename": "b.PDF", "file_data": "CCCC"}, "cache_control": EPHEMERAL},
        )
    ).messages
    assert message == Message(
        "user",
        parts=(
            Text("Vois"),
            Media("image/png", "AAAA", detail="high"),
            Media("image/jpeg", "AAAA"),
            Media("audio/mpeg", "BBBB"),
            Media("application/pdf", "CCCC", name="a.pdf"),
            Media("application/pdf", "CCCC", name="b.PDF", cache=True),
        ),
    )


def test_texts_alone_take_the_short_way() -> None:
    [message] = read(user({"type": "text", "text": "un"}, {"type": "text", "text": "deux"})).messages
    assert message == Message("user", "un\ndeux")
    [marked] = read(user({"type": "text", "text": "un", "cache_control": EPHEMERAL})).messages
    assert marked == Message("user", parts=(Text("un", cache=True),))


@pytest.mark.parametrize(
    ("part", "param"),
    [
        ({"type": "image_url", "image_url": {"url": "https://exemple.fr/a.png"}}, "image_url.url"),
        ({"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}, "image_url.url"),
        ({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}, "image_url.url"),
        ({"type": "image_url", "image_url": {"url": "data:text/html;base64,AAAA"}}, "image_url.url"),
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,pas du tout"}}, "image_url.url"),
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}, "image_url.url"),
        ({"type": "image_url", "image_url": {"url": "data:image/png,AAAA"}}, "image_url.url"),
        ({"type": "image_url", "image_url": {"url": 5}}, "image_url.url"),
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "x"}}, "image_url.detail"),
        ({"type": "image_url"}, ""),
        ({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "aiff"}}, "input_audio.format"),
        ({"type": "input_audio", "input_audio": {"format": "wav"}}, "input_audio.data"),
        ({"type": "input_audio", "input_audio": 3}, ""),
        ({"type": "file", "file": {"file_id": "file-1"}}, "file"),
        ({"type": "file", "file": {"file_data": "AAAA"}}, "file.file_data"),
        ({"type": "file", "file": {"file_data": "https://x/a.pdf"}}, "file.file_data"),
        ({"type": "file", "file": {"file_data": "AAAA", "filename": 3}}, "file.filename"),
        ({"type": "text"}, "text"),
        ({"type": "text", "text": "a", "cache_control": {"type": "eternal"}}, "cache_control"),
        ({"type": "text", "text": "a", "cache_control": {"type": "ephemeral", "ttl": "1h"}}, "cache_control"),
        ({"type": ["text"]}, "type"),
    ],
)
def test_a_part_that_does_not_fit_is_named(part: Any, param: str) -> None:
    with pytest.raises(Invalid) as caught:
        read(user({"type": "text", "text": "a"}, part))
    assert caught.value.param == f"messages[0].content[1].{param}".rstrip(".")


def test_an_address_is_refused_with_the_way_out() -> None:
    with pytest.raises(Invalid, match=r"fetches no address.*data: URL"):
        read(user({"type": "image_url", "image_url": {"url": "https://exemple.fr/a.png"}}))


def test_thoughts_and_signatures_of_former_turns_come_back() -> None:
    asked = {"id": "t", "function": {"name": "f", "arguments": "{}"}}
    call = read(
        {"role": "assistant", "content": "a", "reasoning_content": "Hm"},
        {
            "role": "assistant",
            "content": "b",
            "reasoning_content": "Hm",
            "thinking_blocks": [
                {"type": "thinking", "thinking": "Hm", "signature": "s", "index": 0},
                {"type": "redacted_thinking", "data": "xyz"},
            ],
        },
        {"role": "assistant", "tool_calls": [{**asked, "extra_content": {"google": {"thought_signature": "g"}}}]},
        {"role": "tool", "tool_call_id": "t", "content": "ok", "cache_control": EPHEMERAL},
        {"role": "user", "content": "c", "reasoning_content": "never mine"},
    )
    first, second, third, fourth, fifth = call.messages
    assert first.reasoning == (Reasoning("Hm"),)
    assert second.reasoning == (Reasoning("Hm", "s"), Reasoning(signature="xyz", sealed=True))
    assert third.tool_calls == (ToolCall("t", "f", "{}", "g"),)
    assert fourth.cache
    assert fifth.reasoning == ()


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"thinking_blocks": [{"type": "thinking", "thinking": 5}]}, "thinking_blocks[0]"),
        ({"thinking_blocks": [{"type": "other"}]}, "thinking_blocks[0]"),
        ({"thinking_blocks": [{"type": "redacted_thinking"}]}, "thinking_blocks[0]"),
        ({"cache_control": {"type": 5}}, "cache_control"),
        (
            {"tool_calls": [{"id": "t", "function": {"name": "f", "arguments": "{}"},
                             "extra_content": {"google": {"thought_signature": 5}}}]},
            "tool_calls[0].extra_content.google.thought_signature",
        ),
    ],
)  # fmt: skip
def test_a_turn_that_does_not_fit_is_named(message: Any, param: str) -> None:
    with pytest.raises(Invalid) as caught:
        read({"role": "assistant", "content": "a", **message})
    assert caught.value.param == f"messages[0].{param}"


def test_every_new_parameter_arrives() -> None:
    tool = {"type": "function", "function": {"name": "f"}, "cache_control": EPHEMERAL}
    call = read(
        {"role": "user", "content": "a"},
        reasoning_effort="minimal", thinking={"type": "enabled", "budget_tokens": 2048}, parallel_tool_calls=False,
        frequency_penalty=0.5, presence_penalty=-1, top_k=40, prompt_cache_key="dossier", user="u1", tools=[tool],
    )  # fmt: skip
    assert (call.effort, call.thinking_tokens, call.parallel_tool_calls) == ("minimal", 2048, False)
    assert (call.frequency_penalty, call.presence_penalty, call.top_k) == (0.5, -1.0, 40)
    assert (call.cache_key, call.end_user) == ("dossier", "u1")
    assert call.tools[0].cache
    assert read({"role": "user", "content": "a"}, safety_identifier="s1", user="u1").end_user == "s1"
    assert read({"role": "user", "content": "a"}, thinking={"type": "disabled"}).thinking_tokens == 0
