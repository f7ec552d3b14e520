"""Every server that speaks OpenAI's API: OpenAI itself, vLLM, llama.cpp, Mistral, Azure and the many others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import aiohttp
import orjson

from metier.calls import JSON, Call, Chunk, FinishReason, Message, ToolCallDelta, Usage
from metier.catalog import Deployment
from metier.errors import MetierError, ProviderTimeout, ProviderUnavailable
from metier.providers.base import failure
from metier.providers.sse import Events

__all__ = ["OpenAIProvider"]

_T = TypeVar("_T")
_LONGEST_EVENT: Final = 16 * 1024 * 1024
_LONGEST_REFUSAL: Final = 64 * 1024
_DRAIN_S: Final = 0.2
_FINISHES: Mapping[str, FinishReason] = {
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}
# These hosts refuse `max_tokens` for their newer models; most other servers know nothing else.
_NEW_LIMIT_HOSTS = ("api.openai.com", ".openai.azure.com")


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
        body = orjson.dumps(_embed_body(call, deployment) if embed else _chat_body(call, deployment))
        try:
            response = await self._within(self._first_token_s, self._post(path, body, deployment), deployment)
            async with response:
                if response.status >= 300:
                    raise await _refusal(response, deployment)
                if embed or response.content_type != "text/event-stream":
                    whole = await self._within(self._first_token_s, response.read(), deployment)
                    yield _whole(whole, call, deployment)
                    return
                reading = _Reading(deployment)
                async for data in self._reads(response.content, reading, deployment):
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

    async def _reads(
        self, content: aiohttp.StreamReader, reading: _Reading, deployment: Deployment
    ) -> AsyncIterator[bytes]:
        limit_s = self._first_token_s
        while not content.at_eof():
            data = content.read_nowait(-1)
            if not data:
                if reading.done:
                    # The end of the body usually follows [DONE] at once; seen, the connection can be kept.
                    await _drain(content)
                    return
                data = await self._within(limit_s, content.readany(), deployment)
            limit_s = self._between_s
            if data:
                yield data

    async def _within(self, limit_s: float, waiting: Awaitable[_T], deployment: Deployment) -> _T:
        timer = asyncio.timeout(limit_s)
        try:
            async with timer:
                return await waiting
        except TimeoutError as error:
            if not timer.expired():
                raise
            raise ProviderTimeout(
                f"deployment {deployment.id!r} sent nothing for {limit_s:g} s; try again, "
                "or give it more time if the model is known to be slow"
            ) from error


class _Reading:
    """One streamed answer while it is read."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._events = Events()
        self._finished = False
        self._tools = 0
        self.done = False

    def take(self, data: bytes) -> Chunk | None:
        events = self._events.feed(data)
        if self._events.waiting() > _LONGEST_EVENT:
            raise _misfit(self._deployment, f"sent an event longer than {_LONGEST_EVENT} bytes")
        return self._chunk(events) if events else None

    def end(self) -> Chunk | None:
        chunk = self._chunk(self._events.end())
        if self._finished:
            return chunk
        if self.done:
            return Chunk(finish="stop") if chunk is None else chunk
        raise _misfit(self._deployment, "ended its stream before the answer was finished")

    def _chunk(self, events: list[bytes]) -> Chunk | None:
        texts: list[str] = []
        tools: dict[int, ToolCallDelta] = {}
        finish: FinishReason | None = None
        usage: Usage | None = None
        for event in events:
            if event[:6] == b"[DONE]":
                self.done = True
                break
            try:
                part = orjson.loads(event)
                if part.get("error"):
                    raise _reported(part["error"], self._deployment)
                if part.get("usage"):
                    usage = _usage(part["usage"])
                for choice in part["choices"][:1]:
                    delta = choice.get("delta") or {}
                    text = delta.get("content")
                    if text:
                        texts.append(text if type(text) is str else _text(text))
                    if delta.get("refusal"):
                        texts.append(delta["refusal"])
                    for call in delta.get("tool_calls") or ():
                        self._tool(call, tools)
                    if choice.get("finish_reason"):
                        finish = _FINISHES.get(choice["finish_reason"], "stop")
                        self._finished = True
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise _misfit(self._deployment, "sent an event that is no chat completion chunk") from error
        if not (texts or tools or finish or usage):
            return None
        return Chunk("".join(texts), tuple(tools.values()), finish, usage)

    def _tool(self, call: Mapping[str, Any], tools: dict[int, ToolCallDelta]) -> None:
        function = call.get("function") or {}
        index = call.get("index")
        if index is None:
            # Some servers send whole tool calls without numbering them.
            index = self._tools if call.get("id") else max(self._tools - 1, 0)
        self._tools = max(self._tools, index + 1)
        before = tools.get(index, ToolCallDelta(index))
        tools[index] = ToolCallDelta(
            index,
            before.id or call.get("id"),
            before.name or function.get("name"),
            before.arguments + (function.get("arguments") or ""),
        )


def _chat_body(call: Call, deployment: Deployment) -> dict[str, JSON]:
    limit = deployment.max_output_tokens
    asked = call.max_output_tokens
    body: dict[str, JSON] = {
        "model": deployment.model_id,
        "messages": [_message(message) for message in call.messages],
        "stream": True,
        "stream_options": {"include_usage": True},
        _limit_name(deployment): limit if asked is None else min(asked, limit),
    }
    if call.temperature is not None:
        body["temperature"] = call.temperature
    if call.top_p is not None:
        body["top_p"] = call.top_p
    if call.stop:
        body["stop"] = list(call.stop)
    if call.seed is not None:
        body["seed"] = call.seed
    if call.tools:
        body["tools"] = [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": dict(tool.parameters),
                    **({"strict": True} if tool.strict else {}),
                },
            }
            for tool in call.tools
        ]
        if call.tool_choice in ("auto", "none", "required"):
            body["tool_choice"] = call.tool_choice
        elif call.tool_choice is not None:
            body["tool_choice"] = {"type": "function", "function": {"name": call.tool_choice}}
    if call.output is not None:
        body["response_format"] = (
            {
                "type": "json_schema",
                "json_schema": {
                    "name": call.output.name,
                    "schema": dict(call.output.schema),
                    "strict": call.output.strict,
                },
            }
            if call.output.schema
            else {"type": "json_object"}
        )
    return body


def _message(message: Message) -> dict[str, JSON]:
    body: dict[str, JSON] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        body["content"] = message.content or None
        body["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        body["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        body["name"] = message.name
    return body


def _limit_name(deployment: Deployment) -> str:
    host = urlsplit(deployment.base_url or "").hostname or ""
    return "max_completion_tokens" if host.endswith(_NEW_LIMIT_HOSTS) else "max_tokens"


def _embed_body(call: Call, deployment: Deployment) -> dict[str, JSON]:
    return {"model": deployment.model_id, "input": list(call.inputs), "encoding_format": "float"}


def _whole(data: bytes, call: Call, deployment: Deployment) -> Chunk:
    """Read an answer that came in one piece: embeddings, or a server that does not stream."""
    try:
        body = orjson.loads(data)
        if body.get("error"):
            raise _reported(body["error"], deployment)
        usage = _usage(body["usage"]) if body.get("usage") else None
        if call.operation == "embed":
            rows = sorted(body["data"], key=lambda row: row.get("index", 0))
            vectors = tuple(tuple(map(float, row["embedding"])) for row in rows)
            if len(vectors) != len(call.inputs):
                raise _misfit(deployment, f"sent {len(vectors)} vectors for {len(call.inputs)} texts")
            return Chunk(vectors=vectors, usage=usage)
        choice = body["choices"][0]
        message = choice["message"]
        tools = tuple(
            ToolCallDelta(index, tool["id"], tool["function"]["name"], tool["function"]["arguments"])
            for index, tool in enumerate(message.get("tool_calls") or ())
        )
        text = _text(message.get("content") or message.get("refusal") or "")
        return Chunk(text, tools, _FINISHES.get(choice.get("finish_reason") or "stop", "stop"), usage)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise _misfit(deployment, "sent an answer that does not fit OpenAI's format") from error


def _text(content: Any) -> str:
    """Join the text parts of a content; parts of other kinds (thinking, audio) stay behind."""
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part.get("type") in ("text", "output_text"))


def _usage(usage: Mapping[str, Any]) -> Usage:
    details = usage.get("prompt_tokens_details") or {}
    return Usage(
        input_tokens=int(usage.get("prompt_tokens") or 0),
        output_tokens=int(usage.get("completion_tokens") or 0),
        cached_tokens=int(details.get("cached_tokens") or 0),
    )


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


def _reported(error: Any, deployment: Deployment) -> MetierError:
    """Classify an error object that came inside an answer of status 200."""
    fields = error if isinstance(error, dict) else {"message": error}
    code = fields.get("status") or fields.get("code")
    status = code if isinstance(code, int) and 400 <= code <= 599 else 502
    return failure(status, str(fields.get("message") or "no message"), deployment)


def _misfit(deployment: Deployment, what: str) -> ProviderUnavailable:
    return ProviderUnavailable(f"deployment {deployment.id!r} {what}; try again, or check what serves that address")


async def _drain(content: aiohttp.StreamReader) -> None:
    try:
        async with asyncio.timeout(_DRAIN_S):
            await content.readany()
    except TimeoutError:
        return
