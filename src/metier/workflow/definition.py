"""The definition of a workflow: read from a folder or from a pinned copy, always whole and checked."""

from __future__ import annotations

from metier.workflow.pinned import from_data, to_data
from metier.workflow.shape import (
    Branch,
    Expectation,
    FlowTest,
    Kind,
    Mark,
    OnError,
    Retry,
    RunBudget,
    Step,
    Workflow,
)

__all__ = [
    "Branch",
    "Expectation",
    "FlowTest",
    "Kind",
    "Mark",
    "OnError",
    "Retry",
    "RunBudget",
    "Step",
    "Workflow",
    "from_data",
    "to_data",
]
