from __future__ import annotations

import base64
import pathlib
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import orjson
import pytest

from metier.api.server import application
from metier.calls import (
    Chunk,
    Media,
    Message,
    OutputSchema,
    Reasoning,
    ReasoningDelta,
    Text,
    Tool,
    ToolCall,
    ToolCallDelta,
    Usage,
)
from metier.providers.scripted import Script, ScriptedProvider, says
from metier.store import Store
from metier.vault import Vault
from tests.api.client import Response, ask
from tests.world import World, world

PATH = "/v1/messages"
HELLO: dict[str, Any] = {"model": "petit", "max_tokens": 100, "messages": [{"role": "user", "content": "Bonjour"}]}
PIXEL = base64.b64encode(b"not really a picture").decode()
WEATHER = {"name": "meteo", "description": "Le temps qu'il fait", "input_schema": {"type": "object"}}


class Door:
    """The application of a world, with its key already in hand."""

    def __init__(self, here: World, provider: ScriptedProvider) -> None:
        self.here = here
        self.provider = provider
        self.app = application(here)

    async def post(self, body: Any, path: str = PATH, **headers: str) -> Response:
        return await ask(self.app, path, body, headers={"x-api-key": self.here.secret, **headers})

    async def asked(self, **more: Any) -> Response:
        return await self.post({**HELLO, **more})


def events(response: Response) -> list[Any]:
    """Each event of a stream, read; what stands after `event:` is the type inside."""
    found = []
    for block in response.body.decode().split("\n\n")[:-1]:
        name, data = block.split("\n")
        event = orjson.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        found.append(event)
    return found


@pytest.fixture
async def door(store: Store, vault: Vault, tmp_path: pathlib.Path) -> AsyncIterator[Door]:
    """A door behind which a provider says "Bonjour" until told otherwise."""
    provider = ScriptedProvider(says("Bon", "jour"))
    async with world(store, vault, tmp_path, provider) as here:
        yield Door(here, provider)


async def played(door: Door, *chunks: Chunk, **more: Any) -> Response:
    """Let the provider play these chunks for one request."""
    door.provider.then(Script(chunks))
    await door.asked()
    return await door.asked(**more)


async def test_a_whole_answer_has_anthropics_shape_and_says_what_it_cost(door: Door) -> None:
    response = await door.asked()
    body = response.json
    [row] = await door.here.rows()
    assert response.status == 200
    assert body | {"usage": None} == {
        "id": f"msg_{row['id']}",
        "type": "message",
        "role": "assistant",
        "model": "petit",
        "content": [{"type": "text", "text": "Bonjour"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": None,
    }
    assert body["usage"]["input_tokens"] == 12
    assert body["usage"]["metier"]["deployment"] == "petit-a"
    assert response.headers["request-id"] == response.headers["x-request-id"] == row["id"]
    assert Decimal(response.headers["x-metier-cost-eur"]) == row["cost_eur"]


async def test_a_stream_has_anthropics_events_in_their_order(door: Door) -> None:
    response = await door.asked(stream=True)
    found = events(response)
    assert [event["type"] for event in found] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert found[0]["message"]["content"] == []
    assert [e["delta"]["text"] for e in found if e["type"] == "content_block_delta"] == ["Bon", "jour"]
    assert found[-2]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert (found[-2]["usage"]["input_tokens"], found[-2]["usage"]["output_tokens"]) == (12, 8)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.ended


async def test_what_the_cache_gave_and_took_stands_beside_the_input(door: Door) -> None:
    usage = Usage(100, 9, cached_tokens=60, cache_write_tokens=30, reasoning_tokens=4)
    response = await played(door, Chunk("Oui"), Chunk(finish="stop", usage=usage))
    shown = response.json["usage"]
    assert (shown["input_tokens"], shown["cache_read_input_tokens"], shown["cache_creation_input_tokens"]) == (
        10,
        60,
        30,
    )
    assert (shown["output_tokens"], shown["output_tokens_details"]) == (9, {"thinking_tokens": 4})


THOUGHTS = (
    Chunk(reasoning=(ReasoningDelta(0, "Voyons"),)),
    Chunk(reasoning=(ReasoningDelta(0, "…"), ReasoningDelta(0, signature="sig=="))),
    Chunk(reasoning=(ReasoningDelta(1, signature="SEALED", sealed=True),)),
    Chunk("Oui."),
    Chunk(tool_calls=(ToolCallDelta(0, "t0", "meteo"),)),
    Chunk(tool_calls=(ToolCallDelta(0, arguments='{"v":'), ToolCallDelta(1, "t1", "heure"))),
    Chunk(tool_calls=(ToolCallDelta(0, arguments="1}"), ToolCallDelta(1, arguments="{}"))),
    Chunk(finish="tool_calls", usage=Usage(5, 6)),
)
BLOCKS = [
    {"type": "thinking", "thinking": "Voyons…", "signature": "sig=="},
    {"type": "redacted_thinking", "data": "SEALED"},
    {"type": "text", "text": "Oui."},
    {"type": "tool_use", "id": "t0", "name": "meteo", "input": {"v": 1}},
    {"type": "tool_use", "id": "t1", "name": "heure", "input": {}},
]


async def test_thoughts_text_and_tools_are_blocks_of_a_whole_answer(door: Door) -> None:
    response = await played(door, *THOUGHTS)
    assert response.json["content"] == BLOCKS
    assert response.json["stop_reason"] == "tool_use"


async def test_thoughts_text_and_tools_are_blocks_of_a_stream_one_after_the_other(door: Door) -> None:
    found = events(await played(door, *THOUGHTS, stream=True))
    blocks: list[dict[str, Any]] = []
    inputs: dict[int, str] = {}
    is_open: int | None = None
    for event in found:
        if event["type"] == "content_block_start":
            assert is_open is None
            assert event["index"] == len(blocks)
            is_open = event["index"]
            blocks.append(dict(event["content_block"]))
        elif event["type"] == "content_block_stop":
            assert event["index"] == is_open
            is_open = None
        elif event["type"] == "content_block_delta":
            assert event["index"] == is_open
            delta = event["delta"]
            if delta["type"] == "input_json_delta":
                inputs[event["index"]] = inputs.get(event["index"], "") + delta["partial_json"]
            else:
                [name] = set(delta) - {"type"}
                blocks[-1][name] += delta[name]
    for index, text in inputs.items():
        blocks[index]["input"] = orjson.loads(text)
    assert blocks == BLOCKS
    assert any(event["type"] == "ping" for event in found)
    assert found[-2]["delta"]["stop_reason"] == "tool_use"


@pytest.mark.parametrize(
    ("finish", "reason"),
    [("stop", "end_turn"), ("length", "max_tokens"), ("content_filter", "refusal"), ("tool_calls", "tool_use")],
)
async def test_each_end_has_its_reason(door: Door, finish: Any, reason: str) -> None:
    chunks = (Chunk("a"), Chunk(finish=finish, usage=Usage(1, 1)))
    assert (await played(door, *chunks)).json["stop_reason"] == reason
    assert events(await door.asked(stream=True))[-2]["delta"]["stop_reason"] == reason


async def test_arguments_that_are_no_object_are_never_passed_off_as_one(door: Door) -> None:
    broken = Chunk(tool_calls=(ToolCallDelta(0, "t", "meteo", "{oups"),))
    response = await played(door, broken, Chunk(finish="tool_calls", usage=Usage(1, 1)))
    assert (response.status, response.json["error"]["type"]) == (503, "overloaded_error")
    assert "'meteo'" in response.json["error"]["message"]
    cut = await played(door, broken, Chunk(finish="length", usage=Usage(1, 1)))
    assert cut.status == 503 or cut.json["stop_reason"] == "max_tokens"


async def test_everything_a_request_can_say_reaches_the_call(door: Door) -> None:
    mark = {"type": "ephemeral"}
    schema: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "string"}}}
    response = await door.asked(
        system=[{"type": "text", "text": "Sois bref.", "cache_control": mark}],
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Regarde", "cache_control": mark},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}},
                    {
                        "type": "document",
                        "title": "note",
                        "source": {"type": "text", "media_type": "text/plain", "data": "été"},
                        "citations": {"enabled": False},
                    },
                ],
            },
            {"role": "assistant", "content": BLOCKS},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Alors ?"},
                    {"type": "tool_result", "tool_use_id": "t0", "content": "12 °C", "cache_control": mark},
                    {
                        "type": "tool_result",
                        "tool_use_id": "t1",
                        "is_error": True,
                        "content": [{"type": "text", "text": "panne"}, {"type": "text", "text": "totale"}],
                    },
                ],
            },
        ],
        tools=[{**WEATHER, "strict": True, "cache_control": mark, "eager_input_streaming": True}],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
        thinking={"type": "adaptive"},
        output_config={"effort": "low", "format": {"type": "json_schema", "schema": schema}},
        stop_sequences=["FIN"],
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        metadata={"user_id": "u-7"},
        service_tier="auto",
    )
    assert response.status == 200, response.json
    call = door.provider.calls[-1]
    note = base64.b64encode("été".encode()).decode()
    assert call.messages == (
        Message("system", "Sois bref.", cache=True),
        Message("user", parts=(Text("Regarde", True), Media("image/png", PIXEL), Media("text/plain", note, "note"))),
        Message(
            "assistant",
            "Oui.",
            (ToolCall("t0", "meteo", '{"v":1}'), ToolCall("t1", "heure", "{}")),
            reasoning=(Reasoning("Voyons…", "sig=="), Reasoning(signature="SEALED", sealed=True)),
        ),
        Message("tool", "12 °C", tool_call_id="t0", cache=True),
        Message("tool", "panne\ntotale", tool_call_id="t1", failed=True),
        Message("user", "Alors ?"),
    )
    assert call.tools == (Tool("meteo", "Le temps qu'il fait", {"type": "object"}, strict=True, cache=True),)
    assert (call.tool_choice, call.parallel_tool_calls, call.effort) == ("required", False, "low")
    assert call.output == OutputSchema("answer", schema)
    assert (call.stop, call.temperature, call.top_p, call.top_k) == (("FIN",), 0.5, 0.9, 40)
    assert (call.end_user, call.max_output_tokens) == ("u-7", 100)


async def test_a_mark_on_the_whole_request_is_one_on_its_last_message(door: Door) -> None:
    await door.asked(cache_control={"type": "ephemeral"})
    assert door.provider.calls[-1].messages == (Message("user", "Bonjour", cache=True),)


@pytest.mark.parametrize(
    ("thinking", "effort", "tokens"),
    [
        ({"type": "disabled"}, None, 0),
        ({"type": "enabled", "budget_tokens": 2000}, None, 2000),
        ({"type": "adaptive", "display": "summarized"}, "high", None),
    ],
)
async def test_each_way_to_think_is_read(door: Door, thinking: Any, effort: str | None, tokens: int | None) -> None:
    assert (await door.asked(thinking=thinking, max_tokens=4000)).status == 200
    call = door.provider.calls[-1]
    assert (call.effort, call.thinking_tokens) == (effort, tokens)
