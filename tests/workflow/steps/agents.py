"""Agents on the real road with scripted answers, tools that count what they did, and people who decide."""

from __future__ import annotations

import contextlib
import pathlib
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from metier.app import App
from metier.calls import JSON, Chunk, Principal, ToolCallDelta, Usage
from metier.providers.scripted import Script, ScriptedProvider
from metier.store import Store
from metier.testing import build_for_tests, caller
from metier.workflow.definition import Workflow
from metier.workflow.engine import Engine, Run
from metier.workflow.review import Review, Reviewer, TaskDesk
from metier.workflow.steps.agent import AgentParts, AgentSteps
from metier.workflow.steps.agent_memory import Memory
from metier.workflow.steps.agent_tools import CallFlow
from metier.workflow.steps.tool import Effect, Tool
from tests.workflow.flows import flow, step

FILES = {
    "agents/desk.md": "You answer for {{ shop }}.",
    "agents/desk.fr.md": "Tu réponds pour {{ shop }}.",
    "agents/accounts.md": "You know invoices.",
    "agents/both.md": "You are terse.\n---\nThe order is {{ order }}.",
}
ZOE = Reviewer("zoe", everywhere=True)
ORDER: dict[str, JSON] = {
    "type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"],
    "additionalProperties": False,
}  # fmt: skip


@dataclass(slots=True)
class Counted:
    """A tool with a schema that counts its calls and its effects; an effect is done once for a key."""

    name: str
    description: str
    schema: Mapping[str, JSON]
    gives: JSON = "ok"
    error: Exception | None = None
    calls: list[dict[str, JSON]] = field(default_factory=list)
    effects: Counter[str] = field(default_factory=Counter)

    async def __call__(self, effect: Effect, with_: dict[str, JSON], /) -> JSON:
        """Count, then give or fail."""
        self.calls.append(with_)
        self.effects[effect.key] += 1
        if self.error is not None:
            raise self.error
        return self.gives


async def bare(effect: Effect, with_: dict[str, JSON]) -> JSON:
    """Give back what it was given."""
    return with_


@dataclass(slots=True)
class Shop:
    """An engine with agents, and what they have."""

    app: App
    who: Principal
    engine: Engine
    review: Review
    find: Counted
    pay: Counted
    memory: Memory

    async def play(self, workflow: Workflow, inputs: Mapping[str, JSON] | None = None) -> Run:
        """Start a workflow and move it as far as it goes."""
        run = await self.engine.start(workflow, inputs or {}, self.who)
        await self.engine.drain()
        return await self.engine.get(run)

    async def give(self, workflow: Workflow, inputs: Mapping[str, JSON] | None = None) -> Any:
        """Play a workflow that must succeed, and give its output."""
        run = await self.play(workflow, inputs)
        assert run.failure is None, run.failure
        return await self.engine.result(run.id)

    async def fail(self, workflow: Workflow) -> tuple[str, str]:
        """Play a workflow that must fail, and give the code and the message."""
        run = await self.play(workflow)
        assert run.failure is not None, run
        return run.failure.code, run.failure.message

    async def decide(self, run: Run, decision: Mapping[str, JSON]) -> Run:
        """Decide the only open task of a run and let it go on."""
        (task,) = [one for one in await self.review.of_run(run.id) if one.state == "open"]
        await self.review.decide(task.id, ZOE, dict(decision))
        await self.engine.drain()
        return await self.engine.get(run.id)

    async def names(self, run: Run) -> list[str]:
        """What the journal keeps of the turns of a run."""
        return [line.name for line in await self.engine.steps(run.id)]


@contextlib.asynccontextmanager
async def shop(
    store: Store,
    home: pathlib.Path,
    provider: ScriptedProvider,
    call_flow: CallFlow | None = None,
    more: Mapping[str, Tool] | None = None,
) -> AsyncIterator[Shop]:
    """Build it on a migrated store."""
    find = Counted("shop.find", "Finds an order by its number.", ORDER, {"number": 7, "state": "sent"})
    pay = Counted(
        "shop.pay_back", "Pays an amount back.", {"type": "object", "properties": {"eur": {"type": "number"}}}, "paid"
    )
    table: dict[str, Tool] = {"shop.find": find, "shop.pay_back": pay, "echo": bare, **(more or {})}
    async with build_for_tests(home, store.url, provider) as app:
        memory = Memory(app.store, app.vault)
        steps = AgentSteps.built(app.gateway.collect, {}, table, AgentParts(memory, call_flow))
        engine = Engine(app.store, app.vault, {"agent": steps}, desk=TaskDesk(app.store, app.vault))
        review = Review(app.store, app.vault, engine)
        yield Shop(app, await caller(app, groups=("public", "sav")), engine, review, find, pay, memory)


def desk(config: Mapping[str, JSON] | None = None, *, message: str = "Where is order 7?", **more: Any) -> Workflow:
    """A workflow of one agent `it`; `config` adds to its configuration, `more` are fields of the step."""
    whole: dict[str, JSON] = {
        "instructions": "agents/desk.md", "model": "writer", "tools": ["shop.*"], "approve": [], "handoffs": {},
        "max_turns": 5, **(config or {}),
    }  # fmt: skip
    with_ = more.pop("with_", {"shop": "the bakery", "message": message})
    budget = more.pop("run_budget", None)
    it = step("it", "agent", whole, with_=with_, **more)
    return replace(flow(it, output="{{ steps.it }}", budget=budget), files=FILES)


def turn(*calls: tuple[str, JSON], text: str = "") -> Script:
    """Script a turn that asks for several tools at once; arguments that are text are sent as they are."""
    deltas = tuple(
        ToolCallDelta(
            number, "call_1", name, arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode()
        )
        for number, (name, arguments) in enumerate(calls)
    )
    said = (Chunk(text=text),) if text else ()
    return Script((*said, Chunk(tool_calls=deltas), Chunk(finish="tool_calls", usage=Usage(12, 8))))


def told(provider: ScriptedProvider, call: int = -1) -> list[tuple[str, str]]:
    """Give roles and texts of the messages of a call."""
    return [(message.role, message.content) for message in provider.calls[call].messages]
