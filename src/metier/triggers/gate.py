"""How often one trigger may be knocked at over HTTP, counted in this process, before anything is looked up for it."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable

from metier.errors import RateLimited

__all__ = ["Gate"]


class Gate:
    """Lets so many requests a minute through to each trigger; what it remembers is bounded whatever is asked for."""

    def __init__(
        self, per_minute: int, burst: int, *, most: int = 10_000, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._every_s = 60 / per_minute
        self._slack_s = (burst - 1) * self._every_s
        self._most = most
        self._now = now
        self._due: OrderedDict[str, float] = OrderedDict()

    def enter(self, trigger: str) -> None:
        """Count a request to a trigger, or raise RateLimited saying when to come again."""
        now = self._now()
        due = max(self._due.get(trigger, now), now)
        if due - now > self._slack_s + 1e-9:
            wait_s = due - now - self._slack_s
            refusal = RateLimited(
                f"trigger {trigger[:80]!r} was asked too often: try again in {math.ceil(wait_s)} s, and send less often"
            )
            vars(refusal)["retry_after_s"] = wait_s
            raise refusal
        self._due[trigger] = due + self._every_s
        self._due.move_to_end(trigger)
        while len(self._due) > self._most:
            self._due.popitem(last=False)
