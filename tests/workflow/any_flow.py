"""Workflows made by chance over every kind of step, what their steps do by chance, and what people decide by chance."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from metier.calls import JSON
from metier.errors import NotAllowed, ProviderUnavailable
from metier.workflow.commands import ASK_BUDGET, ASK_HUMAN
from metier.workflow.definition import Kind, OnError, Retry, Step, Workflow
from metier.workflow.engine import StepContext
from metier.workflow.leaving import Opening
from tests.workflow.engines import Acting
from tests.workflow.flows import branch, flow, step

SUB = """
flow: sub
schema: 1
inputs: {x: any}
steps:
  - {id: inner, code: double, with: {x: "{{ inputs.x }}"}}
  - {id: second, code: double, with: {x: "{{ steps.inner.n }}"}, retry: {max: 1, backoff: constant, first: 1ms}}
output: "{{ steps.second }}"
"""
_WORK: tuple[Kind, ...] = ("tool", "code", "model", "rules", "llm", "agent", "retrieve")
_NESTED: tuple[Kind, ...] = ("switch", "parallel", "foreach", "loop")
_OTHER: tuple[Kind, ...] = ("human", "wait", "emit", "call", "end")


class Crash(BaseException):
    """The worker is gone in the middle of a step."""


@dataclass
class Making:
    """Makes one workflow."""

    chance: random.Random
    kinds: set[str] = field(default_factory=set)
    pace: float = 1.0
    """Of what waits for a time; little where nobody moves the clock."""

    def workflow(self) -> Workflow:
        """Make a workflow of some steps, nested up to three deep."""
        names = (f"s{n}" for n in range(999))
        budget = self.chance.choice([None, None, "0.02"])
        made = flow(*self.body(names, 2, 4), output={"n": "{{ inputs.n }}"}, budget=budget)
        return replace(made, files={"sub.yaml": SUB})

    def body(self, names: Iterator[str], depth: int, most: int = 2) -> tuple[Step, ...]:
        """Make steps that follow each other."""
        return tuple(self.step(names, depth) for _ in range(self.chance.randint(1, most)))

    def step(self, names: Iterator[str], depth: int) -> Step:
        """Make one step of any kind."""
        choose = self.chance.choice
        kinds = (*_WORK, *_WORK, *_OTHER, *(_NESTED * 2 if depth else ()))
        kind: Kind = choose(kinds)
        if kind == "end" and self.chance.random() < 0.7:
            kind = "code"
        self.kinds.add(kind)
        id, when = next(names), choose([None, None, None, "inputs.n % 2 == 0", "inputs.none.x == 1"])
        error = choose([None, OnError("instead", "continue"), OnError("instead", "continue"), OnError(None, "human")])
        made = step(id, kind, when=when, on_error=error)
        if kind in _NESTED:
            return self.nested(made, names, depth - 1)
        retry = choose([None, Retry(2, "constant", 0), Retry(1, "exponential", 30 * self.pace)])
        given: dict[str, JSON] = {"n": "{{ inputs.n }}"}
        match kind:
            case "human":
                return replace(made, config={"title": "?", "assign": "group:sav"})
            case "wait":
                event: JSON = {"event": "order", "key": "{{ inputs.n }}"}
                passing: JSON = {"for": 7200 * self.pace}
                config = choose([passing, event])
                return replace(made, config=config, timeout_s=choose([None, 60 * self.pace]), retry=retry)
            case "emit":
                return replace(made, config={"event": "order", "key": "{{ inputs.n }}"}, with_=given)
            case "call":
                return replace(made, config={"flow": "sub.yaml"}, with_={"x": "{{ inputs.n }}"}, retry=retry)
            case "end":
                return replace(made, config={"status": "enough", "output": None})
            case _:
                return replace(made, config="x", with_=given, retry=retry)

    def nested(self, made: Step, names: Iterator[str], depth: int) -> Step:
        """Give a step what is inside it."""
        choose = self.chance.choice
        match made.kind:
            case "switch":
                first = branch(choose(["inputs.n > 3", "inputs.none.x"]), *self.body(names, depth))
                return replace(made, branches=(first, branch(None, *self.body(names, depth))))
            case "parallel":
                ways = tuple(replace(branch(None, *self.body(names, depth)), name=f"w{n}") for n in range(3))
                return replace(made, config={"concurrency": choose([None, 1, 2])}, branches=ways)
            case "foreach":
                items: dict[str, JSON] = {"times": choose([0, 2, 4]), "concurrency": choose([1, 2, 3])}
                items |= {"on_item_error": choose(["fail", "collect"]), "as": choose(["paths", "paths", "runs"])}
                return replace(made, config=items, steps=self.body(names, depth))
            case _:
                turns: JSON = {"max": choose([1, 2, 3]), "until": choose(["false", "loop.turn > 1"])}
                return replace(made, config=turns, steps=self.body(names, depth))


class Chancy(Acting):
    """A step function that gives, fails, asks or dies by chance, and knows what it gave."""

    def __init__(self, chance: random.Random, *, dies: float = 0.0) -> None:
        super().__init__()
        self.chance = chance
        self.dies = dies
        self.deaths = 0

    async def __call__(self, context: StepContext, given: dict[str, JSON]) -> JSON:
        self.die()
        kept = await context.once("answer", self.think)
        self.die()
        draw = self.chance.random() if isinstance(kept, float) else 1.0
        if context.step.kind == "agent" and isinstance(kept, float) and kept < 0.5:
            await context.ask("allow", {"title": "May it?", "assign": "group:sav"})
        assert isinstance(kept, float)
        draw = (kept * 7) % 1
        self.commands.append((context.path, context.attempt, str(sorted(given))))
        if draw < 0.08:
            raise NotAllowed("refused")
        if draw < 0.2:
            raise ProviderUnavailable("away")
        return {"n": context.attempt, "draw": round(draw, 3)}

    async def think(self) -> JSON:
        """Give what the step will do, paid for once."""
        return self.chance.random()

    def die(self) -> None:
        """Take the worker away, now and then."""
        if self.chance.random() < self.dies:
            self.deaths += 1
            raise Crash


def deciding(chance: random.Random, opening: Opening) -> JSON:
    """Decide by chance what may be decided, or nothing for now."""
    name = opening.park.name
    if name == ASK_BUDGET:
        return {"decision": chance.choice(["continue", "continue", "stop"])}
    if name == ASK_HUMAN:
        control = opening.park.step.kind in (*_NESTED, "human")
        made: JSON = {"decision": chance.choice(["output", "fail"] + ["retry"] * (not control)), "output": 5}
        return made
    return None if chance.random() < 0.1 else {"decision": chance.choice(["yes", "no"])}
