"""What the engine costs: CPU per step, steps per second, time from start to first step, a thousand parked runs."""

from __future__ import annotations

import asyncio
import json
import pathlib
import resource
import secrets
import shutil
import statistics
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


def asking() -> Workflow:
    ask = Step("ask", "human", {"assign": "group:sav", "title": "?"}, HERE)
    done = Step("done", "code", None, HERE, with_={"x": 1})
    return Workflow("asking", {"type": "object"}, (ask, done), None, None, (), {}, "asking", "")


class Bench:
    """One engine on one embedded PostgreSQL."""

    def __init__(self, store: Store, concurrency: int) -> None:
        self.started: dict[str, float] = {}
        vault = Vault(secrets.token_bytes(32))

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


async def main() -> None:
    home = pathlib.Path(tempfile.mkdtemp(prefix="metier-bench-"))
    embedded = Embedded(home)
    await asyncio.to_thread(embedded.start)
    try:
        await create_database(embedded.url("postgres"), "metier")
        async with Store(embedded.url(), size=10) as store:
            await store.migrate(migrations())
            bench = Bench(store, 10)
            await bench.chain(20, 10)
            figures: dict[str, JSON] = {"bench": "engine"}
            figures["ten_at_once"] = await bench.chain(150, 10)
            figures["one_at_a_time"] = await Bench(store, 1).chain(60, 10)
            figures["long_runs"] = await bench.chain(10, 100)
            figures |= await bench.latency(60)
            figures |= await bench.parked(1000, 5)
            print(json.dumps(figures))
    finally:
        await asyncio.to_thread(embedded.stop)
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    asyncio.run(main())
