"""Bank accounts and company numbers that mix letters and digits."""

from __future__ import annotations

import re
from collections.abc import Iterator

from metier.guardrails.pii import checksums
from metier.guardrails.pii.kinds import Found, Kind
from metier.guardrails.pii.normalise import View

__all__ = ["find_accounts"]

_IBAN = re.compile(r"(?<![^\W_])([A-Za-z]{2}) ?([0-9]{2})((?:[ .\-]?[A-Za-z0-9]){11,30})")
_IBAN_CONTEXT = re.compile(r"iban|\brib\b|compte|account|virement|bank|banque|pr[ée]l[èe]vement|sepa", re.IGNORECASE)
_RIB = re.compile(r"([0-9](?<![^\W_].)[0-9]{4})[ .\-]?([0-9]{5})[ .\-]?([0-9A-Za-z]{11})[ .\-]?([0-9]{2})(?![^\W_])")
_NIR_CORSICA = re.compile(
    r"(?<![0-9])[1-478][ .\-]?[0-9]{2}[ .\-]?[0-9]{2}[ .\-]?2[ABab](?:[ .\-]?[0-9]){6}"
    r"(?:[ .\-/]{0,3}[0-9]{2})?(?![^\W_])"
)
_VAT = re.compile(r"(?<![^\W_])FR[ .\-]?[0-9A-HJ-NP-Za-hj-np-z]{2}[ .\-]?[0-9]{3}[ .]?[0-9]{3}[ .]?[0-9]{3}(?![^\W_])")
_VAT_ABROAD = re.compile(r"(?:\bTVA|\bVAT)[^\n:]{0,24}[: ]\s?((?:[A-Z]{2})[ ]?[0-9A-Z]{2}[0-9. ]{5,12}[0-9])(?![^\W_])")
_BIC = re.compile(r"(?<![^\W_])[A-Z]{4}[A-Z]{2}[A-Z0-9]{2}(?:[A-Z0-9]{3})?(?![^\W_])")
_BIC_CLOSE = re.compile(r"\b(?:bic|swift)\b[^\n]{0,20}\Z", re.IGNORECASE)
_SOCIAL = re.compile("s[ée]cu|nir", re.IGNORECASE)
_SEPARATORS = str.maketrans("", "", " .-/")


def find_accounts(view: View) -> Iterator[Found]:
    """Find IBAN, RIB with letters, BIC, VAT numbers and social security numbers of Corsica."""
    text = view.text
    for match in _IBAN.finditer(text):
        if end := _iban_end(view, match):
            yield Found(Kind.IBAN, match.start(), end)
    for match in _RIB.finditer(text):
        if checksums.is_rib("".join(match.groups())):
            yield Found(Kind.RIB, match.start(), match.end())
    for match in _NIR_CORSICA.finditer(text) if view.mentions("2a", "2b") else ():
        number = match[0].translate(_SEPARATORS)
        if checksums.is_nir(number) or view.follows(_SOCIAL, match.start()):
            yield Found(Kind.NIR, match.start(), match.end())
    for match in _VAT.finditer(text) if "FR" in text else ():
        if checksums.is_vat(match[0].translate(_SEPARATORS)):
            yield Found(Kind.VAT, match.start(), match.end())
    for match in _VAT_ABROAD.finditer(text) if view.mentions("tva", "vat") else ():
        yield Found(Kind.VAT, match.start(1), match.end(1))
    if view.mentions("bic", "swift"):
        for match in _BIC.finditer(text):
            if view.follows(_BIC_CLOSE, match.start()):
                yield Found(Kind.BIC, match.start(), match.end())


def _iban_end(view: View, match: re.Match[str]) -> int | None:
    """Cut the match at the length its country prescribes, and check it there."""
    length = checksums.IBAN_LENGTHS.get(match[1].upper())
    if length is None:
        return None
    number, end = match[1] + match[2], match.start(3)
    while len(number) < length and end < match.end():
        char = view.text[end]
        if char.isalnum():
            number += char
        end += 1
    if len(number) != length or view.text[end : end + 1].isalnum():
        return None
    if checksums.is_iban(number):
        return end
    digits = sum(c.isdigit() for c in number)
    return end if digits > length * 2 // 3 and view.follows(_IBAN_CONTEXT, match.start()) else None
