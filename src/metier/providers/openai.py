"""Every server that speaks OpenAI's API: OpenAI itself, vLLM, llama.cpp, Mistral, Azure and the many others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Final, TypeVar

import aiohttp
import orjson

from metier.calls import Call, Chunk
from metier.catalog import Deployment
from metier.errors import MetierError, ProviderTimeout, ProviderUnavailable
from metier.providers.base import failure
from metier.providers.openai_format import Reading, chat_body, embed_body, whole

__all__ = ["OpenAIProvider"]

_T = TypeVar("_T")
_LONGEST_REFUSAL: Final = 64 * 1024
_DRAIN_S: Final = 0.2


class OpenAIProvider:
    """Streams chat completions and embeddings from OpenAI-compatible servers over one pool of connections."""

    def __init__(self, *, first_token_s: float = 120.0, between_s: float = 60.0, connect_s: float = 10.0) -> None:
        self._first_token_s = first_token_s
        self._between_s = between_s
        self._connect_s = connect_s
        self._session: aiohttp.ClientSession | None = None

    async def stream(self, call: Call, deployment: Deployment) -> AsyncIterator[Chunk]:
        """Ask the deployment and yield what it answers; text that arrived together is yielded together."""
        embed = call.operation == "embed"
        path = "/embeddings" if embed else "/chat/completions"
        body = orjson.dumps(embed_body(call, deployment) if embed else chat_body(call, deployment))
        try:
            response = await self._within(self._first_token_s, self._post(path, body, deployment), deployment)
            async with response:
                if response.status >= 300:
                    raise await _refusal(response, deployment)
                if embed or response.content_type != "text/event-stream":
                    data = await self._within(self._first_token_s, response.read(), deployment)
                    yield whole(data, call, deployment)
                    return
                reading = Reading(deployment)
                with self._patience(response.content, deployment) as patience:
                    while data := await patience.next(reading.done):
                        chunk = reading.take(data)
                        if chunk is not None:
                            yield chunk
                chunk = reading.end()
                if chunk is not None:
                    yield chunk
        except TimeoutError as error:
            raise ProviderTimeout(
                f"deployment {deployment.id!r} could not be reached in {self._connect_s:g} s or did not end its "
                f"answer in {deployment.timeout_s:g} s; try again, or raise its `timeout_s` in metier.yaml"
            ) from error
        except aiohttp.ClientError as error:
            raise ProviderUnavailable(
                f"the exchange with deployment {deployment.id!r} at {deployment.base_url!r} broke off "
                f"({type(error).__name__}); check that the server is up and reachable, then try again"
            ) from error

    async def close(self) -> None:
        """Close the connections that are kept open between calls."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _post(self, path: str, body: bytes, deployment: Deployment) -> Awaitable[aiohttp.ClientResponse]:
        if deployment.base_url is None:
            raise ProviderUnavailable(f"deployment {deployment.id!r} has no address: give it a `base_url`")
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30),
                cookie_jar=aiohttp.DummyCookieJar(),
                # A compressed stream arrives in lumps and costs time on both sides.
                headers={"accept-encoding": "identity", "user-agent": "metier"},
            )
        headers = {"content-type": "application/json"}
        if deployment.api_key:
            headers["authorization"] = f"Bearer {deployment.api_key}"
        return self._session.post(
            deployment.base_url.rstrip("/") + path,
            data=body,
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=deployment.timeout_s, sock_connect=self._connect_s),
            allow_redirects=False,
        )

    def _patience(self, content: aiohttp.StreamReader, deployment: Deployment) -> _Patience:
        return _Patience(content, deployment, self._first_token_s, self._between_s)

    async def _within(self, limit_s: float, waiting: Awaitable[_T], deployment: Deployment) -> _T:
        timer = asyncio.timeout(limit_s)
        try:
            async with timer:
                return await waiting
        except TimeoutError as error:
            if not timer.expired():
                raise
            raise _silent(deployment, limit_s) from error


class _Patience:
    """Reads a body piece by piece and ends a silence that lasts too long, with one timer for the whole body."""

    def __init__(self, content: aiohttp.StreamReader, deployment: Deployment, first_s: float, between_s: float) -> None:
        self._content = content
        self._deployment = deployment
        self._limit_s = first_s
        self._between_s = between_s
        self._loop = asyncio.get_running_loop()
        self._since: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> _Patience:
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()

    async def next(self, done: bool) -> bytes:
        """Give what has arrived, or wait for it; empty at the end of the body."""
        content = self._content
        while not content.at_eof():
            data = content.read_nowait(-1)
            if data:
                break
            if done:
                # The end of the body usually follows [DONE] at once; seen, the connection can be kept.
                await _drain(content)
                return b""
            self._since = self._loop.time()
            if self._timer is None:
                self._timer = self._loop.call_later(self._limit_s, self._check)
            data = await content.readany()
            self._since = None
            if data:
                break
        else:
            return b""
        if self._limit_s != self._between_s:
            self._limit_s = self._between_s
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        return data

    def _check(self) -> None:
        # While whoever listens is slow, nobody waits for the provider.
        waited = 0.0 if self._since is None else self._loop.time() - self._since
        left = self._limit_s - waited
        if left > 0:
            self._timer = self._loop.call_later(left, self._check)
        else:
            self._content.set_exception(_silent(self._deployment, self._limit_s))


def _silent(deployment: Deployment, limit_s: float) -> ProviderTimeout:
    return ProviderTimeout(
        f"deployment {deployment.id!r} sent nothing for {limit_s:g} s; try again, "
        "or give it more time if the model is known to be slow"
    )


async def _drain(content: aiohttp.StreamReader) -> None:
    try:
        async with asyncio.timeout(_DRAIN_S):
            await content.readany()
    except TimeoutError:
        return


async def _refusal(response: aiohttp.ClientResponse, deployment: Deployment) -> MetierError:
    data = await response.content.read(_LONGEST_REFUSAL)
    wait = response.headers.get("retry-after", "")
    wait_s = float(wait) if wait.isascii() and wait.isdecimal() else None
    try:
        error = orjson.loads(data)["error"]
        message = error["message"] if isinstance(error, dict) else str(error)
    except (orjson.JSONDecodeError, KeyError, TypeError):
        message = data.decode("utf-8", "replace")
    return failure(response.status, str(message), deployment, wait_s)
