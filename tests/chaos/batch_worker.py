"""A program that keeps a worker of batches alive: it forks one, and the next when that one dies by kill -9."""

from __future__ import annotations

import asyncio
import json
import os
import pathlib
import signal
import sys
from collections.abc import AsyncGenerator
from typing import Any

from metier.api import failures
from metier.batches import Batches, Files, Road, Rules, Runner, StoredFile
from metier.calls import Answer, Call, KeyId, Principal, Usage
from metier.store import Store
from metier.vault import Vault
from metier.workflow.dispatch import Pace
from tests.batches.house import CHAT, WHO, chat, said
from tests.chaos.supervising import supervise

PACE = Pace(heartbeat_s=0.1, stall_s=2.0, recover_s=0.15, poll_s=0.2, grace_s=0.3, concurrency=6)
RULES = Rules(concurrency=4, project_concurrency=8)
CALL_POINTS = ("before", "bought", "leaving", "left")
FILE_POINTS = ("read", "written")


class Deaths:
    """Kills its own process once at each place of the plan, and writes down what survives it."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder

    def due(self, what: str, point: str) -> bool:
        """Whether the plan has a death here that has not been died yet."""
        plan = json.loads((self.folder / "plan.json").read_text())
        return [what, point] in plan and not self._mark(what, point).exists()

    def die(self, what: str, point: str) -> None:
        """Kill this very process, once for each place of the plan."""
        if self.due(what, point):
            self._mark(what, point).touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def write(self, line: str) -> None:
        """Append a line that survives the process."""
        with (self.folder / "log").open("a", encoding="utf-8") as log:
            log.write(line + "\n")

    def _mark(self, what: str, point: str) -> pathlib.Path:
        return self.folder / f"died {what} {point}"


class DeadlyFiles(Files):
    """Files whose worker dies while a batch is read, and while its results are written."""

    def __init__(self, store: Store, vault: Vault, deaths: Deaths) -> None:
        super().__init__(store, vault, RULES)
        self._deaths = deaths

    async def content(self, id: str, size: int, start: int = 0) -> AsyncGenerator[bytes, None]:
        """Give the first piece, and die."""
        async for piece in super().content(id, size, start):
            yield piece
            if start == 0:
                self._deaths.die("file", "read")

    async def store(self, *given: Any, **more: Any) -> StoredFile:
        """Write the file, and die before anybody knows."""
        stored = await super().store(*given, **more)
        self._deaths.die("file", "written")
        return stored


class Model:
    """Answers, writes down what was paid for, and says when an answer that is kept is paid for again."""

    def __init__(self, store: Store, deaths: Deaths) -> None:
        self._store = store
        self._deaths = deaths

    async def ask(self, call: Call) -> Answer:
        """Give the answer to one call, or die around it."""
        text, loop = said(call), asyncio.get_running_loop()
        assert call.origin is not None
        number = int(call.origin.path.removeprefix("line "))
        query = "SELECT 1 FROM batch_lines WHERE batch = %s AND number = %s AND answer IS NOT NULL"
        async with self._store.connection() as connection:
            if await (await connection.execute(query, (call.origin.run, number))).fetchone():
                self._deaths.write(f"repeated {text}")
        self._deaths.die(text, "before")
        self._deaths.write(f"bought {text}")
        await asyncio.sleep(0.005)
        self._deaths.die(text, "bought")
        if self._deaths.due(text, "leaving"):
            loop.call_soon(self._deaths.die, text, "leaving")
        elif self._deaths.due(text, "left"):
            loop.call_later(0.004, self._deaths.die, text, "left")
        return Answer(f"re: {text}", (), "stop", Usage(3, 2), None)


async def _who(_: KeyId) -> Principal:
    return WHO


async def work(url: str, key: str, folder: pathlib.Path) -> None:
    """Be a worker until told to stop by SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    vault, deaths = Vault(bytes.fromhex(key)), Deaths(folder)
    async with Store(url, size=8) as store:
        batches = Batches(store, vault, DeadlyFiles(store, vault, deaths), pace=PACE)
        road = Road(Model(store, deaths).ask, _who, failures.body)
        await Runner(batches, {CHAT: chat}, road).work(stop)


def main(url: str, key: str, folder: str) -> None:
    """Keep a worker alive until this program is told to stop."""
    pid = pathlib.Path(folder) / f"worker {os.getpid()}"
    supervise(lambda: work(url, key, pathlib.Path(folder)), lambda child: pid.write_text(str(child)))


if __name__ == "__main__":
    main(*sys.argv[1:])
