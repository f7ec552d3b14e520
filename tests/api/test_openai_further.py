"""OpenAI's surface beyond plain chat: thoughts, token details, ranks, transcripts, images, models by provider."""

from __future__ import annotations

import base64
import pathlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.applications import Starlette

from metier.api import transcription
from metier.api.server import application
from metier.calls import Call, Chunk, Media, Reasoning, ReasoningDelta, ToolCallDelta, Usage
from metier.catalog import Catalog
from metier.policy.keys import Scopes
from metier.providers.scripted import Script, ScriptedProvider
from metier.store import Store
from metier.vault import Vault
from tests.api.client import Response, ask
from tests.world import MODELS, World, world

CHAT = "/v1/chat/completions"
HELLO: dict[str, Any] = {"model": "petit", "messages": [{"role": "user", "content": "Bonjour"}]}
PRICE = {"input": 1, "output": 4}
FURTHER: dict[str, Any] = {
    **MODELS,
    "rang": {"operation": "rerank", "deployments": [{"provider": "scripted", "model_id": "r"}]},
    "oreille": {"operation": "transcribe", "deployments": [{"provider": "scripted", "model_id": "o"}]},
    "pinceau": {"operation": "image", "deployments": [{"provider": "scripted", "model_id": "i"}]},
    "dehors": {
        "deployments": [
            {"id": "d1", "provider": "openai", "model_id": "gpt-x", "price": PRICE},
            {"id": "d2", "provider": "openai", "model_id": "autre", "price": PRICE},
        ],
        "fallbacks": ["petit"],
    },
}
THOUGHT = (
    Chunk(reasoning=(ReasoningDelta(0, "Voy"),)),
    Chunk(reasoning=(ReasoningDelta(0, "ons", "sig"), ReasoningDelta(1, signature="scellé", sealed=True))),
    Chunk(text="Oui", tool_calls=(ToolCallDelta(0, "t", "heure", "{}", "g"),)),
    Chunk(reasoning=(ReasoningDelta(2, "Encore"),)),
    Chunk(finish="tool_calls", usage=Usage(20, 9, 6, 3, 4)),
)


class Door:
    """The application of a world with models of every operation, and what its provider was asked."""

    def __init__(self, here: World) -> None:
        self.here = here
        self.app: Starlette = application(here)

    async def post(self, path: str, body: Any, **headers: str) -> Response:
        return await ask(self.app, path, body, headers={"authorization": f"Bearer {self.here.secret}", **headers})


@asynccontextmanager
async def house(store: Store, vault: Vault, folder: pathlib.Path, provider: ScriptedProvider) -> AsyncIterator[Door]:
    async with world(store, vault, folder, provider, models=FURTHER) as here:
        yield Door(here)


@pytest.fixture
def provider() -> ScriptedProvider:
    """Answers each operation as a server of its kind would."""

    def answer(call: Call) -> Script:
        usage = Usage(9, 4)
        return {
            "chat": Script(THOUGHT),
            "rerank": Script((Chunk(scores=tuple(float(len(text)) for text in call.inputs), usage=usage),)),
            "transcribe": Script((Chunk("Bonjour à tous", finish="stop", usage=usage),)),
            "image": Script((Chunk(media=(Media("image/png", "AAAA"),), finish="stop", usage=usage),)),
            "embed": Script((Chunk(vectors=((0.5, 1.0),), usage=Usage(2)),)),
        }[call.operation]

    return ScriptedProvider(answer=answer)


@pytest.fixture
async def door(store: Store, vault: Vault, tmp_path: pathlib.Path, provider: ScriptedProvider) -> AsyncIterator[Door]:
    """The door of that house."""
    async with house(store, vault, tmp_path, provider) as made:
        yield made


BLOCKS = [
    {"type": "thinking", "thinking": "Voyons", "signature": "sig"},
    {"type": "redacted_thinking", "data": "scellé"},
    {"type": "thinking", "thinking": "Encore"},
]


async def test_a_whole_answer_tells_thoughts_signatures_and_token_details(door: Door) -> None:
    body = (await door.post(CHAT, HELLO)).json
    message = body["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("Oui", "Voyons\nEncore")
    assert message["thinking_blocks"] == BLOCKS
    assert message["tool_calls"][0]["extra_content"] == {"google": {"thought_signature": "g"}}
    assert body["usage"]["prompt_tokens_details"] == {"cached_tokens": 6, "cache_creation_tokens": 3}
    assert body["usage"]["completion_tokens_details"] == {"reasoning_tokens": 4}


async def test_a_stream_tells_the_same(door: Door) -> None:
    asked = {**HELLO, "stream": True, "stream_options": {"include_usage": True}}
    *chunks, usage, _ = (await door.post(CHAT, asked)).events
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0]["role"] == "assistant"
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "Voyons\nEncore"
    pieces = [block for delta in deltas for block in delta.get("thinking_blocks", [])]
    blocks: list[dict[str, str]] = [{}, {}, {}]
    for piece in pieces:
        block = blocks[piece.pop("index")]
        for name, value in piece.items():
            block[name] = value if name == "type" else block.get(name, "") + value
    assert blocks == BLOCKS
    [tool] = [tool for delta in deltas for tool in delta.get("tool_calls", [])]
    assert tool["extra_content"] == {"google": {"thought_signature": "g"}}
    assert usage["usage"]["completion_tokens_details"] == {"reasoning_tokens": 4}


async def test_what_was_thought_can_be_sent_back(door: Door, provider: ScriptedProvider) -> None:
    answer = (await door.post(CHAT, HELLO)).json["choices"][0]["message"]
    tool = {"role": "tool", "tool_call_id": "t", "content": "12 h"}
    await door.post(CHAT, {**HELLO, "messages": [*HELLO["messages"], answer, tool]})
    told = provider.calls[-1].messages[1]
    assert told.reasoning == (Reasoning("Voyons", "sig"), Reasoning("", "scellé", sealed=True), Reasoning("Encore"))
    assert told.tool_calls[0].signature == "g"


async def test_documents_come_best_first(door: Door, provider: ScriptedProvider) -> None:
    asked = {"model": "rang", "query": "q", "documents": ["a", {"text": "ccc"}, "bb"]}
    body = (await door.post("/v1/rerank", asked)).json
    assert body["results"] == [
        {"index": 1, "relevance_score": 3.0},
        {"index": 2, "relevance_score": 2.0},
        {"index": 0, "relevance_score": 1.0},
    ]
    assert (body["usage"]["total_tokens"], body["usage"]["metier"]["deployment"]) == (9, "rang")
    assert provider.calls[0].inputs == ("a", "ccc", "bb")
    first = (await door.post("/v1/rerank", {**asked, "top_n": 1, "return_documents": True})).json
    assert first["results"] == [{"index": 1, "relevance_score": 3.0, "document": {"text": "ccc"}}]
    [row, _] = await door.here.rows()
    assert (row["operation"], row["input_tokens"]) == ("rerank", 9)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"documents": []}, "documents"),
        ({"documents": [""]}, "documents[0]"),
        ({"documents": ["a", {"texte": "b"}]}, "documents[1]"),
        ({"query": ""}, "query"),
        ({"top_n": 0}, "top_n"),
        ({"max_chunks_per_doc": 3}, "max_chunks_per_doc"),
        ({"model": "petit"}, "model"),
    ],
)
async def test_a_rerank_that_does_not_fit_is_refused(door: Door, change: Any, param: str) -> None:
    response = await door.post("/v1/rerank", {"model": "rang", "query": "q", "documents": ["a"], **change})
    assert (response.status, response.json["error"]["param"]) == (422, param)


def form(**fields: str | tuple[str, bytes]) -> bytes:
    written = b""
    for name, value in fields.items():
        head = f'--limite\r\nContent-Disposition: form-data; name="{name}"'
        data = value.encode() if isinstance(value, str) else value[1]
        head += "" if isinstance(value, str) else f'; filename="{value[0]}"\r\nContent-Type: audio/x-quelconque'
        written += head.encode() + b"\r\n\r\n" + data + b"\r\n"
    return written + b"--limite--\r\n"


FORM = {"content-type": "multipart/form-data; boundary=limite"}


async def test_a_sound_becomes_text(door: Door, provider: ScriptedProvider) -> None:
    asked = form(model="oreille", file=("réunion.mp3", b"son"), language="fr", prompt="Métier", temperature="0.2")
    response = await door.post("/v1/audio/transcriptions", asked, **FORM)
    assert response.json["text"] == "Bonjour à tous"
    assert response.json["usage"]["total_tokens"] == 13
    [call] = provider.calls
    assert call.audio == Media("audio/mpeg", base64.b64encode(b"son").decode())
    assert (call.language, call.query, call.temperature) == ("fr", "Métier", 0.2)
    plain = form(model="oreille", file=("a.wav", b"son"), response_format="text")
    response = await door.post("/v1/audio/transcriptions", plain, **FORM)
    assert response.headers["content-type"].startswith("text/plain")
    assert response.body.decode() == "Bonjour à tous\n"
    assert response.headers["x-metier-deployment"] == "oreille"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": "oreille"}, "file"),
        ({"model": "oreille", "file": ("a.wav", b"")}, "file"),
        ({"model": "oreille", "file": ("a.exe", b"x")}, "file"),
        ({"file": ("a.wav", b"x")}, "model"),
        ({"model": "oreille", "file": ("a.wav", b"x"), "response_format": "srt"}, "response_format"),
        ({"model": "oreille", "file": ("a.wav", b"x"), "stream": "true"}, "stream"),
        ({"model": "oreille", "file": ("a.wav", b"x"), "language": "français"}, "language"),
        ({"model": "oreille", "file": ("a.wav", b"x"), "temperature": "chaud"}, "temperature"),
        ({"model": "oreille", "file": ("a.wav", b"x"), "chunking_strategy": "auto"}, "chunking_strategy"),
        ({"model": "petit", "file": ("a.wav", b"x")}, "model"),
    ],
)
async def test_a_transcription_that_does_not_fit_is_refused(door: Door, fields: Any, param: str) -> None:
    body = form(**fields).replace(b"audio/x-quelconque", b"application/octet-stream")
    response = await door.post("/v1/audio/transcriptions", body, **FORM)
    assert (response.status, response.json["error"]["param"]) == (422, param)


async def test_a_sound_is_limited_and_must_be_a_form(door: Door) -> None:
    large = form(model="oreille", file=("a.wav", b"a" * transcription.FORM_LIMIT))
    response = await door.post("/v1/audio/transcriptions", large, **FORM)
    assert (response.status, response.json["error"]["code"]) == (413, "too_large")
    response = await door.post("/v1/audio/transcriptions", b"{}", **{"content-type": "application/json"})
    assert (response.status, response.json["error"]["code"]) == (400, "mistaken")


async def test_an_image_is_given_whole(door: Door, provider: ScriptedProvider) -> None:
    asked = {"model": "pinceau", "prompt": "Un chat", "size": "1024x1024", "n": 1, "response_format": "b64_json"}
    body = (await door.post("/v1/images/generations", asked)).json
    assert (body["data"], body["usage"]["output_tokens"]) == ([{"b64_json": "AAAA"}], 4)
    assert (provider.calls[0].inputs, provider.calls[0].size) == (("Un chat",), "1024x1024")
    for change, param in (
        ({"response_format": "url"}, "response_format"), ({"n": 2}, "n"), ({"quality": "hd"}, "quality"),
        ({"size": "grand"}, "size"), ({"prompt": ""}, "prompt"), ({"style": "vivid"}, "style"),
    ):  # fmt: skip
        response = await door.post("/v1/images/generations", {**asked, **change})
        assert (response.status, response.json["error"]["param"]) == (422, param)


async def test_vectors_may_be_shortened_and_an_end_user_named(door: Door, provider: ScriptedProvider) -> None:
    asked = {"model": "vecteurs", "input": "a", "dimensions": 2, "user": "u1"}
    assert (await door.post("/v1/embeddings", asked)).json["data"][0]["embedding"] == [0.5, 1.0]
    assert (provider.calls[0].dimensions, provider.calls[0].end_user) == (2, "u1")


@pytest.mark.parametrize(
    ("told", "meant"),
    [("query", "query"), ("search_query", "query"), ("search_document", "passage"), (None, None)],
)
async def test_what_a_text_to_embed_is_for_may_be_said(
    door: Door, provider: ScriptedProvider, told: str | None, meant: str | None
) -> None:
    asked = {"model": "vecteurs", "input": "a", "input_type": told}
    assert (await door.post("/v1/embeddings", asked)).status == 200
    assert provider.calls[0].purpose == meant
    refused = await door.post("/v1/embeddings", {**asked, "input_type": "classification"})
    assert (refused.status, refused.json["error"]["param"]) == (422, "input_type")


async def test_models_have_the_names_of_their_providers_too(door: Door, provider: ScriptedProvider) -> None:
    headers = {"api-key": door.here.secret}
    listed = [model["id"] for model in (await ask(door.app, "/v1/models", headers=headers)).json["data"]]
    assert listed == [*FURTHER, "openai/gpt-x", "openai/autre"], "what runs here has no such name"
    assert (await ask(door.app, "/v1/models/openai/gpt-x", headers=headers)).json["id"] == "openai/gpt-x"
    response = await door.post(CHAT, {**HELLO, "model": "openai/autre"})
    assert (response.status, provider.deployments) == (200, ["d2"])
    assert response.json["model"] == "openai/autre"


async def test_a_key_for_some_models_reaches_no_others_by_the_names_of_providers(door: Door) -> None:
    here = door.here
    key = await here.keys.issue(
        "étroit", here.principal.project, here.principal.system, "Camille", scopes=Scopes(frozenset({"dehors"}))
    )
    headers = {"x-goog-api-key": key.secret}
    listed = (await ask(door.app, "/v1/models", headers=headers)).json["data"]
    assert [model["id"] for model in listed] == ["dehors"]
    response = await ask(door.app, CHAT, {**HELLO, "model": "openai/gpt-x"}, headers=headers)
    assert (response.status, response.json["error"]["code"]) == (403, "not_allowed")


def test_a_public_name_comes_before_the_name_of_a_provider() -> None:
    deployment = {"provider": "openai", "model_id": "a", "price": PRICE}
    models = {"openai/a": {"deployments": [{**deployment, "id": "eins"}]}, "b": {"deployments": [deployment]}}
    catalog = Catalog.from_yaml(models)
    assert [d.id for d in catalog.model("openai/a").deployments] == ["eins"]
    assert catalog.by_provider() == ()
    two = Catalog.from_yaml({"a": {"deployments": [{**deployment, "id": "x"}]}, "b": {"deployments": [deployment]}})
    assert [d.id for d in two.model("openai/a").deployments] == ["x", "b"]
