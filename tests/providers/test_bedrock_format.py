from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metier.calls import (
    JSON,
    Call,
    Chunk,
    KeyId,
    Media,
    Message,
    OutputSchema,
    Principal,
    ProjectId,
    Reasoning,
    SystemId,
    Text,
    Tool,
    ToolCall,
    Usage,
)
from metier.catalog import Deployment, Price
from metier.errors import Invalid, ProviderUnavailable
from metier.providers.bedrock_answer import Reading
from metier.providers.bedrock_format import converse_body
from tests.providers.amazon import event

GOLDEN = Path(__file__).parent / "golden"
WHO = Principal(KeyId("k"), ProjectId("p"), SystemId("s"))
USER = Message("user", "Bonjour")
CALL = Call(WHO, "petit", messages=(USER,))
TOOL = Tool("heure", "Donne l'heure", {"type": "object"})
PARIS = Deployment(
    id="paris",
    provider="bedrock",
    model_id="anthropic.claude-sonnet-4-5-20250929-v1:0",
    base_url=None,
    api_key=None,
    price=Price(Decimal(0), Decimal(0), Decimal(0)),
    energy=None,
    context_tokens=8000,
    max_output_tokens=500,
    timeout_s=30.0,
    country="FR",
    hosting="public",
    options={"region": "eu-west-3"},
)
EVENTS = [event(kind, payload) for kind, payload in orjson.loads((GOLDEN / "bedrock_events.json").read_bytes())]
WHOLE = b"".join(EVENTS)
TURNS = (
    Message("system", "Sois bref.", cache=True),
    Message(
        "user",
        parts=(
            Text("Que dit ce contrat ?"),
            Media("application/pdf", "JVBERi0=", "Contrat n° 12 (2026).pdf", cache=True),
            Media("image/png", "iVBORw==", detail="high"),
        ),
    ),
    Message(
        "assistant",
        "Je regarde.",
        tool_calls=(ToolCall("t1", "date", ""), ToolCall("t2", "heure", '{"ville": "Lyon"}', signature="google's")),
        reasoning=(Reasoning("Il faut la date et l'heure.", "c2lnbmVk"), Reasoning("", "c2VhbGVk", sealed=True)),
    ),
    Message("tool", "21 novembre", tool_call_id="t1", name="date"),
    Message("tool", tool_call_id="t2", parts=(Text("12 h"), Media("image/jpeg", "/9j/")), failed=True),
    Message("system", "En français."),
    Message("user", "Alors ?", cache=True),
)


def thinking(model_id: str, max_output_tokens: int = 32_000, **fields: Any) -> JSON:
    deployment = replace(PARIS, model_id=model_id, max_output_tokens=max_output_tokens)
    return converse_body(replace(CALL, **fields), deployment).get("additionalModelRequestFields")


def test_everything_a_call_can_ask_is_written() -> None:
    call = Call(
        WHO,
        "petit",
        messages=TURNS,
        tools=(
            Tool("date", "Donne la date", {"type": "object", "properties": {}}),
            Tool("heure", "", {"type": "object", "properties": {"ville": {"type": "string"}}}, strict=True, cache=True),
        ),
        tool_choice="heure",
        output=OutputSchema("fiche", {"type": "object"}),
        temperature=0.0,
        top_p=0.5,
        top_k=40,
        max_output_tokens=9_000,
        stop=("FIN",),
    )
    assert converse_body(call, PARIS) == orjson.loads((GOLDEN / "bedrock_request.json").read_bytes())


@pytest.mark.parametrize(
    ("choice", "written"), [("auto", {"auto": {}}), ("required", {"any": {}}), ("heure", {"tool": {"name": "heure"}})]
)
def test_the_choice_of_a_tool_is_written(choice: str, written: JSON) -> None:
    config: Any = converse_body(replace(CALL, tools=(TOOL,), tool_choice=choice), PARIS)["toolConfig"]
    assert config["toolChoice"] == written


def test_no_tool_at_all_means_that_none_is_offered() -> None:
    assert "toolConfig" not in converse_body(replace(CALL, tools=(TOOL,), tool_choice="none"), PARIS)


def test_every_object_of_a_schema_is_closed_and_nothing_else_changes() -> None:
    leaf: dict[str, Any] = {
        "type": "object",
        "properties": {"properties": {"type": "string", "enum": ["a"]}},
        "required": ["properties"],
    }
    schema: dict[str, Any] = {
        "anyOf": [{"$ref": "#/$defs/a"}, {"type": "array", "items": leaf}],
        "$defs": {"a": leaf, "type": leaf},
    }
    body: Any = converse_body(replace(CALL, output=OutputSchema("o", schema)), PARIS)
    written = orjson.loads(body["outputConfig"]["textFormat"]["structure"]["jsonSchema"]["schema"])
    shut = {**leaf, "additionalProperties": False}
    assert written == {
        "anyOf": [{"$ref": "#/$defs/a"}, {"type": "array", "items": shut}],
        "$defs": {"a": shut, "type": shut},
    }
    free: dict[str, Any] = {"type": "object", "additionalProperties": {"type": "string"}}
    body = converse_body(replace(CALL, tools=(replace(TOOL, parameters=free, strict=True),)), PARIS)
    assert body["toolConfig"]["tools"][0]["toolSpec"]["inputSchema"] == {"json": free}, "what is said is left as it is"


def test_documents_are_told_apart() -> None:
    parts = tuple(Media("text/plain; charset=utf-8", "YQ==", name) for name in ("note.txt", "note.md", "", "«»"))
    body: Any = converse_body(replace(CALL, messages=(Message("user", parts=parts),)), PARIS)
    names = [block["document"]["name"] for block in body["messages"][0]["content"]]
    assert names == ["note", "note 2", "document", "document 2"]


@pytest.mark.parametrize("kind", ["audio/wav", "video/mp4"])
def test_sounds_and_films_are_blocks_of_their_own(kind: str) -> None:
    body: Any = converse_body(replace(CALL, messages=(Message("user", parts=(Media(kind, "AA=="),)),)), PARIS)
    name, form = kind.split("/")
    assert body["messages"][0]["content"] == [{name: {"format": form, "source": {"bytes": "AA=="}}}]


def test_a_mark_after_tool_calls_and_results_is_kept() -> None:
    asked = Message("assistant", tool_calls=(ToolCall("t", "heure", "{}"),), cache=True)
    answered = Message("tool", "midi", tool_call_id="t", cache=True)
    body: Any = converse_body(replace(CALL, messages=(USER, asked, answered)), PARIS)
    assert [turn["content"][-1] for turn in body["messages"][1:]] == [{"cachePoint": {"type": "default"}}] * 2


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"seed": 0}, "seed"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"presence_penalty": 1.0}, "presence_penalty"),
        ({"parallel_tool_calls": False, "tools": (TOOL,)}, "parallel_tool_calls"),
        ({"output": OutputSchema("o", {})}, "response_format"),
        ({"messages": (Message("system", parts=(Media("image/png", "AA=="),)), USER)}, "messages"),
        ({"messages": (Message("user", parts=(Media("model/stl", "AA=="),)),)}, "messages"),
        ({"messages": (Message("user", "a", name="Paul"),)}, "messages"),
        ({"messages": (Message("user", ""),)}, "messages"),
        ({"messages": (Message("assistant", tool_calls=(ToolCall("t", "f", "{"),)),)}, "messages"),
        ({"messages": (Message("assistant", tool_calls=(ToolCall("t", "f", "[]"),)),)}, "messages"),
        (
            {"messages": (USER, Message("assistant", tool_calls=(ToolCall("t", "f", "{}"),))), "tool_choice": "none"},
            "tool_choice",
        ),
    ],
)
def test_what_converse_has_no_word_for_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(Invalid, match=r"'paris' \(Amazon Bedrock\) cannot take") as caught:
        converse_body(replace(CALL, **fields), PARIS)
    assert caught.value.param == param


def test_how_many_words_to_choose_from_is_asked_of_those_who_know() -> None:
    assert thinking("eu.amazon.nova-pro-v1:0", top_k=5) == {"inferenceConfig": {"topK": 5}}
    with pytest.raises(Invalid, match="top_k"):
        thinking("mistral.mistral-large-2402-v1:0", top_k=5)


@pytest.mark.parametrize(
    ("model_id", "fields", "written"),
    [
        ("anthropic.claude-3-7-sonnet-20250219-v1:0", {"thinking_tokens": 4000}, 4000),
        ("eu.anthropic.claude-sonnet-4-20250514-v1:0", {"effort": "low"}, 2048),
        ("anthropic.claude-haiku-4-5-20251001-v1:0", {"effort": "minimal"}, 1024),
        ("anthropic.claude-opus-4-5-20251101-v1:0", {"effort": "high"}, 16000),
        ("anthropic.claude-opus-4-6-v1", {"thinking_tokens": 2000}, 2000),
    ],
)
def test_a_claude_that_counts_is_given_a_number(model_id: str, fields: dict[str, Any], written: int) -> None:
    assert thinking(model_id, **fields) == {"thinking": {"type": "enabled", "budget_tokens": written}}


@pytest.mark.parametrize("name", ["opus-4-6-v1", "opus-4-7", "sonnet-5", "fable-5-1", "mythos-preview"])
def test_a_claude_that_decides_itself_is_given_an_effort(name: str) -> None:
    assert thinking(f"anthropic.claude-{name}", effort="medium") == {
        "thinking": {"type": "adaptive", "display": "summarized"},
        "output_config": {"effort": "medium"},
    }


def test_other_families_are_told_in_their_own_words() -> None:
    off = {"thinking": {"type": "disabled"}}
    assert thinking("anthropic.claude-sonnet-4-6", effort="none") == off
    assert thinking("anthropic.claude-sonnet-4-6", thinking_tokens=0) == off
    assert thinking("amazon.nova-2-lite-v1:0", effort="none") == {"reasoningConfig": {"type": "disabled"}}
    assert thinking("amazon.nova-2-lite-v1:0", effort="minimal") == {
        "reasoningConfig": {"type": "enabled", "maxReasoningEffort": "low"}
    }
    assert thinking("openai.gpt-oss-120b-1:0", effort="high") == {"reasoning_effort": "high"}


def test_what_is_left_of_a_short_answer_bounds_the_thinking() -> None:
    assert thinking("anthropic.claude-sonnet-4-5-20250929-v1:0", 3000, effort="high") == {
        "thinking": {"type": "enabled", "budget_tokens": 1500}
    }


@pytest.mark.parametrize(
    ("model_id", "fields"),
    [
        ("anthropic.claude-opus-4-7", {"thinking_tokens": 2000}),
        ("anthropic.claude-sonnet-4-5-20250929-v1:0", {"thinking_tokens": 2000, "effort": "low"}),
        ("anthropic.claude-sonnet-4-5-20250929-v1:0", {"thinking_tokens": 40_000}),
        ("anthropic.claude-sonnet-4-5-20250929-v1:0", {"effort": "low", "max_output_tokens": 2000}),
        ("openai.gpt-oss-120b-1:0", {"effort": "none"}),
        ("openai.gpt-oss-120b-1:0", {"thinking_tokens": 2000}),
        ("mistral.mistral-large-2402-v1:0", {"effort": "low"}),
    ],
)
def test_thinking_a_model_has_not_is_refused_by_name(model_id: str, fields: dict[str, Any]) -> None:
    with pytest.raises(Invalid, match=r"\(Amazon Bedrock\) cannot take") as caught:
        thinking(model_id, **fields)
    assert caught.value.param == "reasoning_effort"


def gathered(pieces: list[bytes]) -> tuple[Any, ...]:
    reading = Reading(PARIS)
    chunks = [chunk for piece in pieces if (chunk := reading.take(piece)) is not None]
    assert reading.end() is None
    tools: dict[int, list[str]] = {}
    thoughts: dict[int, list[Any]] = {}
    for chunk in chunks:
        for call in chunk.tool_calls:
            had = tools.setdefault(call.index, ["", "", ""])
            tools[call.index] = [had[0] + (call.id or ""), had[1] + (call.name or ""), had[2] + call.arguments]
        for thought in chunk.reasoning:
            was = thoughts.setdefault(thought.index, ["", "", False])
            thoughts[thought.index] = [was[0] + thought.text, was[1] + thought.signature, was[2] or thought.sealed]
    finishes = [chunk.finish for chunk in chunks if chunk.finish]
    usages = [chunk.usage for chunk in chunks if chunk.usage]
    return "".join(chunk.text for chunk in chunks), tools, thoughts, finishes, usages


READ = (
    "Été à Évry",
    {0: ["t1", "heure", '{"ville": "Lyon"}'], 1: ["t2", "date", "{}"]},
    {0: ["Je réfléchis.", "c2ln", False], 1: ["", "c2VhbGVk", True]},
    ["tool_calls"],
    [Usage(140, 9, 100, 20)],
)


@pytest.mark.parametrize("pieces", [[WHOLE], EVENTS, [WHOLE[i : i + 1] for i in range(len(WHOLE))]])
def test_an_answer_is_read_whatever_its_pieces(pieces: list[bytes]) -> None:
    assert gathered(pieces) == READ


@given(st.lists(st.integers(0, len(WHOLE)), max_size=12).map(sorted))
@settings(max_examples=60, deadline=None)
def test_an_answer_does_not_depend_on_how_it_was_cut(cuts: list[int]) -> None:
    assert gathered([WHOLE[a:b] for a, b in zip([0, *cuts], [*cuts, len(WHOLE)], strict=True)]) == READ


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("content_filtered", "content_filter"),
        ("guardrail_intervened", "content_filter"),
    ],
)
def test_why_an_answer_ended_is_told(reason: str, finish: str) -> None:
    assert Reading(PARIS).take(event("messageStop", {"stopReason": reason})) == Chunk(finish=finish)  # type: ignore[arg-type]  # one of the five


@pytest.mark.parametrize("reason", ["malformed_model_output", "malformed_tool_use", "something_new"])
def test_an_answer_given_up_never_looks_finished(reason: str) -> None:
    with pytest.raises(ProviderUnavailable, match=reason):
        Reading(PARIS).take(event("messageStop", {"stopReason": reason}))


@pytest.mark.parametrize(
    ("told", "usage"),
    [
        ({"inputTokens": 3, "outputTokens": 2}, Usage(3, 2)),
        ({"inputTokens": 3, "outputTokens": 2, "cacheReadInputTokens": 5}, Usage(8, 2, 5)),
        ({"inputTokens": None, "outputTokens": 2, "cacheWriteInputTokens": 7}, Usage(7, 2, 0, 7)),
    ],
)
def test_the_whole_input_is_counted(told: dict[str, int], usage: Usage) -> None:
    assert Reading(PARIS).take(event("metadata", {"usage": told})) == Chunk(usage=usage)


def test_events_of_tomorrow_are_passed_over() -> None:
    assert Reading(PARIS).take(event("weather", {"sun": True})) is None
