from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import orjson
import pytest

from metier.calls import Call, Chunk, KeyId, Message, Principal, ProjectId, SystemId, Usage
from metier.catalog import Deployment, Price
from metier.errors import Invalid, MetierError, ProviderTimeout, ProviderUnavailable
from metier.providers.base import retry_after_s
from metier.providers.bedrock import BedrockProvider, address
from tests.providers.amazon import KEY_ID, REGION, SECRET, TOKEN, Amazon, Reply, amazon, event, exception, stream

WHO = Principal(KeyId("k"), ProjectId("p"), SystemId("s"))
CALL = Call(WHO, "petit", messages=(Message("user", "Bonjour"),))
SIGNED = {"region": REGION, "access_key_id": KEY_ID, "secret_access_key": SECRET}
PROFILE = "arn:aws:bedrock:eu-west-3:123456789012:inference-profile/eu.anthropic.claude-sonnet-4-5-20250929-v1:0"


def deployment(url: str | None, **changes: Any) -> Deployment:
    made = Deployment(
        id="paris",
        provider="bedrock",
        model_id="anthropic.claude-sonnet-4-5-20250929-v1:0",
        base_url=url,
        api_key=None,
        price=Price(Decimal(0), Decimal(0), Decimal(0)),
        energy=None,
        context_tokens=8000,
        max_output_tokens=500,
        timeout_s=30.0,
        country="FR",
        hosting="public",
        options=SIGNED,
    )
    return replace(made, **changes)


@asynccontextmanager
async def serving(*replies: Reply, **limits: Any) -> AsyncIterator[tuple[BedrockProvider, Amazon]]:
    provider = BedrockProvider(**limits)
    async with amazon(*replies) as server:
        try:
            yield provider, server
        finally:
            await provider.close()


async def gathered(provider: BedrockProvider, server: Amazon, call: Call = CALL, **changes: Any) -> list[Chunk]:
    chunks: list[Chunk] = []
    async for chunk in provider.stream(call, deployment(server.url, **changes)):
        chunks.append(chunk)
    return chunks


def text(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


async def test_a_signed_request_gets_its_text_its_finish_and_its_usage() -> None:
    async with serving(Reply([stream("Bon", "jour")])) as (provider, server):
        chunks = await gathered(provider, server)
        assert text(chunks) == "Bonjour"
        assert [c.finish for c in chunks if c.finish] == ["stop"]
        assert [c.usage for c in chunks if c.usage] == [Usage(11, 7)]
        assert server.paths == ["/model/anthropic.claude-sonnet-4-5-20250929-v1%3A0/converse-stream"]
        assert server.requests == [
            {"messages": [{"role": "user", "content": [{"text": "Bonjour"}]}], "inferenceConfig": {"maxTokens": 500}}
        ]


async def test_an_inference_profile_is_one_segment_of_the_path() -> None:
    async with serving(Reply([stream("a")])) as (provider, server):
        await gathered(provider, server, model_id=PROFILE)
        (path,) = server.paths
        assert path == f"/model/{PROFILE.replace(':', '%3A').replace('/', '%2F')}/converse-stream"


async def test_a_session_token_goes_along_and_a_wrong_one_is_refused() -> None:
    async with serving(Reply([stream("a")])) as (provider, server):
        server.token = TOKEN
        await gathered(provider, server, options={**SIGNED, "session_token": TOKEN})
        for options in (SIGNED, {**SIGNED, "session_token": "old"}):
            with pytest.raises(ProviderUnavailable, match="credential Métier holds"):
                await gathered(provider, server, options=options)


async def test_a_wrong_secret_is_our_fault_and_is_not_shown() -> None:
    async with serving(Reply([stream("a")])) as (provider, server):
        with pytest.raises(ProviderUnavailable, match="credential Métier holds") as caught:
            await gathered(provider, server, options={**SIGNED, "secret_access_key": "not-the-secret"})
        assert "not-the-secret" not in caught.value.message
        assert "does not match" in server.refused[0]


async def test_a_wrong_clock_is_said_to_be_the_cause() -> None:
    late = datetime.now(UTC) - timedelta(seconds=950)
    async with serving(Reply([stream("a")]), clock=lambda: late) as (provider, server):
        with pytest.raises(ProviderUnavailable, match=r"clock of this machine is 9\d\d s behind"):
            await gathered(provider, server)
    async with serving(Reply([stream("a")])) as (provider, server):
        server.now -= timedelta(seconds=950)
        with pytest.raises(ProviderUnavailable, match=r"clock of this machine is 9\d\d s ahead"):
            await gathered(provider, server)


async def test_an_api_key_of_bedrock_stands_in_for_a_signature() -> None:
    async with serving(Reply([stream("a")])) as (provider, server):
        assert text(await gathered(provider, server, options={"region": REGION}, api_key="bedrock-api-key")) == "a"


@pytest.mark.parametrize("options", [{"region": REGION}, {"region": REGION, "access_key_id": KEY_ID}])
async def test_missing_credentials_are_named(options: dict[str, str]) -> None:
    async with serving(Reply([stream("a")])) as (provider, server):
        with pytest.raises(ProviderUnavailable, match="secret_access_key"):
            await gathered(provider, server, options=options)
        assert not server.refused, "nothing was sent"


def test_the_address_follows_from_the_region() -> None:
    assert address(deployment(None)) == "https://bedrock-runtime.eu-west-3.amazonaws.com"
    china = deployment(None, options={**SIGNED, "region": "cn-north-1"})
    assert address(china) == "https://bedrock-runtime.cn-north-1.amazonaws.com.cn"
    assert address(deployment("https://vpce-1.example/")) == "https://vpce-1.example"


@pytest.mark.parametrize("then", ["end", "cut"])
@pytest.mark.parametrize("missing", [1, 40, 200])
async def test_a_stream_that_dies_never_looks_finished(then: str, missing: int) -> None:
    whole = event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "Bon"}})
    whole += event("messageStop", {"stopReason": "end_turn"})
    async with serving(Reply([whole[:-missing]], then=then)) as (provider, server):
        chunks: list[Chunk] = []
        with pytest.raises(ProviderUnavailable):
            async for chunk in provider.stream(CALL, deployment(server.url)):
                chunks.append(chunk)
        assert [c.finish for c in chunks if c.finish] == []


async def test_half_a_frame_after_the_answer_is_no_clean_end() -> None:
    cut = event("metadata", {"usage": {}})[:30]
    stop = event("messageStop", {"stopReason": "end_turn"})
    async with serving(Reply([stop + cut])) as (provider, server):
        with pytest.raises(ProviderUnavailable, match="before the answer was finished"):
            await gathered(provider, server)


async def test_an_answer_without_usage_is_whole() -> None:
    async with serving(Reply([event("messageStop", {"stopReason": "end_turn"})])) as (provider, server):
        assert await gathered(provider, server) == [Chunk(finish="stop")]


async def test_a_damaged_frame_ends_the_answer() -> None:
    good = event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "Bon"}})
    bad = bytearray(good)
    bad[40] ^= 1
    async with serving(Reply([good, bytes(bad)])) as (provider, server):
        with pytest.raises(ProviderUnavailable, match="checksum"):
            await gathered(provider, server)


@pytest.mark.parametrize(
    "body", [b"<html>not frames at all</html>", event("messageStop", {}), event("contentBlockDelta", 3)]
)
async def test_nonsense_is_the_providers_fault(body: bytes) -> None:
    async with serving(Reply([body])) as (provider, server):
        with pytest.raises(ProviderUnavailable):
            await gathered(provider, server)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("internalServerException", ProviderUnavailable),
        ("modelStreamErrorException", ProviderUnavailable),
        ("serviceUnavailableException", ProviderUnavailable),
        ("throttlingException", ProviderUnavailable),
        ("validationException", Invalid),
        ("modelTimeoutException", ProviderTimeout),
        ("somethingNewException", ProviderUnavailable),
    ],
)
async def test_an_exception_inside_a_stream_is_raised_as_one(name: str, kind: type[MetierError]) -> None:
    begun = event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "Bon"}})
    async with serving(Reply([begun, exception(name, {"message": "trop de monde"})])) as (provider, server):
        with pytest.raises(kind, match="trop de monde"):
            await gathered(provider, server)


@pytest.mark.parametrize(
    ("status", "name", "kind", "words"),
    [
        (400, "ValidationException", Invalid, "trop long"),
        (400, "ServiceQuotaExceededException", ProviderUnavailable, "rate limit"),
        (403, "AccessDeniedException", ProviderUnavailable, "credential Métier holds"),
        (404, "ResourceNotFoundException", ProviderUnavailable, "model id"),
        (408, "ModelTimeoutException", ProviderTimeout, "trop long"),
        (424, "ModelErrorException", ProviderUnavailable, "trop long"),
        (429, "ThrottlingException", ProviderUnavailable, "in 7 s"),
        (429, "ModelNotReadyException", ProviderUnavailable, "in 7 s"),
        (500, "InternalServerException", ProviderUnavailable, "trop long"),
        (503, "ServiceUnavailableException", ProviderUnavailable, "trop long"),
    ],
)
async def test_a_refusal_is_classified_by_its_status(
    status: int, name: str, kind: type[MetierError], words: str
) -> None:
    body = orjson.dumps({"message": f"trop long pour {SECRET}"})
    headers = {"x-amzn-errortype": f"{name}:http://internal.amazon.com/coral/", "retry-after": "7"}
    async with serving(Reply([body], status, headers)) as (provider, server):
        with pytest.raises(kind, match=words) as caught:
            await gathered(provider, server)
        assert SECRET not in caught.value.message
        assert retry_after_s(caught.value) == 7.0 or "rate limit" not in caught.value.message


async def test_a_refusal_that_is_no_json_is_quoted() -> None:
    async with serving(Reply([b"<html>down</html>"], 502)) as (provider, server):
        with pytest.raises(ProviderUnavailable, match="down"):
            await gathered(provider, server)


async def test_silence_ends_the_call() -> None:
    async with serving(Reply([], then="hang"), first_token_s=0.05) as (provider, server):
        with pytest.raises(ProviderTimeout, match=r"sent nothing for 0\.05 s"):
            await gathered(provider, server)
    begun = event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "Bon"}})
    async with serving(Reply([begun], then="hang"), between_s=0.05) as (provider, server):
        with pytest.raises(ProviderTimeout, match=r"sent nothing for 0\.05 s"):
            await gathered(provider, server)


async def test_a_server_that_stays_silent_after_a_whole_answer_costs_nothing() -> None:
    async with serving(Reply([stream("Bonjour")], then="hang")) as (provider, server):
        assert text(await gathered(provider, server)) == "Bonjour"


async def test_leaving_closes_the_connection_to_the_provider() -> None:
    begun = event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "Bon"}})
    async with serving(Reply([begun], then="hang")) as (provider, server):
        stream = provider.stream(CALL, deployment(server.url))
        async with aclosing(stream) as chunks:  # type: ignore[type-var]  # an async generator, as every provider's
            await anext(chunks)
        await asyncio.wait_for(server.gone.wait(), 60)


async def test_titan_embeds_one_text_a_request() -> None:
    call = Call(WHO, "titan", "embed", inputs=("un", "deux", "trois"), dimensions=256)
    reply = orjson.dumps({"embedding": [1, 0.5], "inputTextTokenCount": 2})
    async with serving(Reply([reply])) as (provider, server):
        (chunk,) = await gathered(provider, server, call, model_id="amazon.titan-embed-text-v2:0")
        assert chunk == Chunk(vectors=((1.0, 0.5),) * 3, usage=Usage(6))
        assert sorted(r["inputText"] for r in server.requests) == ["deux", "trois", "un"]
        assert {r["dimensions"] for r in server.requests} == {256}
        assert set(server.paths) == {"/model/amazon.titan-embed-text-v2%3A0/invoke"}


@pytest.mark.parametrize("shape", ["v3", "v4"])
async def test_cohere_embeds_many_texts_a_request(shape: str) -> None:
    call = Call(WHO, "cohere", "embed", inputs=("un",) * 98)

    def reply(count: int) -> Reply:
        rows = [[0.5, 1]] * count
        body = {"embeddings": {"float": rows} if shape == "v4" else rows}
        return Reply([orjson.dumps(body)], headers={"X-Amzn-Bedrock-Input-Token-Count": str(count)})

    async with serving(reply(96), reply(2)) as (provider, server):
        (chunk,) = await gathered(provider, server, call, model_id="cohere.embed-multilingual-v3")
    assert (len(chunk.vectors), chunk.usage) == (98, Usage(98))
    assert sorted(len(r["texts"]) for r in server.requests) == [2, 96]
    assert {r["input_type"] for r in server.requests} == {"search_document"}


async def test_cohere_is_told_that_a_text_is_a_question() -> None:
    call = Call(WHO, "cohere", "embed", inputs=("où ?",), purpose="query")
    async with serving(Reply([b'{"embeddings": [[0.5, 1]]}'])) as (provider, server):
        await gathered(provider, server, call, model_id="cohere.embed-multilingual-v3")
    assert server.requests[0]["input_type"] == "search_query"


@pytest.mark.parametrize(
    ("body", "words"),
    [(b'{"embeddings": [[1.0]]}', "1 vectors for 2 texts"), (b"[]", "format"), (b'{"embeddings": 3}', "format")],
)
async def test_embeddings_that_do_not_fit_are_refused(body: bytes, words: str) -> None:
    call = Call(WHO, "cohere", "embed", inputs=("un", "deux"))
    async with serving(Reply([body])) as (provider, server):
        with pytest.raises(ProviderUnavailable, match=words):
            await gathered(provider, server, call, model_id="cohere.embed-multilingual-v3")


async def test_one_refused_embedding_refuses_the_call() -> None:
    call = Call(WHO, "titan", "embed", inputs=("un", "deux"))
    good = Reply([orjson.dumps({"embedding": [1]})])
    bad = Reply([orjson.dumps({"message": "trop"})], 429, {"retry-after": "3"})
    async with serving(good, bad) as (provider, server):
        with pytest.raises(ProviderUnavailable) as caught:
            await gathered(provider, server, call, model_id="amazon.titan-embed-text-v1")
    assert retry_after_s(caught.value) == 3.0


@pytest.mark.parametrize(
    ("model_id", "call", "param"),
    [
        ("amazon.nova-pro-v1:0", Call(WHO, "m", "embed", inputs=("un",)), "model"),
        ("amazon.titan-embed-text-v1", Call(WHO, "m", "embed", inputs=("un",), dimensions=8), "dimensions"),
        ("cohere.embed-english-v3", Call(WHO, "m", "embed", inputs=("un",), dimensions=8), "dimensions"),
        ("amazon.nova-pro-v1:0", Call(WHO, "m", "image", inputs=("un",)), None),
    ],
)
async def test_what_is_not_served_is_refused_by_name(model_id: str, call: Call, param: str | None) -> None:
    async with serving(Reply()) as (provider, server):
        with pytest.raises(Invalid, match="Amazon Bedrock") as caught:
            await gathered(provider, server, call, model_id=model_id)
        assert caught.value.param == param
        assert server.paths == []
