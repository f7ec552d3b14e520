"""The body of an Anthropic Messages request: checked once here, and a call like any other from here on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from metier.api.messages_turns import cached, system_message, turn
from metier.api.parsing import fit, load, refuse_unknown, shallow
from metier.calls import JSON, Call, ConversationId, Effort, Message, OutputSchema, Principal, Tool
from metier.errors import Invalid

__all__ = ["IGNORED", "KNOWN", "NEUTRAL", "MessageRequest", "parse"]

IGNORED: Final = frozenset({"service_tier"})
"""Parameters accepted without effect: leaving them out of the call changes no promise made to the client."""

NEUTRAL: Final[Mapping[str, tuple[JSON, ...]]] = {
    "context_management": ({}, {"edits": []}),
    "mcp_servers": ([],),
    "speed": ("standard",),
}
"""Parameters accepted only with the value that asks for nothing; any other value is refused by name."""

_TOOL_NEUTRAL: Final[Mapping[str, tuple[JSON, ...]]] = {
    "allowed_callers": (["direct"],),
    "defer_loading": (False,),
    "input_examples": ([],),
}
_Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,128}$")]


class _Shape(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, protected_namespaces=())


class _Message(_Shape):
    role: Literal["user", "assistant", "system"]
    content: str | list[dict[str, Any]]


class _Tool(_Shape):
    name: _Name
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None
    cache_control: dict[str, Any] | None = None


class _ToolChoice(_Shape):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class _Thinking(_Shape):
    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[int, Field(ge=1024, le=10_000_000)] | None = None
    display: Literal["summarized"] | None = None


class _Format(_Shape):
    type: Literal["json_schema"]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class _OutputConfig(_Shape):
    effort: Literal["low", "medium", "high"] | None = None
    format: _Format | None = None


class _Metadata(_Shape):
    user_id: Annotated[str, StringConstraints(min_length=1, max_length=512)] | None = None


class _Body(_Shape):
    model: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    messages: Annotated[list[_Message], Field(min_length=1, max_length=4096)]
    max_tokens: Annotated[int, Field(gt=0, le=10_000_000)] | None = None
    system: str | list[dict[str, Any]] | None = None
    stream: bool | None = None
    stop_sequences: Annotated[list[Annotated[str, StringConstraints(min_length=1)]], Field(max_length=64)] | None = None
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    metadata: _Metadata | None = None
    tools: Annotated[list[dict[str, Any]], Field(max_length=128)] | None = None
    tool_choice: _ToolChoice | None = None
    thinking: _Thinking | None = None
    output_config: _OutputConfig | None = None
    cache_control: dict[str, Any] | None = None


KNOWN: Final = frozenset(_Body.model_fields)
"""Parameters taken."""


@dataclass(frozen=True, slots=True)
class MessageRequest:
    """What a client asks, and how it wants to be answered."""

    call: Call
    stream: bool


def parse(
    data: bytes, principal: Principal, conversation: ConversationId | None = None, *, counting: bool = False
) -> MessageRequest:
    """Read a request body, or say which parameter does not fit; for a count, `max_tokens` need not be given."""
    raw = load(data)
    if not raw.keys() <= KNOWN:
        refuse_unknown(raw, KNOWN, IGNORED, NEUTRAL)
    body = fit(_Body, raw)
    if body.max_tokens is None and not counting:
        raise Invalid("the parameter 'max_tokens' is missing: add it", param="max_tokens")
    tools = tuple(_tool(tool, index) for index, tool in enumerate(body.tools or ()))
    effort, thinking_tokens = _thinking(body)
    choice = body.tool_choice
    call = Call(
        principal=principal,
        model=body.model,
        messages=_messages(body),
        tools=tools,
        tool_choice=None if choice is None else _tool_choice(choice, tools),
        parallel_tool_calls=False if choice is not None and choice.disable_parallel_tool_use else None,
        output=_output(body.output_config),
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        max_output_tokens=body.max_tokens,
        stop=tuple(body.stop_sequences or ()),
        effort=effort,
        thinking_tokens=thinking_tokens,
        end_user=None if body.metadata is None else body.metadata.user_id,
        conversation=conversation,
    )
    return MessageRequest(call, bool(body.stream))


def _messages(body: _Body) -> tuple[Message, ...]:
    found: list[Message] = []
    if body.system:
        found.append(system_message(body.system, "system"))
    for index, message in enumerate(body.messages):
        found += turn(message.role, message.content, f"messages[{index}]")
    if cached(body.cache_control, "cache_control"):
        # Anthropic's word for "up to the end of what is sent".
        found[-1] = replace(found[-1], cache=True)
    return tuple(found)


def _tool(raw: dict[str, Any], index: int) -> Tool:
    where = f"tools[{index}]"
    kind = raw.get("type")
    if kind not in (None, "custom"):
        raise Invalid(
            f"{where} is of type {str(kind)[:60]!r}, which runs at Anthropic or is known to its models only: "
            "offer a tool with a name and an input_schema",
            param=f"{where}.type",
        )
    known = {*_Tool.model_fields, "type"}
    # How soon the pieces of an input come changes nothing about the input.
    refuse_unknown(raw, known, {"eager_input_streaming"}, _TOOL_NEUTRAL)
    try:
        tool = fit(_Tool, raw)
    except Invalid as error:
        raise Invalid(f"{where}: {error.message}", param=f"{where}.{error.param}") from None
    shallow(tool.input_schema, f"{where}.input_schema")
    mark = cached(tool.cache_control, f"{where}.cache_control")
    return Tool(tool.name, tool.description or "", tool.input_schema, bool(tool.strict), mark)


def _tool_choice(choice: _ToolChoice, tools: tuple[Tool, ...]) -> str:
    if choice.type == "tool":
        if choice.name is None or all(tool.name != choice.name for tool in tools):
            raise Invalid(
                "tool_choice names no tool of `tools`: give a name that stands there", param="tool_choice.name"
            )
        return choice.name
    if choice.type == "any" and not tools:
        raise Invalid(
            "tool_choice asks for a tool and there are none: add `tools` or leave it out", param="tool_choice"
        )
    return "required" if choice.type == "any" else choice.type


def _thinking(body: _Body) -> tuple[Effort | None, int | None]:
    """Read how much may be thought; to let the model decide without a word on effort is Anthropic's `high`."""
    wanted = body.output_config.effort if body.output_config else None
    thinking = body.thinking
    if thinking is None:
        return wanted, None
    if thinking.type == "disabled":
        if wanted is not None:
            raise Invalid(
                "output_config.effort says how much to think and `thinking` that none is: leave one of them out",
                param="output_config.effort",
            )
        return None, 0
    if thinking.type == "adaptive":
        return wanted or "high", None
    if thinking.budget_tokens is None:
        raise Invalid("thinking of type 'enabled' needs `budget_tokens`: add it", param="thinking.budget_tokens")
    if body.max_tokens is not None and thinking.budget_tokens >= body.max_tokens:
        raise Invalid(
            f"thinking.budget_tokens is {thinking.budget_tokens}: it must be less than max_tokens, {body.max_tokens}",
            param="thinking.budget_tokens",
        )
    return wanted, thinking.budget_tokens


def _output(config: _OutputConfig | None) -> OutputSchema | None:
    if config is None or config.format is None:
        return None
    schema = config.format.schema_
    if not schema:
        raise Invalid(
            "output_config.format.schema is empty: say what the answer is", param="output_config.format.schema"
        )
    shallow(schema, "output_config.format.schema")
    return OutputSchema("answer", schema)
