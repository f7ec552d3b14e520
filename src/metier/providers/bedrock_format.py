"""What Amazon Bedrock's Converse is asked: a call as the body of a request, or the refusal of what it cannot say."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

import orjson

from metier.calls import (
    JSON,
    Call,
    Media,
    Message,
    Reasoning,
    Text,
    ToolCall,
)
from metier.catalog import Deployment
from metier.errors import Invalid, MetierError
from metier.providers.bedrock_thinking import thinking_fields

__all__ = ["converse_body"]

_CACHE_POINT: Final[dict[str, JSON]] = {"cachePoint": {"type": "default"}}
# The kind of block a medium becomes, and the word Bedrock has for its format.
_FORMATS: Mapping[str, tuple[str, str]] = {
    "image/png": ("image", "png"),
    "image/jpeg": ("image", "jpeg"),
    "image/gif": ("image", "gif"),
    "image/webp": ("image", "webp"),
    "application/pdf": ("document", "pdf"),
    "text/csv": ("document", "csv"),
    "text/html": ("document", "html"),
    "text/plain": ("document", "txt"),
    "text/markdown": ("document", "md"),
    "application/msword": ("document", "doc"),
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": ("document", "docx"),
    "application/vnd.ms-excel": ("document", "xls"),
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": ("document", "xlsx"),
    "audio/mpeg": ("audio", "mp3"),
    "audio/mp3": ("audio", "mp3"),
    "audio/wav": ("audio", "wav"),
    "audio/x-wav": ("audio", "wav"),
    "audio/flac": ("audio", "flac"),
    "audio/ogg": ("audio", "ogg"),
    "audio/opus": ("audio", "opus"),
    "audio/aac": ("audio", "aac"),
    "audio/mp4": ("audio", "m4a"),
    "audio/webm": ("audio", "webm"),
    "video/mp4": ("video", "mp4"),
    "video/webm": ("video", "webm"),
    "video/quicktime": ("video", "mov"),
}
# Where schemas stand inside a schema: under names of the author's, or by themselves.
_NAMED = frozenset({"properties", "$defs", "definitions"})
_NESTED = frozenset({"items", "anyOf", "allOf"})
# What the name of a document may not hold.
_NOT_NAME = re.compile(r"[^A-Za-z0-9 ()\[\]-]+| {2,}")
_LONGEST_NAME: Final = 150


def converse_body(call: Call, deployment: Deployment) -> dict[str, JSON]:
    """Write the request for an answer, or refuse by name what Converse has no word for."""
    asked = {
        "seed": call.seed is not None,
        "frequency_penalty": bool(call.frequency_penalty),
        "presence_penalty": bool(call.presence_penalty),
    }
    for param, wanted in asked.items():
        if wanted:
            raise _cannot(deployment, f"{param!r}", param, "leave it out, or choose another model")
    if call.parallel_tool_calls is False and call.tools:
        raise _cannot(deployment, "'parallel_tool_calls': false", "parallel_tool_calls", "leave it out")
    writing = _Writing(deployment)
    limit = deployment.max_output_tokens
    tokens = limit if call.max_output_tokens is None else min(call.max_output_tokens, limit)
    inference: dict[str, JSON] = {"maxTokens": tokens}
    if call.temperature is not None:
        inference["temperature"] = call.temperature
    if call.top_p is not None:
        inference["topP"] = call.top_p
    if call.stop:
        inference["stopSequences"] = list(call.stop)
    body: dict[str, JSON] = {"messages": writing.messages(call), "inferenceConfig": inference}
    system = [block for message in call.messages if message.role == "system" for block in writing.system(message)]
    if system:
        body["system"] = system
    tools = _tools(call, deployment)
    if tools:
        body["toolConfig"] = tools
    if call.output is not None:
        if not call.output.schema:
            raise _cannot(deployment, "an answer that is any JSON object", "response_format", "give a JSON Schema")
        schema: JSON = {"schema": orjson.dumps(_closed(dict(call.output.schema))).decode(), "name": call.output.name}
        body["outputConfig"] = {"textFormat": {"type": "json_schema", "structure": {"jsonSchema": schema}}}
    fields = thinking_fields(call, deployment, tokens)
    if call.top_k is not None:
        fields |= _top_k(call.top_k, deployment)
    if fields:
        body["additionalModelRequestFields"] = fields
    return body


class _Writing:
    """The messages of one request while they are written: documents need names that differ."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._names: set[str] = set()

    def system(self, message: Message) -> Iterable[JSON]:
        """Write a system message; those further down move to the top, where alone Converse has a place for them."""
        if any(isinstance(part, Media) for part in message.parts):
            raise _cannot(self._deployment, "media in a system message", "messages", "put them in a user message")
        yield from self._content(message)

    def messages(self, call: Call) -> list[JSON]:
        """Write the turns; neighbours of one role become one turn, as Converse wants them to alternate."""
        turns: list[tuple[str, list[JSON]]] = []
        for message in call.messages:
            if message.role == "system":
                continue
            role = "assistant" if message.role == "assistant" else "user"
            blocks = list(self._turn(message))
            if turns and turns[-1][0] == role:
                turns[-1][1].extend(blocks)
            else:
                turns.append((role, blocks))
        return [{"role": role, "content": blocks} for role, blocks in turns]

    def _turn(self, message: Message) -> Iterable[JSON]:
        if message.role == "tool":
            result: list[JSON] = list(self._content(message, cache=False))
            answer: dict[str, JSON] = {"toolUseId": message.tool_call_id or "", "content": result}
            if message.failed:
                answer["status"] = "error"
            yield {"toolResult": answer}
            if message.cache or any(part.cache for part in message.parts):
                yield _CACHE_POINT
            return
        if message.name is not None:
            raise _cannot(self._deployment, f"the name {message.name!r} of a message", "messages", "say it in the text")
        empty = True
        for block in (
            *map(_thought, message.reasoning),
            *self._content(message, cache=False if message.tool_calls else message.cache),
            *(self._tool_use(call) for call in message.tool_calls),
        ):
            empty = False
            yield block
        if empty:
            raise _cannot(self._deployment, "an empty message", "messages", "leave it out")
        if message.cache and message.tool_calls:
            yield _CACHE_POINT

    def _content(self, message: Message, cache: bool | None = None) -> Iterable[JSON]:
        in_result = message.role == "tool"
        for part in message.parts or ((Text(message.content),) if message.content else ()):
            if isinstance(part, Media):
                yield self._medium(part)
            elif part.text:
                yield {"text": part.text}
            if part.cache and not in_result:
                yield _CACHE_POINT
        if message.cache if cache is None else cache:
            yield _CACHE_POINT

    def _medium(self, medium: Media) -> JSON:
        kind, form = _FORMATS.get(medium.media_type.partition(";")[0].strip().lower(), ("", ""))
        if not kind:
            offer = ", ".join(_FORMATS)
            raise _cannot(self._deployment, f"media of type {medium.media_type!r}", "messages", f"send one of {offer}")
        block: dict[str, JSON] = {"format": form, "source": {"bytes": medium.data}}
        if kind == "document":
            block["name"] = self._name(medium.name)
        return {kind: block}

    def _name(self, told: str) -> str:
        stem = told.rpartition(".")[0] or told
        clean = " ".join(_NOT_NAME.sub(" ", stem).split())[:_LONGEST_NAME] or "document"
        name, number = clean, 1
        while name in self._names:
            number += 1
            name = f"{clean} {number}"
        self._names.add(name)
        return name

    def _tool_use(self, call: ToolCall) -> JSON:
        try:
            arguments = orjson.loads(call.arguments or "{}")
        except orjson.JSONDecodeError:
            arguments = None
        if not isinstance(arguments, dict):
            what = f"arguments of the tool call {call.id!r} that are no JSON object"
            raise _cannot(self._deployment, what, "messages", "give back what the model wrote")
        return {"toolUse": {"toolUseId": call.id, "name": call.name, "input": arguments}}


def _thought(thought: Reasoning) -> JSON:
    if thought.sealed:
        return {"reasoningContent": {"redactedContent": thought.signature}}
    text: dict[str, JSON] = {"text": thought.text}
    if thought.signature:
        text["signature"] = thought.signature
    return {"reasoningContent": {"reasoningText": text}}


def _tools(call: Call, deployment: Deployment) -> dict[str, JSON]:
    if call.tool_choice == "none":
        if any(message.tool_calls or message.role == "tool" for message in call.messages):
            way = 'with tool calls in the conversation Converse wants its tools: use "auto", or leave those turns out'
            raise _cannot(deployment, "'tool_choice': \"none\"", "tool_choice", way)
        return {}
    if not call.tools:
        return {}
    specs: list[JSON] = []
    for tool in call.tools:
        inputs: JSON = dict(tool.parameters)
        spec: dict[str, JSON] = {"name": tool.name, "inputSchema": {"json": _closed(inputs) if tool.strict else inputs}}
        if tool.description:
            spec["description"] = tool.description
        if tool.strict:
            spec["strict"] = True
        specs.append({"toolSpec": spec})
        if tool.cache:
            specs.append(_CACHE_POINT)
    found: dict[str, JSON] = {"tools": specs}
    if call.tool_choice is not None:
        words: Mapping[str, JSON] = {"auto": {"auto": {}}, "required": {"any": {}}}
        found["toolChoice"] = words.get(call.tool_choice, {"tool": {"name": call.tool_choice}})
    return found


def _closed(node: JSON) -> JSON:
    """Say of every object of a schema that it has no other properties, as Bedrock wants of those it enforces."""
    if isinstance(node, list):
        return [_closed(child) for child in node]
    if not isinstance(node, dict):
        return node
    closed: dict[str, JSON] = {}
    for name, child in node.items():
        if name in _NAMED and isinstance(child, dict):
            closed[name] = {key: _closed(schema) for key, schema in child.items()}
        else:
            closed[name] = _closed(child) if name in _NESTED else child
    if node.get("type") == "object" or "properties" in node:
        closed.setdefault("additionalProperties", False)
    return closed


def _top_k(top_k: int, deployment: Deployment) -> dict[str, JSON]:
    if "claude" in deployment.model_id:
        return {"top_k": top_k}
    if "amazon.nova" in deployment.model_id:
        return {"inferenceConfig": {"topK": top_k}}
    raise _cannot(deployment, "'top_k'", "top_k", "leave it out; Bedrock takes it for Claude and Nova")


def _cannot(deployment: Deployment, what: str, param: str, way: str) -> MetierError:
    return Invalid(f"deployment {deployment.id!r} (Amazon Bedrock) cannot take {what}: {way}", param=param)
