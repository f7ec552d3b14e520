"""A workflow as JSON and back: the copy a run is pinned to, and the content its hash is taken over."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from metier.calls import JSON
from metier.errors import Invalid
from metier.workflow.shape import (
    Branch,
    Expectation,
    FlowTest,
    Mark,
    OnError,
    Retry,
    RunBudget,
    Step,
    Trigger,
    Workflow,
)

__all__ = ["FORMAT", "from_data", "hashed", "to_data"]

FORMAT = 2
"""Version of the pinned form; older ones are read, and what is not known is refused."""
_READ = (1, FORMAT)


def to_data(workflow: Workflow) -> dict[str, JSON]:
    """Give the workflow as JSON; keep it as text, since the order of keys carries meaning in schemas."""
    return {
        "format": FORMAT,
        **_content(workflow.name, workflow.inputs, workflow.steps, workflow.output, workflow.budget),
        "files": dict(workflow.files),
        "tests": [_test(test) for test in workflow.tests],
        "triggers": [_trigger(trigger) for trigger in workflow.triggers],
        "hash": workflow.hash,
        "source": workflow.source,
    }


def from_data(data: Mapping[str, JSON]) -> Workflow:
    """Load a pinned copy made by `to_data`; the places inside steps are not part of it."""
    if data.get("format") not in _READ:
        raise Invalid(
            f"cannot load a pinned workflow of format {data.get('format')!r}: this version reads 1 to {FORMAT}; "
            "run it with the version of Métier that pinned it"
        )
    raw: Mapping[str, Any] = data
    try:
        return Workflow(
            name=raw["name"],
            inputs=raw["inputs"],
            steps=_steps_of(raw["steps"]),
            output=raw["output"],
            budget=_budget_of(raw["budget"]),
            tests=tuple(_test_of(test) for test in raw["tests"]),
            files=dict(raw["files"]),
            hash=raw["hash"],
            source=raw["source"],
            triggers=tuple(_trigger_of(trigger) for trigger in raw.get("triggers", ())),
        )
    except (KeyError, TypeError, AttributeError, ValueError, ArithmeticError) as wrong:
        raise Invalid(f"cannot load a pinned workflow: {wrong!r}; the stored copy is damaged") from wrong


def hashed(workflow: Workflow) -> str:
    """Compute the hash of the content a run depends on: steps, schemas and files, not tests or layout."""
    content = _content(workflow.name, workflow.inputs, workflow.steps, workflow.output, workflow.budget)
    content["files"] = dict(sorted(workflow.files.items()))
    _drop_marks(content)
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _drop_marks(value: Any) -> None:
    """Take the places out of our own step objects; a step is known by having both a kind and a mark."""
    pending = list(value["steps"])
    while pending:
        step = pending.pop()
        del step["mark"]
        pending.extend(step["steps"])
        for branch in step["branches"]:
            del branch["mark"]
            pending.extend(branch["steps"])


def _content(
    name: str, inputs: Mapping[str, JSON], steps: Sequence[Step], output: JSON, budget: RunBudget | None
) -> dict[str, Any]:
    return {
        "name": name,
        "inputs": dict(inputs),
        "budget": None if budget is None else {"per_run_eur": str(budget.per_run_eur), "on_exceed": budget.on_exceed},
        "steps": [_step(step) for step in steps],
        "output": output,
    }


def _step(step: Step) -> dict[str, Any]:
    """Write a step; what came with format 2 is only there where it is used, so that older hashes stay as they were."""
    kept = {} if step.cache_s is None else {"cache_s": step.cache_s}
    return {
        "id": step.id,
        "kind": step.kind,
        "config": step.config,
        "mark": _mark(step.mark),
        "when": step.when,
        "with": dict(step.with_),
        "output": None if step.output is None else dict(step.output),
        "retry": None
        if step.retry is None
        else {"max": step.retry.max, "backoff": step.retry.backoff, "first_s": step.retry.first_s},
        "timeout_s": step.timeout_s,
        "on_error": None
        if step.on_error is None
        else {"output": step.on_error.output, "then": step.on_error.then, "assign": step.on_error.assign},
        "budget_eur": None if step.budget_eur is None else str(step.budget_eur),
        **kept,
        "mock": step.mock,
        "steps": [_step(inner) for inner in step.steps],
        "branches": [_branch(branch) for branch in step.branches],
    }


def _branch(branch: Branch) -> dict[str, Any]:
    named = {"name": branch.name} if branch.name else {}
    return {
        **named,
        "when": branch.when,
        "steps": [_step(inner) for inner in branch.steps],
        "mark": _mark(branch.mark),
    }


def _trigger(trigger: Trigger) -> dict[str, JSON]:
    return {
        "kind": trigger.kind,
        "config": dict(trigger.config),
        "with": dict(trigger.with_),
        "dedupe": trigger.dedupe,
        "when": trigger.when,
        "mark": _mark(trigger.mark),
    }


def _test(test: FlowTest) -> dict[str, JSON]:
    return {
        "name": test.name,
        "inputs": dict(test.inputs),
        "mock": dict(test.mock),
        "expect": [{"expr": wanted.expr, "mark": _mark(wanted.mark)} for wanted in test.expect],
        "mark": _mark(test.mark),
    }


def _mark(mark: Mark) -> list[JSON]:
    return [mark.file, mark.line, mark.column]


def _mark_of(data: Any) -> Mark:
    file, line, column = data
    return Mark(str(file), int(line), int(column))


def _budget_of(data: Any) -> RunBudget | None:
    return None if data is None else RunBudget(Decimal(data["per_run_eur"]), data["on_exceed"])


def _steps_of(data: Any) -> tuple[Step, ...]:
    return tuple(_step_of(step) for step in data)


def _step_of(data: Any) -> Step:
    retry, on_error, money = data["retry"], data["on_error"], data["budget_eur"]
    return Step(
        id=data["id"],
        kind=data["kind"],
        config=data["config"],
        mark=_mark_of(data["mark"]),
        when=data["when"],
        with_=data["with"],
        output=data["output"],
        retry=None if retry is None else Retry(retry["max"], retry["backoff"], retry["first_s"]),
        timeout_s=data["timeout_s"],
        on_error=None if on_error is None else OnError(on_error["output"], on_error["then"], on_error["assign"]),
        budget_eur=None if money is None else Decimal(money),
        cache_s=data.get("cache_s"),
        mock=data["mock"],
        steps=_steps_of(data["steps"]),
        branches=tuple(
            Branch(branch["when"], _steps_of(branch["steps"]), _mark_of(branch["mark"]), branch.get("name", ""))
            for branch in data["branches"]
        ),
    )


def _test_of(data: Any) -> FlowTest:
    return FlowTest(
        name=data["name"],
        inputs=data["inputs"],
        mock=data["mock"],
        expect=tuple(Expectation(wanted["expr"], _mark_of(wanted["mark"])) for wanted in data["expect"]),
        mark=_mark_of(data["mark"]),
    )


def _trigger_of(data: Any) -> Trigger:
    return Trigger(
        kind=data["kind"],
        config=data["config"],
        with_=data["with"],
        dedupe=data["dedupe"],
        when=data["when"],
        mark=_mark_of(data["mark"]),
    )
