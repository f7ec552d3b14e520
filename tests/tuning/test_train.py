"""Labelled messages are read strictly, and the test split never weighs on what is trained."""

from __future__ import annotations

import asyncio
import json
import pathlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metier.errors import ConfigError, Invalid
from metier.tuning.classifier import Classifier, Features
from metier.tuning.train import Example, fit, measure, read_examples
from tests.tuning.scripted import DESK, Vectors, desk, trained

KINDS: tuple[Features, ...] = ("embeddings", "tfidf")


def written(path: pathlib.Path, *rows: object) -> pathlib.Path:
    """A file of one row a line; strings are written as they are."""
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows), encoding="utf-8")
    return path


def whole(**first: object) -> list[object]:
    """Two labels in three splits, the first row changed."""
    rows: list[dict[str, object]] = [
        {"text": f"{label} {split}", "label": label, "split": split}
        for split in ("train", "validation", "test")
        for label in ("retour", "facture")
    ]
    return [{**rows[0], **first}, *rows[1:]]


def test_examples_are_read(tmp_path: pathlib.Path) -> None:
    path = written(tmp_path / "m.jsonl", *whole(group="g1", lang="fr"), "", "  ")
    found = read_examples(path)
    assert len(found) == 6
    assert found[0] == Example("retour train", "retour", "train", "g1")
    assert found[1] == Example("facture train", "facture", "train")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("{not json", "m.jsonl:2: expected"),
        ("[1, 2]", "m.jsonl:2: expected"),
        ('"a string"', "m.jsonl:2: expected"),
        ("null", "m.jsonl:2: expected"),
        ({"text": "x", "split": "train"}, "m.jsonl:2: expected"),
        ({"text": "x", "label": "retour", "split": "dev"}, "m.jsonl:2: split 'dev' is none of train"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: pathlib.Path, row: object, words: str) -> None:
    first, *others = whole()
    with pytest.raises(Invalid) as caught:
        read_examples(written(tmp_path / "m.jsonl", first, row, *others))
    assert words in str(caught.value)


def test_a_file_that_is_not_utf_8_or_not_there_is_told(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes('{"text": "é"}'.encode("latin-1"))
    with pytest.raises(Invalid, match=r"not UTF-8 \(byte 10\)"):
        read_examples(path)
    with pytest.raises(Invalid, match="cannot read"):
        read_examples(tmp_path / "nothing.jsonl")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (whole(text="FACTURE  Tést", label="retour"), "in two splits"),
        ([*whole(group="g"), {"text": "z", "label": "retour", "split": "test", "group": "g"}], "group 'g' is in two"),
        ([*whole(), {"text": "z", "label": "neuf", "split": "train"}], "'validation' has no example of neuf"),
        ([], "no example of any label"),
    ],
)
def test_a_measure_that_would_be_wrong_is_refused(tmp_path: pathlib.Path, rows: list[object], words: str) -> None:
    with pytest.raises(Invalid, match=words):
        read_examples(written(tmp_path / "m.jsonl", *rows))


@pytest.mark.parametrize("kind", KINDS)
def test_a_small_desk_is_learned(kind: Features) -> None:
    found = trained(kind)
    assert found.classifier.labels == tuple(sorted(DESK))
    assert found.test.accuracy >= 0.9
    assert found.test.count == 18
    assert found.cross_validation.count == 36
    assert found.cross_validation.wall_ms is None
    assert found.test.wall_ms is not None
    low, high = found.test.interval
    assert 0 <= low <= found.test.accuracy <= high <= 1 and low < 1, "no sample shows that every message is right"
    assert found.card["fitted_on"] == ["train", "validation"]
    assert found.card["counts"] == {"train": 18, "validation": 18, "test": 18}
    assert json.loads(json.dumps(found.card))["test"]["count"] == 18


@pytest.fixture(scope="module")
def before() -> dict[Features, Classifier]:
    """One of each kind, fitted with the test split as it is."""
    return {kind: trained(kind).classifier for kind in KINDS}


@settings(max_examples=3, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    others=st.lists(st.tuples(st.text(min_size=1), st.sampled_from([*DESK, "neuf"])), min_size=1, max_size=3),
)
def test_the_test_split_never_weighs_on_the_weights(
    before: dict[Features, Classifier], kind: Features, others: list[tuple[str, str]]
) -> None:
    known = [e for e in desk() if e.split != "test"]
    after = trained(kind, [*known, *(Example(text, label, "test") for text, label in others)]).classifier
    assert after.to_bytes() == before[kind].to_bytes()
    assert (after.labels, after.temperature) == (before[kind].labels, before[kind].temperature)


def test_two_labels_get_a_row_of_weights_each() -> None:
    two = [e for e in desk() if e.label != "autre"]
    found = trained("embeddings", two).classifier
    assert found.weights.shape[0] == len(found.bias) == 2
    assert found.weights[0] == pytest.approx(-found.weights[1])


def test_what_the_fit_reads_is_asked_in_batches_and_told() -> None:
    more = [replace(e, text=f"{e.text} {n}") for e in desk() for n in range(4)]
    vectors, told = Vectors(), list[str]()
    asyncio.run(fit(more, "embeddings", vectors, told.append))
    assert [count for count, _ in vectors.asked[:3]] == [64, 64, 16]
    assert {purpose for _, purpose in vectors.asked} == {"query"}
    assert "embeddings: 64 of 144 messages read" in told
    assert any("never used for fitting" in line for line in told)


def test_messages_of_one_group_stay_in_one_fold() -> None:
    # Every label is one request said many times: checked against itself, it would look learned.
    one = [replace(e, group=e.label) for e in desk()]
    with pytest.raises(Invalid, match="only one group"):
        trained("tfidf", one)


async def test_embeddings_without_a_model_are_refused() -> None:
    with pytest.raises(ConfigError, match="no embedding model"):
        await fit(desk(), "embeddings")


def test_a_measure_counts_what_is_right() -> None:
    found = trained("tfidf").classifier
    seen = [e for e in desk() if e.split == "train"]
    wrong = [replace(e, label="retour") for e in seen]
    assert asyncio.run(measure(found, seen)).accuracy == 1
    score = asyncio.run(measure(found, wrong))
    assert score.accuracy == pytest.approx(1 / 3)
    assert score.per_label["retour"] == {"precision": 1.0, "recall": pytest.approx(1 / 3), "f1": 0.5, "count": 18.0}
    assert score.per_label["autre"]["f1"] == 0
    assert score.macro_f1 == pytest.approx(0.5 / 3)
    assert np.isfinite(score.calibration_error)
