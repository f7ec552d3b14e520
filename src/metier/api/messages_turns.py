"""The turns of an Anthropic Messages request: content blocks read into messages, or refused by their place."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from metier.calls import Media, Message, Part, Reasoning, Text, ToolCall
from metier.errors import Invalid

__all__ = ["cached", "system_message", "turn"]

_PLAIN: Final = frozenset({"type", "cache_control"})
_TAKEN: Final[Mapping[str, frozenset[str]]] = {
    "text": frozenset({"text"}),
    "image": frozenset({"source"}),
    "document": frozenset({"source", "title"}),
    "tool_use": frozenset({"id", "name", "input"}),
    "tool_result": frozenset({"tool_use_id", "content", "is_error"}),
    "thinking": frozenset({"thinking", "signature"}),
    "redacted_thinking": frozenset({"data"}),
}
"""What is taken of each kind of block, beside its type and its cache mark."""

_ASKING_NOTHING: Final[tuple[object, ...]] = (None, [], {}, {"enabled": False}, {"type": "direct"}, "")

_Block = Mapping[str, Any]


def turn(role: str, content: str | Sequence[_Block], where: str) -> list[Message]:
    """Read one turn: a user's may hold results of tools, each of which is a message of its own and comes first."""
    if role == "system":
        return [system_message(content, f"{where}.content")]
    if isinstance(content, str):
        if not content:
            raise Invalid(f"{where}.content is empty: give a text", param=f"{where}.content")
        return [Message("user" if role == "user" else "assistant", content)]
    if not content:
        raise Invalid(f"{where}.content is an empty list: give a text", param=f"{where}.content")
    return _user(content, where) if role == "user" else [_assistant(content, where)]


def system_message(content: str | Sequence[_Block], where: str) -> Message:
    """Read the system prompt, a text or a list of texts."""
    if isinstance(content, str):
        return Message("system", content)
    parts: list[Part] = []
    for index, block in enumerate(content):
        place = f"{where}[{index}]"
        _known(block, place, ("text",))
        parts.append(_text(block, place))
    return _message("system", parts)


def cached(mark: Any, where: str) -> bool:
    """Tell whether a block is marked to be kept in the provider's cache, for the time that is usual."""
    if mark is None:
        return False
    if not isinstance(mark, Mapping) or mark.get("type") != "ephemeral" or mark.get("ttl", "5m") != "5m":
        raise Invalid(
            f"{where} is none that can be passed on: use {{'type': 'ephemeral'}}, which keeps for five minutes",
            param=where,
        )
    return True


def _user(content: Sequence[_Block], where: str) -> list[Message]:
    results: list[Message] = []
    parts: list[Part] = []
    for index, block in enumerate(content):
        place = f"{where}.content[{index}]"
        if _known(block, place, ("text", "image", "document", "tool_result")) == "tool_result":
            results.append(_result(block, place))
        else:
            parts.append(_part(block, place))
    return [*results, _message("user", parts)] if parts else results


def _assistant(content: Sequence[_Block], where: str) -> Message:
    parts: list[Part] = []
    thoughts: list[Reasoning] = []
    calls: list[ToolCall] = []
    ends = False
    for index, block in enumerate(content):
        place = f"{where}.content[{index}]"
        kind = _known(block, place, ("text", "thinking", "redacted_thinking", "tool_use"))
        if kind == "text":
            parts.append(_text(block, place))
        elif kind == "tool_use":
            given = block.get("input")
            if not isinstance(given, Mapping):
                raise Invalid(f"{place}.input is no object: give what the model wrote", param=f"{place}.input")
            name = _string(block, "name", place)
            calls.append(ToolCall(_string(block, "id", place), name, orjson.dumps(given).decode()))
            ends = cached(block.get("cache_control"), f"{place}.cache_control") or ends
        elif kind == "thinking":
            said = _string(block, "thinking", place, empty=True)
            thoughts.append(Reasoning(said, _string(block, "signature", place, empty=True)))
        else:
            thoughts.append(Reasoning(signature=_string(block, "data", place), sealed=True))
    said_whole = _message("assistant", parts)
    return Message(
        "assistant",
        said_whole.content,
        tuple(calls),
        parts=said_whole.parts,
        reasoning=tuple(thoughts),
        cache=ends or (said_whole.cache and not calls),
    )


def _result(block: _Block, where: str) -> Message:
    parts: list[Part] = []
    content = block.get("content")
    if isinstance(content, list):
        for index, inner in enumerate(content):
            place = f"{where}.content[{index}]"
            _known(inner, place, ("text", "image", "document"))
            parts.append(_part(inner, place))
    elif content is not None and not isinstance(content, str):
        raise Invalid(f"{where}.content is neither a text nor a list: give one of them", param=f"{where}.content")
    plain = all(isinstance(part, Text) and not part.cache for part in parts)
    if isinstance(content, str):
        text = content
    else:
        text = "\n".join(part.text for part in parts if isinstance(part, Text)) if plain else ""
    return Message(
        "tool",
        text,
        tool_call_id=_string(block, "tool_use_id", where),
        parts=() if plain else tuple(parts),
        cache=cached(block.get("cache_control"), f"{where}.cache_control"),
        failed=block.get("is_error") is True,
    )


def _message(role: str, parts: Sequence[Part]) -> Message:
    """Make a message of its parts: plainly, where it is one text and no more."""
    known: Any = role
    if not parts:
        return Message(known)
    if len(parts) == 1 and isinstance(parts[0], Text):
        return Message(known, parts[0].text, cache=parts[0].cache)
    return Message(known, parts=tuple(parts))


def _part(block: _Block, where: str) -> Part:
    if block["type"] == "text":
        return _text(block, where)
    source = block.get("source")
    kind = source.get("type") if isinstance(source, Mapping) else None
    mark = cached(block.get("cache_control"), f"{where}.cache_control")
    name = _string(block, "title", where) if block.get("title") else ""
    if kind == "base64" and isinstance(source, Mapping):
        _base64(source.get("data"), f"{where}.source.data")
        return Media(_string(source, "media_type", f"{where}.source"), source["data"], name, mark)
    if kind == "text" and isinstance(source, Mapping) and block["type"] == "document":
        text = _string(source, "data", f"{where}.source")
        return Media("text/plain", base64.b64encode(text.encode()).decode(), name, mark)
    if kind == "url":
        raise Invalid(
            f"{where}.source is an address: Métier fetches none that a client chose, send what is there as base64",
            param=f"{where}.source",
        )
    raise Invalid(
        f"{where}.source is of type {str(kind)[:40]!r}: send it as base64 or, for a document, as text",
        param=f"{where}.source",
    )


def _base64(data: Any, where: str) -> None:
    try:
        if not isinstance(data, str) or not data:
            raise ValueError
        base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise Invalid(f"{where} is no base64: encode the bytes of the file", param=where) from None


def _text(block: _Block, where: str) -> Text:
    return Text(_string(block, "text", where, empty=True), cached(block.get("cache_control"), f"{where}.cache_control"))


def _known(block: Any, where: str, kinds: tuple[str, ...]) -> str:
    """Tell of what kind a block is, where this place takes it and everything it asks for."""
    kind = block.get("type") if isinstance(block, Mapping) else None
    if kind not in kinds:
        raise Invalid(
            f"{where} is of type {str(kind)[:40]!r}: {', '.join(kinds)} can stand here", param=f"{where}.type"
        )
    for name, value in block.items():
        if name not in _PLAIN and name not in _TAKEN[kind] and value not in _ASKING_NOTHING:
            raise Invalid(f"{where}.{name[:40]} is not supported here: leave it out", param=f"{where}.{name[:40]}")
    return str(kind)


def _string(block: _Block, name: str, where: str, *, empty: bool = False) -> str:
    value = block.get(name)
    if not isinstance(value, str) or not (value or empty):
        raise Invalid(f"{where}.{name} is missing or no text: give a string", param=f"{where}.{name}")
    return value
