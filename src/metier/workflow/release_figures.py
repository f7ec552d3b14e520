"""What the runs of a version were like, with intervals; too little data is said, never hidden in a mean."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from metier.calls import JSON
from metier.deferred import deferred

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
else:
    np = deferred("numpy")

__all__ = ["FEWEST", "Difference", "Figure", "Figures", "RunFigures", "differ", "measured", "wilson"]

FEWEST = 20
"""Runs below which two versions are not told apart."""

_DRAWS, _SEED = 2_000, 20261121
_Z = 1.959964


@dataclass(frozen=True, slots=True)
class RunFigures:
    """What one run took, and how good its output was."""

    failed: bool
    cost_eur: float
    seconds: float
    """Time its steps took; people's time is not in it."""
    quality: float | None


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of a version, with its 95 % interval."""

    value: float
    low: float
    high: float
    count: int
    """Runs it is drawn from."""


@dataclass(frozen=True, slots=True)
class Figures:
    """A version in figures; what no run tells is None."""

    version: int
    runs: int
    errors: Figure | None
    """Part of the runs that failed; Wilson interval."""
    cost_eur: Figure | None
    """Mean per run; bootstrap interval, as the following."""
    p95_s: Figure | None
    seconds: Figure | None
    quality: Figure | None

    def data(self) -> dict[str, JSON]:
        """Give them as JSON, to be written down with a decision."""
        found: dict[str, JSON] = {"version": self.version, "runs": self.runs}
        for name in ("errors", "cost_eur", "p95_s", "seconds", "quality"):
            one: Figure | None = getattr(self, name)
            told: JSON = None
            if one is not None:
                told = {"value": one.value, "low": one.low, "high": one.high, "count": one.count}
            found[name] = told
        return found


@dataclass(frozen=True, slots=True)
class Difference:
    """How one measure of two versions differs: second less first."""

    measure: str
    first: Figure | None
    second: Figure | None
    low: float | None
    """Bounds of the 95 % interval of the difference; None where there is too little data."""
    high: float | None
    told: str
    """What may be said of it in words."""


def wilson(hits: int, count: int) -> tuple[float, float]:
    """Give the 95 % interval of a proportion that also holds near 0, near 1 and for few cases."""
    if count == 0:
        return 0.0, 1.0
    part, square = hits / count, _Z * _Z
    middle = (part + square / (2 * count)) / (1 + square / count)
    half = _Z * math.sqrt(part * (1 - part) / count + square / (4 * count * count)) / (1 + square / count)
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    return (0.0 if hits == 0 else low), (1.0 if hits == count else high)


def measured(version: int, runs: Sequence[RunFigures]) -> Figures:
    """Sum up the runs of a version."""
    failed = sum(run.failed for run in runs)
    low, high = wilson(failed, len(runs))
    times = [run.seconds for run in runs]
    return Figures(
        version=version,
        runs=len(runs),
        errors=Figure(failed / len(runs), low, high, len(runs)) if runs else None,
        cost_eur=_drawn([run.cost_eur for run in runs], _mean),
        p95_s=_drawn(times, _p95),
        seconds=_drawn(times, _mean),
        quality=_drawn([run.quality for run in runs if run.quality is not None], _mean),
    )


def differ(first: Sequence[RunFigures], second: Sequence[RunFigures]) -> tuple[Difference, ...]:
    """Compare two versions measure by measure."""
    one, other = measured(1, first), measured(2, second)
    wanted: tuple[tuple[str, Callable[[RunFigures], float | None], _Statistic, Figure | None, Figure | None], ...] = (
        ("errors", lambda run: float(run.failed), _mean, one.errors, other.errors),
        ("cost_eur", lambda run: run.cost_eur, _mean, one.cost_eur, other.cost_eur),
        ("seconds", lambda run: run.seconds, _mean, one.seconds, other.seconds),
        ("p95_s", lambda run: run.seconds, _p95, one.p95_s, other.p95_s),
        ("quality", lambda run: run.quality, _mean, one.quality, other.quality),
    )
    return tuple(
        _difference(name, [_some(of, first), _some(of, second)], statistic, before, after)
        for name, of, statistic, before, after in wanted
    )


_Statistic: TypeAlias = "Callable[[NDArray[np.float64]], NDArray[np.float64]]"


def _some(of: Callable[[RunFigures], float | None], runs: Sequence[RunFigures]) -> list[float]:
    return [value for run in runs if (value := of(run)) is not None]


def _difference(
    measure: str,
    values: Sequence[Sequence[float]],
    statistic: _Statistic,
    first: Figure | None,
    second: Figure | None,
) -> Difference:
    fewest = min(len(one) for one in values)
    if fewest < FEWEST:
        told = f"too little data: {len(values[0])} and {len(values[1])} runs tell it, {FEWEST} each are needed"
        return Difference(measure, first, second, None, None, told)
    before, after = (_draws(one, statistic, seed) for seed, one in enumerate(values))
    low, high = (float(bound) for bound in np.percentile(after - before, (2.5, 97.5)))
    if measure == "errors" and first is not None and second is not None:
        low, high = _newcombe(first, second)
    # Sums of other lengths round otherwise: what is apart by less than that is alike.
    dust = 1e-9 * max((abs(value) for one in values for value in one), default=0.0)
    low, high = (0.0 if abs(bound) <= dust else bound for bound in (low, high))
    told = "no difference shown" if low <= 0.0 <= high else "lower" if high < 0 else "higher"
    return Difference(measure, first, second, low, high, told)


def _newcombe(first: Figure, second: Figure) -> tuple[float, float]:
    """Bound the difference of two proportions by their Wilson intervals: the bootstrap knows nothing of no failure."""
    apart = second.value - first.value
    low = apart - math.sqrt((second.value - second.low) ** 2 + (first.high - first.value) ** 2)
    high = apart + math.sqrt((second.high - second.value) ** 2 + (first.value - first.low) ** 2)
    return low, high


def _drawn(values: Sequence[float], statistic: _Statistic) -> Figure | None:
    if not values:
        return None
    found = float(statistic(np.array([values], dtype=np.float64))[0])
    if len(values) == 1:
        return Figure(found, found, found, 1)
    low, high = (float(bound) for bound in np.percentile(_draws(values, statistic, 0), (2.5, 97.5)))
    return Figure(found, low, high, len(values))


def _draws(values: Sequence[float], statistic: _Statistic, seed: int) -> NDArray[np.float64]:
    generator = np.random.default_rng(_SEED + seed)
    every = np.array(values, dtype=np.float64)
    found = []
    for _ in range(0, _DRAWS, 100):
        found.append(statistic(every[generator.integers(0, len(every), (100, len(every)))]))
    return np.concatenate(found)


def _mean(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(rows.mean(axis=1), dtype=np.float64)


def _p95(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.percentile(rows, 95, axis=1), dtype=np.float64)
