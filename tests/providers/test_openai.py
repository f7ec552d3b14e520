from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metier.calls import (
    Call,
    Chunk,
    KeyId,
    Message,
    OutputSchema,
    Principal,
    ProjectId,
    SystemId,
    Tool,
    ToolCall,
    Usage,
)
from metier.catalog import Deployment, Price
from metier.errors import Invalid, MetierError, ProviderTimeout, ProviderUnavailable
from metier.providers.base import retry_after_s
from metier.providers.openai import OpenAIProvider
from metier.providers.sse import Events
from tests.upstream import Reply, Upstream, answer, event, upstream

WHO = Principal(KeyId("k"), ProjectId("p"), SystemId("s"))
CALL = Call(WHO, "petit", messages=(Message("user", "Bonjour"),))
FREE = Price(Decimal(0), Decimal(0), Decimal(0))


def deployment(url: str, **changes: Any) -> Deployment:
    made = Deployment(
        id="petit-a",
        provider="openai",
        model_id="petit-1",
        base_url=url,
        api_key="sk-provider-secret",
        price=FREE,
        energy=None,
        context_tokens=8000,
        max_output_tokens=500,
        timeout_s=30.0,
        country="FR",
        hosting="private",
    )
    return replace(made, **changes)


@asynccontextmanager
async def serving(*replies: Reply, **limits: Any) -> AsyncIterator[tuple[OpenAIProvider, Upstream]]:
    provider = OpenAIProvider(**limits)
    async with upstream(*replies) as server:
        try:
            yield provider, server
        finally:
            await provider.close()


async def gathered(provider: OpenAIProvider, server: Upstream, call: Call = CALL) -> list[Chunk]:
    chunks: list[Chunk] = []
    async for chunk in provider.stream(call, deployment(server.url)):
        chunks.append(chunk)
    return chunks


def text(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


async def test_a_stream_gives_its_text_its_finish_and_its_usage() -> None:
    usage = {"prompt_tokens": 20, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 16}}
    async with serving(Reply([answer("Bon", "jour", " à vous", usage=usage)])) as (provider, server):
        chunks = await gathered(provider, server)
        assert text(chunks) == "Bonjour à vous"
        assert [c.finish for c in chunks if c.finish] == ["stop"]
        assert [c.usage for c in chunks if c.usage] == [Usage(20, 3, 16)]
        assert server.paths == ["/v1/chat/completions"]
        assert server.headers[0]["Authorization"] == "Bearer sk-provider-secret"
        assert server.requests[0] == {
            "model": "petit-1",
            "messages": [{"role": "user", "content": "Bonjour"}],
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": 500,
        }


async def test_everything_a_call_can_ask_is_passed_on() -> None:
    schema: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "string"}}}
    call = Call(
        WHO,
        "petit",
        messages=(
            Message("system", "Sois bref."),
            Message("assistant", "", tool_calls=(ToolCall("t1", "heure", '{"ville":"Lyon"}'),)),
            Message("tool", "12 h", tool_call_id="t1"),
        ),
        tools=(Tool("heure", "Donne l'heure", schema, strict=True),),
        tool_choice="heure",
        output=OutputSchema("fiche", schema),
        temperature=0.0,
        top_p=0.5,
        max_output_tokens=9_000,
        stop=("FIN",),
        seed=7,
    )
    async with serving(Reply([answer("ok")])) as (provider, server):
        await gathered(provider, server, call)
        sent = server.requests[0]
    function = {"name": "heure", "description": "Donne l'heure", "parameters": schema, "strict": True}
    assert sent["tools"] == [{"type": "function", "function": function}]
    assert sent["tool_choice"] == {"type": "function", "function": {"name": "heure"}}
    assert sent["response_format"]["json_schema"] == {"name": "fiche", "schema": schema, "strict": True}
    assert sent["messages"][1]["tool_calls"][0]["function"]["arguments"] == '{"ville":"Lyon"}'
    assert sent["messages"][2] == {"role": "tool", "content": "12 h", "tool_call_id": "t1"}
    assert (sent["temperature"], sent["top_p"], sent["stop"], sent["seed"]) == (0.0, 0.5, ["FIN"], 7)
    assert sent["max_tokens"] == 500, "never more than the deployment may write"


async def test_tool_calls_arrive_whole_whatever_their_pieces() -> None:
    def piece(**fields: Any) -> bytes:
        return event({"tool_calls": [fields]})

    stream = [
        piece(index=0, id="a", type="function", function={"name": "heure", "arguments": ""}),
        piece(index=0, function={"arguments": '{"ville"'}),
        piece(index=1, id="b", type="function", function={"name": "date", "arguments": "{}"}),
        piece(index=0, function={"arguments": ':"Lyon"}'}),
        event(finish="tool_calls"),
        b"data: [DONE]\n\n",
    ]
    for pieces in (stream, [b"".join(stream)]):
        async with serving(Reply(pieces)) as (provider, server):
            chunks = await gathered(provider, server)
        arguments: dict[int, str] = {}
        names: dict[int, str] = {}
        for chunk in chunks:
            for call in chunk.tool_calls:
                arguments[call.index] = arguments.get(call.index, "") + call.arguments
                names[call.index] = names.get(call.index) or call.name or ""
        assert arguments == {0: '{"ville":"Lyon"}', 1: "{}"}
        assert names == {0: "heure", 1: "date"}
        assert chunks[-1].finish == "tool_calls"


async def test_bytes_may_be_split_anywhere() -> None:
    whole = b": a comment\r\n\r\n" + answer("Été ", "à ", "Évry").replace(b"\n", b"\r\n")
    async with serving(Reply([whole[i : i + 1] for i in range(len(whole))])) as (provider, server):
        assert text(await gathered(provider, server)) == "Été à Évry"


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_events_do_not_depend_on_how_they_were_cut(data: st.DataObject) -> None:
    newline = data.draw(st.sampled_from([b"\n", b"\r\n", b"\r"]))
    stream = newline.join(
        [b"data: un", b"", b": note", b"event: x", b"data:deux", b"data: trois", b"", b"data:", b"", b""]
    )
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    events = Events()
    found: list[bytes] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += events.feed(stream[start:end])
    assert found + events.end() == [b"un", b"deux\ntrois"]


async def test_a_stream_without_done_is_whole_if_it_was_finished() -> None:
    body = event({"content": "Oui"}) + event(finish="length", usage={"prompt_tokens": 2, "completion_tokens": 1})
    async with serving(Reply([body.rstrip(b"\n")])) as (provider, server):
        chunks = await gathered(provider, server)
    assert (text(chunks), chunks[-1].finish, chunks[-1].usage) == ("Oui", "length", Usage(2, 1))


@pytest.mark.parametrize("then", ["end", "cut"])
async def test_a_stream_that_dies_never_looks_finished(then: str) -> None:
    async with serving(Reply([event({"content": "Bon"})], then=then)) as (provider, server):
        chunks: list[Chunk] = []
        with pytest.raises(ProviderUnavailable):
            async for chunk in provider.stream(CALL, deployment(server.url)):
                chunks.append(chunk)
        assert text(chunks) == "Bon"


async def test_an_error_inside_a_stream_is_raised_as_one() -> None:
    failed = b'data: {"error": {"message": "overloaded", "code": 529}}\n\n'
    async with serving(Reply([event({"content": "Bon"}), failed])) as (provider, server):
        with pytest.raises(ProviderUnavailable, match="overloaded"):
            await gathered(provider, server)


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (400, Invalid, "trop long"),
        (401, ProviderUnavailable, "credential Métier holds"),
        (403, ProviderUnavailable, "credential Métier holds"),
        (404, ProviderUnavailable, "model id"),
        (408, ProviderTimeout, "trop long"),
        (422, Invalid, "trop long"),
        (429, ProviderUnavailable, "in 7 s"),
        (500, ProviderUnavailable, "trop long"),
        (302, ProviderUnavailable, "302"),
        (504, ProviderTimeout, "trop long"),
    ],
)
async def test_a_refusal_is_classified_by_its_status(status: int, kind: type[MetierError], words: str) -> None:
    body = orjson.dumps({"error": {"message": "trop long pour sk-provider-secret"}})
    reply = Reply([body], status, "application/json", {"retry-after": "7", "location": "/elsewhere"})
    async with serving(reply) as (provider, server):
        with pytest.raises(kind, match=words) as caught:
            await gathered(provider, server)
        assert "sk-provider-secret" not in caught.value.message
        assert retry_after_s(caught.value) == (7.0 if status in (429, 500, 302) else None)
        assert len(server.paths) == 1, "a redirect is not followed"


@pytest.mark.parametrize(
    "body", [b"<html>", b'{"choices": 3}', b"data: {]\n\n", b'data: {"choices": [4]}\n\n', b"data: 5\n\n"]
)
async def test_nonsense_is_the_providers_fault(body: bytes) -> None:
    kind = "text/event-stream" if body.startswith(b"data") else "application/json"
    async with serving(Reply([body], kind=kind)) as (provider, server):
        with pytest.raises(ProviderUnavailable):
            await gathered(provider, server)


async def test_a_server_that_does_not_stream_is_understood() -> None:
    whole = {
        "choices": [{"message": {"role": "assistant", "content": "Bonjour"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 4, "completion_tokens": 2},
    }
    async with serving(Reply([orjson.dumps(whole)], kind="application/json")) as (provider, server):
        assert await gathered(provider, server) == [Chunk("Bonjour", finish="stop", usage=Usage(4, 2))]


async def test_silence_before_the_first_token_and_between_tokens_ends_the_call() -> None:
    async with serving(Reply([], then="hang"), first_token_s=0.05) as (provider, server):
        with pytest.raises(ProviderTimeout, match=r"sent nothing for 0\.05 s"):
            await gathered(provider, server)
    async with serving(Reply([event({"content": "a"})], then="hang"), between_s=0.05) as (provider, server):
        with pytest.raises(ProviderTimeout, match=r"sent nothing for 0\.05 s"):
            await gathered(provider, server)


async def test_the_whole_answer_has_a_limit_too() -> None:
    async with serving(Reply([event({"content": "a"})], then="hang")) as (provider, server):
        with pytest.raises(ProviderTimeout, match="timeout_s"):
            async for _ in provider.stream(CALL, deployment(server.url, timeout_s=0.1)):
                pass


async def test_a_server_that_is_not_there_is_said_to_be_unavailable() -> None:
    provider = OpenAIProvider()
    with pytest.raises(ProviderUnavailable, match="broke off"):
        async for _ in provider.stream(CALL, deployment("http://127.0.0.1:9/v1")):
            pass
    with pytest.raises(ProviderUnavailable, match="no address"):
        async for _ in provider.stream(CALL, deployment("", base_url=None)):
            pass
    await provider.close()


async def test_leaving_closes_the_connection_to_the_provider() -> None:
    async with serving(Reply([event({"content": "a"})], then="hang")) as (provider, server):
        stream = provider.stream(CALL, deployment(server.url))
        async with aclosing(stream) as chunks:  # type: ignore[type-var]  # an async generator, as every provider's
            await anext(chunks)
        await asyncio.wait_for(server.gone.wait(), 60)


async def test_a_connection_is_used_again_after_a_whole_answer() -> None:
    async with serving(Reply([answer("a")])) as (provider, server):
        for _ in range(3):
            await gathered(provider, server)
        assert len(set(server.peers)) == 1


async def test_embeddings_come_in_the_order_of_the_texts() -> None:
    call = Call(WHO, "e5", "embed", inputs=("un", "deux"))
    body = {
        "data": [{"index": 1, "embedding": [0.0, 1]}, {"index": 0, "embedding": [1, 0.5]}],
        "usage": {"prompt_tokens": 4, "total_tokens": 4},
    }
    async with serving(Reply([orjson.dumps(body)], kind="application/json")) as (provider, server):
        chunks = await gathered(provider, server, call)
        assert chunks == [Chunk(vectors=((1.0, 0.5), (0.0, 1.0)), usage=Usage(4, 0))]
        assert server.requests[0] == {"model": "petit-1", "input": ["un", "deux"], "encoding_format": "float"}
        assert server.paths == ["/v1/embeddings"]


async def test_fewer_vectors_than_texts_are_refused() -> None:
    call = Call(WHO, "e5", "embed", inputs=("un", "deux"))
    body = orjson.dumps({"data": [{"index": 0, "embedding": [1]}]})
    async with serving(Reply([body], kind="application/json")) as (provider, server):
        with pytest.raises(ProviderUnavailable, match="1 vectors for 2 texts"):
            await gathered(provider, server, call)
