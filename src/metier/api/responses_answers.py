"""How an answer is written for a client of OpenAI's Responses API: as a response object, or as its events."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson

from metier.api.answers import measured
from metier.api.responses_body import ResponseRequest
from metier.api.responses_items import Item, signed
from metier.calls import Answer, Chunk, FinishReason, Reasoning, ReasoningDelta, Receipt, ToolCall, ToolCallDelta, Usage
from metier.errors import MetierError

__all__ = ["ResponseStream", "Seal", "response", "response_id"]

Seal = Callable[[Reasoning], str]
"""Seals a thought for the client that will give it back."""

_INCOMPLETE: dict[FinishReason, str] = {"length": "max_output_tokens", "content_filter": "content_filter"}


def response_id(asked: ResponseRequest) -> str:
    """Give the id of the response to a request."""
    return f"resp_{asked.call.id}"


def response(asked: ResponseRequest, answer: Answer, seal: Seal) -> dict[str, Any]:
    """Write a whole response."""
    items: list[Item] = []
    for thought in answer.reasoning:
        shown = [] if thought.sealed else [thought.text]
        items.append(_reasoning(_id("rs", asked, len(items)), thought, seal, shown))
    if answer.text:
        items.append(_message(_id("msg", asked, len(items)), answer.text))
    for call in answer.tool_calls:
        items.append(_function(_id("fc", asked, len(items)), call))
    body = _object(asked, int(time.time()))
    return _ended(body, items, answer.finish, answer.receipt, answer.usage)


@dataclass(slots=True)
class _Open:
    """An item that is being written."""

    kind: str
    place: int
    id: str
    texts: list[str] = field(default_factory=list)
    """Of the part that is open."""
    parts: list[str] = field(default_factory=list)
    """The texts of the parts of a summary that are closed."""
    thought: Reasoning = field(default_factory=Reasoning)
    call: ToolCall = field(default_factory=lambda: ToolCall("", "", ""))

    @property
    def spot(self) -> dict[str, Any]:
        """Where its events say they belong."""
        return {"item_id": self.id, "output_index": self.place}


class ResponseStream:
    """Writes the chunks of one answer as the events of a response, numbered, every item opened and closed."""

    def __init__(self, asked: ResponseRequest, seal: Seal) -> None:
        self._asked = asked
        self._seal = seal
        self._number = 0
        self._body = _object(asked, int(time.time()))
        self._items: list[_Open] = []
        self._thoughts: dict[int, _Open] = {}
        self._tools: dict[int, _Open] = {}
        self._thinking: _Open | None = None
        """The thought whose summary is open."""
        self._message: _Open | None = None
        """The message that is open."""
        self._done: dict[int, Item] = {}
        self._frame = b""
        self._finish: FinishReason = "stop"
        self._receipt: Receipt | None = None

    def write(self, chunk: Chunk) -> bytes:
        """Write one chunk; empty when it holds nothing a client sees yet."""
        if chunk.receipt is not None:
            self._receipt = chunk.receipt
        if self._message is not None and not (chunk.reasoning or chunk.tool_calls or chunk.finish):
            # Most of a long answer passes here: one event, its frame written once.
            return self._text(self._message, chunk.text) if chunk.text else b""
        events = [] if self._number else self._start()
        for piece in chunk.reasoning:
            events += self._think(piece)
        if chunk.text:
            events += self._say(chunk.text)
        for call in chunk.tool_calls:
            events += self._tool(call)
        self._finish = chunk.finish or self._finish
        return b"".join(events)

    def finish(self) -> tuple[bytes, dict[str, Any]]:
        """Write what closes the items that are open, and give the response object as it is at the end."""
        events = [] if self._number else self._start()
        events += self._hush() + self._silence()
        for item in self._items:
            if item.place not in self._done:
                events += self._close(item)
        items = [self._done[place] for place in sorted(self._done)]
        usage = None if self._receipt is None else self._receipt.usage
        return b"".join(events), _ended(self._body, items, self._finish, self._receipt, usage or Usage())

    def end(self, body: dict[str, Any]) -> bytes:
        """Write the event that ends a stream that went well."""
        return self._event(f"response.{body['status']}", {"response": body})

    def failed(self, error: MetierError) -> bytes:
        """Write the event that ends a stream that broke off: what was said, and why there is no more."""
        code = "rate_limit_exceeded" if error.status == 429 else "server_error"
        # An error may quote what a client sent; bytes that are no text must not turn a refusal into a failure.
        text = error.message.encode("utf-8", "replace").decode()
        said = [self._done.get(item.place) or self._whole(item) | {"status": "incomplete"} for item in self._items]
        self._body |= {"status": "failed", "error": {"code": code, "message": text, "metier_code": error.code}}
        return self._event("response.failed", {"response": {**self._body, "output": said}})

    def _start(self) -> list[bytes]:
        return [self._event(f"response.{name}", {"response": self._body}) for name in ("created", "in_progress")]

    def _say(self, text: str) -> list[bytes]:
        events: list[bytes] = []
        if self._message is None:
            events += self._hush()
            self._message = self._add(events, "message", "msg")
            spot = self._message.spot | {"content_index": 0}
            events.append(self._event("response.content_part.added", spot | {"part": _part("")}))
            tail = orjson.dumps(spot | {"logprobs": []})[1:-1]
            self._frame = b',"type":"response.output_text.delta",' + tail + b',"delta":'
        return [*events, self._text(self._message, text)]

    def _text(self, message: _Open, text: str) -> bytes:
        message.texts.append(text)
        number, self._number = self._number, self._number + 1
        head = b'event: response.output_text.delta\ndata: {"sequence_number":%d' % number
        return head + self._frame + orjson.dumps(text) + b"}\n\n"

    def _silence(self) -> list[bytes]:
        """Close the message that is open."""
        message, self._message = self._message, None
        if message is None:
            return []
        spot, text = message.spot | {"content_index": 0}, "".join(message.texts)
        return [
            self._event("response.output_text.done", spot | {"text": text, "logprobs": []}),
            self._event("response.content_part.done", spot | {"part": _part(text)}),
            *self._close(message),
        ]

    def _think(self, piece: ReasoningDelta) -> list[bytes]:
        events: list[bytes] = []
        thought = self._thoughts.get(piece.index)
        if thought is None:
            events += self._hush() + self._silence()
            thought = self._add(events, "reasoning", "rs")
            self._thoughts[piece.index] = thought
        before = thought.thought
        thought.thought = Reasoning(
            before.text + piece.text, before.signature + piece.signature, before.sealed or piece.sealed
        )
        if piece.text and not piece.sealed:
            spot = thought.spot | {"summary_index": len(thought.parts)}
            if self._thinking is not thought:
                events += self._hush()
                self._thinking = thought
                opening = {"part": {"type": "summary_text", "text": ""}}
                events.append(self._event("response.reasoning_summary_part.added", spot | opening))
            thought.texts.append(piece.text)
            events.append(self._event("response.reasoning_summary_text.delta", spot | {"delta": piece.text}))
        return events

    def _hush(self) -> list[bytes]:
        """Close the summary that is open; its item stays open, since a proof of it may still come."""
        thought, self._thinking = self._thinking, None
        if thought is None:
            return []
        spot, text = thought.spot | {"summary_index": len(thought.parts)}, "".join(thought.texts)
        thought.parts.append(text)
        thought.texts.clear()
        part = {"type": "summary_text", "text": text}
        return [
            self._event("response.reasoning_summary_text.done", spot | {"text": text}),
            self._event("response.reasoning_summary_part.done", spot | {"part": part}),
        ]

    def _tool(self, piece: ToolCallDelta) -> list[bytes]:
        """Write a piece of a call; several may be open at once, each under its own index."""
        events: list[bytes] = []
        tool = self._tools.get(piece.index)
        if tool is None:
            events += self._hush() + self._silence()
            call = ToolCall(piece.id or f"call_{piece.index}", piece.name or "", "")
            tool = self._add(events, "function_call", "fc", call)
            self._tools[piece.index] = tool
        before = tool.call
        tool.call = ToolCall(
            before.id,
            before.name or piece.name or "",
            before.arguments + piece.arguments,
            before.signature + piece.signature,
        )
        if piece.arguments:
            events.append(self._event("response.function_call_arguments.delta", tool.spot | {"delta": piece.arguments}))
        return events

    def _add(self, events: list[bytes], kind: str, prefix: str, call: ToolCall | None = None) -> _Open:
        place = len(self._items)
        item = _Open(kind, place, _id(prefix, self._asked, place))
        item.call = call or item.call
        self._items.append(item)
        shown = self._whole(item) | {"status": "in_progress"} | ({"content": []} if kind == "message" else {})
        events.append(self._event("response.output_item.added", {"output_index": place, "item": shown}))
        return item

    def _close(self, item: _Open) -> list[bytes]:
        events: list[bytes] = []
        if item.kind == "function_call":
            told = item.spot | {"name": item.call.name, "arguments": item.call.arguments}
            events.append(self._event("response.function_call_arguments.done", told))
        whole = self._done[item.place] = self._whole(item)
        if item is self._items[-1] and self._finish in _INCOMPLETE:
            whole["status"] = "incomplete"
        return [*events, self._event("response.output_item.done", {"output_index": item.place, "item": whole})]

    def _whole(self, item: _Open) -> Item:
        if item.kind == "reasoning":
            texts = [*item.parts, "".join(item.texts)]
            return _reasoning(item.id, item.thought, self._seal, texts)
        if item.kind == "function_call":
            return _function(item.id, item.call)
        return _message(item.id, "".join(item.texts))

    def _event(self, name: str, fields: dict[str, Any]) -> bytes:
        event = {"type": name, "sequence_number": self._number, **fields}
        self._number += 1
        return b"event: " + name.encode() + b"\ndata: " + orjson.dumps(event) + b"\n\n"


def _id(prefix: str, asked: ResponseRequest, place: int) -> str:
    return f"{prefix}_{asked.call.id}_{place}"


def _object(asked: ResponseRequest, created: int) -> dict[str, Any]:
    return {
        "id": response_id(asked),
        "object": "response",
        "created_at": created,
        "completed_at": None,
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "output": [],
        "usage": None,
        **asked.repeated,
    }


def _ended(
    body: dict[str, Any], items: list[Item], finish: FinishReason, receipt: Receipt | None, usage: Usage
) -> dict[str, Any]:
    reason = _INCOMPLETE.get(finish)
    if reason is not None and items:
        items[-1]["status"] = "incomplete"
    return {
        **body,
        "completed_at": int(time.time()) if reason is None else None,
        "status": "completed" if reason is None else "incomplete",
        "incomplete_details": None if reason is None else {"reason": reason},
        "output": items,
        "usage": _usage(usage, receipt),
    }


def _message(name: str, text: str) -> Item:
    return {"id": name, "type": "message", "status": "completed", "role": "assistant", "content": [_part(text)]}


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _reasoning(name: str, thought: Reasoning, seal: Seal, texts: list[str]) -> Item:
    """Write a thought: its text for people, and all of it sealed for the next turn."""
    return {
        "id": name,
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": text} for text in texts if text],
        "encrypted_content": seal(thought) if thought.text or thought.signature else None,
        "status": "completed",
    }


def _function(name: str, call: ToolCall) -> Item:
    return {
        "id": name,
        "type": "function_call",
        "status": "completed",
        "call_id": call.id,
        "name": call.name,
        "arguments": call.arguments,
        **signed(call.signature),
    }


def _usage(usage: Usage, receipt: Receipt | None) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }
    return shown | measured(receipt)
