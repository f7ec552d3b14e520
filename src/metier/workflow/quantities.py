"""Lengths of time and sums of money as people write them in a workflow: `60s`, `4h`, `0.05`."""

from __future__ import annotations

import re
from decimal import Decimal
from types import MappingProxyType

from metier.errors import Invalid

__all__ = ["euros", "seconds"]

_DURATION = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)\s?(ms|s|m|h|d|w)\Z", re.ASCII)
_UNITS = MappingProxyType({"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0})
_YEAR_S = 366 * 86400.0
_EUROS_MAX = Decimal(1_000_000)


def seconds(written: object) -> float:
    """Read a length of time such as `500ms`, `60s`, `10m`, `4h`, `1d` or `2w`, up to a year."""
    found = _DURATION.match(written) if isinstance(written, str) else None
    if found is None:
        raise Invalid(f"cannot read the length of time {str(written)[:40]!r}; write 60s, 10m, 4h or 1d")
    length = float(found[1]) * _UNITS[found[2]]
    if not 0 < length <= _YEAR_S:
        raise Invalid(f"cannot use the length of time {written!r}; it must be more than 0 and at most a year")
    return length


def euros(written: object) -> Decimal:
    """Read a sum of money in euros, exactly as written."""
    if isinstance(written, bool) or not isinstance(written, (int, float, str)):
        raise Invalid(f"cannot read the sum of money {str(written)[:40]!r}; write euros, such as 0.05")
    try:
        amount = Decimal(str(written))
    except ArithmeticError as wrong:
        raise Invalid(f"cannot read the sum of money {str(written)[:40]!r}; write euros, such as 0.05") from wrong
    if not amount.is_finite() or not 0 < amount <= _EUROS_MAX:
        raise Invalid(f"cannot use the sum {str(written)[:40]!r}; it must be more than 0 and at most {_EUROS_MAX}")
    return amount
