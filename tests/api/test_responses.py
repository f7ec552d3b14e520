from __future__ import annotations

import asyncio
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
from metier.providers.scripted import Script, ScriptedProvider, asks, breaks, fails, says
from metier.store import Store
from metier.vault import Vault
from tests.api.client import Response, ask
from tests.world import World, world

PATH = "/v1/responses"
HELLO: dict[str, Any] = {"model": "petit", "input": "Bonjour"}
PIXEL = base64.b64encode(b"not really a picture").decode()
WEATHER = {"type": "function", "name": "meteo", "description": "Le temps qu'il fait", "parameters": {"type": "object"}}
THOUGHTS = (
    Chunk(reasoning=(ReasoningDelta(0, "Voyons"),)),
    Chunk(reasoning=(ReasoningDelta(0, "…"), ReasoningDelta(0, signature="sig=="))),
    Chunk(reasoning=(ReasoningDelta(1, signature="SEALED", sealed=True),)),
    Chunk("Oui."),
    Chunk(tool_calls=(ToolCallDelta(0, "t0", "meteo"),)),
    Chunk(tool_calls=(ToolCallDelta(0, arguments='{"v":'), ToolCallDelta(1, "t1", "heure"))),
    Chunk(tool_calls=(ToolCallDelta(0, arguments="1}", signature="g=="), ToolCallDelta(1, arguments="{}"))),
    Chunk(finish="tool_calls", usage=Usage(5, 6)),
)


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

    async def played(self, *chunks: Chunk, **more: Any) -> Response:
        """Let the provider play these chunks for one request."""
        self.provider.then(Script(chunks))
        await self.asked(store=False)
        return await self.asked(**more)


def events(response: Response) -> list[Any]:
    """Each event of a stream, read; what stands after `event:` is the type inside, and they are numbered."""
    found: list[Any] = []
    for block in response.body.decode().split("\n\n")[:-1]:
        name, data = block.split("\n")
        event = orjson.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        assert event["sequence_number"] == len(found)
        found.append(event)
    return found


@pytest.fixture
async def door(store: Store, vault: Vault, tmp_path: pathlib.Path) -> AsyncIterator[Door]:
    """A door behind which a provider says "Bonjour" until told otherwise."""
    provider = ScriptedProvider(says("Bon", "jour"))
    async with world(store, vault, tmp_path, provider) as here:
        yield Door(here, provider)


async def test_a_whole_answer_has_openais_shape_and_says_what_it_cost(door: Door) -> None:
    response = await door.asked(metadata={"ticket": "12"}, temperature=0.5, instructions="Sois bref.")
    body = response.json
    [row] = await door.here.rows()
    assert response.status == 200
    assert (body["id"], body["object"], body["status"]) == (f"resp_{row['id']}", "response", "completed")
    part = {"type": "output_text", "text": "Bonjour", "annotations": [], "logprobs": []}
    message = {"type": "message", "status": "completed", "role": "assistant", "content": [part]}
    assert body["output"] == [{"id": f"msg_{row['id']}_0", **message}]
    assert (body["metadata"], body["temperature"], body["store"]) == ({"ticket": "12"}, 0.5, True)
    assert (body["error"], body["incomplete_details"], body["previous_response_id"]) == (None, None, None)
    assert body["usage"]["metier"]["deployment"] in ("petit-a", "petit-b")
    assert response.headers["x-request-id"] == row["id"]
    assert Decimal(response.headers["x-metier-cost-eur"]) == row["cost_eur"]
    assert door.provider.calls[0].messages == (Message("system", "Sois bref."), Message("user", "Bonjour"))


async def test_a_stream_has_openais_events_in_their_order(door: Door) -> None:
    response = await door.asked(stream=True)
    found = events(response)
    assert [event["type"].removeprefix("response.") for event in found] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert found[0]["response"]["status"] == "in_progress"
    assert found[2]["item"]["content"] == []
    assert [event["delta"] for event in found if event["type"].endswith("text.delta")] == ["Bon", "jour"]
    assert found[6]["text"] == found[7]["part"]["text"] == "Bonjour"
    last = found[-1]["response"]
    assert last["output"] == [found[-2]["item"]]
    assert (last["usage"]["input_tokens"], last["usage"]["output_tokens"]) == (12, 8)
    assert last["usage"]["metier"]["call_id"] == response.headers["x-metier-call-id"]
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.ended


async def test_every_count_of_tokens_is_told(door: Door) -> None:
    usage = Usage(100, 9, cached_tokens=60, cache_write_tokens=30, reasoning_tokens=4)
    response = await door.played(Chunk("Oui"), Chunk(finish="stop", usage=usage))
    assert response.json["usage"] | {"metier": None} == {
        "input_tokens": 100,
        "input_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 30},
        "output_tokens": 9,
        "output_tokens_details": {"reasoning_tokens": 4},
        "total_tokens": 109,
        "metier": None,
    }


async def test_thoughts_text_and_functions_are_items_the_same_whole_or_streamed(door: Door) -> None:
    whole = (await door.played(*THOUGHTS)).json["output"]
    found = events(await door.asked(stream=True))
    streamed = found[-1]["response"]["output"]
    for items in (whole, streamed):
        assert [item["type"] for item in items] == [
            "reasoning",
            "reasoning",
            "message",
            "function_call",
            "function_call",
        ]
        sealed = [door.here.responses.open(door.here.principal, item.pop("encrypted_content")) for item in items[:2]]
        assert sealed == [Reasoning("Voyons…", "sig=="), Reasoning(signature="SEALED", sealed=True)]
        assert [item["summary"] for item in items[:2]] == [[{"type": "summary_text", "text": "Voyons…"}], []]
        assert [item["call_id"] for item in items[3:]] == ["t0", "t1"]
        assert items[3]["arguments"] == '{"v":1}'
        assert items[3]["extra_content"] == {"google": {"thought_signature": "g=="}}
        for item in items:
            item.pop("id")
    assert whole == streamed


async def test_every_item_of_a_stream_is_opened_and_closed_and_its_pieces_are_its_whole(door: Door) -> None:
    await door.played(*THOUGHTS)
    found = events(await door.asked(stream=True))
    texts: dict[tuple[str, int], str] = {}
    for event in found:
        kind = event["type"].removeprefix("response.").rpartition(".")
        if kind[2] == "delta":
            key = (kind[0], event["output_index"])
            texts[key] = texts.get(key, "") + event["delta"]
        elif kind[2] == "done" and kind[0] in ("output_text", "reasoning_summary_text"):
            assert texts[kind[0], event["output_index"]] == event["text"]
        elif kind[2] == "done" and kind[0] == "function_call_arguments":
            assert texts[kind[0], event["output_index"]] == event["arguments"]
    for kind in ("output_item", "content_part", "reasoning_summary_part"):
        opened = [e["output_index"] for e in found if e["type"] == f"response.{kind}.added"]
        closed = [e["output_index"] for e in found if e["type"] == f"response.{kind}.done"]
        assert sorted(opened) == sorted(closed), kind
    done = {e["output_index"]: e["item"] for e in found if e["type"] == "response.output_item.done"}
    assert [done[index] for index in sorted(done)] == found[-1]["response"]["output"]


async def test_a_proof_that_comes_after_the_text_belongs_to_its_thought(door: Door) -> None:
    late = (
        Chunk(reasoning=(ReasoningDelta(0, "Voyons"),)),
        Chunk("Oui."),
        Chunk(reasoning=(ReasoningDelta(0, signature="tard"),)),
        Chunk(" Bien."),
        Chunk(finish="stop", usage=Usage(5, 6)),
    )
    await door.played(*late)
    output = events(await door.asked(stream=True))[-1]["response"]["output"]
    thought, message = output
    assert door.here.responses.open(door.here.principal, thought["encrypted_content"]) == Reasoning("Voyons", "tard")
    assert message["content"][0]["text"] == "Oui. Bien."


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("finish", "why"), [("length", "max_output_tokens"), ("content_filter", "content_filter")])
async def test_an_answer_that_was_cut_is_incomplete_and_says_why(
    door: Door, stream: bool, finish: Any, why: str
) -> None:
    response = await door.played(Chunk("Il était"), Chunk(finish=finish, usage=Usage(5, 6)), stream=stream)
    body = response.json if not stream else events(response)[-1]["response"]
    assert (body["status"], body["incomplete_details"]) == ("incomplete", {"reason": why})
    assert body["output"][0]["status"] == "incomplete"
    if stream:
        assert events(response)[-1]["type"] == "response.incomplete"


async def test_a_refusal_before_the_first_event_is_a_status(door: Door) -> None:
    door.provider.then(fails(400), fails(400))
    await door.asked()
    response = await door.asked(stream=True)
    assert response.status >= 400
    assert set(response.json["error"]) == {"message", "type", "param", "code"}


async def test_a_stream_that_breaks_off_ends_with_response_failed_and_keeps_nothing(door: Door) -> None:
    door.provider.then(breaks("Il ", "était"))
    await door.asked(store=False)
    response = await door.asked(stream=True)
    last = events(response)[-1]
    assert last["type"] == "response.failed"
    assert (last["response"]["status"], last["response"]["error"]["code"]) == ("failed", "server_error")
    assert last["response"]["error"]["metier_code"] == "provider_unavailable"
    assert last["response"]["output"][0]["content"][0]["text"] == "Il était"
    kept = await ask(door.app, f"{PATH}/{last['response']['id']}", headers={"x-api-key": door.here.secret})
    assert kept.status == 404


@pytest.mark.parametrize(("stream", "leave"), [(False, 0), (True, 0), (True, 1), (True, 2), (True, 5)])
async def test_a_client_that_leaves_is_settled_and_nothing_is_kept(door: Door, stream: bool, leave: int) -> None:
    story = says(*"Il était une fois, dans une ville de France")
    # A whole answer that is there within a moment is given all the same: this one never is.
    never = asyncio.Event()
    door.provider.then(Script(story.chunks, before=lambda: asyncio.sleep(0) if stream else never.wait()))
    await door.asked(store=False)
    headers = {"x-api-key": door.here.secret}
    await ask(door.app, PATH, {**HELLO, "stream": stream}, headers=headers, leave_after=leave)
    _, row = await door.here.rows()
    assert row["outcome"] == "cancelled"
    assert door.provider.closed == [call.id for call in door.provider.calls]
    async with door.here.store.connection() as connection:
        assert await (await connection.execute("SELECT id FROM responses")).fetchall() == []


async def test_items_become_the_turns_of_a_conversation(door: Door) -> None:
    principal, seal = door.here.principal, door.here.responses.seal
    sealed = seal(principal, Reasoning("Voyons", "sig"))
    image = {"type": "input_image", "image_url": f"data:image/png;base64,{PIXEL}", "detail": "low"}
    file = {"type": "input_file", "filename": "a.pdf", "file_data": PIXEL}
    marked = {"type": "input_text", "text": "Que vois-tu ?", "prompt_cache_breakpoint": {"mode": "explicit"}}
    extra = {"google": {"thought_signature": "g=="}}
    said = [{"type": "output_text", "text": "Une "}, {"type": "refusal", "refusal": "ville"}]
    items = [
        {"role": "developer", "content": "Sois bref."},
        {"type": "message", "role": "user", "content": [image, file, marked]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": sealed},
        {"type": "message", "role": "assistant", "content": said},
        {"type": "function_call", "call_id": "c1", "name": "meteo", "arguments": "{}", "extra_content": extra},
        {"type": "function_call", "call_id": "c2", "name": "heure", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "12 °C"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "midi"}]},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "sans preuve"}]},
        {"role": "assistant", "content": "Il fait beau."},
        {"role": "user", "content": "Merci"},
    ]  # fmt: skip
    assert (await door.asked(input=items)).status == 200
    assert door.provider.calls[0].messages == (
        Message("system", "Sois bref."),
        Message(
            "user",
            parts=(
                Media("image/png", PIXEL, detail="low"),
                Media("application/pdf", PIXEL, name="a.pdf"),
                Text("Que vois-tu ?", cache=True),
            ),
        ),
        Message(
            "assistant",
            "Une \nville",
            (ToolCall("c1", "meteo", "{}", "g=="), ToolCall("c2", "heure", "{}")),
            reasoning=(Reasoning("Voyons", "sig"),),
        ),
        Message("tool", "12 °C", tool_call_id="c1"),
        Message("tool", "midi", tool_call_id="c2"),
        Message("assistant", "Il fait beau.", reasoning=(Reasoning("sans preuve"),)),
        Message("user", "Merci"),
    )


async def test_what_is_thought_between_words_keeps_its_place(door: Door) -> None:
    items = [
        {"role": "user", "content": "Quel temps ?"},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "un"}]},
        {"role": "assistant", "content": "Voyons."},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "deux"}]},
        {"type": "function_call", "call_id": "c1", "name": "meteo", "arguments": "{}"},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "trois"}]},
        {"type": "function_call", "call_id": "c2", "name": "meteo", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c2", "output": "2"},
        {"type": "function_call_output", "call_id": "c1", "output": "1"},
    ]
    assert (await door.asked(input=items)).status == 200
    assert door.provider.calls[0].messages == (
        Message("user", "Quel temps ?"),
        Message("assistant", "Voyons.", reasoning=(Reasoning("un"),)),
        Message(
            "assistant",
            tool_calls=(ToolCall("c1", "meteo", "{}"), ToolCall("c2", "meteo", "{}")),
            reasoning=(Reasoning("deux"), Reasoning("trois")),
        ),
        Message("tool", "2", tool_call_id="c2"),
        Message("tool", "1", tool_call_id="c1"),
    )


async def test_a_model_that_does_not_chat_is_refused(door: Door) -> None:
    response = await door.asked(model="vecteurs", stream=True)
    assert 400 <= response.status < 500
    assert response.json["error"]["type"] == "invalid_request_error"


async def test_settings_reach_the_call_and_are_repeated(door: Door) -> None:
    schema: Any = {"type": "object", "properties": {"a": {"type": "integer"}}}
    response = await door.asked(
        tools=[WEATHER, {**WEATHER, "name": "heure", "strict": True}],
        tool_choice={"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "heure"}]},
        parallel_tool_calls=False,
        text={"format": {"type": "json_schema", "name": "un", "schema": schema, "strict": True, "description": "Un"}},
        reasoning={"effort": "low", "summary": "auto"},
        max_output_tokens=50,
        top_p=0.5,
        user="u1",
        prompt_cache_key="p1",
        truncation="disabled",
        include=["reasoning.encrypted_content"],
        service_tier="auto",
    )
    assert response.status == 200, response.body
    call, body = door.provider.calls[0], response.json
    assert call.tools == (Tool("heure", "Le temps qu'il fait", {"type": "object"}, strict=True),)
    assert (call.tool_choice, call.parallel_tool_calls, call.effort) == ("required", False, "low")
    assert call.output == OutputSchema("un", {**schema, "description": "Un"}, strict=True)
    assert (call.max_output_tokens, call.top_p, call.end_user) == (50, 0.5, "u1")
    assert [tool["name"] for tool in body["tools"]] == ["meteo", "heure"]
    assert (body["reasoning"], body["parallel_tool_calls"]) == ({"effort": "low", "summary": "auto"}, False)
    assert body["text"]["format"]["schema"] == schema
    assert body["tool_choice"]["mode"] == "required"


async def test_a_function_asked_for_streams_its_arguments(door: Door) -> None:
    door.provider.then(asks("meteo", {"ville": "Lyon"}))
    await door.asked(store=False)
    found = events(await door.asked(stream=True, tools=[WEATHER]))
    pieces = [event["delta"] for event in found if event["type"] == "response.function_call_arguments.delta"]
    [done] = [event for event in found if event["type"] == "response.function_call_arguments.done"]
    assert "".join(pieces) == done["arguments"] == '{"ville":"Lyon"}'
    assert (done["name"], found[-1]["response"]["output"][0]["call_id"]) == ("meteo", "call_1")
