"""The official Anthropic client before our server: any model behind it, and Anthropic's own protocol both ways."""

from __future__ import annotations

import base64
import json
import pathlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import pytest

from metier.api.server import application
from metier.providers.anthropic import AnthropicProvider
from metier.providers.base import Provider
from metier.providers.openai import OpenAIProvider
from metier.providers.scripted import ScriptedProvider, asks, breaks, fails, says
from metier.store import Store
from metier.vault import Vault
from tests import upstream as openai_server
from tests.api.client import ask
from tests.fake_anthropic import KEY, FakeAnthropic, Said, event, events, fake_anthropic
from tests.world import World, serve, world

MODEL = "petit"
HELLO: Any = [{"role": "user", "content": "Bonjour"}]
PNG = base64.standard_b64encode(b"\x89PNG").decode()
WEATHER: Any = {
    "name": "meteo",
    "description": "Le temps",
    "input_schema": {"type": "object", "properties": {"ville": {"type": "string"}}},
}
THINKING: list[dict[str, Any]] = [
    {"type": "thinking", "thinking": "Il faut le temps.", "signature": "c2ln"},
    {"type": "redacted_thinking", "data": "c2NlbGxl"},
    {"type": "text", "text": "Je regarde."},
    {"type": "tool_use", "id": "toolu_1", "name": "meteo", "input": {"ville": "Lyon"}},
    {"type": "tool_use", "id": "toolu_2", "name": "meteo", "input": {"ville": "Nantes"}},
]


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path


@asynccontextmanager
async def client(
    store: Store, vault: Vault, folder: pathlib.Path, provider: Provider, deployment: dict[str, Any] | None = None
) -> AsyncIterator[tuple[anthropic.AsyncAnthropic, World]]:
    """The client with a key of ours, before a server of ours with one model."""
    price = {"input": 3, "output": 15, "cached": 0.3}
    served = {"provider": "scripted", "model_id": "claude-opus-5", "price": price, "max_output_tokens": 8192}
    models = {MODEL: {"deployments": [served | (deployment or {})]}}
    async with (
        world(store, vault, folder, provider, models=models) as here,
        serve(application(here)) as url,
        anthropic.AsyncAnthropic(base_url=url, api_key=here.secret, max_retries=0) as made,
    ):
        yield made, here


@asynccontextmanager
async def through(
    store: Store, vault: Vault, folder: pathlib.Path, *replies: Said
) -> AsyncIterator[tuple[anthropic.AsyncAnthropic, FakeAnthropic, World]]:
    """The client, our server, and behind it a server that speaks Anthropic's protocol."""
    async with fake_anthropic(*replies) as behind:
        there = {"provider": "anthropic", "base_url": behind.url, "api_key": KEY}
        async with client(store, vault, folder, AnthropicProvider(), there) as (made, here):
            yield made, behind, here


async def test_a_message_of_any_model(store: Store, vault: Vault, folder: pathlib.Path) -> None:
    async with client(store, vault, folder, ScriptedProvider(says("Bon", "jour"))) as (made, here):
        message = await made.messages.create(model=MODEL, max_tokens=50, messages=HELLO, system="Sois bref.")
        [block] = message.content
        assert block.type == "text"
        assert (block.text, message.stop_reason, message.usage.input_tokens) == ("Bonjour", "end_turn", 12)
        [row] = await here.rows()
        assert message._request_id == row["id"]


async def test_a_bearer_token_is_a_key_too(store: Store, vault: Vault, folder: pathlib.Path) -> None:
    async with client(store, vault, folder, ScriptedProvider(says("Oui"))) as (made, here):
        bearer = anthropic.AsyncAnthropic(base_url=str(made.base_url), auth_token=here.secret, max_retries=0)
        async with bearer:
            assert (await bearer.messages.create(model=MODEL, max_tokens=5, messages=HELLO)).stop_reason == "end_turn"


async def test_a_stream_of_any_model(store: Store, vault: Vault, folder: pathlib.Path) -> None:
    async with client(store, vault, folder, ScriptedProvider(says("Bon", "jour"))) as (made, _):
        async with made.messages.stream(model=MODEL, max_tokens=50, messages=HELLO) as stream:
            texts = [text async for text in stream.text_stream]
            message = await stream.get_final_message()
        assert texts == ["Bon", "jour"]
        assert (message.usage.input_tokens, message.usage.output_tokens) == (12, 8)
        assert message.stop_reason == "end_turn"


async def test_a_tool_of_any_model_is_asked_and_answered(store: Store, vault: Vault, folder: pathlib.Path) -> None:
    provider = ScriptedProvider(asks("meteo", {"ville": "Lyon"}), says("Il fait beau."))
    async with client(store, vault, folder, provider) as (made, _):
        async with made.messages.stream(model=MODEL, max_tokens=50, messages=HELLO, tools=[WEATHER]) as stream:
            asked = await stream.get_final_message()
        [use] = asked.content
        assert use.type == "tool_use"
        assert (use.name, use.input, asked.stop_reason) == ("meteo", {"ville": "Lyon"}, "tool_use")
        result: Any = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "12 °C"}]}
        turns = [*HELLO, {"role": "assistant", "content": asked.content}, result]
        answer = await made.messages.create(model=MODEL, max_tokens=50, messages=turns, tools=[WEATHER])
        assert answer.content[0].type == "text"
        assert [message.role for message in provider.calls[-1].messages] == ["user", "assistant", "tool"]


async def test_a_server_of_openais_api_answers_anthropics_client(
    store: Store, vault: Vault, folder: pathlib.Path
) -> None:
    said = openai_server.Reply([openai_server.answer("Bon", "jour")])
    async with openai_server.upstream(said) as behind:
        there = {"provider": "openai", "base_url": behind.url, "api_key": "sk-else"}
        async with client(store, vault, folder, OpenAIProvider(), there) as (made, _):
            image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
            turns: Any = [{"role": "user", "content": [image, {"type": "text", "text": "Que vois-tu ?"}]}]
            message = await made.messages.create(model=MODEL, max_tokens=50, messages=turns)
            assert message.content[0].type == "text"
            [sent] = behind.requests[0]["messages"]
            assert sent["content"][0] == {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}


@pytest.mark.parametrize("streamed", [False, True])
async def test_thinking_and_tools_survive_there_and_back(
    store: Store, vault: Vault, folder: pathlib.Path, streamed: bool
) -> None:
    first = Said(THINKING, "tool_use", {"cache_read_input_tokens": 100, "cache_creation_input_tokens": 30}, step=7)
    async with through(store, vault, folder, first, Said([{"type": "text", "text": "Beau."}])) as (made, behind, here):
        mark: Any = {"type": "ephemeral"}
        asked: Any = {
            "model": MODEL,
            "max_tokens": 4000,
            "thinking": {"type": "adaptive"},
            "system": [{"type": "text", "text": "Sois bref.", "cache_control": mark}],
            "tools": [{**WEATHER, "cache_control": mark}],
        }
        if streamed:
            async with made.messages.stream(messages=HELLO, **asked) as stream:
                message = await stream.get_final_message()
        else:
            message = await made.messages.create(messages=HELLO, **asked)
        assert [block.to_dict() for block in message.content] == THINKING
        usage = message.usage
        assert (usage.input_tokens, usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (20, 100, 30)
        results: Any = {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": "12 °C", "cache_control": mark},
                {"type": "tool_result", "tool_use_id": "toolu_2", "content": "panne", "is_error": True},
            ],
        }
        turns = [*HELLO, {"role": "assistant", "content": message.content}, results]
        assert (await made.messages.create(messages=turns, **asked)).stop_reason == "end_turn"
        sent = behind.requests[1]
        assert sent["messages"][1]["content"] == THINKING
        assert sent["messages"][2] == results
        assert sent["system"] == asked["system"]
        assert sent["tools"] == asked["tools"]
        assert sent["thinking"]["type"] == "adaptive"
        [row, _] = await here.rows()
        assert (row["input_tokens"], row["cached_tokens"]) == (150, 100)


async def test_images_and_documents_survive(store: Store, vault: Vault, folder: pathlib.Path) -> None:
    async with through(store, vault, folder, Said([{"type": "text", "text": "Un chat."}])) as (made, behind, _):
        content: Any = [
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
            {
                "type": "document",
                "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="},
                "title": "contrat.pdf",
                "cache_control": {"type": "ephemeral"},
            },
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "été"}},
            {"type": "text", "text": "Que vois-tu ?"},
        ]
        await made.messages.create(model=MODEL, max_tokens=50, messages=[{"role": "user", "content": content}])
        assert behind.requests[0]["messages"][0]["content"] == content


async def test_an_answer_held_to_a_schema(store: Store, vault: Vault, folder: pathlib.Path) -> None:
    async with through(store, vault, folder, Said([{"type": "text", "text": '{"nom":"Ada"}'}])) as (made, behind, _):
        schema = {"type": "object", "properties": {"nom": {"type": "string"}}, "additionalProperties": False}
        form: Any = {"format": {"type": "json_schema", "schema": schema}}
        message = await made.messages.create(model=MODEL, max_tokens=50, messages=HELLO, output_config=form)
        assert message.content[0].type == "text"
        assert json.loads(message.content[0].text) == {"nom": "Ada"}
        assert behind.requests[0]["output_config"] == form


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"model": "inconnu"}, anthropic.NotFoundError),
        ({"extra_body": {"temperature": 1.5}}, anthropic.BadRequestError),
        ({"stop_sequences": [""]}, anthropic.BadRequestError),
        ({"extra_body": {"container": "c"}}, anthropic.BadRequestError),
    ],
)
async def test_a_refusal_is_an_error_of_the_client(
    store: Store, vault: Vault, folder: pathlib.Path, changes: dict[str, Any], error: type[anthropic.APIStatusError]
) -> None:
    async with client(store, vault, folder, ScriptedProvider(says("Oui"))) as (made, _):
        asked: dict[str, Any] = {"model": MODEL, "max_tokens": 50, "messages": HELLO, **changes}
        with pytest.raises(error) as caught:
            await made.messages.create(**asked)
        body: Any = caught.value.body
        assert (body["type"], set(body["error"])) == ("error", {"type", "message"})
        assert body["request_id"] == caught.value.request_id


async def test_a_wrong_key_is_the_clients_authentication_error(
    store: Store, vault: Vault, folder: pathlib.Path
) -> None:
    async with client(store, vault, folder, ScriptedProvider(says("Oui"))) as (made, _):
        with pytest.raises(anthropic.AuthenticationError):
            await made.with_options(api_key="sk-mt-0-0").messages.create(model=MODEL, max_tokens=5, messages=HELLO)


async def test_what_fails_behind_us_is_an_error_of_the_client(store: Store, vault: Vault, folder: pathlib.Path) -> None:
    async with client(store, vault, folder, ScriptedProvider(fails(529), breaks("Votre "))) as (made, _):
        with pytest.raises(anthropic.InternalServerError) as caught:
            await made.messages.create(model=MODEL, max_tokens=50, messages=HELLO)
        assert caught.value.status_code == 503
        with pytest.raises(anthropic.APIStatusError, match="petit"):
            async with made.messages.stream(model=MODEL, max_tokens=50, messages=HELLO) as stream:
                async for _ in stream:
                    pass


async def test_an_error_behind_us_inside_a_stream_is_one_before_us(
    store: Store, vault: Vault, folder: pathlib.Path
) -> None:
    begun = b"".join(events(Said([{"type": "text", "text": "Bonjour à vous tous"}]))[:5])
    broken = Said(raw=begun + b": wait\n\n" * 4000 + event("error", error={"type": "api_error", "message": "x"}))
    async with through(store, vault, folder, broken) as (made, _, here):
        with pytest.raises(anthropic.APIStatusError):
            async with made.messages.stream(model=MODEL, max_tokens=50, messages=HELLO) as stream:
                await stream.get_final_message()
        [row] = await here.rows()
        assert row["outcome"] == "failed"


async def test_tokens_are_counted(store: Store, vault: Vault, folder: pathlib.Path) -> None:
    async with client(store, vault, folder, ScriptedProvider(says("Oui"))) as (made, here):
        asked = made.messages.with_raw_response
        response = await asked.count_tokens(model=MODEL, messages=HELLO, tools=[WEATHER])
        assert (await response.parse()).input_tokens > 10
        assert response.headers["x-metier-count"] == "estimate"
        assert await here.rows() == []


async def test_tokens_of_an_anthropic_deployment_are_its_own_count(
    store: Store, vault: Vault, folder: pathlib.Path
) -> None:
    async with through(store, vault, folder, Said()) as (made, behind, here):
        asked = made.messages.with_raw_response
        response = await asked.count_tokens(model=MODEL, messages=HELLO)
        assert response.headers["x-metier-count"] == "provider"
        assert (await response.parse()).input_tokens == 3 + len(str(behind.requests[0]["messages"]))
        assert behind.paths == ["/v1/messages/count_tokens"]
        behind.replies = [Said(status=529)]
        response = await asked.count_tokens(model=MODEL, messages=HELLO)
        assert response.headers["x-metier-count"] == "estimate"
        assert await here.rows() == []


async def test_openais_chat_reaches_anthropic_with_thoughts_and_tools_there_and_back(
    store: Store, vault: Vault, folder: pathlib.Path
) -> None:
    replies = (Said(THINKING, "tool_use"), Said([{"type": "text", "text": "Beau."}]))
    async with through(store, vault, folder, *replies) as (_, behind, here):
        function = {"name": "meteo", "description": "Le temps", "parameters": WEATHER["input_schema"]}
        asked: Any = {
            "model": MODEL,
            "messages": HELLO,
            "tools": [{"type": "function", "function": function}],
            "reasoning_effort": "low",
        }
        headers = {"authorization": f"Bearer {here.secret}"}
        first = await ask(application(here), "/v1/chat/completions", asked, headers=headers)
        message = first.json["choices"][0]["message"]
        results = [{"role": "tool", "tool_call_id": call["id"], "content": "12 °C"} for call in message["tool_calls"]]
        asked["messages"] = [*HELLO, message, *results]
        second = await ask(application(here), "/v1/chat/completions", asked, headers=headers)
        assert second.json["choices"][0]["message"]["content"] == "Beau."
        turns = behind.requests[1]["messages"]
        assert turns[1]["content"] == THINKING
        assert [block["tool_use_id"] for block in turns[2]["content"]] == ["toolu_1", "toolu_2"]
