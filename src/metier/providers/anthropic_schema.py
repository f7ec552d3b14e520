"""Which JSON Schemas Anthropic's models can be held to, and how they are written for that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["closed", "holds"]

# What the grammar behind `output_config.format` cannot hold a model to, or what closing its objects would change.
_BEYOND_FORMAT = frozenset(
    {
        "allOf", "contains", "dependentSchemas", "else", "exclusiveMaximum", "exclusiveMinimum", "if", "maxItems",
        "maxLength", "maxProperties", "maximum", "minLength", "minProperties", "minimum", "multipleOf", "not", "oneOf",
        "patternProperties", "prefixItems", "propertyNames", "then", "uniqueItems",
    }
)  # fmt: skip
_NAMED = ("properties", "$defs", "definitions")
_NESTED = ("items", "anyOf")


def holds(node: Any) -> bool:
    """Tell whether a schema says only what `output_config.format` can promise."""
    if isinstance(node, list):
        return all(holds(child) for child in node)
    if not isinstance(node, Mapping):
        return True
    if _BEYOND_FORMAT & node.keys() or node.get("$ref") == "#" or node.get("minItems") not in (None, 0, 1):
        return False
    if node.get("additionalProperties") not in (None, False):
        return False
    if _is_object(node) and not node.get("properties") and "additionalProperties" not in node:
        # Any object will do: closed, it would be the empty one.
        return False
    named = (node[name] for name in _NAMED if isinstance(node.get(name), Mapping))
    return all(holds(child) for group in named for child in group.values()) and all(
        holds(node.get(name)) for name in _NESTED
    )


def closed(node: Any) -> Any:
    """Say of every object of a schema that it has no other properties, as the format asks; what fits still fits it."""
    if isinstance(node, list):
        return [closed(child) for child in node]
    if not isinstance(node, Mapping):
        return node
    found = dict(node)
    for name in _NAMED:
        if isinstance(node.get(name), Mapping):
            found[name] = {key: closed(child) for key, child in node[name].items()}
    for name in _NESTED:
        if name in node:
            found[name] = closed(node[name])
    if _is_object(node):
        found["additionalProperties"] = False
    return found


def _is_object(node: Mapping[str, Any]) -> bool:
    kind = node.get("type")
    return kind == "object" or (isinstance(kind, list) and "object" in kind) or "properties" in node
