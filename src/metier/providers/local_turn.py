"""Tool calls with models that only write text: one JSON object a turn, either an answer or a call of one tool."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace

import orjson

from metier.calls import (
    JSON,
    Call,
    Chunk,
    FinishReason,
    Media,
    Message,
    OutputSchema,
    Tool,
    ToolCallDelta,
    Usage,
    new_id,
)
from metier.catalog import Deployment
from metier.errors import Invalid

__all__ = ["Turn", "ask", "check", "steady"]

_ANSWER = re.compile(r'\s*\{\s*"answer"\s*:\s*"')
# The longest piece of a JSON string that can be decoded now: no half escape, no half of a surrogate pair.
_DECODABLE = re.compile(
    r'(?:[^"\\]|\\[^u]|\\u(?![dD][89abAB])[0-9a-fA-F]{4}|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})*'
)


def check(call: Call, deployment: Deployment) -> None:
    """Refuse by name what the models of this machine cannot take: media, efforts, further operations."""
    if call.operation not in ("chat", "embed"):
        raise _cannot(deployment, f"the operation {call.operation!r}", "model", "choose a model that is made for it")
    if call.dimensions is not None:
        raise _cannot(deployment, "dimensions", "dimensions", "its vectors have one length, leave it out")
    if call.effort not in (None, "none"):
        raise _cannot(deployment, f"the effort {call.effort!r}", "reasoning_effort", "its models do not reason")
    if call.thinking_tokens:
        raise _cannot(deployment, "thinking tokens", "thinking", "its models do not reason")
    for index, message in enumerate(call.messages):
        for part in message.parts:
            if isinstance(part, Media):
                what = f"media of type {part.media_type!r}"
                raise _cannot(deployment, what, f"messages[{index}].content", "its models read text alone")


def steady(call: Call) -> Call:
    """Have a step that names no temperature answered without chance: what small models write is best so."""
    return replace(call, temperature=0.0) if call.origin is not None and call.temperature is None else call


def _cannot(deployment: Deployment, what: str, param: str, why: str) -> Invalid:
    return Invalid(f"deployment {deployment.id!r}, on this machine, cannot take {what}: {why}", param=param)


def ask(call: Call) -> Call:
    """Rewrite a call that offers tools as one that asks for a JSON object, which a grammar then enforces."""
    tools = _offered(call)
    parameters: dict[str, JSON] = {tool.name: _local(dict(tool.parameters), tool.name) for tool in tools}
    forms: list[JSON] = [_form("tool", {"const": t.name}, "arguments", {"$ref": f"#/$defs/{t.name}"}) for t in tools]
    if call.tool_choice not in ("required", *(tool.name for tool in call.tools)):
        answer: JSON = {"type": "string"} if call.output is None else {"$ref": "#/$defs/answer_"}
        if call.output is not None:
            parameters["answer_"] = _local(dict(call.output.schema) or {"type": "object"}, "answer_")
        forms.append(_form("answer", answer))
    schema: dict[str, JSON] = {"anyOf": forms, "$defs": parameters}
    return replace(
        call, messages=_messages(call, tools), tools=(), tool_choice=None, output=OutputSchema("turn", schema)
    )


class Turn:
    """Reads what the model writes under such a grammar, and gives it back as text and tool calls."""

    def __init__(self, call: Call) -> None:
        self._plain = call.output is None
        self._written = ""
        self._at: int | None = None
        self._finish: FinishReason | None = None
        self._usage: Usage | None = None

    def feed(self, chunk: Chunk) -> Chunk | None:
        """Take a chunk from the model and give what of the answer can be shown already."""
        self._written += chunk.text
        self._finish = chunk.finish or self._finish
        self._usage = chunk.usage or self._usage
        if not self._plain:
            return None
        if self._at is None:
            start = _ANSWER.match(self._written)
            if start is None:
                return None
            self._at = start.end()
        ready = _DECODABLE.match(self._written, self._at)
        if ready is None or not ready.group():
            return None
        self._at = ready.end()
        return Chunk(text=json.loads(f'"{ready.group()}"', strict=False))

    def end(self) -> Iterator[Chunk]:
        """Give what is left: a tool call or an answer of its own form, then how it finished and the usage."""
        finish = self._finish or "stop"
        if self._at is None:
            try:
                turn = orjson.loads(self._written)
            except orjson.JSONDecodeError:
                turn = {}
            if "tool" in turn:
                arguments = orjson.dumps(turn.get("arguments", {})).decode()
                yield Chunk(tool_calls=(ToolCallDelta(0, new_id("tool"), turn["tool"], arguments),))
                finish = "tool_calls"
            elif "answer" in turn:
                yield Chunk(text=orjson.dumps(turn["answer"]).decode())
        yield Chunk(finish=finish, usage=self._usage)


def _offered(call: Call) -> tuple[Tool, ...]:
    named = tuple(tool for tool in call.tools if tool.name == call.tool_choice)
    return named or call.tools


def _form(*parts: JSON) -> dict[str, JSON]:
    keys, values = parts[0::2], parts[1::2]
    properties: dict[str, JSON] = {str(key): value for key, value in zip(keys, values, strict=True)}
    return {"type": "object", "properties": properties, "required": list(keys), "additionalProperties": False}


def _local(schema: JSON, name: str) -> JSON:
    """Point the references of a schema to where it now stands within another one."""
    if isinstance(schema, list):
        return [_local(item, name) for item in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {key: _local(value, name) for key, value in schema.items()}
    target = moved.get("$ref")
    if isinstance(target, str) and target.startswith("#"):
        moved["$ref"] = f"#/$defs/{name}{target[1:]}"
    return moved


def _messages(call: Call, tools: tuple[Tool, ...]) -> tuple[Message, ...]:
    names = {asked.id: asked.name for message in call.messages for asked in message.tool_calls}
    told = [_told(message, names) for message in call.messages]
    # First of all and always the same, so that the server finds this prefix in its cache.
    start = told.pop(0).text if told and told[0].role == "system" else ""
    return (Message("system", f"{start}\n\n{_instructions(tools)}".strip()), *told)


def _told(message: Message, names: dict[str, str]) -> Message:
    if message.role == "tool":
        name = names.get(message.tool_call_id or "", message.name or "tool")
        return Message("user", f"Result of the tool {name}:\n{message.text}")
    if message.tool_calls:
        asked = message.tool_calls[0]
        return Message("assistant", f'{{"tool": {json.dumps(asked.name)}, "arguments": {asked.arguments}}}')
    return message


def _instructions(tools: tuple[Tool, ...]) -> str:
    lines = [f"- {t.name}: {t.description} Arguments: {orjson.dumps(dict(t.parameters)).decode()}" for t in tools]
    return (
        "You have these tools:\n" + "\n".join(lines) + "\n"
        "Write one JSON object and nothing else.\n"
        'If a tool can give what is asked, or do it, and its result is not here yet, call it: {"tool": its name, '
        '"arguments": {…}}.\n'
        'Only if its result is here already, or no tool fits, answer: {"answer": your answer}. Never invent a result.'
    )
