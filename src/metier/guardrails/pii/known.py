"""Finds again the values that a conversation already knows, where a detector alone would miss them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from metier.guardrails.pii.kinds import DIGIT_KINDS, Found, Kind
from metier.guardrails.pii.lexicon import Lexicon, lexicon
from metier.guardrails.pii.normalise import View, fold, view
from metier.guardrails.pii.table import Table, identity

__all__ = ["find_known"]

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
        if kind is Kind.LITERAL or kind is Kind.PERSON:
            continue
        if len(surface) >= 4:
            found += _as_written(text, kind, surface)
        if kind in DIGIT_KINDS and len(digits := identity(kind, surface)) >= 6 and digits.isdecimal():
            numbers[digits] = kind
    people = table.people()
    if people or numbers:
        seen = view(text)
        placed = [*_people(seen, people, lexicon()), *_numbers(seen, numbers)]
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
    for run in _RUN.finditer(seen.text):
        if run.end() - run.start() < 6:
            continue
        groups = [match.span() for match in _GROUP.finditer(seen.text, run.start(), run.end())]
        joined = "".join(seen.text[start:end] for start, end in groups)
        starts, ends, length = {}, {}, 0
        for start, end in groups:
            starts[length] = start
            length += end - start
            ends[length] = end
        for digits, kind in numbers.items():
            place = joined.find(digits)
            if place in starts and place + len(digits) in ends:
                yield Found(kind, starts[place], ends[place + len(digits)])


def _people(seen: View, people: dict[str, frozenset[int]], words: Lexicon) -> Iterator[Found]:
    """Find words of known names, and join those that belong to the same person."""
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
            if initial and any(part.startswith(fold(initial[1])) and owners & of for part, of in people.items()):
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
