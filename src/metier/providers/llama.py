"""One user's connection to the shared llama.cpp server: find it, start it, wait for it, and say when it cannot be."""

from __future__ import annotations

import asyncio
import fcntl
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

import aiohttp

from metier.errors import ConfigError, ProviderUnavailable
from metier.providers import openmp
from metier.providers.cause import caused
from metier.providers.llama_files import Launch, LlamaFiles, Server, try_lock

__all__ = ["Llama", "Loading"]

Loading: TypeAlias = Callable[[str, float], None]
"""Told the file of a model that is being loaded, and for how many seconds."""

_LOAD_S = 180.0
_LOOK_S = 0.05
_STARTS = 3
_PER_S = 60.0
_DYING_S = 3.0
_PROBE = aiohttp.ClientTimeout(total=5)


class Llama:
    """Keeps a server of one launch alive while it is used, and starts another when it died."""

    def __init__(self, launch: Launch, loading: Loading) -> None:
        self._launch = launch
        self._files = LlamaFiles(launch)
        self._loading = loading
        self._turn = asyncio.Lock()
        self._use: int | None = None
        self._probed: Server | None = None
        self._starts: deque[float] = deque(maxlen=_STARTS)

    async def server(self) -> Server:
        """Give a server that answers, starting one if none lives; the first call waits for the model to load."""
        if self._probed is not None and self._lives(self._probed):
            return self._probed
        async with self._turn:
            self._files.prepare()
            begun, started = time.monotonic(), False
            await self._hold_use()
            while time.monotonic() - begun < _LOAD_S:
                found = self._files.read()
                if not self._files.owned():
                    self._blame(found, started)
                    await self._start()
                    started = True
                    continue
                if found is not None and not found.error and await _answers(found):
                    self._probed = found
                    return found
                self._loading(self._launch.model, time.monotonic() - begun)
                await asyncio.sleep(_LOOK_S)
        raise self._failure(f"was not ready after {_LOAD_S:g} s")

    async def examine(self, server: Server, cause: BaseException | None) -> bool:
        """See after a broken exchange whether the server lives, and tell whether that call is innocent of it."""
        if not isinstance(cause, aiohttp.ClientError):
            return False
        self._probed = None
        deadline = time.monotonic() + _DYING_S
        # A killed process keeps its lock and its port for the moment the kernel needs to take its memory back.
        while self._lives(server) and time.monotonic() < deadline:
            if await _answers(server):
                # It closes each connection after its answer; one that was kept for the next call fails there.
                return isinstance(cause, aiohttp.ClientConnectionError)
            await asyncio.sleep(_LOOK_S)
        return isinstance(cause, aiohttp.ClientConnectorError)

    async def count(self, body: bytes) -> int:
        """Have the model's own tokenizer count a message, where a server already holds the model: none is started."""
        server = self._files.read() if self._files.owned() else None
        if server is None or server.error:
            raise self._failure("holds no model yet, and none is loaded only to count")
        headers = {"authorization": f"Bearer {server.key}", "content-type": "application/json"}
        try:
            async with (
                aiohttp.ClientSession(timeout=_PROBE, headers=headers) as client,
                client.post(f"{server.url}/messages/count_tokens", data=body) as response,
            ):
                response.raise_for_status()
                return int((await response.json())["input_tokens"])
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError) as error:
            raise self._failure("did not count the message") from error

    def _lives(self, server: Server) -> bool:
        return self._files.owned() and self._files.read() == server

    def close(self) -> None:
        """Stop using the server; it goes by itself when nobody else does."""
        if self._use is not None:
            os.close(self._use)
            self._use = None
        self._probed = None

    async def _hold_use(self) -> None:
        while self._use is None:
            self._use = try_lock(self._files.users, fcntl.LOCK_SH)
            if self._use is None:
                await asyncio.sleep(_LOOK_S)

    def _blame(self, found: Server | None, started: bool) -> None:
        now = time.monotonic()
        said = f" ({found.error!r})" if found is not None and found.error else ""
        if started:
            raise self._failure(f"ended while the model was loading{said}")
        # What dies again and again is not started again and again.
        if len(self._starts) == _STARTS and now - self._starts[0] < _PER_S:
            wait_s = _PER_S - (now - self._starts[0])
            raise self._failure(f"died {_STARTS} times in a row{said}; it is tried again in {wait_s:.0f} s")
        self._starts.append(now)

    async def _start(self) -> None:
        if find_spec("xllamacpp") is None:
            raise ConfigError("running a model on this machine needs more than the core: install metier[local]")
        self._probed = None
        await asyncio.to_thread(_spawn, self._files, self._launch)

    def _failure(self, what: str) -> ProviderUnavailable:
        told = f"the local server of {self._launch.model!r} {what}; its log is {str(self._files.log)!r}"
        return caused(ProviderUnavailable(told), "local_server")


def _spawn(files: LlamaFiles, launch: Launch) -> None:
    log = os.open(files.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        command = [sys.executable, "-P", "-m", "metier.providers.llama_child", launch.text()]
        if not openmp.installed():
            command = openmp.lent(command, Path(launch.home) / "programs" / "openmp")
        subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False, timeout=60)
    finally:
        os.close(log)


async def _answers(server: Server) -> bool:
    headers = {"authorization": f"Bearer {server.key}"}
    try:
        async with (
            aiohttp.ClientSession(timeout=_PROBE, headers=headers) as client,
            client.get(f"{server.url}/models") as response,
        ):
            return response.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False
