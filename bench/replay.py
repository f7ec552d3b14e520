"""Recorded runs gone through again after a restart: the same steps in the same order, and nothing is called.

    python bench/replay.py [--runs N]

Workflows are made by chance over every kind of step. One worker of its own process goes through them on PostgreSQL:
steps fail or ask by chance, people decide by chance, events come, runs that failed are resumed, and the worker is
killed over and over. Then PostgreSQL is stopped and started, and a process that can call nothing goes through the
journal of each run, those they have started included. Needs a checkout: the workflows are those of the tests.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import pathlib
import random
import secrets
import shutil
import sys
import tempfile
import time

from engine_house import HERE, WHO, told, until

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from metier.calls import JSON, RunId  # noqa: E402  # with what follows, as the tests are found through the path above
from metier.errors import Conflict  # noqa: E402
from metier.postgres import Embedded  # noqa: E402
from metier.store import Store, Tx, create_database  # noqa: E402
from metier.vault import Vault  # noqa: E402
from metier.workflow.commands import Park  # noqa: E402
from metier.workflow.definition import Step  # noqa: E402
from metier.workflow.dispatch import Pace, migrations  # noqa: E402
from metier.workflow.engine import Engine, StepContext  # noqa: E402
from metier.workflow.leaving import Opening  # noqa: E402
from tests.workflow.any_flow import Chancy, Making, deciding  # noqa: E402
from tests.workflow.engines import functions  # noqa: E402

_PACE = Pace(heartbeat_s=0.3, stall_s=1.5, recover_s=0.3, poll_s=0.3, grace_s=0.5)
_MOVING = "SELECT count(*) AS n FROM runs WHERE status IN ('pending', 'running', 'queued')"


class Desk:
    """Keeps questions in the database, for the process that decides."""

    async def open(self, tx: Tx, opening: Opening) -> None:
        """Keep a question."""
        park = opening.park
        place = (opening.run, park.path, park.attempt, park.name, park.step.kind)
        await tx.execute("INSERT INTO bench_questions VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING", place)

    async def close(self, tx: Tx, run: RunId) -> None:
        """Forget the questions of a run."""
        await tx.execute("DELETE FROM bench_questions WHERE run = %s", (run,))


def engine_of(store: Store, key: bytes, acting: Chancy) -> Engine:
    return Engine(store, Vault(key), functions(acting), desk=Desk(), pace=_PACE, max_strikes=100)


async def record(url: str, key: str, seed: str) -> None:
    """Be the worker, until killed."""
    async with Store(url, size=10) as store:
        await engine_of(store, bytes.fromhex(key), Chancy(random.Random(seed))).work(asyncio.Event())


async def number(store: Store, statement: str) -> int:
    async with store.connection() as connection:
        row = await (await connection.execute(statement.encode())).fetchone()
    return 0 if row is None else int(row["n"])


async def decide(store: Store, engine: Engine, chance: random.Random) -> int:
    """Answer what is open, and tell an event; say how many questions there were."""
    async with store.connection() as connection:
        rows = await (await connection.execute("SELECT * FROM bench_questions ORDER BY run LIMIT 500")).fetchall()
    for row in rows:
        park = Park(row["path"], row["attempt"], row["name"], Step("x", row["kind"], None, HERE), {}, None)
        decision = deciding(chance, Opening(row["run"], "", WHO.project, park))
        if decision is None:
            continue
        key = (row["path"], row["attempt"], row["name"])
        with contextlib.suppress(Conflict):
            async with store.transaction() as tx:
                await tx.execute(
                    "DELETE FROM bench_questions WHERE run = %s AND path = %s AND attempt = %s AND name = %s",
                    (row["run"], *key),
                )
                await engine.signal(tx, row["run"], key, decision)
    for key in range(9):
        await engine.emit(None, WHO.project, "order", str(key), None, id=secrets.token_hex(8))
    return len(rows)


async def recorded(store: Store, url: str, key: bytes, runs: int) -> dict[str, JSON]:
    """Let runs live, with a worker that is killed over and over."""
    chance = random.Random(runs)
    engine, kinds, killed, resumed = engine_of(store, key, Chancy(chance)), set[str](), 0, 0
    making = Making(chance, kinds, pace=1e-5)
    for n in range(runs):
        await engine.start(making.workflow(), {"n": n % 9}, WHO)
    calm, began = 0, time.monotonic()
    while calm < 3 and time.monotonic() - began < 1200:
        words = [sys.executable, __file__, "--record", url, key.hex(), str(killed)]
        worker = await asyncio.create_subprocess_exec(*words)
        with contextlib.suppress(TimeoutError):
            await until(lambda: _calm(store), 0.5, chance.uniform(3, 12))
        questions = await decide(store, engine, chance)
        if not questions and not await number(store, _MOVING):
            calm += 1
            resumed += await _resume(store, engine, chance) if calm == 1 else 0
        killed += 1
        worker.kill()
        await worker.wait()
    return {
        "kinds": len(kinds),
        "workers_killed": killed,
        "runs_resumed": resumed,
        "moving": await number(store, _MOVING),
    }


async def _calm(store: Store) -> bool:
    return not await number(store, _MOVING)


async def _resume(store: Store, engine: Engine, chance: random.Random) -> int:
    async with store.connection() as connection:
        rows = await connection.execute("SELECT id FROM runs WHERE status = 'failed' AND parent IS NULL ORDER BY id")
        failed = [RunId(row["id"]) for row in await rows.fetchall() if chance.random() < 0.5]
    for run in failed:
        await engine.resume(run)
    return len(failed)


async def replayed(store: Store, key: bytes) -> dict[str, JSON]:
    """Go through every journal with step functions that only count that they were called."""
    calls: list[str] = []

    async def counted(context: StepContext, given: dict[str, JSON]) -> JSON:
        calls.append(context.path)
        return None

    engine = Engine(store, Vault(key), functions(counted), desk=Desk(), pace=_PACE)
    async with store.connection() as connection:
        rows = await (await connection.execute("SELECT id, status::text, parent FROM runs ORDER BY id")).fetchall()
        lines = "SELECT run, path, attempt FROM journal WHERE name = '' ORDER BY seq"
        ended: dict[str, list[tuple[str, int]]] = {}
        for line in await (await connection.execute(lines)).fetchall():
            ended.setdefault(line["run"], []).append((line["path"], line["attempt"]))
    statuses: dict[str, int] = {}
    different, others, steps, began = 0, 0, 0, time.process_time()
    for row in rows:
        found = await engine.replay(RunId(row["id"]))
        sequence = [(did.path, did.attempt) for did in found.sequence]
        different += bool(found.differences)
        others += sequence != ended.get(row["id"], [])
        steps += found.lines
        statuses[row["status"]] = statuses.get(row["status"], 0) + 1
        if found.differences:
            print(row["id"], *found.differences, file=sys.stderr)
    return {
        "runs": sum(row["parent"] is None for row in rows),
        "runs_they_started": sum(row["parent"] is not None for row in rows),
        "statuses": {**statuses},
        "lines": steps,
        "runs_with_differences": different,
        "runs_of_another_sequence": others,
        "calls": len(calls),
        "cpu_ms_a_run": round(1000 * (time.process_time() - began) / len(rows), 2),
    }


async def main(runs: int) -> None:
    home, key = pathlib.Path(tempfile.mkdtemp(prefix="metier-bench-")), secrets.token_bytes(32)
    embedded = Embedded(home)
    try:
        await asyncio.to_thread(embedded.start)
        await create_database(embedded.url("postgres"), "metier")
        async with Store(embedded.url(), size=10) as store:
            await store.migrate(migrations())
            async with store.connection() as connection:
                await connection.execute(
                    "CREATE TABLE bench_questions (run text, path text, attempt integer, name text, kind text,"
                    " PRIMARY KEY (run, path, attempt, name))"
                )
            figures = await recorded(store, embedded.url(), key, runs)
        await asyncio.to_thread(embedded.stop)
        await asyncio.to_thread(embedded.start)
        async with Store(embedded.url(), size=4) as store:
            figures |= await replayed(store, key)
    finally:
        await asyncio.to_thread(embedded.stop)
        shutil.rmtree(home, ignore_errors=True)
    rows = [
        ("runs recorded", figures["runs"], "1,000"),
        ("runs they have started", figures["runs_they_started"], ""),
        ("kinds of steps in them", figures["kinds"], "16"),
        ("workers killed meanwhile", figures["workers_killed"], ""),
        ("lines of their journals", figures["lines"], ""),
        ("runs of another sequence", figures["runs_of_another_sequence"], "0"),
        ("runs with other differences", figures["runs_with_differences"], "0"),
        ("calls", figures["calls"], "0"),
    ]
    told("replay", rows, figures)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1_000)
    parser.add_argument("--record", nargs=3, metavar=("URL", "KEY", "SEED"), help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    chosen = options()
    asyncio.run(record(*chosen.record) if chosen.record else main(chosen.runs))
