"""What a server of OpenAI's API answers: streams, whole answers, usage in all its spellings, and refusals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

import orjson

from metier.calls import Call, Chunk, FinishReason, Media, ReasoningDelta, ToolCallDelta, Usage, new_id
from metier.catalog import Deployment
from metier.errors import GuardrailBlocked, MetierError, ProviderUnavailable
from metier.providers.base import failure
from metier.providers.cause import caused
from metier.providers.sse import Events

__all__ = ["Reading", "refusal", "whole"]

_LONGEST_EVENT: Final = 16 * 1024 * 1024
_MOST_TOKENS: Final = 1_000_000_000
_FINISHES: Mapping[str, FinishReason] = {
    "length": "length",
    "model_length": "length",
    "max_tokens": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}
_BROKEN: Final = frozenset({"error", "abort", "insufficient_system_resource"})
"""Ways to finish that say the answer broke off on the server's side."""
_STATUSES: Mapping[str, int] = {
    "invalid_request_error": 400,
    "context_length_exceeded": 400,
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "insufficient_quota": 429,
    "server_error": 500,
    "overloaded": 503,
    "timeout": 504,
}
_FILTERED: Final = frozenset({"content_filter", "ResponsibleAIPolicyViolation", "content_policy_violation"})
_UNREADABLE = (LookupError, TypeError, ValueError, AttributeError, OverflowError)
_IMAGES: Mapping[str, str] = {"iVBORw0K": "image/png", "/9j/": "image/jpeg", "UklGR": "image/webp"}
"""How a kind of image begins, in base64."""


class Reading:
    """One streamed answer while it is read."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._events = Events()
        self._finished = False
        self._tools = _Numbering()
        self.done = False
        """True once [DONE] was seen."""

    def take(self, data: bytes) -> Chunk | None:
        """Take the next bytes and give what they complete, as one chunk."""
        events = self._events.feed(data)
        if self._events.waiting() > _LONGEST_EVENT:
            raise _misfit(self._deployment, f"sent an event longer than {_LONGEST_EVENT} bytes")
        return self._chunk(events) if events else None

    def end(self) -> Chunk | None:
        """Give what was still held, or say that the answer broke off."""
        chunk = self._chunk(self._events.end())
        if self._finished:
            return chunk
        if self.done:
            return Chunk(finish="stop") if chunk is None else chunk
        raise _misfit(self._deployment, "ended its stream before the answer was finished")

    def _chunk(self, events: list[bytes]) -> Chunk | None:
        if b"[DONE]" in events:
            self.done = True
            events = events[: events.index(b"[DONE]")]
        try:
            return self._joined(map(orjson.loads, events))
        except _UNREADABLE as error:
            raise _misfit(self._deployment, "sent an event that is no chat completion chunk") from error

    def _joined(self, parts: Iterable[Any]) -> Chunk | None:
        texts: list[str] = []
        thoughts: list[str] = []
        tools: dict[int, ToolCallDelta] = {}
        finish: FinishReason | None = None
        usage: Usage | None = None
        for part in parts:
            counted = part.get("usage")
            if counted:
                usage = _usage(counted) or usage
            choices = part.get("choices")
            if not choices:
                _raise_reported(part, self._deployment)
                usage = _told(part) or usage
                continue
            choice = choices[0]
            delta = choice.get("delta")
            if delta:
                text = delta.get("content")
                plain = type(text) is str
                if plain and text:
                    texts.append(text)
                if not plain or len(delta) > 1:
                    _rest(delta, texts, thoughts)
                    for call in delta.get("tool_calls") or ():
                        self._tools.add(call, tools)
            reason = choice.get("finish_reason")
            if reason:
                _raise_reported(part, self._deployment)
                usage = _told(part, choices) or usage
                finish = _finish(reason, self._tools.begun, self._deployment)
                self._finished = True
        said = "".join(texts)
        if finish is None and usage is None and not tools and not thoughts:
            return Chunk(said) if said else None
        thought = (ReasoningDelta(0, "".join(thoughts)),) if thoughts else ()
        return Chunk(said, tuple(tools.values()), finish, usage, reasoning=thought)


class _Numbering:
    """Gives each tool call of an answer its number, however the server counts them."""

    def __init__(self) -> None:
        self._next = 0
        self._numbers: dict[Any, int] = {}
        self._ids: dict[int, str] = {}

    @property
    def begun(self) -> bool:
        return self._next > 0

    def add(self, call: Mapping[str, Any], tools: dict[int, ToolCallDelta]) -> None:
        """Take one piece of a tool call and join it to what came before in the same chunk."""
        function = call.get("function") or {}
        name, id, theirs = function.get("name"), call.get("id"), call.get("index")
        if not isinstance(name, str | None) or not isinstance(id, str | None):
            raise TypeError
        if theirs is not None:
            number = self._numbers.get(theirs)
        elif id:
            number = next((known for known, its in self._ids.items() if its == id), None)
        else:
            number = self._next - 1 if self._next else None
        # Some servers give every call the number 0: a name with another id is another call.
        if number is None or (id and name and self._ids[number] != id):
            number, self._next = self._next, self._next + 1
            self._ids[number] = id or new_id("tool")
            if theirs is not None:
                self._numbers[theirs] = number
            id = self._ids[number]
        before = tools.get(number, ToolCallDelta(number))
        tools[number] = ToolCallDelta(
            number,
            before.id or id or None,
            before.name or name,
            before.arguments + _arguments(function),
            before.signature + _signature(call),
        )


def whole(data: bytes, call: Call, deployment: Deployment) -> Chunk:
    """Read an answer that came in one piece: any operation, or the chat of a server that does not stream."""
    try:
        body = orjson.loads(data)
        if isinstance(body, dict):
            _raise_reported(body, deployment)
        read = {"embed": _vectors, "rerank": _scores, "transcribe": _transcript, "image": _images}.get(call.operation)
        return _completion(body, deployment) if read is None else read(body, call, deployment)
    except _UNREADABLE as error:
        raise _misfit(deployment, "sent an answer that does not fit OpenAI's format") from error


def refusal(status: int, data: bytes, deployment: Deployment, wait_s: float | None) -> MetierError:
    """Classify an answer that is no success, by its status and its codes."""
    try:
        body = orjson.loads(data)
        # A message may stand beside `error` instead of in it.
        error = body.get("error") or body if isinstance(body, dict) else body
    except orjson.JSONDecodeError:
        error = data.decode("utf-8", "replace")
    blocked = _filtered(error, deployment)
    return blocked or failure(status, _message(error), deployment, wait_s)


def _completion(body: Mapping[str, Any], deployment: Deployment) -> Chunk:
    choice = body["choices"][0]
    message = choice["message"]
    numbering, tools = _Numbering(), dict[int, ToolCallDelta]()
    for call in message.get("tool_calls") or ():
        numbering.add({"index": None, **call, "id": call.get("id") or new_id("tool")}, tools)
    texts: list[str] = []
    thoughts: list[str] = []
    if isinstance(message.get("content"), str):
        texts.append(message["content"])
    _rest(message, texts, thoughts)
    finish = _finish(choice.get("finish_reason") or "stop", bool(tools), deployment)
    thought = (ReasoningDelta(0, "".join(thoughts)),) if thoughts else ()
    usage = _told(body, body["choices"])
    return Chunk("".join(texts), tuple(tools.values()), finish, usage, reasoning=thought)


def _rest(delta: Mapping[str, Any], texts: list[str], thoughts: list[str]) -> None:
    """Read what a delta holds beside a plain text: parts, thoughts under any of their names, a refusal."""
    thought = delta.get("reasoning_content") or delta.get("reasoning")
    if isinstance(thought, str):
        thoughts.append(thought)
    content = delta.get("content")
    for part in content if isinstance(content, list) else ():
        if part.get("type") in ("text", "output_text"):
            texts.append(part["text"])
        elif part.get("type") == "thinking":
            inner = part["thinking"]
            thoughts.extend([inner] if isinstance(inner, str) else [piece.get("text") or "" for piece in inner])
    if delta.get("refusal"):
        texts.append(delta["refusal"])


def _finish(reason: str, tools: bool, deployment: Deployment) -> FinishReason:
    if reason in _BROKEN:
        raise _misfit(deployment, f"broke its answer off with the finish reason {reason!r}")
    return _FINISHES.get(reason, "tool_calls" if tools else "stop")


def _arguments(function: Mapping[str, Any]) -> str:
    arguments = function.get("arguments") or ""
    return arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode()


def _signature(call: Mapping[str, Any]) -> str:
    extra = call.get("extra_content")
    return (extra.get("google") or {}).get("thought_signature") or "" if extra else ""


def _vectors(body: Mapping[str, Any], call: Call, deployment: Deployment) -> Chunk:
    rows = sorted(body["data"], key=lambda row: row.get("index", 0))
    vectors = tuple(tuple(map(float, row["embedding"])) for row in rows)
    if len(vectors) != len(call.inputs):
        raise _misfit(deployment, f"sent {len(vectors)} vectors for {len(call.inputs)} texts")
    return Chunk(vectors=vectors, usage=_told(body))


def _scores(body: Any, call: Call, deployment: Deployment) -> Chunk:
    rows = body if isinstance(body, list) else body.get("results") or body["data"]
    found = {row["index"]: float(row["score"] if "score" in row else row["relevance_score"]) for row in rows}
    if not all(map(math.isfinite, found.values())):
        raise _misfit(deployment, "ranked a document by what is no number")
    if found.keys() != set(range(len(call.inputs))):
        raise _misfit(deployment, f"sent scores of {len(found)} documents where {len(call.inputs)} were to be ranked")
    return Chunk(scores=tuple(found[index] for index in range(len(call.inputs))), usage=_rerank_usage(body))


def _rerank_usage(body: Any) -> Usage | None:
    if not isinstance(body, dict):
        return None
    usage = body.get("usage") or (body.get("meta") or {}).get("tokens") or {}
    tokens = usage.get("prompt_tokens") or usage.get("input_tokens") or usage.get("total_tokens")
    return Usage(input_tokens=int(tokens)) if tokens else None


def _transcript(body: Mapping[str, Any], call: Call, deployment: Deployment) -> Chunk:
    text = body["text"]
    if not isinstance(text, str):
        raise TypeError
    return Chunk(text, finish="stop", usage=_told(body))


def _images(body: Mapping[str, Any], call: Call, deployment: Deployment) -> Chunk:
    made: list[Media] = []
    for row in body["data"]:
        data = row.get("b64_json")
        if not data:
            raise _misfit(deployment, "sent an address instead of the image itself, which Métier does not follow")
        kind = next((kind for start, kind in _IMAGES.items() if data.startswith(start)), "image/png")
        made.append(Media(kind, data))
    if not made:
        raise _misfit(deployment, "sent an answer without an image")
    return Chunk(media=tuple(made), finish="stop", usage=_told(body))


def _told(body: Mapping[str, Any], choices: Any = ()) -> Usage | None:
    """Find the usage, wherever this kind of server puts it."""
    usage = body.get("usage")
    if usage:
        return _usage(usage)
    if "x_groq" in body:
        return _usage((body["x_groq"] or {}).get("usage") or {})
    if choices and choices[0].get("usage"):
        return _usage(choices[0]["usage"])
    return None


def _usage(usage: Mapping[str, Any]) -> Usage | None:
    """Read token counts under the names of the day; nothing counted at all is no figure."""

    def count(fields: Mapping[str, Any], *names: str) -> int:
        for name in names:
            if found := fields.get(name):
                # A count beyond reason would spoil the money of the house.
                return min(max(int(found), 0), _MOST_TOKENS)
        return 0

    read = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
    written = usage.get("completion_tokens_details") or usage.get("output_tokens_details") or {}
    given = count(usage, "prompt_tokens", "input_tokens")
    made = count(usage, "completion_tokens", "output_tokens")
    heard = count(usage, "seconds")
    if not given and not made:
        return Usage(audio_s=float(heard)) if heard else None
    # Some servers leave what was thought out of the completion and count it in the total alone.
    made = max(made, count(usage, "total_tokens") - given)
    return Usage(
        input_tokens=given,
        output_tokens=made,
        cached_tokens=count(read, "cached_tokens") or count(usage, "prompt_cache_hit_tokens", "cached_tokens"),
        cache_write_tokens=count(read, "cache_creation_tokens", "cache_write_tokens"),
        reasoning_tokens=count(written, "reasoning_tokens") or count(usage, "reasoning_tokens"),
        audio_s=float(heard),
    )


def _raise_reported(body: Mapping[str, Any], deployment: Deployment) -> None:
    """Raise the error that came inside an answer of status 200, if there is one."""
    error = body.get("error") or (body if body.get("object") == "error" else None)
    if not error:
        return
    fields = error if isinstance(error, dict) else body
    status = 502
    for value in (fields.get("status"), fields.get("code"), fields.get("type"), fields.get("error_type")):
        number = int(value) if isinstance(value, int | str) and str(value).isdecimal() else _STATUSES.get(str(value))
        if number is not None and 400 <= number <= 599:
            status = number
            break
    raise _filtered(error, deployment) or failure(status, _message(error), deployment)


def _filtered(error: Any, deployment: Deployment) -> GuardrailBlocked | None:
    """See whether a filter for contents refused the request, by the codes that say so."""
    if not isinstance(error, dict):
        return None
    inner = error.get("innererror")
    inner = inner if isinstance(inner, dict) else {}
    if not {str(error.get("code")), str(inner.get("code"))} & _FILTERED:
        return None
    results = inner.get("content_filter_result") or error.get("content_filter_result") or {}
    kinds = [
        name
        for name, result in (results.items() if isinstance(results, dict) else ())
        if isinstance(result, dict) and result.get("filtered")
    ]
    found = f" found {', '.join(sorted(kinds))[:120]}" if kinds else " was not content with it"
    blocked = GuardrailBlocked(
        f"deployment {deployment.id!r} refused the request: the content filter of its provider{found}; reword the "
        "request, or choose another model",
        param="messages",
    )
    return caused(blocked, "content_filter")


def _message(error: Any) -> str:
    if not isinstance(error, dict):
        return str(error)
    said = error.get("message") or error.get("detail") or error.get("error") or error.get("msg")
    return str(said or error.get("code") or error.get("type") or "no message")


def _misfit(deployment: Deployment, what: str) -> ProviderUnavailable:
    told = f"deployment {deployment.id!r} {what}; try again, or check what serves that address"
    return caused(ProviderUnavailable(told), "unreadable")
