"""The official OpenAI client before our server: the Responses API over any model behind it."""

from __future__ import annotations

import pathlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from metier.api.server import application
from metier.providers.anthropic import AnthropicProvider
from metier.providers.base import Provider
from metier.providers.openai import OpenAIProvider
from metier.providers.scripted import ScriptedProvider, asks, breaks, fails, gives, says
from metier.store import Store
from metier.vault import Vault
from tests import upstream as openai_server
from tests.fake_anthropic import KEY, Said, fake_anthropic
from tests.world import World, serve, world

MODEL = "petit"
WEATHER: Any = {
    "type": "function",
    "name": "meteo",
    "description": "Le temps",
    "parameters": {
        "type": "object",
        "properties": {"ville": {"type": "string"}},
        "required": ["ville"],
        "additionalProperties": False,
    },
    "strict": True,
}
THINKING: list[dict[str, Any]] = [
    {"type": "thinking", "thinking": "Il faut le temps.", "signature": "c2ln"},
    {"type": "redacted_thinking", "data": "c2NlbGxl"},
    {"type": "text", "text": "Je regarde."},
    {"type": "tool_use", "id": "toolu_1", "name": "meteo", "input": {"ville": "Lyon"}},
    {"type": "tool_use", "id": "toolu_2", "name": "meteo", "input": {"ville": "Nantes"}},
]


class Town(BaseModel):
    """What is asked for as JSON."""

    name: str
    inhabitants: int


@asynccontextmanager
async def client(
    store: Store, vault: Vault, folder: pathlib.Path, provider: Provider, deployment: dict[str, Any] | None = None
) -> AsyncIterator[tuple[openai.AsyncOpenAI, World]]:
    """The client with a key of ours, before a server of ours with one model."""
    served = {"provider": "scripted", "model_id": "claude-opus-5", "price": {"input": 3, "output": 15}}
    models = {MODEL: {"deployments": [served | {"max_output_tokens": 8192} | (deployment or {})]}}
    async with (
        world(store, vault, folder, provider, models=models) as here,
        serve(application(here)) as url,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=here.secret, max_retries=0) as made,
    ):
        yield made, here


async def test_a_response_is_created_retrieved_listed_and_deleted(
    store: Store, vault: Vault, tmp_path: pathlib.Path
) -> None:
    async with client(store, vault, tmp_path, ScriptedProvider(says("Bon", "jour"))) as (made, here):
        response = await made.responses.create(model=MODEL, input="Salut", metadata={"a": "b"})
        assert (response.output_text, response.status, response.metadata) == ("Bonjour", "completed", {"a": "b"})
        assert response.usage is not None
        assert (response.usage.input_tokens, response.usage.output_tokens) == (12, 8)
        [row] = await here.rows()
        assert response._request_id == row["id"]
        assert (await made.responses.retrieve(response.id)).output_text == "Bonjour"
        items = [item async for item in made.responses.input_items.list(response.id)]
        assert [item.type for item in items] == ["message"]
        with pytest.raises(openai.BadRequestError, match="background"):
            await made.responses.cancel(response.id)
        await made.responses.delete(response.id)
        with pytest.raises(openai.NotFoundError):
            await made.responses.retrieve(response.id)


async def test_a_stream_is_followed_event_by_event(store: Store, vault: Vault, tmp_path: pathlib.Path) -> None:
    async with client(store, vault, tmp_path, ScriptedProvider(says("Bon", "jour"))) as (made, _):
        async with made.responses.stream(model=MODEL, input="Salut") as stream:
            texts = [event.delta async for event in stream if event.type == "response.output_text.delta"]
            response = await stream.get_final_response()
        assert (texts, response.output_text) == (["Bon", "jour"], "Bonjour")
        plain = await made.responses.create(model=MODEL, input="Salut", stream=True)
        kinds = [event.type async for event in plain]
        assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")


async def test_an_answer_is_parsed_whole_and_streamed(store: Store, vault: Vault, tmp_path: pathlib.Path) -> None:
    provider = ScriptedProvider(gives({"name": "Lyon", "inhabitants": 522_000}))
    async with client(store, vault, tmp_path, provider) as (made, _):
        whole = await made.responses.parse(model=MODEL, input="Lyon ?", text_format=Town)
        assert whole.output_parsed == Town(name="Lyon", inhabitants=522_000)
        async with made.responses.stream(model=MODEL, input="Lyon ?", text_format=Town) as stream:
            assert (await stream.get_final_response()).output_parsed == Town(name="Lyon", inhabitants=522_000)
        output = provider.calls[0].output
        assert output is not None
        assert (output.name, output.strict) == ("Town", True)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("stored", [False, True])
async def test_a_loop_of_tools_with_the_conversation_kept_here_or_there(
    store: Store, vault: Vault, tmp_path: pathlib.Path, streamed: bool, stored: bool
) -> None:
    provider = ScriptedProvider(asks("meteo", {"ville": "Lyon"}), says("Il fait beau."))
    async with client(store, vault, tmp_path, provider) as (made, _):
        turns: Any = [{"role": "user", "content": "Quel temps ?"}]
        if streamed:
            async with made.responses.stream(model=MODEL, input=turns, tools=[WEATHER], store=stored) as stream:
                first: Any = await stream.get_final_response()
        else:
            first = await made.responses.create(model=MODEL, input=turns, tools=[WEATHER], store=stored)
        [call] = first.output
        assert (call.type, call.name, call.arguments) == ("function_call", "meteo", '{"ville":"Lyon"}')
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "12 °C"}
        more: dict[str, Any] = (
            {"previous_response_id": first.id, "input": [result]}
            if stored
            else {"input": [*turns, *first.output, result], "store": False}
        )
        last = await made.responses.create(model=MODEL, tools=[WEATHER], **more)
        assert last.output_text == "Il fait beau."
        assert [message.role for message in provider.calls[-1].messages] == ["user", "assistant", "tool"]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("stored", [False, True])
async def test_thinking_of_claude_goes_there_and_back(
    store: Store, vault: Vault, tmp_path: pathlib.Path, streamed: bool, stored: bool
) -> None:
    first = Said(THINKING, "tool_use", {"cache_read_input_tokens": 100}, step=7)
    async with fake_anthropic(first, Said([{"type": "text", "text": "Beau."}])) as behind:
        there = {"provider": "anthropic", "base_url": behind.url, "api_key": KEY}
        async with client(store, vault, tmp_path, AnthropicProvider(), there) as (made, _):
            asked: dict[str, Any] = {"model": MODEL, "tools": [{**WEATHER, "strict": False}], "store": stored}
            asked["include"] = ["reasoning.encrypted_content"]
            turns: Any = [{"role": "user", "content": "Quel temps ?"}]
            if streamed:
                async with made.responses.stream(input=turns, **asked) as stream:
                    response: Any = await stream.get_final_response()
            else:
                response = await made.responses.create(input=turns, **asked)
            kinds = [item.type for item in response.output]
            assert kinds == ["reasoning", "reasoning", "message", "function_call", "function_call"]
            assert [part.text for part in response.output[0].summary] == ["Il faut le temps."]
            assert response.usage.input_tokens_details.cached_tokens == 100
            results: Any = [
                {"type": "function_call_output", "call_id": f"toolu_{number}", "output": "12 °C"} for number in (1, 2)
            ]
            if stored:
                last = await made.responses.create(input=results, previous_response_id=response.id, **asked)
            else:
                last = await made.responses.create(input=[*turns, *response.output, *results], **asked)
            assert last.output_text == "Beau."
            said = behind.requests[1]["messages"][1]["content"]
            assert said == THINKING


async def test_a_server_of_openais_chat_answers_responses(store: Store, vault: Vault, tmp_path: pathlib.Path) -> None:
    said = openai_server.Reply([openai_server.answer("Bon", "jour")])
    async with openai_server.upstream(said) as behind:
        there = {"provider": "openai", "base_url": behind.url, "api_key": "sk-else"}
        async with client(store, vault, tmp_path, OpenAIProvider(), there) as (made, _):
            image = {"type": "input_image", "image_url": "data:image/png;base64,iVBORw==", "detail": "auto"}
            turns: Any = [{"role": "user", "content": [image, {"type": "input_text", "text": "Que vois-tu ?"}]}]
            response = await made.responses.create(model=MODEL, input=turns, instructions="Sois bref.")
            assert response.output_text == "Bonjour"
            system, sent = behind.requests[0]["messages"]
            assert system == {"role": "system", "content": "Sois bref."}
            assert sent["content"][0] == {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw=="}}


async def test_refusals_are_the_errors_the_client_knows(store: Store, vault: Vault, tmp_path: pathlib.Path) -> None:
    async with client(store, vault, tmp_path, ScriptedProvider(fails(429))) as (made, _):
        with pytest.raises(openai.APIStatusError):
            await made.responses.create(model=MODEL, input="Salut", stream=True)
        with pytest.raises(openai.NotFoundError):
            await made.responses.create(model="inconnu", input="Salut")
        with pytest.raises(openai.UnprocessableEntityError, match="web_search"):
            await made.responses.create(model=MODEL, input="Salut", tools=[{"type": "web_search"}])
        with pytest.raises(openai.AuthenticationError):
            await made.with_options(api_key="sk-mt-none-none").responses.create(model=MODEL, input="Salut")


async def test_a_stream_that_breaks_off_is_seen_as_failed(store: Store, vault: Vault, tmp_path: pathlib.Path) -> None:
    async with client(store, vault, tmp_path, ScriptedProvider(breaks("Il ", "était"))) as (made, _):
        stream = await made.responses.create(model=MODEL, input="Salut", stream=True)
        last: Any = [event async for event in stream][-1]
        assert (last.type, last.response.status) == ("response.failed", "failed")
        assert last.response.error.code == "server_error"
