"""What a connector is: one declared entry of metier.yaml that gives tools with schemas, and says what it would do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from metier.calls import JSON, Principal
from metier.connectors.effects import Effects
from metier.connectors.secrets import Secrets
from metier.deferred import deferred
from metier.errors import ConfigError, Invalid
from metier.workflow.context import fits
from metier.workflow.tool_schema import fits_tool

if TYPE_CHECKING:
    import jsonschema
else:
    jsonschema = deferred("jsonschema")

__all__ = ["Call", "Connector", "Effect", "Given", "Make", "Tool", "ToolSpec", "schema_of", "text", "whole"]


class Effect(Protocol):
    """Where a tool is called from; the same key means the same effect."""

    @property
    def key(self) -> str:
        """Run and path of the step, or whatever else stays the same when it is repeated."""
        ...

    @property
    def principal(self) -> Principal:
        """In whose name: it decides which secrets are read."""
        ...


Call: TypeAlias = Callable[[Effect, dict[str, JSON]], Awaitable[JSON]]
Tool: TypeAlias = Call
"""A function of a connector: what `with` gave, in; JSON, out."""


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """One tool that steps and agents may call by name; calling it checks what goes in and what comes out."""

    name: str
    """Connector and operation: crm.find_contact."""
    description: str
    """What it is for, as a model reads it."""
    schema: Mapping[str, JSON]
    """JSON Schema of what goes in."""
    effect: bool
    """Whether it changes something outside: done once per key, and worth an approval."""
    call: Call
    output: Mapping[str, JSON] | None = None
    """JSON Schema of what comes out, where it is known."""
    foreign: bool = False
    """Whether the other side wrote the schemas: then they are applied within bounds."""

    async def __call__(self, effect: Effect, with_: dict[str, JSON]) -> JSON:
        """Check what goes in, call, check what comes out."""
        check = fits_tool if self.foreign else fits
        check(with_, self.schema, f"what {self.name!r} was given")
        found = await self.call(effect, with_)
        if found is not None or not self.effect:
            # An effect that a person settled has no answer.
            check(found, self.output, f"what {self.name!r} gave")
        return found


class Connector(Protocol):
    """One door to the outside, made from one entry under `connectors:`."""

    async def tools(self) -> Sequence[ToolSpec]:
        """Give its tools; a connector that has to ask the other side may keep what it learnt."""
        ...

    async def preview(self, operation: str, with_: Mapping[str, JSON]) -> Mapping[str, JSON]:
        """Say what a call would do, without doing it and without any secret."""
        ...

    async def probe(self) -> str:
        """Reach the other side without changing anything, prove ourselves, and say in a line how it went."""
        ...

    async def close(self) -> None:
        """Let go of what it holds."""
        ...


@dataclass(frozen=True, slots=True)
class Given:
    """What every connector is made with."""

    name: str
    """As it stands in metier.yaml; scopes of secrets name it."""
    options: Mapping[str, Any]
    """Its entry, without `kind`."""
    effects: Effects
    secrets: Secrets

    async def secret(self, name: str, principal: Principal | None) -> str:
        """Open a secret for this connector, in the name of whoever calls; None reads those of the house."""
        if principal is None:
            return await self.secrets.get(name, self.name)
        return await self.secrets.get(name, self.name, organisation=principal.organisation, project=principal.project)

    def known(self, names: str) -> None:
        """Refuse options that are none of these, with the place where they stand."""
        unknown = sorted(set(map(str, self.options)) - set(names.split()))
        if unknown:
            raise ConfigError(
                f"connectors.{self.name} has {unknown[0]!r}, which is no option of its kind: choose among {names}"
            )

    def wrong(self, what: str) -> ConfigError:
        """Make the error of a wrong entry, with the place where it stands."""
        return ConfigError(f"connectors.{self.name}{what}")


Make: TypeAlias = Callable[[Given], Connector]
"""Makes a connector of one kind from its entry, without reaching anything; ConfigError where the entry is wrong."""

_TYPES = frozenset({"array", "boolean", "integer", "null", "number", "object", "string"})


def schema_of(given: object, where: str) -> dict[str, JSON]:
    """Read a JSON Schema of an object, or its short form: name to type, a trailing "?" where it may be left out."""
    if given is None:
        return {"type": "object", "properties": {}, "additionalProperties": False}
    if not isinstance(given, dict):
        raise ConfigError(f"{where} must be fields or a JSON Schema, found {type(given).__name__}")
    found: dict[str, JSON] = given
    if given.get("type") != "object":
        fields: dict[str, JSON] = {
            str(name).rstrip("?"): {"type": kind} if isinstance(kind, str) else kind for name, kind in given.items()
        }
        needed: list[JSON] = [str(name) for name in given if not str(name).endswith("?")]
        found = {"type": "object", "properties": fields, "required": needed, "additionalProperties": False}
        if all(isinstance(kind, str) and kind in _TYPES for kind in given.values()):
            # Right as it was made: nothing to check, and no library to load for it.
            return found
    try:
        jsonschema.Draft202012Validator.check_schema(found)
    except jsonschema.SchemaError as error:
        raise ConfigError(f"{where} is no JSON Schema: {error.message[:200]}") from None
    return found


def text(with_: Mapping[str, JSON], name: str) -> str:
    """Give a field that must be text."""
    value = with_.get(name)
    if not isinstance(value, str):
        raise Invalid(f"`with.{name}` must be text, got {type(value).__name__}")
    return value


def whole(options: Mapping[str, Any], name: str, usual: float, most: float) -> float:
    """Give an option that is a number above 0 and at most `most`."""
    value = options.get(name, usual)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
        raise ConfigError(f"{name} is {value!r}: give a number above 0 and up to {most:g}")
    return float(value)
