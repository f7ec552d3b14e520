"""Numbers in digits or in French and English words, with every value they can mean."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal

__all__ = ["Numeral", "numerals"]


@dataclass(frozen=True, slots=True)
class Numeral:
    """A number as it stands in a text."""

    start: int
    end: int
    values: frozenset[Decimal]
    words: bool
    """Whether it is written in words."""


_DIGITS = re.compile(r"(?<![\w.,])\d{1,3}(?:[ ']\d{3})+(?:[.,]\d+)?(?![\d])|(?<![\w])\d+(?:[.,]\d+)*")
_SIMPLE = {
    word: value
    for value, words in {
        0: "zero", 1: "un une one", 2: "deux two", 3: "trois three", 4: "quatre four", 5: "cinq five", 6: "six",
        7: "sept seven", 8: "huit eight", 9: "neuf nine", 10: "dix ten", 11: "onze eleven", 12: "douze twelve",
        13: "treize thirteen", 14: "quatorze fourteen", 15: "quinze fifteen", 16: "seize sixteen", 17: "seventeen",
        18: "eighteen", 19: "nineteen", 20: "vingt vingts twenty", 30: "trente thirty", 40: "quarante forty",
        50: "cinquante fifty", 60: "soixante sixty", 70: "septante seventy", 80: "huitante octante eighty",
        90: "nonante ninety",
    }.items()
    for word in words.split()
}  # fmt: skip
_LARGE = {"cent": 100, "cents": 100, "hundred": 100, "mille": 1000, "thousand": 1000}
_WORD = "|".join(sorted({*_SIMPLE, *_LARGE}, key=len, reverse=True))
_WORDS = re.compile(rf"(?<![\w-])(?:{_WORD})(?:(?:[ -](?:et[ -]|and )?)(?:{_WORD}))*(?![\w-])(?!'\w)")


def numerals(plain: str) -> tuple[Numeral, ...]:
    """Find the numbers of a text in lower case without accents, in order."""
    found = [Numeral(hit.start(), hit.end(), _digits(hit.group()), False) for hit in _DIGITS.finditer(plain)]
    for hit in _WORDS.finditer(plain):
        value = _worded(re.split(r"[ -]", hit.group()))
        if value is not None:
            found.append(Numeral(hit.start(), hit.end(), frozenset([Decimal(value)]), True))
    return tuple(sorted(found, key=lambda numeral: numeral.start))


def _digits(text: str) -> frozenset[Decimal]:
    text = re.sub(r"[ ']", "", text)
    marks = re.findall(r"[.,]", text)
    if not marks:
        return frozenset([Decimal(text)])
    whole = Decimal(re.sub(r"[.,]", "", text))
    if len(marks) > 1:
        # The last of two different marks parts the decimals; the same mark twice parts thousands.
        last = max(text.rfind("."), text.rfind(","))
        return frozenset([whole if len(set(marks)) == 1 else whole.scaleb(last + 1 - len(text))])
    decimals = len(text) - 1 - text.index(marks[0])
    read = whole.scaleb(-decimals)
    thousands = decimals == 3 and not text.startswith("0")
    return frozenset([read.normalize(), whole.normalize()] if thousands else [read.normalize()])


def _worded(words: list[str]) -> int | None:
    """Add up the words, as in quatre-vingt-dix-sept or two hundred and five; None when they make no number."""
    total = current = 0
    for word in words:
        if word in ("et", "and"):
            continue
        if word in _LARGE:
            current = max(current, 1) * _LARGE[word]
            if _LARGE[word] == 1000:
                total, current = total + current, 0
        elif word in ("vingt", "vingts") and current % 100 == 4:
            current += 76
        elif current % 100 and _SIMPLE[word] >= 20 and current % 100 < 20:
            return None
        else:
            current += _SIMPLE[word]
    return total + current
