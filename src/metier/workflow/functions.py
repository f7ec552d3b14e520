"""The functions an expression may call: those of CEL, and ours for texts, money, times and lists; all are pure."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping
from types import MappingProxyType

from metier.workflow.builtin import INT_MAX, INT_MIN, Builtin, Moment, Unfit, Value, type_name
from metier.workflow.functions_list import LISTS
from metier.workflow.functions_money import MONEY
from metier.workflow.functions_text import TEXT
from metier.workflow.functions_time import TIME

__all__ = ["FUNCTIONS", "GROUPS", "INT_MAX", "INT_MIN", "Builtin", "Moment", "Unfit", "Value", "type_name"]


def _size(value: Value) -> int:
    if not isinstance(value, (str, list, dict)):
        raise Unfit(f"size needs a string, list or map, not {type_name(value)}")
    return len(value)


def _whole(value: Value) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float, str, datetime.datetime)):
        raise Unfit(f"int cannot convert {type_name(value)}")
    try:
        if isinstance(value, datetime.datetime):
            return int(value.timestamp())
        if isinstance(value, str) and len(value) > 20:
            raise ValueError(value)
        found = int(value)
    except (ValueError, OverflowError) as wrong:
        raise Unfit("int needs a whole number between -2^63 and 2^63 - 1") from wrong
    if not INT_MIN <= found <= INT_MAX:
        raise Unfit("int needs a whole number between -2^63 and 2^63 - 1")
    return found


def _double(value: Value) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise Unfit(f"double cannot convert {type_name(value)}")
    try:
        found = float(value)
    except (ValueError, OverflowError) as wrong:
        raise Unfit("double needs a number or a text that holds one") from wrong
    if not math.isfinite(found):
        raise Unfit("double needs a finite number")
    return found


def _string(value: Value) -> str:
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
        case datetime.datetime():
            return value.isoformat().replace("+00:00", "Z")
        case datetime.timedelta():
            return f"{value.total_seconds():g}s"
    raise Unfit(f"string cannot convert {type_name(value)}")


def _bool(value: Value) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise Unfit(f"bool cannot convert {type_name(value)}")


# fmt: off
_CONVERSIONS: Mapping[str, Builtin] = {
    "size": Builtin(
        1, 1, "integer", _size, "size(x)", "Characters of a text, items of a list, names of a map.", "size('été')",
        ("string|array|object",),
    ),
    "int": Builtin(1, 1, "integer", _whole, "int(x)", "A whole number from a number, text or time.", "int('42')"),
    "double": Builtin(1, 1, "number", _double, "double(x)", "A number from a number or text.", "double('1.5')"),
    "string": Builtin(1, 1, "string", _string, "string(x)", "A text from a plain value or time.", "string(12.0)"),
    "bool": Builtin(1, 1, "boolean", _bool, "bool(x)", "True or false from text.", "bool('true')"),
    "type": Builtin(1, 1, "string", type_name, "type(x)", "The name of the type of a value.", "type([1])"),
    "dyn": Builtin(1, 1, None, lambda value: value, "dyn(x)", "The value itself, as in CEL.", "dyn(1)"),
}
# fmt: on
GROUPS: Mapping[str, Mapping[str, Builtin]] = MappingProxyType(
    {
        "text": TEXT,
        "numbers and money": MONEY,
        "dates and times": TIME,
        "lists and maps": LISTS,
        "conversions": _CONVERSIONS,
    }
)
"""The functions by what they are for, as the reference lists them."""
FUNCTIONS: Mapping[str, Builtin] = MappingProxyType({**TEXT, **MONEY, **TIME, **LISTS, **_CONVERSIONS})
"""Every function by its name; `x.f(y)` is `f(x, y)`."""
