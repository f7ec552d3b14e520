"""French and English words meet their other forms; codes and part numbers stay whole."""

from __future__ import annotations

import pytest

from metier.knowledge.analyser import Analyser, Language


@pytest.mark.parametrize(
    ("language", "one", "other"),
    [
        ("fr", "L'électricité", "electricite"),
        ("fr", "d’une livraison", "livraisons"),
        ("fr", "Qu'est-ce qu'une facturation ?", "facturations"),
        ("fr", "les cœurs", "coeur"),
        ("fr", "remboursées", "remboursé"),
        ("fr", "DÉLAIS", "délai"),
        ("fr", "délais", "DELAI"),
        ("en", "deliveries", "delivery"),
        ("en", "the refunded orders", "refunding an order"),
    ],
)
def test_forms_of_a_word_give_one_term(language: Language, one: str, other: str) -> None:
    analyser = Analyser(language)
    assert set(analyser(one).terms) & set(analyser(other).terms)


def test_stop_words_and_greetings_go() -> None:
    assert Analyser("fr")("Bonjour, est-ce que vous pouvez me dire où il est aujourd'hui ?").terms == ("dir",)
    assert Analyser("en")("Hello, where are you with the order?").terms == ("order",)


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("réf. AF-00012", ("AF00012",)),
        ("réf. af00012", ("AF00012",)),
        ("l'article L121-3", ("L1213",)),
        ("moteur A320 et IP65", ("A320", "IP65")),
        ("dossier 2026-00417", ("202600417",)),
        ("le 3/11/2026 pour 29,90 € et 14 jours, 24h sur 24, 10kg, 2e étage", ()),
    ],
)
def test_codes_are_kept_whole_and_figures_are_not_codes(text: str, codes: tuple[str, ...]) -> None:
    assert Analyser("fr")(text).codes == codes


def test_a_code_written_apart_is_the_same_code() -> None:
    assert Analyser("fr")("pièce AF 00012").codes == ("AF00012",)


def test_compounds_are_found_whole_and_by_their_parts() -> None:
    assert Analyser("fr")("un rendez-vous").terms == ("rendez-vous", "rend")
    assert set(Analyser("fr")("porte-bagages").terms) == {"porte-bagages", "port", "bagag"}
