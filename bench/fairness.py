"""What a tenant with many runs in line costs another one: latency of a single run alone, and beside 10,000 others.

    python bench/fairness.py [--items N] [--probes N] [--step-ms N]

Two workers of their own processes. The latency of a run is read in the database: from the time it was made to its end.
It holds waiting for a slot, which the engine answers for, and for CPU: where the other tenant's runs take all cores,
everything on them takes longer. `--step-ms` says how long each step only waits, as for a model.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import pathlib
import secrets
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from engine_house import told

from metier.calls import JSON, KeyId, Principal, ProjectId, SystemId
from metier.postgres import Embedded
from metier.store import Store, create_database
from metier.vault import Vault
from metier.workflow.definition import Mark, Step, Workflow
from metier.workflow.dispatch import Pace, migrations
from metier.workflow.engine import Engine, StepContext

MANY = Principal(KeyId("key_many"), ProjectId("many"), SystemId("bench"))
SINGLE = replace(MANY, project=ProjectId("single"))
HERE = Mark("bench", 1, 1)
ONE = Step("one", "code", None, HERE, with_={"x": 1})


def single() -> Workflow:
    return Workflow("single", {"type": "object"}, (ONE,), None, None, (), {}, "single", "")


def fan(items: int) -> Workflow:
    config: JSON = {"over": "{{ inputs.x }}", "max": items, "concurrency": 20, "as": "runs"}
    each = Step("each", "foreach", config, HERE, steps=(ONE,))
    return Workflow("fan", {"type": "object"}, (each,), None, None, (), {}, f"fan{items}", "")


def engine_of(store: Store, key: str, step_ms: float) -> Engine:
    async def step(context: StepContext, given: dict[str, JSON]) -> JSON:
        await asyncio.sleep(step_ms / 1000)
        return None

    return Engine(store, Vault(bytes.fromhex(key)), {"code": step}, pace=Pace(concurrency=10))


async def probe(store: Store, engine: Engine, number: int) -> dict[str, JSON]:
    """Start runs one after the other, and read when the database has written them and their end."""
    taken: list[float] = []
    for _ in range(number):
        run = await engine.start(single(), {}, SINGLE)
        while not (await engine.get(run)).over:  # noqa: ASYNC110  # the figures are read from the database
            await asyncio.sleep(0.02)
        async with store.connection() as connection:
            rows = await connection.execute("SELECT finished_at - created_at AS took FROM runs WHERE id = %s", (run,))
            row = await rows.fetchone()
        assert row is not None
        taken.append(1000 * row["took"].total_seconds())
        await asyncio.sleep(0.1)
    taken.sort()
    return {"p50_ms": round(statistics.median(taken), 1), "p95_ms": round(taken[int(len(taken) * 0.95)], 1)}


async def left(store: Store) -> int:
    async with store.connection() as connection:
        rows = await connection.execute(
            "SELECT count(*) AS left FROM runs WHERE project = 'many' AND finished_at IS NULL AND NOT status = 'parked'"
        )
        row = await rows.fetchone()
    assert row is not None
    return int(row["left"])


async def beside(store: Store, engine: Engine, number: int) -> dict[str, JSON]:
    before, began = await left(store), time.perf_counter()
    figures = await probe(store, engine, number)
    after = await left(store)
    wall = time.perf_counter() - began
    return {
        **figures,
        "in_line_before": before,
        "in_line_after": after,
        "others_a_second": round((before - after) / wall),
    }


async def start_many(engine: Engine, number: int) -> None:
    async def some(count: int) -> None:
        for _ in range(count):
            await engine.start(single(), {}, MANY)

    await asyncio.gather(*(some(number // 8) for _ in range(8)))


@contextlib.asynccontextmanager
async def working(command: Sequence[str]) -> AsyncIterator[None]:
    """Have two workers at work."""
    workers = [await asyncio.create_subprocess_exec(*command) for _ in range(2)]
    try:
        await asyncio.sleep(3)
        yield
    finally:
        for worker in workers:
            worker.terminate()
            await worker.wait()


async def measured(store: Store, engine: Engine, command: Sequence[str], items: int, probes: int) -> dict[str, JSON]:
    async with working(command):
        await probe(store, engine, 5)
        figures: dict[str, JSON] = {"alone": await probe(store, engine, probes)}
        fanned = await engine.start(fan(items), {"x": [*range(items)]}, MANY)
        while await left(store) < items // 2:  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.2)
        await asyncio.sleep(1)
        figures["beside_items"] = await beside(store, engine, probes)
        await engine.cancel(fanned)
    # Nobody works meanwhile: all of them have to be in line at once.
    await start_many(engine, items)
    async with working(command):
        figures["beside_runs"] = await beside(store, engine, probes)
    return figures


def lines(figures: dict[str, JSON]) -> list[tuple[str, object, str]]:
    """Give the lines of the table."""
    rows: list[tuple[str, object, str]] = []
    alone = figures["alone"]
    assert isinstance(alone, dict)
    for name, found in figures.items():
        assert isinstance(found, dict)
        for part in ("p50_ms", "p95_ms"):
            value, idle = found[part], alone[part]
            assert isinstance(value, float) and isinstance(idle, float)
            rows.append((f"a single run, {name}, {part}", value, ""))
            if found is not alone:
                rows.append((f"  times its idle latency, {part}", round(value / idle, 2), "2 at most"))
    return rows


async def work(url: str, key: str, step_ms: float) -> None:
    """Be one worker until told to stop."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with Store(url, size=10) as store:
        await engine_of(store, key, step_ms).work(stop)


async def main(items: int, probes: int, step_ms: float) -> None:
    home = pathlib.Path(tempfile.mkdtemp(prefix="metier-bench-"))
    embedded = Embedded(home)
    await asyncio.to_thread(embedded.start)
    try:
        await create_database(embedded.url("postgres"), "metier")
        async with Store(embedded.url(), size=10) as store:
            await store.migrate(migrations())
            key = secrets.token_bytes(32).hex()
            command = [sys.executable, __file__, "--worker", embedded.url(), key, "--step-ms", str(step_ms)]
            figures = await measured(store, engine_of(store, key, step_ms), command, items, probes)
            told("fairness", lines(figures), {"step_ms": step_ms, **figures})
    finally:
        await asyncio.to_thread(embedded.stop)
        shutil.rmtree(home, ignore_errors=True)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=10_000, help="items, then runs, of the other tenant")
    parser.add_argument("--probes", type=int, default=60, help="single runs measured in each state")
    parser.add_argument("--step-ms", type=float, default=20, help="how long each step waits, as for a model")
    parser.add_argument("--worker", nargs=2, metavar=("URL", "KEY"), help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    chosen = options()
    asyncio.run(
        work(chosen.worker[0], chosen.worker[1], chosen.step_ms)
        if chosen.worker
        else main(chosen.items, chosen.probes, chosen.step_ms)
    )
