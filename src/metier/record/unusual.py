"""Finds unusual volumes: the last whole hour beside the same hour of the weeks before, by a robust z-score.

For each organisation, project, system and model, and for each project as a whole, four measures are judged: calls,
errors, tokens, euros. The past is the same hour of the same day of the week in the last eight weeks; of what is not
known that long, the same hour of the last fourteen days; hours before it was first seen do not count, hours without a
call count as zero. With fewer than four such hours nothing is said: what is new shows in its project.

    z = (now - median) / spread
    spread = max(1.4826 x MAD, noise, 10 % of median)
    noise = one call's worth x sqrt(max(1, median of calls)); of errors: max(1, sqrt(median), 1 % of calls)

MAD is the median of the distances to the median: up to half of the past may be strange without hiding what is strange
now (Iglewicz and Hoaglin, 1993). Noise is that of counting: three calls where there was mostly one are
no alarm. |z| of 5 or more is unusual, upwards or downwards. Hours are UTC, so that twice a year, when clocks change,
the past is an hour off for eight weeks. All of it is read from the totals of the hours, never from calls.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Literal, TypeAlias

from metier.store import Row

__all__ = ["Hours", "Measure", "Unusual", "hours", "unusual"]

Measure = Literal["calls", "errors", "tokens", "cost_eur"]
"""What is judged."""

_MEASURES: tuple[Measure, ...] = ("calls", "errors", "tokens", "cost_eur")
_WEEKS = 8
_DAYS = 14
_FEWEST = 4
_ALARM = 5.0
_NORMAL = 1.4826
_TENTH = 0.1
_HUNDREDTH = 0.01
_Group: TypeAlias = tuple[str, str, str | None, str | None]


@dataclass(frozen=True, slots=True)
class Hours:
    """The hours that are compared."""

    now: datetime
    """Beginning of the last whole hour."""
    weeks: tuple[datetime, ...]
    days: tuple[datetime, ...]

    @property
    def all(self) -> tuple[datetime, ...]:
        """Every one of them, once."""
        return tuple(sorted({self.now, *self.weeks, *self.days}))


@dataclass(frozen=True, slots=True)
class Unusual:
    """One measure that was not as usual in the last whole hour."""

    hour: datetime
    organisation: str
    project: str
    system: str | None
    """None for the project as a whole."""
    model: str | None
    measure: Measure
    value: float
    usual: float
    """Median of the same hour before."""
    z: float
    """How many spreads away; negative where there was less than usual."""
    compared: int
    """Hours it was compared with."""


def hours(now: datetime) -> Hours:
    """Give the last whole hour before `now` and those it is compared with."""
    hour = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)
    return Hours(
        hour,
        tuple(hour - timedelta(weeks=n) for n in range(1, _WEEKS + 1)),
        tuple(hour - timedelta(days=n) for n in range(1, _DAYS + 1)),
    )


def unusual(compared: Hours, rows: Iterable[Row], firsts: Iterable[Row]) -> tuple[Unusual, ...]:
    """Judge every group that was called in one of the hours, the strangest first."""
    totals: dict[_Group, dict[datetime, Row]] = {}
    for row in rows:
        for group in _groups(row):
            total = totals.setdefault(group, {}).setdefault(row["hour"], dict.fromkeys(_MEASURES, 0.0))
            for measure in _MEASURES:
                total[measure] += float(row[measure])
    first: dict[_Group, datetime] = {}
    for row in firsts:
        for group in _groups(row):
            first[group] = min(row["hour"], first.get(group, row["hour"]))
    found = [one for group, seen in totals.items() for one in _judged(group, seen, first.get(group), compared)]
    return tuple(sorted(found, key=lambda one: -abs(one.z)))


def _judged(group: _Group, seen: Mapping[datetime, Row], first: datetime | None, compared: Hours) -> Iterable[Unusual]:
    known = [[hour for hour in past if first is not None and hour >= first] for past in (compared.weeks, compared.days)]
    past = known[0] if len(known[0]) >= _FEWEST else known[1]
    if len(past) < _FEWEST:
        return
    calls = [_value(seen.get(hour), "calls") for hour in past]
    for measure in _MEASURES:
        value = _value(seen.get(compared.now), measure)
        before = [_value(seen.get(hour), measure) for hour in past]
        usual = median(before)
        z = (value - usual) / _spread(before, calls, measure, seen.get(compared.now))
        if abs(z) >= _ALARM:
            yield Unusual(compared.now, *group, measure, value, usual, z, len(past))


def _spread(before: Sequence[float], calls: Sequence[float], measure: Measure, now: Row | None) -> float:
    usual = median(before)
    distance = median(abs(value - usual) for value in before)
    if measure == "errors":
        noise = max(1.0, math.sqrt(usual), _HUNDREDTH * median(calls))
    else:
        # One call's worth: of the past, or of the hour itself where nothing was there before.
        worth = 1.0 if measure == "calls" else _ratio(sum(before), sum(calls))
        if not worth:
            worth = _ratio(_value(now, measure), _value(now, "calls")) or 1.0
        noise = worth * math.sqrt(max(1.0, median(calls)))
    return max(_NORMAL * distance, noise, _TENTH * usual)


def _ratio(total: float, calls: float) -> float:
    return total / calls if calls else 0.0


def _value(row: Row | None, measure: str) -> float:
    return 0.0 if row is None else float(row[measure])


def _groups(row: Row) -> tuple[_Group, _Group]:
    whole, part = (row["organisation"], row["project"]), (row["system"], row["model"])
    return (*whole, *part), (*whole, None, None)
