"""Keeps a worker alive: forks one, and the next when that one dies by kill -9, until told to stop by SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Coroutine

__all__ = ["supervise"]


def supervise(work: Callable[[], Coroutine[None, None, None]], begun: Callable[[int], object]) -> None:
    """Fork workers one after the other until this program is told to stop; `begun` is told the id of each."""
    child, stopping = 0, list[int]()

    def pass_on(number: int, _: object) -> None:
        stopping.append(number)
        if child:
            with contextlib.suppress(ProcessLookupError):  # it has ended by itself a moment ago
                os.kill(child, number)

    signal.signal(signal.SIGTERM, pass_on)
    while True:
        # Told while it forks, a child would take the word for its parent's, or the parent would not pass it on.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        if stopping:
            return
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            asyncio.run(work())
            os._exit(0)
        begun(child)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        os.waitpid(child, 0)
        child = 0
