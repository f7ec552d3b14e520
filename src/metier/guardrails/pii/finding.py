"""Finds personal data in a text: every detector, then the longest finding wins where they overlap."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from metier.guardrails.pii.accounts import find_accounts
from metier.guardrails.pii.addresses import find_addresses
from metier.guardrails.pii.contacts import find_contacts
from metier.guardrails.pii.credentials import find_credentials
from metier.guardrails.pii.documents import find_documents
from metier.guardrails.pii.kinds import Found, Kind
from metier.guardrails.pii.names import find_names
from metier.guardrails.pii.normalise import View, view
from metier.guardrails.pii.numbers import find_numbers

__all__ = ["find", "longest"]

_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_DIGIT = re.compile("[0-9]")
_RANK = {kind: place for place, kind in enumerate(Kind)}


def find(text: str, context: str = "") -> tuple[Found, ...]:
    """Find the personal data in `text`; `context` is what the text is called, such as its key in JSON."""
    if not text.strip():
        return ()
    prefix = ""
    if context:
        prefix = _CAMEL.sub(" ", context).replace("_", " ").replace("-", " ").lower() + ": "
    seen = view(prefix + text)
    shift = len(prefix)
    placed = []
    for one in _detected(seen):
        start, end = seen.original(one.start, one.end)
        if start >= shift:
            placed.append(Found(one.kind, start - shift, end - shift))
    return longest(placed)


def _detected(seen: View) -> Iterator[Found]:
    yield from find_credentials(seen)
    yield from find_contacts(seen)
    yield from find_accounts(seen)
    if _DIGIT.search(seen.text) is not None:
        # All of these hold at least one.
        yield from find_numbers(seen)
        yield from find_documents(seen)
        yield from find_addresses(seen)
    yield from find_names(seen)


def longest(found: Iterable[Found]) -> tuple[Found, ...]:
    """Keep the longest of findings that overlap, in the order of the text."""
    ordered = sorted(found, key=lambda one: (one.start - one.end, _RANK[one.kind], one.start))
    if not ordered:
        return ()
    taken = bytearray(max(one.end for one in ordered))
    kept = []
    for one in ordered:
        if one.end > one.start and taken.find(1, one.start, one.end) < 0:
            taken[one.start : one.end] = b"\x01" * (one.end - one.start)
            kept.append(one)
    kept.sort(key=lambda one: one.start)
    return tuple(kept)
