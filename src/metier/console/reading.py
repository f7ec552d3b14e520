"""What a reviewer reads of a task, put in order by its shape, whatever the workflow calls it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from metier.calls import JSON
from metier.console.highlight import Passage, highlight
from metier.console.language import Language
from metier.workflow.review import Task

__all__ = ["Check", "Doubt", "Grade", "Reading", "Rule", "Source", "read"]

_Fields: TypeAlias = Mapping[str, JSON]


@dataclass(frozen=True, slots=True)
class Doubt:
    """One thing the check holds against a draft."""

    text: str
    serious: bool


@dataclass(frozen=True, slots=True)
class Check:
    """What the code that verifies citations and figures has found."""

    verified: str
    cited: str
    ok: bool
    doubts: tuple[Doubt, ...]


@dataclass(frozen=True, slots=True)
class Grade:
    """What the judge says of a draft."""

    score: float | None
    critique: str
    grounded: bool | None


@dataclass(frozen=True, slots=True)
class Rule:
    """Why the business rules sent the work here."""

    reason: str
    priority: str
    route: str


@dataclass(frozen=True, slots=True)
class Source:
    """One extract of a document, with what the draft quotes of it."""

    id: str
    document: str
    title: str
    passages: tuple[Passage, ...]
    cited: bool


@dataclass(slots=True)
class Reading:
    """A task as it is laid out on its page."""

    messages: list[tuple[str, str]] = field(default_factory=list)
    """Name of the text and the text: the message of a customer, its attachments."""
    checks: list[Check] = field(default_factory=list)
    grades: list[Grade] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)
    sources: list[Source] = field(default_factory=list)
    others: list[tuple[str, JSON]] = field(default_factory=list)
    """What has no place of its own, by its name."""


def read(task: Task, language: Language) -> Reading:
    """Put what a task shows in its place on the page; empty things are left out."""
    reading = Reading()
    quotes = _quotes(task.edit)
    for name, value in task.show.items():
        if value in (None, "", [], {}):
            continue
        if isinstance(value, dict) and {"verified", "cited"} <= value.keys():
            reading.checks.append(_check(value, language))
        elif isinstance(value, dict) and {"score", "critique"} <= value.keys():
            reading.grades.append(_grade(value))
        elif isinstance(value, dict) and isinstance(value.get("reason"), str):
            reading.rules.append(_rule(value))
        elif isinstance(value, str) and name.endswith(".reason"):
            reading.rules.append(_rule({"reason": value}))
        elif isinstance(value, str):
            reading.messages.append((name, value))
        elif isinstance(value, list) and all(_is_extract(one) for one in value):
            reading.sources += [_source(one, quotes) for one in value if isinstance(one, dict)]
        else:
            reading.others.append((name, value))
    # What the draft rests on comes first; the order of the search holds otherwise.
    reading.sources.sort(key=lambda source: not source.cited)
    return reading


def _is_extract(value: JSON) -> bool:
    return isinstance(value, dict) and isinstance(value.get("id"), str) and isinstance(value.get("text"), str)


def _check(value: _Fields, language: Language) -> Check:
    findings = value.get("findings")
    doubts = [
        Doubt(_text(found.get(language)) or _text(found.get("where")), found.get("serious") is not False)
        for found in (findings if isinstance(findings, list) else [])
        if isinstance(found, dict)
    ]
    return Check(
        verified=_text(value.get("verified")),
        cited=_text(value.get("cited")),
        ok=value.get("ok") is True,
        doubts=tuple(sorted(doubts, key=lambda doubt: not doubt.serious)),
    )


def _grade(value: _Fields) -> Grade:
    score, grounded = value.get("score"), value.get("grounded")
    return Grade(
        score=float(score) if isinstance(score, int | float) and not isinstance(score, bool) else None,
        critique=_text(value.get("critique")),
        grounded=grounded if isinstance(grounded, bool) else None,
    )


def _rule(value: _Fields) -> Rule:
    return Rule(_text(value.get("reason")), _text(value.get("priority")), _text(value.get("route")))


def _source(value: _Fields, quotes: Mapping[str, Sequence[str]]) -> Source:
    id = _text(value.get("id"))
    return Source(
        id=id,
        document=_text(value.get("document")),
        title=_text(value.get("title")),
        passages=highlight(_text(value.get("text")), quotes.get(id, ())),
        cited=id in quotes,
    )


def _quotes(draft: JSON) -> dict[str, list[str]]:
    """What a draft cites, by the id of the extract."""
    quotes: dict[str, list[str]] = {}
    citations = draft.get("citations") if isinstance(draft, dict) else None
    for citation in citations if isinstance(citations, list) else []:
        if isinstance(citation, str):
            quotes.setdefault(citation.strip("[] "), [])
        elif isinstance(citation, dict):
            quotes.setdefault(_text(citation.get("id")).strip("[] "), []).append(_text(citation.get("quote")))
    return quotes


def _text(value: JSON) -> str:
    return "" if value is None else str(value)
