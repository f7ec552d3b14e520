"""A small house for the tests of triggers: an engine that starts runs, secrets that are known, flows with triggers."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace

from metier.calls import JSON, KeyId, Principal
from metier.errors import NotFound
from metier.store import Store
from metier.triggers import Haste, Triggers
from metier.vault import Vault
from metier.workflow.context import Clock, utc
from metier.workflow.engine import Engine, StepContext
from metier.workflow.shape import Mark, Trigger, TriggerKind, Workflow
from tests.workflow.flows import WHO, flow, step

__all__ = ["HASTE", "House", "Known", "soon", "told", "trigger", "triggered", "who"]

HASTE = Haste(lease_s=60.0, beat_s=0.1, first_s=0.2, most_s=0.4)


class Known:
    """Secrets that tests set."""

    def __init__(self, values: Mapping[str, str] | None = None) -> None:
        self.values = dict(values or {})

    async def get(self, name: str, connector: str, *, organisation: str = "main", project: str | None = None) -> str:
        if name not in self.values:
            raise NotFound(f"{connector!r} needs the secret {name!r} of {project!r} in {organisation!r}")
        return self.values[name]


async def who(key: KeyId) -> Principal:
    return replace(WHO, key_id=key)


async def told(context: StepContext, given: dict[str, JSON]) -> JSON:
    """A step that gives back what it was given."""
    return given


def trigger(
    kind: TriggerKind,
    config: Mapping[str, JSON] | None = None,
    with_: Mapping[str, JSON] | None = None,
    dedupe: str | None = None,
    when: str | None = None,
) -> Trigger:
    return Trigger(kind, config or {}, with_ or {}, dedupe, when, Mark("flow.yaml", 3, 5))


def triggered(*triggers: Trigger, inputs: Mapping[str, JSON] | None = None, name: str = "flow") -> Workflow:
    """Make a flow of one step that gives its inputs back."""
    plain = flow(step("a", with_={"given": "{{ inputs }}"}), output="{{ steps.a.given }}", name=name)
    schema: dict[str, JSON] = {"type": "object", **({"properties": dict(inputs)} if inputs else {})}
    made = replace(plain, inputs=schema, triggers=triggers)
    return replace(made, hash=hashlib.sha256(json.dumps([name, schema]).encode()).hexdigest())


class House:
    """Everything one test of triggers needs."""

    def __init__(self, store: Store, vault: Vault, *, clock: Clock = utc, ca_file: str | None = None) -> None:
        self.store = store
        self.secrets = Known()
        self.engine = Engine(store, vault, {"code": told})
        self.triggers = Triggers.built(store, vault, self.engine, who, self.secrets, ca_file=ca_file, clock=clock)

    async def deploy(self, workflow: Workflow) -> str:
        """Deploy a flow of one trigger and give the id of that."""
        (found,) = await self.triggers.deployments.deploy(workflow, WHO, "ada")
        return found.id

    async def runs(self) -> list[Mapping[str, JSON]]:
        """The inputs of every run, oldest first."""
        async with self.store.connection() as connection:
            rows = await (await connection.execute("SELECT id FROM runs ORDER BY created_at, id")).fetchall()
        return [await self.engine.inputs(row["id"]) for row in rows]

    async def count(self) -> int:
        """How many runs there are."""
        async with self.store.connection() as connection:
            row = await (await connection.execute("SELECT count(*) AS n FROM runs")).fetchone()
        assert row is not None
        return int(row["n"])

    @contextlib.asynccontextmanager
    async def working(self, haste: Haste = HASTE) -> AsyncIterator[asyncio.Event]:
        """A worker that runs sources while the block does."""
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            working = group.create_task(self.triggers.runner(haste).work(stop))
            try:
                yield stop
            finally:
                stop.set()
                await working

    async def settled(self, uid: int) -> None:
        """Wait until the only trigger has taken and settled a mailbox up to this message, which follows its run."""
        async with asyncio.timeout(60):
            while True:
                (found,) = await self.triggers.deployments.list()
                if isinstance(found.state, dict) and found.state["uid"] == uid:
                    return
                await asyncio.sleep(0.02)

    async def until(self, runs: int) -> None:
        """Wait until there are that many runs, which is before their events are counted and settled."""
        async with asyncio.timeout(60):
            while True:
                if await self.count() >= runs:
                    return
                await asyncio.sleep(0.02)


async def soon(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(60):
        while True:
            if holds():
                return
            await asyncio.sleep(0.02)
