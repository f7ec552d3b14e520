"""The provider before a server that speaks Anthropic's protocol: headers, addresses, streams, errors, counts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from metier.calls import Call, Chunk, Message, OutputSchema, Reasoning, Tool, ToolCall, Usage
from metier.errors import Invalid, MetierError, ProviderTimeout, ProviderUnavailable
from metier.gateway import Thoughts, Tools
from metier.providers.anthropic import AnthropicProvider
from metier.providers.base import retry_after_s
from tests.fake_anthropic import KEY, FakeAnthropic, Said, event, events, fake_anthropic
from tests.providers.deployments import CALL, deployment
from tests.upstream import Reply, upstream

HELLO = Said([{"type": "text", "text": "Bonjour à vous"}])
WEATHER = Tool("meteo", "Le temps", {"type": "object"})


@asynccontextmanager
async def serving(*replies: Said, **limits: float) -> AsyncIterator[tuple[AnthropicProvider, FakeAnthropic]]:
    provider = AnthropicProvider(**limits)
    async with fake_anthropic(*replies) as server:
        try:
            yield provider, server
        finally:
            await provider.close()


async def ask(provider: AnthropicProvider, url: str, call: Call = CALL, **changes: Any) -> list[Chunk]:
    settings = {"id": "claude-a", "provider": "anthropic", "model_id": "claude-opus-5", "api_key": KEY, **changes}
    return [chunk async for chunk in provider.stream(call, deployment(url, **settings))]


def text(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


async def test_a_stream_gives_its_text_its_finish_and_its_usage() -> None:
    async with serving(HELLO) as (provider, server):
        chunks = await ask(provider, server.url)
        assert text(chunks) == "Bonjour à vous"
        assert (chunks[-1].finish, chunks[-1].usage) == ("stop", Usage(20, 7))
        assert server.paths == ["/v1/messages"]
        assert (server.headers[0]["x-api-key"], server.headers[0]["anthropic-version"]) == (KEY, "2023-06-01")
        assert "anthropic-beta" not in server.headers[0]
        assert server.requests[0] == {
            "model": "claude-opus-5",
            "max_tokens": 500,
            "stream": True,
            "messages": [{"role": "user", "content": [{"type": "text", "text": "Bonjour"}]}],
        }


async def test_byte_by_byte_is_the_same_answer() -> None:
    async with serving(replace(HELLO, step=1)) as (provider, server):
        assert text(await ask(provider, server.url)) == "Bonjour à vous"


@pytest.mark.parametrize("end", ["", "/", "/v1", "/v1/"])
async def test_the_base_may_be_written_with_or_without_its_version(end: str) -> None:
    async with serving(HELLO) as (provider, server):
        await ask(provider, server.url + end)
        assert server.paths == ["/v1/messages"]


async def test_version_and_beta_come_from_the_options_of_the_deployment() -> None:
    async with serving(HELLO) as (provider, server):
        options = {"version": "2024-01-01", "beta": "one-2026,two-2026"}
        with pytest.raises(Invalid, match="anthropic-version"):
            await ask(provider, server.url, options=options)
        sent = server.headers[0]
        assert (sent["anthropic-version"], sent["anthropic-beta"]) == ("2024-01-01", "one-2026,two-2026")


async def test_thoughts_and_tool_calls_go_back_as_they_came_and_the_results_with_them() -> None:
    first = Said(
        [
            {"type": "thinking", "thinking": "Il faut le temps et l'heure.", "signature": "c2ln"},
            {"type": "redacted_thinking", "data": "c2NlbGxl"},
            {"type": "text", "text": "Je regarde."},
            {"type": "tool_use", "id": "toolu_1", "name": "meteo", "input": {"ville": "Lyon"}},
            {"type": "tool_use", "id": "toolu_2", "name": "meteo", "input": {}},
        ],
        "tool_use",
    )
    async with serving(first, HELLO) as (provider, server):
        call = replace(CALL, tools=(WEATHER,), effort="low")
        chunks = await ask(provider, server.url, call)
        tools, thoughts = Tools(), Thoughts()
        for chunk in chunks:
            tools.add(chunk.tool_calls)
            thoughts.add(chunk.reasoning)
        assert tools.whole() == (ToolCall("toolu_1", "meteo", '{"ville":"Lyon"}'), ToolCall("toolu_2", "meteo", "{}"))
        assert thoughts.whole()[1] == Reasoning(signature="c2NlbGxl", sealed=True)
        answered = Message("assistant", text(chunks), tools.whole(), reasoning=thoughts.whole())
        results = (Message("tool", "12 °C", tool_call_id="toolu_1"), Message("tool", "", tool_call_id="toolu_2"))
        assert text(await ask(provider, server.url, replace(call, messages=(*call.messages, answered, *results))))
        turns = server.requests[1]["messages"]
        assert turns[1] == {"role": "assistant", "content": list(first.content)}
        assert turns[2]["content"] == [
            {"type": "tool_result", "tool_use_id": "toolu_1", "content": "12 °C"},
            {"type": "tool_result", "tool_use_id": "toolu_2"},
        ]


async def test_an_answer_by_tool_is_text_to_the_caller() -> None:
    said = Said([{"type": "tool_use", "id": "toolu_1", "name": "fiche", "input": {"nom": "Ada"}}], "tool_use")
    async with serving(said) as (provider, server):
        chunks = await ask(provider, server.url, replace(CALL, output=OutputSchema("fiche", {})))
        assert (text(chunks), chunks[-1].finish) == ('{"nom":"Ada"}', "stop")
        assert not any(chunk.tool_calls for chunk in chunks)
        assert server.requests[0]["tool_choice"] == {"type": "tool", "name": "fiche"}


@pytest.mark.parametrize(
    ("status", "error", "wait"),
    [
        (413, Invalid, None),
        (429, ProviderUnavailable, 7.0),
        (500, ProviderUnavailable, None),
        (504, ProviderTimeout, None),
        (529, ProviderUnavailable, 3.0),
    ],
)
async def test_a_refusal_is_classified_by_its_status(status: int, error: type[MetierError], wait: float | None) -> None:
    headers = {} if wait is None else {"retry-after": f"{wait:g}"}
    async with serving(Said(status=status, headers=headers)) as (provider, server):
        with pytest.raises(error, match=f"claude-a.*{status}") as caught:
            await ask(provider, server.url)
        assert type(caught.value) is error
        assert retry_after_s(caught.value) == wait


async def test_a_wrong_credential_is_ours_to_mend_and_never_shown() -> None:
    async with serving(HELLO) as (provider, server):
        with pytest.raises(ProviderUnavailable, match="credential Métier holds") as caught:
            await ask(provider, server.url, api_key="sk-ant-wrong-one")
        assert "sk-ant-wrong-one" not in str(caught.value)


async def test_what_anthropic_refuses_is_the_callers_to_mend() -> None:
    broken = (Message("user", "a"), Message("tool", "seul", tool_call_id="t9"))
    async with serving(HELLO) as (provider, server):
        with pytest.raises(Invalid, match="tool_use ids"):
            await ask(provider, server.url, replace(CALL, messages=broken))


async def test_an_error_inside_a_stream_is_the_end_of_it() -> None:
    overloaded = event("error", error={"type": "overloaded_error", "message": "Overloaded"})
    async with serving(Said(raw=b"".join(events(HELLO)[:6]) + overloaded, step=40)) as (provider, server):
        with pytest.raises(ProviderUnavailable, match="529"):
            await ask(provider, server.url)


@pytest.mark.parametrize("cut", [0, 1, 400, 700, 1050])
async def test_a_stream_that_breaks_off_is_no_answer(cut: int) -> None:
    async with serving(replace(HELLO, cut=cut)) as (provider, server):
        with pytest.raises(ProviderUnavailable):
            await ask(provider, server.url)


async def test_a_stream_that_ends_before_message_stop_is_no_answer() -> None:
    async with serving(Said(raw=b"".join(events(HELLO)[:-1]))) as (provider, server):
        with pytest.raises(ProviderUnavailable, match="before the message was finished"):
            await ask(provider, server.url)


async def test_a_silence_has_an_end() -> None:
    hanging = Said(raw=b"".join(events(HELLO)[:4]), hang=True)
    async with serving(hanging, first_token_s=60, between_s=0.05) as (provider, server):
        with pytest.raises(ProviderTimeout, match="sent nothing"):
            await ask(provider, server.url)


async def test_leaving_early_closes_the_connection() -> None:
    async with serving(Said(raw=b"".join(events(HELLO)[:4]), hang=True)) as (provider, server):
        chunks = provider.stream(CALL, deployment(server.url, api_key=KEY, model_id="claude-opus-5"))
        assert isinstance(chunks, AsyncGenerator)
        async with aclosing(chunks):
            async for _ in chunks:
                break
        async with asyncio.timeout(60):
            await server.gone.wait()


async def test_a_server_that_does_not_stream_is_understood() -> None:
    body = b'{"type":"message","content":[{"type":"text","text":"Oui"}],"stop_reason":"end_turn","usage":null}'
    provider = AnthropicProvider()
    async with upstream(Reply([body], kind="application/json")) as server:
        assert await ask(provider, server.url) == [Chunk("Oui", finish="stop")]
    await provider.close()


async def test_a_count_is_the_providers_own() -> None:
    async with serving(HELLO) as (provider, server):
        where = deployment(server.url, provider="anthropic", api_key=KEY, model_id="claude-opus-5")
        assert await provider.count(replace(CALL, temperature=0.5, stop=("x",)), where) > 3
        assert server.paths == ["/v1/messages/count_tokens"]
        assert set(server.requests[0]) == {"model", "messages"}
        with pytest.raises(ProviderUnavailable, match="credential"):
            await provider.count(CALL, replace(where, api_key="sk-ant-other"))


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"input_tokens":"many"}'])
async def test_a_count_that_is_none_is_the_providers_fault(body: bytes) -> None:
    provider = AnthropicProvider()
    async with upstream(Reply([body], kind="application/json")) as server:
        with pytest.raises(ProviderUnavailable, match="count that does not fit"):
            await provider.count(CALL, deployment(server.url))
    await provider.close()
