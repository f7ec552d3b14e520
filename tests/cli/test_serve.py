"""`metier serve` as a process: it says where it listens, answers, refuses properly, and stops in order."""

from __future__ import annotations

import asyncio
import contextlib
import json
import pathlib
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
import yaml
from aiohttp import web

from tests.cli.house import House
from tests.upstream import Reply, answer, upstream

METIER = str(pathlib.Path(sys.executable).with_name("metier"))
SAY: dict[str, Any] = {"model": "writer", "messages": [{"role": "user", "content": "Bonjour"}]}


@dataclass(slots=True)
class Served:
    """The server while it runs."""

    url: str
    models: list[str]
    process: subprocess.Popen[str]
    error: str = ""


@contextlib.contextmanager
def serving(house: House, *options: str, **variables: str) -> Iterator[Served]:
    """Start it on a free port; at the end ask it to stop, which it does with code 0 within ten seconds."""
    process = subprocess.Popen(
        [METIER, "serve", "--port", "0", "--json", *options],
        env={**house.environment, "PATH": "/usr/bin:/bin", **variables},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    # One that says nothing is ended, so that reading its output ends too.
    watch = threading.Timer(60, process.kill)
    watch.start()
    assert process.stdout is not None
    text = ""
    for line in process.stdout:
        text += line
        if line == "}\n":
            break
    watch.cancel()
    served = Served(**json.loads(text), process=process)
    try:
        yield served
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        _, served.error = process.communicate(timeout=10)
        assert (process.returncode, "Traceback" in served.error) == (0, False), served.error
    finally:
        process.kill()
        process.communicate()


def key(house: House, name: str) -> str:
    """A key of an approved system."""
    house.data("ingest", "rien", "--list", code=2)  # the house's first use makes the default project
    house.data("system", "register", name, "--purpose", "Essai", "--owner", "Camille")
    house.run("system", "move", name, "pilot")
    return str(house.data("key", "issue", name, "--system", name)["secret"])


async def ask(url: str, secret: str | None, **body: Any) -> tuple[int, Any]:
    """Ask for a chat completion."""
    headers = {"authorization": f"Bearer {secret}"} if secret else {}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(f"{url}/v1/chat/completions", json={**SAY, **body}) as response,
    ):
        return response.status, await response.json()


async def get(url: str) -> tuple[int, str]:
    """Ask for a page, without following it elsewhere."""
    async with aiohttp.ClientSession() as session, session.get(url, allow_redirects=False) as response:
        return response.status, await response.text()


@pytest.fixture
def secret(house: House, request: pytest.FixtureRequest) -> str:
    """A key of its own for each test."""
    return key(house, f"servi {request.node.name}")


async def test_an_empty_house_answers_and_refuses_properly(house: House, secret: str) -> None:
    with serving(house) as served:
        assert served.models == []
        assert (await get(f"{served.url}/healthz"))[0] == 200
        status, told = await get(f"{served.url}/readyz")
        assert (status, json.loads(told)) == (
            503,
            {"status": "not ready", "parts": {"database": True, "models": False}},
        )
        status, body = await ask(served.url, secret)
        assert (status, body["error"]["code"]) == (404, "not_found")
        assert "'writer'" in body["error"]["message"]
        assert (await ask(served.url, None))[0] == 401
        assert (await ask(served.url, "sk-mt-nobody-nothing"))[0] == 401
        assert (await get(f"{served.url}/review"))[0] in (200, 302, 303)


async def test_a_declared_model_is_ready_and_answers_until_the_key_is_revoked(
    house: House, secret: str, tmp_path: pathlib.Path
) -> None:
    async with upstream(Reply([answer("Bonsoir")])) as model:
        own = {"provider": "openai", "base_url": model.url, "model_id": "m", "price": {"input": 1, "output": 4}}
        config = tmp_path / "metier.yaml"
        config.write_text(yaml.safe_dump({"models": {"writer": {"deployments": [own]}}}))
        with serving(house, METIER_CONFIG=str(config)) as served:
            assert served.models == ["writer"]
            assert (await get(f"{served.url}/readyz"))[0] == 200
            status, body = await ask(served.url, secret)
            assert (status, body["choices"][0]["message"]["content"]) == (200, "Bonsoir")


async def test_a_call_in_progress_ends_before_the_server_stops(
    house: House, secret: str, tmp_path: pathlib.Path
) -> None:
    whole, asked_to_stop = answer("Bonsoir", " à tous"), asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(whole[:200])
        await asked_to_stop.wait()
        await response.write(whole[200:])
        return response

    async with running(slow) as url:
        own = {"provider": "openai", "base_url": url, "model_id": "m", "price": {"input": 1, "output": 4}}
        config = tmp_path / "metier.yaml"
        config.write_text(yaml.safe_dump({"models": {"writer": {"deployments": [own]}}}))
        with serving(house, METIER_CONFIG=str(config)) as served:
            async with aiohttp.ClientSession(headers={"authorization": f"Bearer {secret}"}) as session:
                posted = session.post(f"{served.url}/v1/chat/completions", json={**SAY, "stream": True})
                async with posted as response:
                    assert b"Bonsoir" in await response.content.readuntil(b"Bonsoir")
                    served.process.send_signal(signal.SIGTERM)
                    asked_to_stop.set()
                    rest = (await response.read()).decode()
            assert "à tous" in rest and rest.rstrip().endswith("data: [DONE]")
            await asyncio.to_thread(served.process.wait, 10)


@contextlib.asynccontextmanager
async def running(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    """A model server of one's own on a free port."""
    app = web.Application()
    app.router.add_post("/v1/chat/completions", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


def test_a_port_that_is_taken_is_told(house: House) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [METIER, "serve", "--port", port], env={**house.environment, "PATH": "/usr/bin:/bin"},
            capture_output=True, text=True, timeout=30,
        )  # fmt: skip
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert port in done.stderr and "Ready" not in done.stdout


def test_an_address_that_is_none_is_told(house: House) -> None:
    assert "127.0.0.1" in house.run("serve", "--host", "example", code=2)
