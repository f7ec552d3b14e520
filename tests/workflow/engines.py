"""Both engines behind one face, and what one can compare of what they did."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Mapping
from decimal import Decimal
from functools import partial
from typing import Any, Protocol, TypeAlias

import orjson
import pytest

from metier.calls import JSON, RunId
from metier.errors import MetierError, NotAllowed, ProviderUnavailable
from metier.store import Store, Tx
from metier.vault import Vault
from metier.workflow.commands import Key
from metier.workflow.context import StepFunction
from metier.workflow.definition import Kind
from metier.workflow.dispatch import Pace
from metier.workflow.engine import Engine, StepContext
from metier.workflow.leaving import Opening
from metier.workflow.memory import Memory
from metier.workflow.memory_records import People
from metier.workflow.port import Port

QUICK = Pace(heartbeat_s=0.2, stall_s=1.0, recover_s=0.2, poll_s=0.2, grace_s=0.5)
Journal: TypeAlias = dict[Key, tuple[str, JSON]]


def proven(engine: Engine, memory: Memory) -> tuple[Port[Tx], Port[None]]:
    """Let the type checker prove that both are engines."""
    return engine, memory


class Acting:
    """A step function for all kinds: gives what it was given, or does what its `do` says."""

    def __init__(self) -> None:
        self.commands: list[tuple[str, int, str]] = []

    async def __call__(self, context: StepContext, given: dict[str, JSON]) -> JSON:
        self.commands.append((context.path, context.attempt, orjson.dumps(given).decode()))
        told = given.get("do")
        cost = given.get("eur")
        if isinstance(cost, str):
            context.spend(Decimal(cost))
        if told == "ask":
            answer = await context.once("think", lambda: thought(context))
            decided = await context.ask("allow", {"title": "May it?", "assign": "group:sav"})
            return {"thought": answer, "decided": decided}
        if told == "ask a flow":
            return context.returned("help", str(given["flow"]), {}).value
        if told == "refuse":
            raise NotAllowed("refused")
        if told == "later" and context.attempt < 3:
            raise ProviderUnavailable("away")
        if told == "break":
            raise ValueError("a mistake of its own")
        return {"path": context.path, **given}


async def thought(context: StepContext) -> JSON:
    """Cost something within an answer."""
    context.spend(Decimal("0.001"))
    return "hm"


def functions(function: StepFunction) -> Mapping[Kind, StepFunction]:
    """Let one function do all kinds of work."""
    kinds: tuple[Kind, ...] = ("tool", "code", "model", "rules", "llm", "agent", "retrieve")
    return dict.fromkeys(kinds, function)


class House(Protocol):
    """An engine with people who decide from a table."""

    acting: Acting

    @property
    def engine(self) -> Port[Any]:
        """The engine."""

    async def settle(self) -> None:
        """Move everything, and answer what the table answers."""

    async def decide(self, run: RunId, key: Key, value: JSON) -> None:
        """Answer one question."""


class InMemory:
    """The engine in memory."""

    def __init__(self, people: Mapping[str, JSON] | People, acting: Acting | None = None) -> None:
        self.acting = acting or Acting()
        self.engine = Memory(functions(self.acting), people=people)

    async def settle(self) -> None:
        await self.engine.play()

    async def decide(self, run: RunId, key: Key, value: JSON) -> None:
        await self.engine.signal(None, run, key, value)


class OnPostgres:
    """The engine on PostgreSQL, with a desk that answers once everything stands still."""

    def __init__(
        self, store: Store, vault: Vault, people: Mapping[str, JSON] | People, acting: Acting | None = None
    ) -> None:
        self.acting = acting or Acting()
        self.store = store
        self.people: People = people if callable(people) else partial(looked_up, people)
        self.open_: dict[tuple[RunId, Key], Opening] = {}
        self.engine = Engine(store, vault, functions(self.acting), desk=self, pace=QUICK)

    async def open(self, tx: Tx, opening: Opening) -> None:
        """Keep a question."""
        park = opening.park
        self.open_[opening.run, (park.path, park.attempt, park.name)] = opening

    async def close(self, tx: Tx, run: RunId) -> None:
        """Forget the questions of a run."""
        for place in [place for place in self.open_ if place[0] == run]:
            del self.open_[place]

    async def settle(self) -> None:
        while True:
            await self.engine.drain()
            answered = False
            for (run, key), opening in list(self.open_.items()):
                decision = self.people(opening)
                if decision is not None:
                    await self.decide(run, key, decision)
                    answered = True
            if not answered:
                return

    async def decide(self, run: RunId, key: Key, value: JSON) -> None:
        async with self.store.transaction() as tx:
            await self.engine.signal(tx, run, key, value)
        self.open_.pop((run, key), None)


def looked_up(people: Mapping[str, JSON], opening: Opening) -> JSON:
    """Find a decision by path and name of the question, by path, or by id of the step."""
    park = opening.park
    return next((people[one] for one in (f"{park.path}{park.name}", park.path, park.step.id) if one in people), None)


async def journal(engine: Port[Any], run: RunId) -> Journal:
    """Give the journal of a run, without what every run has of its own: ids and times."""
    return {(line.path, line.attempt, line.name): (line.kind, plain(line.value)) for line in await engine.steps(run)}


def plain(value: JSON) -> JSON:
    """Take ids of runs and times out of a value."""
    text = orjson.dumps(value).decode()
    text = re.sub(r"run_[0-9A-Za-z]+", "RUN", text)
    text = re.sub(r"\d{4}-\d\d-\d\d[T ][0-9:.]+(\+00:00|Z)?", "TIME", text)
    clear: JSON = orjson.loads(text)
    return clear


async def came_to(engine: Port[Any], run: RunId) -> JSON:
    """Say what a run came to: its status, where it failed, its output, its cost."""
    found = await engine.get(run)
    failure: JSON = None if found.failure is None else [found.failure.code, found.failure.path, found.failure.attempt]
    try:
        output = await engine.result(run)
    except MetierError:
        output = None
    return [found.status, found.outcome, failure, output, str(found.cost_eur.normalize())]


@contextlib.asynccontextmanager
async def working(engine: Engine) -> AsyncIterator[None]:
    """A worker beside the test, stopped at its end."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(engine.work(stop))
        try:
            yield
        finally:
            stop.set()


Made: TypeAlias = "Callable[[dict[str, JSON]], House]"


@pytest.fixture(params=["memory", "postgresql"])
def make(request: pytest.FixtureRequest, store: Store, vault: Vault) -> Made:
    """Make an engine of either kind, with a table of what people decide."""

    def made(people: dict[str, JSON]) -> House:
        return InMemory(people) if request.param == "memory" else OnPostgres(store, vault, people)

    return made
