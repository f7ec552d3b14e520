"""Between the items the agents SDK passes around and the messages of a call; what a turn was is kept whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from metier.calls import JSON, Answer, Message, Reasoning, Role, ToolCall

__all__ = ["call_id", "kept", "message_id", "messages", "said"]


def call_id(turn: int, tool: int) -> str:
    """Name a tool call for every provider: unique in the step, and nine letters and digits as some insist."""
    return f"t{turn:04}m{tool:03}"


def message_id(turn: int) -> str:
    """Name what was said in a turn."""
    return f"turn{turn}"


def kept(answer: Answer, turn: int, agent: str) -> dict[str, JSON]:
    """What the journal keeps of a turn: all that is needed to give it back to the model, and its call."""
    return {
        "agent": agent,
        "text": answer.text,
        "tool_calls": [
            {"id": call_id(turn, number), "name": one.name, "arguments": one.arguments, "signature": one.signature}
            for number, one in enumerate(answer.tool_calls, start=1)
        ],
        "reasoning": [{"text": one.text, "signature": one.signature, "sealed": one.sealed} for one in answer.reasoning],
        "finish": answer.finish,
        "call": answer.receipt.call_id if answer.receipt else None,
        "input_tokens": answer.usage.input_tokens,
        "output_tokens": answer.usage.output_tokens,
    }


def said(turn: Mapping[str, Any]) -> Message:
    """Give a journalled turn back as the message it was."""
    return Message(
        "assistant",
        str(turn["text"]),
        tool_calls=tuple(ToolCall(**one) for one in turn["tool_calls"]),
        reasoning=tuple(Reasoning(**one) for one in turn["reasoning"]),
    )


def messages(
    system: str | None, items: str | Sequence[Mapping[str, Any]], turns: Mapping[str, Message], failed: frozenset[str]
) -> tuple[Message, ...]:
    """Translate what the SDK would send; `turns` are those of this step by the ids of their items."""
    found: list[Message] = [] if not system else [Message("system", system)]
    if isinstance(items, str):
        return (*found, Message("user", items))
    shown: set[int] = set()
    for item in items:
        if item.get("type") == "function_call_output":
            called = str(item["call_id"])
            found.append(Message("tool", _text(item["output"]), tool_call_id=called, failed=called in failed))
            continue
        turn = turns.get(str(item.get("call_id") or item.get("id")))
        if turn is None:
            role: Role = "assistant" if item.get("role") == "assistant" else "user"
            found.append(Message(role, _text(item.get("content"))))
        elif id(turn) not in shown:
            # A turn is several items, one for its text and one for each tool call: it is one message.
            shown.add(id(turn))
            found.append(turn)
    return tuple(found)


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "\n".join(str(part.get("text", "")) for part in parts if isinstance(part, dict))
