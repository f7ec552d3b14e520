"""Replaces personal data by placeholders, in one text or in every text of a call."""

from __future__ import annotations

import json
import operator
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from metier.calls import JSON, Call, Message, Part, Text, ToolCall
from metier.guardrails.pii.finding import find, longest
from metier.guardrails.pii.kinds import Found, Kind
from metier.guardrails.pii.known import find_known
from metier.guardrails.pii.placeholders import Code, find_literals
from metier.guardrails.pii.table import Table

__all__ = ["Find", "Masked", "mask", "mask_call"]

Find = Callable[[str, str], tuple[Found, ...]]
"""A text and what it is called, to the personal data in it."""

_COPY = {
    "fr": "Les codes [[TYPE_n]] remplacent des données : recopie-les à l'identique, sans les traduire.",
    "en": "Codes like [[TYPE_n]] stand for data: copy them exactly, do not translate them.",
}
_SEPARATORS = re.compile(r"[_\-.]+")
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9_\-]")
_SHORTEST_NUMBER = 10**8
_FRENCH = re.compile(
    r"\b(?:le|la|les|des|une?|est|et|vous|je|pour|que|qui|dans|avec|sur|pas|mon|ma|votre|bonjour|merci|nous|du)\b",
    re.IGNORECASE,
)
_ENGLISH = re.compile(
    r"\b(?:the|is|and|you|i|for|that|which|in|with|on|not|my|your|hello|thanks|we|of|to|please|are|this)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Masked:
    """A call after masking, with what was done."""

    call: Call
    used: Mapping[Code, str]
    """The placeholders that stand in this call, with their values: only these may be restored in its answer."""
    counts: Mapping[str, int]
    """Different values masked, per kind; spellings of one value count once."""


def mask(text: str, table: Table) -> tuple[str, dict[str, int]]:
    """Mask one text with the placeholders of `table`, and count the different values per kind."""
    masker = _Masker(table, find)
    masker.learn(text)
    covered = masker.cover(text)
    return covered, _counts(masker.used)


def mask_call(call: Call, table: Table, detect: Find = find) -> Masked:
    """Mask every text of a call: first learn all values, then cover all their occurrences."""
    if call.operation != "chat":
        return _mask_inputs(call, detect)
    masker = _Masker(table, detect)
    for message in call.messages:
        _rewritten(message, masker.learn)
    messages = tuple([_rewritten(message, masker.cover) for message in call.messages])
    if masker.used:
        messages = _with_instruction(messages)
    elif all(map(operator.is_, messages, call.messages)):
        return Masked(call, {}, {})
    return Masked(replace(call, messages=messages), masker.used, _counts(masker.used))


def _mask_inputs(call: Call, detect: Find) -> Masked:
    """Mask each text on its own, so that one text gives one vector whatever stands beside it."""
    if call.operation == "transcribe":
        # Whoever writes down what is said repeats names from the hint: the transcript shows their values again.
        hint = _Masker(Table(), detect)
        hint.learn(call.query)
        return Masked(replace(call, query=hint.cover(call.query)), hint.used, _counts(hint.used))
    inputs: list[str] = []
    counts: Counter[str] = Counter()
    for text in (*call.inputs, call.query):
        masker = _Masker(Table(), detect)
        masker.learn(text)
        inputs.append(masker.cover(text))
        counts.update(_counts(masker.used))
    query = inputs.pop()
    return Masked(replace(call, inputs=tuple(inputs), query=query), {}, dict(sorted(counts.items())))


def _counts(used: Iterable[Code]) -> dict[str, int]:
    values = {(code.kind, code.ordinal) for code in used if code.kind is not Kind.LITERAL}
    return dict(sorted(Counter(kind.value for kind, _ in values).items()))


class _Masker:
    """The two passes over the texts of one call."""

    def __init__(self, table: Table, detect: Find) -> None:
        self._table = table
        self._detect = detect
        self._seen: dict[tuple[str, str], tuple[Found, ...]] = {}
        self.used: dict[Code, str] = {}

    def _found(self, text: str, context: str) -> tuple[Found, ...]:
        found = self._seen.get((text, context))
        if found is None:
            found = self._seen[text, context] = self._detect(text, context)
        return found

    def learn(self, text: str, context: str = "", trusted: bool = False, /) -> str:
        """Put the values of a text into the table; the text stays as it is."""
        for one in self._found(text, context):
            self._table.code(one.kind, text[one.start : one.end])
        return text

    def cover(self, text: str, context: str = "", trusted: bool = False, /) -> str:
        """Put placeholders over the values of a text; codes in a `trusted` text may stay."""
        literals = () if trusted else find_literals(text)
        found = longest([*self._found(text, context), *find_known(text, self._table), *literals])
        if not found:
            return text
        covered, stray = self._covered(text, found)
        while stray is not None and not trusted:
            found = longest([*found, stray])
            covered, stray = self._covered(text, found)
        return covered

    def _covered(self, text: str, found: Sequence[Found]) -> tuple[str, Found | None]:
        """Put codes over what was found; tell where text and code together now read like another code."""
        pieces: list[str] = []
        placed: list[tuple[int, int]] = []
        done = size = 0
        for one in found:
            code = str(self._code(one, text[one.start : one.end]))
            pieces += (text[done : one.start], code)
            size += one.start - done + len(code)
            placed.append((size - len(code), one.end))
            done = one.end
        pieces.append(text[done:])
        covered = "".join(pieces)
        return covered, _stray(covered, found, placed)

    def _code(self, one: Found, surface: str) -> Code:
        code = self._table.code(one.kind, surface)
        self.used[code] = surface
        return code


def _stray(covered: str, found: Sequence[Found], placed: Sequence[tuple[int, int]]) -> Found | None:
    """Find the first reading that is not one of the codes placed, and the original text it lies on."""
    read_to = raw_to = 0
    for place, reading in enumerate(find_literals(covered)):
        start, raw_end = placed[place] if place < len(placed) else (len(covered), 0)
        if reading.start != start:
            first = raw_to + reading.start - read_to
            last = first + reading.end - reading.start
            return Found(Kind.LITERAL, first, min(last, found[place].start) if place < len(found) else last)
        read_to, raw_to = reading.end, raw_end
    return None


class _Touch(Protocol):
    def __call__(self, text: str, context: str = "", trusted: bool = False, /) -> str: ...


def _rewritten(message: Message, touch: _Touch) -> Message:
    """Pass every text of a message through `touch`; keys, ids and names of functions are left alone."""
    content = _touched(message.content, message, touch)
    if not (message.parts or message.reasoning or message.tool_calls or message.name):
        return message if content == message.content else replace(message, content=content)
    parts = tuple(_touched_part(part, message, touch) for part in message.parts)
    reasoning = tuple(replace(thought, text=touch(thought.text, "", True)) for thought in message.reasoning)
    calls = tuple(_rewritten_call(call, touch) for call in message.tool_calls)
    name = message.name
    if name and message.role != "tool":
        name = _bare(touch(_SEPARATORS.sub(" ", name).title(), ""), name)
    before = (message.content, message.tool_calls, message.name, message.parts, message.reasoning)
    if (content, calls, name, parts, reasoning) == before:
        return message
    return replace(message, content=content, tool_calls=calls, name=name, parts=parts, reasoning=reasoning)


def _touched(text: str, message: Message, touch: _Touch) -> str:
    if not text:
        return text
    return _in_json(text, touch) if message.role == "tool" else touch(text, "", message.role == "system")


def _touched_part(part: Part, message: Message, touch: _Touch) -> Part:
    return replace(part, text=_touched(part.text, message, touch)) if isinstance(part, Text) else part


def _bare(touched: str, name: str) -> str:
    """Write the code of a name without the characters that providers refuse in names."""
    return _NOT_PLAIN.sub("", touched.replace(" ", "_")) if "[[" in touched else name


def _rewritten_call(call: ToolCall, touch: _Touch) -> ToolCall:
    arguments = _in_json(call.arguments, touch) if call.arguments else call.arguments
    return call if arguments == call.arguments else replace(call, arguments=arguments)


def _in_json(text: str, touch: _Touch) -> str:
    """Touch the leaves of JSON text; text that is no JSON object or array is touched as it is."""
    if text.lstrip()[:1] not in ("{", "["):
        return touch(text)
    try:
        value: JSON = json.loads(text)
    except ValueError:
        return touch(text)
    touched = _leaves(value, "", touch)
    return text if touched == value else json.dumps(touched, ensure_ascii=False)


def _leaves(value: JSON, context: str, touch: _Touch) -> JSON:
    if isinstance(value, str):
        return touch(value, context)
    if isinstance(value, dict):
        return {key: _leaves(leaf, key, touch) for key, leaf in value.items()}
    if isinstance(value, list):
        return [_leaves(leaf, context, touch) for leaf in value]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= _SHORTEST_NUMBER:
        digits = str(value)
        touched = touch(digits, context)
        return value if touched == digits else touched
    return value


def _with_instruction(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Ask the model to copy codes, at the end of the system message or in a new one."""
    said = " ".join(message.text[:2_000] for message in messages if message.role == "user")
    said = said or " ".join(message.text[:2_000] for message in messages)
    line = _COPY["en" if len(_ENGLISH.findall(said)) > len(_FRENCH.findall(said)) else "fr"]
    if messages and messages[0].role == "system":
        first = messages[0]
        if first.parts:
            first = replace(first, parts=(*first.parts, Text(line)))
        else:
            first = replace(first, content=f"{first.content}\n\n{line}")
        return (first, *messages[1:])
    return (Message("system", line), *messages)
