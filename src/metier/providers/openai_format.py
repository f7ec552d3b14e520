"""What OpenAI's API says: the bodies of requests on the way out, whole or streamed answers on the way in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from metier.calls import JSON, Call, Chunk, FinishReason, Message, ToolCallDelta, Usage
from metier.catalog import Deployment
from metier.errors import MetierError, ProviderUnavailable
from metier.providers.base import failure
from metier.providers.sse import Events

__all__ = ["Reading", "chat_body", "embed_body", "whole"]

_LONGEST_EVENT: Final = 16 * 1024 * 1024
_FINISHES: Mapping[str, FinishReason] = {
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}
# These hosts refuse `max_tokens` for their newer models; most other servers know nothing else.
_NEW_LIMIT_HOSTS = ("api.openai.com", ".openai.azure.com")


class Reading:
    """One streamed answer while it is read."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._events = Events()
        self._finished = False
        self._tools = 0
        self.done = False
        """True once [DONE] was seen."""

    def take(self, data: bytes) -> Chunk | None:
        """Take the next bytes and give what they complete, as one chunk."""
        events = self._events.feed(data)
        if self._events.waiting() > _LONGEST_EVENT:
            raise _misfit(self._deployment, f"sent an event longer than {_LONGEST_EVENT} bytes")
        return self._chunk(events) if events else None

    def end(self) -> Chunk | None:
        """Give what was still held, or say that the answer broke off."""
        chunk = self._chunk(self._events.end())
        if self._finished:
            return chunk
        if self.done:
            return Chunk(finish="stop") if chunk is None else chunk
        raise _misfit(self._deployment, "ended its stream before the answer was finished")

    def _chunk(self, events: list[bytes]) -> Chunk | None:
        if b"[DONE]" in events:
            self.done = True
            events = events[: events.index(b"[DONE]")]
        try:
            return self._joined(map(orjson.loads, events))
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise _misfit(self._deployment, "sent an event that is no chat completion chunk") from error

    def _joined(self, parts: Iterable[Any]) -> Chunk | None:
        texts: list[str] = []
        tools: dict[int, ToolCallDelta] = {}
        finish: FinishReason | None = None
        usage: Usage | None = None
        for part in parts:
            if part.get("error"):
                raise _reported(part["error"], self._deployment)
            if part.get("usage"):
                usage = _usage(part["usage"])
            if not part["choices"]:
                continue
            choice = part["choices"][0]
            delta = choice.get("delta")
            if delta:
                text = delta.get("content")
                if text:
                    texts.append(text if type(text) is str else _text(text))
                if text is None or len(delta) > 1:
                    texts.append(delta.get("refusal") or "")
                    for call in delta.get("tool_calls") or ():
                        self._tool(call, tools)
            if choice.get("finish_reason"):
                finish = _FINISHES.get(choice["finish_reason"], "stop")
                self._finished = True
        said = "".join(texts)
        if not (said or tools or finish or usage):
            return None
        return Chunk(said, tuple(tools.values()), finish, usage)

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


def chat_body(call: Call, deployment: Deployment) -> dict[str, JSON]:
    """Write the request for a chat completion, always streamed and never above the deployment's limit."""
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


def embed_body(call: Call, deployment: Deployment) -> dict[str, JSON]:
    """Write the request for embeddings."""
    return {"model": deployment.model_id, "input": list(call.inputs), "encoding_format": "float"}


def whole(data: bytes, call: Call, deployment: Deployment) -> Chunk:
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


def _reported(error: Any, deployment: Deployment) -> MetierError:
    """Classify an error object that came inside an answer of status 200."""
    fields = error if isinstance(error, dict) else {"message": error}
    code = fields.get("status") or fields.get("code")
    status = code if isinstance(code, int) and 400 <= code <= 599 else 502
    return failure(status, str(fields.get("message") or "no message"), deployment)


def _misfit(deployment: Deployment, what: str) -> ProviderUnavailable:
    return ProviderUnavailable(f"deployment {deployment.id!r} {what}; try again, or check what serves that address")
