"""What Gemini answers: streamed pieces, embeddings, refusals; the same at Google's own address and on Vertex AI."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import orjson

from metier.calls import Chunk, FinishReason, Media, ReasoningDelta, ToolCallDelta, Usage, new_id
from metier.catalog import Deployment
from metier.errors import MetierError, ProviderUnavailable
from metier.providers.base import failure
from metier.providers.cause import caused
from metier.providers.gemini_format import SIGNED_BY_GOOGLE
from metier.providers.sse import Events

__all__ = ["Reading", "embedded", "refused"]

_LONGEST_EVENT: Final = 32 * 1024 * 1024
_LONGEST_LOOSE: Final = 64 * 1024
_FINISHES: Mapping[str, FinishReason] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "SAFETY": "content_filter",
    "RECITATION": "content_filter",
    "LANGUAGE": "content_filter",
    "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "SPII": "content_filter",
    "MODEL_ARMOR": "content_filter",
    "IMAGE_SAFETY": "content_filter",
    "IMAGE_PROHIBITED_CONTENT": "content_filter",
    "IMAGE_RECITATION": "content_filter",
}
_UNSAID = "FINISH_REASON_UNSPECIFIED"
_RETRY = "type.googleapis.com/google.rpc.RetryInfo"
_INFO = "type.googleapis.com/google.rpc.ErrorInfo"
# Google answers 400 to a key it does not know: the request is right, our credential is not.
_KEY_FAULTS = frozenset({"API_KEY_INVALID", "API_KEY_EXPIRED", "API_KEY_SERVICE_BLOCKED"})


class Reading:
    """One streamed answer while it is read, to its very end: some models say in every piece that it is finished."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._events = Events()
        self._loose = b""
        self._finish: FinishReason | None = None
        self._usage: Usage | None = None
        self._tools = 0
        self._thought = -1
        self._thinking = False
        self._signed = False

    def take(self, data: bytes) -> Chunk | None:
        """Take the next bytes and give what they complete, as one chunk."""
        events = self._events.feed(data)
        if self._events.waiting() > _LONGEST_EVENT:
            raise _misfit(self._deployment, f"sent an event longer than {_LONGEST_EVENT} bytes")
        # An error may come as bare JSON after the events: what is in none of them is looked at in the end.
        loose = data.replace(b"\r\n", b"\n").rpartition(b"\n\n")[2] if events else self._loose + data
        self._loose = loose[-_LONGEST_LOOSE:]
        return self._chunk(events) if events else None

    def end(self) -> Chunk:
        """Give what was still held and how the answer ended, or say that it broke off."""
        chunk = self._chunk(self._events.end()) or Chunk()
        if self._finish is None:
            error = _error(self._loose)
            if error:
                raise _reported(error, self._deployment)
            raise _misfit(self._deployment, "ended its stream before the answer was finished")
        finish = "tool_calls" if self._tools and self._finish == "stop" else self._finish
        return Chunk(chunk.text, chunk.tool_calls, finish, self._usage, reasoning=chunk.reasoning,
                     media=chunk.media)  # fmt: skip

    def _chunk(self, events: Iterable[bytes]) -> Chunk | None:
        try:
            return self._joined([orjson.loads(event) for event in events])
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise _misfit(self._deployment, "sent an event that is no answer of Gemini") from error

    def _joined(self, parts: list[Any]) -> Chunk | None:
        texts: list[str] = []
        tools: list[ToolCallDelta] = []
        thoughts: dict[int, ReasoningDelta] = {}
        media: list[Media] = []
        for part in parts:
            if part.get("error"):
                raise _reported(part["error"], self._deployment)
            if part.get("usageMetadata"):
                self._usage = _usage(part["usageMetadata"])
            if (part.get("promptFeedback") or {}).get("blockReason"):
                self._finish = "content_filter"
            for candidate in (part.get("candidates") or ())[:1]:
                for piece in (candidate.get("content") or {}).get("parts") or ():
                    self._piece(piece, texts, tools, thoughts, media)
                self._finished(candidate.get("finishReason") or _UNSAID)
        said = "".join(texts)
        if not (said or tools or thoughts or media):
            return None
        return Chunk(said, tuple(tools), reasoning=tuple(thoughts.values()), media=tuple(media))

    def _piece(
        self,
        piece: Mapping[str, Any],
        texts: list[str],
        tools: list[ToolCallDelta],
        thoughts: dict[int, ReasoningDelta],
        media: list[Media],
    ) -> None:
        signature = piece.get("thoughtSignature") or ""
        if "functionCall" in piece:
            call = piece["functionCall"]
            arguments = orjson.dumps(call.get("args") or {}).decode()
            id = call.get("id") or new_id("call")
            tools.append(ToolCallDelta(self._tools, id, call["name"], arguments, signature))
            self._tools += 1
            self._thinking = False
            return
        if piece.get("thought"):
            if not self._thinking:
                self._thought += 1
                self._thinking, self._signed = True, False
            self._think(thoughts, piece.get("text") or "")
        elif piece.get("text"):
            texts.append(piece["text"])
            self._thinking = False
        elif "inlineData" in piece:
            media.append(Media(piece["inlineData"]["mimeType"], piece["inlineData"]["data"]))
            self._thinking = False
        if signature:
            if self._thought < 0 or self._signed:
                self._thought += 1
            self._signed = True
            self._think(thoughts, "", SIGNED_BY_GOOGLE + signature)

    def _think(self, thoughts: dict[int, ReasoningDelta], text: str, signature: str = "") -> None:
        before = thoughts.get(self._thought, ReasoningDelta(self._thought))
        thoughts[self._thought] = ReasoningDelta(self._thought, before.text + text, before.signature + signature)

    def _finished(self, reason: str) -> None:
        if reason == _UNSAID:
            return
        try:
            self._finish = _FINISHES[reason]
        except KeyError:
            raise _misfit(self._deployment, f"gave up its answer ({reason!r})") from None


def embedded(data: bytes, deployment: Deployment) -> tuple[tuple[tuple[float, ...], ...], int | None]:
    """Read an answer with embeddings, and the tokens counted where Google says them."""
    try:
        body = orjson.loads(data)
        if "embeddings" in body:
            rows = [row["values"] for row in body["embeddings"]]
            counts = [(body.get("usageMetadata") or {}).get("promptTokenCount")]
        else:
            found = [row["embeddings"] for row in body["predictions"]]
            rows = [row["values"] for row in found]
            counts = [(row.get("statistics") or {}).get("token_count") for row in found]
        vectors = tuple(tuple(map(float, row)) for row in rows)
        known = [int(count) for count in counts if count is not None]
        return vectors, sum(known) if len(known) == len(counts) else None
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise _misfit(deployment, "sent embeddings that do not fit their format") from error


def refused(status: int, data: bytes, deployment: Deployment, wait_s: float | None) -> MetierError:
    """Classify a refusal by its status, and by the reasons and waits Google gives beside its words."""
    error = _error(data)
    if not error:
        return failure(status, data.decode("utf-8", "replace"), deployment, wait_s)
    return _reported({**error, "code": status}, deployment, wait_s)


def _error(data: bytes) -> dict[str, Any]:
    """Find the error object of a body; without `alt=sse` Google wraps it into a list."""
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError:
        return {}
    if isinstance(body, list) and body:
        body = body[0]
    error = body.get("error") if isinstance(body, dict) else None
    return error if isinstance(error, dict) else {}


def _reported(error: Any, deployment: Deployment, wait_s: float | None = None) -> MetierError:
    fields = error if isinstance(error, dict) else {"message": error}
    code = fields.get("code")
    status = code if isinstance(code, int) and 300 <= code <= 599 else 502
    details = fields.get("details")
    for detail in details if isinstance(details, list) else ():
        if not isinstance(detail, dict):
            continue
        if detail.get("@type") == _RETRY and wait_s is None:
            wait_s = _seconds(detail.get("retryDelay"))
        if detail.get("@type") == _INFO and detail.get("reason") in _KEY_FAULTS:
            status = 401
    return failure(status, str(fields.get("message") or "no message"), deployment, wait_s)


def _seconds(told: Any) -> float | None:
    """Read a duration as Google writes them in JSON, such as "34.07s"."""
    number = told.removesuffix("s") if isinstance(told, str) else ""
    plain = number.replace(".", "", 1)
    return float(number) if plain.isascii() and plain.isdecimal() else None


def _usage(usage: Mapping[str, Any]) -> Usage:
    thought = int(usage.get("thoughtsTokenCount") or 0)
    return Usage(
        input_tokens=int(usage.get("promptTokenCount") or 0) + int(usage.get("toolUsePromptTokenCount") or 0),
        output_tokens=int(usage.get("candidatesTokenCount") or 0) + thought,
        cached_tokens=int(usage.get("cachedContentTokenCount") or 0),
        reasoning_tokens=thought,
    )


def _misfit(deployment: Deployment, what: str) -> ProviderUnavailable:
    told = f"deployment {deployment.id!r} {what}; try again, or check what serves that address"
    return caused(ProviderUnavailable(told), "unreadable")
