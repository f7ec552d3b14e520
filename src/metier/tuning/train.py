"""Trains a classifier on labelled messages and measures it on a split that training never sees."""

from __future__ import annotations

import hashlib
import json
import math
import pathlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metier.errors import ConfigError, Invalid
from metier.tuning import features
from metier.tuning.classifier import Classifier, Embed, Features

__all__ = ["Example", "Measure", "Trained", "fit", "measure", "read_examples"]

_SPLITS = ("train", "validation", "test")
_STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled message."""

    text: str
    label: str
    split: str
    """train, validation or test."""


@dataclass(frozen=True, slots=True)
class Measure:
    """How good a classifier is on one split."""

    count: int
    accuracy: float
    interval: tuple[float, float]
    """95 % bootstrap interval of the accuracy (percentile method, 2,000 draws, fixed seed)."""
    macro_f1: float
    calibration_error: float
    """Expected calibration error over 10 bins of confidence."""
    per_label: dict[str, dict[str, float]]
    cpu_ms: float
    """CPU of this process per message, features included, milliseconds; a model in a child process is not counted."""
    wall_ms: float


@dataclass(frozen=True, slots=True)
class Trained:
    """A classifier with the data it came from and what it is worth."""

    classifier: Classifier
    validation: Measure
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
        except (ValueError, KeyError, TypeError) as error:
            raise Invalid(f"{path}:{number}: expected {{text, label, split}}, found {line[:80]!r} ({error})") from error
        if split not in _SPLITS:
            raise Invalid(f"{path}:{number}: split {split!r} is none of {', '.join(_SPLITS)}")
        examples.append(Example(text, label, split))
    _check(examples, path)
    return tuple(examples)


async def fit(
    examples: Sequence[Example],
    kind: Features,
    embed: Embed | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Trained:
    """Fit on train, choose the strength and the temperature on validation, measure once on test."""
    regression = _regression()
    parts = {s: [e for e in examples if e.split == s] for s in _SPLITS}
    labels = tuple(sorted({e.label for e in examples}))
    idf = _idf([e.text for e in parts["train"]]) if kind == "tfidf" else np.zeros(0, np.float32)
    blank = Classifier(labels, kind, np.zeros((0, 0), np.float32), np.zeros(0, np.float32), idf)
    progress(f"{kind}: features of {len(parts['train'])} training messages")
    train_x = await blank.matrix([e.text for e in parts["train"]], embed)
    check_x = await blank.matrix([e.text for e in parts["validation"]], embed)
    train_y = [e.label for e in parts["train"]]
    check_y = np.array([labels.index(e.label) for e in parts["validation"]])
    best: tuple[float, float, Classifier] | None = None
    for strength in _STRENGTHS:
        progress(f"{kind}: strength {strength:g}")
        model = regression(C=strength, max_iter=2000, class_weight="balanced", random_state=0).fit(train_x, train_y)
        weights, bias = _rows(model, labels)
        temperature, loss = _temperature(check_x @ weights.T + bias, check_y)
        if best is None or loss < best[0] - 1e-6:
            best = (loss, strength, Classifier(labels, kind, weights, bias, idf, temperature))
    assert best is not None
    classifier = best[2]
    progress(f"{kind}: measuring on {len(parts['test'])} messages never used for fitting")
    validation = await measure(classifier, parts["validation"], embed)
    test = await measure(classifier, parts["test"], embed)
    card: dict[str, Any] = {
        "features": kind,
        "labels": list(labels),
        "data_sha256": hashlib.sha256(json.dumps([asdict(e) for e in examples]).encode()).hexdigest(),
        "counts": {s: len(parts[s]) for s in _SPLITS},
        "strength": best[1],
        "validation": asdict(validation),
        "test": asdict(test),
    }
    return Trained(classifier, validation, test, card)


async def measure(classifier: Classifier, examples: Sequence[Example], embed: Embed | None = None) -> Measure:
    """Classify each example on its own, as in production, and compare with its label."""
    cpu, wall = time.process_time(), time.perf_counter()
    found = [(await classifier.predict([e.text], embed))[0] for e in examples]
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    right = np.array([p.label == e.label for p, e in zip(found, examples, strict=True)], dtype=bool)
    confidence = np.array([p.confidence for p in found])
    per_label = {}
    for label in classifier.labels:
        truth = np.array([e.label == label for e in examples])
        said = np.array([p.label == label for p in found])
        hit = int((truth & said).sum())
        precision, recall = hit / max(int(said.sum()), 1), hit / max(int(truth.sum()), 1)
        f1 = 2 * precision * recall / (precision + recall) if hit else 0.0
        per_label[label] = {"precision": precision, "recall": recall, "f1": f1, "count": float(truth.sum())}
    draws = np.random.default_rng(0).choice(right, size=(2000, len(right))).mean(axis=1)
    return Measure(
        count=len(examples),
        accuracy=float(right.mean()),
        interval=(float(np.quantile(draws, 0.025)), float(np.quantile(draws, 0.975))),
        macro_f1=float(np.mean([row["f1"] for row in per_label.values()])),
        calibration_error=_calibration_error(confidence, right),
        per_label=per_label,
        cpu_ms=1000 * cpu / len(examples),
        wall_ms=1000 * wall / len(examples),
    )


def _check(examples: Sequence[Example], path: pathlib.Path) -> None:
    for split in _SPLITS:
        found = Counter(e.label for e in examples if e.split == split)
        missing = sorted({e.label for e in examples} - set(found))
        if not found or missing:
            raise Invalid(f"{path}: the split {split!r} has no example of {', '.join(missing) or 'any label'}")
    seen: dict[str, str] = {}
    for example in examples:
        folded = " ".join(features.fold(example.text).split())
        if seen.setdefault(folded, example.split) != example.split:
            raise Invalid(f"{path}: the message {example.text[:60]!r} is in two splits: the measure would be wrong")


def _idf(texts: Sequence[str]) -> NDArray[np.float32]:
    """Smooth inverse document frequency, ln((1 + n) / (1 + df)) + 1; terms never seen weigh nothing."""
    frequency = np.zeros(features.WIDTH, np.float32)
    for text in texts:
        frequency[list(features.counts(text))] += 1
    idf = np.log((1 + len(texts)) / (1 + frequency)) + 1
    idf[frequency == 0] = 0
    return idf.astype(np.float32)


def _rows(model: Any, labels: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weights and bias of each label; for two labels, scikit-learn only keeps the odds of the second."""
    weights, bias = model.coef_, model.intercept_
    if len(model.classes_) == 2:
        weights, bias = np.vstack([-weights, weights]) / 2, np.concatenate([-bias, bias]) / 2
    order = [list(model.classes_).index(label) for label in labels]
    return weights[order].astype(np.float32), bias[order].astype(np.float32)


def _temperature(scores: NDArray[np.float32], truth: NDArray[np.int64]) -> tuple[float, float]:
    """The temperature that gives the lowest log loss on validation (Guo et al., 2017), and that loss."""
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


def _regression() -> Callable[..., Any]:
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise ConfigError("training needs scikit-learn: pip install 'metier[local]'") from error
    made: Callable[..., Any] = LogisticRegression
    return made
