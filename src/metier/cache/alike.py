"""Tells whether two near questions ask the same thing: figures, names, negations, order and words are compared."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import Stemmer

from metier.cache.words import ASKING, CLASSES, FIGURES, NEGATIONS, OPPOSITES, PLAIN, PREFIXES, SYNONYMS, TOWARDS

__all__ = ["Alike", "Difference"]

Difference = Literal[
    "placeholders", "figures", "negation", "opposites", "names", "towards", "asked", "order", "replaced", "added"
]
"""What tells two questions apart."""

_TOKEN = re.compile(
    r"(?P<code>\[\[[A-Z_]+_\d+[a-z]*\]\])"
    r"|(?P<figure>\d+(?:[.,\u00a0\u202f ](?=\d)\d+)*)(?![^\W\d_])"
    r"|(?P<sign>[%€$£°+*/=<>])"
    r"|(?P<word>\w+(?:[-.&]\w+)*)"
    r"|(?P<end>[.!?:\n]+)"
)
_ELISION = re.compile(r"(?<!\w)(?:[cdjlmnst]|qu|jusqu|lorsqu|puisqu)['’](?=\w)", re.IGNORECASE)
_NOT = re.compile(r"n['’]t\b", re.IGNORECASE)
_OWNER = re.compile(r"(?<=\w)['’]s\b")
_HYPHEN = re.compile(r"(?<=[^\W\d_])-(?:t-)?(?=[^\W\d_])")
"""Between two words without figures: est-il, peut-on, e-mail, two-factor."""
_KIND = re.compile(r"_\d+.*")
_MANY = re.compile(r"[.,\u00a0\u202f ]")


@dataclass(frozen=True, slots=True)
class _Read:
    """What is compared of one question."""

    codes: tuple[str, ...]
    figures: tuple[str, ...]
    """In order, dates, units and words for numbers included."""
    negations: int
    names: frozenset[str]
    """Words written with a capital inside a sentence, or with digits, folded."""
    towards: Mapping[str, str]
    """The small word before each name, figure and placeholder, where one stands there."""
    every: frozenset[str]
    """Every word, folded."""
    asked: frozenset[str]
    content: tuple[str, ...]
    """Stems of the words that carry the meaning, in order, synonyms as one."""


class Alike:
    """Compares questions that lie near each other; made once, for its stemmers are costly to make."""

    def __init__(self) -> None:
        self._english = Stemmer.Stemmer("english")
        self._french = Stemmer.Stemmer("french")
        self._one = {self._stem(word): group.split()[0] for group in SYNONYMS for word in group.split()}
        self._plain = frozenset(PLAIN.split())
        self._opposites = [tuple(frozenset(self._stems(side)) for side in pair) for pair in OPPOSITES]

    def __call__(self, first: str, second: str) -> bool:
        """Say whether the answer to one question may be given to the other."""
        return not self.differences(first, second)

    def differences(self, first: str, second: str) -> frozenset[Difference]:
        """Name what tells two questions apart; empty when nothing does."""
        one, two = self._read(first), self._read(second)
        found: set[Difference] = set()
        if one.codes != two.codes or _ambiguous(one.codes):
            found.add("placeholders")
        if one.figures != two.figures:
            found.add("figures")
        if one.negations != two.negations:
            found.add("negation")
        if self._opposed(one, two):
            found.add("opposites")
        if not (one.names <= two.every and two.names <= one.every):
            found.add("names")
        if any(two.towards.get(thing, way) != way for thing, way in one.towards.items()):
            found.add("towards")
        if one.asked != two.asked:
            found.add("asked")
        return frozenset(found | self._worded(one.content, two.content, few_names=len(one.names | two.names) < 2))

    def _worded(self, one: Sequence[str], two: Sequence[str], few_names: bool) -> set[Difference]:
        """Compare the words that carry the meaning: which, and in what order."""
        found: set[Difference] = set()
        left, right = set(one), set(two)
        if left - right and right - left:
            found.add("replaced")
        elif left != right or not left:
            found.add("added")
        shared = left & right
        ours, theirs = _firsts(one, shared), _firsts(two, shared)
        if ours != theirs and not (few_names and _turned(ours, theirs)):
            found.add("order")
        return found

    def _opposed(self, one: _Read, two: _Read) -> bool:
        left, right = set(self._stems(one.every)), set(self._stems(two.every))
        for here, there in self._opposites:
            if (here & left and there & right and not (there & left and here & right)) or (
                there & left and here & right and not (here & left and there & right)
            ):
                return True
        return any(prefix + word in other for prefix in PREFIXES for word, other in _crossed(one.every, two.every))

    def _read(self, text: str) -> _Read:
        text = _HYPHEN.sub(" ", _OWNER.sub("", _NOT.sub(" not", unicodedata.normalize("NFC", text))))
        text = _ELISION.sub(lambda found: found[0][:-1] + " ", text)
        codes: list[str] = []
        figures: list[str] = []
        words: list[str] = []
        names: set[str] = set()
        towards: dict[str, str] = {}
        way = ""
        first = True
        for token in _TOKEN.finditer(text):
            said = token[0]
            if token["end"]:
                first = True
                continue
            if token["code"]:
                codes.append(said)
            elif token["figure"]:
                figures.append(_number(said))
            elif token["sign"]:
                figures.append(FIGURES.get(said, said))
            else:
                # Without its accent the French word for where is the word for or.
                word = "où" if said.lower() == "où" else _fold(said)
                words.append(word)
                if word in FIGURES and (said != "may" and (word != "may" or not first)):
                    figures.append(FIGURES[word])
                if any(map(str.isdigit, word)) or (said[0].isupper() and (not first or said[1:].isupper())):
                    names.add(word)
            thing = said if token["code"] else figures[-1] if token["figure"] else words[-1] if token["word"] else ""
            if way and thing and (token["word"] is None or thing in names):
                towards.setdefault(thing, way)
            way = TOWARDS.get(thing, "")
            first = False
        every = frozenset(words)
        return _Read(
            codes=tuple(codes),
            figures=tuple(figures),
            negations=_negations(words),
            names=frozenset(names - self._plain - ASKING.keys()),
            towards=towards,
            every=every,
            asked=frozenset(ASKING[word] for word in words if word in ASKING) or _phrased(words),
            content=tuple(self._canonical(word) for word in words if self._counts(word)),
        )

    def _counts(self, word: str) -> bool:
        said = word in self._plain or word in ASKING or word in NEGATIONS or word in FIGURES
        return not said and len(word) > 1

    def _canonical(self, word: str) -> str:
        stem = self._stem(word)
        return self._one.get(stem, stem)

    def _stems(self, words: str | frozenset[str]) -> list[str]:
        return [self._stem(word) for word in (words.split() if isinstance(words, str) else words)]

    def _stem(self, word: str) -> str:
        # Both endings are taken off whatever the language: equal words stay equal, which is all that is asked.
        return str(self._french.stemWord(self._english.stemWord(word)))


def _ambiguous(codes: Sequence[str]) -> bool:
    """Of two people, nobody can tell whether they change places."""
    kinds = Counter(_KIND.sub("", code) for code in set(codes))
    return any(count > 1 for count in kinds.values())


def _number(said: str) -> str:
    """One form for 1 000, 1,000 and 1.000; two decimals after a point or comma stay what they are."""
    parts = _MANY.split(said)
    if len(parts) > 1 and all(len(part) == 3 for part in parts[1:]):
        return "".join(parts).lstrip("0") or "0"
    return ".".join(parts).lstrip("0") or "0"


def _negations(words: Sequence[str]) -> int:
    """Count what denies; the French "ne" says nothing by itself, and "plus" denies only after it."""
    count = 0
    for place, word in enumerate(words):
        if word == "plus":
            count += bool({"ne", "n"} & set(words[max(0, place - 4) : place]))
        else:
            count += word in NEGATIONS
    return count


def _phrased(words: Sequence[str]) -> frozenset[str]:
    """What is asked for where no word alone says so."""
    joined = f" {' '.join(words)} "
    return frozenset(kind for phrase, kind in CLASSES if f" {phrase} " in joined)


def _firsts(words: Sequence[str], shared: set[str]) -> list[str]:
    return list(dict.fromkeys(word for word in words if word in shared))


def _turned(one: Sequence[str], two: Sequence[str]) -> bool:
    """Tell whether a part has only moved from one end to the other, as clauses do; two words alone may be reversed."""
    return len(one) > 2 and any([*one[cut:], *one[:cut]] == [*two] for cut in range(1, len(one)))


def _crossed(one: frozenset[str], two: frozenset[str]) -> list[tuple[str, frozenset[str]]]:
    only = [(word, two - one) for word in one - two] + [(word, one - two) for word in two - one]
    return [(word, other) for word, other in only if len(word) > 3]


def _fold(word: str) -> str:
    word = word.replace("œ", "oe").replace("Œ", "oe").replace("æ", "ae").replace("Æ", "ae")
    plain = unicodedata.normalize("NFD", word)
    return "".join(character for character in plain if not unicodedata.combining(character)).lower()
