"""The embedding model as the knowledge room sees it: a handed-in callable with the bounds of its scores."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from metier.calls import Purpose
from metier.deferred import deferred
from metier.errors import Broken

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
else:
    np = deferred("numpy")

__all__ = ["Embed", "Embedder", "Vectors", "embed", "literal", "stacked"]

Vectors: TypeAlias = "NDArray[np.float32]"
Embed: TypeAlias = Callable[[Sequence[str], Purpose], Awaitable[Vectors]]
"""Gives one vector for each text; the model may treat questions and passages differently."""

_BATCH = 32


@dataclass(frozen=True, slots=True)
class Embedder:
    """An embedding model: vectors are only ever compared with vectors of the same model."""

    model: str
    """Identity of the model and its revision, stored beside each vector."""
    embed: Embed
    floor: float = 0.75
    """Cosine of a question and a passage that have nothing in common."""
    ceiling: float = 0.95
    """Cosine of a question and the passage that answers it best."""


async def embed(embedder: Embedder, texts: Sequence[str], purpose: Purpose) -> list[Vectors]:
    """Embed texts in small batches and refuse vectors that could not be compared."""
    vectors: list[Vectors] = []
    for first in range(0, len(texts), _BATCH):
        batch = texts[first : first + _BATCH]
        made = np.asarray(await embedder.embed(batch, purpose), dtype=np.float32)
        if made.ndim != 2 or len(made) != len(batch) or not np.isfinite(made).all() or not made.any(axis=1).all():
            raise Broken(
                f"Embedding {len(batch)!r} texts with {embedder.model!r} gave unusable vectors; check the model."
            )
        vectors.extend(made)
    return vectors


def stacked(rows: Sequence[Sequence[float]]) -> Vectors:
    """Make one array of the vectors of an answer."""
    return np.array(rows, dtype=np.float32)


def literal(vector: Vectors) -> str:
    """Write a vector as PostgreSQL reads it."""
    return "[" + ",".join(f"{value:.7g}" for value in vector.tolist()) + "]"
