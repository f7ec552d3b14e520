from __future__ import annotations

import pathlib
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from metier.errors import Invalid
from metier.policy.limits import Limit
from metier.record.ledger import Ledger
from metier.record.records import Filter, Records
from metier.record.retention import Retention
from metier.store import Row, Store
from metier.testing import StillClock
from tests.record.world import World, build, rows, said, spend

LOCK = 0x6D65746965720F


async def aged(store: Store, world: World, ledger: Ledger, records: Records, days: int) -> str:
    """A captured call that was made so many days ago."""
    call = await said(ledger, world, "Bonjour", "Salut", end_user=f"client of {days} days ago")
    await ledger.flush()
    for statement in (
        "UPDATE calls SET at = at - make_interval(days => %s) WHERE id = %s",
        "UPDATE contents SET at = at - make_interval(days => %s) WHERE call = %s",
    ):
        async with store.connection() as connection:
            await connection.execute(statement.encode(), (days, call.id))
    return call.id


async def kept(store: Store) -> tuple[set[str], set[str]]:
    """The calls that are recorded, and those whose contents are."""
    async with store.connection() as connection:
        found: list[Row] = await (await connection.execute("SELECT call FROM contents")).fetchall()
    return {row["id"] for row in await rows(store)}, {row["call"] for row in found}


async def test_contents_go_after_30_days_records_after_a_year_and_totals_never(
    store: Store, tmp_path: pathlib.Path
) -> None:
    world = await build(store, tmp_path)
    ledger, records = world.recording("w", world.admission("w"))
    await world.capture(records, "full")
    ages = {days: await aged(store, world, ledger, records, days) for days in (1, 29, 31, 364, 366)}
    [before] = await ledger.usage([])
    due = await records.retention.sweep(dry_run=True)
    assert due is not None and [(e.contents, e.calls, e.contents_days, e.metadata_days) for e in due] == [
        (3, 1, 30, 365)
    ]
    assert await kept(store) == (set(ages.values()), set(ages.values())), "a dry run changes nothing"
    done = await records.retention.sweep()
    assert done == due
    assert await kept(store) == ({ages[n] for n in (1, 29, 31, 364)}, {ages[1], ages[29]})
    assert await records.retention.sweep() == ()
    [after] = await ledger.usage([])
    assert after == before and after.calls == 5


async def test_a_budget_in_total_agrees_with_its_calls_after_they_were_deleted_by_age(
    store: Store, tmp_path: pathlib.Path
) -> None:
    world = await build(store, tmp_path)
    admission = world.admission("w")
    await admission.limits.set(Limit("", "project", world.principal.project, "money", "total", Decimal(5)), "Claire")
    await admission.limits.set(Limit("", "project", world.principal.project, "tokens", "month", Decimal(900)), "Claire")
    ledger, records = world.recording("w", admission)
    for _ in range(3):
        await spend(world, ledger, admission, 7, asked=10)
    await ledger.flush()
    assert await admission.drift() == []
    async with store.connection() as connection:
        await connection.execute(
            "UPDATE calls SET at = at - interval '366 days' WHERE id IN (SELECT id FROM calls LIMIT 2)"
        )
    swept = await records.retention.sweep()
    assert swept is not None and [one.calls for one in swept] == [2] and len(await rows(store)) == 1
    assert await admission.drift() == []
    async with store.connection() as connection:
        await connection.execute("DELETE FROM calls")
    assert len(await admission.drift()) == 2, "calls that go in another way are still missed"


async def test_a_system_may_have_another_time_with_a_reason(store: Store, tmp_path: pathlib.Path) -> None:
    world = await build(store, tmp_path)
    ledger, records = world.recording("w", world.admission("w"))
    await world.capture(records, "full")
    keepings, system = records.keepings, world.principal.system
    ages = {days: await aged(store, world, ledger, records, days) for days in (6, 8, 31, 366, 800)}
    with pytest.raises(Invalid, match="reason"):
        await keepings.decide(system, "Claire", " ", contents_days=7)
    with pytest.raises(Invalid, match="contents go first"):
        await keepings.decide(system, "Claire", "longer", contents_days=400)
    held = await keepings.decide(system, "Claire", "high risk", contents_days=7, metadata_days=730)
    assert held.capture == "full", "what is not named stays"
    [done] = await records.retention.sweep() or ()
    assert (done.contents, done.calls, done.reason) == (4, 1, "high risk")
    assert await kept(store) == ({ages[n] for n in (6, 8, 31, 366)}, {ages[6]})
    assert [one.reason for one in await keepings.list()] == ["high risk"]


async def test_what_is_under_a_legal_hold_stays_until_it_is_released(store: Store, tmp_path: pathlib.Path) -> None:
    world = await build(store, tmp_path)
    ledger, records = world.recording("w", world.admission("w"))
    await world.capture(records, "full")
    one, two = [await aged(store, world, ledger, records, 400) for _ in range(2)]
    hold = await records.keepings.hold("call", one, "Claire", "trial 26/118")
    assert await records.retention.sweep() is not None
    assert await kept(store) == ({one}, {one})
    system = await records.keepings.hold("system", world.principal.system, "Claire", "audit")
    await records.keepings.release(hold.id, "Claire")
    assert await records.retention.sweep() == ()
    await records.keepings.release(system.id, "Claire")
    await records.retention.sweep()
    assert await kept(store) == (set(), set()) and two != one


async def test_of_many_workers_one_sweeps(store: Store, tmp_path: pathlib.Path) -> None:
    world = await build(store, tmp_path)
    ledger, records = world.recording("w", world.admission("w"))
    await world.capture(records, "full")
    await aged(store, world, ledger, records, 400)
    async with store.connection() as other:
        await other.execute("SELECT pg_advisory_lock(%s)", (LOCK,))
        assert await records.retention.sweep() is None
        assert await records.retention.sweep(dry_run=True) != ()
        await other.execute("SELECT pg_advisory_unlock(%s)", (LOCK,))
    assert await records.retention.sweep() != ()


async def test_more_than_a_batch_is_deleted_and_keys_that_seal_nothing_go_too(
    store: Store, tmp_path: pathlib.Path
) -> None:
    world = await build(store, tmp_path)
    ledger, records = world.recording("w", world.admission("w"))
    await world.capture(records, "full")
    template = await aged(store, world, ledger, records, 400)
    async with store.connection() as connection:
        await connection.execute(
            "INSERT INTO calls (id, at, key, project, system, model, operation, outcome, method, duration_s) "
            "SELECT 'call_' || n, at, key, project, system, model, operation, outcome, method, duration_s "
            "FROM calls, generate_series(1, 2500) AS n WHERE id = %s",
            (template,),
        )
    clock = StillClock(datetime.now(UTC) + timedelta(days=3))
    [done] = await Retention(store, clock=clock).sweep() or ()
    assert done.calls == 2501 and await kept(store) == (set(), set())
    async with store.connection() as connection:
        assert await (await connection.execute("SELECT 1 FROM subjects")).fetchone() is None
    fresh = await said(ledger, world, "Bonjour", "Salut", end_user="client of 400 days ago")
    await ledger.flush()
    assert [line.id for line in await records.page(Filter()) if line.contents] == [fresh.id]


async def test_an_erasure_that_a_crash_cut_short_is_finished(store: Store, tmp_path: pathlib.Path) -> None:
    world = await build(store, tmp_path)
    ledger, records = world.recording("w", world.admission("w"))
    await world.capture(records, "full")
    call = await said(ledger, world, "Bonjour", "Salut")
    await ledger.flush()
    async with store.connection() as connection:
        await connection.execute("DELETE FROM subjects")
        await connection.execute(
            "INSERT INTO erasures (id, organisation, subject, records, unlinked, reason, by_whom) "
            "SELECT 'erasure_1', organisation, subject, 1, 0, 'asked', 'Claire' FROM contents WHERE call = %s",
            (call.id,),
        )
    await records.retention.sweep()
    assert await kept(store) == ({call.id}, set())
