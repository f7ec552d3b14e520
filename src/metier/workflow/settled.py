"""Transactions that touch a family of runs, tried again where another one stood in the way."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import psycopg

from metier.store import Store, Tx

__all__ = ["persistently"]

_MOST_COLLISIONS = 5
_Given = TypeVar("_Given")


async def persistently(store: Store, work: Callable[[Tx], Awaitable[_Given]]) -> _Given:
    """Do work in a transaction, again when it and another waited for each other: the end of a child, for example."""
    for _ in range(_MOST_COLLISIONS - 1):
        try:
            async with store.transaction() as tx:
                return await work(tx)
        except psycopg.errors.DeadlockDetected:
            continue
    async with store.transaction() as tx:
        return await work(tx)
