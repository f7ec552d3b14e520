"""Finds whom a value may be about: e-mail addresses anywhere in it, and short texts given as inputs; as digests."""

from __future__ import annotations

import re
from collections.abc import Iterator

from metier.calls import JSON
from metier.vault import Vault, member

__all__ = ["people_in"]

_BEFORE = re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]{1,64}\Z")
_AFTER = re.compile(r"[a-zA-Z0-9\u00a1-\uffff-]{1,63}(?:\.[a-zA-Z0-9\u00a1-\uffff-]{1,63}){1,8}")
_SHORT = 100
"""Characters of an input that may be the name or the number of somebody."""
_MOST = 2_000
"""Addresses looked for in one value; a list of more names nobody in particular."""


def people_in(vault: Vault, organisation: str, *values: JSON, whole: bool = False) -> set[str]:
    """Give the digests of whom values may be about; with `whole`, short texts at the top of a map count too."""
    words: set[str] = set()
    for value in values:
        for text in _texts(value):
            for address in _addresses(text):
                words.add(address)
                if len(words) >= _MOST:
                    break
        if whole and isinstance(value, dict):
            words.update(each for each in value.values() if isinstance(each, str) and 0 < len(each) <= _SHORT)
    return {member(vault, organisation, form) for word in words for form in (word, word.lower())}


def _texts(value: JSON) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield key
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)


def _addresses(text: str) -> Iterator[str]:
    """Look around each sign only: one expression over the whole would be slow on long texts without one."""
    place = text.find("@")
    while place >= 0:
        before = _BEFORE.search(text, max(place - 64, 0), place)
        after = _AFTER.match(text, place + 1, place + 255)
        if before is not None and after is not None:
            yield f"{before.group().lstrip('.')}@{after.group()}"
        place = text.find("@", place + 1)
