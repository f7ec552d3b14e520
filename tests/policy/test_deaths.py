"""Workers of several processes under every level of limits, killed at any moment: what was promised still holds."""

from __future__ import annotations

import asyncio
import pathlib
import random
import signal
import sys
from decimal import Decimal

from metier.policy.limits import Limit, LimitPeriod, Measure, Scope
from metier.store import Store
from tests.record.world import build

HAMMER = """
import asyncio, pathlib, random, sys
from metier.calls import KeyId, Principal, ProjectId, SystemId, Usage
from metier.catalog import Catalog
from metier.errors import BudgetExceeded, RateLimited
from metier.governance.register import Register
from metier.store import Store
from tests.record.world import World, CATALOG

async def main():
    url, folder, project, system, key, name, patience = sys.argv[1:]
    chance, told = random.Random(name), 0
    async with Store(url, size=4) as store:
        principal = Principal(KeyId(key), ProjectId(project), SystemId(system))
        world = World(store, Register(store), None, Catalog.from_yaml(CATALOG), principal, pathlib.Path(folder))
        async def worker(number):
            nonlocal told
            admission = world.admission(f"{name}-{number}")
            ledger = world.ledger(f"{name}-{number}", admission)
            for n in range(400):
                call = world.call(output=chance.choice([10, 20, 30]))
                try:
                    async with ledger.entry(call) as entry:
                        await admission.admit(call, world.model, entry)
                        print("made", flush=True)
                        told += 1
                        if told >= int(patience):
                            print("held", flush=True)
                            await asyncio.sleep(600)
                        entry.deployment = world.deployment
                        await asyncio.sleep(0.01)
                        entry.usage = Usage(output_tokens=chance.randrange(0, 36))
                        entry.receipt()
                except (BudgetExceeded, RateLimited):
                    print("refused", flush=True)
                    told += 1
                if n % 7 == 0:
                    await ledger.flush()
                    await admission.tick(idle_s=0)
            await ledger.close()
        async with asyncio.TaskGroup() as group:
            group.create_task(worker(0))
            group.create_task(worker(1))

asyncio.run(main())
"""


async def test_processes_that_are_killed_overspend_nothing_and_leave_exact_books(
    store: Store, tmp_path: pathlib.Path
) -> None:
    world, chance = await build(store, tmp_path), random.Random(20271)
    issued = await world.keys.issue("poste", "Clients", world.principal.system, "Nadia")
    judge = world.admission("judge")
    project, system, key = world.principal.project, world.principal.system, issued.key.id
    levels: list[tuple[Scope, str, Measure, LimitPeriod, str]] = [
        ("organisation", "main", "money", "month", "2.6"),
        ("project", project, "money", "month", "2.5"),
        ("system", system, "tokens", "day", "100000"),
        ("key", key, "requests", "day", "1000"),
        ("key", key, "requests", "minute", "170"),
        ("project", project, "concurrency", "now", "5"),
    ]
    for scope, subject, measure, period, amount in reversed(levels):
        await judge.limits.set(Limit("", scope, subject, measure, period, Decimal(amount)), "Nadia")
    who = [store.url, str(world.folder), project, system, key]

    async def hammer(name: str, patience: int | None) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", HAMMER, *who, name, str(patience or 10_000), cwd=pathlib.Path(__file__).parents[2],
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout is not None
        seen = 0
        async for line in process.stdout:
            seen += 1
            # In the middle of a call, or long after the last one that was let through.
            if patience is not None and (line == b"held\n" or seen == 400):
                process.send_signal(signal.SIGKILL)
                break
        await process.stdout.read()
        assert await process.wait() == (0 if patience is None else -signal.SIGKILL)

    async with asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(hammer(f"p{number}", chance.randrange(20, 90)))
    async with asyncio.TaskGroup() as group:
        for number in range(3, 5):
            group.create_task(hammer(f"p{number}", None))
    await world.ledger("judge", judge).recover()
    async with store.connection() as connection:
        made = await (await connection.execute(
            "SELECT count(*) AS n, sum(cost_eur) AS cost, sum(greatest(0, cost_eur - reserved_eur)) AS beyond, "
            "sum(input_tokens + output_tokens) AS tokens, count(*) FILTER (WHERE outcome = 'lost') AS lost, "
            "max(at) - min(at) < interval '60 s' AS within FROM calls WHERE lease IS NOT NULL"
        )).fetchone()  # fmt: skip
    assert made is not None and made["lost"] >= 1
    rows = {(row["scope"], row["measure"], row["period"]): row for row in await judge.limits.standings()}
    money = rows["project", "money", "month"]
    assert money["spent"] == rows["organisation", "money", "month"]["spent"] == made["cost"]
    assert money["spent"] <= Decimal("2.5") + made["beyond"]
    assert rows["key", "requests", "day"]["spent"] == made["n"]
    assert rows["system", "tokens", "day"]["spent"] >= made["tokens"]
    assert {row["held"] for row in rows.values()} == {0} and await judge.drift() == []
    assert made["n"] <= 170 or not made["within"]
    assert made["n"] >= 60
