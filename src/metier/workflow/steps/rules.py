"""`rules:` steps: a decision table, pinned with the workflow, decides."""

from __future__ import annotations

from metier.calls import JSON
from metier.workflow import rules
from metier.workflow.cel import parse
from metier.workflow.definition import Workflow
from metier.workflow.engine import StepContext
from metier.workflow.files import rules_paths
from metier.workflow.rules import Table
from metier.workflow.syntax import Node

__all__ = ["RulesSteps"]

_TABLES_MAX = 100
_CONDITIONS_MAX = 5_000


class RulesSteps:
    """Runs `rules:` steps on the tables that the workflow carries, each read once while it is in use."""

    def __init__(self) -> None:
        self._tables: dict[tuple[str, str], Table] = {}
        self._conditions: dict[str, Node] = {}

    async def __call__(self, context: StepContext, with_: dict[str, JSON]) -> JSON:
        """Decide on `with` by the table the step names."""
        return rules.decide(self._table(context.workflow, str(context.step.config)), dict(with_), self._condition)

    def _table(self, workflow: Workflow, reference: str) -> Table:
        text = next((workflow.files[path] for path in rules_paths(reference) if path in workflow.files), "")
        found = self._tables.get((reference, text))
        if found is None:
            found = rules.table(workflow, reference)
            if len(self._tables) >= _TABLES_MAX:
                self._tables.clear()
            self._tables[reference, text] = found
        return found

    def _condition(self, written: str) -> Node:
        found = self._conditions.get(written)
        if found is None:
            found = parse(written)
            if len(self._conditions) >= _CONDITIONS_MAX:
                self._conditions.clear()
            self._conditions[written] = found
        return found
