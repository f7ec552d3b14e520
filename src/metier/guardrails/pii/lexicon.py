"""The word lists behind the recognition of names: our own compilation, shipped as text files."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources

from metier.guardrails.pii.normalise import fold

__all__ = ["Lexicon", "lexicon"]


@dataclass(frozen=True, slots=True)
class Lexicon:
    """Words that make names likely or unlikely, all folded to small letters without accents."""

    first_names: frozenset[str]
    ambiguous: frozenset[str]
    """First names that are also ordinary words: not enough by themselves."""
    not_names: frozenset[str]
    """Function words, openers, words for companies and offices."""
    places: frozenset[str]
    """Towns, countries and brands: people are called so too, but only a title tells."""
    expressions: Mapping[str, tuple[tuple[str, ...], ...]]
    """Brands and famous people made of several words, by their first word."""
    common: frozenset[str]
    """Names that are ordinary words when written small."""

    def is_first_name(self, word: str) -> bool:
        """Tell whether a folded word, or one part of a hyphenated one, is a first name."""
        if word in self.first_names:
            return True
        first, hyphen, last = word.partition("-")
        return bool(hyphen) and first not in _SAINTS and (first in self.first_names or last in self.first_names)

    def is_stop(self, word: str) -> bool:
        """Tell whether a folded word ends a run of names."""
        return word in self.not_names or word in self.places or word.partition("-")[0] in _SAINTS


_SAINTS = frozenset({"saint", "sainte", "st", "ste", "san", "santa"})


@functools.cache
def lexicon() -> Lexicon:
    """Read the word lists, once."""
    first_names: set[str] = set()
    ambiguous: set[str] = set()
    for word in _words("first_names.txt"):
        name = fold(word.rstrip("*"))
        first_names.add(name)
        if word.endswith("*"):
            ambiguous.add(name)
    places: set[str] = set()
    expressions: dict[str, list[tuple[str, ...]]] = {}
    listed = False
    for line in _lines("places_brands.txt"):
        if line == "= expressions":
            listed = True
        elif listed:
            words = tuple(map(fold, line.split()))
            expressions.setdefault(words[0], []).append(words)
        else:
            places.update(map(fold, line.split()))
    return Lexicon(
        first_names=frozenset(first_names),
        ambiguous=frozenset(ambiguous),
        not_names=frozenset(map(fold, _words("not_names.txt"))),
        places=frozenset(places),
        expressions={first: tuple(rest) for first, rest in expressions.items()},
        common=frozenset(map(fold, _words("common_words.txt"))),
    )


def _lines(name: str) -> Iterator[str]:
    text = (resources.files("metier.guardrails.pii") / "data" / name).read_text(encoding="utf-8")
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            yield line.strip()


def _words(name: str) -> Iterator[str]:
    for line in _lines(name):
        yield from line.split()
