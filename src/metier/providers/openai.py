"""Every server that speaks OpenAI's API: OpenAI itself, vLLM, llama.cpp, Mistral, xAI and the many others."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import orjson

from metier.calls import Call, Chunk
from metier.catalog import Deployment
from metier.errors import MetierError, ProviderUnavailable
from metier.providers.base import failure
from metier.providers.exchange import Exchange, wait_s
from metier.providers.openai_format import Reading, chat_body, embed_body, whole

__all__ = ["OpenAIProvider"]


class OpenAIProvider:
    """Streams chat completions and embeddings from OpenAI-compatible servers over one pool of connections."""

    def __init__(self, *, first_token_s: float = 120.0, between_s: float = 60.0, connect_s: float = 10.0) -> None:
        self._exchange = Exchange(first_token_s=first_token_s, between_s=between_s, connect_s=connect_s)

    async def stream(self, call: Call, deployment: Deployment) -> AsyncIterator[Chunk]:
        """Ask the deployment and yield what it answers; text that arrived together is yielded together."""
        exchange = self._exchange
        embed = call.operation == "embed"
        body = orjson.dumps(embed_body(call, deployment) if embed else chat_body(call, deployment))
        url = _address(deployment) + ("/embeddings" if embed else "/chat/completions")
        with exchange.guard(deployment):
            response = await exchange.post(url, body, _headers(deployment), deployment)
            async with response:
                if response.status >= 300:
                    raise _refusal(response, await exchange.refusal(response, deployment), deployment)
                if embed or response.content_type != "text/event-stream":
                    yield whole(await exchange.read(response, deployment), call, deployment)
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


def _address(deployment: Deployment) -> str:
    if deployment.base_url is None:
        raise ProviderUnavailable(f"deployment {deployment.id!r} has no address: give it a `base_url`")
    return deployment.base_url.rstrip("/")


def _headers(deployment: Deployment) -> dict[str, str]:
    headers = {"content-type": "application/json"}
    if deployment.api_key:
        headers["authorization"] = f"Bearer {deployment.api_key}"
    return headers


def _refusal(response: aiohttp.ClientResponse, data: bytes, deployment: Deployment) -> MetierError:
    try:
        error = orjson.loads(data)["error"]
        message = error["message"] if isinstance(error, dict) else str(error)
    except (orjson.JSONDecodeError, KeyError, TypeError):
        message = data.decode("utf-8", "replace")
    return failure(response.status, str(message), deployment, wait_s(response))
