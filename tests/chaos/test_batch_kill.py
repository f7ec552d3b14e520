"""Workers of batches are killed -9 wherever it hurts: no line is lost, none is paid for once its answer is kept."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import random
import secrets
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence

import psycopg
import pytest

from metier.batches import Batch, Batches, Files
from metier.errors import Unavailable
from metier.postgres import Embedded
from metier.store import Store, create_database
from metier.vault import Vault
from metier.workflow.dispatch import migrations
from tests.batches.house import CHAT, WHO, House, line
from tests.chaos.batch_worker import CALL_POINTS, FILE_POINTS, RULES
from tests.chaos.test_engine_kill import own_server

ROOT = pathlib.Path(__file__).parents[2]


class Site:
    """A database, a folder for what workers write down, and the client's side of batches."""

    def __init__(self, store: Store, folder: pathlib.Path) -> None:
        key = secrets.token_bytes(32)
        self.key, self.store, self.folder = key.hex(), store, folder
        self.house = House(store, Vault(key), RULES)
        files = Files(store, Vault(key), RULES)
        self.house.files, self.house.batches = files, Batches(store, Vault(key), files)
        self.plan([])

    def plan(self, deaths: Sequence[tuple[str, str]]) -> None:
        (self.folder / "plan.json").write_text(json.dumps(deaths))

    @contextlib.contextmanager
    def workers(self, number: int = 1) -> Iterator[list[int]]:
        """Supervisors of that many workers, by process id."""
        command = [sys.executable, "-m", "tests.chaos.batch_worker", self.store.url, self.key, str(self.folder)]
        running = [subprocess.Popen(command, cwd=ROOT) for _ in range(number)]
        try:
            yield [process.pid for process in running]
        finally:
            for process in running:
                process.terminate()
            for process in running:
                process.wait(60)

    def log(self, word: str) -> Counter[str]:
        path = self.folder / "log"
        lines = path.read_text().splitlines() if path.exists() else []
        return Counter(line.partition(" ")[2] for line in lines if line.startswith(word))

    async def until_over(self, batches: Sequence[Batch]) -> list[Batch]:
        """Look until every batch is over; the limit of the whole test is the only clock."""
        found: list[Batch] = []
        async with asyncio.timeout(540):
            while len(found) < len(batches):
                # The pool of this very process has to notice a restart of the database too.
                with contextlib.suppress(psycopg.OperationalError, Unavailable):
                    now = await self.house.batches.get(batches[len(found)].id)
                    if now.over:
                        found.append(now)
                await asyncio.sleep(0.05)
        return found


@pytest.fixture
async def site(store: Store, tmp_path: pathlib.Path) -> Site:
    """A site on a fresh database."""
    return Site(store, tmp_path)


async def test_a_worker_may_die_at_every_point_of_a_batch(site: Site) -> None:
    # Far enough apart that no call is under way at two deaths.
    deadly = {f"q{10 * n + 5}": point for n, point in enumerate(CALL_POINTS)}
    site.plan([*deadly.items(), *(("file", point) for point in FILE_POINTS)])
    made = await site.house.batch(*[line(f"c{n}", f"q{n}") for n in range(50)])
    with site.workers():
        [done] = await site.until_over([made])
    assert (done.status, done.total, done.done, done.failed) == ("completed", 50, 50, 0)
    results = await site.house.read(done.output_file)
    assert [each["custom_id"] for each in results] == [f"c{n}" for n in range(50)]
    said = [each["response"]["body"]["choices"][0]["message"]["content"] for each in results]
    assert said == [f"re: q{n}" for n in range(50)]
    assert len(await site.house.files.list(WHO.project, purpose="batch_output")) == 1
    assert len(list(site.folder.glob("died *"))) == len(CALL_POINTS) + len(FILE_POINTS)
    bought = site.log("bought")
    assert set(bought) == {f"q{n}" for n in range(50)}
    assert max(bought.values()) <= 2
    # At each death some calls were under way; only those may have been made again.
    assert sum(bought.values()) <= 50 + RULES.concurrency * len(CALL_POINTS)
    assert not site.log("repeated")


async def test_batches_end_while_workers_are_killed_at_random(site: Site) -> None:
    chance = random.Random(5)
    made = [await site.house.batch(*[line(f"{b}{n}", f"{b}{n}") for n in range(150)]) for b in "abcd"]
    with site.workers(2) as supervisors:
        ended, killed = asyncio.Event(), list[int]()

        async def kill() -> None:
            # By what was bought, not by the clock: however fast the machine, there is somebody to kill.
            for goal in sorted(chance.sample(range(20, 560), 5)):
                while not ended.is_set() and sum(site.log("bought").values()) < goal:  # noqa: ASYNC110  # another process
                    await asyncio.sleep(0.01)
                with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError):
                    victim = int((site.folder / f"worker {chance.choice(supervisors)}").read_text())
                    os.kill(victim, signal.SIGKILL)
                    killed.append(victim)

        async with asyncio.TaskGroup() as group:
            group.create_task(kill())
            over = await site.until_over(made)
            ended.set()
    assert len(killed) >= 2
    bought = site.log("bought")
    for batch, name in zip(over, "abcd", strict=True):
        assert (batch.status, batch.total, batch.endpoint) == ("completed", 150, CHAT)
        answered = {each["custom_id"] for each in await site.house.read(batch.output_file)}
        lost = await site.house.read(batch.error_file)
        assert {each["error"]["code"] for each in lost} <= {"interrupted"}
        assert answered | {each["custom_id"] for each in lost} == {f"{name}{n}" for n in range(150)}
        assert (len(answered), len(lost)) == (batch.done, batch.failed)
    assert max(bought.values()) <= 2
    assert not site.log("repeated")


async def test_a_batch_survives_the_database_being_killed(tmp_path: pathlib.Path) -> None:
    async with own_server() as embedded:
        await create_database(embedded.url("postgres"), "metier")
        async with Store(embedded.url(), size=4) as store:
            await store.migrate(migrations())
            site = Site(store, tmp_path)
            made = await site.house.batch(*[line(f"c{n}", f"q{n}") for n in range(400)])
            with site.workers() as (supervisor,):
                for _ in range(3000):
                    if (tmp_path / "log").exists() and len(site.log("bought")) > 20:
                        break
                    await asyncio.sleep(0.02)
                worker = (tmp_path / f"worker {supervisor}").read_text()
                pid = embedded.pid()
                assert pid is not None
                os.kill(pid, signal.SIGKILL)
                restarted = Embedded(embedded.layout.home)
                await asyncio.to_thread(restarted.start)
                [done] = await site.until_over([made])
                assert (tmp_path / f"worker {supervisor}").read_text() == worker, "the worker itself stayed alive"
            assert (done.status, done.done, done.failed) == ("completed", 400, 0)
            assert set(site.log("bought")) == {f"q{n}" for n in range(400)}
            assert not site.log("repeated")
        await asyncio.to_thread(restarted.stop)
