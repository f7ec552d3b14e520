"""Azure OpenAI: addresses, keys, tokens of Entra ID, and what its content filter says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import orjson
import pytest

from metier.calls import Call
from metier.catalog import Deployment
from metier.errors import GuardrailBlocked, Invalid, ProviderTimeout, ProviderUnavailable
from metier.providers.azure import AzureDialect
from metier.providers.base import unasked
from metier.providers.entra import Entra
from metier.providers.exchange import Exchange
from metier.providers.openai import OpenAIProvider
from tests.providers.deployments import CALL, WHO, ask, deployment, reply, serving
from tests.upstream import Reply, Upstream, answer, event, upstream

SECRET = "s3cret-of-the-application"


class Hand:
    """A clock moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def token(value: str, lasts: int = 3600) -> Reply:
    return reply(orjson.dumps({"token_type": "Bearer", "expires_in": lasts, "access_token": value}))


def entra_deployment(server: Upstream, authority: Upstream, **changes: Any) -> Deployment:
    options = {
        "tenant_id": "locataire", "client_id": "app-1", "client_secret": SECRET,
        "authority": authority.url.removesuffix("/v1"),
    }  # fmt: skip
    return deployment(server.url, provider="azure", api_key=None, options=options, **changes)


@asynccontextmanager
async def house(
    *tokens: Reply, answers: tuple[Reply, ...] = ()
) -> AsyncIterator[tuple[OpenAIProvider, Upstream, Upstream, Hand]]:
    """A provider, the resource, the authority and the clock."""
    clock, exchange = Hand(), Exchange()
    provider = OpenAIProvider(AzureDialect(exchange, Entra(exchange, clock)))
    async with upstream(*(answers or (Reply([answer("ok")]),))) as server, upstream(*tokens) as authority:
        try:
            yield provider, server, authority, clock
        finally:
            await provider.close()


@pytest.mark.parametrize(
    ("base", "version", "expected"),
    [
        ("https://m.openai.azure.com", None, "https://m.openai.azure.com/openai/v1/chat/completions"),
        ("https://m.openai.azure.com/", "v1", "https://m.openai.azure.com/openai/v1/chat/completions"),
        ("https://m.openai.azure.com/openai/v1", None, "https://m.openai.azure.com/openai/v1/chat/completions"),
        (
            "https://m.openai.azure.com/openai", "2024-10-21",
            "https://m.openai.azure.com/openai/deployments/petit-1/chat/completions?api-version=2024-10-21",
        ),
    ],
)  # fmt: skip
def test_the_address_follows_the_version(base: str, version: str | None, expected: str) -> None:
    options = {} if version is None else {"api_version": version}
    assert AzureDialect().url("chat", deployment(base, options=options)) == expected


async def test_a_deployment_is_asked_by_its_name_with_the_key_of_its_resource() -> None:
    async with serving(Reply([answer("ok")]), dialect=AzureDialect()) as (provider, server):
        base = server.url.removesuffix("/v1")
        await ask(provider, deployment(base, model_id="mon gpt", options={"api_version": "2024-10-21"}))
        assert server.paths == ["/openai/deployments/mon gpt/chat/completions"]
        assert server.queries == ["api-version=2024-10-21"]
        assert server.headers[0]["api-key"] == "sk-provider-secret"
        assert "Authorization" not in server.headers[0]
        assert server.requests[0]["max_completion_tokens"] == 500
        embed = Call(WHO, "e", "embed", inputs=("un",))
        with pytest.raises(ProviderUnavailable):
            await ask(provider, deployment(base), embed)
        assert server.paths[-1] == "/openai/v1/embeddings"


async def test_what_azure_lacks_or_needs_is_said() -> None:
    async with serving(Reply(), dialect=AzureDialect()) as (provider, server):
        with pytest.raises(Invalid, match="rerank"):
            await ask(provider, deployment(server.url), Call(WHO, "r", "rerank", inputs=("a",), query="q"))
        with pytest.raises(ProviderUnavailable, match="base_url"):
            await ask(provider, deployment(None))
        with pytest.raises(ProviderUnavailable, match="client_secret is missing"):
            await ask(provider, deployment(server.url, api_key=None, options={"tenant_id": "t", "client_id": "c"}))
        assert server.paths == []


async def test_a_filtered_prompt_is_a_refusal_told_by_its_code() -> None:
    filtered = {
        "error": {
            "message": "Des mots sans importance", "param": "prompt", "code": "content_filter", "status": 400,
            "innererror": {
                "code": "ResponsibleAIPolicyViolation",
                "content_filter_result": {
                    "hate": {"filtered": True, "severity": "high"},
                    "jailbreak": {"filtered": True, "detected": True},
                    "violence": {"filtered": False, "severity": "safe"},
                },
            },
        }
    }  # fmt: skip
    async with serving(reply(orjson.dumps(filtered), 400), dialect=AzureDialect()) as (provider, server):
        with pytest.raises(GuardrailBlocked, match=r"'petit-a'.*found hate, jailbreak; reword") as caught:
            await ask(provider, deployment(server.url))
        assert (caught.value.status, caught.value.code) == (400, "guardrail_blocked")
    words = reply(b'{"error":{"message":"content_filter ResponsibleAIPolicyViolation","code":"other"}}', 400)
    async with serving(words, dialect=AzureDialect()) as (provider, server):
        with pytest.raises(Invalid):
            await ask(provider, deployment(server.url))


async def test_a_filtered_answer_ends_with_that_finish() -> None:
    stream = event({"content": "Bon"}) + event({}, "content_filter") + b"data: [DONE]\n\n"
    async with serving(Reply([stream]), dialect=AzureDialect()) as (provider, server):
        assert (await ask(provider, deployment(server.url)))[-1].finish == "content_filter"


async def test_a_token_is_fetched_once_for_many_callers_and_kept() -> None:
    async with house(token("jeton-1")) as (provider, server, authority, _):
        target = entra_deployment(server, authority)
        await asyncio.gather(*(ask(provider, target) for _ in range(8)))
        await ask(provider, target)
        assert authority.paths == ["/locataire/oauth2/v2.0/token"]
        assert authority.requests == [{
            "grant_type": "client_credentials", "client_id": "app-1", "client_secret": SECRET,
            "scope": "https://cognitiveservices.azure.com/.default",
        }]  # fmt: skip
        assert {headers["Authorization"] for headers in server.headers} == {"Bearer jeton-1"}


async def test_a_token_is_renewed_before_it_ends() -> None:
    async with house(token("jeton-1"), token("jeton-2")) as (provider, server, authority, clock):
        target = entra_deployment(server, authority)
        await ask(provider, target)
        clock.now += 3600 - 301
        await ask(provider, target)
        assert len(authority.paths) == 1
        clock.now += 2
        await ask(provider, target)
        assert [headers["Authorization"] for headers in server.headers][-1] == "Bearer jeton-2"


async def test_an_old_token_serves_while_no_new_one_comes() -> None:
    async with house(token("jeton-1"), reply(b"{}", 503)) as (provider, server, authority, clock):
        target = entra_deployment(server, authority)
        await ask(provider, target)
        clock.now += 3500
        await ask(provider, target)
        assert [headers["Authorization"] for headers in server.headers] == ["Bearer jeton-1"] * 2
        clock.now += 100
        with pytest.raises(ProviderUnavailable, match="answered 503"):
            await ask(provider, target)


async def test_a_token_the_resource_refuses_is_dropped() -> None:
    refused = reply(b'{"error":{"code":"401"}}', 401)
    async with house(token("jeton-1"), token("jeton-2"), answers=(refused, Reply([answer("ok")]))) as (
        provider,
        server,
        authority,
        _,
    ):
        target = entra_deployment(server, authority)
        with pytest.raises(ProviderUnavailable, match="credential"):
            await ask(provider, target)
        await ask(provider, target)
        assert server.headers[-1]["Authorization"] == "Bearer jeton-2"


@pytest.mark.parametrize(
    "answer_of_entra",
    [
        reply(b'{"error":"invalid_client","error_description":"AADSTS7000215: s3cret-of-the-application"}', 401),
        reply(b"<html>", 200),
        reply(b'{"access_token":"x"}', 200),
        reply(b"[]", 400),
        reply(b'{"error":"s3cret-of-the-application"}', 400),
        reply(b'{"error":{"code":"s3cret-of-the-application"}}', 400),
        reply(b'{"access_token":null,"expires_in":3600}', 200),
        reply(b'{"access_token":"","expires_in":3600}', 200),
        reply(b'{"access_token":7,"expires_in":3600}', 200),
        reply(b'{"access_token":"a\\r\\nx-forged: b","expires_in":3600}', 200),
        reply(b'{"access_token":"a","expires_in":"longtemps"}', 200),
    ],
)
async def test_without_a_token_the_deployment_is_unavailable_and_no_secret_is_told(answer_of_entra: Reply) -> None:
    async with house(answer_of_entra) as (provider, server, authority, _):
        with pytest.raises(ProviderUnavailable, match="Entra ID gave no token for deployment 'petit-a'") as caught:
            await ask(provider, entra_deployment(server, authority), replace(CALL))
        assert SECRET not in str(caught.value)
        assert server.paths == []


async def test_a_silence_of_entra_owes_the_deployment_nothing() -> None:
    async with house(Reply(then="hang")) as (provider, server, authority, _):
        with pytest.raises(ProviderTimeout) as caught:
            await ask(provider, entra_deployment(server, authority, first_token_s=0.05))
        assert unasked(caught.value) and server.paths == []
        authority.released.set()


async def test_two_identities_do_not_share_a_token() -> None:
    async with house(token("jeton-1"), token("jeton-2")) as (provider, server, authority, _):
        first = entra_deployment(server, authority)
        second = replace(first, options={**first.options, "client_id": "app-2"})
        await ask(provider, first)
        await ask(provider, second)
        assert [headers["Authorization"] for headers in server.headers] == ["Bearer jeton-1", "Bearer jeton-2"]
