"""The two machines of a day: what serves on each, what it costs, and what it leaves."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import psutil

__all__ = ["Node", "free_port", "until"]

_METIER = "from metier.cli import main; main()"


def free_port() -> int:
    """A port nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        return int(held.getsockname()[1])


@dataclass(slots=True)
class Node:
    """One machine of the two: a home, a port, and the processes that serve there."""

    name: str
    home: pathlib.Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    def start(self, environment: Mapping[str, str], workers: int) -> None:
        """Start it; what it says goes to a file in its home."""
        self.home.mkdir(exist_ok=True)
        command = [sys.executable, "-c", _METIER, "serve", "--port", str(self.port), "--workers", str(workers),
                   "--behind-proxy", "--no-work", "--notice", "1"]  # fmt: skip
        own = {**os.environ, **environment, "METIER_HOME": str(self.home), "METIER_LOG_LEVEL": "warning"}
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen(command, env=own, stdout=log, stderr=log, start_new_session=True)

    def workers(self) -> list[psutil.Process]:
        """The processes that serve."""
        assert self.process is not None
        return psutil.Process(self.process.pid).children()

    def used(self) -> float:
        """CPU seconds of everything that serves or served here."""
        assert self.process is not None
        top = psutil.Process(self.process.pid)
        times = [top.cpu_times()]
        for one in top.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                times.append(one.cpu_times())
        return sum(t.user + t.system + t.children_user + t.children_system for t in times)

    def memory(self) -> list[int]:
        """Megabytes of each worker."""
        return [round(one.memory_info().rss / 1e6) for one in self.workers()]

    async def ready(self) -> None:
        """Wait until all its workers serve."""
        assert self.process is not None
        for _ in range(1200):
            said = (self.home / "log").read_text(errors="replace")
            if "Ready:" in said:
                return
            if self.process.poll() is not None:
                break
            await asyncio.sleep(0.1)
        sys.exit(f"node {self.name} is not ready: {said[-2000:]}")

    async def stop(self) -> int:
        """Ask it to end, and give the code it ends with."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.to_thread(self.process.wait, 90)

    def left(self) -> list[str]:
        """Files of the spool that hold anything."""
        found = [path for path in (self.home / "spool").rglob("*") if path.is_file() and path.stat().st_size]
        return [f"{path.relative_to(self.home)} ({path.stat().st_size} bytes)" for path in found]


async def until(true: Callable[[], bool], what: str, seconds: float = 120.0) -> None:
    """Wait for something that comes."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not come within {seconds:.0f} s")
        await asyncio.sleep(0.05)
