"""A view of a text in which one pattern matches all spellings, with the way back to the original places."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["View", "fold", "view"]

_ODD = re.compile(
    "[\u00ad\u0300-\u036f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufe00-\ufe0f\ufeff\uff01-\uff5e"
    "\U0001d400-\U0001d7ff\U000e0000-\U000e007f]"
)
_INVISIBLE = re.compile(
    "[\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufe00-\ufe0f\ufeff\U000e0000-\U000e007f]"
)
_WORD = re.compile(r"[^\W\d_]+")
_CLUSTER = re.compile("(?s:.)[\u0300-\u036f]*")
_ALIKE = (
    ("\u00a0", " "),
    ("\u202f", " "),
    ("\u2007", " "),
    ("\u2009", " "),
    ("\t", " "),
    ("\u2019", "'"),
    ("\u02bc", "'"),
    ("\u2010", "-"),
    ("\u2011", "-"),
    ("\u2212", "-"),
    ("\u2013", "-"),
)


@dataclass(frozen=True, slots=True)
class View:
    """Normalised text with the places its characters come from."""

    text: str
    starts: tuple[int, ...] | None
    """Place in the original of each character; None when they are the same."""
    length: int
    """Length of the original."""
    lower: str
    """The text in small letters, at the same places."""

    def original(self, start: int, end: int) -> tuple[int, int]:
        """Give the stretch of the original text that lies under a stretch of this view."""
        if self.starts is None:
            return start, end
        first = self.starts[start]
        last = self.starts[end - 1]
        after = bisect_right(self.starts, last)
        return first, self.starts[after] if after < len(self.starts) else self.length

    def words(self) -> Iterator[re.Match[str]]:
        """Give the words in small letters."""
        return _WORD.finditer(self.lower)

    def mentions(self, *stems: str) -> bool:
        """Tell whether any of these strings, in small letters, occurs."""
        lower = self.lower
        for stem in stems:  # noqa: SIM110  # asked a dozen times for every text: half the time of any()
            if stem in lower:
                return True
        return False

    def follows(self, pattern: re.Pattern[str], start: int, reach: int = 48) -> bool:
        """Tell whether `pattern` occurs shortly before `start`."""
        return pattern.search(self.text, max(0, start - reach), start) is not None


def view(text: str) -> View:
    """Bring separators, widths, accents and invisible characters of `text` to one form."""
    starts: tuple[int, ...] | None = None
    length = len(text)
    if not text.isascii() and _ODD.search(text):
        text, starts = _composed(text)
    for odd, plain in _ALIKE:
        text = text.replace(odd, plain)
    lower = text.lower()
    if len(lower) != len(text):  # a few capitals become two characters
        lower = "".join(char.lower()[0] for char in text)
    return View(text, starts, length, lower)


def _composed(text: str) -> tuple[str, tuple[int, ...]]:
    pieces: list[str] = []
    starts: list[int] = []
    for match in _CLUSTER.finditer(text):
        if _INVISIBLE.match(match[0]):
            continue
        piece = unicodedata.normalize("NFKC", match[0]) if _ODD.search(match[0]) else match[0]
        pieces.append(piece)
        starts.extend([match.start()] * len(piece))
    return "".join(pieces), tuple(starts)


def fold(word: str) -> str:
    """Bring a word to small letters without accents, for comparison only."""
    word = word.lower()
    if word.isascii():
        return word
    word = word.replace("œ", "oe").replace("æ", "ae").replace("ß", "ss")
    return "".join(c for c in unicodedata.normalize("NFKD", word) if not unicodedata.combining(c))
