"""Workers and the database are killed -9 wherever it hurts: runs end as if nothing had happened."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import random
import secrets
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence

import pytest

from metier.calls import RunId
from metier.postgres import Embedded
from metier.store import Store, create_database
from metier.vault import Vault
from metier.workflow.dispatch import migrations
from metier.workflow.engine import Engine
from metier.workflow.review import Review, Reviewer, TaskDesk
from tests.chaos.engine_worker import POINTS, chaotic
from tests.scratch import scratch
from tests.workflow.flows import WHO

ROOT = pathlib.Path(__file__).parents[2]
ZOE = Reviewer("zoe", frozenset({"sav"}))
PATHS = ("first", "route.inner", "refine#1.draft", "refine#1.grade", "refine#2.draft", "refine#2.grade", "last")


class Site:
    """A database, a folder for what workers write down, and the people's side of the engine."""

    def __init__(self, store: Store, folder: pathlib.Path) -> None:
        key = secrets.token_bytes(32)
        vault = Vault(key)
        self.key, self.store, self.folder = key.hex(), store, folder
        self.engine = Engine(store, vault, {}, desk=TaskDesk(store, vault))
        self.review = Review(store, vault, self.engine)
        self.plan([])

    def plan(self, deaths: Sequence[tuple[str, str]]) -> None:
        (self.folder / "plan.json").write_text(json.dumps(deaths))

    @contextlib.contextmanager
    def workers(self, number: int = 1) -> Iterator[list[int]]:
        """Supervisors of that many workers, by process id."""
        command = [sys.executable, "-m", "tests.chaos.engine_worker", self.store.url, self.key, str(self.folder)]
        running = [subprocess.Popen(command, cwd=ROOT) for _ in range(number)]
        try:
            yield [process.pid for process in running]
        finally:
            for process in running:
                process.terminate()
            for process in running:
                process.wait(60)

    def log(self) -> list[list[str]]:
        return [line.split() for line in (self.folder / "log").read_text().splitlines()]

    async def until(self, status: str, runs: Sequence[RunId]) -> None:
        """Look until every run is there; the limit of the whole test is the only clock."""
        left = set(runs)
        async with asyncio.timeout(540):
            while left:
                for run in tuple(left):
                    if (found := await self.engine.get(run)).status == status:
                        left.discard(run)
                    else:
                        assert not found.over, found
                await asyncio.sleep(0.05)

    async def begun(self) -> None:
        """Look until a worker has started a step."""
        for _ in range(3000):
            if (self.folder / "log").exists():
                return
            await asyncio.sleep(0.02)
        raise AssertionError("no worker started anything")

    async def decide_all(self) -> None:
        for task in await self.review.list(ZOE, limit=200):
            await self.review.decide(task.id, ZOE, {"decision": "approve"})


@pytest.fixture
async def site(store: Store, tmp_path: pathlib.Path) -> Site:
    """A site on a fresh database."""
    return Site(store, tmp_path)


def expected(n: int) -> dict[str, object]:
    """What an undisturbed run gives."""
    return {
        path.rpartition(".")[2]: {"path": path, "n": n if path.endswith(("first", "draft")) else 1} for path in PATHS
    }


async def ended_well(site: Site, runs: dict[RunId, int]) -> None:
    """Every run gave what it had to, no completed step ran again, and every line was written once."""
    for run, n in runs.items():
        output = await site.engine.result(run)
        assert isinstance(output, dict)
        assert {id: output[id] for id in expected(n)} == expected(n)
        lines = await site.engine.steps(run)
        assert Counter(line.path for line in lines if line.kind == "result") == Counter(PATHS)
    assert not [line for line in site.log() if line[0] == "repeated"]


async def test_a_worker_may_die_at_every_boundary_and_inside_every_step(site: Site) -> None:
    site.plan([(path, point) for path in PATHS for point in POINTS])
    run = await site.engine.start(chaotic(), {"n": 7}, WHO)
    with site.workers():
        await site.until("parked", [run])
        await site.decide_all()
        await site.until("done", [run])
    await ended_well(site, {run: 7})
    died = list(site.folder.glob("died *"))
    assert len(died) >= len(PATHS) * 4  # a result may be written before the last death of a step is due
    bought = Counter(line[2] for line in site.log() if line[0] == "bought")
    assert bought == dict.fromkeys(PATHS, 2)  # once lost with its process before it was written, then kept


async def test_many_runs_end_while_workers_are_killed_at_random(site: Site) -> None:
    starts = {await site.engine.start(chaotic(), {"n": n}, WHO): n for n in range(2, 26)}
    chance = random.Random(11)
    with site.workers(2) as supervisors:
        ended = asyncio.Event()

        async def kill() -> None:
            for _ in range(12):
                await asyncio.sleep(chance.uniform(0.1, 0.7))
                if ended.is_set():
                    return
                with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError):
                    victim = int((site.folder / f"worker {chance.choice(supervisors)}").read_text())
                    os.kill(victim, signal.SIGKILL)

        async with asyncio.TaskGroup() as group:
            group.create_task(kill())
            await site.until("parked", [*starts])
            await site.decide_all()
            await site.until("done", [*starts])
            ended.set()
    await ended_well(site, starts)


@contextlib.asynccontextmanager
async def own_server() -> AsyncIterator[Embedded]:
    """A PostgreSQL that may be killed without disturbing other tests."""
    home = scratch("metier-kill-")
    embedded = Embedded(home)
    await asyncio.to_thread(embedded.start)
    try:
        yield embedded
    finally:
        await asyncio.to_thread(embedded.stop)
        shutil.rmtree(home, ignore_errors=True)


async def test_runs_survive_the_database_being_killed(tmp_path: pathlib.Path) -> None:
    async with own_server() as embedded:
        await create_database(embedded.url("postgres"), "metier")
        async with Store(embedded.url(), size=4) as store:
            await store.migrate(migrations())
            site = Site(store, tmp_path)
            runs = {await site.engine.start(chaotic(), {"n": n}, WHO): n for n in range(2, 12)}
            with site.workers() as (supervisor,):
                await site.begun()
                worker = (tmp_path / f"worker {supervisor}").read_text()
                pid = embedded.pid()
                assert pid is not None
                os.kill(pid, signal.SIGKILL)
                restarted = Embedded(embedded.layout.home)
                await asyncio.to_thread(restarted.start)
                await patiently(site, runs)
                assert (tmp_path / f"worker {supervisor}").read_text() == worker, "the worker itself stayed alive"
            await ended_well(site, runs)
        await asyncio.to_thread(restarted.stop)


async def patiently(site: Site, runs: dict[RunId, int]) -> None:
    """The pool of this very process has to notice the restart too."""
    for status in ("parked", "done"):
        await site.until(status, [*runs])
        await site.decide_all()
