"""The codes that stand for personal data, `[[PERSONNE_1]]`, and the tolerant reading of them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from metier.guardrails.pii.kinds import Found, Kind
from metier.guardrails.pii.normalise import fold

__all__ = ["Code", "Reading", "Waiting", "codes", "find_literals", "may_begin", "next_candidate", "read"]


@dataclass(frozen=True, slots=True)
class Code:
    """Which value a placeholder stands for."""

    kind: Kind
    ordinal: int
    variant: int = 0
    """0 for the way the value was first written, 1 and more for other spellings of it."""

    def __str__(self) -> str:
        return f"[[{self.kind.value}_{self.ordinal}{_letters(self.variant)}]]"


@dataclass(frozen=True, slots=True)
class Reading:
    """A code as it stands in a text."""

    code: Code
    end: int
    bare: bool = False
    """Without its brackets."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """The text ends where a code may still be going on."""


_OPEN = "[\uff3b"
_CLOSE = "]\uff3d"
_FILL = " *\u00a0\u202f"
_JOINT = " _-*\\\u00a0\u202f"
_SQUEEZED = {kind.value.replace("_", ""): kind for kind in Kind} | {
    kind.value.replace("_", "") + "S": kind for kind in Kind
}
_PREFIXES = frozenset(name[:size] for name in _SQUEEZED for size in range(1, len(name) + 1))
_BARE = {kind.value + "_": kind for kind in Kind}
_BARE_PREFIXES = frozenset(name[:size] for name in _BARE for size in range(1, len(name) + 1))
_INITIALS = "".join(sorted({kind.value[0] for kind in Kind}))
_CANDIDATE = re.compile(rf"[\[\uff3b]|(?<![^\W])[{_INITIALS}](?=[A-Z]|\Z)")
_QUICK = re.compile(rf"[\[\uff3b]|[{_INITIALS}](?:[A-Z]|\Z)")

next_candidate = _CANDIDATE.search
"""Search for the next place where a code, bare or in brackets, may begin."""

may_begin = _QUICK.search
"""Tell quickly whether a piece of text has anything to do with codes."""


def _letters(variant: int) -> str:
    letters = ""
    while variant:
        variant, digit = divmod(variant, 26)
        letters = chr(97 + digit) + letters
    return letters


def _variant(letters: str) -> int:
    number = 0
    for letter in letters.lower():
        number = number * 26 + ord(letter) - 97
    return number


def read(text: str, start: int, final: bool = True) -> Reading | Waiting | None:
    """Read the code that begins at `start`, forgiving what models do to codes; `final` when no text will follow."""
    place = start
    while place < len(text) and place - start < 2 and text[place] in _OPEN:
        place += 1
    opened = place - start
    if not opened:
        return _read_bare(text, start, final)
    if place < len(text) and text[place] in _OPEN:
        return None
    named = _read_name(text, _skip(text, place, _FILL, 3))
    if isinstance(named, int):
        return None if final or named < len(text) else Waiting()
    kind, place = named
    numbered = _read_number(text, place)
    if isinstance(numbered, Waiting):
        if not final:
            return numbered
        numbered = _read_number(text + " ", place)
    if numbered is None or isinstance(numbered, Waiting):
        return None
    ordinal, variant, place = numbered
    close = _skip(text, place, _FILL, 3)
    end = _skip(text, close, _CLOSE, 2)
    if not final and end == len(text) and end - close < 2:
        return Waiting()
    if end > close:
        return Reading(Code(kind, ordinal, variant), end)
    return Reading(Code(kind, ordinal, variant), place) if opened == 2 else None


def _skip(text: str, place: int, chars: str, most: int) -> int:
    end = min(len(text), place + most)
    while place < end and text[place] in chars:
        place += 1
    return place


def _read_name(text: str, place: int) -> tuple[Kind, int] | int:
    """Read the word of a code up to its number; a bare number says where the reading stopped."""
    name, joints = "", 0
    while place < len(text):
        char = text[place]
        if char in _JOINT:
            joints += 1
            if joints > 6 or not name:
                return place
        elif char.isdecimal():
            kind = _SQUEEZED.get(name)
            return place if kind is None else (kind, place)
        else:
            name += fold(char).upper()
            if name not in _PREFIXES:
                return place
        place += 1
    return place


def _read_number(text: str, place: int) -> tuple[int, int, int] | Waiting | None:
    """Read ordinal and variant; at the end of the text more digits may follow."""
    start = place
    while place < len(text) and text[place].isdecimal():
        place += 1
    digits_end = place
    while place < len(text) and place - digits_end < 3 and text[place].isalpha():
        place += 1
    if digits_end - start > 6 or place - digits_end > 2:
        return None
    if place == len(text):
        return Waiting()
    letters = text[digits_end:place]
    if text[place].isalnum() or not letters.isascii():
        return None
    return int(text[start:digits_end]), _variant(letters), place


def _read_bare(text: str, start: int, final: bool) -> Reading | Waiting | None:
    name, place = "", start
    while place < len(text) and (char := text[place]) in "ABCDEFGHIJKLMNOPQRSTUVWXYZ_\\":
        if char != "\\":
            name += char
        elif text[place + 1 : place + 2] not in ("_", ""):
            return None
        if name not in _BARE_PREFIXES:
            return None
        place += 1
    if place == len(text):
        return None if final else Waiting()
    kind = _BARE.get(name)
    if kind is None or not text[place].isdecimal():
        return None
    numbered = _read_number(text, place)
    if isinstance(numbered, Waiting):
        if not final:
            return numbered
        numbered = _read_number(text + " ", place)
    if numbered is None or isinstance(numbered, Waiting):
        return None
    ordinal, variant, place = numbered
    if place < len(text) and text[place] == "_":
        return None
    end = _skip(text, place, _CLOSE, 2)
    if end - place == 1 and end == len(text) and not final:
        return Waiting()
    return Reading(Code(kind, ordinal, variant), end if end - place == 2 else place, bare=True)


def codes(text: str) -> frozenset[str]:
    """Give the codes a reader would find in a text, each in its one right form."""
    if may_begin(text) is None:
        return frozenset()
    readings = (read(text, one.start) for one in find_literals(text))
    return frozenset(str(reading.code) for reading in readings if isinstance(reading, Reading))


def find_literals(text: str) -> tuple[Found, ...]:
    """Find what a reader of codes would take for one, in text that was not written by us."""
    if may_begin(text) is None:
        return ()
    found: list[Found] = []
    place = 0
    while match := next_candidate(text, place):
        reading = read(text, match.start())
        if isinstance(reading, Reading):
            found.append(Found(Kind.LITERAL, match.start(), reading.end))
            place = reading.end
        else:
            place = match.start() + 1
    return tuple(found)
