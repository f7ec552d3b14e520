"""Events that other flows of the project emit."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from datetime import datetime, timedelta

from metier.calls import JSON
from metier.errors import Unavailable
from metier.triggers.event import Emitted, Event, Kind, Mark, Mount, Taken, only

__all__ = ["KIND", "EmittedSource"]

_OVERLAP = timedelta(seconds=60)
"""A transaction may end after one that began later: what it emitted stands further back by then."""
_POLL_S = 2.0
_BATCH = 100
_REMEMBERED = 20_000


class EmittedSource:
    """Reads what was emitted under one name, each once."""

    def __init__(self, mount: Mount) -> None:
        self._mount = mount
        self._seen: dict[str, None] = {}

    async def events(self, state: JSON) -> AsyncGenerator[Event | Mark, None]:
        """Give each emitted event in the order of time, then each that comes."""
        if self._mount.feed is None:
            raise Unavailable("events of other flows cannot be read here: this platform has no feed of them")
        floor = self._mount.since
        reached = datetime.fromisoformat(str(state["at"])) if isinstance(state, dict) else floor
        yield Mark()
        while True:
            after = (max(floor, reached - _OVERLAP), "")
            while True:
                found = await self._mount.feed.emitted(
                    self._mount.project, str(self._mount.config["event"]), after, _BATCH
                )
                for one in found:
                    reached = max(reached, one.at)
                    if one.id not in self._seen:
                        yield _event(one, reached)
                if len(found) < _BATCH:
                    break
                after = (found[-1].at, found[-1].id)
            await self._mount.sleep(_POLL_S)

    async def settle(self, event: Event, taken: Taken) -> None:
        """Remember what need not be asked for again."""
        self._seen[event.id] = None
        while len(self._seen) > _REMEMBERED:
            del self._seen[next(iter(self._seen))]


def _event(one: Emitted, reached: datetime) -> Event:
    data: dict[str, JSON] = {"id": one.id, "key": one.key, "at": one.at.isoformat(), "data": one.data}
    return Event(one.id, data, {"at": reached.isoformat()})


def _check(config: Mapping[str, JSON]) -> None:
    only(config, "event", ("event",), ())


KIND = Kind(_check, EmittedSource)
