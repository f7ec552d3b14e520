"""Numbers of people, companies, cards and phones: groups of digits with a known shape and a key or a context."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from metier.guardrails.pii import checksums
from metier.guardrails.pii.kinds import Found, Kind
from metier.guardrails.pii.normalise import View

__all__ = ["find_numbers"]

_RUN = re.compile(r"[0-9]+(?:[ .\-/]{1,3}[0-9]+)*")
_GROUP = re.compile(r"[0-9]+")


def _words(words: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![^\W_])(?:{words})", re.IGNORECASE)


_REFERENCE = re.compile(
    r"(?<![^\W_])(?:commandes?|cmde?|r[ée]f[ée]rences?|r[ée]f|colis|suivi|factures?|articles?|produits?|orders?"
    r"|tracking"
    r"|invoices?|tickets?|dossiers?|lot|s[ée]rie|sku|ean|gtin|isbn|codes?[- ]barres?|contrats?|devis|modèle"
    r"|bons?|part"
    r"|parcel|item|serial|abonnement|r[ée]servation)"
    r"(?: (?:de|of) [a-zé]{2,12})?[ .:#]{0,3}(?:client|suivi|number|internet|web)?"
    r"[ .:#]{0,3}(?:n ?[°ºo]|n\.|num[ée]ro|no\.?|number|id)?(?: (?:est|is))?[ .:#]{0,4}\Z",
    re.IGNORECASE,
)
_NIR = _words(r"s[ée]cu|nir|vitale|insee|immatricul[a-zé]+ sociale|social security|assur[ée]")
_SIREN = _words(r"siren|rcs|r\.c\.s|soci[ée]t[ée]|entreprise|si[èe]ge")
_SIRET = _words(r"siret|[ée]tablissement")
_CARD = _words(r"cartes?|cb|card|visa|mastercard|amex|american express|maestro|paiement|payment|pan")
_PHONE = _words(r"t[ée]l|phone|mobile|portable|gsm|appel|call|joign|joindre|whatsapp|sms|fax|cell")
_TAX = _words(r"fiscal|imp[ôo]ts?|spi|tax")
_IDENTITY = _words(r"cni|cin|carte (?:nationale )?d'identit[ée]|pi[èe]ce d'identit[ée]|identity card|id card")
_LICENCE = _words(r"permis|neph|driv(?:ing|er'?s) licen[cs]e")
_HEALTH = _words(r"ceam|ehic|carte europ[ée]enne|european health|rpps|adeli")
_RIB = _words(r"rib|compte|account|bban")

_Rule = Callable[[str, View, int, bool], Kind | None]


def _phone(digits: str, view: View, start: int, grouped: bool) -> Kind | None:
    if digits[0] != "0" or digits[1] in "08":
        return None
    return Kind.PHONE if grouped or not view.follows(_REFERENCE, start) else None


def _foreign_phone(digits: str, view: View, start: int, grouped: bool) -> Kind | None:
    if (
        len(set(digits)) < 4
        or view.text[max(0, start - 2) : start - 1].isdigit()
        or not view.follows(_PHONE, start, 30)
    ):
        return None
    return Kind.PHONE if digits[0] == "0" or grouped else None


def _nir(digits: str, view: View, start: int, grouped: bool) -> Kind | None:
    with_key = len(digits) == 15
    if with_key and checksums.is_nir(digits):
        return Kind.NIR
    return Kind.NIR if checksums.is_nir(digits[:13], with_key=False) and view.follows(_NIR, start) else None


def _siren(digits: str, view: View, start: int, grouped: bool) -> Kind | None:
    if not checksums.is_siren(digits) or view.follows(_REFERENCE, start):
        return None
    return Kind.SIREN if grouped or view.follows(_SIREN, start) else None


def _siret(digits: str, view: View, start: int, grouped: bool) -> Kind | None:
    if view.follows(_SIRET, start):
        return Kind.SIRET
    return Kind.SIRET if checksums.is_siret(digits) and not view.follows(_REFERENCE, start) else None


def _card(digits: str, view: View, start: int, grouped: bool) -> Kind | None:
    if len(digits) in (15, 16) and checksums.is_card(digits):
        return Kind.CARD if grouped or not view.follows(_REFERENCE, start) else None
    return Kind.CARD if view.follows(_CARD, start, 30) and (len(digits) == 16 or checksums.luhn(digits)) else None


def _tax(digits: str, view: View, start: int, grouped: bool) -> Kind | None:
    if digits[0] not in "0123":
        return None
    return Kind.TAX if view.follows(_TAX, start) or (grouped and checksums.is_tax(digits)) else None


def _identity(digits: str, view: View, start: int, grouped: bool) -> Kind | None:
    if view.follows(_IDENTITY, start):
        return Kind.IDENTITY_CARD
    return Kind.LICENCE if view.follows(_LICENCE, start) else None


def _health(digits: str, view: View, start: int, grouped: bool) -> Kind | None:
    return Kind.HEALTH if view.follows(_HEALTH, start) else None


def _rib(digits: str, view: View, start: int, grouped: bool) -> Kind | None:
    return Kind.RIB if checksums.is_rib(digits) or view.follows(_RIB, start) else None


_SHAPES: Mapping[tuple[int, ...], tuple[_Rule, ...]] = MappingProxyType(
    {
        (10,): (_phone,),
        (2, 2, 2, 2, 2): (_phone,),
        (2, 4, 4): (_phone,),
        (4, 2, 2, 2): (_phone,),
        (4, 3, 3): (_phone,),
        (3, 3, 2, 2): (_phone,),
        (2, 8): (_phone,),
        (4, 6): (_phone,),
        (2, 3, 2, 3): (_phone,),
        (1, 3, 3, 3): (_phone,),
        (2, 3, 2, 2): (_foreign_phone,),
        (3, 3, 4): (_foreign_phone,),
        (3, 4, 4): (_foreign_phone,),
        (5, 6): (_foreign_phone,),
        (5, 3, 3): (_foreign_phone,),
        (4, 3, 4): (_foreign_phone,),
        (11,): (_health, _foreign_phone),
        (9,): (_siren,),
        (3, 3, 3): (_siren, _foreign_phone),
        (4, 4): (_foreign_phone,),
        (2, 3, 3): (_foreign_phone,),
        (2, 3, 4): (_foreign_phone,),
        (3, 3, 2): (_foreign_phone,),
        (12,): (_identity, _card),
        (14,): (_siret, _card),
        (3, 3, 3, 5): (_siret,),
        (9, 5): (_siret,),
        (4, 6, 4): (_card,),
        (13,): (_nir, _tax, _card),
        (1, 2, 2, 2, 3, 3): (_nir,),
        (1, 2, 2, 3, 2, 3): (_nir,),
        (2, 2, 3, 3, 3): (_tax,),
        (15,): (_nir, _card),
        (13, 2): (_nir,),
        (1, 2, 2, 2, 3, 3, 2): (_nir,),
        (1, 2, 2, 3, 2, 3, 2): (_nir,),
        (1, 2, 2, 5, 3, 2): (_nir,),
        (1, 4, 2, 3, 3, 2): (_nir,),
        (1, 6, 3, 3, 2): (_nir,),
        (1, 12, 2): (_nir,),
        (7, 3, 3, 2): (_nir,),
        (4, 6, 5): (_card,),
        (16,): (_card,),
        (4, 4, 4, 4): (_card,),
        (19,): (_card,),
        (20,): (_health,),
        (23,): (_rib,),
        (5, 5, 11, 2): (_rib,),
    }
)
"""Sizes of the groups of digits that a number may be written in, and the rules to try on them."""

_LONGEST = max(map(len, _SHAPES))
_STARTS = frozenset(shape[0] for shape in _SHAPES)


def find_numbers(view: View) -> Iterator[Found]:
    """Find the numbers made of digits only, whatever separates their groups."""
    for run in _RUN.finditer(view.text):
        if run.end() - run.start() >= 9:
            yield from _in_run(view, run.start(), run.end())


def _in_run(view: View, start: int, end: int) -> Iterator[Found]:
    text = view.text
    groups = [match.span() for match in _GROUP.finditer(text, start, end)]
    sizes = [stop - begin for begin, stop in groups]
    first = 0
    while first < len(groups):
        taken = 1
        if sizes[first] in _STARTS and not (first == 0 and _glued_before(text, start)):
            for count in range(min(_LONGEST, len(groups) - first), 0, -1):
                rules = _SHAPES.get(tuple(sizes[first : first + count]))
                if rules and (kind := _judged(view, groups[first : first + count], rules, end)):
                    yield Found(kind, groups[first][0], groups[first + count - 1][1])
                    taken = count
                    break
        first += taken


def _judged(view: View, groups: list[tuple[int, int]], rules: tuple[_Rule, ...], run_end: int) -> Kind | None:
    text, start, end = view.text, groups[0][0], groups[-1][1]
    if end == run_end and _glued_after(text, end):
        return None
    inner = groups if len(groups) < 3 else groups[:-1]  # the key of a number often stands apart
    separators = {text[left[1] : right[0]] for left, right in itertools.pairwise(inner)}
    if len(separators) > 1:
        return None
    digits = "".join(text[begin:stop] for begin, stop in groups)
    grouped = len(groups) > 1
    for rule in rules:
        if kind := rule(digits, view, start, grouped):
            return kind
    return None


def _glued_before(text: str, start: int) -> bool:
    if start == 0:
        return False
    before = text[start - 1]
    if before.isalnum() or before in "_$€£":
        return True
    return before in "-/#" and start > 1 and text[start - 2].isalnum()


def _glued_after(text: str, end: int) -> bool:
    rest = text[end : end + 3]
    if not rest:
        return False
    if rest[0].isalnum() or rest[0] == "_" or rest.lstrip(" ")[:1] in ("€", "$", "£", "%"):
        return True
    return len(rest) > 1 and (rest[0] in ",-/" and rest[1].isalnum())
