"""Other workflows as tools of agents: each call is a run of its own, and the agent's run is parked until it is over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from metier.calls import JSON
from metier.errors import NotFound, StepFailed
from metier.workflow.bundle import offered_path
from metier.workflow.children import Flows, called
from metier.workflow.commands import Entry
from metier.workflow.context import StepContext
from metier.workflow.definition import Workflow, accept
from metier.workflow.steps.agent_tools import FlowTool
from metier.workflow.yaml_source import read as read_yaml

__all__ = ["FlowCalls"]


@dataclass(frozen=True, slots=True)
class FlowCalls:
    """Finds workflows beside the agent's own, pinned with it, and released ones; runs each call once."""

    flows: Flows | None = None
    """Where released ones are; without it only those beside the workflow can be tools."""

    async def find(self, context: StepContext, flow: str) -> FlowTool | None:
        """Describe a workflow by what it says of itself and what it takes; None where there is none."""
        try:
            found = await self._called(context, flow)
        except NotFound:
            return None
        return FlowTool(_description(found), found.inputs)

    async def run(self, context: StepContext, key: str, flow: str, inputs: dict[str, JSON]) -> JSON:
        """Give the output of a run of it; before that is there, the agent's run is left until it is."""
        name = key.removeprefix(f"{context.run}/{context.path}/")
        accept(await self._called(context, flow), inputs)
        entry = _earlier(context, name)
        if entry is None:
            entry = context.returned(name, self._written(flow), inputs)
            context.spend(entry.cost_eur, 0)  # what an earlier attempt was given is told by its own line
        came: Mapping[str, JSON] = entry.value if isinstance(entry.value, dict) else {}
        if "ok" not in came:
            raise StepFailed(f"the workflow {flow!r} failed ({came.get('code')}): {came.get('error')}")
        return came["ok"]

    async def _called(self, context: StepContext, flow: str) -> Workflow:
        return await called(context.workflow, self._written(flow), self.flows, context.principal)

    def _written(self, flow: str) -> str:
        return flow if "@" in flow else offered_path(flow)


def _earlier(context: StepContext, name: str) -> Entry | None:
    """Find what an earlier attempt of the agent was given for the same: a run that ended well is not started again."""
    for attempt in range(context.attempt - 1, 0, -1):
        entry = context.tried(attempt, f"!{name}")
        if entry is not None and isinstance(entry.value, dict) and "ok" in entry.value:
            return entry
    return None


def _description(workflow: Workflow) -> str:
    said = read_yaml(workflow.source, workflow.name).entries.get("description") if workflow.source else None
    if said is not None and isinstance(said.scalar, str) and said.scalar.strip():
        return said.scalar.strip()
    return f"Runs the workflow {workflow.name} and gives its output."
