"""The functions an expression may call: those of CEL and a few for text, money and dates; none has a side effect."""

from __future__ import annotations

import datetime
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from types import MappingProxyType
from typing import TypeAlias

import re2

__all__ = ["FUNCTIONS", "INT_MAX", "INT_MIN", "Builtin", "Moment", "Unfit", "Value", "type_name"]

Value: TypeAlias = object
"""A JSON value, or a point or length of time on its way to becoming one."""
Moment: TypeAlias = datetime.datetime

INT_MIN = -(2**63)
INT_MAX = 2**63 - 1
_DURATION = re.compile(r"([+-]?)((?:\d+(?:\.\d+)?(?:ms|us|ns|h|m|s))+)\Z", re.ASCII)
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|us|ns|h|m|s)", re.ASCII)
_SECONDS = MappingProxyType({"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9})
_MONEY_MAX = 10**15


class Unfit(Exception):
    """An argument a function cannot take; the evaluator turns it into Invalid with the place."""


@dataclass(frozen=True, slots=True)
class Builtin:
    """One function: how many arguments it takes, what it gives, and how it is computed."""

    least: int
    most: int
    gives: str | None
    """JSON Schema type of the result; None when it depends or is a time."""
    run: Callable[..., Value]


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


def _text(value: Value, what: str) -> str:
    if not isinstance(value, str):
        raise Unfit(f"{what} needs a string, not {type_name(value)}")
    return value


def _number(value: Value, what: str) -> int | float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Unfit(f"{what} needs a number, not {type_name(value)}")
    return value


def _size(value: Value) -> int:
    if not isinstance(value, (str, list, dict)):
        raise Unfit(f"size needs a string, list or map, not {type_name(value)}")
    return len(value)


def _matches(text: Value, pattern: Value) -> bool:
    # RE2 never backtracks, so no pattern and no text can make it hang.
    written = _text(pattern, "matches")
    options = re2.Options()
    options.log_errors = False
    options.max_mem = 1 << 20
    try:
        return re2.search(written, _text(text, "matches"), options=options) is not None
    except (re2.error, UnicodeError) as wrong:
        raise Unfit(f"{written!r} is not a regular expression of RE2") from wrong


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


def _moment(value: Value, what: str) -> datetime.datetime:
    if isinstance(value, datetime.datetime):
        return value
    written = _text(value, what)
    try:
        found = datetime.datetime.fromisoformat(written)
    except ValueError as wrong:
        raise Unfit(f"{what} cannot read {written[:40]!r}; write 2026-10-01 or 2026-10-01T08:30:00Z") from wrong
    try:
        return found.replace(tzinfo=datetime.UTC) if found.tzinfo is None else found.astimezone(datetime.UTC)
    except OverflowError as wrong:
        raise Unfit(f"{what} cannot hold {written[:40]!r}: out of range") from wrong


def _duration(value: Value) -> datetime.timedelta:
    if isinstance(value, datetime.timedelta):
        return value
    written = _text(value, "duration")
    found = _DURATION.match(written) if len(written) <= 64 else None
    if found is None:
        raise Unfit(f"duration cannot read {written[:40]!r}; write 90s, 4h or 1h30m")
    total = sum(float(count) * _SECONDS[unit] for count, unit in _DURATION_PART.findall(found[2]))
    try:
        return datetime.timedelta(seconds=-total if found[1] == "-" else total)
    except OverflowError as wrong:
        raise Unfit(f"duration cannot hold {written[:40]!r}: out of range") from wrong


def _rounded(value: Value, places: int, what: str) -> Decimal:
    number = _number(value, what)
    if not math.isfinite(number) or abs(number) > _MONEY_MAX:
        raise Unfit(f"{what} needs a number below 10^15")
    return Decimal(str(number)).quantize(Decimal(1).scaleb(-places), rounding=ROUND_HALF_UP)


def _round(value: Value, places: Value = 0) -> int | float:
    if isinstance(places, bool) or not isinstance(places, int) or not 0 <= places <= 9:
        raise Unfit("round needs a number of decimals between 0 and 9")
    found = _rounded(value, places, "round")
    return int(found) if places == 0 else float(found)


def _money(value: Value, language: Value = "fr") -> str:
    amount = _rounded(value, 2, "money")
    english = f"{abs(amount):,.2f}"
    sign = "-" if amount < 0 else ""
    if language == "en":
        return f"{sign}€{english}"
    if language == "fr":
        french = english.replace(",", "\u202f").replace(".", ",")
        return f"{sign}{french}\u00a0€"
    raise Unfit(f"money writes 'fr' or 'en', not {language!r}")


def _date(value: Value) -> str:
    return _moment(value, "date").date().isoformat()


def _add_days(value: Value, days: Value) -> str:
    if isinstance(days, bool) or not isinstance(days, int):
        raise Unfit(f"add_days needs a whole number of days, not {type_name(days)}")
    try:
        return (_moment(value, "add_days").date() + datetime.timedelta(days=days)).isoformat()
    except OverflowError as wrong:
        raise Unfit("add_days leaves the years 1 to 9999") from wrong


def _days_between(first: Value, last: Value) -> int:
    return (_moment(last, "days_between").date() - _moment(first, "days_between").date()).days


def _join(items: Value, separator: Value = "") -> str:
    if not isinstance(items, list):
        raise Unfit(f"join needs a list of strings, not {type_name(items)}")
    return _text(separator, "join").join(_text(item, "join") for item in items)


def _extreme(name: str, pick: Callable[[list[int | float]], int | float]) -> Callable[..., Value]:
    def run(*arguments: Value) -> Value:
        values = arguments[0] if len(arguments) == 1 and isinstance(arguments[0], list) else list(arguments)
        if not values:
            raise Unfit(f"{name} needs at least one number")
        return pick([_number(value, name) for value in values])

    return run


def _majority(items: Value) -> Value:
    """The value that comes most often; of two that come equally often, the one that came first."""
    if not isinstance(items, list) or not items:
        raise Unfit("majority needs a list that is not empty")
    counts: dict[str, int] = {}
    first: dict[str, Value] = {}
    for item in items:
        try:
            key = json.dumps(item, sort_keys=True)
        except (TypeError, ValueError) as wrong:
            raise Unfit("majority needs a list of plain values") from wrong
        counts[key] = counts.get(key, 0) + 1
        first.setdefault(key, item)
    return first[max(counts, key=lambda key: counts[key])]


def _median(items: list[int | float]) -> int | float:
    ordered = sorted(items)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def _part(of: Callable[[datetime.datetime], int]) -> Builtin:
    return Builtin(1, 1, "integer", lambda value: of(_moment(value, "a part of a date")))


_TIMES: Mapping[str, Builtin] = {
    "timestamp": Builtin(1, 1, None, lambda value: _moment(value, "timestamp")),
    "duration": Builtin(1, 1, None, _duration),
    "getFullYear": _part(lambda moment: moment.year),
    "getMonth": _part(lambda moment: moment.month - 1),
    "getDate": _part(lambda moment: moment.day),
    "getDayOfMonth": _part(lambda moment: moment.day - 1),
    "getDayOfWeek": _part(lambda moment: moment.isoweekday() % 7),
    "getDayOfYear": _part(lambda moment: moment.timetuple().tm_yday - 1),
    "getHours": _part(lambda moment: moment.hour),
    "getMinutes": _part(lambda moment: moment.minute),
    "getSeconds": _part(lambda moment: moment.second),
    "date": Builtin(1, 1, "string", _date),
    "add_days": Builtin(2, 2, "string", _add_days),
    "days_between": Builtin(2, 2, "integer", _days_between),
}

FUNCTIONS: Mapping[str, Builtin] = MappingProxyType(
    {
        "size": Builtin(1, 1, "integer", _size),
        "contains": Builtin(2, 2, "boolean", lambda text, part: _text(part, "contains") in _text(text, "contains")),
        "startsWith": Builtin(
            2, 2, "boolean", lambda text, part: _text(text, "startsWith").startswith(_text(part, "startsWith"))
        ),
        "endsWith": Builtin(
            2, 2, "boolean", lambda text, part: _text(text, "endsWith").endswith(_text(part, "endsWith"))
        ),
        "matches": Builtin(2, 2, "boolean", _matches),
        "int": Builtin(1, 1, "integer", _whole),
        "double": Builtin(1, 1, "number", _double),
        "string": Builtin(1, 1, "string", _string),
        "bool": Builtin(1, 1, "boolean", _bool),
        "type": Builtin(1, 1, "string", type_name),
        "dyn": Builtin(1, 1, None, lambda value: value),
        "lower": Builtin(1, 1, "string", lambda text: _text(text, "lower").lower()),
        "upper": Builtin(1, 1, "string", lambda text: _text(text, "upper").upper()),
        "trim": Builtin(1, 1, "string", lambda text: _text(text, "trim").strip()),
        "join": Builtin(1, 2, "string", _join),
        "round": Builtin(1, 2, "number", _round),
        "money": Builtin(1, 2, "string", _money),
        "min": Builtin(1, 16, "number", _extreme("min", min)),
        "majority": Builtin(1, 1, None, _majority),
        "median": Builtin(1, 16, "number", _extreme("median", _median)),
        "max": Builtin(1, 16, "number", _extreme("max", max)),
        **_TIMES,
    }
)
"""Every function by its name; `x.f(y)` is `f(x, y)`."""
