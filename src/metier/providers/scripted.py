"""A provider that answers from scripts, so that tests and demonstrations are exact and need no network."""

from __future__ import annotations

import hashlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import orjson

from metier.calls import JSON, Call, Chunk, FinishReason, ToolCallDelta, Usage
from metier.catalog import Deployment
from metier.errors import MetierError
from metier.providers.base import failure

__all__ = ["Script", "ScriptedProvider", "asks", "breaks", "fails", "gives", "says", "vector"]

_DIMENSIONS = 16
_USAGE = Usage(input_tokens=12, output_tokens=8)


@dataclass(frozen=True, slots=True)
class Script:
    """One answer, decided beforehand: the chunks in order, then an error or the end."""

    chunks: tuple[Chunk, ...] = ()
    error: MetierError | None = None
    """Raised after the chunks."""
    status: int | None = None
    """Raised after the chunks, as a server answering this HTTP status would be."""
    before: Callable[[], Awaitable[object]] | None = None
    """Awaited before each chunk and before the error: the place to wait, or to watch from."""


def says(*pieces: str, usage: Usage | None = _USAGE, finish: FinishReason | None = "stop") -> Script:
    """Script a text, one chunk a piece, then the finish and the usage."""
    return Script((*(Chunk(text=piece) for piece in pieces), Chunk(finish=finish, usage=usage)))


def gives(value: JSON, usage: Usage | None = _USAGE) -> Script:
    """Script a JSON value written as text, cut in small pieces as a model would write it."""
    text = orjson.dumps(value).decode()
    return says(*(text[start : start + 7] for start in range(0, len(text), 7)), usage=usage)


def asks(name: str, arguments: JSON, id: str = "call_1", usage: Usage | None = _USAGE) -> Script:
    """Script a request to call one tool, its arguments cut in pieces."""
    text = orjson.dumps(arguments).decode()
    pieces = [text[start : start + 5] for start in range(0, len(text), 5)]
    opening = Chunk(tool_calls=(ToolCallDelta(0, id, name),))
    rest = tuple(Chunk(tool_calls=(ToolCallDelta(0, arguments=piece),)) for piece in pieces)
    return Script((opening, *rest, Chunk(finish="tool_calls", usage=usage)))


def fails(status: int) -> Script:
    """Script a refusal before any content, with the HTTP status a server would answer."""
    return Script(status=status)


def breaks(*pieces: str, status: int = 502) -> Script:
    """Script a text that breaks off: the pieces, then an error instead of a finish."""
    return Script(tuple(Chunk(text=piece) for piece in pieces), status=status)


def vector(text: str) -> tuple[float, ...]:
    """Make a unit vector that depends on the text alone: equal texts are equal, others are apart."""
    seed = hashlib.sha256(text.encode()).digest()
    raw = [byte / 127.5 - 1.0 for byte in seed[:_DIMENSIONS]]
    length = math.sqrt(sum(value * value for value in raw)) or 1.0
    return tuple(value / length for value in raw)


class ScriptedProvider:
    """Answers each chat with the next script (the last one repeats), each embed with vectors of the texts.

    Given `answer`, a function of the call, it is asked instead, for both.
    """

    def __init__(self, *scripts: Script, answer: Callable[[Call], Script] | None = None) -> None:
        self._scripts = list(scripts)
        self._answer = answer
        self.calls: list[Call] = []
        """Every call received, in order, as it was after masking."""
        self.deployments: list[str] = []
        """The deployment each call was sent to."""
        self.closed: list[str] = []
        """Ids of the calls whose stream has ended, whatever ended it."""

    def then(self, *scripts: Script) -> None:
        """Add scripts after those already given."""
        self._scripts.extend(scripts)

    async def stream(self, call: Call, deployment: Deployment) -> AsyncIterator[Chunk]:
        """Play the script this call falls upon."""
        self.calls.append(call)
        self.deployments.append(deployment.id)
        script = self._next(call)
        try:
            for chunk in script.chunks:
                if script.before is not None:
                    await script.before()
                yield chunk
            if script.before is not None:
                await script.before()
            if script.error is not None:
                raise script.error
            if script.status is not None:
                raise failure(script.status, "scripted failure", deployment)
        finally:
            self.closed.append(call.id)

    async def close(self) -> None:
        """Do nothing: a script holds no connection."""

    def _next(self, call: Call) -> Script:
        if self._answer is not None:
            return self._answer(call)
        if call.operation == "embed":
            tokens = sum(len(text.split()) for text in call.inputs)
            return Script((Chunk(vectors=tuple(map(vector, call.inputs)), usage=Usage(input_tokens=tokens)),))
        if not self._scripts:
            return says("ok")
        return self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
