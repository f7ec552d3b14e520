"""The departure of a client ends what is done for it, even where a library swallows a cancellation."""

from __future__ import annotations

import asyncio

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message

from metier.api.exchange import Presence


async def disconnected() -> Message:
    return {"type": "http.disconnect"}


async def test_a_departure_is_told_until_it_is_heard() -> None:
    swallowed = 0
    with pytest.raises(ClientDisconnect):
        async with Presence(disconnected, again_s=0.0):
            while swallowed < 3:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    swallowed += 1
            await asyncio.Event().wait()
    task = asyncio.current_task()
    assert swallowed == 3 and task is not None and task.cancelling() == 0


async def test_a_cancellation_from_outside_stays_one() -> None:
    begun = asyncio.Event()

    async def work() -> None:
        async with Presence(asyncio.Event().wait):  # type: ignore[arg-type]  # whoever listens is never told anything
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.ensure_future(work())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_departure_is_heard_from_when_it_is_listened_for() -> None:
    async with Presence(disconnected, after_s=30.0):
        await asyncio.sleep(0.05)
    with pytest.raises(ClientDisconnect):
        async with Presence(disconnected, after_s=0.01):
            await asyncio.Event().wait()
