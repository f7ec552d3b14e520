"""How a worker says that it lives, on a connection of its own, and how others see that it does no more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from metier.store import Store, Tx, within

__all__ = ["Pulse", "Watch"]


class Pulse:
    """Keeps the sign of life of a worker fresh, so that nobody takes its runs while it lives.

    Not through a pool: after an outage a pool tries again ever more seldom, and gives a connection back seconds after
    the database is there. Who waits for that with a paid answer in hand must not be taken for dead meanwhile.
    """

    def __init__(self, store: Store, *, patience_s: float = 5.0) -> None:
        self._store = store
        self._queries = store.queries("dispatch")
        self._patience_s = patience_s
        self._line: Tx | None = None
        self._turn = asyncio.Lock()

    async def beat(self, worker: int) -> None:
        """Say that a worker lives, or raise what the database said; the next beat then comes on a new connection."""
        async with self._turn, within(self._patience_s):
            if self._line is None:
                self._line = await self._store.line()
            try:
                await self._queries.run("beat", {"worker": worker}, self._line)
            except BaseException:
                await self.close()
                raise

    async def forget(self, silent_s: float) -> list[int]:
        """Take away the registrations of workers that are silent for so long and have no segment; give their ids."""
        async with within(self._patience_s):
            return [row["id"] for row in await self._queries.all("forget", {"silent_s": silent_s})]

    async def close(self) -> None:
        """Give the connection back."""
        line, self._line = self._line, None
        if line is not None:
            await line.close()


class Watch:
    """Sees how long workers have been silent, by the clock of this process and as far as it could see itself.

    By the clock of the database alone all of them seem dead after it was set forward, stood still for a while, or woke
    up from a pause, and the first to look would take their runs, its own too.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._looked = clock()
        self._beats: dict[int, tuple[float, float]] = {}
        """Their last sign of life, and for how long it is seen to be the last one."""

    def silent_s(self, beats: Mapping[int, float], gap_s: float, most_s: float) -> dict[int, float]:
        """Give how long each has shown no new sign of life; of a time without a look beyond a gap little counts.

        Not nothing of it: where every look comes late, the dead would never be seen to be dead.
        """
        now = self._clock()
        passed = now - self._looked
        if passed > gap_s:
            passed = min(passed, most_s)
        self._looked, known = now, self._beats
        self._beats = {
            worker: (beat, known[worker][1] + passed if worker in known and known[worker][0] == beat else 0.0)
            for worker, beat in beats.items()
        }
        return {worker: silent for worker, (_, silent) in self._beats.items()}
