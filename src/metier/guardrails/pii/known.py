"""Finds again the values that a conversation already knows, where a detector alone would miss them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from metier.guardrails.pii.kinds import DIGIT_KINDS, Found, Kind
from metier.guardrails.pii.lexicon import Lexicon, lexicon
from metier.guardrails.pii.normalise import View, fold, view
from metier.guardrails.pii.table import Table, identity

__all__ = ["find_known"]

_ALWAYS_SEEN = frozenset({Kind.LITERAL, Kind.PERSON, Kind.EMAIL, Kind.IBAN, Kind.VAT, Kind.IP, Kind.MAC})
"""Kinds that a detector finds without context, or that are looked for word by word."""

_WORD = re.compile(r"[^\W\d_]+")
_GAP = re.compile(r" {1,2}|-|(?: |-)(?:de|du|des|la|le|van|von|der|el|al|ben)(?: |-)|(?: d)?'")
_INITIAL = re.compile(r"(?<![^\W])([^\W\d_])\. ?\Z")
_RUN = re.compile(r"[0-9]+(?:[ .\-/]{1,3}[0-9]+)*")
_GROUP = re.compile(r"[0-9]+")


def find_known(text: str, table: Table) -> tuple[Found, ...]:
    """Find the occurrences of known values: names also in part, numbers however grouped, the rest as written."""
    if not len(table):
        return ()
    found: list[Found] = []
    numbers: dict[str, Kind] = {}
    for entry in table.entries():
        kind, surface = entry.code.kind, entry.surface
        if kind in DIGIT_KINDS and (digits := identity(kind, surface)).isdecimal():
            if len(digits) >= 6:
                numbers[digits] = kind
        elif kind not in _ALWAYS_SEEN and len(surface) >= 4:
            found += _as_written(text, kind, surface)
    if table.owners or numbers:
        seen = view(text)
        placed = [*_people(seen, table, lexicon()), *_numbers(seen, numbers)]
        found += (Found(one.kind, *seen.original(one.start, one.end)) for one in placed)
    return tuple(found)


def _as_written(text: str, kind: Kind, surface: str) -> Iterator[Found]:
    place = text.find(surface)
    while place >= 0:
        end = place + len(surface)
        joined = (surface[0].isalnum() and text[place - 1 : place].isalnum() and place > 0) or (
            surface[-1].isalnum() and text[end : end + 1].isalnum()
        )
        if not joined:
            yield Found(kind, place, end)
        place = text.find(surface, end)


def _numbers(seen: View, numbers: dict[str, Kind]) -> Iterator[Found]:
    if not numbers:
        return
    longest = max(map(len, numbers))
    for run in _RUN.finditer(seen.text):
        if run.end() - run.start() < 6:
            continue
        groups = [match.span() for match in _GROUP.finditer(seen.text, run.start(), run.end())]
        for place, (start, _) in enumerate(groups):
            digits = ""
            for begin, end in groups[place : place + 12]:
                digits += seen.text[begin:end]
                if len(digits) > longest:
                    break
                if kind := numbers.get(digits):
                    yield Found(kind, start, end)


def _people(seen: View, table: Table, words: Lexicon) -> Iterator[Found]:
    """Find words of known names, and join those that belong to the same person."""
    people = table.owners
    if not people:
        return
    text = seen.text
    run: list[tuple[int, int, str]] = []
    owners: frozenset[int] = frozenset()
    runs: list[tuple[list[tuple[int, int, str]], frozenset[int]]] = []
    for match in _WORD.finditer(text):
        word = match[0]
        mine = people.get(word.lower() if word.isascii() else fold(word))
        if mine is None:
            continue
        shared = owners & mine
        if shared and _GAP.fullmatch(text, run[-1][1], match.start()):
            owners = shared
        else:
            run, owners = [], mine
            runs.append((run, owners))
        run.append((match.start(), match.end(), word))
        runs[-1] = (run, owners)
    for run, owners in runs:
        if _telling(run, words):
            start = run[0][0]
            initial = _INITIAL.search(text, max(0, start - 4), start)
            if initial and any(part.startswith(fold(initial[1])) for owner in owners for part in table.parts(owner)):
                start = initial.start()
            yield Found(Kind.PERSON, start, run[-1][1])


def _telling(run: list[tuple[int, int, str]], words: Lexicon) -> bool:
    """Tell whether the words certainly mean the person: several of them, or one that is not an ordinary word."""
    folded = [fold(word) for _, _, word in run]
    if len(run) > 1:
        return max(map(len, folded)) > 2
    only, word = folded[0], run[0][2]
    if len(only) < 3 or only in words.not_names or only in words.places:
        return False
    return word[0].isupper() or (len(only) > 3 and only not in words.common and only not in words.ambiguous)
