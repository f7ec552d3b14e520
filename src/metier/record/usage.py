"""Totals of calls and how long they took, read from the totals of the hours, which outlive the calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Literal

from metier.errors import LedgerBroken
from metier.store import Queries

__all__ = ["Dimension", "KeyUsage", "Latency", "Usages", "keys", "latencies", "usages"]

Dimension = Literal["organisation", "project", "system", "model", "day"]
"""What usage can be grouped by."""

_GROWTH = 1.105
"""Ratio of the bounds of one bucket of time, as in the tables."""


@dataclass(frozen=True, slots=True)
class Usages:
    """Totals of a group of calls; a dimension not asked for is None."""

    organisation: str | None
    project: str | None
    system: str | None
    model: str | None
    day: date | None
    calls: int
    errors: int
    """Calls refused, failed, cancelled or lost."""
    input_tokens: int
    output_tokens: int
    cost_eur: Decimal
    unpriced: int
    """Calls whose price is unknown; they count as 0 in the cost."""
    not_estimated: int
    """Calls whose footprint is unknown; they are absent from energy and carbon."""
    energy_low_wh: float | None
    """None when no call of the group could be estimated."""
    energy_high_wh: float | None
    carbon_low_g: float | None
    carbon_high_g: float | None
    cache_hits: int
    saved_eur: Decimal
    """What answers out of the cache had cost the first time."""
    cached_tokens: int
    """Input tokens that providers had in their prompt caches."""
    reasoning_tokens: int
    """Output tokens that were thought, not said."""
    saved_kwh: float
    """Energy of the first time, upper bound, where it was estimated."""


@dataclass(frozen=True, slots=True)
class Latency:
    """How long the answered calls of one model took, in seconds, each figure within 5 %."""

    model: str
    measure: Literal["first", "whole"]
    """Until the first piece of the answer, or until its end."""
    calls: int
    p50_s: float
    p95_s: float
    p99_s: float


@dataclass(frozen=True, slots=True)
class KeyUsage:
    """Totals of the calls made with one key, on whole days (UTC)."""

    organisation: str
    project: str
    key: str
    calls: int
    errors: int
    input_tokens: int
    output_tokens: int
    cost_eur: Decimal
    cache_hits: int
    saved_eur: Decimal


async def usages(
    queries: Queries,
    by: Sequence[Dimension],
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    project: str | None = None,
) -> tuple[Usages, ...]:
    """Total calls by the dimensions asked for: from the hours where the moments are whole ones, else from the calls."""
    params = {"by": [*by], "since": since, "until": until, "project": project}
    query = "usage_by_hours" if _whole_hour(since) and _whole_hour(until) else "usage"
    return tuple(Usages(**row) for row in await queries.all(query, params))


async def keys(
    queries: Queries, *, since: date | None = None, until: date | None = None, project: str | None = None
) -> tuple[KeyUsage, ...]:
    """Total calls per key, dearest first, from one day on and before another."""
    params = {"since": since, "until": until, "project": project}
    return tuple(KeyUsage(**row) for row in await queries.all("usage_by_keys", params))


async def latencies(
    queries: Queries, *, since: datetime | None = None, until: datetime | None = None, project: str | None = None
) -> tuple[Latency, ...]:
    """Tell how long answered calls took, per model; the moments count as whole hours."""
    rows = await queries.all("latencies", {"since": since, "until": until, "project": project})
    groups: dict[tuple[str, Literal["first", "whole"]], list[tuple[int, int]]] = {}
    for row in rows:
        groups.setdefault((row["model"], row["measure"]), []).append((row["bucket"], row["calls"]))
    return tuple(
        Latency(model, measure, sum(n for _, n in found), *(_quantile(found, q) for q in (0.5, 0.95, 0.99)))
        for (model, measure), found in groups.items()
    )


def _whole_hour(moment: datetime | None) -> bool:
    return moment is None or (moment.astimezone(UTC).minute, moment.second, moment.microsecond) == (0, 0, 0)


def _quantile(buckets: Sequence[tuple[int, int]], share: float) -> float:
    """Find the value below which `share` of the calls lie, the middle of its bucket (DDSketch)."""
    rank = share * (sum(calls for _, calls in buckets) - 1)
    for bucket, calls in buckets:
        rank -= calls
        if rank < 0:
            return float(2 * _GROWTH**bucket / (_GROWTH + 1))
    raise LedgerBroken("there is no quantile of no calls")
