"""What the engine costs: CPU, WAL and time per step, their growth with the length of a run, and other engines beside.

    python bench/engine.py [--runs N] [--only steps|growth|latency] [--peers PYTHON]

PYTHON is the interpreter of an environment in which other engines are installed, for example:
    uv venv /tmp/peers && uv pip install --python /tmp/peers/bin/python \\
        dbos langgraph langgraph-checkpoint-postgres prefect asyncpg 'fastapi<0.120' 'psycopg[binary,pool]' uvloop
Those that are not there are named and left out. All go through the same flow of 10 steps, 10 runs at once, on the same
PostgreSQL, the start of each run included; CPU is that of the engine's processes, and that of PostgreSQL apart. The
best of three rounds counts. Where uvloop is installed an engine runs on it, as our workers do. Whoever waits is not
counted: CPU per step hardly depends on what else the machine does.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import json
import pathlib
import sys
import time

from engine_house import WHO, House, chain, house, spread, start, told
from engine_peers import best, fast_loop

from metier.calls import JSON
from metier.store import create_database
from metier.workflow.engine import StepContext

_PEERS = {"dbos": "dbos", "langgraph": "langgraph.checkpoint.postgres", "prefect": "prefect"}
_STEPS = 10
_BAR_MS = 1.0
_LATENCY_MS = 30


async def through(of: House, runs: int, steps: int, width: int, times: int = 3) -> dict[str, JSON]:
    """Start runs and go through them, some at once, and give the figures of the best of several times."""
    engine = of.engine(concurrency=width)

    async def flows(number: int) -> None:
        await start(engine, chain(steps), number, beside=width)
        await engine.drain()

    return {"runs": runs, "steps_a_run": steps, **await best(of.meter, flows, runs, steps, times)}


async def latency(of: House, runs: int) -> dict[str, JSON]:
    """Start runs one after the other on an idle worker, and see when their first step begins."""
    began: dict[str, float] = {}

    async def noting(context: StepContext, given: dict[str, JSON]) -> JSON:
        began[context.run] = time.perf_counter()
        return given["x"]

    engine, stop, found = of.engine(noting), asyncio.Event(), []
    async with asyncio.TaskGroup() as group:
        group.create_task(engine.work(stop))
        await asyncio.sleep(1)
        for number in range(runs + 5):
            at = time.perf_counter()
            run = await engine.start(chain(1), {"x": number}, WHO)
            while run not in began:  # noqa: ASYNC110  # an event would wake us later than a look
                await asyncio.sleep(0.0005)
            found.append(1000 * (began[run] - at))
            await asyncio.sleep(0.03)
        stop.set()
    return spread(found[5:])


async def peer(of: House, python: str, name: str, runs: int) -> dict[str, JSON]:
    """Let another engine do the same in a process and a database of its own."""
    await create_database(of.store.url, f"peer_{name}")
    url = of.store.url.replace("/metier?", f"/peer_{name}?", 1)
    script = str(pathlib.Path(__file__).with_name("engine_peers.py"))
    words = [python, script, name, url, str(of.postmaster), "--runs", str(runs), "--steps", str(_STEPS)]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*words, stdout=pipe, stderr=pipe)
    out, error = await process.communicate()
    if process.returncode:
        return {"engine": name, "failed": error.decode(errors="replace").strip().splitlines()[-1:]}
    found: dict[str, JSON] = json.loads(out.decode().strip().splitlines()[-1])
    return found


async def installed(python: str, module: str) -> bool:
    """Whether an interpreter finds a module."""
    look = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module.partition('.')[0]!r}) is None)"
    process = await asyncio.create_subprocess_exec(python, "-c", look)
    return await process.wait() == 0


async def peers(of: House, python: str, runs: int) -> list[JSON]:
    """Measure the floor, and every other engine that is installed."""
    found: list[JSON] = [await peer(of, sys.executable, "floor", runs)]
    for name, module in _PEERS.items():
        if not await installed(python, module):
            found.append({"engine": name, "missing": f"not installed: uv pip install --python {python} {name}"})
            continue
        # Prefect goes through a server of its own for each step: a tenth of the runs takes as long.
        found.append(await peer(of, python, name, max(runs // 10, 10) if name == "prefect" else runs))
    return found


def lines(figures: dict[str, JSON]) -> list[tuple[str, object, str]]:
    """Give the lines of the table."""
    rows: list[tuple[str, object, str]] = []

    def add(name: str, found: JSON, bar: str) -> None:
        if isinstance(found, dict):
            rows.append((f"{name}: CPU ms per step", found["cpu_ms_a_step"], bar))
            rows.append((f"{name}: CPU ms per step of PostgreSQL", found["database_cpu_ms_a_step"], ""))
            rows.append((f"{name}: steps per second", found["steps_a_second"], ""))
            rows.append((f"{name}: bytes of WAL per step", found["wal_bytes_a_step"], ""))

    add("Métier", figures.get("ten_at_once"), f"{_BAR_MS} at most")
    add("Métier, one at a time", figures.get("one_at_a_time"), "")
    growth, others = figures.get("growth"), figures.get("peers")
    for one in growth if isinstance(growth, list) else ():
        add(f"Métier, {one['steps_a_run']} steps" if isinstance(one, dict) else "", one, "no more than with 10")
    for one in others if isinstance(others, list) else ():
        assert isinstance(one, dict)
        ways = one.get("ways")
        for way, found in ways.items() if isinstance(ways, dict) else ():
            add(f"{one['engine']} {one['version']}, {way}", found, "")
        if ways is None:
            rows.append((str(one["engine"]), "", str(one.get("missing") or one.get("failed"))))
    if isinstance(first := figures.get("start_to_first_step_ms"), dict):
        rows.append(("start to first step, ms p50", first["p50"], f"{_LATENCY_MS} at most"))
        rows.append(("start to first step, ms p95", first["p95"], ""))
    return rows


def times_better(figures: dict[str, JSON]) -> dict[str, JSON]:
    """Divide the least CPU per step of the others by ours: without PostgreSQL's, and with it."""
    ours, others = figures.get("ten_at_once"), figures.get("peers")
    if not isinstance(ours, dict) or not isinstance(others, list):
        return {}
    alone, both = ("cpu_ms_a_step",), ("cpu_ms_a_step", "database_cpu_ms_a_step")
    found: dict[str, JSON] = {}
    for name, parts in (("engine", alone), ("with_postgresql", both)):
        sums = [
            sum(way[part] for part in parts)
            for one in others
            if isinstance(one, dict) and one["engine"] != "floor"
            for way in (one.get("ways") or {}).values()  # type: ignore[union-attr]  # a map where it is there
        ]
        if sums:
            found[name] = round(min(sums) / sum(ours[part] for part in parts), 2)  # type: ignore[misc,operator]  # numbers
    return {"times_better_than_the_best": found}


async def main(runs: int, only: str, python: str) -> None:
    figures: dict[str, JSON] = {"version": importlib.metadata.version("metier")}
    async with house() as of:
        if only in ("", "steps"):
            figures["ten_at_once"] = await through(of, runs, _STEPS, 10)
        if only == "":
            figures["one_at_a_time"] = await through(of, max(runs // 3, 1), _STEPS, 1)
        if only in ("", "growth"):
            shapes = ((runs, 10), (max(runs // 10, 2), 100), (2, 1000))
            figures["growth"] = [await through(of, number, steps, 10, 2) for number, steps in shapes]
        if only in ("", "latency"):
            figures["start_to_first_step_ms"] = await latency(of, 60)
        if python:
            figures["peers"] = await peers(of, python, runs)
    figures |= times_better(figures)
    rows = lines(figures)
    if isinstance(better := figures.get("times_better_than_the_best"), dict):
        rows.extend((f"times better than the best of them, {name}", found, "2") for name, found in better.items())
    told("engine", rows, figures)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200, help="of 10 steps, in each of three rounds")
    parser.add_argument("--only", choices=("", "steps", "growth", "latency"), default="", help="one part alone")
    parser.add_argument("--peers", default="", metavar="PYTHON", help="where other engines are installed")
    return parser.parse_args()


if __name__ == "__main__":
    chosen = options()
    with asyncio.Runner(loop_factory=fast_loop()) as runner:
        runner.run(main(chosen.runs, chosen.only, chosen.peers))
