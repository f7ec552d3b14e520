"""A small whole platform for tests: real register, keys, admission and ledger around a scripted provider."""

from __future__ import annotations

import asyncio
import pathlib
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import uvicorn
from psycopg.rows import dict_row
from starlette.types import ASGIApp

from metier.batches import Batches
from metier.calls import Call, Message, Principal
from metier.catalog import Catalog
from metier.connectors.deliveries import Deliveries
from metier.connectors.task_notices import TaskNotices
from metier.gateway import Gateway
from metier.governance.register import ADMITTED, Register
from metier.guardrails.base import Chain, Guardrail
from metier.policy.admission import Admission
from metier.policy.constraints import Constraints
from metier.policy.keys import Keys
from metier.providers.base import Counter, Provider
from metier.record.ledger import Ledger
from metier.record.responses import StoredResponses
from metier.router import Health
from metier.store import Store
from metier.tries import Tries
from metier.vault import Vault
from metier.ways import Ways
from metier.workflow.engine import Engine
from metier.workflow.operations import Operations
from metier.workflow.releases import Releases
from metier.workflow.review import Review

__all__ = ["MODELS", "World", "serve", "world"]

MODELS: Mapping[str, Any] = {
    "petit": {
        "deployments": [
            {"id": "petit-a", "provider": "scripted", "model_id": "a", "price": {"input": 1, "output": 4}},
            {"id": "petit-b", "provider": "scripted", "model_id": "b", "price": {"input": 1, "output": 4}},
        ],
    },
    "vecteurs": {"operation": "embed", "deployments": [{"provider": "scripted", "model_id": "v"}]},
}
"""A chat model with two deployments, and one that embeds."""


@dataclass(slots=True)
class World:
    """The parts, and what a test asks of them."""

    store: Store
    register: Register
    keys: Keys
    catalog: Catalog
    admission: Admission
    ledger: Ledger
    gateway: Gateway
    responses: StoredResponses
    batches: Batches
    review: Review
    deliveries: Deliveries
    notices: TaskNotices
    vault: Vault
    engine: Engine
    operations: Operations
    releases: Releases
    secret: str
    principal: Principal
    health: Health = field(default_factory=Health)
    roles: Mapping[str, str] = field(default_factory=dict)

    async def ready(self) -> Mapping[str, bool]:
        """Everything stands as soon as it is built."""
        return {"database": True}

    def call(self, text: str = "Bonjour", model: str = "petit", **more: Any) -> Call:
        """A call of this world's key."""
        return replace(Call(self.principal, model, messages=(Message("user", text),)), **more)

    async def rows(self) -> list[dict[str, Any]]:
        """The recorded calls, oldest first."""
        await self.ledger.flush()
        async with self.store.connection() as connection:
            cursor = connection.cursor(row_factory=dict_row)
            await cursor.execute("SELECT * FROM calls ORDER BY at, id")
            return await cursor.fetchall()


@asynccontextmanager
async def world(
    store: Store,
    vault: Vault,
    folder: pathlib.Path,
    provider: Provider,
    *,
    models: Mapping[str, Any] = MODELS,
    guardrails: Sequence[Guardrail] = (),
    systems: Mapping[str, Any] | None = None,
) -> AsyncIterator[World]:
    """Build it on a migrated store, with one approved system, one project and one key."""
    register = Register(store)
    keys = Keys(store, vault, register.statuses, frozenset(ADMITTED))
    system = await register.register("Essai", "Répondre aux clients", "Camille")
    await register.approve(system.id, by="Camille")
    project = await keys.create_project("Service client")
    issued = await keys.issue("essai", project.id, system.id, by="Camille")
    admission = Admission(store, "w1", register.statuses, frozenset(ADMITTED))
    ledger = Ledger(store, folder, "w1", admission.charge, admission.settle_worker)
    ledger.open()
    catalog = Catalog.from_yaml(models)
    health = Health()
    gateway = Gateway(
        ways=Ways(catalog, Constraints.from_yaml(systems or {}, register.names)),
        ledger=ledger,
        admission=admission,
        guardrail=Chain(guardrails),
        tries=Tries({"scripted": provider, "openai": provider, "anthropic": provider}, health),
        counters={"anthropic": provider} if isinstance(provider, Counter) else None,
    )
    principal = await keys.authenticate(issued.secret)
    engine = Engine(store, vault, {})
    review = Review(store, vault, engine)
    made = World(
        store, register, keys, catalog, admission, ledger, gateway, StoredResponses(store, vault),
        Batches.built(store, vault, None), review, Deliveries(store, vault, engine, review),
        TaskNotices(store, vault, review), vault, engine, Operations(store, vault, engine, None),
        Releases(store, vault), issued.secret, principal, health,
    )  # fmt: skip
    try:
        yield made
    finally:
        await provider.close()
        await ledger.close()


@asynccontextmanager
async def serve(app: ASGIApp) -> AsyncIterator[str]:
    """Serve an application over a real uvicorn on a free port of loopback; gives its address."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
        port = listening.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False, lifespan="off"))
        # The socket listens already: what connects before uvicorn is ready waits in its queue.
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(server.serve(sockets=[listening]))
            try:
                yield f"http://127.0.0.1:{port}"
            finally:
                await asyncio.sleep(0)
                server.should_exit = True
                await serving
