"""The connector to MCP servers, against a real one in a process of its own, over its input and over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import pathlib
import socket
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from metier.calls import JSON
from metier.connectors.secrets import Secrets
from metier.connectors.tools import Toolbox
from metier.errors import ConfigError, Invalid, NotFound, StepFailed, Unavailable
from metier.store import Store
from metier.vault import Vault
from tests.connectors.place import Place, box

TOKEN = "canary-token-of-mcp"
PROGRAM = str(pathlib.Path(__file__).with_name("mcpserver.py"))


def stdio(tmp_path: pathlib.Path, **more: Any) -> dict[str, Any]:
    command = [sys.executable, PROGRAM, str(tmp_path / "kept")]
    return {"kind": "mcp", "command": command, "secret_env": {"TOKEN": "mcp"}, "timeout_s": 20, **more}


@pytest.fixture
async def url(tmp_path: pathlib.Path) -> AsyncIterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        sys.executable, PROGRAM, str(tmp_path / "kept"), str(port),
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    for _ in range(200):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.1)
        else:
            writer.close()
            await writer.wait_closed()
            break
    yield f"http://127.0.0.1:{port}/mcp"
    process.kill()
    await process.wait()


async def call(made: Toolbox, name: str, with_: dict[str, JSON], key: str = "run_1/t") -> JSON:
    return await made[name](Place(key), with_)


def kept(tmp_path: pathlib.Path) -> list[str]:
    path = tmp_path / "kept"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


async def told(store: Store, vault: Vault) -> None:
    await Secrets.built(store, vault).set("mcp", TOKEN, scope=["files"], by="ada")


async def test_tools_are_listed_with_schemas_and_called(store: Store, vault: Vault, tmp_path: pathlib.Path) -> None:
    await told(store, vault)
    made = box(store, vault, files=stdio(tmp_path))
    specs = {spec.name: spec for spec in await made.matching(["files.*"])}
    assert specs["files.add"].effect is False and specs["files.note"].effect is True
    assert specs["files.add"].schema["required"] == ["a", "b"] and "Add two" in specs["files.add"].description
    assert await call(made, "files.add", {"a": 2, "b": 3}) == {"result": 5}
    assert await call(made, "files.spell", {"word": "été"}) == {"result": "é-t-é"}
    with pytest.raises(Invalid, match="does not fit its schema"):
        await call(made, "files.add", {"a": "two", "b": 3})
    with pytest.raises(NotFound, match="no tool"):
        await call(made, "files.none", {})


async def test_what_changes_something_is_done_once(store: Store, vault: Vault, tmp_path: pathlib.Path) -> None:
    await told(store, vault)
    made = box(store, vault, files=stdio(tmp_path))
    for _ in range(2):
        assert await call(made, "files.note", {"text": "hello"}) == {"noted": "hello"}
    assert kept(tmp_path) == ["hello"]


async def test_a_server_that_dies_in_the_middle_leaves_a_doubt_for_a_person(
    store: Store, vault: Vault, tmp_path: pathlib.Path
) -> None:
    await told(store, vault)
    made = box(store, vault, files=stdio(tmp_path))
    with pytest.raises(Unavailable):
        await call(made, "files.die", {"text": "once"})
    with pytest.raises(StepFailed, match="metier review settle"):
        await call(made, "files.die", {"text": "once"})
    assert kept(tmp_path) == ["once"]


async def test_secrets_and_words_of_a_server_go_no_further(store: Store, vault: Vault, tmp_path: pathlib.Path) -> None:
    await told(store, vault)
    made = box(store, vault, files=stdio(tmp_path))
    answer = str(await call(made, "files.whoami", {}))
    assert "[secret]" in answer and TOKEN not in answer
    with pytest.raises(Invalid, match="says that it failed") as failed:
        await call(made, "files.fail", {})
    assert "canary" not in str(failed.value)


async def test_a_server_that_does_not_answer_is_left(store: Store, vault: Vault, tmp_path: pathlib.Path) -> None:
    await told(store, vault)
    made = box(store, vault, files=stdio(tmp_path))
    specs = {spec.name: spec for spec in await made.matching(["files.*"])}
    connector: Any = made.connector("files")
    connector._timeout_s = 2.0
    with pytest.raises(Unavailable):
        await specs["files.hang"](Place(), {})


async def test_a_program_that_is_not_there_is_told(store: Store, vault: Vault, tmp_path: pathlib.Path) -> None:
    made = box(store, vault, files={"kind": "mcp", "command": [str(tmp_path / "none")]})
    with pytest.raises(Unavailable, match="cannot be reached"):
        await call(made, "files.add", {"a": 1, "b": 2})


async def test_a_server_over_http_is_called_at_the_address_that_was_checked(
    store: Store, vault: Vault, url: str, tmp_path: pathlib.Path
) -> None:
    made = box(store, vault, files={"kind": "mcp", "url": url, "private": ["127.0.0.0/8"], "tools": ["add", "note"]})
    assert await call(made, "files.add", {"a": 2, "b": 3}) == {"result": 5}
    await call(made, "files.note", {"text": "web"})
    await call(made, "files.note", {"text": "web"})
    assert kept(tmp_path) == ["web"]
    assert await made.connector("files").probe() == "files gives 2 tools: files.add, files.note"
    with pytest.raises(Invalid, match="inside a network"):
        await call(
            box(store, vault, files={"kind": "mcp", "url": url.replace("127.0.0.1", "localhost")}), "files.add", {}
        )
    with pytest.raises(Unavailable):
        gone = {"kind": "mcp", "url": "http://127.0.0.1:9/mcp", "private": ["127.0.0.0/8"]}
        await call(box(store, vault, files=gone), "files.add", {"a": 1, "b": 2})


async def test_what_would_be_called_is_shown(store: Store, vault: Vault, tmp_path: pathlib.Path) -> None:
    await told(store, vault)
    shown = await box(store, vault, files=stdio(tmp_path)).connector("files").preview("note", {"text": "x"})
    assert shown == {"tool": "note", "arguments": {"text": "x"}, "effect": True} and kept(tmp_path) == []


@pytest.mark.parametrize(
    "entry",
    [{}, {"command": "ls -l"}, {"command": ["a"], "url": "https://x.example"}, {"command": ["a"], "env": {"A": 1}}],
)
def test_a_wrong_entry_is_refused(store: Store, vault: Vault, entry: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        box(store, vault, files={"kind": "mcp", **entry})


async def test_a_server_that_answers_without_end_is_cut_off(store: Store, vault: Vault) -> None:
    sent = 0

    async def endless(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        answer = web.StreamResponse(headers={"Content-Type": "application/json"})
        await answer.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await answer.write(b" " * 500_000)
                sent += 500_000
        return answer

    app = web.Application()
    app.router.add_route("*", "/mcp", endless)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]  # asyncio's
    entry = {"kind": "mcp", "url": f"http://127.0.0.1:{port}/mcp", "private": ["127.0.0.0/8"], "timeout_s": 20}
    try:
        with pytest.raises(Invalid, match="more than 1,000,000 bytes"):
            await call(box(store, vault, files={**entry, "most_bytes": 1_000_000}), "files.add", {"a": 1, "b": 2})
    finally:
        await runner.cleanup()
    assert sent < 60_000_000
