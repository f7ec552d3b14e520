"""Plans runs of a workflow on the models of this house, with what earlier runs took and with the flows it calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Protocol

from metier.calls import JSON
from metier.catalog import Catalog
from metier.errors import MetierError
from metier.record.impact import impact
from metier.store import Store
from metier.workflow.definition import Workflow, parse
from metier.workflow.plan import Plan, Seen, plan
from metier.workflow.plan_costs import ModelCosts
from metier.workflow.plan_history import History

__all__ = ["Foresight", "Resolver"]


class Resolver(Protocol):
    """Finds released flows."""

    async def resolve(self, reference: str, project: str) -> Workflow:
        """Give the definition behind `name@version`."""
        ...


class Foresight:
    """Foresees what runs may take; it starts nothing and asks no model."""

    def __init__(
        self, store: Store, catalog: Callable[[], Catalog], roles: Mapping[str, str], releases: Resolver
    ) -> None:
        self._history = History(store)
        self._catalog = catalog
        self._roles = roles
        self._releases = releases

    async def of(
        self, workflow: Workflow, inputs: Mapping[str, JSON] | None = None, project: str | None = None
    ) -> Plan:
        """Plan one run; `project` says whose earlier runs and whose released flows count."""
        past = await self._history.of(workflow, project)
        return await self._plan(workflow, inputs, project, past.steps, past.runs)

    async def left(
        self, workflow: Workflow, done: frozenset[str], project: str | None, lent: int = 0
    ) -> Decimal | None:
        """Give the most that a run can still cost whose outermost steps `done` hold; None where a price is unknown.

        `lent` is how often people gave it the money of its budget again.
        """
        rest = replace(workflow, steps=tuple(step for step in workflow.steps if step.id not in done))
        if rest.budget is not None:
            rest = replace(rest, budget=replace(rest.budget, per_run_eur=rest.budget.per_run_eur * (1 + lent)))
        found = await self._plan(rest, None, project)
        return None if "eur" in found.most.unknown else found.held_eur

    async def _plan(
        self,
        workflow: Workflow,
        inputs: Mapping[str, JSON] | None,
        project: str | None,
        history: Mapping[str, Seen] | None = None,
        runs: int = 0,
    ) -> Plan:
        costs = ModelCosts(self._catalog(), self._roles, impact, inputs)
        children = await self._children(workflow, project)
        return plan(
            workflow,
            costs,
            history,
            child=lambda owner, name: children.get((owner.hash, name)),
            history_runs=runs,
        )

    async def _children(self, workflow: Workflow, project: str | None) -> dict[tuple[str, str], Workflow]:
        """Find what a workflow calls, and what that calls: beside it, or released under a name and version."""
        found: dict[tuple[str, str], Workflow] = {}
        todo = [workflow]
        while todo:
            one = todo.pop()
            for step in one.walk():
                if step.kind != "call" or not isinstance(step.config, dict):
                    continue
                name = str(step.config.get("flow"))
                if (one.hash, name) in found:
                    continue
                child = await self._child(one, name, project)
                if child is not None:
                    found[one.hash, name] = child
                    todo.append(child)
        return found

    async def _child(self, workflow: Workflow, name: str, project: str | None) -> Workflow | None:
        try:
            if name in workflow.files:
                return parse(workflow.files[name], workflow.files, name)
            return await self._releases.resolve(name, project) if project else None
        except MetierError:
            return None
