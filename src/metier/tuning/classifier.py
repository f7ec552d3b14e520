"""A trained text classifier: kept in PostgreSQL without pickle, versioned, and run with numpy alone."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from metier.errors import Broken, ConfigError, NotFound
from metier.store import Store
from metier.tuning import features

__all__ = ["Classifier", "Classifiers", "Embed", "Features", "Prediction"]

Features = Literal["embeddings", "tfidf"]

Embed = Callable[[Sequence[str], Literal["query", "passage"]], Awaitable[NDArray[np.float32]]]
"""Turns texts into vectors, shape (n, d); handed in, because it takes the one road."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a classifier thinks of one text."""

    label: str
    confidence: float
    """Calibrated probability of the label, 0 to 1."""
    probabilities: dict[str, float]


@dataclass(frozen=True, slots=True)
class Classifier:
    """Multinomial logistic regression on one kind of features, with a temperature that calibrates it."""

    labels: tuple[str, ...]
    features: Features
    weights: NDArray[np.float32]
    """Shape (labels, columns)."""
    bias: NDArray[np.float32]
    """Shape (labels,)."""
    idf: NDArray[np.float32]
    """Shape (WIDTH,) for tfidf, empty for embeddings."""
    temperature: float = 1.0

    async def predict(self, texts: Sequence[str], embed: Embed | None = None) -> tuple[Prediction, ...]:
        """Classify texts; `embed` is needed when the classifier was trained on embeddings."""
        if not texts:
            return ()
        matrix = await self.matrix(texts, embed)
        scores = (matrix @ self.weights.T + self.bias) / self.temperature
        scores -= scores.max(axis=1, keepdims=True)
        odds = np.exp(scores)
        odds /= odds.sum(axis=1, keepdims=True)
        return tuple(self._prediction(row) for row in odds)

    async def matrix(self, texts: Sequence[str], embed: Embed | None) -> NDArray[np.float32]:
        """Compute the feature rows of texts, shape (n, columns)."""
        if self.features == "tfidf":
            return features.tfidf(texts, self.idf)
        if embed is None:
            raise ConfigError(
                "this classifier works on embeddings and no embedding model is configured: `metier models`"
            )
        return await embed(texts, "query")

    def to_bytes(self) -> bytes:
        """Write the arrays as an .npz file."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, weights=self.weights, bias=self.bias, idf=self.idf)
        return buffer.getvalue()

    def _prediction(self, row: NDArray[np.float32]) -> Prediction:
        best = int(row.argmax())
        shares = {label: round(float(p), 4) for label, p in zip(self.labels, row, strict=True)}
        return Prediction(self.labels[best], round(float(row[best]), 4), shares)


class Classifiers:
    """The versions of every classifier, kept in the store and read once per process."""

    def __init__(self, store: Store) -> None:
        self._queries = store.queries("classifiers")
        self._loaded: dict[tuple[str, int], Classifier] = {}

    async def add(self, name: str, classifier: Classifier, card: dict[str, Any]) -> int:
        """Keep a new version with its card and return its number."""
        weights = classifier.to_bytes()
        full = {
            **card,
            "labels": list(classifier.labels),
            "features": classifier.features,
            "temperature": classifier.temperature,
        }
        row = await self._queries.one(
            "add",
            {
                "name": name,
                "card": json.dumps(full),
                "weights": weights,
                "digest": hashlib.sha256(weights).hexdigest(),
            },
        )
        assert row is not None
        return int(row["version"])

    async def get(self, name: str, version: int | None = None) -> Classifier:
        """Give one version, the last one when none is named."""
        if version is not None and (name, version) in self._loaded:
            return self._loaded[name, version]
        row = await self._queries.one("get", {"name": name, "version": version})
        if row is None:
            wanted = f"{name}@{version}" if version else name
            raise NotFound(
                f"no trained classifier {wanted!r}: `metier train` makes one, `metier train --list` shows them"
            )
        if hashlib.sha256(bytes(row["weights"])).hexdigest() != row["digest"]:
            raise Broken(f"the weights of {name}@{row['version']} do not match their digest: train it again")
        found = _from_bytes(bytes(row["weights"]), row["card"])
        self._loaded[name, int(row["version"])] = found
        return found

    async def list(self) -> list[dict[str, Any]]:
        """Name, version, card and date of every version, newest first."""
        return await self._queries.all("list")


def _from_bytes(weights: bytes, card: dict[str, Any]) -> Classifier:
    try:
        arrays = np.load(io.BytesIO(weights), allow_pickle=False)
        return Classifier(
            labels=tuple(card["labels"]),
            features=card["features"],
            weights=arrays["weights"],
            bias=arrays["bias"],
            idf=arrays["idf"],
            temperature=float(card["temperature"]),
        )
    except (ValueError, KeyError, zipfile.BadZipFile) as error:
        raise Broken(f"a stored classifier cannot be read: {error}") from error
