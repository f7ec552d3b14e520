"""Who hears of tasks by e-mail: the people that the section `review` of metier.yaml names, and where the page is."""

from __future__ import annotations

import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from metier.errors import ConfigError

__all__ = ["Colleague", "People", "people"]

_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_KEYS = frozenset({"people", "url", "titles", "letters"})
_PERSON = frozenset({"email", "groups", "lang", "organisation"})
_LANGUAGES = ("fr", "en")
_MOST_LETTERS = 100


@dataclass(frozen=True, slots=True)
class Colleague:
    """One person who hears of tasks."""

    name: str
    """As in `user:<name>`, and as their key is called."""
    email: str = field(repr=False)
    groups: frozenset[str]
    lang: str
    organisation: str
    """Whose tasks they hear of at all."""


@dataclass(frozen=True, slots=True)
class People:
    """Everybody who hears of tasks, and how."""

    known: Mapping[str, Colleague] = field(default_factory=dict)
    url: str = ""
    """Where people reach the platform, without a slash at its end."""
    titles: bool = True
    """Whether e-mails say the titles of tasks; nothing else of a task ever stands in one."""
    letters: int = 5
    """E-mails one person gets in ten minutes before the rest is told in one."""


def people(section: object, lang: str) -> People:
    """Read the section `review`, or say which entry of it is wrong."""
    if not section:
        return People()
    if not isinstance(section, dict) or not section.keys() <= _KEYS:
        raise ConfigError(f"review in metier.yaml takes {', '.join(sorted(_KEYS))}, and nothing else")
    named = section.get("people") or {}
    if not isinstance(named, dict):
        raise ConfigError(
            "review.people takes names, each with an email: `lea: {email: lea@example.org, groups: [sav]}`"
        )
    titles, letters = section.get("titles", True), section.get("letters", 5)
    if not isinstance(titles, bool):
        raise ConfigError(f"review.titles is {titles!r}: write true or false")
    if isinstance(letters, bool) or not isinstance(letters, int) or not 1 <= letters <= _MOST_LETTERS:
        raise ConfigError(f"review.letters is {letters!r}: write a number from 1 to {_MOST_LETTERS}")
    known = {str(name): _colleague(str(name), entry, lang) for name, entry in named.items()}
    return People(known, _url(section.get("url")) if known else "", titles, letters)


def _colleague(name: str, entry: object, lang: str) -> Colleague:
    where = f"review.people.{name}"
    if not name.strip() or not name.isprintable():
        raise ConfigError(f"review.people: {name!r} is no name of a person")
    if not isinstance(entry, dict) or not entry.keys() <= _PERSON:
        raise ConfigError(f"{where} takes {', '.join(sorted(_PERSON))}, and nothing else")
    given: Mapping[str, Any] = entry
    address, groups = given.get("email"), given.get("groups") or []
    if (
        not isinstance(address, str)
        or address.count("@") != 1
        or any(letter.isspace() or letter in ",;<>" for letter in address)
    ):
        raise ConfigError(f"{where}.email is {address!r}: give one e-mail address")
    if not isinstance(groups, list) or not all(isinstance(group, str) and group for group in groups):
        raise ConfigError(f"{where}.groups is {groups!r}: write a list of groups, such as [sav]")
    spoken, house = given.get("lang", lang), given.get("organisation", "main")
    if spoken not in _LANGUAGES:
        raise ConfigError(f"{where}.lang is {spoken!r}: write fr or en")
    if not isinstance(house, str) or not house:
        raise ConfigError(f"{where}.organisation is {house!r}: write the id of an organisation, or leave it out")
    return Colleague(name, address, frozenset(groups), spoken, house)


def _url(written: object) -> str:
    wrong = ConfigError(
        f"review.url is {written!r}: write where people reach the platform, such as https://metier.example.org "
        "(http on loopback only)"
    )
    if not isinstance(written, str):
        raise wrong
    try:
        parts = urllib.parse.urlsplit(written)
        loopback = parts.hostname in _LOOPBACK
    except ValueError:
        raise wrong from None
    # A link opens a task: on a line that others read, whoever reads it could take it first.
    proper = parts.scheme == "https" or (parts.scheme == "http" and loopback)
    if not proper or not parts.hostname or parts.username or parts.query or parts.fragment or not written.isprintable():
        raise wrong
    return written.rstrip("/")
