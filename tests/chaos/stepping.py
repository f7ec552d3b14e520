"""Runs a coroutine and cancels its task at its n-th await: while it waits, or when what it waited for has come."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Coroutine, Generator
from typing import Any, Literal, TypeVar

__all__ = ["Moment", "Steps", "stepping"]

_T = TypeVar("_T")
Moment = Literal["waiting", "ready"]
"""Cancelled before what is waited for is there, or just after: then its result is lost on the way."""


class Steps:
    """Counts the awaits of one run."""

    def __init__(self) -> None:
        self.taken = 0


@types.coroutine
def stepping(
    work: Coroutine[Any, Any, _T], steps: Steps, at: int = 0, moment: Moment = "waiting"
) -> Generator[Any, Any, _T]:
    """Pass every await of `work` on; at number `at` the task is cancelled, as a server that stops would do it."""
    thrown: BaseException | None = None
    while True:
        try:
            waited = work.send(None) if thrown is None else work.throw(thrown)
        except StopIteration as done:
            result: _T = done.value
            return result
        steps.taken += 1
        if steps.taken == at:
            task = asyncio.current_task()
            assert task is not None
            if moment == "ready" and isinstance(waited, asyncio.Future):
                waited.add_done_callback(lambda _, task=task: task.cancel())  # type: ignore[misc]  # a default binds the task
            else:
                task.cancel()
        thrown = None
        try:
            yield waited
        except GeneratorExit:
            work.close()
            raise
        except BaseException as error:  # noqa: BLE001  # handed on to the work, whatever it is
            thrown = error
