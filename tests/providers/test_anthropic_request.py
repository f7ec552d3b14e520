"""What Anthropic is asked, whole: one golden file for each way of asking."""

from __future__ import annotations

import json
import pathlib
from dataclasses import replace
from typing import Any

import pytest

from metier.calls import Call, Media, Message, OutputSchema, Reasoning, Text, Tool, ToolCall
from metier.errors import Invalid, ProviderUnavailable
from metier.providers.anthropic_format import answer_tool, count_body, message_body
from tests.providers.deployments import CALL, WHO, deployment

GOLDEN = pathlib.Path(__file__).parent / "golden" / "anthropic"
HERE = deployment(None, id="claude-a", provider="anthropic", model_id="claude-opus-5", max_output_tokens=32_000)
BUDGET = replace(HERE, model_id="claude-haiku-4-5")
OLD = replace(HERE, model_id="claude-3-5-haiku-20241022")
PNG = Media("image/png", "iVBORw0KGgo=", detail="low")
PDF = Media("application/pdf", "JVBERi0=", name="contrat.pdf", cache=True)
NOTE = Media("text/plain", "w6l0w6k=")
TOOLS = (
    Tool("heure", "Donne l'heure", {"type": "object", "properties": {"ville": {"type": "string"}}}, strict=True),
    Tool("date", "", {}, cache=True),
)
CARD: dict[str, Any] = {
    "type": "object",
    "properties": {"nom": {"type": "string"}, "sous": {"type": "object", "properties": {"a": {}}}},
}
RICH = Call(
    WHO,
    "petit",
    messages=(
        Message("system", "Sois bref."),
        Message("system", parts=(Text("Le règlement.", cache=True),)),
        Message("user", parts=(Text("Que vois-tu ?"), PNG, PDF, NOTE)),
        Message(
            "assistant",
            "Je regarde.",
            tool_calls=(ToolCall("call|1", "heure", '{"ville":"Lyon"}', signature="c2ln"), ToolCall("t2", "date", "")),
            reasoning=(
                Reasoning("Il faut l'heure.", "proof"),
                Reasoning("D'un autre fournisseur."),
                Reasoning("De Google.", "google:c2ln"),
                Reasoning(signature="hidden", sealed=True),
            ),
        ),
        Message("tool", "12 h", tool_call_id="call|1", name="heure"),
        Message("tool", parts=(Text("voici"), PNG), tool_call_id="t2", failed=True, cache=True),
        Message("user", "Merci", cache=True),
    ),
    tools=TOOLS,
    tool_choice="auto",
    parallel_tool_calls=False,
    max_output_tokens=64_000,
    stop=("FIN", "STOP"),
    end_user="camille@exemple.fr",
    cache_key="camille@exemple.fr",
    frequency_penalty=0,
)
ASKED = {
    "everything": (RICH, HERE),
    "sampling": (replace(CALL, temperature=0.2, top_p=0.9, top_k=40, max_output_tokens=64), HERE),
    "effort": (replace(RICH, effort="minimal", temperature=1.0), HERE),
    "effort-as-budget": (replace(CALL, effort="high", max_output_tokens=20_000), BUDGET),
    "budget": (replace(CALL, thinking_tokens=2_000, max_output_tokens=4_000, top_p=0.95), BUDGET),
    "no-thinking": (replace(CALL, thinking_tokens=0), HERE),
    "schema": (replace(CALL, output=OutputSchema("fiche", CARD), effort="low"), HERE),
    "schema-by-tool": (replace(CALL, output=OutputSchema("fiche.v1", CARD)), OLD),
    "schema-by-tool-beside-others": (replace(RICH, output=OutputSchema("date", {}, strict=False)), HERE),
    "one-tool": (replace(CALL, tools=TOOLS, tool_choice="heure"), HERE),
    "any-tool": (replace(CALL, tools=TOOLS, tool_choice="required", parallel_tool_calls=False), HERE),
    "no-tool": (replace(CALL, tools=TOOLS, tool_choice="none", parallel_tool_calls=False), HERE),
}


@pytest.mark.parametrize("name", ASKED)
def test_a_call_is_written_as_anthropic_reads_it(name: str) -> None:
    call, where = ASKED[name]
    written = message_body(call, where)
    golden = GOLDEN / f"request-{name}.json"
    assert written == json.loads(golden.read_text(encoding="utf-8"))
    assert "camille" not in json.dumps(written), "who is served is not told to the provider"


def test_a_count_asks_about_the_same_message_without_how_it_is_answered() -> None:
    body = message_body(RICH, HERE)
    assert count_body(RICH, HERE) == {
        name: body[name] for name in ("model", "messages", "system", "tools", "tool_choice")
    }


PDF_MESSAGE = Message("user", parts=(PDF,))
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "seed": ({"seed": 7}, "seed"),
    "frequency_penalty": ({"frequency_penalty": 0.5}, "frequency_penalty"),
    "presence_penalty": ({"presence_penalty": -1}, "presence_penalty"),
    "dimensions": ({"dimensions": 8}, "dimensions"),
    "audio to transcribe": ({"audio": Media("audio/wav", "UklGRg==")}, "audio"),
    "embed": ({"operation": "embed"}, "model"),
    "rerank": ({"operation": "rerank"}, "model"),
    "temperature": ({"temperature": 1.5}, "temperature"),
    "sound": ({"messages": (Message("user", parts=(Media("audio/wav", "UklGRg=="),)),)}, "messages"),
    "video": ({"messages": (Message("user", parts=(Media("video/mp4", "AAAA"),)),)}, "messages"),
    "bmp": ({"messages": (Message("user", parts=(Media("image/bmp", "AAAA"),)),)}, "messages"),
    "image of the system": ({"messages": (Message("system", parts=(PNG,)), PDF_MESSAGE)}, "messages"),
    "image of the assistant": ({"messages": (PDF_MESSAGE, Message("assistant", parts=(PNG,)))}, "messages"),
    "broken note": ({"messages": (Message("user", parts=(Media("text/plain", "é"),)),)}, "messages"),
    "name": ({"messages": (Message("user", "a", name="Camille"),)}, "messages"),
    "nothing": ({"messages": (Message("system", "Sois bref."), Message("user", ""))}, "messages"),
    "arguments": ({"messages": (Message("assistant", tool_calls=(ToolCall("t", "heure", "[1]"),)),)}, "messages"),
    "broken arguments": ({"messages": (Message("assistant", tool_calls=(ToolCall("t", "h", "{"),)),)}, "messages"),
    "thinking and temperature": ({"effort": "low", "temperature": 0.5}, "temperature"),
    "thinking and top_p": ({"effort": "low", "top_p": 0.5}, "top_p"),
    "thinking and top_k": ({"effort": "low", "top_k": 5}, "top_k"),
    "thinking and a forced tool": ({"effort": "low", "tools": TOOLS, "tool_choice": "heure"}, "tool_choice"),
    "thinking and any tool": ({"effort": "low", "tools": TOOLS, "tool_choice": "required"}, "tool_choice"),
    "thinking and any object": ({"effort": "low", "output": OutputSchema("o", {})}, "response_format"),
    "a bound where the model decides": ({"thinking_tokens": 2_000}, "thinking_tokens"),
    "a list as the answer": ({"output": OutputSchema("o", {"type": "array", "maxItems": 2})}, "response_format"),
    "a schema by tool and a tool": (
        {"output": OutputSchema("o", {}), "tools": TOOLS, "tool_choice": "heure"},
        "tool_choice",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_said_is_refused_by_name_with_a_way_out(name: str) -> None:
    changes, param = REFUSED[name]
    with pytest.raises(Invalid) as caught:
        message_body(replace(CALL, **changes), HERE)
    assert caught.value.param == param
    assert ":" in caught.value.message


@pytest.mark.parametrize("changes", [{"thinking_tokens": 500}, {"thinking_tokens": 32_000}, {"effort": "low"}])
def test_a_budget_that_does_not_fit_is_refused(changes: dict[str, Any]) -> None:
    most = 2_000 if "effort" in changes else None
    with pytest.raises(Invalid, match="may write"):
        message_body(replace(CALL, max_output_tokens=most, **changes), BUDGET)


@pytest.mark.parametrize(
    ("model_id", "options", "thinking"),
    [
        ("claude-3-7-sonnet-20250219", {}, "enabled"),
        ("claude-opus-4-20250514", {}, "enabled"),
        ("claude-opus-4-5", {}, "enabled"),
        ("claude-opus-4-6", {}, "adaptive"),
        ("claude-sonnet-4-6-20260101", {}, "adaptive"),
        ("claude-whatever-7", {}, "adaptive"),
        ("claude-whatever-7", {"thinking": "budget"}, "enabled"),
        ("claude-opus-4-5", {"thinking": "adaptive"}, "adaptive"),
    ],
)
def test_a_model_thinks_in_its_way_or_as_its_options_say(model_id: str, options: dict[str, str], thinking: str) -> None:
    where = replace(HERE, model_id=model_id, options=options)
    assert message_body(replace(CALL, effort="low"), where)["thinking"]["type"] == thinking


WAYS: list[tuple[dict[str, Any], bool]] = [
    (CARD, False),
    ({"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}}, True),
    ({"type": "object", "properties": {"l": {"type": "array", "items": {"type": "string", "maxLength": 5}}}}, True),
    ({"type": "object", "properties": {"l": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/x"}}}}, False),
    ({"type": "object", "properties": {"moi": {"$ref": "#"}}}, True),
    ({"type": "object", "properties": {"o": {"anyOf": [{"type": "null"}, {"type": "object"}]}}}, True),
    ({"type": "object", "additionalProperties": {"type": "string"}}, True),
    ({"type": "object"}, True),
    ({}, True),
    ({"properties": 5, "items": "x", "$defs": [1]}, False),
]


@pytest.mark.parametrize(("schema", "by_tool"), WAYS)
def test_a_schema_the_format_cannot_promise_is_answered_by_a_tool(schema: dict[str, Any], by_tool: bool) -> None:
    call = replace(CALL, output=OutputSchema("o", schema))
    assert (answer_tool(call, HERE) is not None) == by_tool
    assert answer_tool(call, replace(HERE, options={"structured": "tool"})) == "o"


def test_sampling_is_left_out_where_whoever_runs_metier_says_so() -> None:
    call = replace(CALL, temperature=0.0, top_p=0.5, top_k=3, effort="low")
    body = message_body(call, replace(HERE, options={"sampling": "omitted"}))
    assert not {"temperature", "top_p", "top_k"} & body.keys()
    assert body["thinking"]["type"] == "adaptive"


def test_an_option_that_is_none_of_those_known_is_told_to_whoever_runs_metier() -> None:
    with pytest.raises(ProviderUnavailable, match="budget or adaptive"):
        message_body(replace(CALL, effort="low"), replace(HERE, options={"thinking": "a lot"}))
