"""Names of people, as they stand in letters."""

from __future__ import annotations

import pytest

from metier.guardrails.pii import find


def names(text: str) -> list[str]:
    return [text[one.start : one.end] for one in find(text) if one.kind == "PERSONNE"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Lefèvre", "Madame Lefèvre m'a répondu."),
        ("Lefèvre", "J'ai vu Mme Lefèvre."),
        ("Orange", "Mme Orange n'a rien reçu."),
        ("Le Goff", "M. Le Goff habite ici."),
        ("dupont", "mme dupont a appelé"),
        ("Hélène Lefèvre", "Hélène Lefèvre a écrit."),
        ("LEFÈVRE Hélène", "Dossier de LEFÈVRE Hélène."),
        ("HELENE LEFEVRE", "HELENE LEFEVRE"),
        ("Jean-Pierre N'Guessan", "avec Jean-Pierre N'Guessan"),
        ("Jean de La Fontaine", "Jean de La Fontaine habite ici"),
        ("van der Berg", "le Dr. van der Berg"),
        ("Fatima El Amrani", "Fatima El Amrani souhaite"),
        ("Mohamed Ben Ali", "Mohamed Ben Ali a payé"),
        ("Samuel L. Jackson", "Samuel L. Jackson called."),
        ("Bryan Maclean", "Bryan Maclean's parcel"),
        ("Pierre Martin", "Pierre Martin est venu"),
        ("Rose Dubois", "c'est Rose Dubois"),
        ("Claire", "Bonjour Claire,"),
        ("Lefèvre", "Cordialement,\nLefèvre"),
        ("H. Lefèvre", "Bien cordialement,\n\nH. Lefèvre"),
        ("Xiulan Quan", "Merci d'avance.\nXiulan Quan"),
        ("hélène lefèvre", "je m'appelle hélène lefèvre"),
        ("hélène lefèvre", "bonjour, je suis hélène lefèvre"),
        ("Quéméneur", "Nom : Quéméneur"),
        ("Zbigniew Wrona", "Client : Zbigniew Wrona"),
        ("Xiulan Quan", 'From: "Xiulan Quan" <x.quan@courriel.example>'),
        ("Smith", "Dear Mr Smith,"),
        ("Garrandeau", "la famille Garrandeau"),
        ("Paul", "ma femme et Paul"),
        ("d'Ormesson", "M. d'Ormesson"),
    ],
)
def test_a_name_is_found_whole(name: str, text: str) -> None:
    assert name in names(text)


@pytest.mark.parametrize(
    "text",
    [
        "la société Martin",
        "le garage Bernard",
        "rue Victor Hugo",
        "Durand SARL",
        "lycée Jules Ferry",
        "Bernard et Fils",
    ],
)
def test_a_company_or_a_place_is_not_a_person(text: str) -> None:
    assert names(text) == []
