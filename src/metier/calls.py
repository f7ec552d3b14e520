"""The nouns of one model call: who calls, what is asked, what comes back, piece by piece."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal, NewType, TypeAlias

__all__ = [
    "JSON",
    "Answer",
    "Call",
    "CallId",
    "Chunk",
    "ConversationId",
    "FinishReason",
    "Impact",
    "KeyId",
    "Message",
    "Operation",
    "Origin",
    "OutputSchema",
    "Principal",
    "ProjectId",
    "Range",
    "Receipt",
    "Role",
    "RunId",
    "SystemId",
    "Tool",
    "ToolCall",
    "ToolCallDelta",
    "Usage",
    "new_id",
]

JSON: TypeAlias = bool | int | float | str | list["JSON"] | dict[str, "JSON"] | None
"""A JSON value."""

CallId = NewType("CallId", str)
ConversationId = NewType("ConversationId", str)
KeyId = NewType("KeyId", str)
ProjectId = NewType("ProjectId", str)
RunId = NewType("RunId", str)
SystemId = NewType("SystemId", str)

Role = Literal["system", "user", "assistant", "tool"]
Operation = Literal["chat", "embed"]
FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def new_id(prefix: str) -> str:
    """Make an identifier that sorts by time of creation: prefix, 9 characters of milliseconds, 10 random ones."""
    stamp, chars = int(time.time() * 1000), []
    for _ in range(9):
        stamp, digit = divmod(stamp, 32)
        chars.append(_ALPHABET[digit])
    noise = secrets.randbits(50)
    tail = "".join(_ALPHABET[(noise >> (5 * i)) & 31] for i in range(10))
    return f"{prefix}_{''.join(reversed(chars))}{tail}"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is calling, after authentication."""

    key_id: KeyId
    project: ProjectId
    system: SystemId
    """The registered AI use the call belongs to."""
    name: str = ""
    groups: frozenset[str] = frozenset()
    """Groups whose documents this caller may read."""
    models: frozenset[str] | None = None
    """Public model names the key may use; None means every model of the catalogue."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function the model asks to call."""

    id: str
    name: str
    arguments: str
    """JSON text, as the model wrote it."""


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of a tool call in a stream; pieces with the same index belong together."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    """For role "tool": the tool call this message answers."""
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Tool:
    """A function offered to the model."""

    name: str
    description: str
    parameters: Mapping[str, JSON]
    """JSON Schema of the arguments."""
    strict: bool = False


@dataclass(frozen=True, slots=True)
class OutputSchema:
    """The JSON Schema an answer must satisfy; an empty schema asks for any JSON object."""

    name: str
    schema: Mapping[str, JSON]
    strict: bool = True


@dataclass(frozen=True, slots=True)
class Origin:
    """Where in a workflow a call comes from."""

    run: RunId
    path: str
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class Call:
    """One request to a model, whatever door it came through."""

    principal: Principal
    model: str
    """The public model name."""
    operation: Operation = "chat"
    messages: tuple[Message, ...] = ()
    inputs: tuple[str, ...] = ()
    """Texts to embed, when the operation is "embed"."""
    tools: tuple[Tool, ...] = ()
    tool_choice: str | None = None
    """"auto", "none", "required", or the name of one tool."""
    output: OutputSchema | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_output_tokens: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    conversation: ConversationId | None = None
    """Calls that share it share their placeholders for personal data."""
    origin: Origin | None = None
    id: CallId = field(default_factory=lambda: CallId(new_id("call")))


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens counted for one call."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    """Those of the input that the provider had in its prompt cache."""
    estimated: bool = False
    """True when no provider figure came and the counts are ours."""


@dataclass(frozen=True, slots=True)
class Range:
    """A quantity known between two bounds."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Impact:
    """Energy and carbon of one call, with the way they were found."""

    method: str
    """Name and version of the method, or "not estimated"."""
    energy_kwh: Range | None = None
    carbon_g: Range | None = None
    """Grams of CO2 equivalent."""
    zone: str | None = None
    """Electricity mix zone, ISO 3166-1 alpha-3."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What one call cost and what was done to it: the last chunk of every stream carries it."""

    call_id: CallId
    deployment: str
    usage: Usage
    cost_eur: Decimal
    impact: Impact
    duration_s: float
    masked: Mapping[str, int]
    """Number of personal values masked, per type of value; never the values."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of an answer."""

    text: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    finish: FinishReason | None = None
    usage: Usage | None = None
    vectors: tuple[tuple[float, ...], ...] = ()
    """For the operation "embed": one vector per input, in order."""
    receipt: Receipt | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: the stream, collected."""

    text: str
    tool_calls: tuple[ToolCall, ...]
    finish: FinishReason
    usage: Usage
    receipt: Receipt | None
    vectors: tuple[tuple[float, ...], ...] = ()
