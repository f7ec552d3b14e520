"""A program that keeps a worker alive: it forks one, and forks the next when that one dies by kill -9."""

from __future__ import annotations

import asyncio
import json
import os
import pathlib
import signal
import sys
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import psycopg

from metier.calls import JSON
from metier.errors import Unavailable
from metier.store import Store
from metier.vault import Vault
from metier.workflow.definition import Workflow
from metier.workflow.dispatch import Pace
from metier.workflow.engine import Engine, StepContext
from metier.workflow.review import TaskDesk
from tests.chaos.supervising import supervise
from tests.workflow.flows import branch, flow, step

PACE = Pace(heartbeat_s=0.1, stall_s=2.0, recover_s=0.15, poll_s=0.2, grace_s=0.3, concurrency=6)
POINTS = ("start", "bought", "answered", "leaving", "left")


def chaotic() -> Workflow:
    """A flow with every construct; its steps pay for an answer and give it out."""
    again = {"seen": "{{ inputs.n }}"}
    body = step("refine", "loop", {"max": 2, "until": "false"}, steps=(step("draft", with_=again), step("grade")))
    route = step("route", "switch", branches=(branch("steps.first.n > 0", step("inner")), branch(None, step("other"))))
    ask = step("ask", "human", {"assign": "group:sav", "title": "?"})
    made = flow(step("first", with_=again), route, body, ask, step("last"), output="{{ steps }}", name="chaotic")
    return replace(made, hash="chaotic")  # the same in every process


class Faulty:
    """A step function that writes down what it does, and kills its own process once at each place of the plan."""

    def __init__(self, folder: pathlib.Path, store: Store) -> None:
        self.folder = folder
        self.store = store
        self.plan = {(path, point) for path, point in json.loads((folder / "plan.json").read_text())}

    async def __call__(self, context: StepContext, given: dict[str, JSON]) -> JSON:
        place, began = f"{context.run} {context.path} {context.attempt}", datetime.now(UTC)
        if await self.done_before(context, began):
            self.write(f"repeated {place}")
        self.write(f"started {place}")
        self.die(context, "start")

        async def buy() -> JSON:
            self.write(f"bought {place}")
            context.spend(Decimal("0.01"))
            self.die(context, "bought")
            return {"path": context.path, "n": given.get("seen", 1)}

        answer = await context.once("call", buy)
        self.die(context, "answered")
        loop = asyncio.get_running_loop()
        if self.due(context, "leaving"):
            loop.call_soon(self.die, context, "leaving")
        elif self.due(context, "left"):
            loop.call_later(0.004, self.die, context, "left")
        return answer

    async def done_before(self, context: StepContext, began: datetime) -> bool:
        """Whether this step had ended before it began here; a database that is away is waited for."""
        # What another worker has done since is no repetition: a living one may be taken for dead on a busy machine.
        query = (
            "SELECT 1 FROM journal WHERE run = %s AND path = %s AND attempt = %s AND kind = 'result'"
            " AND started_at + make_interval(secs => duration_s) < %s"
        )
        while True:
            try:
                async with self.store.connection() as connection:
                    found = await connection.execute(query, (context.run, context.path, context.attempt, began))
                    return await found.fetchone() is not None
            except (psycopg.OperationalError, Unavailable):
                await asyncio.sleep(0.05)

    def due(self, context: StepContext, point: str) -> bool:
        """Whether the plan has a death here that has not been died yet."""
        return (context.path, point) in self.plan and not self.mark(context, point).exists()

    def die(self, context: StepContext, point: str) -> None:
        """Kill this very process, once for each place of the plan."""
        if self.due(context, point):
            self.mark(context, point).touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def mark(self, context: StepContext, point: str) -> pathlib.Path:
        """The file that says this death was died."""
        return self.folder / f"died {context.path} {point}"

    def write(self, line: str) -> None:
        """Append a line that survives the process."""
        with (self.folder / "log").open("a", encoding="utf-8") as log:
            log.write(line + "\n")


async def work(url: str, key: str, folder: pathlib.Path) -> None:
    """Be a worker until told to stop by SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    vault = Vault(bytes.fromhex(key))
    async with Store(url, size=8) as store:
        engine = Engine(
            store, vault, {"code": Faulty(folder, store)}, desk=TaskDesk(store, vault), pace=PACE, max_strikes=50
        )
        await engine.work(stop)


def main(url: str, key: str, folder: str) -> None:
    """Keep a worker alive until this program is told to stop."""
    pid = pathlib.Path(folder) / f"worker {os.getpid()}"
    supervise(lambda: work(url, key, pathlib.Path(folder)), lambda child: pid.write_text(str(child)))


if __name__ == "__main__":
    main(*sys.argv[1:])
