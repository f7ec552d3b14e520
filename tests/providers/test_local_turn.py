"""Tools and answers written as one JSON object are read back the same, however the text is cut."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from metier.calls import (
    JSON,
    Call,
    Chunk,
    KeyId,
    Media,
    Message,
    Origin,
    OutputSchema,
    Principal,
    ProjectId,
    RunId,
    SystemId,
    Text,
    Tool,
    ToolCall,
    ToolCallDelta,
    Usage,
)
from metier.errors import Invalid
from metier.providers.local_turn import Turn, ask, check, steady
from tests.providers.deployments import deployment

WEATHER = Tool(
    "weather",
    "Tells the weather.",
    {"type": "object", "properties": {"unit": {"$ref": "#/$defs/Unit"}}, "$defs": {"Unit": {"enum": ["C", "F"]}}},
)
CLOCK = Tool("clock", "Tells the time.", {"type": "object", "properties": {}})
CALL = Call(
    Principal(KeyId("k"), ProjectId("p"), SystemId("s")),
    "writer",
    messages=(Message("system", "Be brief."), Message("user", "Quel temps ?")),
    tools=(WEATHER, CLOCK),
)


def read(text: str, size: int, call: Call = CALL) -> list[Chunk]:
    turn = Turn(call)
    shown = [turn.feed(Chunk(text=text[i : i + size])) for i in range(0, len(text), size)]
    shown.append(turn.feed(Chunk(finish="stop", usage=Usage(5, 3))))
    return [chunk for chunk in shown if chunk is not None] + list(turn.end())


def schema_of(call: Call) -> dict[str, Any]:
    assert call.output is not None
    return dict(call.output.schema)


@pytest.mark.parametrize("size", range(1, 12))
def test_an_answer_is_shown_as_it_comes_and_decoded_exactly(size: int) -> None:
    answer = 'Il fait 21 °C à « Lyon »\n\t"beau" \\ 👍🏽 é'
    for text in (orjson.dumps({"answer": answer}).decode(), '{ "answer" : "Il \\u00e9tait \\ud83d\\udc4d \\"ok\\"" }'):
        chunks = read(text, size)
        assert "".join(c.text for c in chunks) == orjson.loads(text)["answer"]
        assert chunks[-1] == Chunk(finish="stop", usage=Usage(5, 3))
    assert len([c for c in chunks if c.text]) > 1


def test_a_tool_call_comes_once_it_is_whole() -> None:
    chunks = read('{"tool": "weather", "arguments": {"unit": "C"}}', 4)
    (delta,) = chunks[0].tool_calls
    assert delta == ToolCallDelta(0, delta.id, "weather", '{"unit":"C"}')
    assert delta.id
    assert chunks[-1].finish == "tool_calls"
    assert "".join(c.text for c in chunks) == ""


def test_a_tool_call_cut_short_is_no_tool_call() -> None:
    turn = Turn(CALL)
    turn.feed(Chunk(text='{"tool": "weather", "argu', finish="length"))
    assert list(turn.end()) == [Chunk(finish="length")]


def test_an_answer_with_its_own_schema_is_given_as_that_json() -> None:
    call = replace(CALL, output=OutputSchema("city", {"type": "object"}))
    chunks = read('{"answer": {"city": "Lyon"}}', 5, call)
    assert orjson.loads("".join(c.text for c in chunks)) == {"city": "Lyon"}


def test_the_question_offers_each_tool_and_an_answer() -> None:
    asked = ask(CALL)
    forms = schema_of(asked)["anyOf"]
    assert [form["required"] for form in forms] == [["tool", "arguments"], ["tool", "arguments"], ["answer"]]
    assert asked.tools == ()
    assert asked.messages[0].role == "system"
    assert asked.messages[0].content.startswith("Be brief.")
    assert asked.messages[1:] == CALL.messages[1:]


def test_references_inside_a_tools_schema_still_point_to_their_target() -> None:
    schema = schema_of(ask(CALL))
    assert schema["$defs"]["weather"]["properties"]["unit"] == {"$ref": "#/$defs/weather/$defs/Unit"}
    assert schema["$defs"]["weather"]["$defs"]["Unit"] == {"enum": ["C", "F"]}


@pytest.mark.parametrize(("choice", "forms"), [("auto", 3), (None, 3), ("required", 2), ("clock", 1)])
def test_the_choice_of_tool_narrows_what_may_be_written(choice: str | None, forms: int) -> None:
    assert len(schema_of(ask(replace(CALL, tool_choice=choice)))["anyOf"]) == forms


def test_earlier_tool_calls_and_results_are_told_in_the_same_form() -> None:
    history = (
        *CALL.messages,
        Message("assistant", "", (ToolCall("t1", "weather", '{"unit":"C"}'),)),
        Message("tool", "21", tool_call_id="t1"),
    )
    told = ask(replace(CALL, messages=history)).messages
    said: JSON = orjson.loads(told[2].content)
    assert said == {"tool": "weather", "arguments": {"unit": "C"}}
    assert told[3] == Message("user", "Result of the tool weather:\n21")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"operation": "rerank"}, "model"),
        ({"operation": "image"}, "model"),
        ({"dimensions": 64}, "dimensions"),
        ({"effort": "high"}, "reasoning_effort"),
        ({"thinking_tokens": 100}, "thinking"),
        ({"messages": (Message("user", parts=(Text("a"), Media("image/png", "AAAA"))),)}, "messages[0].content"),
    ],
)
def test_what_models_of_this_machine_cannot_take_is_refused_by_name(change: dict[str, Any], param: str) -> None:
    with pytest.raises(Invalid, match=r"'petit-a', on this machine, cannot take") as caught:
        check(replace(CALL, **change), deployment(None))
    assert caught.value.param == param


def test_what_asks_for_nothing_they_lack_is_taken() -> None:
    told = Message("user", parts=(Text("a", cache=True), Text("b")))
    call = replace(CALL, effort="none", thinking_tokens=0, parallel_tool_calls=True, messages=(told,))
    check(call, deployment(None))
    system = replace(CALL, messages=(Message("system", parts=(Text("Sois bref.", cache=True),)), told))
    assert ask(system).messages[0].content.startswith("Sois bref.")


def test_a_step_that_names_no_temperature_is_answered_without_chance() -> None:
    step = replace(CALL, temperature=None, origin=Origin(RunId("r"), "draft", 1))
    assert steady(step).temperature == 0.0
    assert steady(replace(step, temperature=0.7)).temperature == 0.7
    client = replace(CALL, temperature=None)
    assert steady(client) is client, "who calls from outside gets what the model does by itself"
