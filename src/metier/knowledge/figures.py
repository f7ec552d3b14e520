"""Figures of French and English texts in one form: amounts, rates, durations, dates, references, addresses."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from metier.knowledge.analyser import Analyser
from metier.knowledge.numerals import Numeral, numerals

__all__ = ["Figure", "FigureKind", "figures", "supports"]

FigureKind = Literal["amount", "rate", "duration", "date", "reference", "address", "number", "cell"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure as it stands in a text, and what it means."""

    kind: FigureKind
    text: str
    start: int
    values: frozenset[Decimal] = frozenset()
    """The number; two readings where a comma or point may part thousands or decimals."""
    unit: str = ""
    """Currency, or unit of time; for references and addresses the normal form."""
    date: tuple[int | None, int | None, int | None] = (None, None, None)
    """Year, month and day, as far as they are said."""


_ADDRESS = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+|(?:https?://|www\.)[^\s<>()\[\]\"'«»]+", re.IGNORECASE)
_PHONE = re.compile(r"(?<![\w+])(?:\+\d{1,3}[ .-]?(?:\(0\)[ .-]?)?\d|0\d)(?:[ .-]?\d{2}){4}(?!\d)")
_ISO = re.compile(r"(?<!\d)(\d{4})-(\d{1,2})-(\d{1,2})(?!\d)")
_NUMERIC_DATE = re.compile(r"(?<![\d/])(\d{1,2})([/.-])(\d{1,2})\2(\d{4}|\d{2})(?![\d/])")
_MONTHS = {
    name: number
    for number, names in enumerate(
        (
            "janvier january janv jan",
            "fevrier february fevr feb",
            "mars march mar",
            "avril april avr apr",
            "mai may",
            "juin june jun",
            "juillet july juil jul",
            "aout august aug",
            "septembre september sept sep",
            "octobre october oct",
            "novembre november nov",
            "decembre december dec",
        ),
        1,
    )
    for name in names.split()
}
_MONTH = "|".join(sorted(_MONTHS, key=len, reverse=True))
_DAY_FIRST = re.compile(rf"(?<!\w)(\d{{1,2}})(?:er|st|nd|rd|th)?\s+(?:of\s+)?({_MONTH})\b\.?(?:,?\s+(\d{{4}}))?")
_MONTH_FIRST = re.compile(rf"\b({_MONTH})\.?\s+(\d{{1,2}})(?:st|nd|rd|th)?\b(?!\s*(?:h|:))(?:,?\s+(\d{{4}}))?")
_MONTH_YEAR = re.compile(rf"\b({_MONTH})\.?\s+(\d{{4}})\b")
_CLOCK = re.compile(
    r"(?<![\d:])(\d{1,2})(?:\s?h\s?|:)(\d{2})(?!\d|:)(?:\s?([ap])\.?m\b)?|(?<![\d:,.])(\d{1,2})\s?([ap])\.?m\b"
)

_CURRENCY = {"€": "EUR", "eur": "EUR", "euro": "EUR", "$": "USD", "usd": "USD", "dollar": "USD", "£": "GBP"}
_CURRENCY |= {"gbp": "GBP", "pound": "GBP", "livre": "GBP", "chf": "CHF", "franc": "CHF"}
_BEFORE = re.compile(r"(€|\$|£|\beur|\busd|\bgbp|\bchf)\s?$")
_AFTER = re.compile(
    r"[\s-]{0,2}(?P<times>k(?=€|eur)|m(?:io|d)?(?=\s?€)|millions?|milliards?|billions?|thousands?)?"
    r"(?:(?<=[a-z])\s+(?:d'|de\s|of\s))?\s{0,2}(?:"
    r"(?P<money>€|\$|£|(?:eur|euro|usd|dollar|gbp|pound|livre|chf|franc)s?\b)(?:\s?(?P<cents>\d{2})(?!\d))?"
    r"|(?P<rate>%|pour[ -]?cent\b|per[ -]?cent\b)"
    r"|(?P<qualifier>business|working|calendar)?[ -]{0,1}"
    r"(?P<time>jours?|days?|j(?!\w)|semaines?|weeks?|mois\b|months?|ans?\b|annees?|years?|heures?|hours?|h(?!\w)"
    r"|minutes?|min\b|secondes?|seconds?)\b"
    r"(?:\s(?P<after>ouvres?|ouvrables?|calendaires?|francs?)\b)?)"
)
_TIMES = {"k": 1000, "m": 10**6, "mi": 10**9, "b": 10**9, "t": 1000}
_UNITS = (
    (("jour", "day", "j"), "day", 1),
    (("semaine", "week"), "day", 7),
    (("mois", "month"), "month", 1),
    (("an", "annee", "year"), "month", 12),
    (("heure", "hour", "h"), "minute", 60),
    (("minute", "min"), "minute", 1),
    (("seconde", "second"), "second", 1),
)
_WORKING = {"business": "working", "working": "working", "ouvre": "working", "ouvrable": "open", "franc": "clear"}
_RANGE = re.compile(r"\s*(?:a|et|ou|-|–|to|and|or)\s*$")
_MARKER = re.compile(
    r"^[ \t]*(?:[-*•]\s*)?(?:\(?\d{1,2}[.)](?=\s)|[ée]tape \d+|step \d+)", re.IGNORECASE | re.MULTILINE
)
_MASKED = re.compile(r"\[\[\w+\]\]")
"""What stands for a masked personal value: its number counts persons, not things."""


def figures(text: str) -> tuple[Figure, ...]:
    """Find the figures of a text in order; list markers are not figures."""
    plain = _plain(text)
    found: list[Figure] = []
    free = bytearray(b"\x01" * len(plain))

    def take(figure: Figure, end: int) -> None:
        if all(free[figure.start : end]):
            free[figure.start : end] = bytes(end - figure.start)
            found.append(figure)

    for marker in (*_MARKER.finditer(plain), *_MASKED.finditer(plain)):
        free[marker.start() : marker.end()] = bytes(marker.end() - marker.start())
    for figure, end in (*_addresses(text, plain), *_dates(text, plain), *_clocks(text, plain)):
        take(figure, end)
    numbers = [numeral for numeral in numerals(plain) if all(free[numeral.start : numeral.end])]
    for figure, end in (*reversed([*_measured(text, plain, numbers)]), *_references(text, plain)):
        take(figure, end)
    for numeral in numbers:
        if not (numeral.words and max(numeral.values) < 13):
            line = plain[plain.rfind("\n", 0, numeral.start) + 1 : numeral.start]
            kind: FigureKind = "cell" if line.startswith("|") else "number"
            take(Figure(kind, text[numeral.start : numeral.end], numeral.start, numeral.values), numeral.end)
    return tuple(sorted(found, key=lambda figure: figure.start))


def supports(source: Figure, stated: Figure) -> bool:
    """Say whether a figure of a source bears out a stated one: same meaning, however it is written."""
    if stated.kind == "date":
        return source.kind == "date" and all(
            said is None or said == known for said, known in zip(stated.date, source.date, strict=True)
        )
    if stated.kind in ("reference", "address"):
        return source.kind == stated.kind and source.unit == stated.unit
    if not source.values & stated.values:
        return False
    # The unit of a table cell stands in its header, and a bare number says nothing about units.
    if source.kind == "cell" or stated.kind in ("number", "cell"):
        return True
    return (source.kind, source.unit) == (stated.kind, stated.unit)


def _plain(text: str) -> str:
    """Lower case without accents and odd spaces, character for character, so that places stay the same."""
    out = []
    for character in text:
        if character.isspace() and character != "\n":
            out.append(" ")
            continue
        base = unicodedata.normalize("NFD", character)[0].lower()
        out.append({"’": "'", "‑": "-", "‐": "-", "−": "-"}.get(base, base if len(base) == 1 else character))
    return "".join(out)


def _addresses(text: str, plain: str) -> Iterator[tuple[Figure, int]]:
    for found in _ADDRESS.finditer(plain):
        address = found.group().rstrip(".,;:!?")
        normal = re.sub(r"^https?://(www\.)?|^www\.", "", address).rstrip("/")
        end = found.start() + len(address)
        yield Figure("address", text[found.start() : end], found.start(), unit=normal), end
    for found in _PHONE.finditer(plain):
        digits = re.sub(r"\(0\)|\D", "", found.group())
        national = "0" + digits.removeprefix("33") if found.group().startswith("+33") else digits
        yield Figure("reference", text[found.start() : found.end()], found.start(), unit=national), found.end()


def _dates(text: str, plain: str) -> Iterator[tuple[Figure, int]]:
    for pattern, order in (
        (_ISO, (1, 2, 3)),
        (_NUMERIC_DATE, (4, 3, 1)),
        (_DAY_FIRST, (3, 2, 1)),
        (_MONTH_YEAR, (2, 1, 0)),
        (_MONTH_FIRST, (3, 1, 2)),
    ):
        for found in pattern.finditer(plain):
            parts = [found[at] if at else None for at in order]
            year, month, day = (None if part is None else _MONTHS.get(part) or int(part) for part in parts)
            if pattern is _NUMERIC_DATE and month is not None and month > 12:
                month, day = day, month
            year = year + 2000 if year is not None and year < 100 else year
            if month is not None and 1 <= month <= 12 and (day is None or 1 <= day <= 31):
                said = text[found.start() : found.end()]
                yield Figure("date", said, found.start(), date=(year, month, day)), found.end()


def _clocks(text: str, plain: str) -> Iterator[tuple[Figure, int]]:
    for found in _CLOCK.finditer(plain):
        hour, minute, half = int(found[1] or found[4]), int(found[2] or 0), found[3] or found[5]
        hour = hour % 12 + (12 if half == "p" else 0) if half else hour
        if minute < 60:
            value = frozenset([Decimal(hour * 60 + minute)])
            yield Figure("duration", text[found.start() : found.end()], found.start(), value, "minute"), found.end()


def _measured(text: str, plain: str, numbers: Sequence[Numeral]) -> Iterator[tuple[Figure, int]]:
    """Give the numbers that carry a unit; the first number of a range takes the unit of the second."""
    following: tuple[int, FigureKind, str, int] | None = None
    for numeral in reversed(numbers):
        measured = _unit(plain, numeral)
        if measured is None and following and _RANGE.fullmatch(plain[numeral.end : following[0]]):
            measured = (following[1], following[2], following[3], Decimal(0), numeral.end)
        if measured is None:
            following = None
            continue
        kind, unit, times, more, end = measured
        following = (numeral.start, kind, unit, times)
        values = frozenset((value * times + more).normalize() for value in numeral.values)
        yield Figure(kind, text[numeral.start : end], numeral.start, values, unit), end


def _unit(plain: str, numeral: Numeral) -> tuple[FigureKind, str, int, Decimal, int] | None:
    after = _AFTER.match(plain, numeral.end)
    before = _BEFORE.search(plain, max(0, numeral.start - 5), numeral.start)
    if after is None:
        return ("amount", _CURRENCY[before[1]], 1, Decimal(0), numeral.end) if before else None
    large = after["times"] or ""
    times = _TIMES["mi" if large.startswith(("milliard", "md")) else large[0]] if large else 1
    if after["money"]:
        cents = Decimal(after["cents"]) / 100 if after["cents"] else Decimal(0)
        return "amount", _CURRENCY[after["money"].removesuffix("s")], times, cents, after.end()
    if after["rate"]:
        return "rate", "%", times, Decimal(0), after.end()
    word = after["time"].removesuffix("s") if after["time"] != "mois" else "mois"
    unit, factor = next((unit, factor) for words, unit, factor in _UNITS if word in words)
    qualifier = _WORKING.get(after["qualifier"] or (after["after"] or "").removesuffix("s"), "")
    return "duration", f"{qualifier} {unit}".strip(), factor * times, Decimal(0), after.end()


def _references(text: str, plain: str) -> Iterator[tuple[Figure, int]]:
    analyser = Analyser("fr")
    for found in re.finditer(r"\w+(?:[-./_]\w+)*", text):
        for code in analyser(found.group()).codes:
            if not re.fullmatch(r"\d+", found.group()):
                yield Figure("reference", found.group(), found.start(), unit=code), found.end()
