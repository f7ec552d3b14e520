from __future__ import annotations

import asyncio
import os
import pathlib
import signal
import subprocess
import sys
from decimal import Decimal

import psycopg
import pytest
from psycopg import sql

from metier.errors import BudgetExceeded
from metier.governance.register import ADMITTED
from metier.policy.admission import Admission
from metier.postgres import Embedded
from metier.store import Store
from tests.record.world import World, build, rows, spend

CHILD = """
import asyncio, pathlib, sys
from decimal import Decimal
from metier.calls import KeyId, Principal, ProjectId, SystemId
from metier.policy.keys import Keys
from metier.store import Store
from metier.governance.register import Register
from tests.record.world import World, CATALOG, spend
from metier.catalog import Catalog

async def main():
    url, folder, project, system, worker = sys.argv[1:]
    async with Store(url, size=2) as store:
        principal = Principal(KeyId("abc"), ProjectId(project), SystemId(system))
        world = World(store, Register(store), None, Catalog.from_yaml(CATALOG), principal, pathlib.Path(folder))
        admission = world.admission(worker)
        ledger = world.ledger(worker, admission)
        for n in range(6):
            await spend(world, ledger, admission, 100)
            if n == 2:
                await ledger.flush()
        call = world.call(output=500)
        async with ledger.entry(call) as entry:
            await admission.admit(call, world.model, entry)
            entry.deployment = world.deployment
            print("in the middle", flush=True)
            await asyncio.sleep(600)

asyncio.run(main())
"""


def child(world: World, worker: str) -> subprocess.Popen[bytes]:
    arguments = [world.store.url, str(world.folder), world.principal.project, world.principal.system, worker]
    root = pathlib.Path(__file__).parents[2]
    return subprocess.Popen([sys.executable, "-c", CHILD, *arguments], stdout=subprocess.PIPE, cwd=root)


async def test_a_killed_worker_is_replayed_once_and_its_call_in_progress_is_charged_what_was_held(
    store: Store, tmp_path: pathlib.Path
) -> None:
    world = await build(store, tmp_path, "10")
    with child(world, "worker_dead") as process:
        assert process.stdout is not None and process.stdout.readline() == b"in the middle\n"
        survivor = world.admission("survivor")
        ledger = world.ledger("survivor", survivor)
        assert await ledger.recover() == 0, "it lives"
        os.kill(process.pid, signal.SIGKILL)
    before = await survivor.budget(world.principal.project)
    assert before is not None and before.spent_eur == Decimal("0.3") and before.held_eur > Decimal("0.8")
    assert await ledger.recover() == 4, "three ended and not yet written, one begun"
    assert await ledger.recover() == 0
    found = await rows(store)
    assert [r["outcome"] for r in found] == ["answered"] * 6 + ["lost"]
    assert found[-1]["cost_eur"] == found[-1]["reserved_eur"] > Decimal("0.5")
    after = await survivor.budget(world.principal.project)
    assert after is not None and after.held_eur == 0
    assert after.spent_eur == Decimal("0.6") + found[-1]["cost_eur"] == sum(r["cost_eur"] for r in found)
    assert await survivor.drift() == [] and not (world.folder / "worker_dead").exists()
    await ledger.close()


async def test_a_replay_cut_half_way_is_finished_by_the_next_one(store: Store, tmp_path: pathlib.Path) -> None:
    world = await build(store, tmp_path, "10")
    dead = world.admission("dead")
    ledger = world.ledger("dead", dead)
    for _ in range(4):
        await spend(world, ledger, dead, 100)
    spool = world.folder / "dead"
    copies = {p.name: p.read_bytes() for p in spool.iterdir()}
    await ledger.close()
    spool.mkdir()
    for name, data in copies.items():
        (spool / name).write_bytes(data)
    survivor = world.admission("survivor")
    successor = world.ledger("survivor", survivor)
    assert await successor.recover() == 4, "everything is read again"
    assert len(await rows(store)) == 4, "and written only once"
    budget = await survivor.budget(world.principal.project)
    assert budget is not None and (budget.spent_eur, budget.held_eur) == (Decimal("0.4"), Decimal(0))
    await successor.close()


async def test_money_of_a_lost_disk_stays_held_until_somebody_writes_it_off(
    store: Store, tmp_path: pathlib.Path
) -> None:
    world = await build(store, tmp_path, "1")
    gone = world.admission("gone")
    ledger = world.ledger("gone", gone)
    await spend(world, ledger, gone, 100, asked=900)
    survivor = world.admission("survivor")
    neighbour = world.ledger("survivor", survivor)
    with pytest.raises(BudgetExceeded, match="held"):
        await spend(world, neighbour, survivor, 900)
    [silent] = await survivor.silent(age_s=-1)
    assert silent.worker == "gone" and silent.charged == 0
    written = await survivor.write_off("gone")
    assert written == silent.granted
    budget = await survivor.budget(world.principal.project)
    assert budget is not None and (budget.spent_eur, budget.held_eur) == (written, Decimal(0))
    assert await survivor.silent(age_s=-1) == ()


async def test_calls_go_on_while_postgresql_is_away_and_are_written_when_it_is_back(
    store: Store, server: Embedded, tmp_path: pathlib.Path
) -> None:
    world = await build(store, tmp_path, "100")
    clock = [0.0]
    admission = Admission(store, "w", world.register.statuses, ADMITTED, clock=lambda: clock[0])
    ledger = world.ledger("w", admission)
    await spend(world, ledger, admission, 10)
    database = psycopg.conninfo.conninfo_to_dict(store.url)["dbname"]
    async with await psycopg.AsyncConnection.connect(server.url("postgres"), autocommit=True) as master:
        name = sql.Identifier(str(database))
        await master.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(name))
        await master.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (database,))
        clock[0] = 2.0
        for _ in range(20):
            await spend(world, ledger, admission, 10)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await ledger.flush()
        assert ledger.waiting == 21
        await master.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(name))
    assert await ledger.flush() == 21 and len(await rows(store)) == 21
    assert await admission.drift() == []
    await ledger.close()


async def test_the_loop_survives_what_flushing_cannot_do_yet(store: Store, tmp_path: pathlib.Path) -> None:
    world = await build(store, tmp_path)
    admission = world.admission("w")
    ledger = world.ledger("w", admission)
    async with store.transaction() as tx:
        await tx.execute("ALTER TABLE calls RENAME TO calls_away")
    loop = asyncio.ensure_future(ledger.run(every_s=0.01))
    await spend(world, ledger, admission, 10)
    async with store.transaction() as tx:
        await tx.execute("ALTER TABLE calls_away RENAME TO calls")
    async with asyncio.timeout(60):
        while ledger.waiting:
            await rows(store)
    loop.cancel()
    assert len(await rows(store)) == 1
    await ledger.close()
