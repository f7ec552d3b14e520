"""Features of a short text for classical models: words, word pairs and character pieces, hashed to a fixed width."""

from __future__ import annotations

import itertools
import math
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from metier.deferred import deferred

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
else:
    np = deferred("numpy")


__all__ = ["WIDTH", "counts", "fold", "frequencies", "idf", "unit"]

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


def frequencies(texts: Sequence[str]) -> NDArray[np.float32]:
    """Give 1 + log(count) of every hashed term of every text, shape (len(texts), WIDTH)."""
    rows = np.zeros((len(texts), WIDTH), np.float32)
    for row, text in zip(rows, texts, strict=True):
        for column, count in counts(text).items():
            row[column] = 1 + math.log(count)
    return rows


def idf(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Smooth inverse document frequency, ln((1 + n) / (1 + df)) + 1; terms never seen weigh nothing."""
    seen = (rows > 0).sum(axis=0)
    weights = np.log((1 + len(rows)) / (1 + seen)) + 1
    weights[seen == 0] = 0
    return np.asarray(weights, np.float32)


def unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Bring every row to length 1, so that long texts weigh no more than short ones; a row of zeros stays."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(lengths > 0, lengths, 1), np.float32)
