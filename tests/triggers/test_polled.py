"""Folders, clocks and rows of databases: each event once, whatever happens to files, clocks and workers."""

from __future__ import annotations

import asyncio
import os
import pathlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg import AsyncConnection

from metier.calls import JSON, OrganisationId
from metier.errors import Unavailable
from metier.store import Store
from metier.testing import StillClock
from metier.triggers import Event, Mark, Mount
from metier.triggers.cron import CronSource
from metier.triggers.folder import FolderSource
from metier.vault import Vault
from tests.triggers.house import House, Known, soon, trigger, triggered
from tests.workflow.flows import WHO

FILE: dict[str, JSON] = {"name": "{{ event.name }}", "text": "{{ event.text }}"}


async def test_a_file_is_taken_once_it_stands_still_and_moved_to_where_it_went(
    store: Store, vault: Vault, tmp_path: pathlib.Path
) -> None:
    house = House(store, vault)
    config: dict[str, JSON] = {"path": str(tmp_path), "poll": "50ms", "limit": 1000}
    await house.deploy(triggered(trigger("folder", config, FILE)))
    (tmp_path / "lettre.txt").write_text("Bonjour")
    (tmp_path / "copie.txt").write_text("Bonjour")
    (tmp_path / "vide.txt").write_text("")
    (tmp_path / "gros.txt").write_bytes(b"x" * 1001)
    (tmp_path / "film.bin").write_bytes(os.urandom(300))
    (tmp_path / ".caché").write_text("x")
    (tmp_path / "encore.part").write_text("x")
    (tmp_path / "lien.txt").symlink_to("/etc/hostname")
    async with house.working():
        await soon(lambda: len([*(tmp_path / "done").glob("*")]) == 2 and len([*(tmp_path / "failed").glob("*")]) == 3)
    assert await house.runs() == [{"name": "copie.txt", "text": "Bonjour"}]
    why = {str(letter.data["name"]): letter.error for letter in await house.triggers.intake.letters()}
    assert set(why) == {"vide.txt", "gros.txt", "film.bin"}
    assert "empty" in why["vide.txt"] and "limit of 1,000" in why["gros.txt"]
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {".caché", "encore.part", "lien.txt"}


async def test_a_file_that_still_grows_is_waited_for(tmp_path: pathlib.Path) -> None:
    looks = 0

    async def grow(_: float) -> None:
        nonlocal looks
        looks += 1
        if looks <= 30:
            with (tmp_path / "long.txt").open("a") as growing:
                growing.write("abc")

    config: dict[str, JSON] = {"path": str(tmp_path), "pattern": "*.txt"}
    now = datetime.now(UTC)
    mount = Mount(config, "sales", OrganisationId("main"), Known(), lambda _, data: data.decode(), now, sleep=grow)
    async with aclosing(FolderSource(mount).events(None)) as events:
        found = await anext(event async for event in events if isinstance(event, Event))
    assert (found.data["name"], found.data["text"], looks) == ("long.txt", "abc" * 30, 31)


async def test_a_folder_that_is_gone_is_told_on_the_trigger(store: Store, vault: Vault, tmp_path: pathlib.Path) -> None:
    house = House(store, vault)
    id = await house.deploy(triggered(trigger("folder", {"path": str(tmp_path / "in"), "poll": "50ms"}, FILE)))
    async with house.working():
        async with asyncio.timeout(60):
            while True:
                found = await house.triggers.deployments.get(id)
                if found.error is not None:
                    break
                await asyncio.sleep(0.02)
        assert "no folder" in found.error
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "a.txt").write_text("a")
        await house.until(1)


def mounted(clock: StillClock, config: dict[str, JSON], since: datetime) -> Mount:
    async def sleep(seconds: float) -> None:
        clock.forward(seconds)
        await asyncio.sleep(0)

    return Mount(
        config, "sales", OrganisationId("main"), Known(), lambda _, data: data.decode(), since, clock=clock, sleep=sleep
    )


async def ticks(source: AsyncGenerator[Event | Mark, None], most: int) -> list[tuple[str, bool]]:
    found: list[tuple[str, bool]] = []
    async with aclosing(source) as events:
        async for event in events:
            if isinstance(event, Event):
                found.append((str(event.data["at"])[:16], bool(event.data["missed"])))
            if len(found) == most:
                break
    return found


@pytest.mark.parametrize(
    ("backfill", "expected"),
    [
        ("none", []),
        ("last", [("2026-11-20T09:00", True)]),
        ("all", [("2026-11-18T09:00", True), ("2026-11-19T09:00", True), ("2026-11-20T09:00", True)]),
    ],
)
async def test_times_missed_while_nothing_ran_are_made_up_for_as_asked(
    backfill: str, expected: list[tuple[str, bool]]
) -> None:
    clock = StillClock(datetime(2026, 11, 20, 12, tzinfo=UTC))
    config: dict[str, JSON] = {"schedule": "0 9 * * *", "zone": "Europe/Paris", "backfill": backfill, "max": 3}
    source = CronSource(mounted(clock, config, clock.now))
    state: JSON = {"last": (clock.now - timedelta(days=9)).isoformat()}
    coming = [("2026-11-21T09:00", False), ("2026-11-22T09:00", False)]
    assert await ticks(source.events(state), len(expected) + 2) == expected + coming


async def test_a_clock_that_jumps_back_and_ahead_starts_nothing_twice(store: Store, vault: Vault) -> None:
    clock = StillClock(datetime(2026, 11, 20, 12, tzinfo=UTC))
    house = House(store, vault, clock=clock)
    made = trigger("cron", {"schedule": "*/10 * * * *"}, {"at": "{{ event.utc }}"})
    id = await house.deploy(triggered(made))
    trigger_row = await house.triggers.deployments.get(id)
    source = CronSource(mounted(clock, {"schedule": "*/10 * * * *"}, clock.now))
    taken = 0
    async with aclosing(source.events(None)) as events:
        async for event in events:
            if isinstance(event, Event):
                await house.triggers.intake.take(trigger_row, event)
                taken += 1
                if taken in (3, 6):
                    clock.forward(-1500)
                if taken == 12:
                    break
    runs = [run["at"] for run in await house.runs()]
    assert len(runs) == len(set(runs)) < taken
    assert runs == sorted(runs, key=str)


async def table(store: Store, *rows: str) -> AsyncConnection[Any]:
    connection = await AsyncConnection.connect(store.url, autocommit=True)
    await connection.execute(
        "CREATE TABLE orders (id int PRIMARY KEY, state text, changed timestamptz DEFAULT clock_timestamp())"
    )
    for row in rows:
        await connection.execute("INSERT INTO orders (id, state) VALUES (%s, 'new')", (row,))
    return connection


async def test_rows_are_taken_by_a_column_that_grows_and_again_when_they_change(store: Store, vault: Vault) -> None:
    house = House(store, vault)
    house.secrets.values["erp"] = store.url
    other = await table(store, "1", "2")
    config: dict[str, JSON] = {
        "secret": "erp", "table": "public.orders", "watermark": "changed", "key": "id", "poll": "30s",
        "listen": "orders", "columns": ["state"],
    }  # fmt: skip
    with_: dict[str, JSON] = {"id": "{{ event.id }}", "state": "{{ event.state }}"}
    id = await house.deploy(triggered(trigger("row", config, with_)))
    async with house.working():
        async with asyncio.timeout(60):
            while (await house.triggers.deployments.get(id)).state is None:  # noqa: ASYNC110  # a row, not an event
                await asyncio.sleep(0.02)
        await other.execute("INSERT INTO orders (id, state) VALUES (3, 'new')")
        await other.execute("NOTIFY orders")
        await house.until(1)
        await other.execute("UPDATE orders SET state = 'paid', changed = clock_timestamp() WHERE id = 1")
        await other.execute("NOTIFY orders")
        await house.until(2)
    await other.execute("INSERT INTO orders (id, state) VALUES (4, 'new')")
    async with house.working():
        await house.until(3)
    await other.close()
    assert await house.runs() == [{"id": 3, "state": "new"}, {"id": 1, "state": "paid"}, {"id": 4, "state": "new"}]


async def test_a_transaction_that_ends_late_is_not_overlooked_and_a_batch_is_read_whole(
    store: Store, vault: Vault
) -> None:
    house = House(store, vault)
    house.secrets.values["erp"] = store.url
    other = await table(store)
    late = await AsyncConnection.connect(store.url)
    await late.execute("INSERT INTO orders (id, state) VALUES (1, 'late')")
    await other.execute("INSERT INTO orders (id, state) SELECT n, 'new' FROM generate_series(2, 450) n")
    config: dict[str, JSON] = {
        "secret": "erp", "table": "orders", "watermark": "changed", "key": "id", "poll": "100ms", "existing": True
    }  # fmt: skip
    await house.deploy(triggered(trigger("row", config, {"id": "{{ event.id }}"})))
    async with house.working():
        await house.until(449)
        await late.commit()
        await house.until(450)
    await late.close()
    await other.close()
    assert sorted(int(str(run["id"])) for run in await house.runs()) == list(range(1, 451))


@pytest.mark.parametrize("kind", ["smallint", "integer", "bigint", "numeric(12, 2)", "timestamp", "timestamptz"])
async def test_rows_committed_out_of_order_are_not_overlooked(store: Store, vault: Vault, kind: str) -> None:
    house = House(store, vault)
    house.secrets.values["erp"] = store.url
    insert = "INSERT INTO orders VALUES (%(n)s, %(n)s)"
    if kind.startswith("time"):
        insert = "INSERT INTO orders VALUES (%(n)s, now()::timestamp + make_interval(secs => %(n)s))"
    async with await AsyncConnection.connect(store.url, autocommit=True) as other:
        await other.execute(f"CREATE TABLE orders (id int, mark {kind})".encode())
        config: dict[str, JSON] = {
            "secret": "erp", "table": "orders", "watermark": "mark", "key": "id", "poll": "50ms", "existing": True
        }  # fmt: skip
        await house.deploy(triggered(trigger("row", config, {"id": "{{ event.id }}"})))
        async with house.working():
            for count, number in enumerate((50, 20, 35, 51), 1):
                await other.execute(insert.encode(), {"n": number})
                await house.until(count)
    assert [run["id"] for run in await house.runs()] == [50, 20, 35, 51]


async def test_values_no_program_holds_in_64_bits_stop_nothing(store: Store, vault: Vault) -> None:
    house = House(store, vault)
    house.secrets.values["erp"] = store.url
    other = await table(store)
    await other.execute("ALTER TABLE orders ADD total numeric, ADD share float8")
    await other.execute(
        "INSERT INTO orders VALUES (1, 'x', DEFAULT, 1e25, 'NaN'), (2, 'y', DEFAULT, 2::numeric ^ 64, 1)"
    )
    await other.execute("INSERT INTO orders VALUES (3, 'z', DEFAULT, 12.5, 'Infinity')")
    await other.close()
    config: dict[str, JSON] = {
        "secret": "erp", "table": "orders", "watermark": "changed", "key": "id", "poll": "100ms", "existing": True
    }  # fmt: skip
    await house.deploy(triggered(trigger("row", config, {"total": "{{ event.total }}", "share": "{{ event.share }}"})))
    async with house.working():
        await house.until(3)
    runs = [(run["total"], run["share"]) for run in await house.runs()]
    assert runs == [(1e25, "NaN"), (2.0**64, 1), (12.5, "Infinity")]


async def test_a_database_that_refuses_is_told_without_its_password(store: Store, vault: Vault) -> None:
    house = House(store, vault)
    house.secrets.values["erp"] = store.url.replace("/test_", "/no_test_") + "?password=canari-31"
    config: dict[str, JSON] = {"secret": "erp", "table": "orders", "watermark": "changed", "key": "id"}
    found = await house.triggers.deployments.get(await house.deploy(triggered(trigger("row", config))))
    source = await house.triggers.source(replace(found, state=None))
    with pytest.raises(Unavailable, match="'erp'") as refused:
        async with aclosing(source.events(None)) as events:
            async for _ in events:
                pass
    assert "canari-31" not in str(refused.value)


async def test_what_other_flows_emit_starts_one_run_each(store: Store, vault: Vault) -> None:
    house = House(store, vault)
    await house.engine.emit(None, WHO.project, "paid", "order-0", {"n": 0}, id="evt_0")
    await asyncio.sleep(0.01)
    await house.deploy(triggered(trigger("event", {"event": "paid"}, {"n": "{{ event.data.n }}"})))
    for number in (1, 2, 2):
        await house.engine.emit(None, WHO.project, "paid", "order", {"n": number}, id=f"evt_{number}")
    await house.engine.emit(None, WHO.project, "refused", "order", {"n": 9}, id="evt_9")
    async with house.working():
        await house.until(2)
    await house.engine.emit(None, WHO.project, "paid", "order", {"n": 3}, id="evt_3")
    async with house.working():
        await house.until(3)
    assert [run["n"] for run in await house.runs()] == [1, 2, 3]
