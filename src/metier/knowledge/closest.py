"""Ranks the sentences of found extracts by how near each is to a question: by meaning, words and place."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from metier.deferred import deferred
from metier.knowledge.analyser import Analyser, Language
from metier.knowledge.embedding import Embedder, Vectors, embed

if TYPE_CHECKING:
    import numpy as np
else:
    np = deferred("numpy")

__all__ = ["Asked", "Near", "Passage", "closest", "sentences"]

_WRAPPED = re.compile(r"(?<=[^\n]{50})\n(?=[^\s\-–—•*·\d])")
"""A line break that only ends a full line: the next line goes on with the sentence."""
_STOP = re.compile(r"(?<=[.!?…])\s+(?=[A-ZÀ-ÖØ-Þ0-9«\"(])|\n+")
_WORDS, _RANK = 1.0, 0.15
"""What shared words and the rank of the extract weigh beside meaning, which counts from 0 to 1."""
_ABOUT, _PATH = 0.5, 0.6
"""What a word counts that stands only around the question, or only in the heading, beside 1."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One question, and the words around it that say what it is about."""

    question: str
    about: str


@dataclass(frozen=True, slots=True)
class Passage:
    """One extract: where it stands, what it says, and how well the search placed it for each question."""

    id: str
    path: str
    text: str
    ranks: Mapping[int, int]
    """Number of a question → place among the extracts found for it, 0 first."""


@dataclass(frozen=True, slots=True)
class Near:
    """A sentence and how near it is to a question."""

    id: str
    path: str
    text: str
    score: float
    """About 0 when they have nothing in common, above 1 when meaning and words agree."""
    shared: float
    """Share of the question's own words that the sentence or its heading has; 1 for a question of one word or none."""


def sentences(text: str) -> list[str]:
    """Cut an extract into sentences and table lines, each as it stands; bits without a claim are left out."""
    parts = (part.strip() for part in _STOP.split(_WRAPPED.sub(" ", text)))
    return [part for part in parts if len(part) > 15 and len(part.split()) > 2]


async def closest(
    asked: Sequence[Asked],
    passages: Sequence[Passage],
    embedder: Embedder | None,
    language: Language,
    most: int,
) -> list[tuple[Near, ...]]:
    """Give the nearest sentences for each question, best first; without an embedding model words alone decide."""
    known: dict[str, tuple[Passage, str]] = {}
    for passage in passages:
        for sentence in sentences(passage.text):
            known.setdefault(sentence, (passage, sentence))
    pairs = [*known.values()]
    if not pairs or not asked:
        return [() for _ in asked]
    meaning = await _meaning(asked, pairs, embedder)
    words, shared = _words(asked, pairs, Analyser(language))
    found: list[tuple[Near, ...]] = []
    for number in range(len(asked)):
        rank = np.array([_placed(passage, number) for passage, _ in pairs])
        scores = meaning[:, number] + _WORDS * words[:, number] + _RANK * rank
        best = np.argsort(-scores, kind="stable")[:most]
        found.append(
            tuple(
                Near(pairs[at][0].id, pairs[at][0].path, pairs[at][1], float(scores[at]), float(shared[at, number]))
                for at in best
            )
        )
    return found


def _placed(passage: Passage, number: int) -> float:
    return max(0.0, 1 - passage.ranks[number] / 6) if number in passage.ranks else 0.0


async def _meaning(asked: Sequence[Asked], pairs: Sequence[tuple[Passage, str]], embedder: Embedder | None) -> Vectors:
    """Cosine of each sentence, under its heading, with each question alone and in its surroundings, from 0 to 1."""
    if embedder is None:
        return np.full((len(pairs), len(asked)), 0.5, dtype=np.float32)
    texts = [text for one in asked for text in (one.question, one.about)]
    questions = np.stack(await embed(embedder, texts, "query")).reshape(len(asked), 2, -1).mean(1)
    stated = np.stack(await embed(embedder, [f"{passage.path}\n{text}" for passage, text in pairs], "passage"))
    return np.asarray((stated @ questions.T - embedder.floor) / (embedder.ceiling - embedder.floor), dtype=np.float32)


def _words(asked: Sequence[Asked], pairs: Sequence[tuple[Passage, str]], analyser: Analyser) -> tuple[Vectors, Vectors]:
    """Share of a question's words each sentence has: weighed by how rare they are here, and merely counted."""
    said = [frozenset(analyser(text).terms) for _, text in pairs]
    whole = [frozenset(analyser(f"{passage.path} {text}").terms) for passage, text in pairs]
    times = Counter(chain.from_iterable(whole))
    weighed = np.zeros((len(pairs), len(asked)), dtype=np.float32)
    counted = np.ones_like(weighed)
    for number, one in enumerate(asked):
        own = frozenset(analyser(one.question).terms)
        around = frozenset(analyser(one.about).terms) - own
        rare = {term: math.log1p(len(pairs) / (times[term] + 0.5)) for term in own | around}
        total = sum(rare[term] for term in own) + _ABOUT * sum(rare[term] for term in around)
        for at, (here, there) in enumerate(zip(said, whole, strict=True)):
            gained = sum(
                rare[term] * (1 if term in own else _ABOUT) * (1 if term in here else _PATH)
                for term in (own | around) & there
            )
            weighed[at, number] = gained / total if total else 0.0
            counted[at, number] = len(own & there) / len(own) if len(own) > 1 else 1.0
    return weighed, counted
