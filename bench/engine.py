"""What the engine costs: CPU per step and its growth, latency, parked runs, and a fan-out while a worker is killed."""

from __future__ import annotations

import argparse
import asyncio
import json
import pathlib
import resource
import secrets
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable

import psutil

from metier.calls import JSON, KeyId, Principal, ProjectId, RunId, SystemId
from metier.postgres import Embedded
from metier.store import Store, create_database
from metier.vault import Vault
from metier.workflow.definition import Mark, Step, Workflow
from metier.workflow.dispatch import Pace, migrations
from metier.workflow.engine import Engine, StepContext
from metier.workflow.review import Review, Reviewer, TaskDesk

WHO = Principal(KeyId("key_bench"), ProjectId("bench"), SystemId("bench"))
HERE = Mark("bench", 1, 1)
ZOE = Reviewer("zoe", frozenset({"sav"}))


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def chain(steps: int) -> Workflow:
    made = tuple(
        Step(f"s{n}", "code", None, HERE, with_={"x": "{{ inputs.x }}" if n == 0 else f"{{{{ steps.s{n - 1}.x }}}}"})
        for n in range(steps)
    )
    return Workflow(
        "chain", {"type": "object"}, made, f"{{{{ steps.s{steps - 1}.x }}}}", None, (), {}, f"chain{steps}", ""
    )


def fan(items: int, width: int) -> Workflow:
    body = Step("one", "code", None, HERE, with_={"x": "{{ item }}"})
    config: JSON = {"over": "{{ inputs.x }}", "max": items, "concurrency": width, "as": "runs", "each": "{{ index }}"}
    each = Step("each", "foreach", config, HERE, steps=(body,))
    output = "{{ [steps.each.count, steps.each.failed] }}"
    return Workflow("fan", {"type": "object"}, (each,), output, None, (), {}, f"fan{items}-{width}", "")


def asking() -> Workflow:
    ask = Step("ask", "human", {"assign": "group:sav", "title": "?"}, HERE)
    done = Step("done", "code", None, HERE, with_={"x": 1})
    return Workflow("asking", {"type": "object"}, (ask, done), None, None, (), {}, "asking", "")


class Bench:
    """One engine on one embedded PostgreSQL."""

    def __init__(self, store: Store, concurrency: int, key: bytes | None = None) -> None:
        self.started: dict[str, float] = {}
        vault = Vault(key or secrets.token_bytes(32))

        async def trivial(context: StepContext, given: dict[str, JSON]) -> JSON:
            self.started.setdefault(context.run, time.perf_counter())
            return {"x": given["x"]}

        pace = Pace(concurrency=concurrency)
        self.engine = Engine(store, vault, {"code": trivial}, desk=TaskDesk(store, vault), pace=pace)
        self.review = Review(store, vault, self.engine)

    async def start(self, workflow: Workflow, number: int) -> list[RunId]:
        return [await self.engine.start(workflow, {"x": n}, WHO) for n in range(number)]

    async def chain(self, runs: int, steps: int) -> dict[str, JSON]:
        await self.start(chain(steps), runs)
        began, used = time.perf_counter(), cpu()
        await self.engine.drain()
        wall, spent = time.perf_counter() - began, cpu() - used
        count = runs * steps
        return {
            "runs": runs,
            "steps_a_run": steps,
            "cpu_ms_a_step": round(1000 * spent / count, 3),
            "steps_a_second": round(count / wall),
        }

    async def fan_out(self, items: int, width: int, command: list[str]) -> dict[str, JSON]:
        """Go through many items as runs with two workers of their own processes, of which one is killed halfway."""
        run = await self.engine.start(fan(items, width), {"x": [*range(items)]}, WHO)
        workers = [await asyncio.create_subprocess_exec(*command) for _ in range(2)]
        began, killed, memory = time.perf_counter(), False, 0
        try:
            while not (found := await self.engine.get(run)).over:
                alive = [psutil.Process(worker.pid) for worker in workers if worker.returncode is None]
                memory = max(memory, *(process.memory_info().rss for process in alive))
                if not killed and len(await self.engine.list(workflow="fan/each", status="done", limit=200)) >= min(
                    200, items // 2
                ):
                    workers[0].kill()
                    await workers[0].wait()
                    killed = True
                await asyncio.sleep(0.5)
        finally:
            for worker in workers:
                if worker.returncode is None:
                    worker.terminate()
                    await worker.wait()
        wall = time.perf_counter() - began
        return {
            "items": items,
            "status": found.status,
            "given": await self.engine.result(run),
            "killed_a_worker": killed,
            "seconds": round(wall, 1),
            "items_a_second": round(items / wall),
            "most_memory_of_a_worker_mb": round(memory / 1e6),
        }

    async def latency(self, runs: int) -> dict[str, JSON]:
        """Start runs one after the other on an idle worker, and see when their first step begins."""
        found: list[float] = []

        async def once() -> None:
            began = time.perf_counter()
            run = await self.engine.start(chain(1), {"x": 1}, WHO)
            while run not in self.started:  # noqa: ASYNC110  # an event would wake us later than a look
                await asyncio.sleep(0.0005)
            found.append(1000 * (self.started[run] - began))
            await asyncio.sleep(0.02)

        await self.beside(lambda: _times(once, runs))
        found.sort()
        return {
            "start_to_first_step_ms_p50": round(statistics.median(found), 1),
            "start_to_first_step_ms_p95": round(found[int(len(found) * 0.95)], 1),
        }

    async def parked(self, runs: int, idle_s: float) -> dict[str, JSON]:
        """Park runs, do nothing for a while with a worker there, then let all of them go on."""
        process = psutil.Process()
        await self.start(asking(), runs)
        await self.engine.drain()
        before = process.memory_info().rss
        figures: dict[str, JSON] = {}

        async def idle() -> None:
            await asyncio.sleep(2)
            used = cpu()
            await asyncio.sleep(idle_s)
            figures["cpu_percent_while_parked"] = round(100 * (cpu() - used) / idle_s, 2)
            figures["memory_growth_mb_while_parked"] = round((process.memory_info().rss - before) / 1e6, 2)

        await self.beside(idle)
        began = time.perf_counter()
        while tasks := await self.review.list(ZOE, limit=200):
            for task in tasks:
                await self.review.decide(task.id, ZOE, {"decision": "go"})
        decided = time.perf_counter()
        await self.engine.drain()
        resumed = time.perf_counter()
        left = len(await self.engine.list(status="parked", limit=1))
        figures |= {
            "parked": runs,
            "still_parked": left,
            "decide_ms": round(1000 * (decided - began) / runs, 2),
            "resume_all_s": round(resumed - decided, 2),
        }
        return figures

    async def beside(self, do: Callable[[], Awaitable[None]]) -> None:
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(self.engine.work(stop))
            await asyncio.sleep(0.5)
            await do()
            stop.set()


async def _times(do: Callable[[], Awaitable[None]], number: int) -> None:
    for _ in range(number):
        await do()


async def work(url: str, key: str) -> None:
    """Be one worker until told to stop."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with Store(url, size=10) as store:
        await Bench(store, 10, bytes.fromhex(key)).engine.work(stop)


async def main(items: int, parked: int, only: str) -> None:
    home = pathlib.Path(tempfile.mkdtemp(prefix="metier-bench-"))
    embedded = Embedded(home)
    await asyncio.to_thread(embedded.start)
    try:
        await create_database(embedded.url("postgres"), "metier")
        async with Store(embedded.url(), size=10) as store:
            await store.migrate(migrations())
            key = secrets.token_bytes(32)
            bench = Bench(store, 10, key)
            await bench.chain(20, 10)
            figures: dict[str, JSON] = {"bench": "engine"}
            if only in ("", "steps"):
                figures["ten_at_once"] = await bench.chain(150, 10)
                figures["one_at_a_time"] = await Bench(store, 1, key).chain(60, 10)
                figures["growth"] = [
                    await bench.chain(runs, steps) for runs, steps in ((200, 10), (20, 100), (2, 1000))
                ]
            if only in ("", "latency"):
                figures |= await bench.latency(60)
            if only in ("", "fan"):
                command = [sys.executable, __file__, "--worker", embedded.url(), key.hex()]
                figures["fan_out"] = await bench.fan_out(items, 20, command)
            if only in ("", "parked"):
                figures |= await bench.parked(parked, 5)
            print(json.dumps(figures))
    finally:
        await asyncio.to_thread(embedded.stop)
        shutil.rmtree(home, ignore_errors=True)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=10_000, help="items of the fan-out")
    parser.add_argument("--parked", type=int, default=1_000, help="runs that wait for a person; the bar is 10000")
    parser.add_argument("--only", choices=("", "steps", "latency", "fan", "parked"), default="", help="one part alone")
    parser.add_argument("--worker", nargs=2, metavar=("URL", "KEY"), help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    chosen = options()
    asyncio.run(work(*chosen.worker) if chosen.worker else main(chosen.items, chosen.parked, chosen.only))
