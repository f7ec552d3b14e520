"""Fields of a form made from a JSON Schema: choices, flags, numbers, dates, texts, lists, and parts one level deep."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Literal, TypeAlias

import orjson

from metier.calls import JSON
from metier.nesting import is_deeper

__all__ = ["Field", "FieldKind", "Problem", "Schema", "fields_of", "is_long", "plain", "read", "write"]

FieldKind: TypeAlias = Literal["line", "text", "choice", "flag", "number", "date", "list", "json"]
Schema: TypeAlias = Mapping[str, JSON]

_LONG = 120
"""Characters from which a text has more than one line."""
_LONG_NAMES = ("body", "text", "message", "note", "comment", "summary")
_SIMPLE = ("string", "integer", "number")
_NUMBER = re.compile(r"[-+]?\d{1,30}(?:\.\d{1,30})?(?:[eE][-+]?\d{1,3})?\Z")


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with one field, as a key of the words and its values."""

    key: str
    limit: str = ""


@dataclass(frozen=True, slots=True)
class Field:
    """One thing a person may write or choose."""

    name: str
    """Its name in the form; "edited.…" for the parts of the draft."""
    key: str
    kind: FieldKind
    value: str
    options: tuple[str, ...] = ()
    required: bool = False
    group: str = ""
    """The part of the answer it belongs to, where it is one level down."""
    least: str = ""
    most: str = ""
    """Bounds of a number, as text; empty where there is none."""
    problem: Problem | None = None

    @property
    def draft(self) -> bool:
        """Whether it belongs to the draft."""
        return self.name == "edited" or self.name.startswith("edited.")

    @property
    def rows(self) -> int:
        """How many lines to show at first."""
        if self.kind == "line":
            return 1
        lines = sum(1 + len(line) // 75 for line in self.value.split("\n"))
        return max(3, min(24, lines + 1))


def fields_of(name: str, key: str, schema: Schema, value: JSON, *, required: bool, group: str = "") -> Iterator[Field]:
    """Give the field of one part of an answer, or those inside an object, one level down."""
    schema = plain(schema)
    inner = schema.get("properties")
    if schema.get("type") == "object" and isinstance(inner, dict) and inner and not group:
        given = value if isinstance(value, dict) else {}
        needed = schema.get("required")
        for part, rule in inner.items():
            asked = isinstance(needed, list) and part in needed
            own = rule if isinstance(rule, dict) else {}
            yield from fields_of(f"{name}.{part}", part, own, given.get(part), required=asked, group=key)
        return
    options = schema.get("enum")
    named = tuple(map(_named, options)) if isinstance(options, list) else ()
    kind = _kind(schema, key, value)
    yield Field(
        name,
        key,
        kind,
        write(value, kind),
        named,
        required and kind not in ("text", "flag", "list"),
        group,
        _bound(schema, "minimum", "exclusiveMinimum"),
        _bound(schema, "maximum", "exclusiveMaximum"),
    )


def is_long(key: str, text: str) -> bool:
    """Say whether a text needs more than one line."""
    return "\n" in text or len(text) > _LONG or key in _LONG_NAMES


def plain(schema: Schema) -> Schema:
    """Give the schema of a value where it is there, for one that may also be null."""
    for word in ("anyOf", "oneOf"):
        ways = schema.get(word)
        if isinstance(ways, list):
            real = [way for way in ways if isinstance(way, dict) and way.get("type") != "null"]
            if len(real) == 1 and len(real) < len(ways):
                return real[0]
    kinds = schema.get("type")
    if isinstance(kinds, list):
        real_kinds: list[JSON] = [kind for kind in kinds if kind != "null"]
        return {**schema, "type": real_kinds[0] if len(real_kinds) == 1 else None}
    return schema


def write(value: JSON, kind: FieldKind) -> str:
    """Write a value as its field shows it."""
    if value is None:
        return ""
    if kind == "flag":
        return "1" if value is True else ""
    if kind == "list" and isinstance(value, list):
        return "\n".join(_named(one) for one in value)
    if isinstance(value, str) and kind != "json":
        return value
    return orjson.dumps(value, option=orjson.OPT_INDENT_2 if kind == "json" else None).decode()


def read(field: Field, schema: Schema, text: str) -> JSON | Problem:
    """Read a field; None where it was left empty, or what is wrong with it."""
    schema = plain(schema)
    if field.kind == "flag":
        return text != ""
    if field.kind == "text":
        return text
    if field.kind == "line":
        # A subject that came with a line break would end an e-mail's headers.
        return " ".join(text.split("\n")).strip()
    if field.kind == "list":
        return _list(schema, text)
    if not text.strip():
        return None
    if field.kind == "choice":
        options = schema.get("enum")
        chosen = [one for one in options if _named(one) == text] if isinstance(options, list) else []
        return chosen[0] if chosen else Problem("enum")
    if field.kind == "number":
        return _number(text, whole=schema.get("type") == "integer")
    if field.kind == "date":
        return _date(text.strip())
    try:
        value: JSON = orjson.loads(text)
    except orjson.JSONDecodeError:
        return Problem("json")
    return Problem("json") if is_deeper(value) else value


def _kind(schema: Schema, key: str, value: JSON) -> FieldKind:
    if isinstance(schema.get("enum"), list):
        return "choice"
    items, most = schema.get("items"), schema.get("maxLength")
    match schema.get("type"):
        case "boolean":
            return "flag"
        case "integer" | "number":
            return "number"
        case "array" if isinstance(items, dict) and plain(items).get("type") in _SIMPLE and _lines(value):
            return "list"
        case "string" if schema.get("format") == "date":
            return "date"
        case "string":
            short = (isinstance(most, int) and most <= _LONG) or schema.get("format") is not None
            long = is_long(key, value) if isinstance(value, str) else not short
            return "text" if long else "line"
    return "json"


def _lines(value: JSON) -> bool:
    """Whether every entry of a list fits on a line of its own."""
    if value is None:
        return True
    simple = isinstance(value, list) and all(isinstance(one, str | int | float) for one in value)
    return simple and not any(isinstance(one, str) and ("\n" in one or not one.strip()) for one in value or ())  # type: ignore[union-attr]  # it is a list here


def _list(schema: Schema, text: str) -> JSON | Problem:
    rule = schema.get("items")
    kind = plain(rule).get("type") if isinstance(rule, dict) else "string"
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if kind == "string":
        return [*lines]
    found: list[JSON] = []
    for line in lines:
        value = _number(line, whole=kind == "integer")
        if isinstance(value, Problem):
            return value
        found.append(value)
    return found


def _number(text: str, *, whole: bool) -> JSON | Problem:
    written = re.sub(r"[\s\u00a0\u202f]", "", text).replace(",", ".")
    if not _NUMBER.match(written):
        return Problem("integer" if whole else "number")
    value = float(written)
    if value.is_integer() and abs(value) < 2**53:
        return int(value)
    return Problem("integer") if whole else value


def _date(text: str) -> JSON | Problem:
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        return Problem("date")


def _bound(schema: Schema, *words: str) -> str:
    found = [schema[word] for word in words if isinstance(schema.get(word), int | float)]
    return str(found[0]) if found else ""


def _named(value: JSON) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()
