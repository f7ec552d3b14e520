"""What work takes, counted in everything a plan tells: tries, calls, tokens, money, energy, carbon, time, people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from metier.calls import JSON

__all__ = ["NOTHING", "Amount"]


@dataclass(frozen=True, slots=True)
class Amount:
    """So much of everything; what is in `unknown` has more to it than the figure says."""

    tries: float = 0.0
    """Times a step function is called."""
    calls: float = 0.0
    """Calls of models that answer."""
    input_tokens: float = 0.0
    output_tokens: float = 0.0
    eur: float = 0.0
    wh: float = 0.0
    carbon_g: float = 0.0
    """Grams of CO2 equivalent."""
    seconds: float = 0.0
    """Time steps take; the time people take is not in it."""
    tasks: float = 0.0
    """Questions to people."""
    unknown: frozenset[str] = frozenset()
    """Names of the measures above that are not known whole."""

    def __add__(self, other: Amount) -> Amount:
        return Amount(
            self.tries + other.tries,
            self.calls + other.calls,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.eur + other.eur,
            self.wh + other.wh,
            self.carbon_g + other.carbon_g,
            self.seconds + other.seconds,
            self.tasks + other.tasks,
            self.unknown | other.unknown,
        )

    def times(self, number: float) -> Amount:
        """Give it so many times over."""
        if number == 0:
            return NOTHING
        return _of([figure * number for figure in self.figures()], self.unknown)

    def least(self, other: Amount) -> Amount:
        """Give the smaller of each measure: no more than either takes."""
        figures = [min(pair) for pair in zip(self.figures(), other.figures(), strict=True)]
        return _of(figures, self.unknown & other.unknown)

    def most(self, other: Amount) -> Amount:
        """Give the larger of each measure: no less than either takes."""
        figures = [max(pair) for pair in zip(self.figures(), other.figures(), strict=True)]
        return _of(figures, self.unknown | other.unknown)

    def wait(self, seconds: float) -> Amount:
        """Add time in which nothing is done."""
        return replace(self, seconds=self.seconds + seconds)

    def lasting(self, seconds: float) -> Amount:
        """Give the same done in another time, since some of it goes on at once."""
        return replace(self, seconds=seconds)

    def figures(self) -> tuple[float, ...]:
        """Give the figures in the order of the fields."""
        return (
            self.tries, self.calls, self.input_tokens, self.output_tokens, self.eur,
            self.wh, self.carbon_g, self.seconds, self.tasks,
        )  # fmt: skip

    def data(self) -> dict[str, JSON]:
        """Give it as JSON; what is not known whole is named under `unknown`."""
        names = ("tries", "calls", "input_tokens", "output_tokens", "eur", "wh", "carbon_g", "seconds", "tasks")
        unknown: list[JSON] = [*sorted(self.unknown)]
        return {**dict(zip(names, self.figures(), strict=True)), "unknown": unknown}


def _of(figures: Sequence[float], unknown: frozenset[str]) -> Amount:
    tries, calls, tokens_in, tokens_out, eur, wh, carbon, seconds, tasks = figures
    return Amount(tries, calls, tokens_in, tokens_out, eur, wh, carbon, seconds, tasks, unknown)


NOTHING = Amount()
"""No work at all."""
