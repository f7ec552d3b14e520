"""When a cron line fires in a time zone: once for what a change of clocks skips, once for what it repeats."""

from __future__ import annotations

import heapq
import itertools
import re
import zoneinfo
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from croniter import croniter
from croniter.croniter import CroniterError

from metier.errors import Invalid

__all__ = ["Schedule"]

_SLACK = timedelta(hours=3)
"""More than any change of clocks moves them."""
_HORIZON = timedelta(days=366 * 8)
_FIELDS = 5
_DRAWN = re.compile(r"(?:^|[\s,])[rh](?:$|[\s,(/])", re.IGNORECASE)


class Schedule:
    """A cron line of five fields, read on the clocks of one zone."""

    def __init__(self, line: str, zone: str) -> None:
        if not isinstance(line, str) or (not line.startswith("@") and len(line.split()) != _FIELDS):
            raise Invalid(
                f"cannot read the schedule {line!r}: write minute hour day month weekday, such as 0 9 * * 1-5"
            )
        if _DRAWN.search(line):
            # Drawn anew at each reading: the same time would never come twice.
            raise Invalid(f"the schedule {line!r} leaves a field to chance: write the minute, hour or day itself")
        try:
            self._zone = zoneinfo.ZoneInfo(zone)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError, TypeError):
            raise Invalid(f"there is no time zone {zone!r}: write one such as Europe/Paris") from None
        self._line = line
        try:
            fields = croniter(line, datetime(2026, 1, 1)).expressions
        except (CroniterError, ValueError, KeyError, AttributeError) as wrong:
            raise Invalid(f"cannot read the schedule {line!r}: {wrong}") from None
        self._hourly = fields[1].startswith("*")
        if self.after(datetime(2026, 1, 1, tzinfo=UTC)) is None:
            raise Invalid(f"the schedule {line!r} never fires: no such day comes")

    def after(self, moment: datetime) -> datetime | None:
        """Give the first time it fires after a moment, in its zone."""
        return next(self._ahead(moment), None)

    def between(self, after: datetime, until: datetime, most: int) -> list[datetime]:
        """Give the last times it fired after a moment and up to another, at most so many, oldest first."""
        span = timedelta(hours=6)
        while True:
            # Backwards, in spans that grow: a line that fires each minute is not counted through a year.
            start = max(after, until - span)
            found = list(itertools.takewhile(lambda moment: moment <= until, self._ahead(start)))
            if len(found) >= most or start == after:
                return found[-most:]
            span *= 4

    def _ahead(self, moment: datetime) -> Iterator[datetime]:
        """Yield the times it fires after a moment, in order, each once."""
        start = self._wall(moment) - _SLACK
        ticks = croniter(self._line, start)
        coming: list[datetime] = []
        last = moment.astimezone(UTC)
        while True:
            try:
                wall: datetime | None = ticks.get_next(datetime)
            except CroniterError:
                wall = None
            while coming and (wall is None or wall > self._wall(coming[0]) + _SLACK):
                instant = heapq.heappop(coming)
                if instant > last:
                    last = instant
                    yield instant.astimezone(self._zone)
            if wall is None or wall > start + _HORIZON:
                return
            for instant in self._instants(wall):
                heapq.heappush(coming, instant)

    def _wall(self, moment: datetime) -> datetime:
        return moment.astimezone(self._zone).replace(tzinfo=None, fold=0)

    def _instants(self, wall: datetime) -> list[datetime]:
        """What clocks skip fires when they have; what they show twice fires twice only where every hour does."""
        first = wall.replace(tzinfo=self._zone, fold=0)
        second = wall.replace(tzinfo=self._zone, fold=1)
        early, late = first.astimezone(UTC), second.astimezone(UTC)
        if early == late:
            return [early]
        if early < late:
            return [early, late] if self._hourly else [early]
        return [self._change(late, early)]

    def _change(self, low: datetime, high: datetime) -> datetime:
        """Find the instant clocks jump ahead between two moments."""
        before = low.astimezone(self._zone).utcoffset()
        while high - low > timedelta(seconds=1):
            middle = low + (high - low) / 2
            if middle.astimezone(self._zone).utcoffset() == before:
                low = middle
            else:
                high = middle
        return high.replace(microsecond=0)
