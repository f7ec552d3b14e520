"""Every server that speaks OpenAI's API: OpenAI itself, vLLM, llama.cpp, Ollama, xAI and the many others."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import AsyncIterator, Mapping
from typing import Final

import aiohttp
import orjson

from metier.calls import JSON, Call, Chunk, Operation
from metier.catalog import Deployment
from metier.errors import ProviderUnavailable
from metier.providers.cause import caused
from metier.providers.exchange import Exchange, wait_s
from metier.providers.mistral import MISTRAL, mistral_body
from metier.providers.openai_answer import Reading, refusal, whole
from metier.providers.openai_request import (
    Words,
    cannot,
    chat_body,
    embed_body,
    image_body,
    rerank_body,
    transcription_form,
    words_of,
)

__all__ = ["Dialect", "MistralDialect", "OpenAIProvider"]

_PATHS: Final[Mapping[Operation, str]] = {
    "chat": "/chat/completions",
    "embed": "/embeddings",
    "rerank": "/rerank",
    "transcribe": "/audio/transcriptions",
    "image": "/images/generations",
}
_JSON: Final = {"content-type": "application/json"}
_MISTRAL_HOST: Final = "https://api.mistral.ai"
_UNPROCESSABLE: Final = 422


class Dialect:
    """How one kind of server is addressed and asked; this one keeps to OpenAI's own API."""

    def words(self, deployment: Deployment) -> Words:
        """Tell what the server calls things."""
        return words_of(deployment)

    def chat(self, call: Call, deployment: Deployment) -> dict[str, JSON]:
        """Write the request for a chat completion."""
        return chat_body(call, deployment, self.words(deployment))

    def url(self, operation: Operation, deployment: Deployment) -> str:
        """Give the address an operation is sent to."""
        if deployment.base_url is None:
            homeless = ProviderUnavailable(f"deployment {deployment.id!r} has no address: give it a `base_url`")
            raise caused(homeless, "no_address")
        return deployment.base_url.rstrip("/") + _PATHS[operation]

    async def headers(self, deployment: Deployment) -> dict[str, str]:
        """Give the headers that say who asks."""
        headers: dict[str, str] = {}
        if deployment.api_key:
            headers["authorization"] = f"Bearer {deployment.api_key}"
        if deployment.options:
            for option in ("organization", "project"):
                if option in deployment.options:
                    headers[f"openai-{option}"] = deployment.options[option]
        return headers

    def refused(self, status: int, deployment: Deployment) -> None:
        """Learn that the server refused a call; this one keeps nothing that could be out of date."""

    async def close(self) -> None:
        """Give back what the dialect keeps open; this one keeps nothing."""


class MistralDialect(Dialect):
    """Mistral's own API, which is close to OpenAI's and strict about where it differs."""

    def words(self, deployment: Deployment) -> Words:
        """Tell what the server calls things."""
        return MISTRAL

    def chat(self, call: Call, deployment: Deployment) -> dict[str, JSON]:
        """Write the request for a chat completion."""
        return mistral_body(call, deployment)

    def url(self, operation: Operation, deployment: Deployment) -> str:
        """Give the address an operation is sent to; Mistral's own where none is declared."""
        return (deployment.base_url or f"{_MISTRAL_HOST}/v1").rstrip("/") + _PATHS[operation]


class OpenAIProvider:
    """Serves every operation from OpenAI-compatible servers, over one pool of connections."""

    def __init__(
        self,
        dialect: Dialect | None = None,
        *,
        first_token_s: float = 120.0,
        between_s: float = 60.0,
        connect_s: float = 10.0,
    ) -> None:
        self._exchange = Exchange(first_token_s=first_token_s, between_s=between_s, connect_s=connect_s)
        self._dialect = dialect
        self._plain, self._mistral = Dialect(), MistralDialect()

    async def stream(self, call: Call, deployment: Deployment) -> AsyncIterator[Chunk]:
        """Ask the deployment and yield what it answers; text that arrived together is yielded together."""
        dialect = self._dialect or self._usual(deployment)
        exchange = self._exchange
        with exchange.guard(deployment):
            response = await self._ask(call, deployment, dialect)
            async with response:
                if response.status >= 300:
                    dialect.refused(response.status, deployment)
                    data = await exchange.refusal(response, deployment)
                    raise refusal(response.status, data, deployment, wait_s(response))
                if call.operation != "chat" or response.content_type != "text/event-stream":
                    yield whole(await exchange.read(response, deployment, call.at_once), call, deployment)
                    return
                reading = Reading(deployment)
                with exchange.patience(response, deployment) as patience:
                    while data := await patience.next(reading.done):
                        chunk = reading.take(data)
                        if chunk is not None:
                            yield chunk
                chunk = reading.end()
                if chunk is not None:
                    yield chunk

    async def close(self) -> None:
        """Close the connections that are kept open between calls."""
        await self._exchange.close()
        if self._dialect is not None:
            await self._dialect.close()

    def _usual(self, deployment: Deployment) -> Dialect:
        return self._mistral if (deployment.base_url or "").startswith(_MISTRAL_HOST) else self._plain

    async def _ask(self, call: Call, deployment: Deployment, dialect: Dialect) -> aiohttp.ClientResponse:
        url = dialect.url(call.operation, deployment)
        if call.operation == "chat":
            body = dialect.chat(call, deployment)
        elif call.operation == "transcribe":
            # A long sound takes its time to decode.
            form = await asyncio.to_thread(transcription_form, call, deployment, dialect.words(deployment))
            return await self._exchange.post(url, form, await dialect.headers(deployment), deployment)
        else:
            body = _body(call, deployment, dialect.words(deployment))
        headers = _JSON | await dialect.headers(deployment)
        if call.cache_key is not None and call.operation == "chat":
            _share_prefix(call, body, headers, deployment, dialect.words(deployment))
        response = await self._exchange.post(url, orjson.dumps(body), headers, deployment, call.at_once)
        if response.status != _UNPROCESSABLE or call.operation != "rerank":
            return response
        # Text Embeddings Inference calls the documents texts; what it says to the usual name is 422.
        response.release()
        again = rerank_body(call, deployment, texts=True)
        return await self._exchange.post(url, orjson.dumps(again), headers, deployment)


def _body(call: Call, deployment: Deployment, words: Words) -> dict[str, JSON]:
    if call.operation == "embed":
        return embed_body(call, deployment, words)
    if call.operation == "rerank":
        if not words.rerank:
            raise cannot(deployment, "a rerank", "model", "its provider has no such operation; choose another model")
        return rerank_body(call, deployment, words)
    if not words.images:
        raise cannot(deployment, "an image to make", "model", "its provider has no such operation; choose another one")
    return image_body(call, deployment)


def _share_prefix(
    call: Call, body: dict[str, JSON], headers: dict[str, str], deployment: Deployment, words: Words
) -> None:
    """Tell a server that knows how which calls share a prefix, by a keyed hash: the key may be somebody's name."""
    if not words.cache_key or call.cache_key is None:
        return
    secret = (deployment.api_key or deployment.id).encode()
    text = f"{call.principal.project}\0{call.cache_key}".encode("utf-8", "surrogatepass")
    name = hmac.new(secret, text, hashlib.sha256).hexdigest()[:32]
    if words.cache_key == "body":
        body["prompt_cache_key"] = name
    else:
        headers["x-grok-conv-id"] = name
