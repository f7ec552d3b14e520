"""Whether what a plan foresees may be spent: by one run, and by the project that pays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from metier.errors import BudgetExceeded, Invalid
from metier.workflow.plan import Plan

__all__ = ["Verdict", "guard", "verdict"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether runs fit into what may be spent."""

    level: Literal["within", "ask", "refuse"]
    """"ask": the expected case fits and the worst does not."""
    reasons: tuple[str, ...]


def verdict(found: Plan, runs: int, per_run_eur: Decimal | None, left_eur: Decimal | None) -> Verdict:
    """Hold a plan against the budget of a run and what the project has left."""
    if runs < 1:
        raise Invalid(f"cannot plan {runs!r} runs: plan 1 or more", param="runs")
    refused: list[str] = []
    asked: list[str] = []
    expected = Decimal(repr(found.expected.eur))
    for what, limit, likely, most in (
        ("per_run_eur of the workflow", per_run_eur, expected, Decimal(repr(found.most.eur))),
        ("what the project has left", left_eur, expected * runs, found.held_eur * runs),
    ):
        if limit is None:
            continue
        if likely > limit:
            refused.append(f"expected {likely:.6f} € is above {what}, {limit:f} €")
        elif most > limit:
            asked.append(f"worst case {most:.6f} € is above {what}, {limit:f} €")
    if found.most.unknown & {"eur"}:
        asked.append("the price of a model is not known, so the worst case of money is not either")
    return Verdict("refuse" if refused else "ask" if asked else "within", (*refused, *asked))


def guard(found: Verdict, ask: Callable[[str], bool]) -> None:
    """Let a start pass that fits, or that somebody accepts; raise BudgetExceeded otherwise."""
    told = "; ".join(found.reasons)
    if found.level == "refuse":
        raise BudgetExceeded(f"nothing was started: {told}; raise the budget, or plan fewer or smaller runs")
    if found.level == "ask" and not ask(told):
        raise BudgetExceeded(f"nothing was started: {told}; accept it with --yes, or raise the budget")
