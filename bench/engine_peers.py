"""The same flow of trivial steps on another durable engine; run by `bench/engine.py --peers`, where they are installed.

    python bench/engine_peers.py floor|dbos|langgraph|prefect URL DATABASE_PID [--runs N] [--steps N] [--width N]

Only the standard library and the engine itself are imported. Every engine keeps the promise that a step which is over
is on disk before the next one begins (LangGraph: durability="sync"); Prefect keeps states, and no results.
"""

from __future__ import annotations

import argparse
import asyncio
import concurrent.futures
import importlib
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypedDict, cast

import psycopg

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_START_S = 120

Flows = Callable[[int], Awaitable[None]]
"""Goes through a number of runs, as many at once as was asked for, until all are over."""


def cpu_of_tree(root: int) -> float:
    """Seconds of CPU that a process, those below it, and those of them that are over have used."""
    parent: dict[int, int] = {}
    used: dict[int, float] = {}
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        parent[int(entry.name)] = int(fields[1])
        # Of live threads to the nanosecond, where the kernel tells; ticks of many short-lived parts add up to nothing.
        own = max(sum(map(int, fields[11:13])) * _TICK_S, _on_cpu(entry))
        used[int(entry.name)] = own + sum(map(int, fields[13:15])) * _TICK_S
    below = {root}
    for process in sorted(parent):
        line = [process]
        while line[-1] in parent and line[-1] not in below:
            line.append(parent[line[-1]])
        if line[-1] in below:
            below.update(line)
    return sum(used.get(process, 0.0) for process in below)


def _on_cpu(process: pathlib.Path) -> float:
    try:
        return sum(int(each.read_text().split()[0]) for each in process.glob("task/*/schedstat")) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


@dataclass(frozen=True, slots=True)
class Reading:
    """Where the counters stood at one moment."""

    at: float
    ours: float
    database: float
    wal: int


class Meter:
    """Reads the CPU of this process and those below it, that of the database apart, and the bytes of WAL."""

    def __init__(self, url: str, database: int) -> None:
        self._connection = psycopg.connect(url, autocommit=True)
        self._database = database

    def read(self) -> Reading:
        row = self._connection.execute("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint").fetchone()
        assert row is not None
        ours, database = cpu_of_tree(os.getpid()), cpu_of_tree(self._database)
        if self._below():
            ours -= database
        return Reading(time.perf_counter(), ours, database, int(row[0]))

    def figures(self, before: Reading, steps: int) -> dict[str, float]:
        after = self.read()
        return {
            "cpu_ms_a_step": round(1000 * (after.ours - before.ours) / steps, 3),
            "database_cpu_ms_a_step": round(1000 * (after.database - before.database) / steps, 3),
            "steps_a_second": round(steps / (after.at - before.at)),
            "wal_bytes_a_step": round((after.wal - before.wal) / steps),
        }

    def _below(self) -> bool:
        """Whether the database was started by this very process, and is counted with it."""
        status = pathlib.Path(f"/proc/{self._database}/stat").read_text(encoding="utf-8")
        return int(status.rpartition(")")[2].split()[1]) == os.getpid()


async def best(meter: Meter, flows: Flows, runs: int, steps: int, times: int = 3) -> dict[str, float]:
    """Go through the same several times, and give the figures of the one that took the least CPU."""
    await flows(max(runs // 4, 2))
    found = []
    for _ in range(times):
        before = meter.read()
        await flows(runs)
        found.append(meter.figures(before, runs * steps))
    return min(found, key=lambda figures: figures["cpu_ms_a_step"])


async def many(runs: int, width: int, once: Callable[[int], Awaitable[None]]) -> None:
    """Do something for each of a number of runs, some at once."""
    left = iter(range(runs))

    async def worker() -> None:
        for number in left:
            await once(number)

    await asyncio.gather(*(worker() for _ in range(width)))


async def floor(url: str, steps: int, width: int, measure: Callable[[str, Flows], Awaitable[None]]) -> None:
    """One fenced insert for each step over open connections: what any engine with this promise has to do."""
    made = (
        "CREATE TABLE IF NOT EXISTS floor_runs (id text PRIMARY KEY, epoch integer NOT NULL)",
        "CREATE TABLE IF NOT EXISTS floor (run text, path text, value bytea, PRIMARY KEY (run, path))",
    )
    with psycopg.connect(url, autocommit=True) as setup:
        for statement in made:
            setup.execute(statement)
    connections = [await psycopg.AsyncConnection.connect(url, autocommit=True) for _ in range(width)]
    insert = (
        "WITH held AS MATERIALIZED (SELECT id FROM floor_runs WHERE id = %s AND epoch = 1 FOR SHARE) "
        "INSERT INTO floor SELECT held.id, %s, %s FROM held"
    )

    async def flows(runs: int) -> None:
        free = list(connections)

        async def once(number: int) -> None:
            connection, run = free.pop(), uuid.uuid4().hex
            await connection.execute("INSERT INTO floor_runs VALUES (%s, 1)", (run,))
            for step in range(steps):
                value = json.dumps({"x": number}).encode()
                assert (await connection.execute(insert, (run, f"s{step}", value))).rowcount == 1
            free.append(connection)

        await many(runs, width, once)

    await measure("one fenced insert a step", flows)
    for connection in connections:
        await connection.close()


async def dbos(url: str, steps: int, width: int, measure: Callable[[str, Flows], Awaitable[None]]) -> None:
    """DBOS, with functions of threads and with coroutines."""
    from dbos import DBOS, DBOSConfig

    config: DBOSConfig = {
        "name": "bench",
        "system_database_url": url,
        "log_level": "ERROR",
        "run_admin_server": False,
    }
    DBOS(config=config)

    @DBOS.step()  # type: ignore[untyped-decorator, unused-ignore]  # the engine is not installed where this is checked
    def step(given: dict[str, Any]) -> dict[str, Any]:
        return {"x": given["x"]}

    @DBOS.workflow()  # type: ignore[untyped-decorator, unused-ignore]  # as above
    def flow(x: int) -> int:
        given = {"x": x}
        for _ in range(steps):
            given = step(given)
        return int(given["x"])

    @DBOS.step()  # type: ignore[untyped-decorator, unused-ignore]  # as above
    async def step_async(given: dict[str, Any]) -> dict[str, Any]:
        return {"x": given["x"]}

    @DBOS.workflow()  # type: ignore[untyped-decorator, unused-ignore]  # as above
    async def flow_async(x: int) -> int:
        given = {"x": x}
        for _ in range(steps):
            given = await step_async(given)
        return int(given["x"])

    DBOS.launch()
    loop, threads = asyncio.get_running_loop(), concurrent.futures.ThreadPoolExecutor(width)

    async def by_threads(runs: int) -> None:
        async def once(number: int) -> None:
            assert await loop.run_in_executor(threads, flow, number) == number

        await many(runs, width, once)

    async def by_coroutines(runs: int) -> None:
        async def once(number: int) -> None:
            assert await flow_async(number) == number

        await many(runs, width, once)

    await measure("threads", by_threads)
    await measure("coroutines", by_coroutines)
    DBOS.destroy()


class _State(TypedDict):
    x: int


async def langgraph(url: str, steps: int, width: int, measure: Callable[[str, Flows], Awaitable[None]]) -> None:
    """LangGraph with its PostgreSQL checkpointer, with threads and with coroutines."""
    from langgraph.checkpoint.postgres import PostgresSaver
    from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
    from langgraph.graph import END, START, StateGraph
    from psycopg.rows import dict_row
    from psycopg_pool import AsyncConnectionPool, ConnectionPool

    def node(state: _State) -> _State:
        return {"x": state["x"]}

    async def node_async(state: _State) -> _State:
        return {"x": state["x"]}

    def graph(function: Any, saver: Any) -> Any:
        made = StateGraph(_State)
        for number in range(steps):
            made.add_node(f"s{number}", function)
            made.add_edge(f"s{number - 1}" if number else START, f"s{number}")
        made.add_edge(f"s{steps - 1}", END)
        return made.compile(checkpointer=saver)

    def config() -> dict[str, Any]:
        return {"configurable": {"thread_id": uuid.uuid4().hex}, "recursion_limit": steps + 5}

    options = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
    loop, threads = asyncio.get_running_loop(), concurrent.futures.ThreadPoolExecutor(width)
    with ConnectionPool(url, min_size=width, max_size=width, kwargs=options) as pool:
        saver = PostgresSaver(pool)
        saver.setup()
        plain = graph(node, saver)

        async def by_threads(runs: int) -> None:
            async def once(number: int) -> None:
                given = await loop.run_in_executor(
                    threads, lambda: plain.invoke({"x": number}, config(), durability="sync")
                )
                assert given["x"] == number

            await many(runs, width, once)

        await measure("threads", by_threads)
    async with AsyncConnectionPool(url, min_size=width, max_size=width, kwargs=options, open=False) as apool:
        eager = graph(node_async, AsyncPostgresSaver(apool))

        async def by_coroutines(runs: int) -> None:
            async def once(number: int) -> None:
                assert (await eager.ainvoke({"x": number}, config(), durability="sync"))["x"] == number

            await many(runs, width, once)

        await measure("coroutines", by_coroutines)


async def prefect(url: str, steps: int, width: int, measure: Callable[[str, Flows], Awaitable[None]]) -> None:
    """Prefect with its server on the same database; the server's CPU counts, it is a part of the engine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = tempfile.mkdtemp(prefix="prefect-")
    os.environ |= {
        "PREFECT_HOME": home,
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_API_DATABASE_CONNECTION_URL": url.replace("postgresql://", "postgresql+asyncpg://", 1),
        "PREFECT_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_TO_API_ENABLED": "false",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    program = str(pathlib.Path(sys.executable).parent / "prefect")
    command = [program, "server", "start", "--port", str(port), "--no-ui"]
    server = await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        await _answers(server, f"http://127.0.0.1:{port}/api/health")
        from prefect import flow, task

        @task  # type: ignore[untyped-decorator, unused-ignore]  # the engine is not installed where this is checked
        async def step(given: dict[str, Any]) -> dict[str, Any]:
            return {"x": given["x"]}

        @flow  # type: ignore[untyped-decorator, unused-ignore]  # as above
        async def chain(x: int) -> int:
            given = {"x": x}
            for _ in range(steps):
                given = await step(given)
            return int(given["x"])

        async def flows(runs: int) -> None:
            async def once(number: int) -> None:
                assert await chain(number) == number

            await many(runs, width, once)

        await measure("coroutines", flows)
    finally:
        if server.returncode is None:
            server.terminate()
            await server.wait()


async def _answers(server: asyncio.subprocess.Process, url: str) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        try:
            (await asyncio.to_thread(urllib.request.urlopen, url, timeout=5)).close()
            return
        except OSError:
            if server.returncode is not None:
                raise RuntimeError("the server of Prefect does not start: it may need an older FastAPI") from None
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(0.5)


ENGINES = {"floor": floor, "dbos": dbos, "langgraph": langgraph, "prefect": prefect}
_PACKAGES = {"floor": "psycopg", "langgraph": "langgraph-checkpoint-postgres"}


def fast_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Give the event loop our workers run on, where it is installed: engines beside us are measured on it too."""
    if importlib.util.find_spec("uvloop") is None:
        return None
    return cast("Callable[[], asyncio.AbstractEventLoop]", importlib.import_module("uvloop").new_event_loop)


async def main(chosen: argparse.Namespace) -> None:
    meter = Meter(chosen.url, chosen.database)
    ways: dict[str, dict[str, float]] = {}

    async def measure(way: str, flows: Flows) -> None:
        ways[way] = await best(meter, flows, chosen.runs, chosen.steps)

    await ENGINES[chosen.engine](chosen.url, chosen.steps, chosen.width, measure)
    version = importlib.metadata.version(_PACKAGES.get(chosen.engine, chosen.engine))
    print(json.dumps({"engine": chosen.engine, "version": version, "runs": chosen.runs, "ways": ways}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine", choices=sorted(ENGINES))
    parser.add_argument("url")
    parser.add_argument("database", type=int)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--width", type=int, default=10)
    with asyncio.Runner(loop_factory=fast_loop()) as runner:
        runner.run(main(parser.parse_args()))
