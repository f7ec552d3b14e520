"""Whole letters from customers: nothing personal is left, everything the answer needs is."""

from __future__ import annotations

import pytest

from metier.guardrails.pii import Table, mask
from metier.guardrails.pii.restore import Decoder

RETURN = (
    """De : Solène Kerbrat <solene.kerbrat@courriel.example>
Objet : retour commande 7741-20931

Bonjour,

J'ai commandé le 3 novembre un tabouret Brume (réf. TB-410-GR, commande n° 774120931) à 89,90 €. Il est arrivé fendu.
Je voudrais un remboursement sur mon compte FR76 3000 6000 0112 3456 7890 189.
Mon mari, Yannick Kerbrat, sera là jeudi entre 9h et 12h : 14 bis rue des Trois-Frères, 29200 Brest, 3e étage,
tél. 06.12.34.56.78 (ou 02 98 00 11 22 le soir).

Merci d'avance,
Solène Kerbrat
""",
    ["solene", "kerbrat", "yannick", "fr76", "trois-frères", "06.12", "02 98", "29200"],
    ["7741-20931", "774120931", "tb-410-gr", "89,90 €", "3 novembre", "tabouret brume", "entre 9h et 12h"],
)
SMALL = (
    """bonjour je m'appelle fatoumata diarra, j'ai pas reçu mon colis 6A12345678901. mon numero c'est le 0712345678
et mon adresse 8 allee des peupliers 94000 creteil. mme diarra""",
    ["fatoumata", "diarra", "0712345678", "peupliers", "creteil"],
    ["6a12345678901", "mon colis"],
)
PAPERS = (
    """Madame, Monsieur,

Je soussigné Monsieur Jean-Baptiste DE LA ROCHE, né le 1er mai 1962 à Pau, n° de sécurité sociale 1 62 05 64 445 012 70,
titulaire du passeport 12AB34567, propriétaire du véhicule immatriculé AB-123-CD, résilie le contrat 2024-118-44 pour
le 31/12/2026, conformément à l'article 14 des conditions générales.
M. De La Roche reste joignable au +33 (0)6 12 34 56 78. Carte de paiement : 4111 1111 1111 1111.

Je vous prie d'agréer, Madame, Monsieur, mes salutations distinguées.

J.-B. de La Roche
""",
    ["jean-baptiste", "j.-b.", "roche", "1962", "1 62 05", "12ab34567", "ab-123-cd", "12 34 56 78", "4111"],
    ["2024-118-44", "31/12/2026", "article 14", "conditions générales"],
)
ENGLISH = (
    """From: "Gareth O'Brien" <g.obrien@post.example>

Dear Ms Lefèvre,

My order 4471-002 has not arrived. Please call me on +44 7700 900123 or write to 12 Mill Lane, Ely CB7 4AA.
The router (version 10.4.2.1, MAC 00:1B:44:11:3A:B7) was 59.00 EUR, and my password is Tulip-2024.

Kind regards,
Gareth O'Brien
""",
    ["gareth", "o'brien", "lefèvre", "7700", "mill lane", "cb7", "00:1b", "tulip-2024", "g.obrien"],
    ["4471-002", "10.4.2.1", "59.00 eur", "kind regards"],
)


@pytest.mark.parametrize(("text", "personal", "needed"), [RETURN, SMALL, PAPERS, ENGLISH])
def test_a_letter_is_masked_and_comes_back(text: str, personal: list[str], needed: list[str]) -> None:
    table = Table()
    masked, counts = mask(text, table)
    assert [value for value in personal if value in masked.lower()] == []
    assert [value for value in needed if value not in masked.lower()] == []
    assert counts["PERSONNE"] >= 1
    decoder = Decoder({entry.code: entry.surface for entry in table.entries()})
    assert decoder.feed(masked) + decoder.flush() == text
