"""What OpenAI-compatible servers do beside chat: vectors, ranks, transcripts and images; and who is asking."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any, Literal

import orjson
import pytest

from metier.calls import Call, Chunk, Media, ProjectId, Usage
from metier.catalog import Deployment
from metier.errors import Invalid, ProviderUnavailable
from metier.providers.openai import Dialect, MistralDialect
from metier.providers.openai_request import Words
from tests.providers.deployments import CALL, WHO, ask, deployment, reply, serving
from tests.upstream import Reply, answer

RANK = Call(WHO, "rang", "rerank", inputs=("un", "deux", "trois"), query="deux ?")
SOUND = Call(
    WHO, "ouïe", "transcribe", query="Métier", language="fr", temperature=0.5,
    audio=Media("audio/mpeg", base64.b64encode(b"son").decode(), name="camille.mp3"),
)  # fmt: skip
IMAGE = Call(WHO, "image", "image", inputs=("Un chat",), size="512x512")


@pytest.mark.parametrize(
    ("body", "usage"),
    [
        ({"results": [{"index": 1, "relevance_score": 0.9}, {"index": 0, "relevance_score": 0.5},
                      {"index": 2, "relevance_score": -1}], "usage": {"total_tokens": 9}}, Usage(9)),
        ({"id": "x", "results": [{"index": 0, "document": {"text": "un"}, "relevance_score": 0.5},
                                 {"index": 1, "relevance_score": 0.9}, {"index": 2, "relevance_score": -1}],
          "meta": {"billed_units": {"search_units": 1}, "tokens": {"input_tokens": 7}}}, Usage(7)),
        ({"data": [{"index": 2, "relevance_score": -1}, {"index": 1, "relevance_score": 0.9},
                   {"index": 0, "relevance_score": 0.5}]}, None),
        ([{"index": 1, "score": 0.9}, {"index": 0, "score": 0.5}, {"index": 2, "score": -1}], None),
    ],
)  # fmt: skip
async def test_scores_come_in_the_order_of_the_documents(body: Any, usage: Usage | None) -> None:
    async with serving(reply(orjson.dumps(body))) as (provider, server):
        assert await ask(provider, deployment(server.url), RANK) == [Chunk(scores=(0.5, 0.9, -1.0), usage=usage)]
        assert server.paths == ["/v1/rerank"]
        assert server.requests == [{
            "model": "petit-1", "query": "deux ?", "documents": ["un", "deux", "trois"],
            "return_documents": False,
        }]  # fmt: skip


async def test_a_server_that_calls_the_documents_texts_is_asked_again() -> None:
    scores = orjson.dumps([{"index": n, "score": n} for n in range(3)])
    missing = reply(b'{"error":"missing field `texts`","error_type":"Validation"}', 422)
    async with serving(missing, reply(scores)) as (provider, server):
        assert await ask(provider, deployment(server.url), RANK) == [Chunk(scores=(0.0, 1.0, 2.0))]
        assert server.requests[1] == {"model": "petit-1", "query": "deux ?", "texts": ["un", "deux", "trois"]}
    async with serving(missing) as (provider, server):
        with pytest.raises(Invalid, match="texts"):
            await ask(provider, deployment(server.url), RANK)
        assert len(server.requests) == 2


NO_NUMBER = {"results": [{"index": n, "relevance_score": "NaN"} for n in range(3)]}


@pytest.mark.parametrize("body", [{"results": [{"index": 0, "relevance_score": 1}]}, {"results": 3}, {}, 4, NO_NUMBER])
async def test_scores_that_do_not_fit_are_the_providers_fault(body: Any) -> None:
    async with serving(reply(orjson.dumps(body))) as (provider, server):
        with pytest.raises(ProviderUnavailable):
            await ask(provider, deployment(server.url), RANK)


@pytest.mark.parametrize(
    ("told", "usage"),
    [
        ({"type": "tokens", "input_tokens": 30, "output_tokens": 5, "total_tokens": 35}, Usage(30, 5)),
        ({"type": "duration", "seconds": 4}, Usage(audio_s=4.0)),
        (None, None),
    ],
)
async def test_a_sound_is_sent_as_a_form_and_comes_back_as_text(told: Any, usage: Usage | None) -> None:
    async with serving(reply(orjson.dumps({"text": "Bonjour", "usage": told}))) as (provider, server):
        chunks = await ask(provider, deployment(server.url), SOUND)
        assert chunks == [Chunk("Bonjour", finish="stop", usage=usage)]
        assert server.paths == ["/v1/audio/transcriptions"]
        [asked] = server.requests
        assert asked.pop("file") == ("audio.mp3", "audio/mpeg", b"son"), "the name a client gave stays here"
        assert asked == {
            "model": "petit-1", "language": "fr", "prompt": "Métier", "temperature": "0.5",
        }  # fmt: skip
        assert server.headers[0]["Authorization"] == "Bearer sk-provider-secret"


@pytest.mark.parametrize(
    ("start", "kind"),
    [("iVBORw0KGgo=", "image/png"), ("/9j/4AAQ", "image/jpeg"), ("UklGRgAA", "image/webp"), ("AAAA", "image/png")],
)
async def test_an_image_comes_back_whole(start: str, kind: str) -> None:
    body = {"created": 1, "data": [{"b64_json": start}], "usage": {"input_tokens": 8, "output_tokens": 100}}
    async with serving(reply(orjson.dumps(body))) as (provider, server):
        chunks = await ask(provider, deployment(server.url), IMAGE)
        assert chunks == [Chunk(media=(Media(kind, start),), finish="stop", usage=Usage(8, 100))]
        assert server.paths == ["/v1/images/generations"]


async def test_an_answer_without_an_image_is_the_providers_fault() -> None:
    async with serving(reply(b'{"data": [], "usage": {"input_tokens": 8}}')) as (provider, server):
        with pytest.raises(ProviderUnavailable, match="without an image"):
            await ask(provider, deployment(server.url), IMAGE)


async def test_the_address_of_an_image_is_not_followed() -> None:
    body = {"data": [{"url": "http://169.254.169.254/secret"}]}
    async with serving(reply(orjson.dumps(body))) as (provider, server):
        with pytest.raises(ProviderUnavailable, match="does not follow"):
            await ask(provider, deployment(server.url), IMAGE)
        assert len(server.paths) == 1


@pytest.mark.parametrize(("call", "host"), [(RANK, "api.openai.com"), (IMAGE, "api.deepseek.com")])
async def test_an_operation_a_provider_lacks_is_refused_by_name(call: Call, host: str) -> None:
    async with serving(Reply()) as (provider, _):
        with pytest.raises(Invalid, match="'petit-a' cannot take a"):
            await ask(provider, deployment(f"https://{host}/v1"), call)
    async with serving(Reply(), dialect=MistralDialect()) as (provider, _):
        with pytest.raises(Invalid, match="no such operation"):
            await ask(provider, deployment(None), call)


async def test_an_organization_and_a_project_are_told_in_headers() -> None:
    async with serving(Reply([answer("ok")])) as (provider, server):
        await ask(provider, deployment(server.url, options={"organization": "org-1", "project": "proj-1"}))
        assert server.headers[0]["openai-organization"] == "org-1"
        assert server.headers[0]["openai-project"] == "proj-1"


async def test_no_key_is_sent_where_none_is_declared() -> None:
    async with serving(Reply([answer("ok")])) as (provider, server):
        await ask(provider, deployment(server.url, api_key=None))
        assert "Authorization" not in server.headers[0]


async def test_who_is_served_and_what_a_prefix_is_called_stay_here() -> None:
    call = replace(CALL, cache_key="dossier de Camille", end_user="Camille")
    async with serving(Reply([answer("ok")])) as (provider, server):
        await ask(provider, deployment(server.url), call)
        assert "prompt_cache_key" not in server.requests[0], "an unknown server is not told at all"
        assert "Camille" not in str(server.requests) + str(server.headers)


class Told(Dialect):
    """A server that reads somewhere which calls share a prefix."""

    def __init__(self, where: Literal["body", "header"]) -> None:
        self.where: Literal["body", "header"] = where

    def words(self, deployment: Deployment) -> Words:
        return Words(cache_key=self.where)


@pytest.mark.parametrize("where", ["body", "header"])
async def test_calls_that_share_a_prefix_are_told_by_a_keyed_hash(where: Literal["body", "header"]) -> None:
    keys = ("dossier de Camille", "dossier de Camille", "autre")
    other = replace(WHO, project=ProjectId("q"))
    calls = [replace(CALL, cache_key=key) for key in keys] + [replace(CALL, cache_key=keys[0], principal=other)]
    async with serving(Reply([answer("ok")]), dialect=Told(where)) as (provider, server):
        for call in calls:
            await ask(provider, deployment(server.url), call)
        names = [
            asked.get("prompt_cache_key") if where == "body" else headers.get("x-grok-conv-id")
            for asked, headers in zip(server.requests, server.headers, strict=True)
        ]
    assert names[0] == names[1]
    assert len({*names}) == 3, "another key or another project has another name"
    assert "Camille" not in str(server.requests) + str(server.headers)


async def test_mistral_is_asked_in_its_own_words() -> None:
    call = replace(CALL, seed=3)
    async with serving(Reply([answer("ok")]), dialect=MistralDialect()) as (provider, server):
        await ask(provider, deployment(server.url), call)
        assert server.requests[0]["random_seed"] == 3
        assert not {"seed", "stream_options"} & server.requests[0].keys()
        with pytest.raises(Invalid, match="hint"):
            await ask(provider, deployment(server.url), SOUND)
    assert MistralDialect().url("chat", deployment(None)) == "https://api.mistral.ai/v1/chat/completions"
