"""A mirror of rows while the database is away: calls go on with what is known, and only one of them waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from metier.errors import Unavailable
from metier.policy.mirror import Mirror


class Away:
    """A database that answers, or never does."""

    def __init__(self) -> None:
        self.there = True
        self.asked = 0
        self.now = 0.0

    async def load(self, keys: Sequence[str]) -> Mapping[str, str]:
        self.asked += 1
        if not self.there:
            await asyncio.Event().wait()
        return dict.fromkeys(keys, f"row {self.asked}")

    def mirror(self) -> Mirror[str]:
        return Mirror(self.load, clock=lambda: self.now, patience_s=0.01)


async def test_while_the_database_is_away_one_call_at_a_time_waits_for_it() -> None:
    database = Away()
    mirror = database.mirror()
    assert await mirror.get("a") == "row 1"
    database.there, database.now = False, 2.0
    assert await mirror.get("a") == "row 1", "found out by waiting"
    assert await mirror.get("a") == "row 1" and database.asked == 2, "known to be away for a second"
    database.now = 4.0
    assert await asyncio.gather(*(mirror.get("a") for _ in range(50))) == ["row 1"] * 50
    assert database.asked == 3
    database.there, database.now = True, 6.0
    assert await mirror.get("a") == "row 4", "as soon as it is back"


async def test_what_was_never_read_or_is_too_old_is_refused() -> None:
    database = Away()
    mirror = database.mirror()
    await mirror.get("a")
    database.there, database.now = False, 301.0
    for key in ("a", "b"):
        with pytest.raises(Unavailable, match="does not answer"):
            await mirror.get(key)
