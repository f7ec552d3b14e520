"""`rules:` steps: a decision table, pinned with the workflow, decides."""

from __future__ import annotations

from metier.calls import JSON
from metier.workflow import rules
from metier.workflow.engine import StepContext

__all__ = ["RulesSteps"]


class RulesSteps:
    """Runs `rules:` steps on the tables that the workflow carries."""

    async def __call__(self, context: StepContext, with_: dict[str, JSON]) -> JSON:
        """Decide on `with` by the table the step names."""
        return rules.decide(rules.table(context.workflow, str(context.step.config)), dict(with_))
