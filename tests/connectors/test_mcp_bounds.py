"""What MCP servers can make a worker do is bounded: bytes of an answer, and work on the schemas they write."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import sys
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import pytest
from aiohttp import web

from metier.connectors.tools import Toolbox
from metier.errors import Invalid
from metier.store import Store
from metier.vault import Vault
from tests.connectors.place import box
from tests.connectors.test_mcp import call, kept, stdio, told

MOST = 1_000_000
HOSTILE = "a" * 40 + "!"


@pytest.fixture
async def files(store: Store, vault: Vault, tmp_path: pathlib.Path) -> Toolbox:
    await told(store, vault)
    return box(store, vault, files=stdio(tmp_path, most_bytes=MOST))


@pytest.mark.parametrize("lines", [True, False])
async def test_a_program_that_sends_without_end_is_ended(files: Toolbox, tmp_path: pathlib.Path, lines: bool) -> None:
    with pytest.raises(Invalid, match="more than 1,000,000 bytes"):
        await call(files, "files.flood", {"with_lines": lines})
    # What was taken, with what the pipe and the reader held when it was ended, and what it said while it was.
    assert 0 < int(kept(tmp_path)[-1]) < 30_000_000


async def test_an_answer_up_to_the_bound_arrives(files: Toolbox) -> None:
    found = await call(files, "files.large", {"n": MOST - 100})
    assert isinstance(found, dict) and len(str(found["result"])) == MOST - 100
    with pytest.raises(Invalid, match="more than 1,000,000 bytes"):
        await call(files, "files.large", {"n": 2 * MOST})
    assert await call(files, "files.add", {"a": 2, "b": 3}) == {"result": 5}


async def test_patterns_of_a_server_are_applied_without_going_back(files: Toolbox) -> None:
    assert await call(files, "files.knotted", {"word": "aaa"}) == {"word": "aaa"}
    with pytest.raises(Invalid, match="does not fit its schema"):
        await call(files, "files.knotted", {"word": HOSTILE})


STUBBORN = """
import json, os, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))
for line in sys.stdin:
    asked = json.loads(line)
    if asked.get("method") == "initialize":
        info = {"name": "tests", "version": "1"}
        gives = {"protocolVersion": asked["params"]["protocolVersion"], "capabilities": {}, "serverInfo": info}
        print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": gives}), flush=True)
    elif asked.get("method") == "tools/list":
        pathlib.Path(sys.argv[1] + ".asked").touch()
        time.sleep(600)
    elif "id" in asked:
        print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "error": {"code": -32601, "message": "no"}}), flush=True)
"""


def living(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


async def test_a_program_that_will_not_end_ends_with_whoever_is_in_a_hurry(
    store: Store, vault: Vault, tmp_path: pathlib.Path
) -> None:
    command = [sys.executable, "-c", STUBBORN, str(tmp_path / "pid")]
    made = box(store, vault, files={"kind": "mcp", "command": command})
    task = asyncio.create_task(made.connector("files").probe())
    for _ in range(600):
        if (tmp_path / "pid.asked").exists():
            break
        await asyncio.sleep(0.05)
    # The first has it ended in its own time, the second cuts that short.
    for _ in range(2):
        task.cancel()
        await asyncio.sleep(0.1)
    with pytest.raises(asyncio.CancelledError):
        await task
    pid = int((tmp_path / "pid").read_text())
    for _ in range(100):
        if not living(pid):
            break
        await asyncio.sleep(0.05)
    assert not living(pid)


Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest.fixture
async def serving() -> AsyncIterator[Callable[[Handler], Awaitable[str]]]:
    runners: list[web.AppRunner] = []

    async def started(handler: Handler) -> str:
        app = web.Application()
        app.router.add_route("*", "/mcp", handler)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        runners.append(runner)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}/mcp"

    yield started
    for runner in runners:
        await runner.cleanup()


def over_http(url: str) -> dict[str, Any]:
    return {"kind": "mcp", "url": url, "private": ["127.0.0.0/8"], "timeout_s": 20, "most_bytes": MOST}


async def test_what_was_made_small_to_become_large_is_refused(store: Store, vault: Vault, serving: Any) -> None:
    asked: list[str] = []

    async def bomb(request: web.Request) -> web.StreamResponse:
        asked.append(request.headers.get("Accept-Encoding", ""))
        packed = zlib.compress(json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"x": "x" * 50_000_000}}).encode(), 9)
        return web.Response(body=packed, headers={"Content-Type": "application/json", "Content-Encoding": "deflate"})

    made = box(store, vault, files=over_http(await serving(bomb)))
    with pytest.raises(Invalid, match="packed"):
        await call(made, "files.add", {"a": 1, "b": 2})
    assert set(asked) == {"identity"}


@pytest.mark.parametrize("named", ["", "identity"])
async def test_an_answer_that_says_it_is_not_packed_is_taken(
    store: Store, vault: Vault, serving: Any, named: str
) -> None:
    async def plainly(request: web.Request) -> web.StreamResponse:
        asked = await request.json() if request.method == "POST" else {}
        if "id" not in asked:
            return web.Response(status=202 if asked else 405)
        gives: dict[str, dict[str, Any]] = {
            "initialize": {
                "protocolVersion": (asked.get("params") or {}).get("protocolVersion"),
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "tests", "version": "1"},
            },
            "tools/list": {"tools": [{"name": "add", "inputSchema": {"type": "object"}}]},
        }
        found = gives.get(asked["method"])
        said = {"error": {"code": -32601, "message": "no"}} if found is None else {"result": found}
        return web.json_response({"jsonrpc": "2.0", "id": asked["id"], **said}, headers={"Content-Encoding": named})

    made = box(store, vault, files=over_http(await serving(plainly)))
    assert "gives 1 tools" in await made.connector("files").probe()
