"""What steps are handed by the application: the roads to models, documents and trained classifiers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from metier.calls import JSON, Answer, Call
from metier.knowledge.embedding import Embedder
from metier.workflow.engine import StepContext

__all__ = ["Ask", "Embedding", "Extract", "Predict", "Search"]

Ask: TypeAlias = Callable[[Call], Awaitable[Answer]]
"""Takes the one road to a model and gives the whole answer."""

Predict: TypeAlias = Callable[[StepContext, str, int | None, str], Awaitable[tuple[str, float, Mapping[str, float]]]]
"""Classifies a text by a classifier's name and version: label, confidence, probability of every label."""


@dataclass(frozen=True, slots=True)
class Extract:
    """One extract of a document, as steps and prompts see it."""

    id: str
    document: str
    title: str
    text: str
    score: float

    def data(self) -> dict[str, JSON]:
        """The extract as JSON."""
        return {
            "id": self.id,
            "document": self.document,
            "title": self.title,
            "text": self.text,
            "score": round(self.score, 4),
        }


Search: TypeAlias = Callable[[StepContext, str, str, int, float | None], Awaitable[Sequence[Extract]]]
"""Searches a collection with the rights of the run: collection, question, how many, least score."""

Embedding: TypeAlias = Callable[[StepContext], Embedder | None]
"""Gives the embedding model in the name of the run; None where none is declared."""
