"""Features of a short text for classical models: words, word pairs and character pieces, hashed to a fixed width."""

from __future__ import annotations

import itertools
import math
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["WIDTH", "counts", "fold", "tfidf"]

WIDTH = 1 << 14
"""Number of columns terms are hashed into."""

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_DIGITS = re.compile(r"\d")


def fold(text: str) -> str:
    """Lower the case, drop accents and turn every digit into 0: spelling varies, and numbers say little of a motive."""
    plain = unicodedata.normalize("NFD", text.lower())
    return _DIGITS.sub("0", "".join(c for c in plain if unicodedata.category(c) != "Mn"))


def counts(text: str) -> Counter[int]:
    """Count the hashed terms of a text: words, pairs of words, and pieces of 3 to 5 characters inside words."""
    words = _WORD.findall(fold(text))
    terms = [*words, *(f"{a} {b}" for a, b in itertools.pairwise(words))]
    for word in words:
        padded = f"_{word}_"
        for size in (3, 4, 5):
            terms.extend(f"#{padded[i : i + size]}" for i in range(len(padded) - size + 1))
    return Counter(zlib.crc32(term.encode()) % WIDTH for term in terms)


def tfidf(texts: Sequence[str], idf: NDArray[np.float32]) -> NDArray[np.float32]:
    """Give one L2-normalised row per text: (1 + log count) × idf, shape (len(texts), WIDTH)."""
    rows = np.zeros((len(texts), WIDTH), np.float32)
    for row, text in zip(rows, texts, strict=True):
        for column, count in counts(text).items():
            row[column] = (1 + math.log(count)) * idf[column]
        length = float(np.linalg.norm(row))
        if length:
            row /= length
    return rows
