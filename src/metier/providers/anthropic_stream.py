"""What Anthropic's API answers: the events of a streamed message, or a message that came whole, as chunks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from metier.calls import Chunk, FinishReason, ReasoningDelta, ToolCallDelta, Usage
from metier.catalog import Deployment
from metier.errors import MetierError, ProviderUnavailable
from metier.providers.base import failure
from metier.providers.cause import caused
from metier.providers.sse import Events

__all__ = ["Reading", "whole"]

_LONGEST_EVENT: Final = 16 * 1024 * 1024
_FINISHES: Mapping[str, FinishReason] = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    # The turn is unfinished: only a further request would end it.
    "pause_turn": "length",
    "refusal": "content_filter",
    "tool_use": "tool_calls",
}
_STATUSES: Mapping[str, int] = {
    "authentication_error": 401,
    "billing_error": 402,
    "invalid_request_error": 400,
    "not_found_error": 404,
    "overloaded_error": 529,
    "permission_error": 403,
    "rate_limit_error": 429,
    "request_too_large": 413,
    "timeout_error": 504,
}
_MISFITS = (LookupError, TypeError, ValueError, AttributeError)


@dataclass(slots=True)
class _Block:
    """One content block of the message while it is read."""

    kind: str
    number: int
    """Place among the thoughts, or among the tool calls."""
    begun: bool = False


class _Pieces:
    """Puts pieces that arrived together into as few chunks as keep their order."""

    def __init__(self) -> None:
        self.chunks: list[Chunk] = []
        self._rank = 0
        self._texts: list[str] = []
        self._thoughts: list[ReasoningDelta] = []
        self._tools: list[ToolCallDelta] = []

    def text(self, text: str) -> None:
        if text:
            self._at(1)
            self._texts.append(text)

    def thought(self, piece: ReasoningDelta) -> None:
        self._at(0)
        last = self._thoughts[-1] if self._thoughts else None
        if last is not None and last.index == piece.index and not last.sealed:
            joined = ReasoningDelta(piece.index, last.text + piece.text, last.signature + piece.signature)
            self._thoughts[-1] = joined
        else:
            self._thoughts.append(piece)

    def tool(self, piece: ToolCallDelta) -> None:
        self._at(2)
        last = self._tools[-1] if self._tools else None
        if last is not None and last.index == piece.index:
            self._tools[-1] = ToolCallDelta(piece.index, last.id, last.name, last.arguments + piece.arguments)
        else:
            self._tools.append(piece)

    def close(self, finish: FinishReason | None = None, usage: Usage | None = None) -> None:
        """End the chunk at hand, with what ends the answer where it does."""
        if self._texts or self._thoughts or self._tools or finish or usage:
            tools, thoughts = tuple(self._tools), tuple(self._thoughts)
            self.chunks.append(Chunk("".join(self._texts), tools, finish, usage, reasoning=thoughts))
        self._rank, self._texts, self._thoughts, self._tools = 0, [], [], []

    def _at(self, rank: int) -> None:
        if rank < self._rank:
            self.close()
        self._rank = rank


class Reading:
    """One streamed message while it is read."""

    def __init__(self, deployment: Deployment, answer_tool: str | None = None) -> None:
        self._deployment = deployment
        self._answer_tool = answer_tool
        """The tool whose input is the text of the answer."""
        self._events = Events()
        self._blocks: dict[int, _Block] = {}
        self._thoughts = 0
        self._tools = 0
        self._counts: dict[str, Any] = {}
        self.done = False
        """True once message_stop was seen."""

    def take(self, data: bytes) -> list[Chunk]:
        """Take the next bytes and give what they complete, in order."""
        events = self._events.feed(data)
        if self._events.waiting() > _LONGEST_EVENT:
            raise _misfit(self._deployment, f"sent an event longer than {_LONGEST_EVENT} bytes")
        return self._chunks(events) if events else []

    def end(self) -> list[Chunk]:
        """Give what was still held, or say that the answer broke off."""
        chunks = self._chunks(self._events.end())
        if not self.done:
            raise _misfit(self._deployment, "ended its stream before the message was finished")
        return chunks

    def _chunks(self, events: list[bytes]) -> list[Chunk]:
        pieces = _Pieces()
        try:
            for data in events:
                if self.done:
                    break
                self.event(orjson.loads(data), pieces)
        except _MISFITS as error:
            raise _misfit(self._deployment, "sent an event that does not fit Anthropic's format") from error
        pieces.close()
        return pieces.chunks

    def event(self, event: Mapping[str, Any], pieces: _Pieces) -> None:
        """Read one event; those that are not known, such as a ping, say nothing about the answer."""
        kind = event["type"]
        if kind == "content_block_delta":
            self._delta(self._blocks[event["index"]], event["delta"], pieces)
        elif kind == "content_block_start":
            self._start(event["index"], event["content_block"], pieces)
        elif kind == "content_block_stop":
            block = self._blocks.pop(event["index"])
            if block.kind in ("tool_use", "answer") and not block.begun:
                self._argument(block, "{}", pieces)
        elif kind == "message_start":
            self._count(event["message"].get("usage"))
        elif kind == "message_delta":
            self._count(event.get("usage"))
            reason = event["delta"].get("stop_reason")
            usage = _usage(self._counts) if event.get("usage") else None
            pieces.close(self._finish(reason) if reason else None, usage)
        elif kind == "message_stop":
            self.done = True
        elif kind == "error":
            raise _reported(event["error"], self._deployment)

    def _start(self, index: int, content: Mapping[str, Any], pieces: _Pieces) -> None:
        kind = content["type"]
        block = self._blocks[index] = _Block(kind, 0)
        if kind == "text":
            pieces.text(content.get("text") or "")
        elif kind in ("thinking", "redacted_thinking"):
            block.number, self._thoughts = self._thoughts, self._thoughts + 1
            if kind == "redacted_thinking":
                pieces.thought(ReasoningDelta(block.number, signature=content["data"], sealed=True))
            elif content.get("thinking") or content.get("signature"):
                said, proof = content.get("thinking") or "", content.get("signature") or ""
                pieces.thought(ReasoningDelta(block.number, said, proof))
        elif kind == "tool_use":
            if content["name"] == self._answer_tool:
                block.kind = "answer"
            else:
                block.number, self._tools = self._tools, self._tools + 1
                pieces.tool(ToolCallDelta(block.number, content["id"], content["name"]))
            if content.get("input"):
                self._argument(block, orjson.dumps(content["input"]).decode(), pieces)

    def _delta(self, block: _Block, delta: Mapping[str, Any], pieces: _Pieces) -> None:
        kind = delta["type"]
        if kind == "text_delta":
            pieces.text(delta["text"])
        elif kind == "input_json_delta":
            if delta["partial_json"]:
                self._argument(block, delta["partial_json"], pieces)
        elif kind == "thinking_delta":
            if delta["thinking"]:
                pieces.thought(ReasoningDelta(block.number, delta["thinking"]))
        elif kind == "signature_delta":
            pieces.thought(ReasoningDelta(block.number, signature=delta["signature"]))

    def _argument(self, block: _Block, piece: str, pieces: _Pieces) -> None:
        block.begun = True
        if block.kind == "answer":
            pieces.text(piece)
        elif block.kind == "tool_use":
            pieces.tool(ToolCallDelta(block.number, arguments=piece))

    def _finish(self, reason: str) -> FinishReason:
        finish = _FINISHES.get(reason, "stop")
        # A tool that only carries the answer is none the client knows of.
        return "stop" if finish == "tool_calls" and not self._tools else finish

    def _count(self, usage: Mapping[str, Any] | None) -> None:
        """Later figures take the place of earlier ones: all are totals."""
        self._counts |= {name: value for name, value in (usage or {}).items() if value is not None}


def whole(data: bytes, deployment: Deployment, answer_tool: str | None = None) -> list[Chunk]:
    """Read a message that came in one piece, from a server in between that does not stream."""
    reading, pieces = Reading(deployment, answer_tool), _Pieces()
    try:
        body = orjson.loads(data)
        if body["type"] == "error":
            raise _reported(body["error"], deployment)
        for index, content in enumerate(body["content"]):
            reading.event({"type": "content_block_start", "index": index, "content_block": content}, pieces)
            reading.event({"type": "content_block_stop", "index": index}, pieces)
        end = {"type": "message_delta", "delta": {"stop_reason": body["stop_reason"]}, "usage": body.get("usage")}
        reading.event(end, pieces)
    except _MISFITS as error:
        raise _misfit(deployment, "sent an answer that does not fit Anthropic's format") from error
    return pieces.chunks


def _usage(counts: Mapping[str, Any]) -> Usage:
    """Add up the input, of which Anthropic counts apart what was read from its cache and what was written to it."""
    read = int(counts.get("cache_read_input_tokens") or 0)
    written = int(counts.get("cache_creation_input_tokens") or 0)
    return Usage(
        input_tokens=int(counts.get("input_tokens") or 0) + read + written,
        output_tokens=int(counts.get("output_tokens") or 0),
        cached_tokens=read,
        cache_write_tokens=written,
        reasoning_tokens=int((counts.get("output_tokens_details") or {}).get("thinking_tokens") or 0),
    )


def _reported(error: Mapping[str, Any], deployment: Deployment) -> MetierError:
    """Classify an error that came inside an answer of status 200, by its type."""
    status = _STATUSES.get(str(error["type"]), 500)
    return failure(status, str(error.get("message") or "no message"), deployment)


def _misfit(deployment: Deployment, what: str) -> ProviderUnavailable:
    told = f"deployment {deployment.id!r} {what}; try again, or check what serves that address"
    return caused(ProviderUnavailable(told), "unreadable")
