"""The kinds of personal data that are looked for, and one finding of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["DIGIT_KINDS", "Found", "Kind"]


class Kind(StrEnum):
    """A kind of personal data; the value is the word in the placeholder, in French."""

    PERSON = "PERSONNE"
    EMAIL = "EMAIL"
    PHONE = "TELEPHONE"
    ADDRESS = "ADRESSE"
    BIRTH_DATE = "DATE_NAISSANCE"
    NIR = "NIR"
    """Number of the French social security."""
    IBAN = "IBAN"
    RIB = "RIB"
    """French bank account without the IBAN around it."""
    BIC = "BIC"
    CARD = "CARTE"
    """Number of a payment card."""
    SIREN = "SIREN"
    SIRET = "SIRET"
    VAT = "TVA"
    TAX = "NUMERO_FISCAL"
    HEALTH = "NUMERO_SANTE"
    """European health card, register of health professionals."""
    IDENTITY_CARD = "CNI"
    PASSPORT = "PASSEPORT"
    LICENCE = "PERMIS"
    PLATE = "IMMATRICULATION"
    IP = "IP"
    MAC = "MAC"
    SECRET = "SECRET"
    """Password, API key, token or private key."""
    LITERAL = "LITTERAL"
    """Text that looks like one of our placeholders but was written by the user."""


DIGIT_KINDS = frozenset(
    {
        Kind.PHONE,
        Kind.NIR,
        Kind.CARD,
        Kind.SIREN,
        Kind.SIRET,
        Kind.TAX,
        Kind.HEALTH,
        Kind.IDENTITY_CARD,
        Kind.LICENCE,
        Kind.RIB,
        Kind.BIRTH_DATE,
    }
)
"""Kinds that are the same value however their digits are grouped."""


@dataclass(frozen=True, slots=True)
class Found:
    """One piece of personal data, by its place in a text."""

    kind: Kind
    start: int
    end: int
