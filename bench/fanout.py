"""A step over many items as runs of their own, 20 wide, with two workers of which one is killed in the middle.

    python bench/fanout.py [--items N ...] [--width N] [--step-ms N]

Each worker writes down every item it begins, outside of the engine; the journal says which of them were done, and how
often. What was in a worker's hands when it was killed is begun once more, everything else once. The same is done with
a tenth of the items first: rows, bytes of WAL and CPU for each item have to stay what they are.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import pathlib
import signal
import sys
import tempfile
import time
from collections import Counter

import psutil
from engine_house import WHO, House, engine_of, fan, house, told

from metier.calls import JSON, RunId
from metier.store import Store
from metier.workflow.engine import StepContext

_DONE = """
SELECT count(*) AS lines, count(DISTINCT j.run) AS items FROM journal j JOIN runs r ON r.id = j.run
 WHERE r.parent = %s AND j.name = '' AND j.kind = 'result'
"""
_ROWS = "SELECT count(*) FROM journal j JOIN runs r ON r.id = j.run WHERE r.parent = %s OR r.id = %s"


async def through(of: House, items: int, width: int, step_ms: float, kill: bool) -> dict[str, JSON]:
    """Go through some items, and see what it took."""
    engine = of.engine()
    with tempfile.TemporaryDirectory(prefix="metier-bench-") as folder:
        words = of.worker(__file__, folder, str(step_ms))
        workers = [await asyncio.create_subprocess_exec(sys.executable, *words) for _ in range(2)]
        await asyncio.sleep(3)
        before = of.meter.read()
        began = time.monotonic()
        try:
            run = await engine.start(fan(items, width), {"x": [*range(items)]}, WHO)
            memory, killed = await watched(of, run, items, workers, kill)
        finally:
            for worker in workers:
                if worker.returncode is None:
                    worker.terminate()
                    await worker.wait()
        wall = time.monotonic() - began
        after = of.meter.read()
        begun = Counter(line for file in pathlib.Path(folder).iterdir() for line in file.read_text().split())
    async with of.store.connection() as connection:
        done = await (await connection.execute(_DONE, (run,))).fetchone()
    assert done is not None
    given = await engine.result(run)
    return {
        "items": items,
        "given": given,
        "done": done["items"],
        "done_more_than_once": done["lines"] - done["items"],
        "begun_again": sum(begun.values()) - len(begun),
        "killed_a_worker": killed,
        "seconds": round(wall, 1),
        "items_a_second": round(items / wall),
        "most_memory_of_a_worker_mb": round(memory / 1e6),
        "journal_rows_an_item": round(await of.number(_ROWS, run, run) / items, 3),
        "wal_bytes_an_item": round((after.wal - before.wal) / items),
        "cpu_ms_an_item": round(1000 * (after.ours - before.ours) / items, 2),
        "database_cpu_ms_an_item": round(1000 * (after.database - before.database) / items, 2),
    }


async def watched(
    of: House, run: RunId, items: int, workers: list[asyncio.subprocess.Process], kill: bool
) -> tuple[int, bool]:
    """Look at the workers until the run is over, and kill one of them when half of the items are."""
    memory, killed = 0, False
    while await of.number("SELECT count(*) FROM runs WHERE id = %s AND finished_at IS NULL", run):
        alive = [psutil.Process(worker.pid) for worker in workers if worker.returncode is None]
        memory = max(memory, *(process.memory_info().rss for process in alive))
        over = "SELECT count(*) FROM runs WHERE parent = %s AND finished_at IS NOT NULL"
        if kill and not killed and await of.number(over, run) >= items // 2:
            workers[0].kill()
            await workers[0].wait()
            killed = True
        await asyncio.sleep(0.5)
    return memory, killed


async def work(url: str, key: str, folder: str, step_ms: float) -> None:
    """Be one worker until told to stop."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    written = os.open(pathlib.Path(folder) / str(os.getpid()), os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def step(context: StepContext, given: dict[str, JSON]) -> JSON:
        os.write(written, f"{given['x']}\n".encode())
        await asyncio.sleep(step_ms / 1000)
        return {"x": given["x"]}

    async with Store(url, size=10) as store:
        await engine_of(store, bytes.fromhex(key), step).work(stop)


async def main(sizes: list[int], width: int, step_ms: float) -> None:
    found: list[dict[str, JSON]] = []
    async with house() as of:
        for items in sizes:
            found.append(await through(of, items, width, step_ms, kill=items == max(sizes)))
    last = found[-1]
    rows: list[tuple[str, object, str]] = [
        ("items", last["items"], "10,000"),
        ("items done", last["done"], "all"),
        ("done more than once", last["done_more_than_once"], "0"),
        ("begun again after the kill", last["begun_again"], "what the killed worker had in hand"),
        ("items per second", last["items_a_second"], ""),
        ("most memory of a worker, MB", last["most_memory_of_a_worker_mb"], ""),
    ]
    for name in ("journal_rows_an_item", "wal_bytes_an_item", "cpu_ms_an_item", "database_cpu_ms_an_item"):
        rows.extend((f"{name}, of {one['items']}", one[name], "the same for all") for one in found)
    told("fanout", rows, {"width": width, "step_ms": step_ms, "found": [*found]})


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--width", type=int, default=20)
    parser.add_argument("--step-ms", type=float, default=0, help="how long each step waits, as for a model")
    parser.add_argument("--worker", nargs=4, metavar=("URL", "KEY", "FOLDER", "STEP_MS"), help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    chosen = options()
    if chosen.worker:
        asyncio.run(work(*chosen.worker[:3], float(chosen.worker[3])))
    else:
        asyncio.run(main(chosen.items, chosen.width, chosen.step_ms))
