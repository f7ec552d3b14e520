"""A process that makes calls and kills itself at a chosen step: the n-th line of the record room it runs.

`python -m tests.record.killed URL FOLDER PROJECT SYSTEM KILLS SEED` forks as many children, each killed at another
step, and tells `child STEP`, `opened ID` and `answered ID` as they happen, `lines N` at the end.
"""

from __future__ import annotations

import asyncio
import os
import pathlib
import random
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any

from metier.calls import Call, Chunk, KeyId, Message, Principal, ProjectId, SystemId, Usage
from metier.catalog import Catalog
from metier.governance.register import Register
from metier.policy.keys import Keys
from metier.record import contents, entry, ledger, spool
from metier.store import Store
from tests.record.world import CATALOG, VAULT, World

ROOM = {module.__file__ for module in (contents, entry, ledger, spool)}


class Killer:
    """Counts the lines of the record room that run, and kills its process at one of them, without a word."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.count = 0

    def __call__(self, frame: FrameType, event: str, _: Any) -> Any:
        """Be asked at every call of a function and at every line of those of the room."""
        if frame.f_code.co_filename not in ROOM:
            return None
        if event == "line":
            self.count += 1
            if self.count == self.at:
                os.kill(os.getpid(), signal.SIGKILL)
        return self


def say(*words: object) -> None:
    """Tell what happened before anything else happens."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


async def one(world: World, store_ledger: ledger.Ledger, admission: Any, number: int) -> None:
    """One call by the whole road of a record: held, opened, answered, ended."""
    words = (Message("user", f"question {number}"),)
    call = Call(world.principal, "chat", messages=words, max_output_tokens=50, end_user=f"client {number % 2}")
    async with store_ledger.entry(call) as record:
        await admission.admit(call, world.model, record)
        say("opened", call.id)
        record.deployment = world.deployment
        record.observe(Chunk("Salut", usage=Usage(1, 20)))
        if record.transcript is not None:
            record.transcript.shown(Chunk("Salut"))
        record.receipt()
    say("answered", call.id)


async def work(house: Sequence[str], worker: str) -> None:
    """Recover what the dead left, make calls, flush between them, and close."""
    url, folder, project, system = house
    async with Store(url, size=2) as store:
        principal = Principal(KeyId("abc"), ProjectId(project), SystemId(system))
        register = Register(store)
        keys = Keys(store, VAULT, register.statuses, frozenset())
        world = World(store, register, keys, Catalog.from_yaml(CATALOG), principal, pathlib.Path(folder))
        admission = world.admission(worker)
        mine, records = world.recording(worker, admission)
        await records.contents.refresh()
        # First, as in a real process: the dead hold money until then.
        await mine.recover()
        await one(world, mine, admission, 0)
        await mine.flush()
        for number in (1, 2):
            await one(world, mine, admission, number)
        await mine.close()


def forked(arguments: Sequence[str], step: int) -> int:
    """Do the work in a child that dies at a step, if it comes so far; gives the lines it ran when it did not."""
    say("child", step)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        killer = Killer(step)
        sys.settrace(killer)
        asyncio.run(work(arguments, f"worker_{step}"))
        sys.settrace(None)
        os.write(writing, str(killer.count).encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(pid, 0)
    lines = os.read(reading, 20)
    os.close(reading)
    return int(lines or 0)


def main() -> None:
    """Count the steps of a child nobody kills, then kill others at as many of them as asked, each at another."""
    *arguments, kills, seed = sys.argv[1:]
    lines = forked(arguments, 0)
    for step in random.Random(int(seed)).sample(range(1, lines), k=min(int(kills), lines - 1)):
        forked(arguments, step)
    say("lines", lines)


if __name__ == "__main__":
    main()
