"""Runs `metier serve` as a process for tests, and model servers of one's own for it to ask."""

from __future__ import annotations

import contextlib
import json
import pathlib
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp import web

from tests.cli.house import House

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
    """Start it on a free port; at the end ask it to stop, which it does with code 0."""
    process = subprocess.Popen(
        [METIER, "serve", "--port", "0", "--json", *options],
        env={**house.environment, "PATH": "/usr/bin:/bin", **variables},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    # One that says nothing is ended, so that reading its output ends too.
    watch = threading.Timer(120, process.kill)
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
        _, served.error = process.communicate(timeout=60)
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


def declared(url: str, name: str = "writer", **more: Any) -> dict[str, Any]:
    """A metier.yaml with one model at an address."""
    own = {"provider": "openai", "base_url": url, "model_id": "m", "price": {"input": 1, "output": 4}}
    return {"models": {name: {"deployments": [own]}}, **more}
