"""How a worker says that it lives: on a connection of its own, which is back as soon as the database is."""

from __future__ import annotations

import asyncio

from metier.store import Store, Tx, within

__all__ = ["Pulse"]


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

    async def close(self) -> None:
        """Give the connection back."""
        line, self._line = self._line, None
        if line is not None:
            await line.close()
