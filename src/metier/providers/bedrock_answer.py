"""What Amazon Bedrock's Converse answers: events in frames, read piece by piece however they were cut."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from metier.calls import Chunk, FinishReason, ReasoningDelta, ToolCallDelta, Usage
from metier.catalog import Deployment
from metier.errors import ProviderUnavailable
from metier.providers.base import failure
from metier.providers.cause import caused
from metier.providers.eventstream import Frame, Frames

__all__ = ["Reading"]

_FINISHES: Mapping[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "content_filtered": "content_filter",
    "guardrail_intervened": "content_filter",
}
_STATUSES = {
    "validationException": 400,
    "modelTimeoutException": 408,
    "modelStreamErrorException": 424,
    "throttlingException": 429,
    "internalServerException": 500,
    "serviceUnavailableException": 503,
}


class Reading:
    """One streamed answer while it is read."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._frames = Frames()
        self._tools: dict[int, int] = {}
        self._thoughts: dict[int, int] = {}
        self._finished = False
        self.done = False
        """True once everything that ends an answer was seen."""

    def take(self, data: bytes) -> Chunk | None:
        """Take the next bytes and give what they complete, as one chunk."""
        try:
            frames = self._frames.feed(data)
            return self._joined(frames) if frames else None
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise self._misfit(f"sent bytes that are no event of Converse ({error})") from error

    def end(self) -> Chunk | None:
        """Say that the answer broke off, where it did."""
        if self._finished and not self._frames.waiting():
            return None
        raise self._misfit("ended its stream before the answer was finished")

    def _joined(self, frames: list[Frame]) -> Chunk | None:
        texts: list[str] = []
        tools: dict[int, ToolCallDelta] = {}
        thoughts: dict[int, ReasoningDelta] = {}
        finish: FinishReason | None = None
        usage: Usage | None = None
        for frame in frames:
            if self.done:
                break
            kind, event = self._event(frame)
            if kind == "contentBlockStart":
                start = event["start"].get("toolUse")
                if start:
                    self._tool(event["contentBlockIndex"], tools, id=start["toolUseId"], name=start["name"])
            elif kind == "contentBlockDelta":
                delta, block = event["delta"], event["contentBlockIndex"]
                texts.append(delta.get("text") or "")
                if "toolUse" in delta:
                    self._tool(block, tools, arguments=delta["toolUse"].get("input") or "")
                if "reasoningContent" in delta:
                    self._thought(block, thoughts, delta["reasoningContent"])
            elif kind == "messageStop":
                finish = self._finish(event["stopReason"])
                self._finished = True
            elif kind == "metadata":
                usage = _usage(event["usage"]) if event.get("usage") else usage
                self.done = self._finished
        said = "".join(texts)
        if not (said or tools or thoughts or finish or usage):
            return None
        return Chunk(said, tuple(tools.values()), finish, usage, reasoning=tuple(thoughts.values()))

    def _event(self, frame: Frame) -> tuple[str, Any]:
        kind = frame.headers.get(":message-type", "event")
        if kind == "event":
            return str(frame.headers[":event-type"]), orjson.loads(frame.payload)
        if kind == "exception":
            name = str(frame.headers[":exception-type"])
            try:
                said = orjson.loads(frame.payload).get("message") or name
            except orjson.JSONDecodeError:
                said = frame.payload.decode("utf-8", "replace")
            raise failure(_STATUSES.get(name, 502), str(said), self._deployment)
        code, said = str(frame.headers.get(":error-code", "")), str(frame.headers.get(":error-message", ""))
        raise failure(_STATUSES.get(code, 502), f"{code}: {said}", self._deployment)

    def _tool(
        self, block: int, tools: dict[int, ToolCallDelta], *, id: str = "", name: str = "", arguments: str = ""
    ) -> None:
        index = self._tools.setdefault(block, len(self._tools))
        before = tools.get(index, ToolCallDelta(index))
        tools[index] = ToolCallDelta(index, before.id or id or None, before.name or name or None,
                                     before.arguments + arguments)  # fmt: skip

    def _thought(self, block: int, thoughts: dict[int, ReasoningDelta], piece: Mapping[str, str]) -> None:
        index = self._thoughts.setdefault(block, len(self._thoughts))
        before = thoughts.get(index, ReasoningDelta(index))
        sealed = piece.get("redactedContent") or ""
        thoughts[index] = ReasoningDelta(
            index,
            before.text + (piece.get("text") or ""),
            before.signature + (piece.get("signature") or sealed),
            before.sealed or bool(sealed),
        )

    def _finish(self, reason: str) -> FinishReason:
        try:
            return _FINISHES[reason]
        except KeyError:
            raise self._misfit(f"gave up its answer ({reason!r})") from None

    def _misfit(self, what: str) -> ProviderUnavailable:
        told = f"deployment {self._deployment.id!r} {what}; try again, or check what serves that address"
        return caused(ProviderUnavailable(told), "unreadable")


def _usage(usage: Mapping[str, Any]) -> Usage:
    """Count the whole input: Bedrock leaves what its cache held or took out of `inputTokens`."""
    read, written = int(usage.get("cacheReadInputTokens") or 0), int(usage.get("cacheWriteInputTokens") or 0)
    return Usage(
        input_tokens=int(usage.get("inputTokens") or 0) + read + written,
        output_tokens=int(usage.get("outputTokens") or 0),
        cached_tokens=read,
        cache_write_tokens=written,
    )
