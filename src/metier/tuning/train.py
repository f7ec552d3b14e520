"""Trains a classifier on labelled messages, chosen by cross-validation and measured on a split it never sees."""

from __future__ import annotations

import hashlib
import json
import math
import pathlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from metier.deferred import deferred
from metier.errors import ConfigError, Invalid
from metier.tuning import features
from metier.tuning.classifier import Classifier, Embed, Features, Prediction, Reading, read

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
else:
    np = deferred("numpy")

__all__ = ["Example", "Measure", "Trained", "fingerprint", "fit", "measure", "read_examples"]

_SPLITS = ("train", "validation", "test")
_STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
_FOLDS = 5
_Z = 1.959964
_TERMS = 1.5
"""Weight of the terms beside the vectors; best of 0.5, 0.7, 1, 1.5, 2, 3 and 4 cross-validated on the sample."""


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled message."""

    text: str
    label: str
    split: str
    """train and validation are both fitted on, by cross-validation; test never is."""
    group: str = ""
    """Messages of one group say the same thing in other words and stay in one fold; empty means a group of its own."""


@dataclass(frozen=True, slots=True)
class Measure:
    """How good a classifier is on one split."""

    count: int
    accuracy: float
    interval: tuple[float, float]
    """95 % interval of the accuracy (Wilson)."""
    macro_f1: float
    calibration_error: float
    """Expected calibration error over 10 bins of confidence."""
    per_label: dict[str, dict[str, float]]
    cpu_ms: float | None = None
    """CPU of this process per message, features included, milliseconds; a model in a child process is not counted."""
    wall_ms: float | None = None
    """Time per message, milliseconds; none where the messages were not classified one by one."""


@dataclass(frozen=True, slots=True)
class Trained:
    """A classifier with the data it came from and what it is worth."""

    classifier: Classifier
    cross_validation: Measure
    """On train and validation, each message by a model fitted without its fold; its calibration is a little flattered,
    as the temperature was chosen on the same scores."""
    test: Measure
    card: dict[str, Any]


def read_examples(path: pathlib.Path) -> tuple[Example, ...]:
    """Read a JSON Lines file of text, label and split; every line that is wrong is named."""
    examples = []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise Invalid(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8") from error
    except OSError as error:
        raise Invalid(f"cannot read {path}: {error.strerror}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
            text, label, split = str(item["text"]), str(item["label"]), str(item.get("split", "train"))
            group = str(item.get("group", ""))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Invalid(
                f"{path}:{number}: expected one JSON object a line, {{text, label, split}}, found {line[:80]!r} "
                f"({error})"
            ) from error
        if split not in _SPLITS:
            raise Invalid(f"{path}:{number}: split {split!r} is none of {', '.join(_SPLITS)}")
        examples.append(Example(text, label, split, group))
    _check(examples, path)
    return tuple(examples)


async def fit(
    examples: Sequence[Example],
    kind: Features,
    embed: Embed | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Trained:
    """Choose strength and temperature by cross-validation on train and validation, fit on both, measure on test."""
    known = [e for e in examples if e.split != "test"]
    unseen = [e for e in examples if e.split == "test"]
    labels = tuple(sorted({e.label for e in known}))
    truth = np.array([labels.index(e.label) for e in known])
    reading = await read([e.text for e in known], kind, _telling(embed, len(known), progress))
    scores: dict[float, NDArray[np.float32]] = {s: np.zeros((len(known), len(labels)), np.float32) for s in _STRENGTHS}
    folds = _folds(known)
    for fold in range(folds.max() + 1):
        progress(f"{kind}: cross-validation {fold + 1}/{folds.max() + 1}")
        kept, held = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        fitting = _Fitting(reading.part(kept), truth[kept], labels, kind)
        for strength in _STRENGTHS:
            scores[strength][held] = fitting.fitted(strength).scores(reading.part(held))
    chosen = {strength: _temperature(found, truth) for strength, found in scores.items()}
    strength = min(_STRENGTHS, key=lambda s: chosen[s][1])
    classifier = replace(_Fitting(reading, truth, labels, kind).fitted(strength), temperature=chosen[strength][0])
    progress(f"{kind}: measuring on {len(unseen)} messages never used for fitting")
    crossed = _measured(labels, known, classifier.predictions(scores[strength]))
    test = await measure(classifier, unseen, embed)
    card: dict[str, Any] = {
        "features": kind,
        "labels": list(labels),
        "data_sha256": fingerprint(examples),
        "counts": dict(Counter(e.split for e in examples)),
        "fitted_on": ["train", "validation"],
        "chosen_by": f"log loss, cross-validation in {folds.max() + 1} folds of train and validation",
        "strength": strength,
        "cross_validation": asdict(crossed),
        "test": asdict(test),
    }
    return Trained(classifier, crossed, test, card)


def fingerprint(examples: Sequence[Example]) -> str:
    """Give the SHA-256 of labelled messages, in hexadecimal: the card of a classifier says what it learnt from."""
    return hashlib.sha256(json.dumps([asdict(e) for e in examples]).encode()).hexdigest()


async def measure(classifier: Classifier, examples: Sequence[Example], embed: Embed | None = None) -> Measure:
    """Classify each example on its own, as in production, and compare with its label."""
    cpu, wall = time.process_time(), time.perf_counter()
    found = [(await classifier.predict([e.text], embed))[0] for e in examples]
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    each = 1000 / len(examples)
    return replace(_measured(classifier.labels, examples, found), cpu_ms=each * cpu, wall_ms=each * wall)


def _wilson(hits: int, count: int) -> tuple[float, float]:
    """Bound a proportion at 95 %, also where every message was right."""
    part, square = hits / count, _Z * _Z
    middle = (part + square / (2 * count)) / (1 + square / count)
    half = _Z * math.sqrt(part * (1 - part) / count + square / (4 * count * count)) / (1 + square / count)
    return max(0.0, middle - half) if hits else 0.0, min(1.0, middle + half) if hits < count else 1.0


def _measured(labels: Sequence[str], examples: Sequence[Example], found: Sequence[Prediction]) -> Measure:
    right = np.array([p.label == e.label for p, e in zip(found, examples, strict=True)], dtype=bool)
    confidence = np.array([p.confidence for p in found])
    per_label = {}
    for label in labels:
        truth = np.array([e.label == label for e in examples])
        said = np.array([p.label == label for p in found])
        hit = int((truth & said).sum())
        precision, recall = hit / max(int(said.sum()), 1), hit / max(int(truth.sum()), 1)
        f1 = 2 * precision * recall / (precision + recall) if hit else 0.0
        per_label[label] = {"precision": precision, "recall": recall, "f1": f1, "count": float(truth.sum())}
    return Measure(
        count=len(examples),
        accuracy=float(right.mean()),
        interval=_wilson(int(right.sum()), len(right)),
        macro_f1=float(np.mean([row["f1"] for row in per_label.values()])),
        calibration_error=_calibration_error(confidence, right),
        per_label=per_label,
    )


class _Fitting:
    """Some messages ready to be fitted on at any strength."""

    def __init__(self, reading: Reading, truth: NDArray[np.int64], labels: tuple[str, ...], kind: Features) -> None:
        width = reading.vectors.shape[1] + reading.frequencies.shape[1]
        self._blank = Classifier(
            labels, kind,
            weights=np.zeros((len(labels), width), np.float32),
            bias=np.zeros(len(labels), np.float32),
            idf=features.idf(reading.frequencies),
            centre=reading.vectors.mean(axis=0),
        )  # fmt: skip
        self._truth = truth
        self._scale = np.ones(width, np.float32)
        self._scale[reading.vectors.shape[1] :] = _TERMS
        columns = self._blank.columns(reading) * self._scale
        # The best weights lie in the span of the messages: as many columns as messages say all, and fit much faster.
        sizes, turned = np.linalg.eigh(columns @ columns.T)
        turned, lengths = turned[:, sizes > 1e-6 * sizes[-1]], np.sqrt(sizes[sizes > 1e-6 * sizes[-1]])
        self._spanned = turned * lengths
        self._basis = (turned / lengths).T @ columns

    def fitted(self, strength: float) -> Classifier:
        """Fit by logistic regression; every label counts as much, however many messages it has."""
        model = _regression(strength, self._spanned, self._truth)
        weights, bias = model.coef_, model.intercept_
        if len(self._blank.labels) == 2:  # scikit-learn only keeps the odds of the second
            weights, bias = np.vstack([-weights, weights]) / 2, np.concatenate([-bias, bias]) / 2
        full = (weights @ self._basis) * self._scale
        return replace(self._blank, weights=full.astype(np.float32), bias=bias.astype(np.float32))


def _folds(examples: Sequence[Example]) -> NDArray[np.int64]:
    """The fold of every example: groups stay whole, every label is in every fold it has groups for."""
    groups: dict[str, list[str]] = {}
    for example in examples:
        mine = groups.setdefault(example.label, [])
        if (name := example.group or example.text) not in mine:
            mine.append(name)
    for label, mine in groups.items():
        if len(mine) < 2:
            raise Invalid(f"the label {label!r} has only one group of messages: give it another, to check it against")
        np.random.default_rng(0).shuffle(mine)
    count = min(_FOLDS, min(map(len, groups.values())))
    place = {(label, name): at % count for label, mine in groups.items() for at, name in enumerate(mine)}
    return np.array([place[e.label, e.group or e.text] for e in examples])


def _telling(embed: Embed | None, total: int, progress: Callable[[str], None]) -> Embed | None:
    """The same embedding, that says how far it is."""
    if embed is None:
        return None
    done = 0

    async def told(texts: Sequence[str], purpose: Literal["query", "passage"]) -> NDArray[np.float32]:
        nonlocal done
        vectors = await embed(texts, purpose)
        done += len(texts)
        progress(f"embeddings: {done} of {total} messages read")
        return vectors

    return told


def _check(examples: Sequence[Example], path: pathlib.Path) -> None:
    for split in _SPLITS:
        found = Counter(e.label for e in examples if e.split == split)
        missing = sorted({e.label for e in examples} - set(found))
        if not found or missing:
            raise Invalid(f"{path}: the split {split!r} has no example of {', '.join(missing) or 'any label'}")
    seen: dict[str, str] = {}
    groups: dict[str, str] = {}
    for example in examples:
        folded = " ".join(features.fold(example.text).split())
        if seen.setdefault(folded, example.split) != example.split:
            raise Invalid(f"{path}: the message {example.text[:60]!r} is in two splits: the measure would be wrong")
        if example.group and groups.setdefault(example.group, example.split) != example.split:
            raise Invalid(f"{path}: the group {example.group!r} is in two splits: the measure would be wrong")


def _temperature(scores: NDArray[np.float32], truth: NDArray[np.int64]) -> tuple[float, float]:
    """The temperature that gives the lowest log loss on held-out scores (Guo et al., 2017), and that loss."""
    best = (1.0, math.inf)
    for temperature in np.geomspace(0.05, 5, 60):
        scaled = scores / temperature
        scaled = scaled - scaled.max(axis=1, keepdims=True)
        logs = scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True))
        loss = float(-logs[np.arange(len(truth)), truth].mean())
        if loss < best[1]:
            best = (float(temperature), loss)
    return best


def _calibration_error(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    bins = np.minimum((confidence * 10).astype(int), 9)
    gaps = [
        abs(float(confidence[bins == b].mean()) - float(right[bins == b].mean())) * float((bins == b).mean())
        for b in range(10)
        if (bins == b).any()
    ]
    return float(sum(gaps))


def _regression(strength: float, rows: NDArray[np.float32], truth: NDArray[np.int64]) -> Any:
    try:
        from sklearn.linear_model import LogisticRegression
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise ConfigError("training needs scikit-learn: pip install 'metier[local]'") from error
    # Products this small are ten times slower shared between threads that wait for each other on a busy machine.
    with threadpool_limits(limits=1):
        return LogisticRegression(C=strength, max_iter=2000, class_weight="balanced").fit(rows, truth)
