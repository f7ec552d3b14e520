"""What is found in a text, and what is rightly left alone."""

from __future__ import annotations

import pytest
from schwifty import IBAN

from metier.guardrails.pii import find


def found(text: str, context: str = "") -> list[tuple[str, str]]:
    return [(one.kind.value, text[one.start : one.end]) for one in find(text, context)]


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("NIR", "1 84 12 76 451 089 46", "Mon numéro : 1 84 12 76 451 089 46."),
        ("NIR", "184127645108946", "sécu 184127645108946"),
        ("NIR", "1.84.12.76.451.089.46", "carte vitale 1.84.12.76.451.089.46"),
        (
            "NIR",
            "1\u00a084\u00a012\u00a076\u00a0451\u00a0089\u00a046",
            "Voici : 1\u00a084\u00a012\u00a076\u00a0451\u00a0089\u00a046",
        ),
        (
            "NIR",
            "1\u202f84\u202f12\u202f76\u202f451\u202f089\u202f46",
            "1\u202f84\u202f12\u202f76\u202f451\u202f089\u202f46",
        ),
        ("NIR", "1-84-12-76-451-089-46", "n° 1-84-12-76-451-089-46"),
        ("NIR", "1 84 12 76 451 089 / 46", "NIR 1 84 12 76 451 089 / 46"),
        ("NIR", "1 84 12 76 451 089", "numéro de sécu : 1 84 12 76 451 089"),
        ("NIR", "1 84 12 2A 451 089 33", "né en Corse, 1 84 12 2A 451 089 33"),
        ("SIREN", "732 829 320", "société immatriculée 732 829 320 au RCS de Lyon"),
        ("SIREN", "732829320", "SIREN 732829320"),
        ("SIRET", "732 829 320 00074", "Siret : 732 829 320 00074"),
        ("SIRET", "73282932000074", "notre établissement 73282932000074"),
        ("TVA", "FR 44 732829320", "TVA FR 44 732829320"),
        ("TVA", "FR44732829320", "n° FR44732829320"),
        ("IBAN", "FR76 3000 6000 0112 3456 7890 189", "IBAN : FR76 3000 6000 0112 3456 7890 189."),
        ("IBAN", "fr7630006000011234567890189", "sur fr7630006000011234567890189 svp"),
        ("IBAN", "DE89 3704 0044 0532 0130 00", "DE89 3704 0044 0532 0130 00"),
        ("IBAN", "FR77 3000 6000 0112 3456 7890 189", "mon IBAN est FR77 3000 6000 0112 3456 7890 189 je crois"),
        ("RIB", "30006 00001 12345678901 89", "RIB 30006 00001 12345678901 89"),
        ("BIC", "AGRIFRPP", "BIC : AGRIFRPP"),
        ("CARTE", "4111 1111 1111 1111", "ma carte 4111 1111 1111 1111"),
        ("CARTE", "4111-1111-1111-1111", "4111-1111-1111-1111"),
        ("CARTE", "3782 822463 10005", "Amex 3782 822463 10005"),
        ("CARTE", "4111 1111 1111 1112", "carte bancaire 4111 1111 1111 1112"),
        ("TELEPHONE", "06 12 34 56 78", "au 06 12 34 56 78 le soir"),
        ("TELEPHONE", "06.12.34.56.78", "06.12.34.56.78"),
        ("TELEPHONE", "0612345678", "rappelez le 0612345678"),
        ("TELEPHONE", "0612345678", "Date 12/05/2024 0612345678"),
        ("TELEPHONE", "+33 6 12 34 56 78", "+33 6 12 34 56 78"),
        ("TELEPHONE", "+33 (0)6 12 34 56 78", "+33 (0)6 12 34 56 78"),
        ("TELEPHONE", "0033612345678", "0033612345678"),
        ("TELEPHONE", "+262 692 12 34 56", "La Réunion +262 692 12 34 56"),
        ("TELEPHONE", "0590 12 34 56", "Guadeloupe : 0590 12 34 56"),
        ("TELEPHONE", "+44 20 7946 0958", "London: +44 20 7946 0958"),
        ("TELEPHONE", "(555) 010-4567", "call (555) 010-4567"),
        ("EMAIL", "helene.lefevre+colis@courriel.example", "<helene.lefevre+colis@courriel.example>"),
        ("EMAIL", "helene [at] courriel.example", "écrire à helene [at] courriel.example"),
        ("IP", "82.64.12.7", "depuis 82.64.12.7 hier"),
        ("IP", "2a01:e0a:1b2:3c40::7", "IP 2a01:e0a:1b2:3c40::7"),
        ("MAC", "00:1B:44:11:3A:B7", "MAC 00:1B:44:11:3A:B7"),
        ("DATE_NAISSANCE", "12/03/1980", "née le 12/03/1980"),
        ("DATE_NAISSANCE", "1er mai 1980", "né le 1er mai 1980 à Brest"),
        ("DATE_NAISSANCE", "12 mars 1980", "née à Lyon le 12 mars 1980"),
        ("DATE_NAISSANCE", "1980-03-12", "date de naissance : 1980-03-12"),
        ("ADRESSE", "12 bis, rue de la République, 69002 Lyon", "J'habite 12 bis, rue de la République, 69002 Lyon."),
        ("ADRESSE", "3 rue du 8 mai 1945, 93200 Saint-Denis", "3 rue du 8 mai 1945, 93200 Saint-Denis"),
        ("ADRESSE", "4 av. Foch\n75116 PARIS CEDEX 16", "Livrer :\n4 av. Foch\n75116 PARIS CEDEX 16\nMerci"),
        ("ADRESSE", "17 impasse des Lilas", "Je suis au 17 impasse des Lilas depuis mai."),
        ("ADRESSE", "12 rue de la paix 75002 paris", "12 rue de la paix 75002 paris"),
        ("ADRESSE", "lieu-dit Les Granges, 24000 Périgueux", "au lieu-dit Les Granges, 24000 Périgueux"),
        ("ADRESSE", "221B Baker Street, London NW1 6XE", "I live at 221B Baker Street, London NW1 6XE"),
        ("IMMATRICULATION", "AB-123-CD", "ma voiture AB-123-CD"),
        ("IMMATRICULATION", "AB123CD", "plaque AB123CD"),
        ("IMMATRICULATION", "1234 AB 75", "véhicule 1234 AB 75"),
        ("PASSEPORT", "12AB34567", "passeport n° 12AB34567"),
        ("CNI", "880692310285", "carte d'identité 880692310285"),
        ("CNI", "X4RTBPFW4", "CNI : X4RTBPFW4"),
        ("NUMERO_FISCAL", "30 23 217 600 053", "numéro fiscal 30 23 217 600 053"),
        ("SECRET", "Azerty123!", "mot de passe : Azerty123!"),
        ("SECRET", "AKIA" + "ABCDEFGHIJKLMNOP", "clé AKIA" + "ABCDEFGHIJKLMNOP"),
    ],
)
def test_a_value_is_found_whole(kind: str, value: str, text: str) -> None:
    assert (kind, value) in found(text)


@pytest.mark.parametrize(
    "text",
    [
        "Ma commande n° 4567891234 n'est pas arrivée.",
        "Commande 0612345678 expédiée",
        "référence client 0478123456",
        "EAN 3760123456789, GTIN 4006381333931",
        "Réf. AB-123-CD en stock",
        "modèle GX-204-ZR",
        "le 12/05/2024 à 14:30:25",
        "Facture du 3 août 2024 : 1 249,90 € TTC, soit 1 041,58 € HT",
        "Le montant est de 552 100 554 €.",
        "version 10.4.2.1 du logiciel",
        "v2.14.0.3 puis 127.0.0.1",
        "Composez le 15, le 112 ou le 3949.",
        "Appelez le 0 800 123 456 (gratuit) ou le 0800123456.",
        "ISBN 978-2-07-036822-8",
        "Colis 6A12345678901, suivi 8N00234567890",
        "CMD-0612345678",
        "Bonjour Madame, Monsieur,",
        "Cordialement,\nLe service client",
        "Cordialement,\nL'équipe Orange",
        "Vos conseillers à Paris, Lyon et Nantes restent à disposition.",
        "Orange et Free, chez Leroy Merlin et Yves Rocher, rue piétonne",
        "La rose est fanée, le mur de pierre est clair.",
        "Rose pâle, Pierre naturelle, Marine ou Orange : choisissez la couleur.",
        "Madame la Directrice, Monsieur le Maire,",
        "En avril, Mai et Juin sont complets.",
        "Dear Customer, your order has shipped. Kind regards, Customer Service",
        "Je souhaite être remboursé. Monsieur souhaite un avoir.",
        "Client : Orange Business",
        "Je suis Français et très déçu.",
        "Les articles 12 à 15 du Code Civil, place du marché",
        "std::vector et 12:30:45",
        "Nom du produit : Chaise Oslo",
        "Délai de 10 jours, 24 rue ne veut rien dire",
    ],
)
def test_an_ordinary_text_is_left_alone(text: str) -> None:
    assert found(text) == []


def test_every_generated_french_account_is_found() -> None:
    for _ in range(50):
        number = IBAN.random(country_code="FR")
        text = f"Virez sur {number.formatted} avant vendredi."
        assert found(text) == [("IBAN", number.formatted)]


def test_invisible_and_wide_characters_hide_nothing() -> None:
    assert found("tél 06\u200b12\u200b34\u200b56\u200b78") == [("TELEPHONE", "06\u200b12\u200b34\u200b56\u200b78")]
    wide = "".join(chr(ord(c) + 0xFEE0) if c.isdigit() else c for c in "06 12 34 56 78")
    assert found(wide) == [("TELEPHONE", wide)]
    assert found("Je suis He\u0301le\u0300ne Lefe\u0300vre.") == [("PERSONNE", "He\u0301le\u0300ne Lefe\u0300vre")]


def test_the_key_of_a_value_is_its_context() -> None:
    assert found("732829320", "siren") == [("SIREN", "732829320")]
    assert found("Lefèvre", "lastName") == [("PERSONNE", "Lefèvre")]
    assert found("4567891234", "order_id") == []


def test_a_private_key_goes_whole() -> None:
    begin, end = "-----BEGIN PRIVATE " + "KEY-----", "-----END PRIVATE " + "KEY-----"
    key = f"{begin}\nMIIEvQ\nabc\n{end}"
    assert found(f"voici\n{key}\nmerci") == [("SECRET", key)]


@pytest.mark.parametrize(
    "text",
    ["1 " * 3_000, "a" * 6_000, "A " * 3_000, "M. " * 2_000, "eyJ" * 2_000, "FR76" * 1_500, "a@" * 3_000, "a:" * 3_000,
     "1 rue " * 1_000, "Jean de " * 700, "[" * 6_000, "né le " * 1_000, "-----BEGIN PRIVATE KEY" * 300, "06 " * 2_000],
    ids=lambda text: text[:6],
)  # fmt: skip
def test_hostile_repetitions_cost_no_more_than_their_length(text: str) -> None:
    """A text twice as long may take about twice as long: counted in calls, not in seconds."""
    assert len(find(text + text)) <= 2 * len(find(text)) + 2
