"""An answer passes when its citations, quotes, figures and claims stand in what its reader may read."""

from __future__ import annotations

import pytest

from metier.calls import JSON
from metier.errors import Invalid
from metier.knowledge.answer import Citation, check_citations, cited
from metier.knowledge.blocks import Anchor
from metier.knowledge.retrieve import Extract

DELIVERY = Extract(
    "livraison-1",
    "livraison.md",
    "Livraison",
    None,
    "La livraison prend 14 jours ouvrés en France métropolitaine. Les frais d'envoi sont de 4,90\u00a0€.",
    Anchor(0, 90, ("Délais",)),
)
RETURNS = Extract(
    "retours-2",
    "retours.md",
    "Retours",
    None,
    "Un produit peut être retourné sous trente jours ; l’avoir « fidélité » est de 5\u00a0%.",
    Anchor(0, 80),
)
OFFERED = (DELIVERY, RETURNS)
EMAIL = {"e-mail": "Ma commande 4512 du 3 novembre 2026 n'est pas arrivée. Merci de m'appeler au 01 23 45 67 89."}
LETTER = """Bonjour Madame Martin,

Nous vous remercions pour votre message du 3/11/2026.
La livraison de votre commande 4512 prend quatorze jours ouvrés [livraison-1] et les frais d'envoi sont de 4.90 EUR.
Vous pouvez retourner le produit sous 30 jours. Souhaitez-vous que nous vous appelions ?

Cordialement,
L'équipe du service client"""


def test_a_letter_borne_out_by_its_sources_passes() -> None:
    checked = check_citations(LETTER, [Citation("livraison-1"), Citation("retours-2")], OFFERED, EMAIL)
    assert checked.findings == ()
    assert checked.ok
    assert {(s.where, s.source) for s in checked.supported} >= {
        ("quatorze jours ouvrés", "livraison-1"),
        ("4.90 EUR", "livraison-1"),
        ("30 jours", "retours-2"),
        ("4512", "e-mail"),
        ("3/11/2026", "e-mail"),
    }


@pytest.mark.parametrize(
    ("wrong", "figure"),
    [
        ("La livraison prend 14 jours.", "14 jours"),
        ("La livraison prend 10 jours ouvrés.", "10 jours ouvrés"),
        ("Les frais d'envoi sont de 5,90 €.", "5,90 €"),
        ("L'avoir fidélité est de 15 %.", "15 %"),
        ("La livraison aura lieu le 12 novembre 2026.", "12 novembre 2026"),
        ("Écrivez à sav@exemple.fr pour la livraison.", "sav@exemple.fr"),
        ("Appelez le 01 99 99 99 99 pour la livraison.", "01 99 99 99 99"),
        ("La référence AF-00013 sera en livraison.", "AF-00013"),
    ],
)
def test_a_figure_nobody_said_is_found(wrong: str, figure: str) -> None:
    checked = check_citations(wrong, [Citation("livraison-1"), Citation("retours-2")], OFFERED, EMAIL)
    assert not checked.ok
    assert figure in [finding.where for finding in checked.findings if finding.kind == "figure unsupported"]


def test_a_figure_of_an_extract_that_is_not_cited_does_not_count() -> None:
    checked = check_citations("Un produit peut être retourné sous 30 jours.", [Citation("livraison-1")], OFFERED)
    assert [finding.where for finding in checked.findings if finding.serious] == ["30 jours"]


def test_an_unknown_citation_is_found_wherever_it_is_written() -> None:
    body = "La livraison prend 14 jours ouvrés [livraison-1, livraison-9]."
    checked = check_citations(body, [Citation("tarifs-1")], OFFERED)
    assert [(f.kind, f.where) for f in checked.findings] == [
        ("citation unknown", "tarifs-1"),
        ("citation unknown", "livraison-9"),
    ]
    assert "« tarifs-1 »" in checked.critique("fr")
    assert "'tarifs-1'" in checked.critique("en")


@pytest.mark.parametrize(
    "quote",
    [
        "14 jours ouvrés en France métropolitaine",
        "Les frais d’envoi  sont de 4,90 €",
        "« la livraison prend 14 jours »",
        "La livraison prend […] en France métropolitaine",
        "**La livraison** prend",
    ],
)
def test_a_quote_is_verbatim_up_to_spaces_quotes_and_ellipses(quote: str) -> None:
    body = "La livraison prend 14 jours ouvrés."
    assert check_citations(body, [Citation("livraison-1", quote)], OFFERED).ok


@pytest.mark.parametrize("quote", ["14 jours en France", "La livraison dure", "en France […] 14 jours ouvrés", "…"])
def test_a_quote_with_other_words_is_found(quote: str) -> None:
    body = "La livraison prend 14 jours ouvrés."
    (finding,) = check_citations(body, [Citation("livraison-1", quote)], OFFERED).findings
    assert finding.kind == "quote not found"


def test_a_quote_under_the_wrong_citation_says_where_it_stands() -> None:
    checked = check_citations("Un produit peut être retourné.", [Citation("livraison-1", "sous trente jours")], OFFERED)
    assert "« retours-2 »" in checked.critique("fr")
    assert "'retours-2'" in checked.critique("en")


def test_an_answer_without_any_citation_is_refused() -> None:
    checked = check_citations("La livraison prend quelque temps en France métropolitaine.", [], OFFERED)
    assert [finding.kind for finding in checked.findings if finding.serious] == ["citation missing"]
    assert check_citations("Bonjour,\nMerci de votre message.\nCordialement", [], OFFERED).ok


def test_a_claim_no_source_has_words_for_is_a_doubt() -> None:
    body = "La livraison prend 14 jours ouvrés [livraison-1]. Notre entrepôt de Lyon ferme exceptionnellement demain."
    checked = check_citations(body, [], OFFERED)
    (finding,) = checked.findings
    assert (finding.kind, finding.serious) == ("claim unsupported", False)
    assert finding.where.startswith("Notre entrepôt")
    assert checked.ok, "words alone do not condemn an answer"


def test_citations_are_read_as_ids_or_objects() -> None:
    value: JSON = ["livraison-1", {"id": "[retours-2]", "quote": "sous trente jours"}, {"id": "x-1", "quote": ""}]
    assert cited(value) == (Citation("livraison-1"), Citation("retours-2", "sous trente jours"), Citation("x-1"))
    assert cited("livraison-1") == (Citation("livraison-1"),)
    with pytest.raises(Invalid, match="give ids"):
        cited([3])
