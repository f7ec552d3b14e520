from __future__ import annotations

import pathlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import openai
import pytest

from metier.api.server import application
from metier.providers.base import Provider
from metier.providers.openai import OpenAIProvider
from metier.providers.scripted import ScriptedProvider, asks, breaks, gives, says
from metier.store import Store
from metier.vault import Vault
from tests.upstream import Reply, answer, upstream
from tests.world import MODELS, World, serve, world

HELLO: Any = [{"role": "user", "content": "Bonjour"}]
TOOL: Any = {"type": "function", "function": {"name": "heure", "parameters": {"type": "object"}}}


@asynccontextmanager
async def client(
    store: Store, vault: Vault, folder: pathlib.Path, provider: Provider, models: Any = MODELS
) -> AsyncIterator[tuple[openai.AsyncOpenAI, World]]:
    """The official client, pointed at a real server with a real key."""
    async with (
        world(store, vault, folder, provider, models=models) as here,
        serve(application(here)) as url,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=here.secret) as made,
    ):
        yield made, here


async def test_a_plain_answer(store: Store, vault: Vault, tmp_path: pathlib.Path) -> None:
    async with client(store, vault, tmp_path, ScriptedProvider(says("Bon", "jour"))) as (ai, here):
        raw = await ai.chat.completions.with_raw_response.create(model="petit", messages=HELLO)
        completion = raw.parse()
        assert completion.choices[0].message.content == "Bonjour"
        assert completion.usage is not None
        assert completion.usage.total_tokens == 20
        [row] = await here.rows()
        assert raw.headers["x-metier-call-id"] == row["id"] == completion._request_id


async def test_a_stream_with_its_usage(store: Store, vault: Vault, tmp_path: pathlib.Path) -> None:
    async with client(store, vault, tmp_path, ScriptedProvider(says("Bon", "jour"))) as (ai, _):
        stream = await ai.chat.completions.create(
            model="petit", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "Bonjour"
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == 8


async def test_a_json_schema(store: Store, vault: Vault, tmp_path: pathlib.Path) -> None:
    schema: Any = {"type": "object", "properties": {"ton": {"type": "string"}}, "required": ["ton"]}
    provider = ScriptedProvider(gives({"ton": "poli"}))
    async with client(store, vault, tmp_path, provider) as (ai, _):
        completion = await ai.chat.completions.create(
            model="petit",
            messages=HELLO,
            response_format={"type": "json_schema", "json_schema": {"name": "avis", "schema": schema, "strict": True}},
        )
        assert completion.choices[0].message.content == '{"ton":"poli"}'
        asked = provider.calls[0].output
        assert asked is not None
        assert (asked.name, asked.schema, asked.strict) == ("avis", schema, True)


async def test_a_tool_call_whole_and_streamed(store: Store, vault: Vault, tmp_path: pathlib.Path) -> None:
    provider = ScriptedProvider(asks("heure", {"ville": "Saint-Étienne"}))
    async with client(store, vault, tmp_path, provider) as (ai, _):
        completion = await ai.chat.completions.create(model="petit", messages=HELLO, tools=[TOOL])
        [call] = completion.choices[0].message.tool_calls or []
        assert call.type == "function"
        assert (call.function.name, call.function.arguments) == ("heure", '{"ville":"Saint-Étienne"}')
        async with ai.chat.completions.stream(model="petit", messages=HELLO, tools=[TOOL]) as stream:
            final = await stream.get_final_completion()
        [call] = final.choices[0].message.tool_calls or []
        assert call.function.arguments == '{"ville":"Saint-Étienne"}'


async def test_embeddings_and_the_list_of_models(store: Store, vault: Vault, tmp_path: pathlib.Path) -> None:
    async with client(store, vault, tmp_path, ScriptedProvider()) as (ai, _):
        made = await ai.embeddings.create(model="vecteurs", input=["un", "deux", "un"])
        first, second, third = [row.embedding for row in made.data]
        assert first == third != second
        assert [model.id async for model in ai.models.list()] == ["petit", "vecteurs"]
        assert (await ai.models.retrieve("petit")).id == "petit"


async def test_refusals_are_the_clients_own_exceptions(store: Store, vault: Vault, tmp_path: pathlib.Path) -> None:
    provider = ScriptedProvider(says("ok"))
    async with client(store, vault, tmp_path, provider) as (ai, here):
        with pytest.raises(openai.NotFoundError, match="no model 'inconnu'"):
            await ai.chat.completions.create(model="inconnu", messages=HELLO)
        with pytest.raises(openai.UnprocessableEntityError, match="'n' is only taken as 1"):
            await ai.chat.completions.create(model="petit", messages=HELLO, n=2)
        with pytest.raises(openai.AuthenticationError):
            await ai.with_options(api_key="sk-mt-abc-def").chat.completions.create(model="petit", messages=HELLO)
        await here.admission.set_budget(here.principal.project, Decimal("0.000001"))
        before = len(await here.rows())
        with pytest.raises(openai.RateLimitError, match="have the limit raised"):
            await ai.chat.completions.create(model="petit", messages=HELLO)
        assert len(await here.rows()) == before + 1, "a spent budget is not tried again"
        assert provider.calls == []


async def test_a_stream_that_breaks_raises_in_the_client(store: Store, vault: Vault, tmp_path: pathlib.Path) -> None:
    async with client(store, vault, tmp_path, ScriptedProvider(breaks("Votre dossier"))) as (ai, _):
        stream = await ai.chat.completions.create(model="petit", messages=HELLO, stream=True)
        seen: list[str] = []
        with pytest.raises(openai.APIError, match="petit-a"):
            async for chunk in stream:
                seen.append(chunk.choices[0].delta.content or "")
        assert seen == ["Votre dossier"]


async def test_a_client_who_hangs_up_is_settled(store: Store, vault: Vault, tmp_path: pathlib.Path) -> None:
    async with (
        upstream(Reply([answer("un ")[:200]], then="hang")) as server,
        client(store, vault, tmp_path, OpenAIProvider(), _through(server.url)) as (ai, here),
    ):
        stream = await ai.chat.completions.create(model="petit", messages=HELLO, stream=True)
        assert (await anext(aiter(stream))).choices[0].delta.content == "un "
        await stream.close()
        await server.gone.wait()
        [row] = await here.rows()
        assert row["outcome"] == "cancelled"


async def test_the_whole_road_to_a_second_server(store: Store, vault: Vault, tmp_path: pathlib.Path) -> None:
    figures = {"prompt_tokens": 1000, "completion_tokens": 500, "prompt_tokens_details": {"cached_tokens": 0}}
    async with (
        upstream(Reply([answer("Bon", "jour", usage=figures)])) as server,
        client(store, vault, tmp_path, OpenAIProvider(), _through(server.url)) as (ai, here),
    ):
        completion = await ai.chat.completions.create(model="petit", messages=HELLO)
        assert completion.choices[0].message.content == "Bonjour"
        stream = await ai.chat.completions.create(model="petit", messages=HELLO, stream=True)
        assert "".join([c.choices[0].delta.content or "" async for c in stream]) == "Bonjour"
        assert [row["cost_eur"] for row in await here.rows()] == [Decimal("0.003")] * 2
        assert here.secret not in str(server.headers), "the caller's key stays here"
        assert server.headers[0]["Authorization"] == "Bearer sk-theirs"


def _through(url: str) -> Any:
    deployment = {
        "provider": "openai",
        "model_id": "m",
        "base_url": url,
        "api_key": "sk-theirs",
        "price": {"input": 1, "output": 4},
    }
    return {"petit": {"deployments": [deployment]}}
