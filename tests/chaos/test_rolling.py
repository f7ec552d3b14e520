"""Three workers: one is killed -9, and all are restarted one after the other under load; steps are counted outside."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import secrets
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator

from metier.calls import RunId
from metier.store import Store
from metier.vault import Vault
from metier.workflow.engine import Engine
from tests.chaos.counted_worker import asking
from tests.workflow.flows import WHO

ROOT = pathlib.Path(__file__).parents[2]


class Counting:
    """A server on loopback that answers after a while, and counts who asked what."""

    def __init__(self, takes_s: float) -> None:
        self.takes_s = takes_s
        self.asked: Counter[tuple[str, str]] = Counter()
        self.by: dict[int, list[str]] = {}
        self.at: dict[tuple[str, int], float] = {}
        self.held = asyncio.Event()
        self.held.set()
        self.port = 0

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Counting]:
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            yield self
            self.held.set()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        run, path, pid = (await reader.readline()).decode().split()
        self.asked[run, path] += 1
        self.by.setdefault(int(pid), []).append(run)
        self.at.setdefault((run, self.asked[run, path]), time.monotonic())
        await asyncio.sleep(self.takes_s)
        await self.held.wait()
        with contextlib.suppress(ConnectionError):
            writer.write(b"ok\n")
            await writer.drain()
        writer.close()


class Site:
    """Workers of their own processes."""

    def __init__(self, store: Store, port: int) -> None:
        key = secrets.token_bytes(32)
        self.engine = Engine(store, Vault(key), {})
        self.command = [sys.executable, "-m", "tests.chaos.counted_worker", store.url, key.hex(), str(port)]

    async def worker(self) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(*self.command, cwd=ROOT)

    @contextlib.asynccontextmanager
    async def workers(self, number: int) -> AsyncIterator[list[asyncio.subprocess.Process]]:
        running = [await self.worker() for _ in range(number)]
        try:
            yield running
        finally:
            for process in running:
                if process.returncode is None:
                    process.terminate()
            for process in running:
                await process.wait()

    async def done(self, runs: list[RunId]) -> None:
        left = set(runs)
        async with asyncio.timeout(540):
            while left:
                left = {run for run in left if (await self.engine.get(run)).status != "done"}
                await asyncio.sleep(0.1)


async def test_the_runs_of_a_killed_worker_move_again_on_the_others_within_half_a_minute(store: Store) -> None:
    server = Counting(0.05)
    async with server.open():
        site = Site(store, server.port)
        server.held.clear()
        runs = [await site.engine.start(asking(1), {}, WHO) for _ in range(6)]
        async with site.workers(3) as workers, asyncio.timeout(540):
            while len(server.by) < 1 or sum(server.asked.values()) < 4:  # noqa: ASYNC110  # whoever asks, asks outside
                await asyncio.sleep(0.05)
            victim = next(process for process in workers if process.pid in server.by)
            victim.kill()
            died = time.monotonic()
            await victim.wait()
            # What it had asked may be read after its death.
            lost = server.by[victim.pid]
            while not all((run, 2) in server.at for run in lost):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            took = max(server.at[run, 2] for run in lost) - died
            server.held.set()
            await site.done(runs)
    assert took < 60, f"{took:.1f} s: 30 are promised, the rest is for a busy machine"
    assert {run for (run, _), number in server.asked.items() if number > 1} == set(lost), "the others ran once"


async def test_workers_are_restarted_under_load_without_a_lost_or_doubled_step(store: Store) -> None:
    server = Counting(0.1)
    async with server.open():
        site = Site(store, server.port)
        runs: list[RunId] = []
        async with site.workers(3) as workers:
            for number in range(3):
                # Some for each restart: on a busy machine a process takes longer to end than all of them together.
                runs += [await site.engine.start(asking(8), {}, WHO) for _ in range(20)]
                before = sum(server.asked.values())
                async with asyncio.timeout(540):
                    while sum(server.asked.values()) < before + 40:  # noqa: ASYNC110
                        await asyncio.sleep(0.05)
                assert sum(server.asked.values()) < 8 * len(runs), "there is load at every restart"
                workers[number].terminate()
                workers.append(await site.worker())
                assert await workers[number].wait() == 0
            await site.done(runs)
    assert server.asked == {(run, f"s{step}"): 1 for run in runs for step in range(8)}
