"""Schemas of tools as arguments can be checked against here: connectors bring them from servers that wrote them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
_LISTS: Final = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
"""Keywords under which schemas stand in a list."""
_INNER: Final = frozenset({"items", "contains", "additionalProperties", "propertyNames", "not", "if", "then", "else"})
"""Keywords under which one schema stands."""
_BASES: Final = frozenset({"$id", "id", "$schema", "$anchor", "$dynamicAnchor"})
"""Keywords that say nothing of a value."""
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
    found = _loosened(dict(schema), lambda whole: functools.partial(_applied, whole=whole))
    try:
        # Formats are left out: patterns are of RE2 here, and Python's would not read them all.
        jsonschema.Draft202012Validator.check_schema(found, format_checker=jsonschema.FormatChecker(()))
        faults({}, found)
    except (jsonschema.SchemaError, RecursionError, Overdone):
        return dict(_ANY)
    return found


def moved(schema: Mapping[str, JSON], place: str) -> dict[str, JSON]:
    """Give a schema as it stands inside another one, at a place such as `#/properties/edited`."""
    # What a person writes is checked as in any form, by Python's patterns, which go back; what the tool gets, by RE2's.
    plain = _loosened(checkable(schema), lambda whole: functools.partial(_plain, whole=whole))
    found = _Rewriting(functools.partial(_led, place=place)).of(plain)
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


@dataclass(slots=True)
class _Rewriting:
    """Gives a schema with each keyword as `change` gives it, in the schemas inside it too."""

    change: _Change
    loosening: bool = False
    """Whether what one of several schemas must fit may fit several, so that no schema let through too much refuses."""
    lost: bool = False
    """Whether anything said of a value is gone."""

    def of(self, part: JSON, depth: int = 0) -> JSON:
        if depth > _DEEPEST:
            self.lost = True
            return True
        if isinstance(part, list):
            return [self.of(one, depth + 1) for one in part]
        if not isinstance(part, dict):
            return part
        found: dict[str, JSON] = {}
        for key, written in part.items():
            if key in _VALUES:
                found[key] = written
                continue
            kept = self.change(key, written)
            self.lost = self.lost or (key not in _BASES and kept != (written,))
            for value in kept:
                if self.loosening and key == "oneOf":
                    if "anyOf" not in part:
                        found["anyOf"] = self.of(value, depth + 1)
                elif key in _NAMED and isinstance(value, dict):
                    found[key] = {name: self.of(one, depth + 1) for name, one in value.items()}
                else:
                    found[key] = self.of(value, depth + 1)
        return found


def _loosened(schema: dict[str, JSON], change: Callable[[Mapping[str, JSON]], _Change]) -> dict[str, JSON]:
    """Rewrite a schema; where that takes anything out of it, take out too what would then refuse more than before."""
    work = _Rewriting(change(schema))
    found = work.of(schema)
    if work.lost:
        found = _Rewriting(_one_way, loosening=True).of(found)
        # References into what was taken out lead nowhere now.
        found = _Rewriting(change(found if isinstance(found, dict) else {})).of(found)
    assert isinstance(found, dict)
    return found


def _one_way(key: str, value: JSON) -> tuple[JSON, ...]:
    """Give a keyword but where a schema inside that lets more through would make it let less through."""
    return () if key in ("not", "if", "then", "else", "maxContains") else (value,)


def _applied(key: str, value: JSON, whole: Mapping[str, JSON]) -> tuple[JSON, ...]:
    """Give what of a keyword can be applied here, or nothing."""
    if key == "patternProperties" and isinstance(value, dict) and not all(map(reads, value)):
        return ({name if reads(name) else "^": one if reads(name) else True for name, one in value.items()},)
    if key in ("unevaluatedProperties", "unevaluatedItems"):
        return ()
    return () if _useless(key, value, whole) else (value,)


def _useless(key: str, value: JSON, whole: Mapping[str, JSON]) -> bool:
    """Tell what would fail or ask another machine where it is applied."""
    if key in _BASES:
        return True
    if not isinstance(value, str):
        return False
    if key == "pattern":
        return not reads(value)
    return key in ("$ref", "$dynamicRef") and not _leads(value, whole)


def _leads(reference: str, whole: Mapping[str, JSON]) -> bool:
    """Tell whether a reference leads to a schema inside the same schema; what is no schema was not looked through."""
    if reference != "#" and not reference.startswith("#/"):
        return False
    at: JSON = dict(whole)
    under = ""
    for written in reference[1:].split("/")[1:]:
        part = written.replace("~1", "/").replace("~0", "~")
        if isinstance(at, list) and under in _LISTS and part.isdecimal() and int(part) < len(at):
            at, under = at[int(part)], ""
        elif isinstance(at, dict) and part in at and (under in _NAMED or part in _NAMED | _LISTS | _INNER):
            at, under = at[part], "" if under in _NAMED or part in _INNER else part
        else:
            return False
    return not under and isinstance(at, dict | bool)


def _plain(key: str, value: JSON, whole: Mapping[str, JSON]) -> tuple[JSON, ...]:
    """Give a keyword but what takes long to apply, and references that lead nowhere."""
    if key == "patternProperties":
        return ({"^": True},)
    if key in ("pattern", "uniqueItems"):
        return ()
    return () if key in ("$ref", "$dynamicRef") and not _leads(str(value), whole) else (value,)


def _led(key: str, value: JSON, place: str) -> tuple[JSON, ...]:
    """Give a keyword whose reference leads to where the schema stands now."""
    return (f"{place}{value[1:]}" if key in ("$ref", "$dynamicRef") and isinstance(value, str) else value,)
