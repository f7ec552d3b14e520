"""Control keys of French and international numbers; arguments are digits (and letters) without separators."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

__all__ = [
    "IBAN_LENGTHS",
    "is_card",
    "is_iban",
    "is_nir",
    "is_rib",
    "is_siren",
    "is_siret",
    "is_tax",
    "is_vat",
    "luhn",
]

_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)

IBAN_LENGTHS: Mapping[str, int] = MappingProxyType(
    {
        code: int(length)
        for code, length in (
            pair.split(":")
            for pair in [
                "AD:24",
                "AE:23",
                "AL:28",
                "AT:20",
                "AZ:28",
                "BA:20",
                "BE:16",
                "BG:22",
                "BH:22",
                "BR:29",
                "BY:28",
                "CH:21",
                "CR:22",
                "CY:28",
                "CZ:24",
                "DE:22",
                "DK:18",
                "DO:28",
                "EE:20",
                "EG:29",
                "ES:24",
                "FI:18",
                "FO:18",
                "FR:27",
                "GB:22",
                "GE:22",
                "GI:23",
                "GL:18",
                "GR:27",
                "GT:28",
                "HR:21",
                "HU:28",
                "IE:22",
                "IL:23",
                "IQ:23",
                "IS:26",
                "IT:27",
                "JO:30",
                "KW:30",
                "KZ:20",
                "LB:28",
                "LC:32",
                "LI:21",
                "LT:20",
                "LU:20",
                "LV:21",
                "LY:25",
                "MA:28",
                "MC:27",
                "MD:24",
                "ME:22",
                "MK:19",
                "MR:27",
                "MT:31",
                "MU:30",
                "NL:18",
                "NO:15",
                "PK:24",
                "PL:28",
                "PS:29",
                "PT:25",
                "QA:29",
                "RO:24",
                "RS:22",
                "SA:24",
                "SC:31",
                "SE:24",
                "SI:19",
                "SK:24",
                "SM:27",
                "TN:24",
                "TR:26",
                "UA:29",
                "VA:22",
                "VG:24",
                "XK:20",
            ]
        )
    }
)
"""Length of an IBAN per country."""


def luhn(digits: str) -> bool:
    """Tell whether the last digit is the Luhn key of the others."""
    total = 0
    double = False
    for digit in reversed(digits):
        value = ord(digit) - 48
        total += _DOUBLED[value] if double else value
        double = not double
    return total % 10 == 0


def is_nir(number: str, with_key: bool = True) -> bool:
    """Tell whether 15 characters are a social security number (13 without the key, shape only)."""
    if len(number) != (15 if with_key else 13) or number[0] not in "123478":
        return False
    month, place = int(number[3:5]), number[5:7].upper()
    if not (1 <= month <= 12 or 20 <= month <= 42 or 50 <= month <= 99) or place == "00":
        return False
    body = number[:5] + {"2A": "19", "2B": "18"}.get(place, place) + number[7:]
    if not body.isdigit():
        return False
    return not with_key or int(body[13:]) == 97 - int(body[:13]) % 97


def is_siren(digits: str) -> bool:
    """Tell whether nine digits are the number of a French company."""
    return len(digits) == 9 and digits != "000000000" and luhn(digits)


def is_siret(digits: str) -> bool:
    """Tell whether fourteen digits are the number of a French establishment."""
    if len(digits) != 14 or not is_siren(digits[:9]):
        return False
    if digits.startswith("356000000") and not digits.endswith("00048"):  # the post office has too many for Luhn
        return sum(int(d) for d in digits) % 5 == 0
    return luhn(digits)


def is_vat(number: str) -> bool:
    """Tell whether "FR" + key + company number is a French VAT number."""
    number = number.upper()
    if len(number) != 13 or not number.startswith("FR") or not number[4:].isdigit():
        return False
    key, siren = number[2:4], number[4:]
    if not is_siren(siren) and not siren.startswith("000"):  # Monaco has no company number behind its own
        return False
    return not key.isdigit() or int(key) == (12 + 3 * (int(siren) % 97)) % 97


def is_iban(number: str) -> bool:
    """Tell whether an IBAN has the length of its country and the right key."""
    number = number.upper()
    if IBAN_LENGTHS.get(number[:2]) != len(number) or not number.isalnum() or not number.isascii():
        return False
    return int("".join(str(int(c, 36)) for c in number[4:] + number[:4])) % 97 == 1


def is_rib(number: str) -> bool:
    """Tell whether 23 characters are a French account number with its key."""
    number = number.upper()
    if len(number) != 23 or not number.isalnum() or not number.isascii():
        return False
    digits = "".join(c if c.isdigit() else _rib_digit(c) for c in number)
    bank, branch, account, key = int(digits[:5]), int(digits[5:10]), int(digits[10:21]), int(digits[21:])
    return key == 97 - (89 * bank + 15 * branch + 3 * account) % 97


def _rib_digit(letter: str) -> str:
    place = ord(letter) - 65
    return str(place % 9 + 1) if place < 18 else str(place - 18 + 2)


def is_card(digits: str) -> bool:
    """Tell whether the digits are a payment card: issuer range, length for it, and key."""
    size, two, four = len(digits), digits[:2], int(digits[:4])
    if digits[0] == "4":
        known = size in (13, 16, 19)
    elif "51" <= two <= "55" or 2221 <= four <= 2720:
        known = size == 16
    elif two in ("34", "37"):
        known = size == 15
    elif two in ("36", "38", "39") or 3000 <= four <= 3059:
        known = size == 14
    elif two == "35" or two == "65" or four == 6011 or 6440 <= four <= 6499:
        known = size == 16
    else:
        known = four in (5018, 5020, 5038, 5893, 6304, 6759, 6761, 6762, 6763) and 12 <= size <= 19
    return known and luhn(digits)


def is_tax(digits: str) -> bool:
    """Tell whether thirteen digits are a French tax number."""
    return len(digits) == 13 and digits[0] in "0123" and int(digits[:10]) % 511 == int(digits[10:])
