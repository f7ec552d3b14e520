"""The body of an OpenAI Responses request: checked once here, and a call like any other from here on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from metier.api.parsing import fit, load, refuse_unknown, shallow
from metier.api.responses_items import Item, read
from metier.calls import JSON, Call, CallId, ConversationId, Effort, Message, OutputSchema, Principal, Tool, new_id
from metier.errors import Invalid

__all__ = ["IGNORED", "KNOWN", "NEUTRAL", "ResponseRequest", "parse"]

IGNORED: Final = frozenset({"prompt_cache_retention", "service_tier"})
"""Parameters accepted without effect: leaving them out of the call changes no promise made to the client."""

NEUTRAL: Final[Mapping[str, tuple[JSON, ...]]] = {
    "background": (False,),
    "context_management": ([],),
    "prompt_cache_options": ({"mode": "implicit"}, {}),
    "stream_options": ({"include_obfuscation": False}, {}),
    "top_logprobs": (0,),
    "truncation": ("disabled",),
}
"""Parameters accepted only with the value that asks for nothing; any other value is refused by name."""

_INCLUDED = ("reasoning.encrypted_content", "message.input_image.image_url")
_WAYS_OUT: Final[Mapping[str, str]] = {
    "background": "ask for an answer that is streamed, and keep the connection",
    "conversation": "continue with previous_response_id",
    "prompt": "send the text of the prompt as instructions",
    "truncation": "leave it out, and send fewer items where the window of the model is too small",
}
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_Short = Annotated[str, StringConstraints(max_length=512)]
_Pair = Annotated[str, StringConstraints(max_length=64)]


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=())


class _Tool(_Shape):
    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class _Format(_Shape):
    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class _TextSettings(_Shape):
    format: _Format | None = None
    verbosity: Literal["medium"] | None = None


class _ReasoningSettings(_Shape):
    effort: Effort | None = None
    summary: Literal["auto", "detailed"] | None = None


class _Body(_Shape):
    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, protected_namespaces=())

    model: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    input: str | Annotated[list[dict[str, Any]], Field(max_length=4096)] | None = None
    instructions: str | None = None
    previous_response_id: _Short | None = None
    store: bool | None = None
    stream: bool | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    max_output_tokens: Annotated[int, Field(gt=0, le=10_000_000)] | None = None
    tools: Annotated[list[dict[str, Any]], Field(max_length=128)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: _TextSettings | None = None
    reasoning: _ReasoningSettings | None = None
    metadata: Annotated[dict[_Pair, _Short], Field(max_length=16)] | None = None
    include: list[str] | None = None
    prompt_cache_key: _Short | None = None
    safety_identifier: _Short | None = None
    user: _Short | None = None


KNOWN: Final = frozenset(_Body.model_fields)
"""Parameters that have an effect."""


@dataclass(frozen=True, slots=True)
class ResponseRequest:
    """What a client asks, how it wants to be answered, and what the response object repeats of it."""

    call: Call
    """The call, with the instructions as its only message so far."""
    items: tuple[Item, ...]
    """What was sent, in the form it is kept in."""
    previous: str | None
    """The response to continue."""
    store: bool
    stream: bool
    repeated: Mapping[str, JSON]


def parse(data: bytes, principal: Principal, conversation: ConversationId | None = None) -> ResponseRequest:
    """Read a request body, or say which parameter does not fit and what would."""
    raw = load(data)
    for name, way in _WAYS_OUT.items():
        value = raw.get(name)
        if value is not None and value not in NEUTRAL.get(name, ()):
            raise Invalid(f"{name!r} is not supported here: {way}", param=name)
    refuse_unknown(raw, KNOWN, IGNORED, NEUTRAL)
    body = fit(_Body, raw)
    if not body.input and body.previous_response_id is None:
        raise Invalid("input is missing or empty: send a text, or a list of items", param="input")
    for index, wanted in enumerate(body.include or ()):
        if wanted not in _INCLUDED:
            known = " and ".join([repr(name) for name in _INCLUDED])
            text = f"include[{index}] is {wanted[:60]!r}, which no answer here has: {known} are known"
            raise Invalid(text, param=f"include[{index}]")
    tools = tuple([_tool(tool, f"tools[{index}]") for index, tool in enumerate(body.tools or ())])
    choice = _tool_choice(body.tool_choice, tools)
    call_id = CallId(new_id("call"))
    reasoning = body.reasoning or _ReasoningSettings()
    call = Call(
        principal=principal,
        model=body.model,
        messages=(Message("system", body.instructions),) if body.instructions else (),
        tools=choice.offered,
        tool_choice=choice.choice,
        output=None if body.text is None or body.text.format is None else _output(body.text.format),
        temperature=body.temperature,
        top_p=body.top_p,
        max_output_tokens=body.max_output_tokens,
        # Some clients send it whether or not there are tools.
        parallel_tool_calls=body.parallel_tool_calls if choice.offered else None,
        effort=reasoning.effort,
        cache_key=body.prompt_cache_key or None,
        end_user=body.safety_identifier or body.user or None,
        conversation=conversation,
        id=call_id,
    )
    store = body.store is not False
    items = read(body.input or [], call_id)
    return ResponseRequest(
        call, items, body.previous_response_id, store, bool(body.stream), _repeated(body, tools, choice.shown)
    )


def _repeated(body: _Body, tools: tuple[Tool, ...], choice: JSON) -> dict[str, JSON]:
    """Write what the response object says of its request."""
    reasoning = body.reasoning or _ReasoningSettings()
    return {
        "background": False,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": dict(body.metadata or {}),
        "model": body.model,
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": body.previous_response_id,
        "prompt_cache_key": body.prompt_cache_key,
        "reasoning": {"effort": reasoning.effort, "summary": reasoning.summary},
        "safety_identifier": body.safety_identifier,
        "service_tier": "default",
        "store": body.store is not False,
        "temperature": body.temperature,
        "text": {
            "format": _form(body.text.format if body.text else None),
            "verbosity": "medium",
        },
        "tool_choice": choice,
        "tools": [
            {
                "type": "function",
                "name": tool.name,
                "description": tool.description or None,
                "parameters": dict(tool.parameters),
                "strict": tool.strict,
            }
            for tool in tools
        ],
        "top_p": body.top_p,
        "truncation": "disabled",
        "user": body.user,
    }


def _form(wanted: _Format | None) -> dict[str, JSON]:
    if wanted is None or wanted.type != "json_schema":
        return {"type": "text" if wanted is None else wanted.type}
    return {
        "type": "json_schema",
        "name": wanted.name,
        "description": wanted.description,
        "schema": wanted.schema_,
        "strict": bool(wanted.strict),
    }


def _tool(given: Mapping[str, Any], where: str) -> Tool:
    kind = given.get("type")
    if kind != "function":
        raise Invalid(
            f"{where} is of type {str(kind)[:40]!r}, which runs at OpenAI or in its clients; no model here has it: "
            "offer a function, and run it yourself",
            param=f"{where}.type",
        )
    try:
        tool = fit(_Tool, given)
    except Invalid as error:
        raise Invalid(f"{where}: {error.message}", param=f"{where}.{error.param}") from None
    _named(tool.name, f"{where}.name")
    parameters = tool.parameters or {"type": "object", "properties": {}}
    shallow(parameters, f"{where}.parameters")
    return Tool(tool.name, tool.description or "", parameters, bool(tool.strict))


@dataclass(frozen=True, slots=True)
class _Choice:
    choice: str | None
    """As a call has it."""
    offered: tuple[Tool, ...]
    """The tools the model may use."""
    shown: JSON
    """As the response object repeats it."""


def _tool_choice(choice: str | dict[str, Any] | None, tools: tuple[Tool, ...]) -> _Choice:
    if choice is None:
        return _Choice(None, tools, "auto")
    if isinstance(choice, dict):
        return _named_choice(choice, tools)
    if choice not in ("auto", "none", "required"):
        raise Invalid(
            f"tool_choice is {choice[:60]!r}: use 'auto', 'none', 'required' or an object that names a function",
            param="tool_choice",
        )
    # Some clients send "auto" whether or not there are tools.
    if not tools and choice == "required":
        raise Invalid("tool_choice is 'required' without `tools`: add the tools or leave it out", param="tool_choice")
    return _Choice(choice if tools else None, tools, choice)


def _named_choice(choice: Mapping[str, Any], tools: tuple[Tool, ...]) -> _Choice:
    names = [tool.name for tool in tools]
    kind, name = choice.get("type"), choice.get("name")
    if kind == "function" and name in names:
        return _Choice(str(name), tools, {"type": "function", "name": str(name)})
    listed, mode = choice.get("tools"), choice.get("mode")
    if kind == "allowed_tools" and isinstance(listed, list) and listed and mode in ("auto", "required"):
        allowed = [one.get("name") if isinstance(one, dict) else None for one in listed]
        if all(one in names for one in allowed):
            shown: list[JSON] = [{"type": "function", "name": str(one)} for one in allowed]
            offered = tuple([tool for tool in tools if tool.name in allowed])
            return _Choice(str(mode), offered, {"type": "allowed_tools", "mode": str(mode), "tools": shown})
    raise Invalid(
        f"tool_choice, of type {str(kind)[:40]!r}, names no function of `tools`: use "
        "{'type': 'function', 'name': …} or {'type': 'allowed_tools', 'mode': …, 'tools': […]} with names given there",
        param="tool_choice",
    )


def _output(wanted: _Format) -> OutputSchema | None:
    if wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return OutputSchema("json", {}, strict=False)
    if wanted.name is None or wanted.schema_ is None:
        raise Invalid("text.format of type 'json_schema' needs name and schema: add them", param="text.format")
    _named(wanted.name, "text.format.name")
    schema = wanted.schema_
    shallow(schema, "text.format.schema")
    if wanted.description and "description" not in schema:
        schema = {**schema, "description": wanted.description}
    return OutputSchema(wanted.name, schema, bool(wanted.strict))


def _named(name: str, param: str) -> None:
    if not _NAME.fullmatch(name):
        raise Invalid(f"{param} is {name[:80]!r}: use 1 to 64 letters, digits, '_', '-' or '.'", param=param)
