"""Runs on a real PostgreSQL: start, work, crash, resume, cancel, look."""

from __future__ import annotations

import asyncio
from decimal import Decimal

from metier.calls import JSON, KeyId, Principal, ProjectId, SystemId
from metier.store import Store
from metier.vault import Vault
from metier.workflow.definition import Mark, Step, Workflow
from metier.workflow.engine import Engine, StepContext

WHO = Principal(KeyId("key_1"), ProjectId("sales"), SystemId("support"), groups=frozenset({"sav"}))
HERE = Mark("flow.yaml", 1, 1)


async def code(context: StepContext, given: dict[str, JSON]) -> JSON:
    return {"path": context.path, "given": dict(given)}


def flow(*steps: Step, name: str = "test", output: JSON = None) -> Workflow:
    return Workflow(name, {"type": "object"}, steps, output, None, (), {}, f"hash-of-{name}", "")


def step(id: str, **fields: object) -> Step:
    return Step(id=id, kind=fields.pop("kind", "code"), config=fields.pop("config", None), mark=HERE, **fields)  # type: ignore[arg-type]  # terse tests


async def test_a_run_goes_through_its_steps_and_gives_its_output(store: Store, vault: Vault) -> None:
    engine = Engine(store, vault, {"code": code})
    workflow = flow(
        step("a", with_={"x": "{{ inputs.x }}"}), step("b", with_={"y": "{{ steps.a.given.x }}"}), output="{{ steps.b }}"
    )
    run = await engine.start(workflow, {"x": 3}, WHO)
    await engine.drain()
    assert await engine.result(run) == {"path": "b", "given": {"y": 3}}
    assert (await engine.get(run)).status == "done"
    assert [(s.path, s.given) for s in await engine.steps(run)] == [("a", {"x": 3}), ("b", {"y": 3})]
