"""An MCP server as a program of this machine: what it sends is taken within a bound, and it ends with its session."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import anyio

from metier.errors import Invalid

__all__ = ["Meter", "program"]

_PIECE = 65_536
_TIMES = 3
"""How often an answer may come: servers send it as values, and once more as text, with each quote in it escaped."""
_AROUND = 1_000_000
"""Bytes the protocol may take beside an answer."""
_GRACE_S = 2.0
"""How long a program may take to end when its input ends, and again when it is asked to."""
_LOOK_S = 0.01


class Meter:
    """Counts the bytes of a session, of an answer with all that is said around it."""

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self._most = most
        self._left = _TIMES * most + _AROUND
        self.refused: Invalid | None = None
        """Why no more is taken, once that is so."""

    def takes(self, size: int) -> bool:
        """Count bytes that have come; False when they are too many."""
        self._left -= size
        if self._left < 0:
            self.refused = self.refused or Invalid(
                f"{self._name!r} answered more than {self._most:,} bytes: raise `most_bytes:`"
            )
        return self.refused is None

    def packed(self, way: str) -> None:
        """Note that an answer came packed: nobody knows how large it is."""
        self.refused = Invalid(f"{self._name!r} answered packed as {way!r}, though asked not to: its size is not known")


@contextlib.asynccontextmanager
async def program(
    command: Sequence[str], env: Mapping[str, str], folder: str | None, meter: Meter
) -> AsyncIterator[tuple[Any, Any]]:
    """Start a program, and give streams of its messages; what it writes beside them goes nowhere.

    The transport of the library takes a line of any length, and any number of them, so it is not used.
    """
    from mcp.client.stdio import get_default_environment
    from mcp.shared.message import SessionMessage

    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        cwd=folder, env={**get_default_environment(), **env}, start_new_session=True, limit=_PIECE,
    )  # fmt: skip
    heard, inward = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    outward, said = anyio.create_memory_object_stream[SessionMessage](0)
    assert process.stdin is not None and process.stdout is not None
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_hear, process.stdout, heard, meter)
            tasks.start_soon(_say, process.stdin, said, heard)
            try:
                yield inward, outward
            finally:
                with anyio.CancelScope(shield=True):
                    for stream in (inward, outward):
                        await stream.aclose()
                    await _end(process, polite=meter.refused is None)
                tasks.cancel_scope.cancel()
    finally:
        _let_go(process)
        for stream in (heard, inward, outward, said):
            stream.close()


async def _hear(output: asyncio.StreamReader, heard: Any, meter: Meter) -> None:
    """Hand on messages line by line; where they are too many, the session ends as if the program had."""
    line = bytearray()
    with contextlib.suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):
        async with heard:
            while (piece := await output.read(_PIECE)) and meter.takes(len(piece)):
                *ended, rest = piece.split(b"\n")
                for one in ended:
                    line += one
                    await heard.send(_message(bytes(line)))
                    line.clear()
                line += rest
    del line
    if meter.refused is None:
        # A program that still has something to say could not end while nobody takes it.
        while await output.read(_PIECE):
            pass


def _message(line: bytes) -> Any:
    from mcp.shared.message import SessionMessage
    from mcp.types import jsonrpc_message_adapter

    try:
        return SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False))
    except ValueError as error:
        return error


async def _say(input_: asyncio.StreamWriter, said: Any, heard: Any) -> None:
    try:
        async for one in said:
            input_.write(one.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n")
            await input_.drain()
    except OSError:
        # Nobody reads it any more, so nobody will answer.
        await heard.aclose()
    finally:
        input_.close()


async def _end(process: asyncio.subprocess.Process, *, polite: bool) -> None:
    """Wait for the end of a program whose input has ended; then end it, with all that it started."""
    if not polite or not await _ended(process):
        for sent in (signal.SIGTERM, signal.SIGKILL) if polite else (signal.SIGKILL,):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, sent)
            if await _ended(process):
                break


def _let_go(process: asyncio.subprocess.Process) -> None:
    """End what is still there at once: whoever waited for it to end may have been cancelled meanwhile."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    # What it started may hold its output open, and asyncio has no public way to let go of it.
    transport = getattr(process, "_transport", None)
    if transport is not None:
        transport.close()


async def _ended(process: asyncio.subprocess.Process) -> bool:
    """Tell whether it ends in time; asyncio's own wait also waits for whoever holds its output."""
    with anyio.move_on_after(_GRACE_S):
        while process.returncode is None:  # noqa: ASYNC110  # what would tell it waits for whoever holds its output too
            await anyio.sleep(_LOOK_S)
    return process.returncode is not None
