"""`tool:` steps: call a named function of a connector, with its side effects kept to one per step."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from metier.calls import JSON, Principal
from metier.errors import NotFound
from metier.workflow.engine import StepContext

__all__ = ["Effect", "Tool", "ToolSteps"]


@dataclass(frozen=True, slots=True)
class Effect:
    """Where a tool is called from; `key` is the same for every repetition of the same effect."""

    key: str
    context: StepContext

    @property
    def principal(self) -> Principal:
        """In whose name the run is: it decides which secrets a connector reads."""
        return self.context.principal


Tool: TypeAlias = Callable[[Effect, dict[str, JSON]], Awaitable[JSON]]
"""A function of a connector: what `with` gave, in; JSON, out."""


class ToolSteps:
    """Runs `tool:` steps from a table of dotted names."""

    def __init__(self, tools: Mapping[str, Tool]) -> None:
        self._tools = tools

    async def __call__(self, context: StepContext, with_: dict[str, JSON]) -> JSON:
        """Call the tool the step names."""
        name = str(context.step.config)
        tool = self._tools.get(name)
        if tool is None:
            raise NotFound(f"step {context.path!r} calls the tool {name!r}, which is none of {sorted(self._tools)}")
        return await tool(Effect(f"{context.run}/{context.path}", context), with_)
