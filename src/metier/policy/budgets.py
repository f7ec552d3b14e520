"""Where limits stand today and where they will end: what people read of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal

from metier.policy.limits import Limit, Limits, period_end, period_start

__all__ = ["LEAST_PART", "Standing", "standings"]

LEAST_PART = 0.1
"""Part of a period that must be over before it is carried forward: 2.4 hours of a day, three days of a month."""

_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class Standing:
    """One limit with what is used of it; of end users, all together."""

    limit: Limit
    used: Decimal
    """Spent in this period; for a rate, what counts in the last minute; for concurrency, calls and permits held."""
    held: Decimal
    """Reserved by calls under way, or kept ready by workers."""
    starts_on: date | None
    """First day of the period; None for rates."""
    forecast: Decimal | None
    """Where the period ends if use goes on as it has; None where that cannot be said yet."""
    members: int
    """End users counted, for a limit of each one."""


async def standings(limits: Limits, subject: str | None = None, now: datetime | None = None) -> Sequence[Standing]:
    """Read where the limits of one subject stand, or all of them."""
    return [_standing(row, now or datetime.now(UTC)) for row in await limits.standings(subject)]


def _standing(row: dict[str, object], now: datetime) -> Standing:
    facts = {name: row.pop(name) for name in ("starts_on", "spent", "held", "members", "counted")}
    limit = Limit(**row)  # type: ignore[arg-type]  # the columns of the query are its fields
    if not limit.durable:
        return Standing(limit, Decimal(str(facts["counted"])), _ZERO, None, None, 0)
    starts_on = period_start(limit.period, now.date())
    # The row is moved on by the first call of a period: until then nothing is used.
    current = facts["starts_on"] == starts_on
    used, held = (Decimal(str(facts[name])) if current else _ZERO for name in ("spent", "held"))
    members = int(str(facts["members"])) if limit.scope == "end_user" else 0
    return Standing(limit, used, held, starts_on, _forecast(limit, used, starts_on, now), members)


def _forecast(limit: Limit, used: Decimal, starts_on: date, now: datetime) -> Decimal | None:
    end = period_end(limit.period, starts_on)
    if end is None or limit.scope == "end_user":
        return None
    began = datetime(starts_on.year, starts_on.month, starts_on.day, tzinfo=UTC)
    whole = (datetime(end.year, end.month, end.day, tzinfo=UTC) - began).total_seconds()
    part = (now - began).total_seconds() / whole
    if not LEAST_PART <= part <= 1:
        return None
    return (used / Decimal(repr(part))).quantize(Decimal("0.000000001"))
