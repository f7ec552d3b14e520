"""The language of a page: the one chosen, else the one the browser asks for, else the one of the house."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, time, timedelta
from decimal import Decimal
from typing import Literal, TypeAlias, cast

from metier.console import english, french
from metier.console.fields import Field, Problem

__all__ = ["LANGUAGES", "Language", "Words", "choose"]

Language: TypeAlias = Literal["fr", "en"]

LANGUAGES: Mapping[Language, Mapping[str, str]] = {"fr": french.WORDS, "en": english.WORDS}
"""Every string people read, by language."""

_MOST_ASKED = 200


def choose(chosen: str | None, kept: str | None, asked: str, house: str) -> Language:
    """Give the first language we speak of: chosen now, kept from before, asked by the browser, of the house."""
    for wanted in (chosen, kept, *_asked(asked), house):
        if wanted in LANGUAGES:
            return cast("Language", wanted)
    return "fr"


class Words:
    """Says things in one language."""

    def __init__(self, language: Language) -> None:
        self.language = language
        self._words = LANGUAGES[language]

    def __call__(self, key: str, **values: object) -> str:
        """Give the string of a key with its values in place."""
        return self._words[key].format(**values) if values else self._words[key]

    def named(self, kind: str, name: str) -> str:
        """Give the word for a name made by a workflow, or the name itself where there is none."""
        known = self._words.get(f"{kind}.{name}")
        return known if known is not None else name.replace("_", " ").replace(".", " › ")

    def assignee(self, written: str) -> str:
        """Say who a task is for."""
        kind, _, name = written.partition(":")
        return self(f"assignee.{kind}", name=name) if kind in ("group", "user") else written

    def fault(self, code: str) -> str:
        """Say in plain words what went wrong."""
        return self._words.get(f"error.{code}", self._words["error.other"])

    def problem(self, problem: Problem) -> str:
        """Say what is wrong with a field."""
        words = self._words.get(f"problem.{problem.key}", self._words["problem.other"])
        return words.format(limit=problem.limit.replace(".", self._words["decimal"]))

    def hint(self, field: Field) -> str:
        """Say what may stand in a field; empty where anything may."""
        if field.kind == "list":
            return self("problem.lines")
        least, most = (text.replace(".", self._words["decimal"]) for text in (field.least, field.most))
        if least and most:
            return self("problem.bounds", least=least, most=most)
        return self("problem.from", least=least) if least else self("problem.to", most=most) if most else ""

    def moment(self, moment: datetime) -> str:
        """Write a moment in the time zone of the server."""
        return moment.astimezone().strftime(self._words["moment"])

    def since(self, moment: datetime) -> str:
        """Write when something begins: the day alone where it begins with it."""
        local = moment.astimezone()
        return local.strftime(self._words["day"]) if local.time() == time() else self.moment(moment)

    def until(self, moment: datetime) -> str:
        """Write how long something lasts: the last whole day, where it ends with one."""
        local = moment.astimezone()
        if local.time() != time():
            return self.moment(moment)
        return self("day.included", day=(local.date() - timedelta(days=1)).strftime(self._words["day"]))

    def due(self, due_at: datetime, now: datetime) -> str:
        """Write how long there is until a due date, or since."""
        if due_at < now:
            return self("due.late", length=self._length(now - due_at))
        return self("due.in", length=self._length(due_at - now))

    def number(self, value: float, digits: int = 2) -> str:
        """Write a number with this many significant digits."""
        text = f"{value:.{digits}g}" if abs(value) < 10**digits else f"{value:.0f}"
        return f"{Decimal(text):f}".replace(".", self._words["decimal"])

    def _length(self, length: timedelta) -> str:
        minutes = int(length.total_seconds() // 60)
        days, hours = divmod(minutes // 60, 24)
        if days:
            return self("length.days", days=days, hours=hours)
        if hours:
            return self("length.hours", hours=hours, minutes=minutes % 60)
        return self("length.minutes", minutes=max(1, minutes))


def _asked(header: str) -> list[str]:
    """The languages of an Accept-Language header, best first."""
    found: list[tuple[float, str]] = []
    for part in header[:_MOST_ASKED].split(","):
        name, _, weight = part.strip().partition(";q=")
        try:
            found.append((-float(weight or 1), name.partition("-")[0].lower()))
        except ValueError:
            continue
    return [name for weight, name in sorted(found, key=lambda one: one[0]) if weight < 0]
