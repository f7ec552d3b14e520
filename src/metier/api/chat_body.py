"""The body of a chat completion request: checked once here, trusted everywhere below."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from metier.api.media_parts import cache_mark, joined, parts_of
from metier.api.parsing import fit, load, refuse_unknown, shallow
from metier.calls import (
    JSON,
    Call,
    ConversationId,
    Effort,
    Message,
    OutputSchema,
    Part,
    Principal,
    Reasoning,
    Tool,
    ToolCall,
)
from metier.errors import Invalid

__all__ = ["IGNORED", "NEUTRAL", "ChatRequest", "parse"]

IGNORED: Final = frozenset(
    {
        "metadata",
        "prediction",
        "prompt_cache_retention",
        "service_tier",
    }
)
"""Parameters accepted without effect: leaving them out of the call changes no promise made to the client."""

NEUTRAL: Final[Mapping[str, tuple[JSON, ...]]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "functions": ([],),
    "store": (False,),
}
"""Parameters accepted only with the value that asks for nothing; any other value is refused by name."""

_TEXTERS = frozenset({"system", "developer", "user", "assistant"})
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_Text = Annotated[str, StringConstraints(max_length=8_000_000)]
_Short = Annotated[str, StringConstraints(max_length=512)]
_Penalty = Annotated[float, Field(ge=-2, le=2)]
_Count = Annotated[int, Field(gt=0, le=10_000_000)]


class _Shape(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, protected_namespaces=())


class _Function(_Shape):
    name: str
    arguments: str


class _ToolCall(_Shape):
    id: Annotated[str, StringConstraints(min_length=1)]
    type: Literal["function"] = "function"
    function: _Function
    extra_content: dict[str, Any] | None = None


class _Message(_Shape):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: _Text | list[dict[str, Any]] | None = None
    name: str | None = None
    tool_calls: list[_ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: _Text | None = None
    thinking_blocks: list[dict[str, Any]] | None = None
    cache_control: dict[str, Any] | None = None


class _FunctionOffer(_Shape):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class _Tool(_Shape):
    type: Literal["function"]
    function: _FunctionOffer
    cache_control: dict[str, Any] | None = None


class _JsonSchema(_Shape):
    name: str
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None


class _ResponseFormat(_Shape):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _JsonSchema | None = None


class _StreamOptions(_Shape):
    include_usage: bool | None = None


class _Thinking(_Shape):
    type: Literal["enabled", "disabled"]
    budget_tokens: Annotated[int, Field(ge=0, le=10_000_000)] | None = None


class _Body(_Shape):
    model: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    messages: Annotated[list[_Message], Field(min_length=1, max_length=4096)]
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    max_tokens: _Count | None = None
    max_completion_tokens: _Count | None = None
    stop: str | list[str] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    tools: Annotated[list[_Tool], Field(max_length=128)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    response_format: _ResponseFormat | None = None
    parallel_tool_calls: bool | None = None
    frequency_penalty: _Penalty | None = None
    presence_penalty: _Penalty | None = None
    top_k: _Count | None = None
    reasoning_effort: Effort | None = None
    thinking: _Thinking | None = None
    prompt_cache_key: _Short | None = None
    safety_identifier: _Short | None = None
    user: _Short | None = None


_KNOWN = frozenset(_Body.model_fields)


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What a client asks, and how it wants to be answered."""

    call: Call
    stream: bool
    include_usage: bool
    """True when the stream shall end with a chunk that carries the usage."""


def parse(data: bytes, principal: Principal, conversation: ConversationId | None = None) -> ChatRequest:
    """Read a request body, or say which parameter does not fit and what would."""
    raw = load(data)
    if not raw.keys() <= _KNOWN:
        refuse_unknown(raw, _KNOWN, IGNORED, NEUTRAL)
    body = fit(_Body, raw)
    tools = tuple(_tool(tool, index) for index, tool in enumerate(body.tools or ()))
    call = Call(
        principal=principal,
        model=body.model,
        messages=tuple([_message(message, index) for index, message in enumerate(body.messages)]),
        tools=tools,
        tool_choice=None if body.tool_choice is None else _tool_choice(body.tool_choice, tools),
        output=None if body.response_format is None else _output(body.response_format),
        temperature=body.temperature,
        top_p=body.top_p,
        max_output_tokens=body.max_completion_tokens or body.max_tokens,
        stop=() if body.stop is None else _stop(body.stop),
        seed=body.seed,
        top_k=body.top_k,
        frequency_penalty=body.frequency_penalty,
        presence_penalty=body.presence_penalty,
        parallel_tool_calls=body.parallel_tool_calls,
        effort=body.reasoning_effort,
        thinking_tokens=None if body.thinking is None else _thinking(body.thinking),
        cache_key=body.prompt_cache_key or None,
        end_user=body.safety_identifier or body.user or None,
        whole=not body.stream,
        conversation=conversation,
    )
    options = body.stream_options
    return ChatRequest(call, bool(body.stream), bool(options and options.include_usage))


def _message(message: _Message, index: int) -> Message:
    content = message.content
    if type(content) is str and message.role in _TEXTERS and len(message.model_fields_set) == 2:
        return Message("system" if message.role == "developer" else message.role, content)
    where = f"messages[{index}]"
    parts: tuple[Part, ...] = ()
    if content is None:
        if not message.tool_calls:
            raise Invalid(f"{where} has neither content nor tool_calls: give it a text", param=f"{where}.content")
        content = ""
    elif not isinstance(content, str):
        parts = parts_of(content, f"{where}.content")
        content = joined(parts)
        if content is None:
            content = ""
        else:
            parts = ()
    if message.role == "tool" and not message.tool_call_id:
        param = f"{where}.tool_call_id"
        raise Invalid(f"{where} answers a tool call but does not say which: give its tool_call_id", param=param)
    mark = message.cache_control
    return Message(
        role="system" if message.role == "developer" else message.role,
        content=content,
        tool_calls=() if message.tool_calls is None else _tool_calls(message.tool_calls, where),
        tool_call_id=message.tool_call_id,
        name=message.name,
        parts=parts,
        reasoning=_reasoning(message, where) if message.role == "assistant" else (),
        cache=mark is not None and cache_mark(mark, f"{where}.cache_control"),
    )


def _tool_calls(calls: list[_ToolCall], where: str) -> tuple[ToolCall, ...]:
    found: list[ToolCall] = []
    for index, call in enumerate(calls):
        google = (call.extra_content or {}).get("google")
        signature = google.get("thought_signature") if isinstance(google, dict) else None
        if signature is not None and not isinstance(signature, str):
            param = f"{where}.tool_calls[{index}].extra_content.google.thought_signature"
            raise Invalid(f"{param} is no string: send back what came with the tool call", param=param)
        found.append(ToolCall(call.id, call.function.name, call.function.arguments, signature or ""))
    return tuple(found)


def _reasoning(message: _Message, where: str) -> tuple[Reasoning, ...]:
    """Read the thoughts of a former turn: the blocks with their proofs, or else the text alone."""
    if not message.thinking_blocks:
        return (Reasoning(message.reasoning_content),) if message.reasoning_content else ()
    found: list[Reasoning] = []
    for index, block in enumerate(message.thinking_blocks):
        kind, sealed = block.get("type"), block.get("data")
        text, signature = block.get("thinking", ""), block.get("signature") or ""
        if kind == "redacted_thinking" and isinstance(sealed, str):
            found.append(Reasoning(signature=sealed, sealed=True))
        elif kind == "thinking" and isinstance(text, str) and isinstance(signature, str):
            found.append(Reasoning(text, signature))
        else:
            param = f"{where}.thinking_blocks[{index}]"
            raise Invalid(f"{param} is no block of thinking: send back what came with the answer", param=param)
    return tuple(found)


def _thinking(wanted: _Thinking) -> int | None:
    if wanted.type == "disabled":
        return 0
    if wanted.budget_tokens is None:
        raise Invalid("thinking of type 'enabled' needs budget_tokens: say how many", param="thinking.budget_tokens")
    return wanted.budget_tokens


def _tool(tool: _Tool, index: int) -> Tool:
    function, where = tool.function, f"tools[{index}].function"
    _named(function.name, f"{where}.name")
    parameters = function.parameters or {"type": "object", "properties": {}}
    shallow(parameters, f"{where}.parameters")
    cache = cache_mark(tool.cache_control, f"tools[{index}].cache_control")
    return Tool(function.name, function.description or "", parameters, bool(function.strict), cache)


def _tool_choice(choice: str | dict[str, Any], tools: tuple[Tool, ...]) -> str:
    if isinstance(choice, str):
        if choice not in ("auto", "none", "required"):
            raise Invalid(
                f"tool_choice is {choice[:60]!r}: use 'auto', 'none', 'required' or an object that names a function",
                param="tool_choice",
            )
        name = None
    else:
        function = choice.get("function")
        name = function.get("name") if isinstance(function, dict) else None
        if choice.get("type") != "function" or name not in [tool.name for tool in tools]:
            raise Invalid(
                "tool_choice names no function of `tools`: "
                "use {'type': 'function', 'function': {'name': …}} with a name given there",
                param="tool_choice",
            )
    if not tools and choice != "none":
        raise Invalid("tool_choice is given without `tools`: add the tools or leave it out", param="tool_choice")
    return choice if isinstance(choice, str) else str(name)


def _output(wanted: _ResponseFormat) -> OutputSchema | None:
    if wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return OutputSchema("json", {}, strict=False)
    if wanted.json_schema is None:
        raise Invalid(
            "response_format of type 'json_schema' needs a `json_schema` with name and schema",
            param="response_format.json_schema",
        )
    _named(wanted.json_schema.name, "response_format.json_schema.name")
    shallow(wanted.json_schema.schema_, "response_format.json_schema.schema")
    return OutputSchema(wanted.json_schema.name, wanted.json_schema.schema_, bool(wanted.json_schema.strict))


def _stop(stop: str | list[str]) -> tuple[str, ...]:
    sequences = (stop,) if isinstance(stop, str) else tuple(stop)
    if len(sequences) > 4 or not all(sequences):
        raise Invalid("stop takes up to 4 sequences, none of them empty: shorten it", param="stop")
    return sequences


def _named(name: str, param: str) -> None:
    if not _NAME.fullmatch(name):
        raise Invalid(f"{param} is {name[:80]!r}: use 1 to 64 letters, digits, '_', '-' or '.'", param=param)
