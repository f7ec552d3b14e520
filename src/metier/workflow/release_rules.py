"""Rules by which a version is taken back: one line each, read, decided on figures, told with them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

from metier.errors import Invalid
from metier.workflow.release_figures import Figure, Figures

__all__ = ["Measured", "Rule", "broken", "read"]

Measured: TypeAlias = Literal["error_rate", "cost", "duration", "p95", "quality"]

_RULE = re.compile(
    r"\s*(error_rate|cost|duration|p95|quality)\s*([<>])\s*(\d+(?:\.\d+)?)\s*(%|x|×|s|€)?"
    r"\s*(?:over\s+(?:≥\s*)?(\d{1,6})(?:\s+runs)?)?\s*\Z"
)
_UNITS = {
    "error_rate": ("%", None),
    "cost": ("€", None),
    "duration": ("s", None),
    "p95": ("s", None),
    "quality": (None,),
}
_USUAL = 50
_EXAMPLE = "write it like 'error_rate > 5 % over 50 runs', 'cost > 1.5x', 'p95 > 30s' or 'quality < 0.8'"


@dataclass(frozen=True, slots=True)
class Rule:
    """One bound on one measure of a version."""

    text: str
    """As it was written."""
    measure: Measured
    above: bool
    """Broken above the bound; else below it."""
    bound: float
    relative: bool
    """The bound is a multiple of the figure of the version it is compared with."""
    least_runs: int
    """Nothing is decided on fewer runs."""


def read(text: str) -> Rule:
    """Read a rule; Invalid says how one is written."""
    found = _RULE.match(text)
    if found is None:
        raise Invalid(f"cannot read the rule {text[:80]!r}: {_EXAMPLE}", param="rule")
    measure, sign, number, unit, runs = found.groups()
    relative = unit in ("x", "×")
    if not relative and unit not in _UNITS[measure]:
        raise Invalid(f"the rule {text[:80]!r} gives {measure} in {unit!r}: {_EXAMPLE}", param="rule")
    above = sign == ">"
    if above == (measure == "quality"):
        raise Invalid(f"the rule {text[:80]!r} would take back what is good: turn its sign; {_EXAMPLE}", param="rule")
    bound = float(number) / (100 if unit == "%" else 1)
    least = int(runs) if runs else _USUAL
    if least < 1:
        raise Invalid(f"the rule {text[:80]!r} decides on no run at all: {_EXAMPLE}", param="rule")
    return Rule(text.strip(), cast("Measured", measure), above, bound, relative, least)


def broken(rule: Rule, found: Figures, base: Figures | None) -> str | None:
    """Say in words how a version breaks a rule, or None: it holds, or there is too little to decide on."""
    figure = _figure(rule, found)
    if figure is None or figure.count < rule.least_runs:
        return None
    bound, beside = rule.bound, ""
    if rule.relative:
        other = None if base is None else _figure(rule, base)
        if other is None or base is None or other.count < rule.least_runs:
            return None
        bound *= other.value
        beside = f" ({rule.bound:g} times that of version {base.version}, {other.value:.6g})"
    if (figure.value <= bound) if rule.above else (figure.value >= bound):
        return None
    word = "above" if rule.above else "below"
    return (
        f"{rule.measure} is {figure.value:.6g} over {figure.count} runs (95 %: {figure.low:.6g} to {figure.high:.6g}), "
        f"{word} {bound:.6g}{beside}: rule {rule.text!r}"
    )


def _figure(rule: Rule, found: Figures) -> Figure | None:
    match rule.measure:
        case "error_rate":
            return found.errors
        case "cost":
            return found.cost_eur
        case "duration":
            return found.seconds
        case "p95":
            return found.p95_s
        case "quality":
            return found.quality
