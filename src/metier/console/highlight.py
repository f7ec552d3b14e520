"""Quoted words found again in an extract, so that a reader sees at once what an answer rests on."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Passage", "highlight"]

_SAME = str.maketrans({**dict.fromkeys("‘’ʼ`´", "'"), **dict.fromkeys("‐‑‒–—−", "-")})
_DROPPED = frozenset('«»"“”„*_')
_CUT = re.compile(r"\[?(?:…|\.{3})\]?")


@dataclass(frozen=True, slots=True)
class Passage:
    """A stretch of an extract, quoted or not."""

    text: str
    quoted: bool


def highlight(text: str, quotes: Sequence[str]) -> tuple[Passage, ...]:
    """Cut a text where quotes begin and end; spaces, quotation marks, dashes, emphasis and case do not matter."""
    text = unicodedata.normalize("NFC", text)
    plain, places = _plain(text)
    spans = sorted(span for quote in quotes for span in _spans(quote, plain, places))
    passages: list[Passage] = []
    at = 0
    for start, end in spans:
        if end <= at:
            continue
        if start > at:
            passages.append(Passage(text[at:start], quoted=False))
        passages.append(Passage(text[max(start, at) : end], quoted=True))
        at = end
    if at < len(text):
        passages.append(Passage(text[at:], quoted=False))
    return tuple(passages)


def _plain(text: str) -> tuple[str, list[int]]:
    """Write a text in one spelling, with the place each of its characters comes from."""
    letters: list[str] = []
    places: list[int] = []
    for place, letter in enumerate(text):
        if letter in _DROPPED:
            continue
        for one in unicodedata.normalize("NFKC", letter).casefold().translate(_SAME):
            if one.isspace():
                if not letters or letters[-1] == " ":
                    continue
                one = " "
            letters.append(one)
            places.append(place)
    return "".join(letters), places


def _spans(quote: str, plain: str, places: list[int]) -> list[tuple[int, int]]:
    """Find a quote, part by part where an ellipsis leaves words out; all of it or nothing."""
    spans: list[tuple[int, int]] = []
    at = 0
    for part in _CUT.split(unicodedata.normalize("NFC", quote)):
        wanted = _plain(part)[0].strip(" .")
        if not wanted:
            continue
        found = plain.find(wanted, at)
        if found < 0:
            return []
        at = found + len(wanted)
        spans.append((places[found], places[at - 1] + 1))
    return spans
