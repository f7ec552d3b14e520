"""What a function of expressions is: how it is called, what it takes and gives, and how its arguments are read."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = [
    "INT_MAX",
    "INT_MIN",
    "TEXT_MAX",
    "Builtin",
    "Moment",
    "Unfit",
    "Value",
    "items_in",
    "moment_in",
    "number_in",
    "text_in",
    "type_name",
    "whole_in",
]

Value: TypeAlias = object
"""A JSON value, or a point or length of time on its way to becoming one."""
Moment: TypeAlias = datetime.datetime

INT_MIN = -(2**63)
INT_MAX = 2**63 - 1
TEXT_MAX = 2_000_000
"""Characters of a text a function may make."""


class Unfit(Exception):
    """An argument a function cannot take; the evaluator turns it into Invalid with the place."""


@dataclass(frozen=True, slots=True)
class Builtin:
    """One function: how it is called, what it gives, how it is computed, and what the reference says of it."""

    least: int
    """Arguments it takes at least, and at most."""
    most: int
    gives: str | None
    """JSON Schema type of the result; None when it depends or is a time."""
    run: Callable[..., Value]
    written: str = ""
    """How it is written, such as `cut(text, length)`."""
    says: str = ""
    """What it does, in one sentence."""
    example: str = ""
    """An expression whose value the reference shows."""
    takes: tuple[str, ...] = ()
    """Types of the first arguments, as `string` or `array|string`; empty says nothing."""
    like: Literal["first", "item"] | None = None
    """The result is like the first argument, or like an item of it."""
    deep: bool = False
    """It looks at everything inside its arguments, so all of that is counted as work."""


def type_name(value: Value) -> str:
    """Name the CEL type of a value, for messages."""
    match value:
        case None:
            return "null"
        case bool():
            return "bool"
        case int():
            return "int"
        case float():
            return "double"
        case str():
            return "string"
        case list():
            return "list"
        case dict():
            return "map"
        case datetime.datetime():
            return "timestamp"
        case datetime.timedelta():
            return "duration"
    return type(value).__name__


def text_in(value: Value, what: str) -> str:
    """Take a text."""
    if not isinstance(value, str):
        raise Unfit(f"{what} needs a string, not {type_name(value)}")
    return value


def number_in(value: Value, what: str) -> int | float:
    """Take a number, which true and false are not."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Unfit(f"{what} needs a number, not {type_name(value)}")
    return value


def whole_in(value: Value, what: str, least: int, most: int) -> int:
    """Take a whole number between two bounds."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise Unfit(f"{what} needs a whole number between {least} and {most}")
    return value


def items_in(value: Value, what: str) -> list[Value]:
    """Take a list."""
    if not isinstance(value, list):
        raise Unfit(f"{what} needs a list, not {type_name(value)}")
    return value


def moment_in(value: Value, what: str) -> datetime.datetime:
    """Take a moment, as a time or as text; without a zone it is in UTC."""
    if isinstance(value, datetime.datetime):
        return value
    written = text_in(value, what)
    try:
        found = datetime.datetime.fromisoformat(written)
    except ValueError as wrong:
        raise Unfit(f"{what} cannot read {written[:40]!r}; write 2026-10-01 or 2026-10-01T08:30:00Z") from wrong
    try:
        return found.replace(tzinfo=datetime.UTC) if found.tzinfo is None else found.astimezone(datetime.UTC)
    except OverflowError as wrong:
        raise Unfit(f"{what} cannot hold {written[:40]!r}: out of range") from wrong
