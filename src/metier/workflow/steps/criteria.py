"""Criteria that code can check of a text: what it must say, what it must not, and how long it may be."""

from __future__ import annotations

import re
import unicodedata

from metier.calls import JSON
from metier.errors import Invalid

__all__ = ["check_criteria"]

_BLANKS = re.compile(r"\s+")
_SAID = {
    "fr": ("Il manque, mot pour mot : {}.", "À retirer : {}.",
           "Trop court, {} caractères : il en faut au moins {}, soit environ {} mots.",
           "Trop long, {} caractères : il en faut au plus {}, soit environ {} mots."),
    "en": ("Missing, word for word: {}.", "To be removed: {}.",
           "Too short, {} characters: it takes at least {}, about {} words.",
           "Too long, {} characters: it takes at most {}, about {} words."),
}  # fmt: skip
_QUOTED = {"fr": "« {} »", "en": '"{}"'}


def check_criteria(
    text: str, must: list[JSON], forbidden: list[JSON], least: int, most: int, language: str = "en"
) -> JSON:
    """Check what a text must say, must not say, and its length; the score is the share of criteria it meets."""
    if least > most:
        raise Invalid(f"criteria.check cannot want at least {least!r} and at most {most!r} characters: put them right")
    missing, found = [t for t in _texts(must) if not _in(t, text)], [t for t in _texts(forbidden) if _in(t, text)]
    length = len(text.strip())
    spoken = "fr" if language == "fr" else "en"
    lacks, has, short, long = _SAID[spoken]
    told = [
        says.format(", ".join(_QUOTED[spoken].format(part) for part in parts))
        for says, parts in ((lacks, missing), (has, found))
        if parts
    ]
    told += [short.format(length, least, _words(least))] if length < least else []
    told += [long.format(length, most, _words(most))] if length > most else []
    # The length is one criterion, whichever bound is passed; so is each text that must or must not stand there.
    criteria = len(_texts(must)) + len(_texts(forbidden)) + 1
    wrong = len(missing) + len(found) + (not least <= length <= most)
    return {
        "ok": wrong == 0,
        "score": round((criteria - wrong) / criteria, 4),
        "critique": " ".join(told),
        "missing": [*missing],
        "found": [*found],
    }


def _texts(listed: list[JSON]) -> list[str]:
    return list(dict.fromkeys(str(one).strip() for one in listed if one is not None and str(one).strip()))


def _words(characters: int) -> int:
    """How many words that is, about: a model counts these better."""
    return max(1, -(-characters // 6))


def _in(part: str, text: str) -> bool:
    """Whether a text holds another as whole words, however it is spaced, capitalised or composed."""
    return re.search(rf"(?<!\w){re.escape(_plain(part))}(?!\w)", _plain(text)) is not None


def _plain(text: str) -> str:
    """Small letters, one blank for any, typographic apostrophes and hyphens as typed ones."""
    straight = unicodedata.normalize("NFKC", text).replace("’", "'").replace("‑", "-").replace("‐", "-")
    return _BLANKS.sub(" ", straight).strip().casefold()
