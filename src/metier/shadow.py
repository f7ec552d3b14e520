"""Copies of calls sent to other models: nobody sees their answers, nobody waits for them, everybody pays for them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

from metier.calls import Answer, Call, CallId, new_id
from metier.errors import MetierError

__all__ = ["Shadows"]

_log = logging.getLogger(__name__)


class Shadows:
    """Takes copies of calls, and makes them in its own time; those that find no room are not made."""

    def __init__(self, *, room: int = 200, at_once: int = 4) -> None:
        self._waiting: asyncio.Queue[Call] = asyncio.Queue(room)
        self._at_once = at_once
        self._own: set[CallId] = set()
        self.dropped = 0
        """Copies not made for lack of room."""

    def copy(self, call: Call, models: tuple[str, ...]) -> None:
        """Note a copy of `call` for each model, as a call of its own; a copy is never copied again."""
        if call.id in self._own:
            return
        for model in models:
            # A copy is no part of a run: its answer goes nowhere.
            shadow = replace(call, model=model, id=CallId(new_id("call")), origin=None, reuse="off")
            try:
                self._waiting.put_nowait(shadow)
            except asyncio.QueueFull:
                self.dropped += 1
            else:
                self._own.add(shadow.id)

    async def run(self, ask: Callable[[Call], Awaitable[Answer]]) -> None:
        """Make the copies for ever, a few at once; owned by the lifespan of the process."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._at_once):
                group.create_task(self._work(ask))

    async def settle(self) -> None:
        """Wait until every copy noted so far is made."""
        await self._waiting.join()

    async def _work(self, ask: Callable[[Call], Awaitable[Answer]]) -> None:
        while True:
            shadow = await self._waiting.get()
            try:
                await ask(shadow)
            except MetierError as error:
                _log.info("the copy of a call for model %s was not answered: %s", shadow.model, error.code)
            except Exception as error:  # noqa: BLE001  # a copy must never take down those who answer callers
                # What a foreign exception says may quote contents or credentials: its name is told alone.
                _log.error("the copy of a call for model %s broke (%s)", shadow.model, type(error).__name__)
            finally:
                self._own.discard(shadow.id)
                self._waiting.task_done()
