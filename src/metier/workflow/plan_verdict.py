"""Whether what a plan foresees may be spent: by one run, and by the project that pays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, TypeAlias

from metier.errors import BudgetExceeded, Invalid
from metier.workflow.plan import Plan
from metier.workflow.plan_amount import Amount

__all__ = ["Bound", "Counted", "Verdict", "guard", "verdict"]

Counted: TypeAlias = Literal["money", "energy", "carbon", "tokens", "requests"]
"""What a plan foresees and limits bound."""

_UNITS = {"money": "€", "energy": "Wh", "carbon": "gCO2e", "tokens": "tokens", "requests": "requests"}
_FIELDS: Mapping[Counted, tuple[str, ...]] = {
    "money": ("eur",),
    "energy": ("wh",),
    "carbon": ("carbon_g",),
    "tokens": ("input_tokens", "output_tokens"),
    "requests": ("calls",),
}


@dataclass(frozen=True, slots=True)
class Bound:
    """What is left of a limit that holds for those runs."""

    what: str
    """As people call it."""
    counted: Counted
    left: Decimal
    unknown_passes: bool = False
    """What is not known counts as nothing there."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether runs fit into what may be spent."""

    level: Literal["within", "ask", "refuse"]
    """"ask": the expected case fits and the worst does not."""
    reasons: tuple[str, ...]


def verdict(found: Plan, runs: int, per_run_eur: Decimal | None, bounds: Sequence[Bound] = ()) -> Verdict:
    """Hold a plan against the budget of a run and what is left of every limit above it."""
    if runs < 1:
        raise Invalid(f"cannot plan {runs!r} runs: plan 1 or more", param="runs")
    refused: list[str] = []
    asked: list[str] = []

    def hold(what: str, counted: Counted, limit: Decimal, times: int, worst: Decimal) -> None:
        likely, unit = _sum(found.expected, counted) * times, _UNITS[counted]
        if likely > limit:
            refused.append(f"expected {_short(likely)} {unit} is above {what}, {_short(limit)} {unit}")
        elif worst > limit:
            asked.append(f"worst case {_short(worst)} {unit} is above {what}, {_short(limit)} {unit}")

    if per_run_eur is not None:
        hold("per_run_eur of the workflow", "money", per_run_eur, 1, _sum(found.most, "money"))
    for bound in bounds:
        worst = found.held_eur if bound.counted == "money" else _sum(found.most, bound.counted)
        hold(f"what {bound.what} has left", bound.counted, bound.left, runs, worst * runs)
        if bound.counted != "money" and not bound.unknown_passes and found.most.unknown & {*_FIELDS[bound.counted]}:
            asked.append(f"{bound.counted} is bounded for {bound.what}, and the worst case of it is not known")
    if found.most.unknown & {"eur"}:
        asked.append("the price of a model is not known, so the worst case of money is not either")
    return Verdict("refuse" if refused else "ask" if asked else "within", (*refused, *asked))


def _sum(amount: Amount, counted: Counted) -> Decimal:
    return sum((Decimal(repr(getattr(amount, field))) for field in _FIELDS[counted]), start=Decimal(0))


def _short(amount: Decimal) -> str:
    return f"{round(amount, 6).normalize():f}"


def guard(found: Verdict, ask: Callable[[str], bool]) -> None:
    """Let a start pass that fits, or that somebody accepts; raise BudgetExceeded otherwise."""
    told = "; ".join(found.reasons)
    if found.level == "refuse":
        raise BudgetExceeded(f"nothing was started: {told}; raise the budget, or plan fewer or smaller runs")
    if found.level == "ask" and not ask(told):
        raise BudgetExceeded(f"nothing was started: {told}; accept it with --yes, or raise the budget")
