"""A trained text classifier: kept in PostgreSQL without pickle, versioned, and run with numpy alone."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from metier.deferred import deferred
from metier.errors import Broken, ConfigError, NotFound
from metier.store import Store
from metier.tuning import features

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
else:
    np = deferred("numpy")

__all__ = ["Classifier", "Classifiers", "Embed", "Features", "Prediction", "Reading", "read"]

Features = Literal["embeddings", "tfidf"]

Embed: TypeAlias = Callable[[Sequence[str], Literal["query", "passage"]], Awaitable["NDArray[np.float32]"]]
"""Turns texts into vectors, shape (n, d); handed in, because it takes the one road."""

_BATCH = 64
"""Texts embedded at a time, so that one call stays far from its time limit."""

_READ = 2_000
"""Characters read of a text: what somebody wants stands at the start, and an embedding model reads no further."""

_UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, EOFError, OSError, zlib.error, zipfile.BadZipFile)
"""What numpy raises on bytes that are no .npz file, or not a whole one."""


def _nothing() -> NDArray[np.float32]:
    return np.zeros(0, np.float32)


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a classifier thinks of one text."""

    label: str
    confidence: float
    """Calibrated probability of the label, 0 to 1."""
    probabilities: dict[str, float]


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read of some texts before any training: a classifier turns it into its own columns."""

    frequencies: NDArray[np.float32]
    """Shape (n, WIDTH)."""
    vectors: NDArray[np.float32]
    """Shape (n, d); d is 0 without embeddings."""

    def part(self, rows: NDArray[np.int64]) -> Reading:
        """Give the reading of some of the texts, by their places."""
        return Reading(self.frequencies[rows], self.vectors[rows])


async def read(texts: Sequence[str], kind: Features, embed: Embed | None) -> Reading:
    """Read texts for one kind of features; embeddings are asked for a batch at a time."""
    starts = [text[:_READ] for text in texts]
    vectors = np.zeros((len(starts), 0), np.float32)
    if kind == "embeddings":
        if embed is None:
            raise ConfigError(
                "this classifier works on embeddings and no embedding model is configured: `metier models`"
            )
        batches = [await embed(starts[i : i + _BATCH], "query") for i in range(0, len(starts), _BATCH)]
        vectors = np.concatenate(batches) if batches else vectors
    return Reading(features.frequencies(starts), vectors)


@dataclass(frozen=True, slots=True)
class Classifier:
    """Multinomial logistic regression on one kind of features, with a temperature that calibrates it."""

    labels: tuple[str, ...]
    features: Features
    """tfidf: terms alone; embeddings: vectors, and beside them the terms when `idf` is given."""
    weights: NDArray[np.float32]
    """Shape (labels, columns)."""
    bias: NDArray[np.float32]
    """Shape (labels,)."""
    idf: NDArray[np.float32]
    """Shape (WIDTH,); empty when terms are not looked at."""
    temperature: float = 1.0
    centre: NDArray[np.float32] = field(default_factory=_nothing)
    """Shape (d,): mean vector of the training messages, taken away from every vector; empty when nothing is."""

    async def predict(self, texts: Sequence[str], embed: Embed | None = None) -> tuple[Prediction, ...]:
        """Classify texts; `embed` is needed when the classifier was trained on embeddings."""
        if not texts:
            return ()
        return self.predictions(self.scores(await read(texts, self.features, embed)))

    def classify(self, text: str) -> Prediction:
        """Classify one text by its terms at once, where nothing may be waited for."""
        if self.features != "tfidf":
            raise ConfigError("this classifier works on embeddings, which have to be asked for: use `predict`")
        counts = features.counts(text[:_READ])
        columns = np.fromiter(counts, np.int64, len(counts))
        weighed = (1 + np.log(np.fromiter(counts.values(), np.float32, len(counts)))) * self.idf[columns]
        length = float(np.linalg.norm(weighed)) or 1.0
        return self.predictions((self.weights[:, columns] @ (weighed / length) + self.bias)[None, :])[0]

    def predictions(self, scores: NDArray[np.float32]) -> tuple[Prediction, ...]:
        """Turn scores into calibrated probabilities."""
        heated = scores / self.temperature
        odds = np.exp(heated - heated.max(axis=1, keepdims=True))
        return tuple(self._prediction(row / row.sum()) for row in odds)

    def scores(self, reading: Reading) -> NDArray[np.float32]:
        """Score every label for every text, before the temperature, shape (n, labels)."""
        return self.columns(reading) @ self.weights.T + self.bias

    def columns(self, reading: Reading) -> NDArray[np.float32]:
        """Turn a reading into the rows the weights multiply, shape (n, columns)."""
        vectors = reading.vectors
        if vectors.shape[1] + self.idf.size != self.weights.shape[1]:
            raise ConfigError(
                f"this classifier was trained on vectors of {self.weights.shape[1] - self.idf.size} numbers and the "
                f"embedding model gives {vectors.shape[1]}: train it again with `metier train`"
            )
        if self.centre.size:
            # E5 vectors all point the same way: the mean taken away, what tells them apart is left
            vectors = features.unit(vectors - self.centre)
        if not self.idf.size:
            return vectors
        return np.hstack([vectors, features.unit(reading.frequencies * self.idf)])

    def to_bytes(self) -> bytes:
        """Write the arrays as an .npz file."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, weights=self.weights, bias=self.bias, idf=self.idf, centre=self.centre)
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
            centre=arrays.get("centre", _nothing()),
        )
    except _UNREADABLE as error:
        raise Broken(f"a stored classifier cannot be read ({error}): train it again") from error
