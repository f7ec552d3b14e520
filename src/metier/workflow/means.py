"""Which means is good enough for a step and costs least: each measured on the same labelled data, with intervals."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from metier.calls import JSON
from metier.errors import Broken, Invalid, Mistaken
from metier.workflow.expressions import Expressions
from metier.workflow.means_data import Candidate, Given, Item, Kept
from metier.workflow.release_figures import wilson

__all__ = ["Measured", "Outcome", "Ranking", "Runner", "judge", "measure", "total"]

_Z = 1.959964
_FEW = 30
_FAULTS = 3


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one try of a candidate gave and used."""

    output: JSON
    calls: int = 0
    cost_eur: float = 0.0
    wh: float | None = 0.0
    """None: a call was made whose energy is not known."""
    failed: str | None = None
    """Code of what went wrong, where it was paid and gave no answer."""


Runner: TypeAlias = Callable[[Mapping[str, JSON]], Awaitable[Outcome]]
"""Does the work of a candidate on what the step is given."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One means on the whole data."""

    name: str
    kind: str
    count: int
    right: int
    failed: int
    """Tries that gave no answer; they count as wrong."""
    quality: float
    low: float
    """Lower bound of the 95 % interval of the quality (Wilson)."""
    high: float
    calls: int
    cost_eur: float
    """Of one answer."""
    wh: float | None
    """Of one answer, with the processor of this machine; None where a call's energy is not known."""
    p50_ms: float
    p95_ms: float
    cpu_ms: float
    """Of this process for one answer; models in processes of their own are not counted."""
    behind: float = 0.0
    """By how much it is less often right than the best, as a part of the data."""
    behind_low: float = 0.0
    """Bounds of the 95 % interval of that, on the same data pair by pair (Agresti-Min)."""
    behind_high: float = 0.0
    mcnemar_p: float = 1.0
    """Exact McNemar test against the best, two-sided."""
    adequate: bool = True
    """Not shown to be behind the best by more than the margin."""
    certain: bool = True
    """Shown to be at most the margin behind the best."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """Every means, and the one to take."""

    best: str
    """The one that was most often right."""
    recommended: str | None
    """The cheapest adequate one; None where none was ever right."""
    margin: float
    measured: tuple[Measured, ...]
    reasons: tuple[str, ...]


async def measure(
    candidates: Sequence[tuple[Candidate, Runner]],
    items: Sequence[Item],
    answer: str,
    kept: Kept,
    progress: Callable[[str], None] = lambda _: None,
) -> None:
    """Try every candidate on every item, one at a time so that times are true; what was answered is not tried again."""
    expressions = Expressions()
    for candidate, run in candidates:
        todo = [item for item in items if not kept.has(candidate, item)]
        if len(todo) < len(items):
            progress(f"{candidate.name}: {len(items) - len(todo)} of {len(items)} were answered before")
        told = _Faults(candidate.name, progress)
        for number, item in enumerate(todo, 1):
            kept.add(candidate, item, await _tried(run, item, answer, expressions, told))
            often = candidate.kind == "llm" and number % max(1, len(todo) // 20) == 0
            if often or number == len(todo):
                progress(f"{candidate.name}: {number} of {len(todo)}")


class _Faults:
    """Says why a means gives no answer: each reason once, and only the first few; nothing of it is kept."""

    def __init__(self, name: str, progress: Callable[[str], None]) -> None:
        self._name = name
        self._progress = progress
        self._said: set[str] = set()

    def __call__(self, why: str) -> None:
        if why not in self._said and len(self._said) < _FAULTS:
            self._said.add(why)
            self._progress(f"{self._name} gives no answer: {why[:300]}")


async def _tried(run: Runner, item: Item, answer: str, expressions: Expressions, told: _Faults) -> Given:
    began, cpu = time.perf_counter(), time.process_time()
    try:
        outcome = await run(item.with_)
        if outcome.failed is not None:
            told(f"{outcome.failed}: it fits no schema, even after its repair")
            return _given(None, outcome.failed, outcome, began, cpu)
        found = expressions.evaluate(answer, {"output": outcome.output, "with": dict(item.with_)})
    except (Mistaken, Broken) as error:
        told(f"{error.code}: {error.message}")
        return _given(None, error.code, Outcome(None), began, cpu)
    return _given(None if found is None else str(found), None, outcome, began, cpu)


def _given(answer: str | None, failed: str | None, outcome: Outcome, began: float, cpu: float) -> Given:
    return Given(
        answer=answer,
        failed=failed,
        calls=outcome.calls,
        cost_eur=outcome.cost_eur,
        wh=outcome.wh,
        wall_ms=(time.perf_counter() - began) * 1000,
        cpu_ms=(time.process_time() - cpu) * 1000,
    )


def judge(
    candidates: Sequence[Candidate], items: Sequence[Item], kept: Kept, *, margin: float = 0.02, cpu_watts: float = 20.0
) -> Ranking:
    """Compare what was answered, and recommend the cheapest means not significantly worse than the best."""
    if not items or not candidates:
        raise Invalid("there is nothing to compare: give labelled data and at least one means")
    if not 0 <= margin < 1:
        raise Invalid(f"a margin is a part of the data from 0 to 1, not {margin!r}", param="margin")
    answers = {one.name: [kept.get(one, item) for item in items] for one in candidates}
    right = {
        name: [given.answer == item.label for given, item in zip(found, items, strict=True)]
        for name, found in answers.items()
    }
    summed = [total(one, answers[one.name], right[one.name], cpu_watts) for one in candidates]
    best = max(summed, key=lambda one: (one.right, -one.cost_eur, -(one.wh or 0.0)))
    measured = tuple(_beside(one, right[one.name], right[best.name], margin) for one in summed)
    adequate = [one for one in measured if one.adequate]
    if best.right == 0:
        return Ranking(best.name, None, margin, measured, tuple(_unanswered(measured)))
    taken = min(adequate, key=lambda one: (round(one.cost_eur, 12), math.inf if one.wh is None else one.wh, one.p50_ms))
    return Ranking(best.name, taken.name, margin, measured, tuple(_reasons(measured, best, taken, margin)))


def total(candidate: Candidate, found: Sequence[Given], right: Sequence[bool], cpu_watts: float) -> Measured:
    """Sum up what one means gave on all of the data."""
    count, hits = len(found), sum(right)
    low, high = wilson(hits, count)
    walls = sorted(one.wall_ms for one in found)
    cpu = statistics.fmean(one.cpu_ms for one in found)
    known = [one.wh for one in found if one.wh is not None]
    wh = None if len(known) < count else statistics.fmean(known) + cpu / 3_600_000 * cpu_watts
    return Measured(
        name=candidate.name,
        kind=candidate.kind,
        count=count,
        right=hits,
        failed=sum(one.failed is not None for one in found),
        quality=hits / count,
        low=low,
        high=high,
        calls=sum(one.calls for one in found),
        cost_eur=statistics.fmean(one.cost_eur for one in found),
        wh=wh,
        p50_ms=walls[(count - 1) // 2],
        p95_ms=walls[min(count - 1, math.ceil(0.95 * count) - 1)],
        cpu_ms=cpu,
    )


def _beside(one: Measured, mine: Sequence[bool], best: Sequence[bool], margin: float) -> Measured:
    lost = sum(theirs and not own for own, theirs in zip(mine, best, strict=True))
    won = sum(own and not theirs for own, theirs in zip(mine, best, strict=True))
    count = len(mine)
    low, high = _apart(lost, won, count) if mine != best else (0.0, 0.0)
    fields = {name: getattr(one, name) for name in one.__slots__}
    return Measured(
        **{
            **fields,
            "behind": (lost - won) / count,
            "behind_low": low,
            "behind_high": high,
            "mcnemar_p": _mcnemar(lost, won),
            "adequate": low <= margin,
            "certain": high <= margin,
        }
    )


def _apart(lost: int, won: int, count: int) -> tuple[float, float]:
    """Bound the difference of two proportions of the same items: half a case is added to each of the four."""
    whole = count + 2
    first, second = (lost + 0.5) / whole, (won + 0.5) / whole
    half = _Z * math.sqrt(max(0.0, first + second - (first - second) ** 2) / whole)
    return max(-1.0, first - second - half), min(1.0, first - second + half)


def _mcnemar(lost: int, won: int) -> float:
    apart = lost + won
    tail = sum(math.comb(apart, k) for k in range(min(lost, won) + 1))
    return min(1.0, 2.0 * float(tail / 2**apart))


def _unanswered(measured: Sequence[Measured]) -> list[str]:
    found = [f"{one.name} gave no answer to {one.failed} of {one.count}" for one in measured if one.failed]
    nothing = (
        "no means was ever right, so none is recommended: compare the labels with what the step gives, or --answer"
    )
    return [*found, nothing]


def _reasons(measured: Sequence[Measured], best: Measured, taken: Measured, margin: float) -> list[str]:
    found = [
        f"{best.name} is most often right: {best.quality:.1%} ({best.low:.1%} to {best.high:.1%}) of {best.count}",
    ]
    for one in measured:
        if one.name == best.name:
            continue
        how = f"{abs(one.behind):.1%} behind" if one.behind >= 0 else f"{abs(one.behind):.1%} ahead"
        bounds = f"{one.behind_low:+.1%} to {one.behind_high:+.1%}, McNemar p = {one.mcnemar_p:.3g}"
        word = "not shown to be" if one.adequate else "shown to be"
        none = f"; it gave no answer to {one.failed} of {one.count}" if one.failed else ""
        found.append(f"{one.name} is {how} ({bounds}): {word} more than the margin of {margin:.1%} behind{none}")
    saved = best.cost_eur - taken.cost_eur
    if taken.name != best.name:
        money = f"it saves {saved * 1000:.4f} € per 1,000 answers" if saved > 0 else "it uses less energy or time"
        found.append(f"{taken.name} is the cheapest adequate means: {money}")
    else:
        found.append(f"{taken.name} is the cheapest of the adequate means and the most often right")
    now = next(one for one in measured if one.name == taken.name)
    if not now.certain:
        found.append(
            f"these data do not exclude that {taken.name} is up to {now.behind_high:.1%} behind: label more to be sure"
        )
    if taken.count < _FEW:
        found.append(f"{taken.count} labelled cases are very few: intervals are wide, label {_FEW} or more")
    return found
