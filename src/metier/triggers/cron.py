"""Events by the clock: a cron line with its zone, and what happens to the times that were missed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from datetime import UTC, datetime, timedelta

from metier.calls import JSON
from metier.errors import Invalid
from metier.triggers.event import Event, Kind, Mark, Mount, Taken, only
from metier.triggers.schedule import Schedule

__all__ = ["KIND", "CronSource"]

_LATE = timedelta(seconds=60)
"""A time this little ago is on time: a process that took over fires it whatever `backfill` says."""
_LOOK_S = 15.0
_MOST = 1000


class CronSource:
    """Gives one event for each time of a schedule; a clock that is set back repeats none."""

    def __init__(self, mount: Mount) -> None:
        self._mount = mount
        self._schedule, self._backfill, self._most = _read(mount.config)

    async def events(self, state: JSON) -> AsyncGenerator[Event | Mark, None]:
        """Give the times that were missed as `backfill` says, then each time as it comes."""
        last = datetime.fromisoformat(state["last"]) if isinstance(state, dict) else self._mount.since  # type: ignore[arg-type]  # written below
        yield Mark(_state(last))
        while True:
            now = self._mount.clock()
            # A clock that was set back shows some times again: their events are known by their ids.
            last = min(last, now)
            missed, punctual = self._due(last, now)
            for moment in missed:
                yield _event(moment, missed=True)
            for moment in punctual:
                yield _event(moment, missed=False)
            last = now
            following = self._schedule.after(last)
            wait = _LOOK_S if following is None else (following - self._mount.clock()).total_seconds()
            await self._mount.sleep(min(max(wait, 0.05), _LOOK_S))

    def _due(self, last: datetime, now: datetime) -> tuple[list[datetime], list[datetime]]:
        fresh = max(last, now - _LATE)
        punctual = self._schedule.between(fresh, now, self._most)
        if self._backfill == "none" or last >= fresh:
            return [], punctual
        missed = self._schedule.between(last, fresh, 1 if self._backfill == "last" else self._most)
        return missed, punctual

    async def settle(self, event: Event, taken: Taken) -> None:
        """Nothing outside waits to be told."""


def _state(last: datetime) -> dict[str, JSON]:
    return {"last": last.astimezone(UTC).isoformat()}


def _event(moment: datetime, *, missed: bool) -> Event:
    instant = moment.astimezone(UTC)
    data: dict[str, JSON] = {
        "at": moment.isoformat(),
        "date": moment.date().isoformat(),
        "utc": instant.isoformat(),
        "missed": missed,
    }
    return Event(instant.isoformat(), data, _state(instant))


def _read(config: Mapping[str, JSON]) -> tuple[Schedule, str, int]:
    only(config, "cron", ("schedule",), ("zone", "backfill", "max"))
    backfill, most = config.get("backfill", "none"), config.get("max", 100)
    if backfill not in ("none", "last", "all"):
        raise Invalid(f"backfill is {backfill!r}: write none, last or all")
    if isinstance(most, bool) or not isinstance(most, int) or not 1 <= most <= _MOST:
        raise Invalid(f"max is {most!r}: write how many missed times are made up for, from 1 to {_MOST}")
    return Schedule(str(config["schedule"]), str(config.get("zone", "UTC"))), str(backfill), most


def _check(config: Mapping[str, JSON]) -> None:
    _read(config)


KIND = Kind(_check, CronSource)
