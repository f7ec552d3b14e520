"""`metier serve --workers`: workers that die, that are replaced, that end in order; none of it costs a call."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import signal
import subprocess
from collections.abc import AsyncIterator, Callable

import aiohttp
import psutil
import pytest
import yaml
from aiohttp import web

from tests.cli.house import House
from tests.cli.served import METIER, SAY, ask, declared, get, key, running, serving
from tests.upstream import Reply, answer, upstream

PATIENCE_S = 60


@pytest.fixture
def secret(house: House, request: pytest.FixtureRequest) -> str:
    """A key of its own for each test."""
    return key(house, f"workers {request.node.name}")


def children(process: subprocess.Popen[str]) -> set[int]:
    """The worker processes."""
    return {child.pid for child in psutil.Process(process.pid).children()}


async def until(true: Callable[[], bool], what: str) -> None:
    """Wait for something that comes, however slow the machine."""
    for _ in range(PATIENCE_S * 20):
        if true():
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{what} did not come")


@contextlib.asynccontextmanager
async def always(url: str, secret: str) -> AsyncIterator[list[int]]:
    """Ask again and again, over connections kept and new ones, until the block ends; gives the statuses."""
    seen: list[int] = []
    over = asyncio.Event()

    async def go_on(session: aiohttp.ClientSession | None) -> None:
        while not over.is_set():
            if session is None:
                seen.append((await ask(url, secret))[0])
            else:
                async with session.post(f"{url}/v1/chat/completions", json=SAY) as response:
                    await response.read()
                    seen.append(response.status)

    async with aiohttp.ClientSession(headers={"authorization": f"Bearer {secret}"}) as session:
        tasks = [asyncio.create_task(go_on(given)) for given in (None, session, session)]
        try:
            yield seen
        finally:
            over.set()
            await asyncio.gather(*tasks)


async def test_a_worker_that_is_killed_is_replaced_and_the_others_go_on(
    house: House, secret: str, tmp_path: pathlib.Path
) -> None:
    async with upstream(Reply([answer("Bonsoir")])) as model:
        config = tmp_path / "metier.yaml"
        config.write_text(yaml.safe_dump(declared(model.url)))
        with serving(house, "--workers", "2", METIER_CONFIG=str(config)) as served:
            assert served.models == ["writer"]
            first = children(served.process)
            assert len(first) == 2
            victim = min(first)
            os.kill(victim, signal.SIGKILL)
            for _ in range(20):
                assert (await ask(served.url, secret))[0] == 200
            await until(lambda: len(children(served.process) - {victim}) == 2, "another worker")
            assert first - {victim} <= children(served.process)
        assert "was killed by signal 9" in served.error


async def test_workers_are_replaced_one_by_one_without_dropping_a_call(
    house: House, secret: str, tmp_path: pathlib.Path
) -> None:
    async with upstream(Reply([answer("Bonsoir")])) as model:
        config = tmp_path / "metier.yaml"
        config.write_text(yaml.safe_dump(declared(model.url)))
        with serving(house, "--workers", "2", METIER_CONFIG=str(config)) as served:
            before = children(served.process)
            async with always(served.url, secret) as seen:
                served.process.send_signal(signal.SIGHUP)
                await until(lambda: not before & children(served.process), "the end of the old workers")
                asked = len(seen)
                await until(lambda: len(seen) > asked + 10, "answers of the new workers")
            assert set(seen) == {200}
            assert len(children(served.process)) == 2
            # Those that left told what they had counted: nothing is missing in the sum.
            status, text = await get(f"{served.url}/metrics")
            assert status == 200
            counted = [line for line in text.splitlines() if line.startswith("metier_calls_total{")]
            assert sum(float(line.rsplit(" ", 1)[1]) for line in counted) == len(seen)
            assert len({line.partition('worker="')[2] for line in counted}) >= 3


async def test_a_new_worker_that_cannot_start_leaves_the_old_ones_in_place(
    house: House, secret: str, tmp_path: pathlib.Path
) -> None:
    async with upstream(Reply([answer("Bonsoir")])) as model:
        config = tmp_path / "metier.yaml"
        config.write_text(yaml.safe_dump(declared(model.url)))
        with serving(house, "--workers", "2", METIER_CONFIG=str(config)) as served:
            before = children(served.process)
            config.write_text("models: 12\n")
            served.process.send_signal(signal.SIGHUP)
            await until(lambda: len(children(served.process)) == 3, "a new worker")
            await until(lambda: children(served.process) == before, "its end")
            assert (await ask(served.url, secret))[0] == 200
        assert "those after it stay" in served.error


async def test_readiness_goes_first_and_calls_under_way_end(house: House, secret: str, tmp_path: pathlib.Path) -> None:
    arrived, released = asyncio.Semaphore(0), asyncio.Event()

    async def slow(request: web.Request) -> web.Response:
        arrived.release()
        await released.wait()
        return web.Response(body=answer("Bonsoir"), content_type="text/event-stream")

    async with running(slow) as url:
        config = tmp_path / "metier.yaml"
        config.write_text(yaml.safe_dump(declared(url)))
        with serving(house, "--workers", "2", "--notice", "8", METIER_CONFIG=str(config)) as served:
            calls = [asyncio.create_task(ask(served.url, secret)) for _ in range(4)]
            for _ in calls:
                await arrived.acquire()
            served.process.send_signal(signal.SIGTERM)
            for _ in range(400):
                status, told = await get(f"{served.url}/readyz")
                if status == 503:
                    break
                await asyncio.sleep(0.02)
            assert (status, json.loads(told)["status"]) == (503, "stopping")
            released.set()
            assert [status for status, _ in await asyncio.gather(*calls)] == [200] * 4
            await asyncio.to_thread(served.process.wait, 60)
    answered = await asyncio.to_thread(house.data, "usage", "--by", "project")
    assert sum(row["calls"] for row in answered["usage"]) >= 4


def test_workers_do_not_outlive_the_process_above_them(house: House) -> None:
    process = subprocess.Popen(
        [METIER, "serve", "--port", "0", "--json", "--workers", "2"], stdout=subprocess.PIPE, text=True,
        env={**house.environment, "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line == "}\n":
            break
    left = [psutil.Process(pid) for pid in children(process)]
    process.kill()
    process.communicate()
    assert not psutil.wait_procs(left, PATIENCE_S)[1]


def test_what_is_wrong_with_the_house_is_said_once(house: House, tmp_path: pathlib.Path) -> None:
    config = tmp_path / "metier.yaml"
    config.write_text("models: 12\n")
    done = subprocess.run(
        [METIER, "serve", "--port", "0", "--workers", "3"], capture_output=True, text=True, timeout=120,
        env={**house.environment, "PATH": "/usr/bin:/bin", "METIER_CONFIG": str(config)},
    )  # fmt: skip
    assert (done.returncode, "Traceback" in done.stderr, "Ready" in done.stdout) == (2, False, False), done.stderr
    assert done.stderr.count("config_error") == 1
