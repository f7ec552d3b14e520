"""A small world for the tests of money and records: a catalogue, an approved system, a project."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from metier.calls import Call, Chunk, KeyId, Message, Principal, ProjectId, SystemId, Usage
from metier.catalog import Catalog, Deployment, Model
from metier.governance.register import ADMITTED, Register
from metier.policy.admission import Admission
from metier.policy.keys import Keys
from metier.policy.leases import forgetting
from metier.record.entry import Entry
from metier.record.keeping import Capture
from metier.record.ledger import Ledger
from metier.record.records import Records
from metier.store import Row, Store
from metier.vault import Vault

__all__ = ["VAULT", "World", "build", "one", "rows", "said", "spend"]

VAULT = Vault(bytes(32))
"""What seals in these tests; the same in every process of one."""

CATALOG = {
    "chat": {
        "deployments": [
            {
                "provider": "openai",
                "model_id": "gpt-4o-mini",
                "price": {"input": 1, "output": 1000},
                "max_output_tokens": 1000,
            }
        ]
    },
    "local": {"deployments": [{"provider": "local", "model_id": "qwen"}]},
}


@dataclass(slots=True)
class World:
    """What a test needs in its hands."""

    store: Store
    register: Register
    keys: Keys
    catalog: Catalog
    principal: Principal
    folder: pathlib.Path

    def admission(self, worker: str) -> Admission:
        """An admission of its own, as another worker would have."""
        return Admission(self.store, worker, self.register.statuses, ADMITTED)

    def ledger(self, worker: str, admission: Admission, most_bytes: int = 1 << 26) -> Ledger:
        """An opened ledger whose leases are those of `admission`."""
        ledger = Ledger(
            self.store,
            self.folder,
            worker,
            admission.charge,
            admission.settle_worker,
            most_bytes=most_bytes,
        )
        ledger.open()
        return ledger

    def recording(self, worker: str, admission: Admission) -> tuple[Ledger, Records]:
        """An opened ledger that keeps contents, and what is done with them."""
        ledger = self.ledger(worker, admission)
        return ledger, Records(self.store, VAULT, ledger, forgetting(self.store))

    async def capture(self, records: Records, mode: Capture) -> None:
        """Have the contents of the approved system captured from now on."""
        await records.keepings.decide(self.principal.system, "Claire", "a test", capture=mode)
        await records.contents.refresh()

    def call(self, model: str = "chat", output: int | None = None) -> Call:
        """A short call of the approved system."""
        return Call(self.principal, model, messages=(Message("user", "Bonjour"),), max_output_tokens=output)

    @property
    def model(self) -> Model:
        """The priced model: 1 € per million input tokens, 0.001 € per output token."""
        return self.catalog.model("chat")

    @property
    def deployment(self) -> Deployment:
        """The only deployment behind it."""
        return self.model.deployments[0]


async def build(store: Store, folder: pathlib.Path, limit: str | None = None) -> World:
    """Register and approve a system, make a project, give it a budget where asked."""
    register = Register(store)
    system = await register.register("Assistant", "Répondre aux clients", "Nadia")
    await register.approve(system.id, "Claire")
    keys = Keys(store, VAULT, register.statuses, ADMITTED)
    project = await keys.create_project("Clients")
    principal = Principal(KeyId("abc"), ProjectId(project.id), SystemId(system.id))
    world = World(store, register, keys, Catalog.from_yaml(CATALOG), principal, folder / "spool")
    if limit is not None:
        await world.admission("setup").set_budget(project.id, Decimal(limit))
    return world


async def spend(world: World, ledger: Ledger, admission: Admission, output: int, asked: int | None = None) -> Entry:
    """Make one call that really uses `output` tokens, after asking for `asked`."""
    call = world.call(output=asked or output)
    async with ledger.entry(call) as entry:
        await admission.admit(call, world.model, entry)
        entry.deployment = world.deployment
        entry.usage = Usage(input_tokens=0, output_tokens=output)
        entry.receipt()
    return entry


async def rows(store: Store) -> list[Row]:
    """Every recorded call, in order."""
    async with store.connection() as connection:
        return await (await connection.execute("SELECT * FROM calls ORDER BY at, id")).fetchall()


async def one(chunk: Chunk) -> AsyncGenerator[Chunk, None]:
    """An answer of one piece."""
    yield chunk


async def said(ledger: Ledger, world: World, question: str, answer: str, **more: Any) -> Call:
    """Make one call whose words are known: asked in clear, answered in pieces, with placeholders for the provider."""
    call = Call(world.principal, "chat", messages=(Message("user", question),), **more)
    masked = dataclasses.replace(call, messages=(Message("user", "[[PERSONNE_1]] asks"),))
    async with ledger.entry(call) as entry:
        entry.hold(None, 10)
        if entry.transcript is not None:
            entry.transcript.checked(masked)
        entry.deployment = world.deployment
        for piece in (*answer, Usage(5, 5)):
            seen = Chunk(usage=piece) if isinstance(piece, Usage) else Chunk(piece)
            entry.observe(seen)
            if entry.transcript is not None:
                given = Chunk("[[PERSONNE_1]] ") if seen.text == answer[:1] else seen
                async for heard in entry.transcript.heard(one(given)):
                    assert heard is given
                entry.transcript.shown(seen)
        entry.receipt()
    return call
