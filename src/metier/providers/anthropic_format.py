"""What Anthropic's API is asked: a call as the body of a Messages request, or the refusal of what it cannot say."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

import orjson

from metier.calls import Call, Effort, Media, Message, OutputSchema, Part, Reasoning, Text, Tool, ToolCall
from metier.catalog import Deployment
from metier.errors import Invalid, ProviderUnavailable
from metier.providers.anthropic_schema import closed, holds

__all__ = ["LEAST_THINKING", "answer_tool", "count_body", "message_body"]

LEAST_THINKING: Final = 1024
"""Tokens below which Anthropic takes no budget for thinking."""

_EFFORTS: Final[Mapping[Effort, tuple[int, str]]] = {
    "minimal": (LEAST_THINKING, "low"),
    "low": (2_048, "low"),
    "medium": (8_192, "medium"),
    "high": (16_384, "high"),
}
"""Each effort as a budget for the models that take one, and as the word the others know."""

# These models take a budget of thinking; all later ones decide themselves and take an effort.
_WITH_BUDGET = ("claude-3-", "claude-opus-4-", "claude-sonnet-4-", "claude-haiku-4-")
_WITH_EFFORT = tuple(f"claude-{name}-4-{minor}" for name in ("opus", "sonnet", "haiku") for minor in (6, 7, 8, 9))
# These models know no schema for their answer.
_WITHOUT_FORMAT = ("claude-3-", "claude-opus-4-0", "claude-opus-4-1", "claude-opus-4-2025", "claude-sonnet-4-0",
                   "claude-sonnet-4-2025")  # fmt: skip
_IMAGES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
_FOREIGN = "google:"
_NOT_IN_ID = re.compile(r"[^A-Za-z0-9_-]")
_NOT_COUNTED = ("max_tokens", "metadata", "stop_sequences", "stream", "temperature", "top_k", "top_p")
_MARK: Final[Mapping[str, str]] = {"type": "ephemeral"}


def message_body(call: Call, deployment: Deployment) -> dict[str, Any]:
    """Write the request for a message, always streamed and never above the deployment's limit."""
    if _option(deployment, "sampling", "passed", ("passed", "omitted")) == "omitted":
        # Whoever runs Métier says that this model chooses its words its own way.
        call = replace(call, temperature=None, top_p=None, top_k=None)
    _expressible(call, deployment)
    limit = deployment.max_output_tokens
    most = limit if call.max_output_tokens is None else min(call.max_output_tokens, limit)
    system, turns = _conversation(call.messages, deployment)
    body: dict[str, Any] = {"model": deployment.model_id, "max_tokens": most, "stream": True, "messages": turns}
    if system:
        marked = any("cache_control" in block for block in system)
        body["system"] = system if marked else "\n\n".join(block["text"] for block in system)
    if call.stop:
        body["stop_sequences"] = list(call.stop)
    for name, value in (("temperature", call.temperature), ("top_p", call.top_p), ("top_k", call.top_k)):
        if value is not None:
            body[name] = value
    if call.end_user is not None:
        body["metadata"] = {"user_id": _stranger(call)}
    thinking = _thinking(call, deployment, most)
    body |= thinking
    if call.output is not None and answer_tool(call, deployment) is None:
        form = {"type": "json_schema", "schema": closed(call.output.schema)}
        body["output_config"] = {**body.get("output_config", {}), "format": form}
    body |= _tools(call, deployment)
    if _thinks(call):
        _refuse_beside_thinking(call, deployment, body)
    return body


def count_body(call: Call, deployment: Deployment) -> dict[str, Any]:
    """Write the request for a count of input tokens: the same message, without what does not count."""
    body = message_body(call, deployment)
    return {name: value for name, value in body.items() if name not in _NOT_COUNTED}


def answer_tool(call: Call, deployment: Deployment) -> str | None:
    """Name the tool whose input is the answer, where the deployment cannot be held to a schema otherwise."""
    output = call.output
    if output is None:
        return None
    known = not deployment.model_id.startswith(_WITHOUT_FORMAT)
    if _option(deployment, "structured", "format" if known else "tool", ("format", "tool")) == "format":
        wanted = output.strict or _thinks(call)
        if wanted and output.schema and holds(output.schema):
            return None
    if output.schema.get("type", "object") != "object":
        raise Invalid(
            f"deployment {deployment.id!r} answers this schema by a tool, whose input is an object: make the schema "
            f"{output.name!r} an object with the value in one of its properties",
            param="response_format",
        )
    name = _NOT_IN_ID.sub("_", output.name) or "answer"
    while any(tool.name == name for tool in call.tools):
        name += "_"
    return name


def _expressible(call: Call, deployment: Deployment) -> None:
    """Refuse by name the first thing the call asks for that the Messages API has no word for."""
    if call.operation != "chat":
        raise Invalid(
            f"deployment {deployment.id!r} is Anthropic's, which knows chats and no {call.operation!r}: "
            "use a model of another provider",
            param="model",
        )
    asked = {
        "seed": call.seed is not None,
        "frequency_penalty": bool(call.frequency_penalty),
        "presence_penalty": bool(call.presence_penalty),
        "dimensions": call.dimensions is not None,
        "audio": call.audio is not None,
    }
    for name, wanted in asked.items():
        if wanted:
            raise _inexpressible(name, deployment, "leave it out")
    if call.temperature is not None and call.temperature > 1:
        raise _inexpressible(f"temperature {call.temperature:g}", deployment, "use 0 to 1", "temperature")


def _stranger(call: Call) -> str:
    """Name whom the call serves the same each time and without saying who it is, as Anthropic asks."""
    return hashlib.blake2b(f"{call.principal.project}\0{call.end_user}".encode(), digest_size=16).hexdigest()


def _thinks(call: Call) -> bool:
    if call.thinking_tokens is not None:
        return call.thinking_tokens > 0
    return call.effort is not None and call.effort != "none"


def _thinking(call: Call, deployment: Deployment, most: int) -> dict[str, Any]:
    """Say how much the model may think: nothing said leaves it to the model."""
    if call.thinking_tokens is None and call.effort is None:
        return {}
    if not _thinks(call):
        return {"thinking": {"type": "disabled"}}
    named = deployment.model_id.startswith(_WITH_BUDGET) and not deployment.model_id.startswith(_WITH_EFFORT)
    way = _option(deployment, "thinking", "budget" if named else "adaptive", ("budget", "adaptive"))
    tokens, effort = call.thinking_tokens, call.effort
    if way == "adaptive":
        if tokens is not None:
            raise _inexpressible(
                f"a bound of {tokens} thinking tokens", deployment, "ask for an effort instead", "thinking_tokens"
            )
        assert effort is not None
        # Without the word, some models keep what they thought to themselves.
        return {
            "thinking": {"type": "adaptive", "display": "summarized"},
            "output_config": {"effort": _EFFORTS[effort][1]},
        }
    if tokens is None:
        assert effort is not None
        # An effort is a wish: half of what may be written stays for the answer.
        tokens, param = min(_EFFORTS[effort][0], most // 2), "effort"
    else:
        param = "thinking_tokens"
    if not LEAST_THINKING <= tokens < most:
        raise Invalid(
            f"deployment {deployment.id!r} thinks {LEAST_THINKING} tokens or more, fewer than the {most} it may write: "
            f"{tokens} do not fit; allow more output tokens, or ask for no thinking",
            param=param,
        )
    return {"thinking": {"type": "enabled", "budget_tokens": tokens}}


def _refuse_beside_thinking(call: Call, deployment: Deployment, body: Mapping[str, Any]) -> None:
    """Name what Anthropic's models do not take while they think."""
    forced = body.get("tool_choice", {}).get("type") in ("any", "tool")
    asked = {
        "temperature": call.temperature not in (None, 1),
        "top_p": call.top_p is not None and call.top_p < 0.95,
        "top_k": call.top_k is not None,
        "response_format": forced and answer_tool(call, deployment) is not None,
        "tool_choice": forced,
    }
    for name, wanted in asked.items():
        if wanted:
            raise Invalid(
                f"deployment {deployment.id!r} cannot think and follow {name!r} as asked: leave {name!r} out, "
                "or ask for no thinking",
                param=name,
            )


def _tools(call: Call, deployment: Deployment) -> dict[str, Any]:
    tools = [_tool(tool) for tool in call.tools]
    answer, choice = answer_tool(call, deployment), call.tool_choice
    chosen: dict[str, Any] | None = None
    if answer is not None:
        assert call.output is not None
        if choice not in (None, "auto", "none"):
            raise Invalid(
                f"deployment {deployment.id!r} answers this schema by a tool of its own, so no other can be forced: "
                "leave `tool_choice` or the schema out",
                param="tool_choice",
            )
        tools.append(_answering(call.output, answer))
        alone = not call.tools or choice == "none"
        chosen = {"type": "tool", "name": answer} if alone else {"type": "any"}
    elif choice == "required":
        chosen = {"type": "any"}
    elif choice in ("auto", "none"):
        chosen = {"type": choice}
    elif choice is not None:
        chosen = {"type": "tool", "name": choice}
    if call.parallel_tool_calls is False and tools and choice != "none":
        chosen = {**(chosen or {"type": "auto"}), "disable_parallel_tool_use": True}
    found: dict[str, Any] = {"tools": tools} if tools else {}
    if chosen is not None and tools:
        found["tool_choice"] = chosen
    return found


def _tool(tool: Tool) -> dict[str, Any]:
    written: dict[str, Any] = {"name": tool.name, "input_schema": {"type": "object", **tool.parameters}}
    if tool.description:
        written["description"] = tool.description
    if tool.strict:
        written["strict"] = True
    return _marked(written, tool.cache)


def _answering(output: OutputSchema, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "description": "Give the answer by calling this tool: its input is the whole answer.",
        "input_schema": {"type": "object", **output.schema},
    }


def _conversation(
    messages: Iterable[Message], deployment: Deployment
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Part the system texts from the turns; neighbours of one side become one turn, as Anthropic wants results."""
    system: list[dict[str, Any]] = []
    turns: list[dict[str, Any]] = []
    for message in messages:
        if message.name and message.role != "tool":
            raise _inexpressible("name of a message", deployment, "say who speaks in the text", "messages")
        blocks = _blocks(message, deployment)
        if message.role == "system":
            system += blocks
            continue
        role = "assistant" if message.role == "assistant" else "user"
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        elif blocks:
            turns.append({"role": role, "content": blocks})
    if not turns:
        raise Invalid(
            f"deployment {deployment.id!r} needs a message of the user or the assistant that is not empty: add one",
            param="messages",
        )
    return system, turns


def _blocks(message: Message, deployment: Deployment) -> list[dict[str, Any]]:
    parts: tuple[Part, ...] = message.parts or (Text(message.content),)
    said = [_part(part, message, deployment) for part in parts if not isinstance(part, Text) or part.text]
    if message.role == "tool":
        result: dict[str, Any] = {"type": "tool_result", "tool_use_id": _id(message.tool_call_id or "")}
        if said:
            # A plain text is a text; only what text alone does not say is a list.
            result["content"] = said if message.parts else message.content
        if message.failed:
            result["is_error"] = True
        return [_marked(result, message.cache)]
    # A thought of another provider has no proof that would be believed here.
    own = (thought for thought in message.reasoning if thought.signature and not thought.signature.startswith(_FOREIGN))
    thoughts = [_thought(thought) for thought in own]
    blocks = thoughts + said + [_use(call, deployment) for call in message.tool_calls]
    if blocks and message.cache:
        blocks[-1] = _marked(blocks[-1], True)
    return blocks


def _part(part: Part, message: Message, deployment: Deployment) -> dict[str, Any]:
    if isinstance(part, Text):
        return _marked({"type": "text", "text": part.text}, part.cache)
    kind = part.media_type
    if message.role not in ("user", "tool"):
        raise _inexpressible(
            f"{kind!r} in a message of the {message.role}", deployment, "put it in the user's", "messages"
        )
    source: dict[str, str] = {"type": "base64", "media_type": kind, "data": part.data}
    if kind in _IMAGES:
        return _marked({"type": "image", "source": source}, part.cache)
    if kind == "text/plain":
        source = {"type": "text", "media_type": kind, "data": _plain(part)}
    elif kind != "application/pdf":
        raise _inexpressible(f"{kind!r}", deployment, "send JPEG, PNG, GIF, WebP, PDF or plain text", "messages")
    named = {"title": part.name} if part.name else {}
    return _marked({"type": "document", "source": source, **named}, part.cache)


def _plain(part: Media) -> str:
    try:
        return base64.b64decode(part.data, validate=True).decode()
    except ValueError:
        raise Invalid("a text/plain document is not UTF-8 in base64: encode it anew", param="messages") from None


def _thought(thought: Reasoning) -> dict[str, Any]:
    if thought.sealed:
        return {"type": "redacted_thinking", "data": thought.signature}
    return {"type": "thinking", "thinking": thought.text, "signature": thought.signature}


def _use(call: ToolCall, deployment: Deployment) -> dict[str, Any]:
    try:
        given = orjson.loads(call.arguments or "{}")
    except orjson.JSONDecodeError:
        given = None
    if not isinstance(given, dict):
        raise _inexpressible(
            f"arguments of {call.name!r} that are no JSON object",
            deployment,
            "give back what the model wrote",
            "messages",
        )
    return {"type": "tool_use", "id": _id(call.id), "name": call.name, "input": given}


def _id(name: str) -> str:
    """Write an id of another provider with the characters Anthropic takes, the same wherever it stands."""
    return _NOT_IN_ID.sub("_", name)


def _marked(block: dict[str, Any], cache: bool) -> dict[str, Any]:
    return {**block, "cache_control": dict(_MARK)} if cache else block


def _option(deployment: Deployment, name: str, usual: str, offer: tuple[str, ...]) -> str:
    value = deployment.options.get(name, usual)
    if value not in offer:
        raise ProviderUnavailable(
            f"deployment {deployment.id!r} has the option {name} = {value!r}: write {' or '.join(offer)} in metier.yaml"
        )
    return value


def _inexpressible(what: str, deployment: Deployment, way_out: str, param: str | None = None) -> Invalid:
    return Invalid(
        f"deployment {deployment.id!r} is Anthropic's, which cannot take {what}: {way_out}", param=param or what
    )
