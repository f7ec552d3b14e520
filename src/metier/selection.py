"""Helps to choose a model: the questions one asks, answered from the catalogue, as a ranking with its reasons."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from metier.calls import Call, KeyId, Media, Message, OutputSchema, Principal, ProjectId, SystemId, Text, Tool
from metier.catalog import Catalog
from metier.deployment import Deployment, Modality, Model, Sensitivity
from metier.policy.constraints import Constraints, Eligible, Rules

__all__ = ["Candidate", "Question", "Weigh", "rank"]

Weigh = Literal["balanced", "quality", "cost", "carbon"]
"""What counts most when nothing excludes a model."""

_NOBODY = Principal(KeyId("selection"), ProjectId("selection"), SystemId("selection"))
_MOST = 3.0
_MIME = {"image": "image/png", "audio": "audio/wav", "document": "application/pdf"}
_KNOWLEDGE = ("general", "knowledge", "culture", "connaissance", "généraliste", "generalist")


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of a model, in the words of whoever has a task."""

    task: str = ""
    """Name of the task its quality was measured on; empty takes the mean of all measures."""
    own_documents: bool = False
    """The answers are in documents of the house, not in what the model knows."""
    general_knowledge: bool = False
    """The task needs what the model itself knows of the world."""
    sensitivity: Sensitivity = "internal"
    countries: frozenset[str] | None = None
    languages: frozenset[str] | None = None
    takes: frozenset[Modality] = frozenset()
    """Beside text."""
    tools: bool = False
    structured: bool = False
    input_tokens: int = 1_500
    """Of a typical call."""
    output_tokens: int = 300
    calls: int = 1_000
    """A month."""
    weigh: Weigh = "balanced"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One model in the ranking, with what was found."""

    model: str
    fits: bool
    score: float
    """From 0 to 1, the higher the better; 0 for one that does not fit."""
    quality: float | None
    """None means not measured."""
    month_eur: Decimal | None
    """None means that its price is unknown."""
    carbon_g: float | None
    """Grams a call; None means not estimated."""
    window: int | None
    """None means not declared."""
    reasons: tuple[str, ...]


def rank(
    catalog: Catalog, question: Question, carbon: Callable[[Deployment], float | None] = lambda _: None
) -> tuple[Candidate, ...]:
    """Rank the models that may and can do the task, then name those that cannot, each with its reasons."""
    constraints, call = Constraints(any_price=True), _call(question)
    rules = Rules(question.sensitivity, countries=question.countries, languages=question.languages)
    fitting: list[Candidate] = []
    others: list[Candidate] = []
    for model in catalog.models():
        if model.rules or model.operation != "chat":
            continue
        found = constraints.eligible(call, model, rules)
        if found.deployments:
            fitting.append(_candidate(model, found, question, carbon))
        else:
            why = tuple(f"{name} {reason}" for name, reason in found.removed.items())
            others.append(Candidate(model.name, False, 0.0, None, None, None, None, why))
    scored = [_scored(candidate, fitting, question.weigh) for candidate in fitting]
    return (*sorted(scored, key=lambda candidate: (-candidate.score, candidate.model)), *others)


def _candidate(
    model: Model, found: Eligible, question: Question, carbon: Callable[[Deployment], float | None]
) -> Candidate:
    first = found.deployments[0]
    quality = _quality(model, question.task)
    month = None if first.price is None else first.price.of(question.input_tokens, question.output_tokens)
    grams = carbon(first)
    reasons = [f"{first.id} may take {question.sensitivity} data ({first.hosting}{_in(first.country)})"]
    reasons += [f"{name} is left out: {reason}" for name, reason in found.removed.items()]
    where = f" on {question.task!r}" if question.task else ""
    reasons.append(f"quality{where} {'not measured' if quality is None else f'measured: {quality:.2f}'}")
    if question.own_documents:
        reasons.append("the answers are in your documents: give it extracts, a small model is often enough")
    if question.general_knowledge:
        knows = any(word in strength.lower() for strength in model.strengths for word in _KNOWLEDGE)
        reasons.append("declared strong in general knowledge" if knows else "general knowledge not declared: try it")
    if question.languages and first.abilities.languages is None:
        reasons.append("its languages are not declared: try it")
    if month is None:
        reasons.append("its price is unknown: declare it, or calls are refused")
    if first.ends_on is not None:
        reasons.append(f"ends on {first.ends_on}")
    return Candidate(
        model=model.name,
        fits=True,
        score=0.0,
        quality=quality,
        month_eur=None if month is None else month * question.calls,
        carbon_g=grams,
        window=first.context_tokens if first.window_known else None,
        reasons=tuple(reasons),
    )


def _scored(candidate: Candidate, all_of_them: Sequence[Candidate], weigh: Weigh) -> Candidate:
    """Each measure counts from 0 (worst or unknown) to 1 (best of those that fit); the one weighed counts thrice."""
    goods = {
        "quality": _place(candidate.quality, [one.quality for one in all_of_them], most_is_best=True),
        "cost": _place(_number(candidate.month_eur), [_number(one.month_eur) for one in all_of_them]),
        "carbon": _place(candidate.carbon_g, [one.carbon_g for one in all_of_them]),
    }
    weights = {name: _MOST if name == weigh else 1.0 for name in goods}
    score = sum(goods[name] * weights[name] for name in goods) / sum(weights.values())
    return Candidate(
        candidate.model, True, round(score, 3), candidate.quality, candidate.month_eur, candidate.carbon_g,
        candidate.window, candidate.reasons,
    )  # fmt: skip


def _place(value: float | None, every: Sequence[float | None], *, most_is_best: bool = False) -> float:
    """What is not known is not good: it gets nothing for it."""
    if value is None:
        return 0.0
    known = [one for one in every if one is not None]
    low, high = min(known), max(known)
    if high == low:
        return 1.0
    return (value - low) / (high - low) if most_is_best else (high - value) / (high - low)


def _quality(model: Model, task: str) -> float | None:
    if task:
        return model.quality.get(task)
    return sum(model.quality.values()) / len(model.quality) if model.quality else None


def _number(amount: Decimal | None) -> float | None:
    return None if amount is None else float(amount)


def _in(country: str | None) -> str:
    return f", {country}" if country else ", country not declared"


def _call(question: Question) -> Call:
    """The typical call, as the constraints see one."""
    text = "x" * (4 * question.input_tokens)
    parts = tuple(Media(_MIME[kind], "") for kind in sorted(question.takes - {"text"}))
    message = Message("user", parts=(Text(text), *parts)) if parts else Message("user", text)
    return Call(
        _NOBODY,
        "selection",
        messages=(message,),
        tools=(Tool("tool", "", {}),) if question.tools else (),
        output=OutputSchema("answer", {}) if question.structured else None,
        max_output_tokens=question.output_tokens,
    )
