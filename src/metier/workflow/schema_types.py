"""What a JSON Schema says of the type of a value, and how types are named in messages."""

from __future__ import annotations

from metier.calls import JSON
from metier.workflow.view import Schema

__all__ = ["NUMBERS", "alike", "either", "items_of", "named", "of_value", "types_of", "words"]

NUMBERS = frozenset({"integer", "number"})
"""The types that are numbers."""


def types_of(schema: Schema) -> frozenset[str]:
    """Name the types a schema allows; empty when it does not say."""
    named = schema.get("type")
    if isinstance(named, str):
        return frozenset({named})
    if isinstance(named, list):
        return frozenset(str(one) for one in named)
    choices = schema.get("enum")
    if isinstance(choices, list):
        return frozenset(name for choice in choices for name in types_of(of_value(choice)))
    if "const" in schema:
        return types_of(of_value(schema["const"]))
    return frozenset()


def of_value(value: JSON) -> Schema:
    """Give the type of a value that is written out, as a schema."""
    match value:
        case None:
            return {"type": "null"}
        case bool():
            return {"type": "boolean"}
        case int():
            return {"type": "integer"}
        case float():
            return {"type": "number"}
        case str():
            return {"type": "string"}
        case list():
            return {"type": "array"}
    return {"type": "object"}


def items_of(schema: Schema) -> Schema:
    """Find the schema of what a list holds; an empty one where nothing is said of it."""
    items = schema.get("items")
    return items if isinstance(items, dict) else {}


def either(one: Schema, two: Schema) -> Schema:
    """Give the types of a value that comes from one of two places, where both are known."""
    types = types_of(one) | types_of(two)
    return {"type": [*sorted(types)]} if types_of(one) and types_of(two) else {}


def alike(one: frozenset[str], two: frozenset[str]) -> bool:
    """Tell whether a value could be of both kinds; numbers are alike, and what is unknown is like anything."""
    return bool(one & two) or bool(one & NUMBERS and two & NUMBERS) or not one or not two


def words(types: frozenset[str]) -> str:
    """Name types in a message, in a stable order."""
    return " or ".join(sorted(types))


def named(types: frozenset[str]) -> str:
    """Name types in a message as people say them, such as a list or a whole number."""
    names = {"array": "a list", "object": "a map", "integer": "a whole number"}
    return " or ".join(sorted(names.get(one, f"a {one}") for one in types))
