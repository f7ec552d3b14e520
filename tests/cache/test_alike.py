from __future__ import annotations

import pathlib

import pytest

from metier.cache.alike import Alike

BENCH = pathlib.Path(__file__).parent.parent.parent / "bench"
PAIRS = [
    line.split("\t")
    for name in ("cache_pairs.tsv", "cache_pairs_held_out.tsv")
    for line in (BENCH / name).read_text(encoding="utf-8").splitlines()
]


def test_no_pair_of_different_questions_passes_however_near_it_lies() -> None:
    alike = Alike()
    assert len(PAIRS) > 200
    # Two languages never share a partition.
    wrong = [pair for pair in PAIRS if pair[0] == "different" and pair[2] != "language" and alike(pair[3], pair[4])]
    assert not wrong


def test_more_than_half_of_the_pairs_that_mean_the_same_pass() -> None:
    alike = Alike()
    same = [pair for pair in PAIRS if pair[0] == "same"]
    assert sum(alike(pair[3], pair[4]) for pair in same) > len(same) / 2


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair[3][:40])
def test_a_question_is_like_itself_and_comparing_has_no_direction(pair: list[str]) -> None:
    alike = Alike()
    assert alike.differences(pair[3], pair[4]) == alike.differences(pair[4], pair[3])
    assert not alike.differences(pair[3], pair[3]) - {"added"}


@pytest.mark.parametrize(
    ("one", "two", "difference"),
    [
        ("Écris à [[EMAIL_1]] demain", "Écris à [[EMAIL_2]] demain", "placeholders"),
        ("Écris à [[EMAIL_1]] demain", "Écris de [[EMAIL_1]] demain", "towards"),
        ("Écris de [[EMAIL_1]] à [[EMAIL_2]]", "Écris de [[EMAIL_1]] à [[EMAIL_2]]", "placeholders"),
        ("Un prêt à 3,5 %", "Un prêt à 35 %", "figures"),
        ("Un prêt de trois ans", "Un prêt de quatre ans", "figures"),
        ("Le 3 mai 2024", "Le 5 mars 2024", "figures"),
        ("Offre de 3 à 5 lots", "Offre de 5 à 3 lots", "figures"),
        ("Le vin se garde", "Le vin ne se garde plus", "negation"),
        ("Le vin est-il bouchonné ou madérisé ?", "Où le vin est-il bouchonné ?", "asked"),
        ("Qui est Anne Martin ?", "Qui est Anne Durand ?", "names"),
        ("", "", "added"),
    ],
)
def test_one_thing_apart_is_another_question(one: str, two: str, difference: str) -> None:
    assert difference in Alike().differences(one, two)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("Un prêt de 1 000 euros sur trois ans", "Un prêt de 1000 € sur 3 ans"),
        ("Comment l'ŒUVRE est-elle protégée ?", "comment l’oeuvre est-elle protegee"),
        ("Écris à [[EMAIL_1]] demain", "Bonjour, écris à [[EMAIL_1]] demain, merci !"),
    ],
)
def test_spelling_is_no_difference(one: str, two: str) -> None:
    assert not Alike().differences(one, two)
