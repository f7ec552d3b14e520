"""Cuts text into the pieces multilingual-e5-small was trained on: the most probable cut, word by word."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import orjson

__all__ = ["Vocabulary", "save"]

_SPACE = "\u2581"
_VANISH = re.compile("[\x01-\x08\x0b\x0e-\x1f\x7f\x8f\x9f]")
_BLANK = re.compile("[\t\n\x0c\r\u1680\u200b-\u200f\u2028\u2029\u2581\ufeff\ufffd]")
_SPACES = re.compile(" {2,}")
_UNKNOWN_PENALTY = 10.0
_REMEMBERED_WORDS = 20_000


def save(path: Path, pieces: Sequence[tuple[str, float]], special: dict[str, int]) -> None:
    """Write a vocabulary: its pieces with their log-probabilities, ids that have a meaning, the longest input."""
    path.write_bytes(orjson.dumps({"pieces": pieces, **special}))


class Vocabulary:
    """The pieces in memory (a tenth of what a general tokenizer holds), and the cut of a text into their ids."""

    def __init__(self, path: Path) -> None:
        read = orjson.loads(path.read_bytes())
        self._begin, self._end, self._unknown = read["begin"], read["end"], read["unknown"]
        self._longest_text = read["positions"] - 2
        special = {self._begin, self._end, self._unknown, read["pad"]}
        self._ids = {piece: i for i, (piece, _) in enumerate(read["pieces"]) if i not in special}
        self._scores = [score for _, score in read["pieces"]]
        self._longest_piece = max(map(len, self._ids))
        self._lowest = min(self._scores) - _UNKNOWN_PENALTY
        self._cut = lru_cache(_REMEMBERED_WORDS)(self._best_cut)

    def ids(self, text: str) -> list[int]:
        """Cut a text, between the marks of begin and end, no longer than the model reads."""
        text = unicodedata.normalize("NFKC", _BLANK.sub(" ", _VANISH.sub("", text)))
        text = _SPACES.sub(" ", text).replace(" ", _SPACE)
        if not text.startswith(_SPACE):
            text = _SPACE + text
        found: list[int] = []
        for word in text[1:].split(_SPACE):
            for piece in self._cut(_SPACE + word):
                if piece != self._unknown or not found or found[-1] != self._unknown:
                    found.append(piece)
            if len(found) > self._longest_text:
                break
        return [self._begin, *found[: self._longest_text], self._end]

    def _best_cut(self, word: str) -> tuple[int, ...]:
        best = [0.0] + [float("-inf")] * len(word)
        via = [(0, self._unknown)] * (len(word) + 1)
        for start in range(len(word)):
            score = best[start]
            for end in range(start + 1, min(len(word), start + self._longest_piece) + 1):
                piece = self._ids.get(word[start:end])
                reached = score + (self._lowest if piece is None else self._scores[piece])
                if (piece is not None or end == start + 1) and reached > best[end]:
                    best[end], via[end] = reached, (start, self._unknown if piece is None else piece)
        cut: list[int] = []
        at = len(word)
        while at:
            at, piece = via[at]
            cut.append(piece)
        return tuple(reversed(cut))
