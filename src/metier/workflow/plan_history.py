"""What earlier runs of a workflow took, step by step: those of the same definition, else those of the same flow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from metier.store import Row, Store
from metier.workflow.plan import Seen
from metier.workflow.plan_amount import NOTHING, Amount
from metier.workflow.shape import Workflow

__all__ = ["History", "Past"]

_LATEST = 500
_LATEST_WIDE = 20
"""Where items may be runs of their own: of each of them every item is looked at."""
_FEWEST = 5
"""Runs of the same definition below which those of other definitions of the flow are looked at too."""


@dataclass(frozen=True, slots=True)
class Past:
    """What was found of earlier runs."""

    runs: int
    """Earlier runs of the very definition."""
    steps: Mapping[str, Seen]


class History:
    """Reads what runs took; it writes nothing."""

    def __init__(self, store: Store) -> None:
        self._queries = store.queries("plan")

    async def of(self, workflow: Workflow, project: str | None = None) -> Past:
        """Give what earlier runs took by step; steps that the earlier definition did not have are left out."""
        own, runs = await self._seen(workflow, workflow.hash, project, "this definition")
        if runs >= _FEWEST:
            return Past(runs, own)
        older, _ = await self._seen(workflow, None, project, "this flow")
        return Past(runs, older)

    async def _seen(
        self, workflow: Workflow, definition: str | None, project: str | None, whose: str
    ) -> tuple[dict[str, Seen], int]:
        wide = any(step.kind == "foreach" for step in workflow.walk())
        limit = _LATEST_WIDE if wide else _LATEST
        asked = {"workflow": workflow.name, "definition": definition, "project": project, "limit": limit}
        row = await self._queries.one("seen_runs", asked)
        runs = int(row["runs"]) if row else 0
        if runs == 0:
            return {}, 0
        ids = {step.id for step in workflow.walk() if step.kind not in ("switch", "loop", "parallel", "foreach")}
        source = f"{runs} earlier run{'s' if runs > 1 else ''} of {whose}"
        found = {
            row["step"]: Seen(_per_run(row, runs), runs, source)
            for row in await self._queries.all("seen_steps", asked)
            if row["step"] in ids
        }
        if definition is not None:
            # What runs of the very definition never reached costs nothing: that is known, and no guess.
            found |= {id: Seen(NOTHING, runs, source) for id in ids - found.keys()}
        return found, runs


def _per_run(row: Row, runs: int) -> Amount:
    unknown = {name for name in ("wh", "carbon_g") if row["not_estimated"]} | ({"eur"} if row["unpriced"] else set())
    whole = Amount(
        tries=float(row["tries"]),
        calls=float(row["calls"]),
        input_tokens=float(row["input_tokens"]),
        output_tokens=float(row["output_tokens"]),
        eur=float(row["cost_eur"]),
        wh=float(row["wh"]),
        carbon_g=float(row["carbon_g"]),
        seconds=float(row["seconds"]),
        tasks=float(row["tasks"]),
        unknown=frozenset(unknown),
    )
    return whole.times(1 / runs)
