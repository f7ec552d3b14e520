"""Runs that wait for people: what 10,000 of them cost while nothing happens, and how soon a decision moves one.

    python bench/parked.py [--runs N] [--idle-s N] [--decisions N]

One worker of its own process. Reads the CPU of the worker and of PostgreSQL and the memory of the worker before and
after the idle time, then decides one task after the other, then 100 at once, and reads in the database when the next
step of each was begun.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time
from functools import partial

import psutil
from engine_house import ZOE, House, asking, engine_of, house, spread, start, told, until
from engine_peers import cpu_of_tree

from metier.calls import JSON
from metier.store import Store
from metier.workflow.review import Review
from metier.workflow.tasks import TaskId

_TOOK = """
SELECT 1000 * extract(epoch FROM after.started_at - decided.started_at) AS ms
  FROM journal decided JOIN journal after ON after.run = decided.run AND after.path = 'done' AND after.name = ''
 WHERE decided.path = 'ask' AND decided.kind = 'decision' ORDER BY after.started_at DESC LIMIT %s
"""


async def idle(of: House, worker: psutil.Process, idle_s: float) -> dict[str, JSON]:
    """Do nothing, and see what that costs."""
    await asyncio.sleep(3)
    memory, began = worker.memory_info().rss, time.monotonic()
    ours, database = cpu_of_tree(worker.pid), cpu_of_tree(of.postmaster)
    await asyncio.sleep(idle_s)
    wall = time.monotonic() - began
    return {
        "worker_cpu_percent": round(100 * (cpu_of_tree(worker.pid) - ours) / wall, 2),
        "database_cpu_percent": round(100 * (cpu_of_tree(of.postmaster) - database) / wall, 2),
        "memory_mb": round(worker.memory_info().rss / 1e6, 1),
        "memory_growth_mb": round((worker.memory_info().rss - memory) / 1e6, 2),
    }


async def decide(of: House, review: Review, tasks: list[TaskId], at_once: bool) -> list[float]:
    """Decide tasks, and give the milliseconds until the next step of each was begun."""
    before = await of.number("SELECT count(*) FROM runs WHERE status = 'done'")

    async def gone_on(number: int) -> bool:
        return await of.number("SELECT count(*) FROM runs WHERE status = 'done'") >= before + number

    if at_once:
        await asyncio.gather(*(review.decide(task, ZOE, {"decision": "go"}) for task in tasks))
    else:
        for number, task in enumerate(tasks, 1):
            await review.decide(task, ZOE, {"decision": "go"})
            await until(partial(gone_on, number), 0.02)
    await until(partial(gone_on, len(tasks)))
    async with of.store.connection() as connection:
        rows = await (await connection.execute(_TOOK, (len(tasks),))).fetchall()
    return [float(row["ms"]) for row in rows]


async def measured(of: House, runs: int, idle_s: float, decisions: int) -> dict[str, JSON]:
    engine = of.engine()
    review = of.review(engine)
    began = time.monotonic()
    await start(engine, asking(), runs)
    process = await asyncio.create_subprocess_exec(sys.executable, *of.worker(__file__))
    try:
        worker = psutil.Process(process.pid)

        async def parked() -> bool:
            return await of.number("SELECT count(*) FROM runs WHERE status = 'parked'") >= runs

        await until(parked, 0.5)
        figures: dict[str, JSON] = {"parked": runs, "park_all_s": round(time.monotonic() - began, 1)}
        figures["idle"] = await idle(of, worker, idle_s)
        tasks = [task.id for task in await review.list(ZOE, limit=200)]
        one_by_one, at_once = tasks[:decisions], tasks[decisions : decisions + 100]
        figures["one_by_one_ms"] = spread(await decide(of, review, one_by_one, False))
        began = time.monotonic()
        figures["hundred_at_once_ms"] = spread(await decide(of, review, at_once, True))
        figures["hundred_over_s"] = round(time.monotonic() - began, 2)
        figures["memory_at_the_end_mb"] = round(worker.memory_info().rss / 1e6, 1)
        figures["still_parked"] = int(await of.number("SELECT count(*) FROM runs WHERE status = 'parked'"))
        return figures
    finally:
        process.terminate()
        await process.wait()


async def work(url: str, key: str) -> None:
    """Be the worker until told to stop."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with Store(url, size=10) as store:
        await engine_of(store, bytes.fromhex(key)).work(stop)


async def main(runs: int, idle_s: float, decisions: int) -> None:
    async with house() as of:
        figures = await measured(of, runs, idle_s, decisions)
    at, one, hundred = figures["idle"], figures["one_by_one_ms"], figures["hundred_at_once_ms"]
    assert isinstance(at, dict) and isinstance(one, dict) and isinstance(hundred, dict)
    rows = [
        ("runs parked", figures["parked"], "10,000"),
        ("CPU of the worker meanwhile, %", at["worker_cpu_percent"], "about 0"),
        ("CPU of PostgreSQL meanwhile, %", at["database_cpu_percent"], "about 0"),
        ("memory of the worker, MB", at["memory_mb"], ""),
        ("its growth meanwhile, MB", at["memory_growth_mb"], "0"),
        ("a decision to the next step, ms p50", one["p50"], ""),
        ("a decision to the next step, ms p95", one["p95"], "300 at most"),
        ("100 decisions at once, ms p50", hundred["p50"], ""),
        ("100 decisions at once, ms p95", hundred["p95"], ""),
        ("still parked", figures["still_parked"], "all others"),
    ]
    told("parked", rows, figures)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--idle-s", type=float, default=30)
    parser.add_argument("--decisions", type=int, default=60, help="one after the other")
    parser.add_argument("--worker", nargs=2, metavar=("URL", "KEY"), help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    chosen = options()
    asyncio.run(work(*chosen.worker) if chosen.worker else main(chosen.runs, chosen.idle_s, chosen.decisions))
