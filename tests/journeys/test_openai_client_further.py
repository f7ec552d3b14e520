"""The official openai client against our server, for everything beyond plain chat, down to a second server."""

from __future__ import annotations

import base64
import io
import pathlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import orjson
import pytest

from metier.api.server import application
from metier.providers.openai import OpenAIProvider
from metier.store import Store
from metier.vault import Vault
from tests.upstream import Reply, Upstream, event, upstream
from tests.world import serve, world

USAGE = {
    "prompt_tokens": 20, "completion_tokens": 9, "total_tokens": 29,
    "prompt_tokens_details": {"cached_tokens": 6}, "completion_tokens_details": {"reasoning_tokens": 4},
}  # fmt: skip
STREAM = (
    event({"role": "assistant", "content": None, "reasoning_content": "Voy"})
    + event({"content": None, "reasoning_content": "ons"})
    + event({"content": "Oui"})
    + event({"tool_calls": [{"index": 0, "id": "t1", "function": {"name": "heure", "arguments": '{"v"'}}]})
    + event({"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]})
    + event(finish="tool_calls")
    + b"data: "
    + orjson.dumps({"choices": [], "usage": USAGE})
    + b"\n\ndata: [DONE]\n\n"
)
TOOL: Any = {"type": "function", "function": {"name": "heure", "parameters": {"type": "object"}}}
PNG = "data:image/png;base64,iVBORw0KGgo="
SEEN: Any = [
    {"role": "user", "content": [{"type": "text", "text": "Vois"}, {"type": "image_url", "image_url": {"url": PNG}}]}
]


def whole(body: Any) -> Reply:
    return Reply([orjson.dumps(body)], kind="application/json")


@asynccontextmanager
async def road(
    store: Store, vault: Vault, folder: pathlib.Path, *replies: Reply
) -> AsyncIterator[tuple[openai.AsyncOpenAI, Upstream]]:
    """The official client, our server, our provider, and a second server at the end."""
    async with upstream(*replies) as server:
        deployment = {
            "provider": "openai", "model_id": "m", "base_url": server.url, "api_key": "sk-theirs",
            "price": {"input": 1, "output": 4},
        }  # fmt: skip
        operations = {"petit": "chat", "rang": "rerank", "oreille": "transcribe", "pinceau": "image", "vec": "embed"}
        models = {
            name: {"operation": operation, "deployments": [{**deployment, "id": name}]}
            for name, operation in operations.items()
        }
        async with (
            world(store, vault, folder, OpenAIProvider(), models=models) as here,
            serve(application(here)) as url,
            openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=here.secret, max_retries=0) as client,
        ):
            yield client, server


async def test_an_image_and_every_parameter_reach_the_second_server(
    store: Store, vault: Vault, tmp_path: pathlib.Path
) -> None:
    async with road(store, vault, tmp_path, Reply([STREAM])) as (ai, server):
        completion = await ai.chat.completions.create(
            model="petit",
            messages=SEEN,
            tools=[TOOL],
            parallel_tool_calls=False,
            reasoning_effort="low",
            frequency_penalty=0.5,
            presence_penalty=0.25,
            user="camille@exemple.fr",
            prompt_cache_key="dossier",
            extra_body={"top_k": 40},
        )
        message = completion.choices[0].message
        extra = message.model_extra or {}
        assert (message.content, extra["reasoning_content"]) == ("Oui", "Voyons")
        assert extra["thinking_blocks"] == [{"type": "thinking", "thinking": "Voyons"}]
        assert completion.usage is not None
        assert completion.usage.completion_tokens_details is not None
        assert completion.usage.completion_tokens_details.reasoning_tokens == 4
        assert completion.usage.prompt_tokens_details is not None
        assert completion.usage.prompt_tokens_details.cached_tokens == 6
        [asked] = server.requests
        assert asked["messages"] == SEEN
        assert (asked["top_k"], asked["reasoning_effort"], asked["parallel_tool_calls"]) == (40, "low", False)
        assert (asked["frequency_penalty"], asked["presence_penalty"]) == (0.5, 0.25)
        assert "camille" not in str(asked)


async def test_the_helper_for_streams_puts_thoughts_and_tools_together(
    store: Store, vault: Vault, tmp_path: pathlib.Path
) -> None:
    pieces = [STREAM[start : start + 7] for start in range(0, len(STREAM), 7)]
    async with road(store, vault, tmp_path, Reply(pieces)) as (ai, _):
        options: Any = {"include_usage": True}
        async with ai.chat.completions.stream(
            model="petit", messages=SEEN, tools=[TOOL], stream_options=options
        ) as stream:
            final = await stream.get_final_completion()
        message = final.choices[0].message
        assert (message.model_extra or {})["reasoning_content"] == "Voyons"
        [block] = (message.model_extra or {})["thinking_blocks"]
        assert block["thinking"] == "Voyons"
        [call] = message.tool_calls or []
        assert call.function.arguments == '{"v":1}'
        assert final.usage is not None
        assert final.usage.total_tokens == 29


async def test_an_address_of_an_image_is_refused_with_the_way_out(
    store: Store, vault: Vault, tmp_path: pathlib.Path
) -> None:
    parts: Any = [{"type": "image_url", "image_url": {"url": "http://169.254.169.254/latest"}}]
    async with road(store, vault, tmp_path, Reply([STREAM])) as (ai, server):
        with pytest.raises(openai.UnprocessableEntityError, match="data: URL"):
            await ai.chat.completions.create(model="petit", messages=[{"role": "user", "content": parts}])
        assert server.requests == []


async def test_a_filtered_prompt_is_a_bad_request(store: Store, vault: Vault, tmp_path: pathlib.Path) -> None:
    filtered = {"error": {"message": "x", "code": "content_filter", "innererror": {"code": "y"}}}
    refusal = Reply([orjson.dumps(filtered)], 400, "application/json")
    async with road(store, vault, tmp_path, refusal) as (ai, _):
        for stream in (False, True):
            with pytest.raises(openai.BadRequestError) as caught:
                await ai.chat.completions.create(model="petit", messages=SEEN, stream=stream)
            assert caught.value.code == "guardrail_blocked"


async def test_a_sound_goes_through(store: Store, vault: Vault, tmp_path: pathlib.Path) -> None:
    async with road(store, vault, tmp_path, whole({"text": "Bonjour"})) as (ai, server):
        sound = io.BytesIO(b"RIFF....")
        sound.name = "réunion de Camille.wav"
        made = await ai.audio.transcriptions.create(model="oreille", file=sound, language="fr")
        assert made.text == "Bonjour"
        assert server.requests[0]["file"] == ("audio.wav", "audio/wav", b"RIFF....")
        text: Any = await ai.audio.transcriptions.create(model="oreille", file=("a.mp3", b"x"), response_format="text")
        assert text.strip() == "Bonjour"


async def test_an_image_comes_back(store: Store, vault: Vault, tmp_path: pathlib.Path) -> None:
    body = {"created": 1, "data": [{"b64_json": "iVBORw0KGgo="}], "usage": {"input_tokens": 3, "output_tokens": 70}}
    async with road(store, vault, tmp_path, whole(body)) as (ai, server):
        made = await ai.images.generate(model="pinceau", prompt="Un chat", size="1024x1024")
        assert made.data is not None
        assert base64.b64decode(made.data[0].b64_json or "").startswith(b"\x89PNG")
        assert made.usage is not None
        assert made.usage.output_tokens == 70
        assert server.requests[0]["size"] == "1024x1024"


async def test_vectors_are_shortened_and_documents_ranked(store: Store, vault: Vault, tmp_path: pathlib.Path) -> None:
    vectors = {"data": [{"index": 0, "embedding": [0.5, 0.25]}], "usage": {"prompt_tokens": 2, "total_tokens": 2}}
    scores = {"results": [{"index": 1, "relevance_score": 0.9}, {"index": 0, "relevance_score": 0.1}]}
    async with road(store, vault, tmp_path, whole(vectors), whole(scores)) as (ai, server):
        made = await ai.embeddings.create(model="vec", input="un", dimensions=2)
        assert made.data[0].embedding == [0.5, 0.25]
        assert server.requests[0]["dimensions"] == 2
        ranked: Any = await ai.post(
            "/rerank", body={"model": "rang", "query": "q", "documents": ["a", "b"]}, cast_to=object
        )
        assert [row["index"] for row in ranked["results"]] == [1, 0]
        assert [model.id async for model in ai.models.list()][-1] == "openai/m"
