"""Small workflows and people for the tests of the engine."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from metier.calls import JSON, KeyId, Principal, ProjectId, SystemId
from metier.workflow.definition import Branch, Kind, Mark, RunBudget, Step, Workflow
from metier.workflow.engine import StepContext

HERE = Mark("flow.yaml", 1, 1)
WHO = Principal(
    KeyId("key_1"),
    ProjectId("sales"),
    SystemId("support"),
    name="robot",
    groups=frozenset({"sav"}),
    models=frozenset({"writer"}),
)


def step(id: str, kind: Kind = "code", config: JSON = None, **more: object) -> Step:
    """Make a step; `more` are fields of Step."""
    return replace(Step(id, kind, config, HERE), **more)  # type: ignore[arg-type]  # terse tests


def branch(when: str | None, *steps: Step) -> Branch:
    """Make one way out of a switch."""
    return Branch(when, steps, HERE)


def flow(*steps: Step, output: JSON = None, budget: str | None = None, name: str = "flow") -> Workflow:
    """Make a workflow; its hash is taken from its own text, which is enough here."""
    money = None if budget is None else RunBudget(Decimal(budget), "human")
    schema: dict[str, JSON] = {"type": "object"}
    bare = Workflow(name, schema, steps, output, money, (), {}, "", "")
    return replace(bare, hash=f"{name}-{abs(hash(repr(bare)))}")


class Ticking:
    """A clock that stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class Counting:
    """A step function that counts how often each path and attempt was really run."""

    def __init__(self) -> None:
        self.runs: list[tuple[str, int]] = []

    async def __call__(self, context: StepContext, given: dict[str, JSON]) -> JSON:
        self.runs.append((context.path, context.attempt))
        return {"path": context.path, **given}
