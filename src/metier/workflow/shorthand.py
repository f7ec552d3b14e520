"""JSON Schema as people write it in a workflow: `{score: integer, route: {enum: [auto, expert]}}`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from metier.calls import JSON
from metier.deferred import deferred
from metier.errors import Invalid
from metier.workflow.yaml_source import Node, suggest

if TYPE_CHECKING:
    import jsonschema
else:
    jsonschema = deferred("jsonschema")

__all__ = ["KEYWORDS", "TYPES", "conform", "expand", "expand_fields"]

TYPES = ("string", "integer", "number", "boolean", "object", "array", "null")
"""Type names of JSON Schema; `any` stands for no restriction."""
KEYWORDS = (
    "type",
    "enum",
    "const",
    "items",
    "properties",
    "required",
    "additionalProperties",
    "description",
    "title",
    "default",
    "examples",
    "format",
    "pattern",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minItems",
    "maxItems",
    "uniqueItems",
    "minProperties",
    "maxProperties",
    "anyOf",
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}\Z", re.ASCII)


def expand_fields(node: Node, what: str) -> dict[str, JSON]:
    """Expand what stands under `inputs:` or `output:`: named fields, or a whole schema with a type."""
    if node.shape == "mapping" and not _is_schema(node):
        return _checked(_fields(node, what), node, what)
    return _checked(_schema(node, what), node, what)


def expand(node: Node, what: str) -> dict[str, JSON]:
    """Expand one type: a type name, a list of values, fields, or JSON Schema itself."""
    return _checked(_schema(node, what), node, what)


def conform(value: JSON, schema: Mapping[str, JSON], what: str) -> JSON:
    """Check a value against a schema and fill defaults of missing fields; Invalid names the first thing wrong."""
    filled = _with_defaults(value, schema)
    try:
        found = next(iter(jsonschema.Draft202012Validator(schema).iter_errors(filled)), None)
    except RecursionError:
        raise Invalid(f"cannot accept {what}: it is nested too deeply") from None
    if found is None:
        return filled
    place = ".".join(str(part) for part in found.absolute_path)
    where = f"{what}.{place}" if place else what
    raise Invalid(f"cannot accept {where}: {_short(found)}", param=place or None)


def _short(found: Any) -> str:
    """Say what is wrong without repeating a whole document back."""
    if found.validator == "required":
        missing = [name for name in found.validator_value if name not in found.instance]
        return f"missing {', '.join(map(repr, missing))}"
    if found.validator == "additionalProperties":
        extra = sorted(set(found.instance) - set(found.schema.get("properties", {})))
        names = ", ".join(repr(name[:60]) for name in extra[:5])
        return f"unknown {names}{suggest(extra[0], found.schema.get('properties', {}))}"
    # A text may hold what no message should repeat, so only its kind is said.
    given = found.instance
    shown = f"a {type(given).__name__}" if isinstance(given, (str, list, dict)) else repr(given)
    return f"{shown} does not satisfy {found.validator}: {str(found.validator_value)[:200]}"


def _with_defaults(value: JSON, schema: Mapping[str, JSON]) -> JSON:
    properties = schema.get("properties")
    if not isinstance(value, dict) or not isinstance(properties, dict):
        return value
    filled = dict(value)
    for name, inner in properties.items():
        if not isinstance(inner, dict):
            continue
        if name in filled:
            filled[name] = _with_defaults(filled[name], inner)
        elif "default" in inner:
            filled[name] = inner["default"]
    return filled


def _is_schema(node: Node) -> bool:
    """Tell a schema from named fields: it has a type that is a type name, or lists its values."""
    entries = node.entries
    if "enum" in entries and entries["enum"].shape == "list":
        return True
    if "anyOf" in entries and entries["anyOf"].shape == "list":
        return True
    if "type" not in entries:
        return "const" in entries and all(key in KEYWORDS for key in entries)
    named = entries["type"]
    is_type = named.scalar in TYPES or (named.shape == "list" and all(one.scalar in TYPES for one in named.items))
    return is_type and all(key in KEYWORDS for key in entries)


def _schema(node: Node, what: str) -> dict[str, JSON]:
    if node.shape == "scalar":
        return _named(node, what)
    if node.shape == "list":
        node.fail(f"{what} cannot be a list; write {{enum: […]}} for a choice")
    if not _is_schema(node):
        try:
            return _fields(node, what)
        except Invalid:
            _misspelt(node, what)
            raise
    entries = node.entries
    if "enum" in entries and not entries["enum"].items:
        entries["enum"].fail(f"{what}.enum must list at least one value, or nothing ever fits")
    found: dict[str, JSON] = {}
    for key, value in entries.items():
        match key:
            case "items":
                found[key] = _schema(value, f"{what}.items")
            case "properties":
                found[key] = {
                    name: _schema(one, f"{what}.{name}") for name, one in value.mapping(f"{what}.properties").items()
                }
            case "additionalProperties" if value.shape == "mapping":
                found[key] = _schema(value, f"{what}.additionalProperties")
            case "anyOf":
                found[key] = [_schema(one, f"{what}.anyOf") for one in value.list(f"{what}.anyOf")]
            case _:
                found[key] = value.data()
    return found


def _misspelt(node: Node, what: str) -> None:
    """Say which keyword was meant, where what cannot be read as fields was to be a schema."""
    if "type" in node.entries and node.entries["type"].scalar in TYPES:
        for key in node.entries:
            close = difflib.get_close_matches(key[:80], KEYWORDS, 1, 0.75)
            if key not in KEYWORDS and close:
                at = node.key_marks[key]
                raise Invalid(
                    f"{at}: unknown keyword {key[:80]!r} in {what}; did you mean {close[0]!r}?", param=str(at)
                )


def _named(node: Node, what: str) -> dict[str, JSON]:
    """Expand a type name, `string[]` for a list of them, `string | null` for either."""
    written = node.text(what)
    options = [option.strip() for option in written.split("|")]
    schemas: list[dict[str, JSON]] = []
    for option in options:
        name, lists = option, 0
        while name.endswith("[]"):
            name, lists = name[:-2].strip(), lists + 1
        if name not in (*TYPES, "any") or lists > 4:
            node.fail(f"{what} has the unknown type {option[:80]!r}{suggest(name, (*TYPES, 'any'))}")
        schema: dict[str, JSON] = {} if name == "any" else {"type": name}
        for _ in range(lists):
            schema = {"type": "array", "items": schema}
        schemas.append(schema)
    if len(schemas) == 1:
        return schemas[0]
    if all(set(schema) == {"type"} for schema in schemas):
        return {"type": [schema["type"] for schema in schemas]}
    return {"anyOf": [*schemas]}


def _fields(node: Node, what: str) -> dict[str, JSON]:
    """Expand named fields to an object; `name?:` or a default makes a field optional, nothing else may come."""
    properties: dict[str, JSON] = {}
    required: list[JSON] = []
    for key, value in node.mapping(what).items():
        name = key.removesuffix("?").rstrip()
        if not _NAME.match(name):
            value.fail(
                f"{what} has the field {key[:80]!r}; a field is letters, digits and _, not starting with a digit"
            )
        if name in properties:
            value.fail(f"{what} has the field {name!r} twice")
        schema = _schema(value, f"{what}.{name}")
        properties[name] = schema
        if not key.endswith("?") and "default" not in schema:
            required.append(name)
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _checked(schema: dict[str, JSON], node: Node, what: str) -> dict[str, JSON]:
    for pattern in _patterns(schema):
        try:
            re.compile(pattern)
        except (re.error, OverflowError, RecursionError) as wrong:
            node.fail(f"{what} has the pattern {pattern[:80]!r}, which is not a regular expression: {wrong}")
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as wrong:
        place = "/".join(str(part) for part in wrong.absolute_path)
        node.fail(f"{what} is not JSON Schema at {place or 'the top'!r}: {wrong.message[:200]}")
    return schema


def _patterns(schema: JSON) -> list[str]:
    found: list[str] = []
    pending: list[JSON] = [schema]
    while pending:
        one = pending.pop()
        if isinstance(one, dict):
            if isinstance(pattern := one.get("pattern"), str):
                found.append(pattern)
            pending.extend(one.values())
        elif isinstance(one, list):
            pending.extend(one)
    return found
