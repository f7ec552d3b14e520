from __future__ import annotations

import asyncio
import random
import secrets
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from metier.cache.entries import Entries, Keeping, Purge
from metier.cache.kept import KeptAnswer
from metier.cache.place import Place
from metier.calls import KeyId, OrganisationId, Principal, ProjectId, Reasoning, SystemId, Usage
from metier.store import Store
from metier.vault import Vault
from tests.cache.desk import Time

VECTOR = "[1,0]"


def person(number: int) -> bytes:
    return bytes([number]) * 32


def keeping(number: int, time: Time, *, partition: int = 0, question: int | None = None, purge: int = 0) -> Keeping:
    """The answer to question `number` of a partition; each partition is a system of its own."""
    place = Place(
        bytes([partition]) * 32, bytes([partition]) * 16 + (number if question is None else question).to_bytes(16), "q",
        person(number % 3),
    )  # fmt: skip
    thought = Reasoning("hm", "sig")
    answer = KeptAnswer("q", f"{partition}/{number}", Usage(3, 4), (thought,), time(), Decimal("0.5"), 0.25)
    who = Principal(
        KeyId("k"), ProjectId(f"p{partition % 2}"), SystemId(f"s{partition}"),
        organisation=OrganisationId(f"o{partition % 2}"),
    )  # fmt: skip
    return Keeping(place, answer, who, f"m{number % 2}", 100.0, 1000, purge, "v1", VECTOR, f"call_{number}")


async def test_what_is_kept_is_sealed_and_comes_back_whole(store: Store, vault: Vault) -> None:
    time = Time()
    entries = Entries(store, vault, clock=time, steady=time)
    one = keeping(1, time)
    entries.keep(one)
    assert (await entries.exact(one.place, 100))[0] is not None, "even before it is written"
    await entries.write()
    fresh = Entries(store, vault, clock=time, steady=time)
    found, purge = await fresh.exact(one.place, 100)
    assert found is not None and found.answer == one.answer and purge == 0
    async with store.connection() as connection:
        row = await (await connection.execute("SELECT sealed FROM cache_entries")).fetchone()
        assert row is not None and b"0/1" not in bytes(row["sealed"])
        await connection.execute("UPDATE cache_entries SET partition = %s", (b"x" * 32,))
    moved = Place(b"x" * 32, one.place.key, "q", None)
    assert (await Entries(store, vault, clock=time, steady=time).exact(moved, 100))[0] is None, "bound to its place"
    stranger = Entries(store, Vault(secrets.token_bytes(32)), clock=time, steady=time)
    assert await stranger.near(moved, "v1", VECTOR, 0.5, 100) == []


async def test_of_many_tenants_none_finds_anything_of_another(store: Store, vault: Vault) -> None:
    time, dice = Time(), random.Random(20261121)
    entries = Entries(store, vault, clock=time, steady=time)
    for partition in range(40):
        for number in range(5):
            entries.keep(keeping(number, time, partition=partition))
    await entries.write()
    fresh = Entries(store, vault, clock=time, steady=time)
    looked = 0
    for _ in range(400):
        mine, other = dice.randrange(60), dice.randrange(40)
        # Whoever knew the key of another, or asked with the very same vector, would still not reach it.
        stolen = Place(bytes([mine]) * 32, keeping(dice.randrange(5), time, partition=other).place.key, "q", None)
        found, _ = await fresh.exact(stolen, 100)
        assert (found is None) == (mine != other)
        if dice.random() < 0.25:
            near = await fresh.near(stolen, "v1", VECTOR, 0.5, 100)
            assert {one.answer.text.split("/")[0] for one in near} <= {str(mine)}
            assert await fresh.near(stolen, "v2", VECTOR, 0.5, 100) == []
            looked += len(near)
    assert looked > 100


async def test_nearest_comes_first_and_the_threshold_holds(store: Store, vault: Vault) -> None:
    time = Time()
    entries = Entries(store, vault, clock=time, steady=time)
    for number, vector in enumerate(("[1,0]", "[0.96,0.28]", "[0.8,0.6]", "[0,1]")):
        one = keeping(number, time)
        entries.keep(Keeping(one.place, one.answer, one.principal, one.model, 100, 9, 0, "v1", vector))
    await entries.write()
    found = await entries.near(keeping(0, time).place, "v1", "[1,0]", 0.7, 100)
    assert [(one.answer.text, round(one.similarity, 2)) for one in found] == [("0/0", 1), ("0/1", 0.96), ("0/2", 0.8)]


@pytest.mark.parametrize(
    ("criteria", "left"),
    [
        (Purge(system="s1"), 15),
        (Purge(project="p0"), 10),
        (Purge(organisation="o1"), 10),
        (Purge(model="m1"), 12),
        (Purge(person=person(0)), 12),
        (Purge(call="call_2"), 16),
        (Purge(system="s1", model="m1"), 18),
        (Purge(before=datetime.fromtimestamp(Time().now, UTC)), 20),
        (Purge(before=datetime.fromtimestamp(Time().now, UTC) + timedelta(seconds=1)), 0),
        (Purge(), 0),
    ],
    ids=["system", "project", "organisation", "model", "person", "call", "two", "before", "until now", "all"],
)
async def test_a_purge_deletes_what_fits_and_says_who(store: Store, vault: Vault, criteria: Purge, left: int) -> None:
    time = Time()
    here, there = (Entries(store, vault, clock=time, steady=time) for _ in range(2))
    for partition in range(4):
        for number in range(5):
            here.keep(keeping(number, time, partition=partition))
    await here.write()
    await there.listen()
    for partition in range(4):
        for number in range(5):
            assert (await there.exact(keeping(number, time, partition=partition).place, 100))[0] is not None
    assert await here.count(criteria) == 20 - left
    assert await here.purge(criteria, "camille") == 20 - left
    await there.listen()
    places = [keeping(number, time, partition=partition).place for partition in range(4) for number in range(5)]
    found = [(await there.exact(place, 100))[0] for place in places]
    assert sum(one is not None for one in found) == left
    async with store.connection() as connection:
        row = await (await connection.execute("SELECT * FROM cache_purges")).fetchone()
    assert row is not None and (row["by"], row["deleted"]) == ("camille", 20 - left)


async def test_what_was_begun_before_a_purge_is_not_written_after_it(store: Store, vault: Vault) -> None:
    time = Time()
    here, there = (Entries(store, vault, clock=time, steady=time) for _ in range(2))
    there.keep(keeping(1, time))
    await here.purge(Purge(system="other"), "camille")
    await there.write()
    assert await here.totals() == ()
    there.keep(keeping(1, time, purge=(await there.exact(keeping(2, time).place, 100))[1] or 0))
    await there.write()
    assert [row.entries for row in await here.totals()] == [1]


async def test_purges_and_writers_take_turns(store: Store, vault: Vault) -> None:
    time = Time()
    workers = [Entries(store, vault, clock=time, steady=time) for _ in range(4)]

    async def work(number: int) -> None:
        for turn in range(10):
            _, purge = await workers[number].exact(keeping(99, time, partition=9).place, 100)
            workers[number].keep(keeping(number * 10 + turn, time, purge=purge or 0))
            await workers[number].write()

    async def clear() -> int:
        await asyncio.sleep(0)
        return await workers[0].purge(Purge(), "camille")

    await asyncio.gather(*(work(number) for number in range(4)), clear())
    last = await workers[0].purge(Purge(), "camille")
    assert last <= 40 and await workers[0].totals() == ()


async def test_a_writer_that_dies_in_the_middle_leaves_whole_answers_or_none(store: Store, vault: Vault) -> None:
    time = Time()
    for turns in range(0, 40, 3):
        entries = Entries(store, vault, clock=time, steady=time)
        for number in range(5):
            entries.keep(keeping(number, time, partition=turns))
        task = asyncio.create_task(entries.write())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        fresh = Entries(store, vault, clock=time, steady=time)
        found = [(await fresh.exact(keeping(n, time, partition=turns).place, 100))[0] for n in range(5)]
        assert len({one is None for one in found}) == 1


async def test_a_system_keeps_so_many_and_the_oldest_leave(store: Store, vault: Vault) -> None:
    time = Time()
    entries = Entries(store, vault, clock=time, steady=time)
    for number in range(6):
        time.now += 1
        one = keeping(number, time)
        entries.keep(Keeping(one.place, one.answer, one.principal, one.model, 100, 3, 0))
    await entries.write()
    fresh = Entries(store, vault, clock=time, steady=time)
    found = [(await fresh.exact(keeping(number, time).place, 100))[0] for number in range(6)]
    assert [one is not None for one in found] == [False, False, False, True, True, True]


async def test_memory_is_bounded_and_only_used_while_purges_are_heard_of(store: Store, vault: Vault) -> None:
    time = Time()
    entries = Entries(store, vault, clock=time, steady=time, memory_bytes=10_000)
    for number in range(20):
        entries.keep(keeping(number, time))
    await entries.write()
    await entries.listen()
    async with store.connection() as connection:
        await connection.execute("DELETE FROM cache_entries")
    held = [number for number in range(20) if (await entries.exact(keeping(number, time).place, 100))[0]]
    assert held == [16, 17, 18, 19]
    time.now += 2
    assert (await entries.exact(keeping(19, time).place, 100))[0] is None, "it has not listened for two seconds"


async def test_totals_say_what_was_saved(store: Store, vault: Vault) -> None:
    time = Time()
    entries = Entries(store, vault, clock=time, steady=time)
    one = keeping(1, time)
    entries.keep(one)
    await entries.write()
    for _ in range(3):
        entries.hit(one.place.key)
    await entries.write()
    [row] = await entries.totals("s0")
    assert (row.entries, row.comparable, row.hits, row.saved_eur, row.saved_kwh) == (1, 1, 3, Decimal("1.5"), 0.75)
    time.now += 100
    assert await entries.totals() == ()
    assert await entries.expire() == 1


async def test_without_a_database_calls_are_made_as_if_nothing_were_kept(store: Store, vault: Vault) -> None:
    time = Time()
    away = Store(store.url, size=1)
    entries = Entries(away, vault, clock=time, steady=time)
    # A pool that was never opened raises what a lost database raises.
    assert await entries.exact(keeping(1, time).place, 100) == (None, None)
    assert await entries.near(keeping(1, time).place, "v1", VECTOR, 0.5, 100) == []
