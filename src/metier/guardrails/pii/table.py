"""The table of one conversation: which placeholder stands for which value, and which spellings belong together."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from metier.guardrails.pii.kinds import DIGIT_KINDS, Kind
from metier.guardrails.pii.normalise import fold
from metier.guardrails.pii.placeholders import Code

__all__ = ["Entry", "Table", "identity", "name_parts"]

_LETTERS = re.compile(r"[^\W\d_]+")
_NOT_DIGIT = re.compile(r"[^0-9]+")
_NOT_WORD = re.compile(r"[\W_]+")
_PARTICLES = frozenset(
    [
        "de",
        "du",
        "des",
        "d",
        "la",
        "le",
        "l",
        "les",
        "van",
        "von",
        "der",
        "den",
        "ten",
        "ter",
        "da",
        "das",
        "do",
        "dos",
        "di",
        "del",
        "della",
        "el",
        "al",
        "ben",
        "ibn",
        "bin",
        "y",
        "mc",
    ]
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One spelling of one value with its placeholder."""

    code: Code
    surface: str
    """The value exactly as it was written."""


def name_parts(surface: str) -> frozenset[str]:
    """Give the words of a name that tell people apart, folded."""
    parts = [fold(word) for word in _LETTERS.findall(surface)]
    return frozenset(part for part in parts if part not in _PARTICLES) or frozenset(parts)


def identity(kind: Kind, surface: str) -> str:
    """Give what all spellings of one value have in common."""
    if kind is Kind.PERSON:
        return " ".join(sorted(name_parts(surface)))
    if kind in DIGIT_KINDS and not _LETTERS.search(surface):
        digits = _NOT_DIGIT.sub("", surface)
        if kind is Kind.PHONE:
            for prefix in ("00330", "0033", "330", "33"):
                if digits.startswith(prefix) and len(digits) - len(prefix) == 9:
                    return "0" + digits[len(prefix) :]
        return digits
    if kind in (Kind.SECRET, Kind.LITERAL):
        return surface
    return _NOT_WORD.sub("", fold(surface)) if kind is not Kind.EMAIL else surface.lower()


class Table:
    """Placeholders and values of one conversation; grows while a call is masked, never changes what it gave out."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._codes: dict[tuple[Kind, str], Code] = {}
        self._surfaces: dict[Code, str] = {}
        self._identities: dict[tuple[Kind, str], int] = {}
        self._people: dict[int, frozenset[str]] = {}
        self._owners: dict[str, frozenset[int]] = {}
        self._ordinals: dict[Kind, int] = {}
        self._variants: dict[tuple[Kind, int], int] = {}
        self.fresh: list[Entry] = []
        """What was added since the table was loaded, in order."""
        for entry in entries:
            self._keep(entry)

    def __len__(self) -> int:
        return len(self._surfaces)

    def code(self, kind: Kind, surface: str) -> Code:
        """Give the placeholder of a value, a new one if it was never seen; another spelling gets a letter."""
        code = self._codes.get((kind, surface))
        if code is not None:
            return code
        ordinal = self._ordinal(kind, surface)
        if ordinal is None:
            code = Code(kind, self._ordinals.get(kind, 0) + 1)
        else:
            code = Code(kind, ordinal, self._variants[kind, ordinal] + 1)
        entry = Entry(code, surface)
        self._keep(entry)
        self.fresh.append(entry)
        return code

    def value(self, code: Code) -> str | None:
        """Give the value behind a placeholder, exactly as it was written."""
        return self._surfaces.get(code)

    def entries(self) -> tuple[Entry, ...]:
        """Give everything the table knows, in the order it was learnt."""
        return tuple(Entry(code, surface) for code, surface in self._surfaces.items())

    @property
    def owners(self) -> Mapping[str, frozenset[int]]:
        """Words that are part of the name of somebody known, with the ordinals of these people."""
        return self._owners

    def parts(self, ordinal: int) -> frozenset[str]:
        """Give the words of the name of one person, from all its spellings."""
        return self._people[ordinal]

    def _keep(self, entry: Entry) -> None:
        code, surface = entry.code, entry.surface
        self._codes[code.kind, surface] = code
        self._surfaces[code] = surface
        self._identities.setdefault((code.kind, identity(code.kind, surface)), code.ordinal)
        self._ordinals[code.kind] = max(self._ordinals.get(code.kind, 0), code.ordinal)
        place = (code.kind, code.ordinal)
        self._variants[place] = max(self._variants.get(place, 0), code.variant)
        if code.kind is Kind.PERSON:
            parts = name_parts(surface)
            self._people[code.ordinal] = self._people.get(code.ordinal, frozenset()) | parts
            for part in parts:
                if len(part) > 1:
                    self._owners[part] = self._owners.get(part, frozenset()) | {code.ordinal}

    def _ordinal(self, kind: Kind, surface: str) -> int | None:
        known = self._identities.get((kind, identity(kind, surface)))
        if known is not None or kind is not Kind.PERSON:
            return known
        parts = name_parts(surface)
        near = frozenset[int]().union(*(self._owners.get(part, frozenset()) for part in parts))
        akin = [one for one in near if _within(parts, self._people[one]) or _within(self._people[one], parts)]
        return akin[0] if len(akin) == 1 else None


def _within(parts: frozenset[str], others: frozenset[str]) -> bool:
    """Tell whether each word is one of the others, or the initial of one; initials alone say nothing."""
    if all(len(part) == 1 for part in parts):
        return False
    return all(part in others or (len(part) == 1 and any(other.startswith(part) for other in others)) for part in parts)
