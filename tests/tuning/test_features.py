"""Terms of a text are folded, counted, hashed and weighed as said."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metier.tuning.features import WIDTH, counts, fold, frequencies, idf, unit


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("Où est MON colis ?", "ou est mon colis ?"),
        ("élève, garçon, Noël, œuf", "eleve, garcon, noel, œuf"),
        ("CMD-2026-10573 du 12/11", "cmd-0000-00000 du 00/00"),
        ("e\u0301te\u0301", "ete"),
        ("٣ articles", "0 articles"),
        ("", ""),
    ],
)
def test_case_accents_and_digits_are_folded(text: str, folded: str) -> None:
    assert fold(text) == folded


@settings(deadline=None)
@given(st.text())
def test_no_digit_is_left_and_numbers_are_all_one(text: str) -> None:
    assert not any(c.isdecimal() and c != "0" for c in fold(text))
    assert counts(text) == counts(text.replace("1", "7"))


def test_a_word_gives_itself_its_pieces_and_its_pairs() -> None:
    # «le»: itself, and of "_le_" two pieces of 3 and one of 4
    assert sum(counts("le").values()) == 4
    # the second word gives itself, "_colis_" 5 + 4 + 3 pieces; the pair is one more
    assert sum(counts("le colis").values()) == 4 + 13 + 1
    assert counts("colis colis")[next(iter(counts("colis")))] == 2


def test_words_with_an_apostrophe_stay_whole_and_signs_are_no_words() -> None:
    assert counts("?! … — €") == counts("")
    assert counts("aujourd'hui !") == counts("Aujourd'hui")


def test_places_do_not_depend_on_the_process() -> None:
    # Stored weights are worth nothing where terms land elsewhere: crc32 of the bytes, never hash().
    assert sorted(counts("le")) == [1853, 7422, 9091, 15887]


def test_frequencies_are_logarithmic() -> None:
    rows = frequencies(["colis", "colis " * 8])
    assert rows.shape == (2, WIDTH)
    assert rows.dtype == np.float32
    assert set(np.unique(rows[0])) == {0.0, 1.0}
    assert rows[1].max() == pytest.approx(1 + math.log(8))


def test_a_rare_term_weighs_more_and_one_never_seen_nothing() -> None:
    rows = np.zeros((4, WIDTH), np.float32)
    rows[:, 0] = 1
    rows[0, 1] = 2.5
    weights = idf(rows)
    assert weights[0] == pytest.approx(1.0)
    assert weights[1] == pytest.approx(math.log(5 / 2) + 1)
    assert not weights[2:].any()
    assert weights.dtype == np.float32


def test_rows_have_length_one_and_an_empty_text_stays_empty() -> None:
    rows = unit(frequencies(["où est mon colis", "", "!!!"]))
    assert np.linalg.norm(rows, axis=1) == pytest.approx([1, 0, 0])
    assert not np.isnan(rows).any()
    assert unit(np.array([[3, 4]], np.float32)) == pytest.approx(np.array([[0.6, 0.8]]))
    assert unit(frequencies([])).shape == (0, WIDTH)
