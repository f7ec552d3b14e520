"""The sentences nearest to a question: by meaning where a model is there, by words and place in any case."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from metier.calls import Purpose
from metier.knowledge.closest import Asked, Passage, closest, sentences
from metier.knowledge.embedding import Embedder, Vectors

TEXT = "Le colis reste 10 jours au point relais. La carte est débitée à l'envoi. Le joint coûte 16,50 €."


async def meant(texts: Sequence[str], purpose: Purpose) -> Vectors:
    """Two directions: what speaks of money, and the rest."""
    money = np.array([any(word in text for word in ("payer", "débitée", "coûte")) for text in texts])
    return np.stack([money, ~money], axis=1).astype(np.float32) + np.float32(0.01)


def passage(id: str, text: str, **ranks: int) -> Passage:
    return Passage(id, f"Page › {id}", text, {int(key[1:]): rank for key, rank in ranks.items()})


@pytest.mark.parametrize("embedder", [None, Embedder("m", meant)])
async def test_the_nearest_sentence_comes_first(embedder: Embedder | None) -> None:
    asked = [Asked("Combien de jours au point relais ?", "mon colis"), Asked("Quand vais-je payer ?", "ma carte")]
    first, second = await closest(asked, [passage("a", TEXT)], embedder, "fr", 2)
    assert first[0].text.startswith("Le colis reste 10 jours") and first[0].shared == pytest.approx(2 / 4, abs=0.3)
    assert second[0].text == "La carte est débitée à l'envoi."
    assert (len(first), len(second), first[0].path) == (2, 2, "Page › a")
    assert first[0].score > first[1].score


async def test_the_place_among_the_extracts_found_decides_between_equals() -> None:
    passages = [passage("a", "Ouvert du lundi au samedi.", q0=3), passage("b", "Ouvert du mardi au samedi.", q0=0)]
    (found,) = await closest([Asked("Est-ce ouvert le samedi ?", "")], passages, None, "fr", 3)
    assert [one.id for one in found] == ["b", "a"]


async def test_nothing_in_nothing_out() -> None:
    assert await closest([Asked("Quoi ?", "")], [], None, "fr", 3) == [()]
    assert await closest([], [passage("a", TEXT)], None, "fr", 3) == []
    (found,) = await closest([Asked("???", "")], [passage("a", TEXT)], None, "fr", 3)
    assert {one.shared for one in found} == {1.0}, "a question without words rules nothing out"


async def test_the_same_sentence_of_two_documents_is_counted_once() -> None:
    (found,) = await closest([Asked("Quels jours ?", "")], [passage("a", TEXT), passage("b", TEXT)], None, "fr", 9)
    assert len(found) == 3


def test_a_text_is_cut_into_sentences_and_lines() -> None:
    assert sentences("Le délai est de 14 jours. Ensuite, rien ne va.\n\nOui.\n| Mode | Délai | Frais |") == [
        "Le délai est de 14 jours.", "Ensuite, rien ne va.", "| Mode | Délai | Frais |"
    ]  # fmt: skip
