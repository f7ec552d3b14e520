"""Work that goes on beside everything else for as long as the platform is open, and ends with it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any

import psycopg

from metier.errors import MetierError

__all__ = ["every", "kept_going"]

_log = logging.getLogger(__name__)


async def every(seconds: float, work: Mapping[str, Callable[[], Awaitable[object]]]) -> None:
    """Do each piece of work again and again, so many seconds apart; one that fails says so and is tried again."""
    while True:
        for what, piece in work.items():
            try:
                await piece()
            except (MetierError, psycopg.Error) as error:
                _log.warning("%s: %s", what, error)
        await asyncio.sleep(seconds)


@contextlib.asynccontextmanager
async def kept_going(work: Sequence[Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """Keep coroutines going until the block ends; what the block raises comes out as it is, not in a group."""
    failed: Exception | None = None
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(each) for each in work]
        try:
            yield
        except Exception as error:  # noqa: BLE001  # edge of foreign code: raised again below, as it is
            failed = error
        finally:
            await _ended(tasks)
    if failed is not None:
        raise failed


async def _ended(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel tasks until they end: on Python 3.11 wait_for, and so psycopg, may swallow one cancellation."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=0.2)
