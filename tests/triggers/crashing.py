"""A program that runs the sources of triggers and kills itself once at each place of a plan."""

from __future__ import annotations

import asyncio
import json
import os
import pathlib
import signal
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from metier.calls import JSON, Principal, RunId
from metier.store import Store
from metier.triggers import Deployed, Event, Haste, Mark, Runner, Source, Taken, Triggers
from metier.triggers.intake import Starter
from metier.triggers.kinds import KINDS
from metier.vault import Vault
from metier.workflow.engine import Engine
from metier.workflow.shape import Workflow
from tests.triggers.house import Known, who

POINTS = ("read", "starting", "started", "noted", "settled")
HASTE = Haste(lease_s=0.6, beat_s=0.1, first_s=0.1, most_s=0.2)


class Plan:
    """Where to die, once each."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder

    def die(self, point: str) -> None:
        """Kill this very process, unless it died here before."""
        mark = self.folder / f"died-{point}"
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)


class Engaged:
    """An engine around which the process dies."""

    def __init__(self, inner: Starter, plan: Plan) -> None:
        self.inner = inner
        self.plan = plan

    async def start(
        self, workflow: Workflow, inputs: Mapping[str, JSON], principal: Principal, *, dedupe: str | None = None
    ) -> RunId:
        self.plan.die("starting")
        run = await self.inner.start(workflow, inputs, principal, dedupe=dedupe)
        self.plan.die("started")
        return run


class Watched:
    """A source around which the process dies."""

    def __init__(self, inner: Source, plan: Plan) -> None:
        self.inner = inner
        self.plan = plan

    async def events(self, state: JSON) -> AsyncGenerator[Event | Mark, None]:
        async with aclosing(self.inner.events(state)) as events:
            async for event in events:
                if isinstance(event, Event):
                    self.plan.die("read")
                yield event

    async def settle(self, event: Event, taken: Taken) -> None:
        self.plan.die("noted")
        await self.inner.settle(event, taken)
        self.plan.die("settled")


async def work(url: str, key: str, folder: pathlib.Path) -> None:
    """Run sources until told to stop by SIGTERM."""
    given, plan, stop = json.loads((folder / "given.json").read_text()), Plan(folder), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    vault = Vault(bytes.fromhex(key))
    async with Store(url, size=4) as store:
        engine = Engaged(Engine(store, vault, {}), plan)
        triggers = Triggers.built(store, vault, engine, who, Known(given["secrets"]), ca_file=given["ca_file"])

        async def opened(trigger: Deployed) -> Source:
            return Watched(await triggers.source(trigger), plan)

        await Runner(store, triggers.deployments, triggers.intake, KINDS, opened, HASTE).work(stop)


if __name__ == "__main__":
    asyncio.run(work(sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])))
