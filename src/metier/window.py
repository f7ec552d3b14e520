"""When work may be done: hours of the day on the clock of a place, across its changes of time."""

from __future__ import annotations

import re
import zoneinfo
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta

from metier.errors import Invalid

__all__ = ["ALWAYS", "Window"]

ALWAYS = "always"
"""What stands for no window at all."""

_FORM = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d) +([A-Za-z][\w+-]*(?:/[\w+-]+)*)", re.ASCII)
_MINUTE = timedelta(minutes=1)
# Clocks are changed by an hour or two: no window is closed for longer than this.
_LONGEST = 2 * 24 * 60


@dataclass(frozen=True, slots=True)
class Window:
    """Hours between two readings of the clock on a wall; past midnight where the second one is the earlier."""

    opens: time
    closes: time
    zone: zoneinfo.ZoneInfo

    @classmethod
    def parse(cls, text: str, param: str = "window") -> Window | None:
        """Read `22:00-06:00 Europe/Paris`; None for `always`."""
        if text == ALWAYS:
            return None
        found = _FORM.fullmatch(text)
        if found is None:
            raise Invalid(
                f"{param} is {text[:80]!r}: write hours and a zone, such as '22:00-06:00 Europe/Paris', or {ALWAYS!r}",
                param=param,
            )
        try:
            zone = zoneinfo.ZoneInfo(found[5])
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
            raise Invalid(
                f"{param} names the zone {found[5][:60]!r}, which is not known here: take a name such as Europe/Paris",
                param=param,
            ) from None
        opens, closes = time(int(found[1]), int(found[2])), time(int(found[3]), int(found[4]))
        if opens == closes:
            raise Invalid(f"{param} opens and closes at {found[1]}:{found[2]}: write {ALWAYS!r} instead", param=param)
        return cls(opens, closes, zone)

    def __str__(self) -> str:
        return f"{self.opens:%H:%M}-{self.closes:%H:%M} {self.zone.key}"

    def open(self, now: datetime) -> bool:
        """Whether a clock on a wall there shows one of these hours."""
        shown = now.astimezone(self.zone).time()
        if self.opens < self.closes:
            return self.opens <= shown < self.closes
        return shown >= self.opens or shown < self.closes

    def next(self, now: datetime) -> datetime:
        """Give the first moment from `now` on at which it is open."""
        if self.open(now):
            return now
        # Looking at every minute is right wherever an hour is skipped or comes twice; it takes milliseconds.
        at = now.astimezone(UTC).replace(second=0, microsecond=0)
        for _ in range(_LONGEST):
            at += _MINUTE
            if self.open(at):
                return at
        # An hour that only a change of the clocks skips is open again a day later.
        return at
