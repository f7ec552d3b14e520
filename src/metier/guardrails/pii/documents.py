"""Birth dates, identity papers and number plates: shapes that mean something only near the right words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date

from metier.guardrails.pii.kinds import Found, Kind
from metier.guardrails.pii.normalise import View

__all__ = ["find_documents"]

_MONTHS = [
    "janvier",
    "février",
    "fevrier",
    "mars",
    "avril",
    "mai",
    "juin",
    "juillet",
    "août",
    "aout",
    "septembre",
    "octobre",
    "novembre",
    "décembre",
    "decembre",
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
    "janv",
    "févr",
    "fevr",
    "juil",
    "sept",
    "oct",
    "nov",
    "déc",
    "dec",
    "jan",
    "feb",
    "mar",
    "apr",
    "jun",
    "jul",
    "aug",
    "sep",
]
_DATE = re.compile(
    r"(?<![0-9])(?:([0-3]?[0-9])[ /.\-]{1,3}([01]?[0-9])[ /.\-]{1,3}((?:19|20)?[0-9]{2})"
    r"|((?:19|20)[0-9]{2})-([01][0-9])-([0-3][0-9])"
    r"|[0-3]?[0-9](?:er|st|nd|rd|th)? (?:" + "|".join(_MONTHS) + r")\.?,? (?:19|20)?[0-9]{2}"
    r"|(?:" + "|".join(_MONTHS) + r")\.? [0-3]?[0-9](?:st|nd|rd|th)?,? (?:19|20)[0-9]{2})(?![0-9])",
    re.IGNORECASE,
)
_BIRTH = re.compile(
    r"(?<![^\W_])(?:née?(?:\(e\)|\.e|·e)? (?=le |en |[àa] |(?-i:[A-Z])|\()|nee? (?=le [0-9])|naissance"
    r"|date of birth|birth ?da(?:te"
    r"|y)|born|d\.?o\.?b\b|"
    r"ddn\b|anniversaire)",
    re.IGNORECASE,
)
_BIRTH_REACH = 60
_PLATE = re.compile(
    r"(?<![\w\-])(?!SS|WW)[A-HJ-NP-TV-Z]{2}([ \-]?)[0-9]{3}\1(?!SS)[A-HJ-NP-TV-Z]{2}(?![\w\-])", re.IGNORECASE
)
_PLATED = re.compile(r"[0-9]{3}[ \-]?[^\W\d_]")
_OLD_PLATE = re.compile(r"(?<![\w\-])[0-9]{1,4}[ \-]?[A-Z]{1,3}[ \-]?(?:[0-9]{2}|2[AB]|97[1-6])(?![\w\-])")
_VEHICLE = re.compile(
    r"immatricul|plaque|v[ée]hicule|voiture|\bauto\b|moto|camion|utilitaire|carte grise|licen[cs]e plate"
    r"|registration|\bcar\b",
    re.IGNORECASE,
)
_PRODUCT = re.compile(
    r"(?:r[ée]f[ée]rences?|r[ée]f|articles?|produits?|mod[èe]le|commande|lot|s[ée]rie|sku|code|promo|part|item"
    r"|order|dossier|ticket)"
    r"[ .:#]{0,3}(?:n ?[°ºo]|num[ée]ro|no\.?)?[ .:#]{0,3}\Z",
    re.IGNORECASE,
)
_PASSPORT_WORD = re.compile(r"passe?port[^\n]{0,40}\Z", re.IGNORECASE)
_IDENTITY_WORD = re.compile(
    r"(?:\bcni\b|\bcin\b|cartes? (?:nationale )?d'identit|pi[èe]ce d'identit|identity card|id card"
    r"|titre de s[ée]jour)[^\n]{0,40}\Z",
    re.IGNORECASE,
)
_LICENCE_WORD = re.compile(r"(?:permis(?: de conduire)?|driv(?:ing|er'?s) licen[cs]e)[^\n]{0,40}\Z", re.IGNORECASE)
_PAPER_STEMS = ("passeport", "passport", "cni", "cin", "identit", "permis", "licen", "id card", "séjour", "sejour")
_BIRTH_STEMS = ("né", "nee", "naissance", "birth", "born", "dob", "d.o.b", "ddn", "anniversaire")
_VEHICLE_STEMS = (
    "immatricul",
    "plaque",
    "véhicule",
    "vehicule",
    "voiture",
    "auto",
    "moto",
    "camion",
    "utilitaire",
    "carte grise",
    "license",
    "licence",
    "registration",
    "car",
)
_PAPER = re.compile(r"(?<![\w\-])(?=[0-9A-Z]{0,8}[0-9])[0-9A-Z]{8,12}(?![\w\-])", re.IGNORECASE)
_MRZ = re.compile(r"(?<![\w<])(?=[A-Z0-9]{0,40}<)[A-Z0-9<]{28,44}(?![\w<])")


def find_documents(view: View) -> Iterator[Found]:
    """Find birth dates, plates, passports, identity cards and driving licences."""
    text = view.text
    if view.mentions(*_BIRTH_STEMS):
        yield from _birth_dates(text)
    yield from _plates(view)
    if view.mentions(*_PAPER_STEMS):
        yield from _papers(view)
    if "<<" in text:
        yield from (Found(Kind.IDENTITY_CARD, m.start(), m.end()) for m in _MRZ.finditer(text))


def _birth_dates(text: str) -> Iterator[Found]:
    for trigger in _BIRTH.finditer(text):
        line_end = text.find("\n", trigger.end(), trigger.end() + _BIRTH_REACH)
        reach = line_end if line_end >= 0 else trigger.end() + _BIRTH_REACH
        match = _DATE.search(text, trigger.end(), reach)
        if match and _is_day(match):
            yield Found(Kind.BIRTH_DATE, match.start(), match.end())


def _is_day(match: re.Match[str]) -> bool:
    try:
        if match[4]:
            date(int(match[4]), int(match[5]), int(match[6]))
        elif match[1]:
            day, month = int(match[1]), int(match[2])
            date(2000, min(day, month) if month > 12 else month, max(day, month) if month > 12 else day)
    except ValueError:
        return False
    return True


def _plates(view: View) -> Iterator[Found]:
    for match in _PLATE.finditer(view.text) if _PLATED.search(view.text) else ():
        sure = match[1] == "-" and match[0].isupper() and not view.follows(_PRODUCT, match.start(), 32)
        if sure or view.follows(_VEHICLE, match.start()):
            yield Found(Kind.PLATE, match.start(), match.end())
    if view.mentions(*_VEHICLE_STEMS):
        for match in _OLD_PLATE.finditer(view.text):
            if view.follows(_VEHICLE, match.start(), 32):
                yield Found(Kind.PLATE, match.start(), match.end())


def _papers(view: View) -> Iterator[Found]:
    for match in _PAPER.finditer(view.text):
        if sum(c.isdigit() for c in match[0]) < (2 if match[0] == match[0].upper() else 5):
            continue
        for word, kind in (
            (_PASSPORT_WORD, Kind.PASSPORT),
            (_IDENTITY_WORD, Kind.IDENTITY_CARD),
            (_LICENCE_WORD, Kind.LICENCE),
        ):
            if view.follows(word, match.start(), 64):
                yield Found(kind, match.start(), match.end())
                break
