"""Anthropic's Messages API, at Anthropic itself or wherever the same API is served."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import orjson

from metier.calls import Call, Chunk
from metier.catalog import Deployment
from metier.errors import MetierError, ProviderUnavailable
from metier.providers.anthropic_format import answer_tool, count_body, message_body
from metier.providers.anthropic_stream import Reading, whole
from metier.providers.base import failure
from metier.providers.exchange import Exchange, wait_s

__all__ = ["AnthropicProvider"]

_HOME = "https://api.anthropic.com/v1"
_VERSION = "2023-06-01"


class AnthropicProvider:
    """Streams messages from Anthropic over one pool of connections, and asks it to count their tokens."""

    def __init__(self, *, first_token_s: float = 120.0, between_s: float = 60.0, connect_s: float = 10.0) -> None:
        self._exchange = Exchange(first_token_s=first_token_s, between_s=between_s, connect_s=connect_s)

    async def stream(self, call: Call, deployment: Deployment) -> AsyncIterator[Chunk]:
        """Ask the deployment and yield what it answers; what arrived together is yielded together."""
        exchange = self._exchange
        body, tool = orjson.dumps(message_body(call, deployment)), answer_tool(call, deployment)
        with exchange.guard(deployment):
            response = await exchange.post(_address(deployment, "messages"), body, _headers(deployment), deployment)
            async with response:
                if response.status >= 300:
                    raise _refusal(response, await exchange.refusal(response, deployment), deployment)
                if response.content_type != "text/event-stream":
                    for chunk in whole(await exchange.read(response, deployment), deployment, tool):
                        yield chunk
                    return
                reading = Reading(deployment, tool)
                with exchange.patience(response, deployment) as patience:
                    while data := await patience.next(reading.done):
                        for chunk in reading.take(data):
                            yield chunk
                for chunk in reading.end():
                    yield chunk

    async def count(self, call: Call, deployment: Deployment) -> int:
        """Ask how many input tokens the call has, by the deployment's own count."""
        exchange = self._exchange
        body = orjson.dumps(count_body(call, deployment))
        with exchange.guard(deployment):
            url = _address(deployment, "messages/count_tokens")
            response = await exchange.post(url, body, _headers(deployment), deployment)
            async with response:
                if response.status >= 300:
                    raise _refusal(response, await exchange.refusal(response, deployment), deployment)
                data = await exchange.read(response, deployment)
        try:
            return int(orjson.loads(data)["input_tokens"])
        except (ValueError, KeyError, TypeError) as error:
            raise ProviderUnavailable(
                f"deployment {deployment.id!r} sent a count that does not fit Anthropic's format; "
                "try again, or check what serves that address"
            ) from error

    async def close(self) -> None:
        """Close the connections that are kept open between calls."""
        await self._exchange.close()


def _address(deployment: Deployment, path: str) -> str:
    """Anthropic's own client writes its base without the version, ours with: both are understood."""
    base = (deployment.base_url or _HOME).rstrip("/")
    return f"{base}/{path}" if base.endswith("/v1") else f"{base}/v1/{path}"


def _headers(deployment: Deployment) -> dict[str, str]:
    headers = {"content-type": "application/json", "anthropic-version": deployment.options.get("version", _VERSION)}
    if deployment.api_key:
        headers["x-api-key"] = deployment.api_key
    if deployment.options.get("beta"):
        headers["anthropic-beta"] = deployment.options["beta"]
    return headers


def _refusal(response: aiohttp.ClientResponse, data: bytes, deployment: Deployment) -> MetierError:
    try:
        message = orjson.loads(data)["error"]["message"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        message = data.decode("utf-8", "replace")
    return failure(response.status, str(message), deployment, wait_s(response))
