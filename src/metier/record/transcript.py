"""What was asked and answered in one call, gathered while it is made where its system captures contents."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Literal

import orjson

from metier.calls import JSON, Call, Chunk, Media, Message, Text

__all__ = ["Mode", "Transcript"]

Mode = Literal["masked", "full"]
"""What the provider saw, placeholders in place of personal values; or what the client saw."""

_MOST_BYTES = 1 << 20
_TERSE = ("temperature", "top_p", "top_k", "max_output_tokens", "seed", "effort", "tool_choice", "language", "size")


class Transcript:
    """Gathers one call; in the mode masked nothing is kept before the guardrails have given the masked request."""

    __slots__ = (
        "_arguments",
        "_bytes",
        "_finish",
        "_images",
        "_most",
        "_names",
        "_request",
        "_texts",
        "_thoughts",
        "mode",
    )

    def __init__(self, mode: Mode, call: Call, most_bytes: int = _MOST_BYTES) -> None:
        self.mode: Mode = mode
        self._most = most_bytes
        self._request: Call | None = call if mode == "full" else None
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._names: dict[int, str] = {}
        self._arguments: dict[int, list[str]] = {}
        self._images: list[Media] = []
        self._finish: str | None = None
        self._bytes = 0

    def checked(self, call: Call) -> None:
        """Take the request as the guardrails let it through, which is what a provider sees."""
        if self.mode == "masked":
            self._request = call

    async def heard(self, answer: AsyncGenerator[Chunk, None]) -> AsyncGenerator[Chunk, None]:
        """Pass on an answer as it comes, from a provider or from the cache, and take it in the mode masked."""
        async with aclosing(answer):
            async for chunk in answer:
                if self.mode == "masked":
                    self._add(chunk)
                yield chunk

    def shown(self, chunk: Chunk) -> None:
        """Take a piece as the client is given it."""
        if self.mode == "full":
            self._add(chunk)

    def encoded(self) -> tuple[bytes, bool] | None:
        """Give the contents as JSON and whether they were cut; None where there is nothing that may be kept."""
        if self._request is None:
            return None
        told: dict[str, JSON] = {
            "request": _request(self._request, media=self.mode == "full"),
            "answer": {
                "text": "".join(self._texts),
                "reasoning": "".join(self._thoughts),
                "tool_calls": [
                    {"name": self._names.get(index, ""), "arguments": "".join(pieces)}
                    for index, pieces in sorted(self._arguments.items())
                ],
                "images": [_media(image, whole=self.mode == "full") for image in self._images],
                "finish": self._finish,
            },
        }
        data = _dumped(told)
        limit, cut = self._most, self._bytes > self._most
        while len(data) > self._most and limit > 16:
            limit //= 4
            told, cut = {"request": _cut(told["request"], limit), "answer": _cut(told["answer"], limit)}, True
            data = _dumped(told)
        return (data, cut) if len(data) <= self._most else (b"{}", True)

    def _add(self, chunk: Chunk) -> None:
        """Keep a piece while there is room; what comes later is cut, and the record says so."""
        self._finish = chunk.finish or self._finish
        if self._bytes > self._most:
            return
        if chunk.text:
            self._texts.append(chunk.text)
            self._bytes += len(chunk.text)
        for thought in chunk.reasoning:
            self._thoughts.append(thought.text)
            self._bytes += len(thought.text)
        for tool in chunk.tool_calls:
            self._names[tool.index] = self._names.get(tool.index) or tool.name or ""
            self._arguments.setdefault(tool.index, []).append(tool.arguments)
            self._bytes += len(tool.arguments)
        for image in chunk.media:
            self._images.append(image)
            self._bytes += len(image.data)


def _request(call: Call, *, media: bool) -> dict[str, JSON]:
    told: dict[str, JSON] = {"model": call.model, "operation": call.operation}
    told["messages"] = [_message(message, media) for message in call.messages]
    if call.inputs:
        told["inputs"] = [*call.inputs]
    if call.query:
        told["query"] = call.query
    if call.audio is not None:
        told["audio"] = _media(call.audio, whole=media)
    if call.tools:
        told["tools"] = [
            {"name": t.name, "description": t.description, "parameters": {**t.parameters}} for t in call.tools
        ]
    if call.output is not None:
        told["output"] = {"name": call.output.name, "schema": {**call.output.schema}}
    for name in _TERSE:
        value = getattr(call, name)
        if value not in (None, ""):
            told[name] = value
    return told


def _message(message: Message, media: bool) -> JSON:
    told: dict[str, JSON] = {"role": message.role}
    if message.parts:
        told["parts"] = [
            {"text": part.text} if isinstance(part, Text) else _media(part, whole=media) for part in message.parts
        ]
    else:
        told["content"] = message.content
    if message.reasoning:
        told["reasoning"] = [thought.text for thought in message.reasoning]
    if message.tool_calls:
        told["tool_calls"] = [{"id": c.id, "name": c.name, "arguments": c.arguments} for c in message.tool_calls]
    if message.tool_call_id is not None:
        told["tool_call_id"] = message.tool_call_id
    return told


def _media(media: Media, *, whole: bool) -> JSON:
    """Show an image or a sound; no guardrail masks them, so that in the mode masked only their digest is kept."""
    told: dict[str, JSON] = {"media_type": media.media_type, "characters": len(media.data)}
    told["sha256"] = hashlib.sha256(media.data.encode("ascii", "replace")).hexdigest()
    if whole:
        told["data"] = media.data
    return told


def _dumped(told: JSON) -> bytes:
    try:
        return orjson.dumps(told)
    except TypeError:
        # Half a surrogate pair is no UTF-8: escaped, it is kept as it came.
        return json.dumps(told).encode()


def _cut(value: JSON, limit: int) -> JSON:
    """Shorten every long text; lists keep their last items, which are the latest turns."""
    if isinstance(value, str):
        return value if len(value) <= limit else f"{value[:limit]}…"
    if isinstance(value, list):
        return [_cut(item, limit) for item in value[-limit:]]
    if isinstance(value, dict):
        return {name: _cut(item, limit) for name, item in value.items()}
    return value
