"""The same figure is the same however it is written in French or English, and different when it is."""

from __future__ import annotations

import pytest

from metier.knowledge.figures import figures, supports

SAME = [
    ("14 jours", "quatorze jours"),
    ("14 jours", "deux semaines"),
    ("14 jours ouvrés", "14 business days"),
    ("14 jours ouvrés", "quatorze jours ouvrés"),
    ("12 mois", "1 an"),
    ("24 mois", "deux ans"),
    ("un mois", "1 month"),
    ("vingt et un jours", "21 days"),
    ("quatre-vingt-dix-sept jours", "97 jours"),
    ("48 h", "48 heures"),
    ("18h30", "18 h 30"),
    ("14:30", "2:30 pm"),
    ("29,90 €", "29.90 EUR"),
    ("29,90 €", "€29.90"),
    ("29,90 €", "29€90"),
    ("29,90 €", "29,9 euros"),
    ("1 200 €", "1200 euros"),
    ("1 200 €", "1\u202f200\u00a0€"),
    ("1 200,50 €", "1.200,50 €"),
    ("1 200 €", "1,200 EUR"),
    ("3 millions d'euros", "3 000 000 €"),
    ("30 %", "30%"),
    ("30 %", "trente pour cent"),
    ("5,5 %", "5.5 per cent"),
    ("le 3/11/2026", "3 novembre 2026"),
    ("le 03/11/26", "3 novembre 2026"),
    ("2026-11-03", "November 3, 2026"),
    ("1er mars 2026", "1 mars 2026"),
    ("3 novembre", "3 novembre 2026"),
    ("AF-00012", "af00012"),
    ("01 23 45 67 89", "+33 1 23 45 67 89"),
    ("https://www.exemple.fr/aide.", "exemple : www.exemple.fr/aide"),
    ("SAV@exemple.fr", "sav@exemple.fr"),
    ("4512", "commande n° 4512"),
    ("entre 15 et 30 jours", "15 jours puis 30 jours"),
    ("4,90 €", "| France | 4.9 |"),
]
DIFFERENT = [
    ("14 jours", "14 mois"),
    ("14 jours", "15 jours"),
    ("14 jours", "14 jours ouvrés"),
    ("14 jours ouvrés", "14 jours"),
    ("14 jours ouvrés", "14 jours ouvrables"),
    ("29,90 €", "29,90 $"),
    ("29,90 €", "29,09 €"),
    ("30 %", "30 €"),
    ("3/11/2026", "3/12/2026"),
    ("3 novembre 2026", "3 novembre 2025"),
    ("3 novembre 2026", "3 novembre"),
    ("AF-00012", "AF-00013"),
    ("01 23 45 67 89", "01 23 45 67 88"),
    ("sav@exemple.fr", "sav@exemple.com"),
    ("1200 €", "1,2 €"),
    ("48 h", "48 jours"),
]


@pytest.mark.parametrize(("stated", "source"), SAME)
def test_a_figure_is_found_however_it_is_written(stated: str, source: str) -> None:
    wanted, known = figures(stated), figures(source)
    assert wanted
    assert all(any(supports(one, figure) for one in known) for figure in wanted), (wanted, known)


@pytest.mark.parametrize(("stated", "source"), DIFFERENT)
def test_another_figure_does_not_pass_for_it(stated: str, source: str) -> None:
    wanted, known = figures(stated), figures(source)
    assert wanted
    assert not all(any(supports(one, figure) for one in known) for figure in wanted), (wanted, known)


@pytest.mark.parametrize(
    "text",
    [
        "1. Ouvrez le carton\n2. Vérifiez le contenu\n3) Appelez-nous",
        "Étape 4 : signez le bon",
        "- 2. second point",
        "Un retour est possible, une fois et une seule, dans les deux cas.",
        "Bonjour Madame, un conseiller neuf vous répondra.",
        "Bonjour [[PERSONNE_12]], votre adresse est [[ADRESSE_3b]].",
        "One of our advisers will call you.",
    ],
)
def test_markers_and_articles_are_not_figures(text: str) -> None:
    assert figures(text) == ()


def test_a_figure_knows_its_place() -> None:
    text = "Sous 14 jours ouvrés, pour 29,90\u00a0€ le 3 novembre 2026."
    for figure in figures(text):
        assert text[figure.start : figure.start + len(figure.text)] == figure.text
    assert [figure.kind for figure in figures(text)] == ["duration", "amount", "date"]
