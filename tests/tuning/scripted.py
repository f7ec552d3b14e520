"""A small support desk whose vectors are scripted, for tests of training and of classifiers."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from metier.tuning.train import Example, Trained, fit

__all__ = ["DESK", "Vectors", "desk", "trained"]

DESK = {
    "retour": ("renvoyer", "rembourser", "retour", "annuler", "reprendre", "échanger"),
    "facture": ("facture", "TVA", "paiement", "virement", "avoir", "prélèvement"),
    "autre": ("impôts", "recette", "météo", "philosophie", "football", "loterie"),
}
"""Words that give a message of each label away."""


class Vectors:
    """Embeds a text by the words that give it away, with a little noise and one common direction, as E5 does."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, str]] = []

    async def __call__(self, texts: Sequence[str], purpose: Literal["query", "passage"]) -> NDArray[np.float32]:
        """One row of six numbers per text."""
        self.asked.append((len(texts), purpose))
        return np.array([self._row(text) for text in texts], np.float32)

    @staticmethod
    def _row(text: str) -> NDArray[np.float64]:
        noise = np.random.default_rng(zlib.crc32(text.encode())).normal(scale=0.15, size=6)
        signs = [float(any(word in text for word in words)) for words in DESK.values()]
        row = np.array([*signs, 0, 0, 5.0]) + noise
        return row / np.linalg.norm(row)


def desk() -> list[Example]:
    """Fifty-four messages: of each word one for fitting twice over, and one the training never sees."""
    return [
        Example(f"{opening} {word} {at}", label, split)
        for label, words in DESK.items()
        for at, word in enumerate(words)
        for opening, split in (("bonjour,", "train"), ("question de", "validation"), ("svp", "test"))
    ]


def trained(kind: Literal["embeddings", "tfidf"] = "embeddings", examples: Sequence[Example] | None = None) -> Trained:
    """A classifier fitted on the desk."""
    return asyncio.run(fit(desk() if examples is None else examples, kind, Vectors()))
