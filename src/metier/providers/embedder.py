"""Embeddings on this machine: multilingual-e5-small behind pipes to a child process that may crash or idle away."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from metier import weights
from metier.calls import Call, Chunk, Usage
from metier.catalog import Deployment
from metier.deferred import deferred
from metier.errors import ConfigError, Invalid, ProviderTimeout, ProviderUnavailable
from metier.providers.base import texts_of
from metier.providers.cause import caused
from metier.providers.embedder_frames import LENGTH, VECTORS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
else:
    np = deferred("numpy")

__all__ = ["Embedder"]

_REQUEST_TEXTS = 32
_RESTARTS = 1
_GRACE_S = 0.3


class Embedder:
    """Answers "embed" calls with the weights kept under `home`; one child process serves all of them in turn."""

    def __init__(self, home: Path, *, threads: int = 0, idle_s: float = 300.0) -> None:
        self._home = home
        self._threads = threads
        self._idle_s = idle_s
        self._children: dict[str, _Child] = {}

    async def stream(self, call: Call, deployment: Deployment) -> AsyncIterator[Chunk]:
        """Embed the inputs of the call; the one chunk carries unit vectors, in order, and the tokens read."""
        if not call.inputs:
            raise Invalid("embedding needs at least one text: `input` is empty", param="input")
        child = self._child(deployment)
        texts = texts_of(call, deployment.model_id)
        parts: list[NDArray[np.float32]] = []
        tokens = 0
        try:
            async with asyncio.timeout(deployment.timeout_s):
                # In short requests, so that a question does not wait behind a whole document.
                for start in range(0, len(texts), _REQUEST_TEXTS):
                    vectors, read = await child.embed(texts[start : start + _REQUEST_TEXTS])
                    parts.append(vectors)
                    tokens += read
        except TimeoutError as error:
            late = ProviderTimeout(
                f"embedding {len(call.inputs)} texts with {deployment.model_id!r} took over "
                f"{deployment.timeout_s:g} s; send fewer at once, or raise the time the deployment is given"
            )
            raise caused(late, "answer_timeout") from error
        found = tuple(tuple(row) for part in parts for row in part.tolist())
        yield Chunk(vectors=found, usage=Usage(input_tokens=tokens))

    async def close(self) -> None:
        """End the child processes."""
        for child in self._children.values():
            await child.close()
        self._children.clear()

    @property
    def pids(self) -> tuple[int, ...]:
        """Processes that hold the weights now, so that their power and memory can be measured."""
        return tuple(pid for child in self._children.values() if (pid := child.pid) is not None)

    def _child(self, deployment: Deployment) -> _Child:
        name = deployment.model_id
        if name not in self._children:
            source = weights.find(self._home, name)
            if source is None:
                absent = f"embedding with {name!r} failed: its weights are not on this machine; fetch them once"
                raise caused(ProviderUnavailable(absent), "no_weights")
            pinned = next(w for w in weights.known() if w.name == name)
            arguments = (str(source), pinned.sha256, str(weights.folder(self._home) / name))
            log = self._home / "logs" / "embedder.log"
            command = (*arguments, str(self._threads), str(self._idle_s))
            self._children[name] = _Child(command, log, name)
        return self._children[name]


class _Child:
    def __init__(self, arguments: Sequence[str], log: Path, name: str) -> None:
        self._arguments = arguments
        self._log = log
        self._name = name
        self._turn = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._unread = 0
        self._coming: int | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process and self._process.returncode is None else None

    async def embed(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], int]:
        request = orjson.dumps(list(texts))
        async with self._turn:
            for attempt in range(_RESTARTS + 1):
                try:
                    answer = await self._exchange(request)
                    break
                except (asyncio.IncompleteReadError, ConnectionError) as error:
                    await self._end()
                    if attempt == _RESTARTS:
                        ended = f"embedding with {self._name!r} failed: its process ended; {str(self._log)!r} says why"
                        raise caused(ProviderUnavailable(ended), "local_server") from error
        rows, tokens = VECTORS.unpack_from(answer)
        if not rows:
            raise ProviderUnavailable(f"embedding with {self._name!r} failed: {answer[VECTORS.size :].decode()}")
        return np.frombuffer(answer, np.float32, offset=VECTORS.size).reshape(rows, -1), tokens

    async def _exchange(self, request: bytes) -> bytes:
        process = self._process
        if process is None or process.returncode is not None:
            process = await self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        # Callers that left before their answer came leave it in the pipe.
        while self._unread:
            await self._frame(process.stdout)
        process.stdin.write(LENGTH.pack(len(request)) + request)
        self._unread += 1
        await process.stdin.drain()
        return await self._frame(process.stdout)

    async def _frame(self, pipe: asyncio.StreamReader) -> bytes:
        # Each read is all or nothing, so a cancelled reader leaves the pipe where the next one can go on.
        if self._coming is None:
            self._coming = LENGTH.unpack(await pipe.readexactly(LENGTH.size))[0]
        frame = await pipe.readexactly(self._coming)
        self._coming, self._unread = None, self._unread - 1
        return frame

    async def _start(self) -> asyncio.subprocess.Process:
        await self._end()
        if not all(map(find_spec, ("onnx", "onnxruntime"))):
            raise ConfigError(f"embedding with {self._name!r} needs more than the core: install metier[local]")
        module = "metier.providers.embedder_child"
        log = await asyncio.to_thread(_open_log, self._log)
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", module, *self._arguments,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=log,
                limit=1 << 24, start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(log)
        return self._process

    async def _end(self) -> None:
        process, self._process, self._unread, self._coming = self._process, None, 0, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            async with asyncio.timeout(_GRACE_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    async def close(self) -> None:
        async with self._turn:
            await self._end()


def _open_log(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
