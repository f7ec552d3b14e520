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
        return Mirror(self.load, clock=lambda: self.now, patience_s=0.01, first_s=0.01)


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


async def test_many_calls_that_find_a_row_too_old_at_once_ask_once() -> None:
    database = Away()
    mirror = database.mirror()
    assert await asyncio.gather(*(mirror.get("a") for _ in range(50))) == ["row 1"] * 50
    database.now = 2.0
    assert await asyncio.gather(*(mirror.get("a") for _ in range(50))) == ["row 2"] * 50
    assert database.asked == 2


async def test_when_the_call_that_reads_for_others_is_left_another_reads() -> None:
    database = Away()
    mirror = Mirror(database.load, clock=lambda: database.now, patience_s=60.0)
    database.there = False
    first, second = (asyncio.ensure_future(mirror.get("a")) for _ in range(2))
    await asyncio.sleep(0)
    database.there = True
    first.cancel()
    assert await second == "row 2"


async def test_those_who_wait_for_a_reading_that_fails_fail_with_it() -> None:
    database = Away()
    mirror = database.mirror()
    database.there = False
    outcomes = await asyncio.gather(*(mirror.get("a") for _ in range(9)), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {Unavailable} and database.asked == 1
