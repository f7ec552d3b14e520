"""What agents may use: tools of connectors, functions of code steps and other workflows, each with its schema."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import NoneType, UnionType
from typing import Any, Literal, Protocol, Union, get_args, get_origin, get_type_hints, runtime_checkable

from metier.calls import JSON
from metier.errors import Invalid, NotFound
from metier.workflow.bundle import OFFERED
from metier.workflow.engine import StepContext
from metier.workflow.steps.agent_persona import Persona
from metier.workflow.steps.code import Code
from metier.workflow.steps.tool import Effect, Tool

__all__ = ["AgentTool", "CallFlow", "FlowTool", "Matching", "Offer", "Toolbox", "schema_of"]

_OUTSIDE = re.compile(r"[^A-Za-z0-9_-]")
_LONGEST_NAME = 64
_ANYTHING: Mapping[str, JSON] = {"type": "object", "additionalProperties": True}
_SIMPLE: Mapping[type, str] = {
    str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object", NoneType: "null"
}  # fmt: skip


@runtime_checkable
class AgentTool(Protocol):
    """A tool that says what it is for and what it takes; connectors of every protocol give such ones."""

    @property
    def name(self) -> str:
        """As workflows write it: connector and operation."""
        ...

    @property
    def description(self) -> str:
        """What it does, in the words the model reads."""
        ...

    @property
    def schema(self) -> Mapping[str, JSON]:
        """JSON Schema of its arguments."""
        ...

    async def __call__(self, effect: Effect, with_: dict[str, JSON], /) -> JSON:
        """Do it."""
        ...


@runtime_checkable
class Matching(Protocol):
    """A table of tools that finds out what its connectors give only when somebody asks."""

    async def matching(self, patterns: Sequence[str]) -> Sequence[AgentTool]:
        """Give the tools that names and patterns such as `crm.*` mean; NotFound for one that means none."""
        ...


@dataclass(frozen=True, slots=True)
class FlowTool:
    """Another workflow as a tool."""

    description: str
    schema: Mapping[str, JSON]
    """Of its inputs."""


class CallFlow(Protocol):
    """Lets an agent start another workflow and wait for its output."""

    async def find(self, context: StepContext, flow: str) -> FlowTool | None:
        """Describe a workflow the run may call by this name; None where there is none."""
        ...

    async def run(self, context: StepContext, key: str, flow: str, inputs: dict[str, JSON]) -> JSON:
        """Start it under a key, once, and give its output; it may leave the run parked until that is there."""
        ...


@dataclass(frozen=True, slots=True)
class Offer:
    """A tool as one agent is offered it."""

    name: str
    """As workflows write it, such as crm.find_contact."""
    called: str
    """As the model sees it: letters, digits, `_` and `-` alone."""
    description: str
    schema: Mapping[str, JSON]
    call: Tool
    asks: bool = False
    """Whether a person approves each call."""


class Toolbox:
    """Finds the tools that agents name, by name or by the prefix they share."""

    def __init__(
        self, tools: Mapping[str, Tool], functions: Mapping[str, Code], call_flow: CallFlow | None = None
    ) -> None:
        self._tools = tools
        self._functions = dict(functions)
        self._call_flow = call_flow

    async def offers(self, context: StepContext, persona: Persona) -> tuple[Offer, ...]:
        """Give what one agent is offered, in the order it names them, each once."""
        found: dict[str, Offer] = {}
        for written in persona.tools:
            for offer in await self._meant(context, persona, written):
                asks = any(_matches(pattern, offer.name) for pattern in persona.approve)
                found.setdefault(offer.name, replace(offer, asks=asks))
        called = [offer.called for offer in found.values()]
        if len(set(called)) < len(called):
            raise Invalid(f"two tools of the agent {persona.id!r} have the same name for the model: {sorted(called)}")
        lost = [name for name in persona.approve if not any(_matches(name, tool) for tool in found)]
        if lost:
            raise NotFound(f"the agent {persona.id!r} has approvals for tools it does not have: {sorted(lost)}")
        return tuple(found.values())

    async def _meant(self, context: StepContext, persona: Persona, written: str) -> list[Offer]:
        if written.startswith(OFFERED) and self._call_flow is not None:
            return [await self._flow(context, written)]
        found = [_function(name, made) for name, made in self._functions.items() if _matches(written, name)]
        if isinstance(self._tools, Matching):
            try:
                found.extend(map(_spec, await self._tools.matching([written])))
            except NotFound:
                if not found:
                    raise
        else:
            found.extend(_bare(name, self._tools[name]) for name in sorted(self._tools) if _matches(written, name))
        if not found:
            known = sorted([*self._tools, *self._functions])
            raise NotFound(
                f"the agent {persona.id!r} of step {context.path!r} names the tool {written!r}, "
                f"which is none of {known}"
            )
        return found

    async def _flow(self, context: StepContext, name: str) -> Offer:
        flow, call_flow = name.removeprefix(OFFERED), self._call_flow
        known = None if call_flow is None else await call_flow.find(context, flow)
        if call_flow is None or known is None:
            raise NotFound(f"step {context.path!r} offers an agent the workflow {flow!r}, which it may not call")

        async def run(effect: Effect, inputs: dict[str, JSON]) -> JSON:
            return await call_flow.run(effect.context, effect.key, flow, inputs)

        return Offer(name, _called(name), known.description, dict(known.schema), run)


def schema_of(function: Callable[..., JSON]) -> dict[str, JSON]:
    """Derive the JSON Schema of the arguments of a Python function from its signature."""
    hints = get_type_hints(function)
    properties: dict[str, JSON] = {}
    required: list[JSON] = []
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        found = _schema(hints.get(name, Any))
        if parameter.default is parameter.empty:
            required.append(name)
        elif isinstance(parameter.default, str | int | float | bool | NoneType):
            found = {**found, "default": parameter.default}
        properties[name] = found
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _schema(hint: Any) -> dict[str, JSON]:
    origin, inner = get_origin(hint), get_args(hint)
    if hint in _SIMPLE:
        return {"type": _SIMPLE[hint]}
    if origin is Literal:
        return {"enum": list(inner)}
    if origin in (Union, UnionType) and len(inner) < len(_SIMPLE) - 1:
        return {"anyOf": [_schema(one) for one in inner]}
    if origin is list:
        return {"type": "array", "items": _schema(inner[0])}
    if origin is dict or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return {"type": "object", "additionalProperties": _schema(inner[1])}
    return {}


def _function(name: str, function: Code) -> Offer:
    async def call(effect: Effect, arguments: dict[str, JSON]) -> JSON:
        return function(**arguments)

    return Offer(name, _called(name), _first_line(function), schema_of(function), call)


def _spec(tool: AgentTool) -> Offer:
    return Offer(tool.name, _called(tool.name), tool.description, dict(tool.schema), tool)


def _bare(name: str, tool: Tool) -> Offer:
    return (
        _spec(tool) if isinstance(tool, AgentTool) else Offer(name, _called(name), _first_line(tool), _ANYTHING, tool)
    )


def _called(name: str) -> str:
    return _OUTSIDE.sub("_", name)[:_LONGEST_NAME]


def _matches(pattern: str, name: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith(".*") else name == pattern


def _first_line(function: object) -> str:
    return (inspect.getdoc(function) or "").partition("\n")[0]
