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
    "LONGEST_AT_ONCE",
    "Answer",
    "Call",
    "CallId",
    "Chunk",
    "ConversationId",
    "Effort",
    "FinishReason",
    "Impact",
    "Kept",
    "KeyId",
    "Media",
    "Message",
    "Operation",
    "OrganisationId",
    "Origin",
    "OutputSchema",
    "Part",
    "Principal",
    "ProjectId",
    "Purpose",
    "Range",
    "Reasoning",
    "ReasoningDelta",
    "Receipt",
    "Reuse",
    "Role",
    "RunId",
    "SystemId",
    "Text",
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
OrganisationId = NewType("OrganisationId", str)
ProjectId = NewType("ProjectId", str)
RunId = NewType("RunId", str)
SystemId = NewType("SystemId", str)

Role = Literal["system", "user", "assistant", "tool"]
Operation = Literal["chat", "embed", "rerank", "transcribe", "image"]
Effort = Literal["none", "minimal", "low", "medium", "high"]
"""How much a reasoning model may think before it answers."""
Purpose = Literal["query", "passage"]
FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]
Reuse = Literal["usual", "off", "refresh", "only"]
"""Kept answers as the rules of the system say, not for this call, made anew by it, or nothing but them."""

LONGEST_AT_ONCE = 1024
"""Most tokens an answer may have to be asked for in one piece."""

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = tuple(first + second for first in _ALPHABET for second in _ALPHABET)


def new_id(prefix: str) -> str:
    """Make an identifier that sorts by time of creation: prefix, 9 characters of milliseconds, 10 random ones."""
    stamp, two = int(time.time() * 1000), _PAIRS
    noise, last = divmod(secrets.randbits(50), 1024)
    return (
        f"{prefix}_{_ALPHABET[stamp >> 40 & 31]}"
        f"{two[stamp >> 30 & 1023]}{two[stamp >> 20 & 1023]}{two[stamp >> 10 & 1023]}{two[stamp & 1023]}"
        f"{two[noise >> 30]}{two[noise >> 20 & 1023]}{two[noise >> 10 & 1023]}{two[noise & 1023]}{two[last]}"
    )


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
    organisation: OrganisationId = OrganisationId("main")
    surfaces: frozenset[str] | None = None
    """Surfaces the key may be used on, such as "chat"; None means every one."""
    tools: frozenset[str] | None = None
    """Names of functions its calls may offer to a model; None means any."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function the model asks to call."""

    id: str
    name: str
    arguments: str
    """JSON text, as the model wrote it."""
    signature: str = ""
    """Opaque proof some providers want back with the call, unchanged."""


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of a tool call in a stream; pieces with the same index belong together."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""
    signature: str = ""


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of text among the parts of a message."""

    text: str
    cache: bool = False
    """Asks the provider to keep the prompt up to here in its cache, where it has explicit ones."""


@dataclass(frozen=True, slots=True)
class Media:
    """An image, a sound or a document, carried whole: Métier never fetches an address a client chose."""

    media_type: str
    """Such as image/png, audio/wav or application/pdf."""
    data: str
    """The bytes in base64."""
    name: str = ""
    cache: bool = False
    detail: str = ""
    """For an image: "low", "high" or "auto" where the provider knows it."""

    def __repr__(self) -> str:
        """Say what it is, never what it holds."""
        return f"Media({self.media_type!r}, {len(self.data)} characters)"


Part: TypeAlias = Text | Media


@dataclass(frozen=True, slots=True)
class Reasoning:
    """What a model thought before it answered, with the proof its provider wants back with the next turn."""

    text: str = ""
    """Placeholders in it are not restored, so that the signature stays true."""
    signature: str = ""
    sealed: bool = False
    """True when the provider hides the thought: `signature` then holds it, encrypted by the provider."""


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """A piece of a thought in a stream; pieces with the same index belong together."""

    index: int
    text: str = ""
    signature: str = ""
    sealed: bool = False


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str = ""
    """The text, when the message is text alone."""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    """For role "tool": the tool call this message answers."""
    name: str | None = None
    parts: tuple[Part, ...] = ()
    """Texts and media in order, when text alone does not say it; `content` is then empty."""
    reasoning: tuple[Reasoning, ...] = ()
    """For role "assistant": the thoughts of that turn, which some providers want back."""
    cache: bool = False
    """Asks the provider to keep the prompt up to the end of this message in its cache."""
    failed: bool = False
    """For role "tool": the tool failed, and its text says how; told apart where the provider has a word for it."""

    @property
    def text(self) -> str:
        """Every text of the message, its parts joined by line ends."""
        return "\n".join(p.text for p in self.parts if isinstance(p, Text)) if self.parts else self.content


@dataclass(frozen=True, slots=True)
class Tool:
    """A function offered to the model."""

    name: str
    description: str
    parameters: Mapping[str, JSON]
    """JSON Schema of the arguments."""
    strict: bool = False
    cache: bool = False
    """Asks the provider to keep the prompt up to this tool in its cache."""


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
    """Texts to embed, documents to rerank, or the one description of an image to make."""
    query: str = ""
    """What the documents of a rerank are compared with, or the hint of a transcription."""
    audio: Media | None = None
    """The sound to transcribe."""
    language: str = ""
    """Language of the sound, ISO 639-1; empty leaves it to the model."""
    size: str = ""
    """For an image to make: width x height, such as 1024x1024."""
    dimensions: int | None = None
    """Length wanted of each vector, where the model can shorten them."""
    purpose: Purpose | None = None
    """What texts to embed are for; models that have no word for it ignore it."""
    tools: tuple[Tool, ...] = ()
    tool_choice: str | None = None
    """"auto", "none", "required", or the name of one tool."""
    output: OutputSchema | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_output_tokens: int | None = None
    stop: tuple[str, ...] = ()
    top_k: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    seed: int | None = None
    parallel_tool_calls: bool | None = None
    """False asks for one tool call at a time; None leaves it to the provider."""
    effort: Effort | None = None
    thinking_tokens: int | None = None
    """Upper bound of the tokens thought, for providers that count them; 0 asks for none."""
    cache_key: str | None = None
    """Calls with the same key likely share a prompt prefix; sticky routing and provider caches use it."""
    end_user: str | None = None
    """Whom the client serves with this call, in the client's own words; the innermost level of limits."""
    whole: bool = False
    """True when nobody looks at the pieces of the answer, only at the whole of it."""
    reuse: Reuse = "usual"
    conversation: ConversationId | None = None
    """Calls that share it share their placeholders for personal data."""
    origin: Origin | None = None
    id: CallId = field(default_factory=lambda: CallId(new_id("call")))

    @property
    def at_once(self) -> bool:
        """Tell whether a provider may be asked for the whole answer in one piece: a short one nobody watches grow."""
        # A third of the CPU of a stream, whose pieces tell a provider that hangs, and what was said before one leaves.
        return self.whole and self.max_output_tokens is not None and self.max_output_tokens <= LONGEST_AT_ONCE


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens counted for one call."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    """Those of the input that the provider had in its prompt cache."""
    cache_write_tokens: int = 0
    """Those of the input that the provider put into its prompt cache, where it charges for that."""
    reasoning_tokens: int = 0
    """Those of the output that were thought, not said."""
    estimated: bool = False
    """True when no provider figure came and the counts are ours."""
    audio_s: float = 0.0
    """Seconds of sound the provider counted, where it bills by the minute."""


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
class Kept:
    """What a call found among kept answers, with the cost, energy and tokens of the answer when it was made."""

    hit: Literal["exact", "semantic"] | None = None
    """None when nothing fitting was kept; else whether the question was the same or meant the same."""
    age_s: float = 0.0
    saved_eur: Decimal = Decimal(0)
    saved_kwh: float | None = None
    usage: Usage | None = None


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
    kept: Kept | None = None
    """None when answers are not kept for this call."""
    route: str | None = None
    """Which model was chosen and why, where the one asked for leaves a choice."""


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
    reasoning: tuple[ReasoningDelta, ...] = ()
    scores: tuple[float, ...] = ()
    """For the operation "rerank": the relevance of each document, in the order given."""
    media: tuple[Media, ...] = ()
    """For the operation "image": the images made."""
    kept: Kept | None = None
    """On the first chunk, where answers are kept for this call."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: the stream, collected."""

    text: str
    tool_calls: tuple[ToolCall, ...]
    finish: FinishReason
    usage: Usage
    receipt: Receipt | None
    vectors: tuple[tuple[float, ...], ...] = ()
    reasoning: tuple[Reasoning, ...] = ()
    scores: tuple[float, ...] = ()
    media: tuple[Media, ...] = ()
