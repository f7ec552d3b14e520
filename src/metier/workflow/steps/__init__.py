"""What each kind of step does; one file per kind, each handed the functions it needs."""

from __future__ import annotations

from collections.abc import Mapping

from metier.workflow.definition import Kind
from metier.workflow.engine import StepFunction
from metier.workflow.steps.agent import AgentParts, AgentSteps
from metier.workflow.steps.code import CodeSteps
from metier.workflow.steps.functions import FUNCTIONS
from metier.workflow.steps.handed import Ask, Embedding, Predict, Search
from metier.workflow.steps.llm import LlmSteps
from metier.workflow.steps.model import ModelSteps
from metier.workflow.steps.retrieve import RetrieveSteps
from metier.workflow.steps.rules import RulesSteps
from metier.workflow.steps.tool import Tool, ToolSteps

__all__ = ["step_functions"]


def step_functions(
    *,
    ask: Ask,
    roles: Mapping[str, str],
    predict: Predict,
    search: Search,
    embedder: Embedding,
    tools: Mapping[str, Tool],
    agents: AgentParts | None = None,
) -> Mapping[Kind, StepFunction]:
    """Give the engine its step functions; switch, loop, human and end are the interpreter's own."""
    return {
        "tool": ToolSteps(tools),
        "code": CodeSteps(FUNCTIONS),
        "model": ModelSteps(predict),
        "rules": RulesSteps(),
        "llm": LlmSteps(ask, roles),
        "agent": AgentSteps.built(ask, roles, tools, agents),
        "retrieve": RetrieveSteps(search, embedder),
    }
