"""How an answer is written for a client of Anthropic's API: whole, as a stream of events, or as an error."""

from __future__ import annotations

from typing import Any

import orjson

from metier.api.answers import measured
from metier.calls import Answer, Call, Chunk, FinishReason, ReasoningDelta, Receipt, ToolCallDelta, Usage
from metier.errors import MetierError, ProviderUnavailable

__all__ = ["MessageStream", "failure", "message", "status"]

_REASONS: dict[FinishReason, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def message(call: Call, answer: Answer) -> bytes:
    """Write a whole message."""
    content: list[dict[str, Any]] = [
        {"type": "redacted_thinking", "data": thought.signature}
        if thought.sealed
        else {"type": "thinking", "thinking": thought.text, "signature": thought.signature}
        for thought in answer.reasoning
    ]
    if answer.text:
        content.append({"type": "text", "text": answer.text})
    for tool in answer.tool_calls:
        given = _input(tool.arguments, tool.name, answer.finish)
        content.append({"type": "tool_use", "id": tool.id, "name": tool.name, "input": given})
    body = _head(call, content, _usage(answer.usage, answer.receipt))
    body["stop_reason"] = _reason(answer.finish, bool(answer.tool_calls))
    return orjson.dumps(body)


def status(error: MetierError) -> int:
    """Give the status Anthropic's API answers: it knows no 422."""
    return 400 if error.status in (409, 422) else error.status


def failure(error: MetierError, request: str, code: int) -> bytes:
    """Write the error object for a status, the same in an answer and inside a stream."""
    kind = _TYPES.get(code, "invalid_request_error" if code < 500 else "api_error")
    # An error may quote what a client sent; bytes that are no text must not turn a refusal into a failure.
    shown = error.message.encode("utf-8", "replace").decode()
    return orjson.dumps({"type": "error", "error": {"type": kind, "message": shown}, "request_id": request})


class MessageStream:
    """Writes the chunks of one answer as Anthropic's events: one content block after the other, each closed."""

    def __init__(self, call: Call, input_tokens: int) -> None:
        self._call = call
        self._input_tokens = input_tokens
        """What the first event says; the last one has the true figure."""
        self._index = -1
        self._open: tuple[str, int] | None = None
        """Kind and number of the block that is open."""
        self._begun = False
        self._frame = b""
        self._sealed = ""
        self._tools: dict[int, list[ToolCallDelta]] = {}
        """Pieces of tool calls that wait for the one before them to end."""
        self._places: dict[int, int] = {}
        self._finish: FinishReason | None = None
        self._receipt: Receipt | None = None

    def write(self, chunk: Chunk) -> bytes:
        """Write one chunk; empty when it holds nothing a client sees yet."""
        if chunk.receipt is not None:
            self._receipt = chunk.receipt
        elif self._open == ("text", 0) and not (chunk.reasoning or chunk.tool_calls or chunk.finish):
            # Most of a long answer passes here: one event, its frame written once.
            return self._frame + orjson.dumps(chunk.text) + b"}}\n\n" if chunk.text else b""
        events = [] if self._begun else [self._start()]
        for piece in chunk.reasoning:
            events += self._thought(piece)
        if chunk.text:
            events += self._enter("text", 0, {"type": "text", "text": ""})
            events.append(self._delta({"type": "text_delta", "text": chunk.text}))
        for call in chunk.tool_calls:
            events += self._tool(call)
        if chunk.finish is not None:
            self._finish = chunk.finish
        return b"".join(events)

    def end(self) -> bytes:
        """Write what closes a stream that went well: the last block, the reason, the usage, message_stop."""
        events = [] if self._begun else [self._start()]
        events += self._leave()
        usage = Usage(self._input_tokens) if self._receipt is None else self._receipt.usage
        delta = {"stop_reason": _reason(self._finish or "stop", bool(self._places)), "stop_sequence": None}
        events.append(_event({"type": "message_delta", "delta": delta, "usage": _usage(usage, self._receipt)}))
        events.append(_event({"type": "message_stop"}))
        return b"".join(events)

    def _start(self) -> bytes:
        self._begun = True
        first = _head(self._call, [], _usage(Usage(self._input_tokens), None))
        return _event({"type": "message_start", "message": first})

    def _thought(self, piece: ReasoningDelta) -> list[bytes]:
        if piece.sealed:
            events = [] if self._open == ("sealed", piece.index) else self._leave()
            self._open = ("sealed", piece.index)
            self._sealed += piece.signature
            return events
        events = self._enter("thinking", piece.index, {"type": "thinking", "thinking": "", "signature": ""})
        if piece.text:
            events.append(self._delta({"type": "thinking_delta", "thinking": piece.text}))
        if piece.signature:
            events.append(self._delta({"type": "signature_delta", "signature": piece.signature}))
        return events

    def _tool(self, piece: ToolCallDelta) -> list[bytes]:
        """Write a piece of the call that is open or the first; those of others wait, and a ping says so."""
        if piece.index in self._places:
            delta = {"type": "input_json_delta", "partial_json": piece.arguments}
            return [self._delta(delta, self._places[piece.index])] if piece.arguments else []
        if self._open is not None and self._open[0] == "tool":
            self._tools.setdefault(piece.index, []).append(piece)
            return [_event({"type": "ping"})]
        block = {"type": "tool_use", "id": piece.id or f"call_{piece.index}", "name": piece.name or "", "input": {}}
        events = self._enter("tool", piece.index, block)
        self._places[piece.index] = self._index
        if piece.arguments:
            events.append(self._delta({"type": "input_json_delta", "partial_json": piece.arguments}))
        return events

    def _enter(self, kind: str, number: int, block: dict[str, Any]) -> list[bytes]:
        """Open a block, unless it is the one that is open; what was open is closed before."""
        if self._open == (kind, number):
            return []
        events = self._leave()
        self._open = (kind, number)
        self._index += 1
        events.append(_event({"type": "content_block_start", "index": self._index, "content_block": block}))
        if kind == "text":
            head = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,'
            self._frame = head % self._index + b'"delta":{"type":"text_delta","text":'
        return events

    def _leave(self) -> list[bytes]:
        """Close the block that is open, and write out what waited for its end."""
        events: list[bytes] = []
        if self._open is not None and self._open[0] == "sealed":
            self._index += 1
            block = {"type": "redacted_thinking", "data": self._sealed}
            self._sealed = ""
            events.append(_event({"type": "content_block_start", "index": self._index, "content_block": block}))
        if self._open is not None:
            events.append(_event({"type": "content_block_stop", "index": self._index}))
            self._open = None
        waiting, self._tools = self._tools, {}
        for index in sorted(waiting):
            for piece in waiting[index]:
                events += self._tool(piece)
            events += self._leave()
        return events

    def _delta(self, delta: dict[str, Any], index: int | None = None) -> bytes:
        place = self._index if index is None else index
        return _event({"type": "content_block_delta", "index": place, "delta": delta})


def _head(call: Call, content: list[dict[str, Any]], usage: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": f"msg_{call.id}",
        "type": "message",
        "role": "assistant",
        "model": call.model,
        "content": content,
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }


def _reason(finish: FinishReason, tools: bool) -> str:
    # Some servers end an answer that calls tools as if it did not.
    return "tool_use" if tools and finish == "stop" else _REASONS[finish]


def _input(arguments: str, name: str, finish: FinishReason) -> Any:
    try:
        given = orjson.loads(arguments or "{}")
    except orjson.JSONDecodeError:
        given = None
    if isinstance(given, dict):
        return given
    if finish == "length":
        # The answer was cut: what there is of the arguments cannot be used, and the reason says why.
        return {}
    raise ProviderUnavailable(
        f"the model wrote arguments for the tool {name!r} that are no JSON object, which a message cannot carry: "
        "try again, or stream the answer to see them"
    )


def _usage(usage: Usage, receipt: Receipt | None) -> dict[str, Any]:
    """Write the usage as Anthropic counts: what its cache gave and took stands beside the input, not in it."""
    shown: dict[str, Any] = {
        "input_tokens": max(0, usage.input_tokens - usage.cached_tokens - usage.cache_write_tokens),
        "cache_creation_input_tokens": usage.cache_write_tokens,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.output_tokens,
    }
    if usage.reasoning_tokens:
        shown["output_tokens_details"] = {"thinking_tokens": usage.reasoning_tokens}
    return shown | measured(receipt)


def _event(event: dict[str, Any]) -> bytes:
    return b"event: " + str(event["type"]).encode() + b"\ndata: " + orjson.dumps(event) + b"\n\n"
