from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from typing import Any

import orjson
import pytest

from metier.calls import Call, Chunk, KeyId, Message, Principal, ProjectId, SystemId, Usage
from metier.catalog import Deployment, Price
from metier.errors import Invalid, MetierError, ProviderTimeout, ProviderUnavailable
from metier.providers.base import retry_after_s
from metier.providers.gemini import GeminiProvider
from tests.providers.google import KEY, Google, Reply, event, google, said

WHO = Principal(KeyId("k"), ProjectId("p"), SystemId("s"))
CALL = Call(WHO, "petit", messages=(Message("user", "Bonjour"),))
BEGUN = event(candidates=[{"content": {"parts": [{"text": "Bon"}]}}])


def deployment(url: str | None, **changes: Any) -> Deployment:
    made = Deployment(
        id="iowa",
        provider="gemini",
        model_id="gemini-2.5-flash",
        base_url=url,
        api_key=KEY,
        price=Price(Decimal(0), Decimal(0), Decimal(0)),
        energy=None,
        context_tokens=8000,
        max_output_tokens=500,
        timeout_s=30.0,
        country="US",
        hosting="public",
    )
    return replace(made, **changes)


@asynccontextmanager
async def serving(*replies: Reply, **limits: Any) -> AsyncIterator[tuple[GeminiProvider, Google]]:
    provider = GeminiProvider(**limits)
    async with google(*replies) as server:
        try:
            yield provider, server
        finally:
            await provider.close()


async def gathered(provider: GeminiProvider, server: Google, call: Call = CALL, **changes: Any) -> list[Chunk]:
    chunks: list[Chunk] = []
    async for chunk in provider.stream(call, deployment(f"{server.url}/v1beta", **changes)):
        chunks.append(chunk)
    return chunks


def text(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def error(code: int, message: str, *details: dict[str, Any]) -> bytes:
    return orjson.dumps({"error": {"code": code, "message": message, "status": "S", "details": details}})


async def test_a_stream_gives_its_text_its_finish_and_its_usage() -> None:
    async with serving(Reply([said("Bon", "jour")])) as (provider, server):
        chunks = await gathered(provider, server)
        assert text(chunks) == "Bonjour"
        assert (chunks[-1].finish, chunks[-1].usage) == ("stop", Usage(11, 7))
        assert server.paths == ["/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse"]
        assert server.requests == [
            {
                "contents": [{"role": "user", "parts": [{"text": "Bonjour"}]}],
                "generationConfig": {"maxOutputTokens": 500},
            }
        ]


async def test_a_tuned_model_keeps_its_own_folder() -> None:
    async with serving(Reply([said("a")])) as (provider, server):
        await gathered(provider, server, model_id="tunedModels/le-mien")
        assert server.paths == ["/v1beta/tunedModels/le-mien:streamGenerateContent?alt=sse"]


async def test_bytes_may_be_split_anywhere() -> None:
    whole = said("Été ", "à ", "Évry")
    async with serving(Reply([whole[i : i + 1] for i in range(len(whole))])) as (provider, server):
        assert text(await gathered(provider, server)) == "Été à Évry"


def test_the_address_is_googles_unless_another_is_given() -> None:
    assert GeminiProvider().address(deployment(None)) == "https://generativelanguage.googleapis.com/v1beta"
    assert GeminiProvider().address(deployment("http://relay/")) == "http://relay"


async def test_a_wrong_key_is_our_fault() -> None:
    async with serving(Reply([said("a")])) as (provider, server):
        for key in ("wrong", None):
            with pytest.raises(ProviderUnavailable, match="credential Métier holds"):
                await gathered(provider, server, api_key=key)


@pytest.mark.parametrize("then", ["end", "cut"])
@pytest.mark.parametrize("body", [BEGUN, BEGUN + b'data: {"candid', said("Bon")[:-100]])
async def test_a_stream_that_dies_never_looks_finished(then: str, body: bytes) -> None:
    async with serving(Reply([body], then=then)) as (provider, server):
        chunks: list[Chunk] = []
        with pytest.raises(ProviderUnavailable):
            async for chunk in provider.stream(CALL, deployment(server.url)):
                chunks.append(chunk)
        assert [c.finish for c in chunks if c.finish] == []


@pytest.mark.parametrize(
    "pieces",
    [
        [BEGUN, b"data: " + error(503, "The model is overloaded.") + b"\r\n\r\n"],
        [BEGUN, error(503, "The model is overloaded.")],
        [BEGUN + b"[" + error(503, "The model is overloaded.") + b"]\n"],
        [BEGUN, b"data: " + error(0, "The model is overloaded.") + b"\n\n"],
    ],
    ids=["event", "bare", "list", "no code"],
)
async def test_an_error_inside_a_stream_is_raised_as_one(pieces: list[bytes]) -> None:
    async with serving(Reply(pieces)) as (provider, server):
        with pytest.raises(ProviderUnavailable, match="overloaded"):
            await gathered(provider, server)


@pytest.mark.parametrize(
    "body",
    [b"data: {]\n\n", b"data: 5\n\n", b'data: {"candidates": 3}\n\n', event(candidates=[{"content": {"parts": [4]}}])],
)
async def test_nonsense_is_the_providers_fault(body: bytes) -> None:
    async with serving(Reply([body])) as (provider, server):
        with pytest.raises(ProviderUnavailable, match="no answer of Gemini"):
            await gathered(provider, server)


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (400, Invalid, "trop long"),
        (403, ProviderUnavailable, "credential Métier holds"),
        (404, ProviderUnavailable, "model id"),
        (429, ProviderUnavailable, "rate limit"),
        (500, ProviderUnavailable, "trop long"),
        (503, ProviderUnavailable, "trop long"),
        (504, ProviderTimeout, "trop long"),
        (302, ProviderUnavailable, "302"),
    ],
)
async def test_a_refusal_is_classified_by_its_status(status: int, kind: type[MetierError], words: str) -> None:
    reply = Reply([error(status, f"trop long pour {KEY}")], status, {"location": "/elsewhere"})
    async with serving(reply) as (provider, server):
        with pytest.raises(kind, match=words) as caught:
            await gathered(provider, server)
        assert KEY not in caught.value.message
        assert len(server.paths) == 1, "a redirect is not followed"


async def test_a_key_google_does_not_know_is_our_fault_though_the_status_is_400() -> None:
    reason = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}
    async with serving(Reply([error(400, "API key not valid.", reason)], 400)) as (provider, server):
        with pytest.raises(ProviderUnavailable, match="credential Métier holds"):
            await gathered(provider, server)


@pytest.mark.parametrize(
    ("delay", "header", "wait"),
    [("34.07s", None, 34.07), ("7s", "5", 5.0), ("soon", None, None), (None, "9", 9.0), ("", None, None)],
)
async def test_a_rate_limit_says_how_long_to_wait(delay: str | None, header: str | None, wait: float | None) -> None:
    detail = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}
    headers = {} if header is None else {"retry-after": header}
    async with serving(Reply([error(429, "Quota exceeded", {"@type": "x"}, detail)], 429, headers)) as (
        provider,
        server,
    ):
        with pytest.raises(ProviderUnavailable, match="rate limit") as caught:
            await gathered(provider, server)
    assert retry_after_s(caught.value) == wait


@pytest.mark.parametrize("details", [3, True, {"a": 1}, [3, None], "x"])
async def test_nonsense_beside_the_words_of_a_refusal_is_passed_over(details: Any) -> None:
    body = orjson.dumps({"error": {"code": "x", "message": "trop", "details": details}})
    async with serving(Reply([body], 503)) as (provider, server):
        with pytest.raises(ProviderUnavailable, match="trop"):
            await gathered(provider, server)


async def test_a_refusal_that_is_no_json_is_quoted() -> None:
    async with serving(Reply([b"<html>down</html>"], 502)) as (provider, server):
        with pytest.raises(ProviderUnavailable, match="down"):
            await gathered(provider, server)


async def test_silence_ends_the_call() -> None:
    async with serving(Reply([], then="hang"), first_token_s=0.05) as (provider, server):
        with pytest.raises(ProviderTimeout, match=r"sent nothing for 0\.05 s"):
            await gathered(provider, server)
    async with serving(Reply([BEGUN], then="hang"), between_s=0.05) as (provider, server):
        with pytest.raises(ProviderTimeout, match=r"sent nothing for 0\.05 s"):
            await gathered(provider, server)


async def test_a_model_that_says_stop_in_every_piece_is_read_to_the_end() -> None:
    figures = {"promptTokenCount": 3, "candidatesTokenCount": 1}
    pieces = [
        event(candidates=[{"content": {"parts": [{"text": word}]}, "finishReason": "STOP"}], usageMetadata=figures)
        for word in ("Bon", "jour", " !")
    ]
    async with serving(Reply(pieces)) as (provider, server):
        chunks = await gathered(provider, server)
        assert (text(chunks), [c.finish for c in chunks if c.finish]) == ("Bonjour !", ["stop"])


async def test_leaving_closes_the_connection_to_the_provider() -> None:
    async with serving(Reply([BEGUN], then="hang")) as (provider, server):
        stream = provider.stream(CALL, deployment(server.url))
        async with aclosing(stream) as chunks:  # type: ignore[type-var]  # an async generator, as every provider's
            await anext(chunks)
        await asyncio.wait_for(server.gone.wait(), 60)


async def test_embeddings_come_in_batches_of_a_hundred() -> None:
    call = Call(WHO, "e", "embed", inputs=tuple(map(str, range(101))), dimensions=2)

    def rows(*numbers: int) -> Reply:
        return Reply([orjson.dumps({"embeddings": [{"values": [n, 0.5]} for n in numbers]})])

    async with serving(rows(*range(100)), rows(100)) as (provider, server):
        (chunk,) = await gathered(provider, server, call, model_id="gemini-embedding-001")
    assert chunk.usage is None, "Google says no tokens here"
    assert len(chunk.vectors) == 101
    assert sorted(len(request["requests"]) for request in server.requests) == [1, 100]
    assert set(server.paths) == {"/v1beta/models/gemini-embedding-001:batchEmbedContents"}
    assert server.requests[0]["requests"][0] == {
        "model": "models/gemini-embedding-001",
        "content": {"parts": [{"text": server.requests[0]["requests"][0]["content"]["parts"][0]["text"]}]},
        "outputDimensionality": 2,
    }


async def test_tokens_of_embeddings_are_counted_where_google_says_them() -> None:
    body = {"embeddings": [{"values": [1]}], "usageMetadata": {"promptTokenCount": 4}}
    async with serving(Reply([orjson.dumps(body)])) as (provider, server):
        chunks = await gathered(provider, server, Call(WHO, "e", "embed", inputs=("un",)))
    assert chunks == [Chunk(vectors=((1.0,),), usage=Usage(4))]


@pytest.mark.parametrize(
    ("body", "words"),
    [(b'{"embeddings": [{"values": [1]}]}', "1 vectors for 2 texts"), (b"{}", "format"), (b"[]", "format")],
)
async def test_embeddings_that_do_not_fit_are_refused(body: bytes, words: str) -> None:
    async with serving(Reply([body])) as (provider, server):
        with pytest.raises(ProviderUnavailable, match=words):
            await gathered(provider, server, Call(WHO, "e", "embed", inputs=("un", "deux")))


async def test_a_refused_embedding_is_classified_too() -> None:
    async with serving(Reply([error(429, "Quota exceeded")], 429, {"retry-after": "3"})) as (provider, server):
        with pytest.raises(ProviderUnavailable) as caught:
            await gathered(provider, server, Call(WHO, "e", "embed", inputs=("un", "deux")))
    assert retry_after_s(caught.value) == 3.0


async def test_what_is_not_served_is_refused_by_name() -> None:
    async with serving(Reply()) as (provider, server):
        with pytest.raises(Invalid, match="cannot do 'image'"):
            await gathered(provider, server, Call(WHO, "m", "image", inputs=("un",)))
