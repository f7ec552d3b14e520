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
    ReasoningDelta,
    SystemId,
    Text,
    Tool,
    ToolCall,
    Usage,
)
from metier.catalog import Deployment, Price
from metier.errors import Invalid, ProviderUnavailable
from metier.providers.gemini_answer import Reading
from metier.providers.gemini_format import content_body, predict_bodies
from tests.providers.google import event

GOLDEN = Path(__file__).parent / "golden"
WHO = Principal(KeyId("k"), ProjectId("p"), SystemId("s"))
USER = Message("user", "Bonjour")
CALL = Call(WHO, "petit", messages=(USER,))
TOOL = Tool("heure", "Donne l'heure", {"type": "object"})
GOOGLE = Deployment(
    id="iowa",
    provider="gemini",
    model_id="gemini-2.5-pro",
    base_url=None,
    api_key="k",
    price=Price(Decimal(0), Decimal(0), Decimal(0)),
    energy=None,
    context_tokens=8000,
    max_output_tokens=500,
    timeout_s=30.0,
    country="US",
    hosting="public",
)
VERTEX = replace(GOOGLE, provider="vertex", options={"project": "projet", "location": "europe-west9"})
EVENTS = [event(**fields) for fields in orjson.loads((GOLDEN / "gemini_events.json").read_bytes())]
WHOLE = b"".join(EVENTS)
ASKED = Message(
    "assistant",
    "Je regarde.",
    tool_calls=(ToolCall("t1", "date", "", signature="YXBwZWw="), ToolCall("t2", "heure", '{"ville": "Lyon"}')),
    reasoning=(
        Reasoning("Il faut la date et l'heure.", "google:cHJlbWllcmU="),
        Reasoning("Une pensée d'un autre fournisseur.", "c2lnbmVk"),
        Reasoning("", "google:c2Vjb25kZQ=="),
    ),
)
TURNS = (
    Message("system", "Sois bref.", cache=True),
    Message(
        "user",
        parts=(
            Text("Que disent ces pièces ?", cache=True),
            Media("application/pdf", "JVBERi0=", "Contrat.pdf"),
            Media("image/png", "iVBORw==", detail="high"),
            Media("audio/wav", "UklGRg==", detail="auto"),
        ),
    ),
    ASKED,
    Message("tool", '{"jour": 21}', tool_call_id="t1"),
    Message("tool", tool_call_id="t2", parts=(Text("pas de réseau"), Media("image/jpeg", "/9j/")), failed=True),
    Message("system", "En français."),
    Message("user", "Alors ?"),
)


def config(deployment: Deployment = GOOGLE, **fields: Any) -> dict[str, Any]:
    found: Any = content_body(replace(CALL, **fields), deployment)["generationConfig"]
    assert isinstance(found, dict)
    return found


def test_everything_a_call_can_ask_is_written() -> None:
    call = Call(
        WHO,
        "petit",
        messages=TURNS,
        tools=(
            Tool("date", "Donne la date", {"type": "object", "properties": {}}, cache=True),
            Tool("heure", "", {"type": "object", "properties": {"ville": {"type": "string"}}}, strict=True),
        ),
        tool_choice="heure",
        output=OutputSchema("fiche", {"type": "object"}),
        temperature=0.0,
        top_p=0.5,
        top_k=40,
        max_output_tokens=9_000,
        stop=("FIN",),
        seed=7,
        presence_penalty=0.1,
        frequency_penalty=0.2,
        effort="medium",
    )
    assert content_body(call, GOOGLE) == orjson.loads((GOLDEN / "gemini_request.json").read_bytes())


def test_vertex_is_asked_the_same_without_ids() -> None:
    asked = orjson.dumps(content_body(replace(CALL, messages=TURNS), GOOGLE))
    for id in (b"t1", b"t2"):
        asked = asked.replace(b',"id":"' + id + b'"', b"")
    assert orjson.loads(asked) == content_body(replace(CALL, messages=TURNS), VERTEX)


@pytest.mark.parametrize(
    ("choice", "strict", "written"),
    [
        (None, False, None),
        ("auto", False, None),
        ("auto", True, {"mode": "VALIDATED"}),
        ("none", False, {"mode": "NONE"}),
        ("required", True, {"mode": "ANY"}),
        ("heure", False, {"mode": "ANY", "allowedFunctionNames": ["heure"]}),
    ],
)
def test_the_choice_of_a_tool_is_written(choice: str | None, strict: bool, written: JSON) -> None:
    body: Any = content_body(replace(CALL, tools=(replace(TOOL, strict=strict),), tool_choice=choice), GOOGLE)
    assert body.get("toolConfig") == ({"functionCallingConfig": written} if written else None)


def test_any_json_object_is_asked_for_without_a_schema() -> None:
    written = config(output=OutputSchema("o", {}))
    assert written["responseMimeType"] == "application/json"
    assert "responseJsonSchema" not in written


def test_one_resolution_holds_for_all_images() -> None:
    def resolution(*details: str) -> Any:
        parts = tuple(Media("image/png", "AA==", detail=detail) for detail in details)
        return config(messages=(Message("user", parts=parts),)).get("mediaResolution")

    assert resolution("low", "auto") == "MEDIA_RESOLUTION_LOW"
    assert resolution("low", "high") == "MEDIA_RESOLUTION_HIGH"
    assert resolution("auto", "") is None


@pytest.mark.parametrize(
    ("model_id", "fields", "written"),
    [
        ("gemini-2.5-flash", {}, None),
        ("gemini-2.5-flash", {"effort": "none"}, {"includeThoughts": False, "thinkingBudget": 0}),
        ("gemini-2.5-flash", {"effort": "high"}, {"includeThoughts": True, "thinkingBudget": 24576}),
        ("gemini-2.5-flash", {"thinking_tokens": 0}, {"includeThoughts": False, "thinkingBudget": 0}),
        ("gemini-2.5-flash", {"thinking_tokens": 77}, {"includeThoughts": True, "thinkingBudget": 77}),
        ("gemini-3-flash-preview", {"effort": "minimal"}, {"includeThoughts": True, "thinkingLevel": "minimal"}),
        ("gemini-3.1-pro", {"effort": "high"}, {"includeThoughts": True, "thinkingLevel": "high"}),
        ("gemini-3.1-pro", {"thinking_tokens": 77}, {"includeThoughts": True, "thinkingBudget": 77}),
    ],
)
def test_thinking_is_a_budget_or_a_level(model_id: str, fields: dict[str, Any], written: JSON) -> None:
    assert config(replace(GOOGLE, model_id=model_id), **fields).get("thinkingConfig") == written


@pytest.mark.parametrize(
    ("model_id", "signature", "sent"),
    [
        ("gemini-2.5-pro", "", None),
        ("gemini-3-pro-preview", "", "skip_thought_signature_validator"),
        ("gemini-3-pro-preview", "c2ln", "c2ln"),
    ],
)
def test_a_tool_call_another_model_made_is_let_through(model_id: str, signature: str, sent: str | None) -> None:
    calls = (ToolCall("a", "f", "{}", signature), ToolCall("b", "f", "{}"))
    body: Any = content_body(
        replace(CALL, messages=(USER, Message("assistant", tool_calls=calls))), replace(GOOGLE, model_id=model_id)
    )
    first, second = body["contents"][1]["parts"]
    assert first.get("thoughtSignature") == sent
    assert "thoughtSignature" not in second


@pytest.mark.parametrize(
    ("text", "written"), [("midi", "midi"), ("[1]", [1]), ("{non", "{non"), ("12", "12"), ("", "")]
)
def test_a_result_is_given_as_what_it_is(text: str, written: JSON) -> None:
    asked = Message("assistant", tool_calls=(ToolCall("a", "f", "{}"),))
    body: Any = content_body(replace(CALL, messages=(USER, asked, Message("tool", text, tool_call_id="a"))), GOOGLE)
    assert body["contents"][2]["parts"][0]["functionResponse"]["response"] == {"output": written}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"parallel_tool_calls": False, "tools": (TOOL,)}, "parallel_tool_calls"),
        ({"effort": "low", "thinking_tokens": 5}, "reasoning_effort"),
        ({"messages": (Message("system", parts=(Media("image/png", "AA=="),)), USER)}, "messages"),
        ({"messages": (Message("user", "a", name="Paul"),)}, "messages"),
        ({"messages": (Message("user", ""),)}, "messages"),
        ({"messages": (USER, Message("assistant", tool_calls=(ToolCall("t", "f", "{"),)))}, "messages"),
        ({"messages": (USER, Message("assistant", tool_calls=(ToolCall("t", "f", "[]"),)))}, "messages"),
        ({"messages": (USER, Message("assistant", "a", reasoning=(Reasoning("", "x", sealed=True),)))}, "messages"),
        ({"messages": (USER, Message("tool", "midi", tool_call_id="nobody"))}, "messages"),
    ],
)
def test_what_gemini_has_no_word_for_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(Invalid, match=r"'iowa' \(Gemini\) cannot take") as caught:
        content_body(replace(CALL, **fields), GOOGLE)
    assert caught.value.param == param


def test_a_model_that_always_thinks_says_so() -> None:
    with pytest.raises(Invalid, match="always thinks"):
        content_body(replace(CALL, effort="none"), replace(GOOGLE, model_id="gemini-3-pro-preview"))


def test_texts_to_embed_on_vertex_are_put_together_as_far_as_they_may() -> None:
    call = Call(WHO, "m", "embed", inputs=("a",) * 260 + ("b" * 29_000, "c" * 2_000, "d"))

    def sizes(model_id: str) -> list[int]:
        bodies: Any = predict_bodies(call, replace(VERTEX, model_id=model_id))
        return [len(body["instances"]) for body in bodies]

    assert sizes("text-embedding-005") == [250, 11, 2]
    assert sizes("gemini-embedding-001") == [1] * 263


def gathered(pieces: list[bytes]) -> tuple[Any, ...]:
    reading = Reading(GOOGLE)
    chunks = [chunk for piece in pieces if (chunk := reading.take(piece)) is not None]
    last = reading.end()
    tools: dict[int, list[str]] = {}
    thoughts: dict[int, list[str]] = {}
    for chunk in (*chunks, last):
        for call in chunk.tool_calls:
            tools[call.index] = [call.id or "", call.name or "", call.arguments, call.signature]
        for thought in chunk.reasoning:
            was = thoughts.setdefault(thought.index, ["", ""])
            thoughts[thought.index] = [was[0] + thought.text, was[1] + thought.signature]
    assert [chunk.finish for chunk in chunks] == [None] * len(chunks)
    return "".join(chunk.text for chunk in (*chunks, last)), tools, thoughts, last.finish, last.usage


READ = (
    "Été à Évry",
    {0: ["t1", "heure", '{"ville":"Lyon"}', "ZGV1eA=="], 1: ["t2", "date", "{}", ""]},
    {0: ["Je réfléchis.", "google:dW4="]},
    "tool_calls",
    Usage(123, 39, 100, 0, 30),
)


@pytest.mark.parametrize("pieces", [[WHOLE], EVENTS, [WHOLE[i : i + 1] for i in range(len(WHOLE))]])
def test_an_answer_is_read_whatever_its_pieces(pieces: list[bytes]) -> None:
    assert gathered(pieces) == READ


@given(st.lists(st.integers(0, len(WHOLE)), max_size=12).map(sorted))
@settings(max_examples=60, deadline=None)
def test_an_answer_does_not_depend_on_how_it_was_cut(cuts: list[int]) -> None:
    assert gathered([WHOLE[a:b] for a, b in zip([0, *cuts], [*cuts, len(WHOLE)], strict=True)]) == READ


def answer(*parts: JSON, finish: str | None = None) -> bytes:
    candidate: dict[str, JSON] = {"content": {"parts": list(parts)}}
    if finish:
        candidate["finishReason"] = finish
    return event(candidates=[candidate])


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("STOP", "stop"),
        ("MAX_TOKENS", "length"),
        ("SAFETY", "content_filter"),
        ("RECITATION", "content_filter"),
        ("BLOCKLIST", "content_filter"),
        ("PROHIBITED_CONTENT", "content_filter"),
        ("SPII", "content_filter"),
        ("IMAGE_SAFETY", "content_filter"),
    ],
)
def test_why_an_answer_ended_is_told(reason: str, finish: str) -> None:
    reading = Reading(GOOGLE)
    assert reading.take(answer({"text": "a"}, finish=reason)) == Chunk("a")
    assert reading.end() == Chunk(finish=finish)  # type: ignore[arg-type]  # one of the four


@pytest.mark.parametrize("reason", ["MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "OTHER", "SOMETHING_NEW"])
def test_an_answer_given_up_never_looks_finished(reason: str) -> None:
    with pytest.raises(ProviderUnavailable, match=reason):
        Reading(GOOGLE).take(answer(finish=reason))


def test_a_prompt_that_is_blocked_ends_as_filtered() -> None:
    reading = Reading(GOOGLE)
    assert reading.take(event(promptFeedback={"blockReason": "SAFETY"}, usageMetadata={"promptTokenCount": 4})) is None
    assert reading.end() == Chunk(finish="content_filter", usage=Usage(4))


def test_thoughts_and_their_signatures_stay_apart() -> None:
    reading = Reading(GOOGLE)
    first = reading.take(
        answer({"text": "a", "thought": True}, {"text": "b"}, {"text": "", "thoughtSignature": "MQ=="})
    )
    assert first == Chunk("b", reasoning=(ReasoningDelta(0, "a", "google:MQ=="),))
    second = reading.take(answer({"text": "c", "thoughtSignature": "Mg=="}))
    assert second == Chunk("c", reasoning=(ReasoningDelta(1, "", "google:Mg=="),))
    third = reading.take(answer({"text": "d", "thought": True}))
    assert third == Chunk(reasoning=(ReasoningDelta(2, "d"),))


def test_a_signature_without_a_thought_is_kept() -> None:
    chunk = Reading(GOOGLE).take(answer({"text": "b", "thoughtSignature": "MQ=="}))
    assert chunk == Chunk("b", reasoning=(ReasoningDelta(0, "", "google:MQ=="),))


def test_tool_calls_without_an_id_are_given_one() -> None:
    chunk = Reading(GOOGLE).take(answer({"functionCall": {"name": "f"}}, {"functionCall": {"name": "f"}}))
    assert chunk is not None
    first, second = chunk.tool_calls
    assert first.id and second.id and first.id != second.id


def test_an_image_that_is_made_is_passed_on() -> None:
    chunk = Reading(GOOGLE).take(answer({"inlineData": {"mimeType": "image/png", "data": "AA=="}}))
    assert chunk == Chunk(media=(Media("image/png", "AA=="),))
