"""French and English text to search terms: elision, stems, folded accents, whole codes and part numbers."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal

import Stemmer

__all__ = ["Analyser", "Analysis", "Language", "fold"]

Language = Literal["fr", "en"]

_ALGORITHM = {"fr": "french", "en": "english"}
_ELIDED = re.compile(r"^(?:[cdjlmnst]|qu|jusqu|lorsqu|puisqu|quoiqu|presqu|quelqu)'(?=\w)")
_WORD = re.compile(r"\w+(?:['.\-/_&+]\w+)*", re.UNICODE)
_CODE = re.compile(r"(?=\w*[^\W\d_])(?=[^\s]*\d)\w+(?:[-./_]\w+)*|\d{5,}|\d+(?:[-_]\d+)+")
_SPLIT_CODE = re.compile(r"\b([A-Z]{1,4}) (\d{3,})\b")
_NOT_CODE = re.compile(
    r"\d+(?:er|ere|re|e|eme|nd|nde|st|th|rd|h|h\d{1,2}|j|kg|g|km|m|cm|mm|l|ml|eur|euros?|go|mo|ko|%)"
)
_LONGEST = 64

_FRENCH = """
a afin ai ainsi alors apres as au aucun aucune aujourd'hui auquel aussi autre autres aux avait avant avec avoir
c ce ceci cela celle celles celui ces cet cette ceux chaque chez ci comme comment d dans de depuis des dois doit
doivent donc dont du elle elles en encore entre es est est-ce et etaient etait etant ete etes etre eu eux fait faire
faut hui il ils j je l la le lequel laquelle les lesquels leur leurs lors lui m ma mais me meme mes moi moins mon n ne
ni nos notre nous on ont ou par parce pas pendant peu peut peuvent peux plus pour pourquoi puis puisque qu quand que
quel quelle quelles quels qu'est-ce qui quoi s sa sans se sera seront ses si sinon soi soit sommes son sont sous suis
sur t ta te tes toi ton tous tout toute toutes tres tu un une va vais vers voici voila vont vos votre vous y
pouvez pouvons pourriez pourrais pourrait voulez veuillez
bonjour bonsoir merci cordialement svp
"""
_ENGLISH = """
a about after all also am an and any are as at be because been before being but by can could did do does doing don't
for from had has have having he her here hers him his how i if in into is it its itself just me more most my no nor not
of on once only or other our ours out over own please s same she should so some such t than that the their theirs them
then there these they this those through to too under until up us very was we were what when where which while who whom
why will with would you your yours hello hi thanks thank regards
"""


def fold(text: str) -> str:
    """Lower the case and take accents off, so that spelling habits do not part two equal words."""
    text = text.replace("œ", "oe").replace("Œ", "OE").replace("æ", "ae").replace("Æ", "AE").replace("ß", "ss")
    plain = unicodedata.normalize("NFD", text)
    return "".join(character for character in plain if not unicodedata.combining(character)).lower()


@dataclass(frozen=True, slots=True)
class Analysis:
    """What the search sees of a text."""

    terms: tuple[str, ...]
    """Terms in order of appearance, repeated as often as they occur."""
    codes: tuple[str, ...]
    """Codes and part numbers, each once, in capitals without separators."""


class Analyser:
    """Cuts texts of one language into search terms; questions and documents must go through the same one."""

    def __init__(self, language: Language) -> None:
        self._stem = Stemmer.Stemmer(_ALGORITHM[language])
        self._stop = frozenset(fold(word) for word in (_FRENCH if language == "fr" else _ENGLISH).split())

    def __call__(self, text: str) -> Analysis:
        """Give the terms and codes of the text."""
        text = (
            unicodedata.normalize("NFC", text).replace("’", "'").replace("ʼ", "'").replace("‑", "-").replace("‐", "-")
        )
        terms: list[str] = []
        apart = {found.start(2): found for found in _SPLIT_CODE.finditer(text)}
        codes = {found[1] + found[2]: None for found in apart.values()}
        for found in _WORD.finditer(text):
            word = found.group()
            if _is_code(word) and found.start() not in apart:
                code = re.sub(r"[-./_]", "", fold(word)).upper()[:_LONGEST]
                codes[code] = None
                terms.append(code.lower())
                continue
            terms.extend(self._terms(word.lower()))
        return Analysis(tuple(terms), tuple(codes))

    def _terms(self, word: str) -> list[str]:
        word = _ELIDED.sub("", word)
        if fold(word) in self._stop:
            return []
        parts = [part for part in re.split(r"['.\-/_&+]", word) if part]
        if len(parts) == 1:
            return self._kept(word)
        whole = fold("-".join(parts))[:_LONGEST]
        return [whole, *(term for part in parts for term in self._kept(part))]

    def _kept(self, word: str) -> list[str]:
        if fold(word) in self._stop or (len(word) == 1 and not word.isdigit()):
            return []
        # Snowball needs the accents to find French endings, but many people write without: both stems are terms.
        stems = (fold(self._stem.stemWord(form))[:_LONGEST] for form in (word, fold(word)))
        return list(dict.fromkeys(stems))


def _is_code(word: str) -> bool:
    plain = fold(word)
    if _CODE.fullmatch(word) is None or _NOT_CODE.fullmatch(plain):
        return False
    return sum(character.isdigit() for character in plain) >= 2 or len(plain) <= 4
