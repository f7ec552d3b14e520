"""Task-based choice by a trained classifier of terms: through the store, the road, the record and the reload."""

from __future__ import annotations

import asyncio
import logging
import pathlib
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pytest

from metier.api import answers
from metier.calls import Call, Media, Message, Text, Usage
from metier.catalog import Catalog
from metier.errors import ConfigError, NotAllowed
from metier.providers.scripted import ScriptedProvider, says
from metier.router import Label
from metier.store import Store
from metier.tuning.call_labels import CallLabels
from metier.tuning.classifier import Classifiers
from metier.tuning.train import Example, Trained, fit
from metier.vault import Vault
from tests.router.world import CALL
from tests.tuning.scripted import trained
from tests.world import world

SIMPLE = (
    "Quels sont vos horaires d'ouverture ?",
    "Où en est ma commande {n} ?",
    "Comment changer mon mot de passe ?",
    "Quel est le numéro du service client ?",
    "Pouvez-vous me renvoyer ma facture {n} ?",
    "Merci, bonne journée !",
    "Quel est le délai de livraison ?",
    "Livrez-vous en Belgique ?",
    "Combien coûte la livraison ?",
    "Je veux me désabonner de la lettre.",
)
HARD = (
    "Compare ces deux contrats clause par clause et explique les risques juridiques pour nous.",
    "Rédige une analyse argumentée des causes de la baisse des ventes, avec un plan d'action.",
    "Explique pourquoi la démonstration du théorème {n} échoue et propose une preuve corrigée.",
    "Analyse ce bilan, calcule les ratios et argumente une recommandation d'investissement.",
    "Conçois l'architecture du système et justifie chaque compromis entre coût et disponibilité.",
    "Résous ce problème d'optimisation sous contraintes et démontre que la solution est optimale.",
    "Rédige une argumentation qui concilie ces décisions contradictoires de la jurisprudence.",
    "Propose une stratégie de migration, analyse les risques et justifie l'ordre des étapes.",
    "Explique les conséquences fiscales de cette fusion et compare trois montages possibles.",
    "Analyse le code suivant, trouve la condition de concurrence et démontre ta correction.",
)
OPENINGS = ("Bonjour, ", "", "S'il vous plaît : ", "Une question. ", "Madame, Monsieur, ", "Re : ")


def questions() -> list[Example]:
    """Simple and hard ones, each in six wordings of one group; three groups of ten of each are never fitted on."""
    return [
        Example(opening + text.format(n=at * 7 + place), label, split, f"{label}-{at}")
        for label, texts in (("simple", SIMPLE), ("hard", HARD))
        for at, text in enumerate(texts)
        for split in ("test" if at in (2, 5, 8) else "validation" if at == 9 else "train",)
        for place, opening in enumerate(OPENINGS)
    ]


def entry(name: str, price: int, **more: Any) -> dict[str, Any]:
    one = {"id": name, "provider": "scripted", "model_id": name, "price": {"input": price, "output": 4 * price}}
    return {"deployments": [one | more]}


MODELS: Mapping[str, Any] = {
    "auto": {"choose": {"classifier": "difficulty@1", "by": {"simple": "small", "hard": "large"}, "else": "large"}},
    "small": entry("small", 1),
    "large": entry("large", 10),
}


def call(text: str) -> Call:
    return Call(CALL.principal, "auto", messages=(Message("user", "avant"), Message("user", text)))


@pytest.fixture(scope="module")
def difficulty() -> Trained:
    return asyncio.run(fit(questions(), "tfidf"))


async def test_calls_go_where_the_label_says_and_cost_less_than_the_large_model_for_all(
    store: Store, vault: Vault, tmp_path: pathlib.Path, difficulty: Trained
) -> None:
    classifiers = Classifiers(store)
    assert await classifiers.add("difficulty", difficulty.classifier, difficulty.card) == 1
    asked = [example for example in questions() if example.split == "test"]
    provider = ScriptedProvider(*[says("ok", usage=Usage(1_000, 250))] * len(asked))
    async with world(store, vault, tmp_path, provider, models=MODELS) as here:
        labels = here.gateway.ways.chooser.label = CallLabels(classifiers)
        await labels.use(here.catalog)
        for example in asked:
            answer = await here.gateway.collect(here.call(example.text, "auto"))
            assert answer.receipt is not None and answer.receipt.route is not None
        rows = await here.rows()
    chosen = [row["deployment"] for row in rows]
    right = sum((name == "small") == (example.label == "simple") for name, example in zip(chosen, asked, strict=True))
    wrong_small = sum(n == "small" and e.label == "hard" for n, e in zip(chosen, asked, strict=True))
    assert right / len(asked) >= 0.8, f"{right} of {len(asked)}"
    assert wrong_small == 0, "what is doubtful goes to the large model"
    spent, without = sum(row["cost_eur"] for row in rows), Decimal("0.02") * len(asked)
    assert spent < Decimal("0.75") * without, f"{spent} of {without}"
    assert {row["model"] for row in rows} == {"auto"}, "what the client asked for"
    assert all(row["route"].startswith(f"{row['deployment']}; label=") for row in rows)


async def test_without_the_classifier_every_call_goes_to_else_until_it_is_trained(
    store: Store, difficulty: Trained, caplog: pytest.LogCaptureFixture
) -> None:
    labels, catalog = CallLabels(Classifiers(store)), Catalog.from_yaml(MODELS)
    with caplog.at_level(logging.WARNING):
        await labels.use(catalog)
        await labels.refresh()
    assert labels("difficulty@1", call(SIMPLE[0])) is None
    assert caplog.text.count("no trained classifier 'difficulty@1'") == 1, "told once"
    await Classifiers(store).add("difficulty", difficulty.classifier, difficulty.card)
    await labels.refresh()
    found = labels("difficulty@1", call(SIMPLE[0]))
    assert found is not None and found.label == "simple"


async def test_classifiers_that_ask_for_embeddings_are_not_used_and_unknown_labels_are_told(
    store: Store, difficulty: Trained, caplog: pytest.LogCaptureFixture
) -> None:
    on_vectors = await asyncio.to_thread(trained)
    await Classifiers(store).add("difficulty", on_vectors.classifier, on_vectors.card)
    await Classifiers(store).add("difficulty", difficulty.classifier, difficulty.card)
    labels = CallLabels(Classifiers(store))
    with caplog.at_level(logging.WARNING):
        await labels.use(Catalog.from_yaml(MODELS))
    assert labels("difficulty@1", call("bonjour")) is None
    assert "--features tfidf" in caplog.text
    pinned = {"classifier": "difficulty@2", "by": {"esay": "small"}, "else": "large"}
    with caplog.at_level(logging.WARNING):
        await labels.use(Catalog.from_yaml({**MODELS, "auto": {"choose": pinned}}))
    assert labels("difficulty@2", call("bonjour")) is not None
    assert "esay" in caplog.text and "hard, simple" in caplog.text


async def test_the_quick_way_says_what_the_slow_one_says(difficulty: Trained) -> None:
    texts = [example.text for example in questions()] + ["", "¿?", "a" * 5_000]
    slow = await difficulty.classifier.predict(texts)
    for text, expected in zip(texts, slow, strict=True):
        found = difficulty.classifier.classify(text)
        assert found.label == expected.label and abs(found.confidence - expected.confidence) < 3e-4, text
    with pytest.raises(ConfigError, match="embeddings"):
        (await asyncio.to_thread(trained)).classifier.classify("bonjour")


async def test_the_last_words_of_the_user_count_and_a_call_without_text_has_no_label(
    store: Store, difficulty: Trained
) -> None:
    await Classifiers(store).add("difficulty", difficulty.classifier, difficulty.card)
    labels = CallLabels(Classifiers(store))
    await labels.use(Catalog.from_yaml(MODELS))
    image = Message("user", parts=(Media("image/png", "AA"),))
    assert labels("difficulty@1", Call(CALL.principal, "auto", messages=(image,))) is None
    parts = Message("user", parts=(Text(HARD[0]), Media("image/png", "AA")))
    found = labels("difficulty@1", Call(CALL.principal, "auto", messages=(parts, Message("assistant", SIMPLE[0]))))
    assert found is not None and found.label == "hard"


async def test_constraints_hold_for_what_the_classifier_chose(
    store: Store, vault: Vault, tmp_path: pathlib.Path, difficulty: Trained
) -> None:
    models = {**MODELS, "small": entry("small", 1, hosting="private"), "large": entry("large", 10, hosting="public")}
    provider = ScriptedProvider(says("ok"))
    systems = {"*": {"sensitivity": "confidential"}}
    await Classifiers(store).add("difficulty", difficulty.classifier, difficulty.card)
    async with world(store, vault, tmp_path, provider, models=models, systems=systems) as here:
        labels = here.gateway.ways.chooser.label = CallLabels(Classifiers(store))
        await labels.use(here.catalog)
        await here.gateway.collect(here.call(SIMPLE[0], "auto"))
        with pytest.raises(NotAllowed):
            await here.gateway.collect(here.call(HARD[0], "auto"))
        [row] = [row for row in await here.rows() if row["outcome"] == "answered"]
        assert row["deployment"] == "small"


async def test_a_label_cannot_break_a_header(store: Store, vault: Vault, tmp_path: pathlib.Path) -> None:
    async with world(store, vault, tmp_path, ScriptedProvider(says("ok")), models=MODELS) as here:
        here.gateway.ways.chooser.label = lambda _, __: Label("é\r\nx: y", 0.99)
        answer = await here.gateway.collect(here.call("bonjour", "auto"))
        told = dict(answers.receipt_headers(answer.receipt))
        assert told[b"x-metier-route"] == b"large; label=???x: y; confidence=0.99"
        assert answers.measured(answer.receipt)["metier"]["route"] == "large; label=é\r\nx: y; confidence=0.99"


@pytest.mark.parametrize(
    ("choose", "said"),
    [
        ({"classifier": "difficulty", "by": {"simple": "small"}, "else": "large"}, "classifier"),
        ({"classifier": "difficulty@1", "by": {}, "else": "large"}, "by"),
        ({"classifier": "difficulty@1", "by": {"simple": "small"}}, "else"),
        ({"classifier": "difficulty@1", "by": {"simple": "tiny"}, "else": "large"}, "tiny"),
        ({"classifier": "difficulty@1", "by": {"simple": "small"}, "else": "auto"}, "auto"),
        ({"classifier": "difficulty@1", "by": {"simple": "small"}, "else": "large", "least_confidence": 2}, "least"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_its_place(choose: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=rf"models\.auto.*{said}"):
        Catalog.from_yaml({**MODELS, "auto": {"choose": choose}})


def test_labels_without_their_classifier_are_refused() -> None:
    rules = [{"when": {"labels": ["simple"]}, "use": "small"}, {"use": "large"}]
    with pytest.raises(ConfigError, match="classifier"):
        Catalog.from_yaml({**MODELS, "auto": {"rules": rules}})
