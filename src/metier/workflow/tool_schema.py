"""Schemas of tools as arguments can be checked against here: connectors bring them from servers that wrote them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, TypeAlias

from metier.calls import JSON
from metier.deferred import deferred
from metier.errors import Invalid
from metier.workflow.tool_check import Overdone, faults, reads, size

if TYPE_CHECKING:
    import jsonschema
else:
    jsonschema = deferred("jsonschema")

__all__ = ["checkable", "fits_tool", "moved", "problem_of"]

_ANY: Final[Mapping[str, JSON]] = {"type": "object"}
_VALUES: Final = frozenset({"enum", "const", "default", "examples"})
"""Keywords under which no schema stands."""
_NAMED: Final = frozenset({"properties", "patternProperties", "dependentSchemas", "$defs", "definitions"})
"""Keywords under which schemas stand by names that are no keywords."""
_DEEPEST: Final = 60
_LARGEST: Final = 5_000
"""Values of a schema that is gone through; of a larger one nothing is applied here."""

_Change: TypeAlias = Callable[[str, JSON], tuple[JSON, ...]]
"""What becomes of a keyword and its value: another value, or nothing."""


def checkable(schema: Mapping[str, JSON]) -> dict[str, JSON]:
    """Give a schema without what cannot be applied here: patterns RE2 does not read, references that lead nowhere.

    Where it is no schema at all, any object is let through: who serves the tool checks what it takes.
    """
    if size(dict(schema), _LARGEST) == _LARGEST:
        return dict(_ANY)
    found = _rewritten(dict(schema), functools.partial(_applied, whole=schema))
    assert isinstance(found, dict)
    try:
        # Formats are left out: patterns are of RE2 here, and Python's would not read them all.
        jsonschema.Draft202012Validator.check_schema(found, format_checker=jsonschema.FormatChecker(()))
        faults({}, found)
    except (jsonschema.SchemaError, RecursionError, Overdone):
        return dict(_ANY)
    return found


def moved(schema: Mapping[str, JSON], place: str) -> dict[str, JSON]:
    """Give a schema as it stands inside another one, at a place such as `#/properties/edited`."""
    found = _rewritten(checkable(schema), functools.partial(_led, place=place))
    assert isinstance(found, dict)
    return found


def problem_of(given: JSON, schema: Mapping[str, JSON]) -> tuple[str, str] | None:
    """Say where arguments do not fit and why; None where they fit."""
    problem = _worst(given, checkable(schema))
    if problem is None:
        return None
    return "/".join(str(part) for part in problem.absolute_path) or "the whole", problem.message


def fits_tool(value: JSON, schema: Mapping[str, JSON] | None, what: str) -> None:
    """Check what a tool takes or gives against the schema its server wrote; Invalid names the place, not the value."""
    problem = None if schema is None else _worst(value, schema)
    if problem is not None:
        place = "/".join(str(part) for part in problem.absolute_path) or "the value itself"
        wanted = repr(problem.validator_value)[:200]
        raise Invalid(f"{what} does not fit its schema at {place}: expected {problem.validator} {wanted}")


def _worst(value: JSON, schema: Mapping[str, JSON]) -> jsonschema.ValidationError | None:
    try:
        found: jsonschema.ValidationError | None = jsonschema.exceptions.best_match(iter(faults(value, schema)))
    except RecursionError:
        return jsonschema.ValidationError("it is nested too deeply", validator="depth", validator_value="less")
    except Overdone:
        # Whoever wrote the schema checks what the tool takes, and could have written any other for what it gives.
        return None
    return found


def _rewritten(part: JSON, change: _Change, depth: int = 0) -> JSON:
    """Give a schema with each keyword as `change` gives it, in the schemas inside it too."""
    if depth > _DEEPEST:
        return True
    if isinstance(part, list):
        return [_rewritten(one, change, depth + 1) for one in part]
    if not isinstance(part, dict):
        return part
    found: dict[str, JSON] = {}
    for key, written in part.items():
        if key in _VALUES:
            found[key] = written
            continue
        for value in change(key, written):
            if key in _NAMED and isinstance(value, dict):
                found[key] = {name: _rewritten(one, change, depth + 1) for name, one in value.items()}
            else:
                found[key] = _rewritten(value, change, depth + 1)
    return found


def _applied(key: str, value: JSON, whole: Mapping[str, JSON]) -> tuple[JSON, ...]:
    """Give what of a keyword can be applied here, or nothing."""
    if key == "patternProperties" and isinstance(value, dict):
        return ({name if reads(name) else "^": one if reads(name) else True for name, one in value.items()},)
    if key in ("unevaluatedProperties", "unevaluatedItems"):
        return ()
    return () if _useless(key, value, whole) else (value,)


def _useless(key: str, value: JSON, whole: Mapping[str, JSON]) -> bool:
    """Tell what would fail or ask another machine where it is applied."""
    if not isinstance(value, str):
        return False
    if key == "pattern":
        return not reads(value)
    if key in ("$id", "id", "$schema", "$anchor", "$dynamicAnchor"):
        return True
    return key in ("$ref", "$dynamicRef") and not _leads(value, whole)


def _leads(reference: str, whole: Mapping[str, JSON]) -> bool:
    """Tell whether a reference leads to a place of the same schema."""
    if not reference.startswith("#"):
        return False
    at: JSON = dict(whole)
    for written in reference[1:].split("/")[1:]:
        part = written.replace("~1", "/").replace("~0", "~")
        if isinstance(at, list) and part.isdecimal() and int(part) < len(at):
            at = at[int(part)]
        elif isinstance(at, dict) and part in at:
            at = at[part]
        else:
            return False
    return reference == "#" or reference.startswith("#/")


def _led(key: str, value: JSON, place: str) -> tuple[JSON, ...]:
    """Give a keyword whose reference leads to where the schema stands now, without patterns.

    What a person writes is checked as in any form, by Python's patterns, which go back; what the tool gets, by RE2's.
    """
    if key == "patternProperties":
        return ({"^": True},)
    if (key == "pattern" and isinstance(value, str)) or (key == "uniqueItems" and isinstance(value, bool)):
        return ()
    return (f"{place}{value[1:]}" if key in ("$ref", "$dynamicRef") and isinstance(value, str) else value,)
