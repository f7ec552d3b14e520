"""The fault matrix: faults of the house itself; every call is recorded once, every budget is settled."""

from __future__ import annotations

import pathlib

from metier.store import Store
from tests.chaos.outages import clock_set, database_read_only, database_stopped, disk_full, own_database, worker_killed

FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")


async def test_a_worker_is_killed_before_during_and_after_answers(store: Store, tmp_path: pathlib.Path) -> None:
    assert await worker_killed(tmp_path, store.url) == []


async def test_the_disk_is_full_before_and_during_calls(store: Store, tmp_path: pathlib.Path) -> None:
    assert await disk_full(tmp_path, store.url) == []


async def test_the_database_is_stopped_for_a_while(tmp_path: pathlib.Path) -> None:
    async with own_database(*FAST) as (embedded, url):
        wrong, took = await database_stopped(tmp_path, embedded, url, seconds=1.5)
    assert wrong == [] and took, "calls go on without the database"


async def test_the_database_refuses_to_write_for_a_while(store: Store, tmp_path: pathlib.Path) -> None:
    assert await database_read_only(tmp_path, store.url) == []


async def test_the_clock_is_set_by_a_day(store: Store, tmp_path: pathlib.Path) -> None:
    assert await clock_set(store, tmp_path) == []
