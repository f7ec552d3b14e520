"""A classifier survives its storage, says when it cannot be read, and is calibrated by its temperature."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest

from metier.errors import Broken, ConfigError, NotFound
from metier.store import Store
from metier.tuning.classifier import Classifier, Classifiers, Features, read
from metier.tuning.features import WIDTH
from tests.tuning.scripted import Vectors, desk, trained

TEXTS = ["je veux renvoyer ma perceuse", "ma facture sans TVA", "une recette de crêpes", ""]


@pytest.fixture(scope="module", params=["embeddings", "tfidf"])
def classifier(request: pytest.FixtureRequest) -> Classifier:
    """One of each kind, fitted on the small desk."""
    kind: Features = request.param
    return trained(kind).classifier


@pytest.fixture(scope="module")
def by_vectors() -> Classifier:
    """One that needs an embedding model."""
    return trained("embeddings").classifier


async def test_what_is_stored_predicts_the_same(store: Store, classifier: Classifier) -> None:
    kept = Classifiers(store)
    assert await kept.add("tri", classifier, {"strength": 1}) == 1
    again = await Classifiers(store).get("tri", 1)
    assert again.to_bytes() == classifier.to_bytes()
    assert await again.predict(TEXTS, Vectors()) == await classifier.predict(TEXTS, Vectors())
    (row,) = await kept.list()
    assert row["card"]["strength"] == 1
    assert row["card"]["labels"] == list(classifier.labels)


async def test_the_last_version_is_given_when_none_is_named(store: Store, classifier: Classifier) -> None:
    kept = Classifiers(store)
    await kept.add("tri", classifier, {})
    first = await kept.get("tri")
    assert await kept.add("tri", replace(classifier, temperature=2.5), {}) == 2
    assert (await kept.get("tri")).temperature == 2.5
    assert (await kept.get("tri", 1)).temperature == first.temperature
    assert [(r["name"], r["version"]) for r in await kept.list()] == [("tri", 2), ("tri", 1)]
    for wanted in (("tri", 3), ("autre", None)):
        with pytest.raises(NotFound, match="no trained classifier"):
            await kept.get(*wanted)


async def _store(store: Store, weights: bytes, digest: str, card: str) -> Classifiers:
    async with store.connection() as connection:
        await connection.execute(
            "INSERT INTO classifiers (name, version, card, weights, digest) "
            "VALUES ('tri', 1, %s, %s, coalesce(%s, encode(sha256(%s), 'hex')))",
            (card, weights, digest or None, weights),
        )
    return Classifiers(store)


CARD = '{"labels": ["a", "b"], "features": "tfidf", "temperature": 1}'


def _pickled() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, weights=np.array([{"a": 1}], object), bias=np.zeros(2), idf=np.zeros(2))
    return buffer.getvalue()


def _array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("weights", "card"),
    [
        (b"", CARD), (b"PK\x03\x04 and no more", CARD), (b"\x80\x04K\x01.", CARD), (_pickled(), CARD), (_array(), CARD),
        (b"no archive", "{}"),
    ],
)  # fmt: skip
async def test_bytes_that_are_no_classifier_are_broken(store: Store, weights: bytes, card: str) -> None:
    kept = await _store(store, weights, "", card)
    with pytest.raises(Broken, match="train it again"):
        await kept.get("tri")


async def test_weights_changed_behind_our_back_are_broken(store: Store, by_vectors: Classifier) -> None:
    kept = await _store(store, by_vectors.to_bytes(), "0" * 64, CARD)
    with pytest.raises(Broken, match="do not match their digest"):
        await kept.get("tri")


async def test_a_classifier_cut_short_is_broken(store: Store, by_vectors: Classifier) -> None:
    whole = by_vectors.to_bytes()
    kept = await _store(store, whole[: len(whole) // 2], "", CARD)
    with pytest.raises(Broken, match="train it again"):
        await kept.get("tri")


async def test_embeddings_need_a_model_that_gives_the_same_vectors(by_vectors: Classifier) -> None:
    with pytest.raises(ConfigError, match="no embedding model"):
        await by_vectors.predict(["x"])
    narrower = replace(by_vectors, weights=by_vectors.weights[:, :-2], centre=by_vectors.centre[:-2])
    with pytest.raises(ConfigError, match="vectors of 4 numbers and the embedding model gives 6"):
        await narrower.predict(["x"], Vectors())


async def test_vectors_alone_without_terms_or_centre_are_read_as_they_are() -> None:
    rows = np.arange(12, dtype=np.float32).reshape(2, 6)
    bare = Classifier(("a", "b"), "embeddings", rows, np.zeros(2, np.float32), np.zeros(0, np.float32))
    reading = await read(["facture"], "embeddings", Vectors())
    assert bare.scores(reading) == pytest.approx(reading.vectors @ rows.T)


async def test_a_higher_temperature_is_less_sure_of_the_same_label(classifier: Classifier) -> None:
    cold = await replace(classifier, temperature=0.2).predict(TEXTS[:3], Vectors())
    warm = await replace(classifier, temperature=5.0).predict(TEXTS[:3], Vectors())
    for sure, unsure in zip(cold, warm, strict=True):
        assert sure.label == unsure.label
        assert sure.confidence > unsure.confidence > 1 / 3


async def test_shares_add_up_and_the_label_has_the_largest(classifier: Classifier) -> None:
    for found in await classifier.predict([e.text for e in desk()][:9], Vectors()):
        assert sum(found.probabilities.values()) == pytest.approx(1, abs=0.001)
        assert max(found.probabilities.values()) == found.confidence == found.probabilities[found.label]


async def test_no_text_is_no_prediction_and_a_long_one_is_read_from_its_start(classifier: Classifier) -> None:
    assert await classifier.predict([], Vectors()) == ()
    start = "renvoyer " * 300
    one, other = await classifier.predict([start, start + "facture TVA " * 50_000], Vectors())
    assert one == other
    assert classifier.idf.shape == (WIDTH,)
