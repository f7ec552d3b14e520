"""How many retries a model may cause: a part of its recent calls, so that trouble is not multiplied."""

from __future__ import annotations

import math

__all__ = ["Retries"]

_MEMORY_S = 30.0
_RESERVE = 10.0
"""Retries that pass whatever the rate of calls: a quiet house must not fail for its quietness."""


class _Count:
    __slots__ = ("at", "calls", "retries")

    def __init__(self, now: float) -> None:
        self.calls = 0.0
        self.retries = 0.0
        self.at = now

    def fade(self, now: float) -> None:
        kept = math.exp(-max(0.0, now - self.at) / _MEMORY_S)
        self.calls *= kept
        self.retries *= kept
        self.at = now


class Retries:
    """Counts the calls and the retries of each model over about half a minute."""

    def __init__(self) -> None:
        self._counts: dict[str, _Count] = {}

    def called(self, model: str, now: float) -> None:
        """Note a call, which earns its model a part of a retry."""
        self._of(model, now).calls += 1

    def allow(self, model: str, percent: float, now: float) -> bool:
        """Take one retry if the recent calls of the model leave one."""
        count = self._of(model, now)
        if count.retries + 1 > _RESERVE + count.calls * percent / 100:
            return False
        count.retries += 1
        return True

    def _of(self, model: str, now: float) -> _Count:
        count = self._counts.get(model)
        if count is None:
            count = self._counts[model] = _Count(now)
        elif now > count.at:
            count.fade(now)
        return count
