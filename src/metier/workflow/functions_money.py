"""Functions over numbers and money: computed in decimals, never in binary fractions, and written as people write."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal

from metier.workflow.builtin import INT_MIN, Builtin, Unfit, Value, items_in, number_in, type_name, whole_in

__all__ = ["MONEY"]

_MONEY_MAX = 10**15
_SIGNS: Mapping[str, str] = {"EUR": "€", "USD": "$", "GBP": "£", "CHF": "CHF"}


def _decimal(value: Value, what: str) -> Decimal:
    number = number_in(value, what)
    if not math.isfinite(number) or abs(number) > _MONEY_MAX:
        raise Unfit(f"{what} needs a number below 10^15")
    return Decimal(str(number))


def _rounded(value: Value, places: int, what: str, rounding: str = ROUND_HALF_EVEN) -> Decimal:
    return _decimal(value, what).quantize(Decimal(1).scaleb(-places), rounding=rounding)


def _round(value: Value, places: Value = 0) -> int | float:
    decimals = whole_in(places, "the decimals of round", 0, 9)
    found = _rounded(value, decimals, "round", ROUND_HALF_UP)
    return int(found) if decimals == 0 else float(found)


def _round_even(value: Value, places: Value = 0) -> int | float:
    decimals = whole_in(places, "the decimals of round_even", 0, 9)
    found = _rounded(value, decimals, "round_even")
    return int(found) if decimals == 0 else float(found)


def _grouped(amount: Decimal, places: int, language: Value, what: str) -> str:
    english = f"{abs(amount):,.{places}f}"
    if language == "en":
        return english
    if language == "fr":
        return english.replace(",", "\u202f").replace(".", ",")
    raise Unfit(f"{what} writes 'fr' or 'en', not {str(language)[:20]!r}")


def _money(value: Value, language: Value = "fr", currency: Value = "EUR") -> str:
    amount = _rounded(value, 2, "money")
    written = _grouped(amount, 2, language, "money")
    sign = _SIGNS.get(currency) if isinstance(currency, str) else None
    if sign is None:
        raise Unfit(f"money knows {', '.join(_SIGNS)}, not {str(currency)[:20]!r}")
    minus = "-" if amount < 0 else ""
    if language == "fr":
        return f"{minus}{written}\u00a0{sign}"
    return f"{minus}{sign}{written}" if len(sign) == 1 else f"{minus}{sign}\u00a0{written}"


def _number(value: Value, places: Value = 0, language: Value = "fr") -> str:
    decimals = whole_in(places, "the decimals of format_number", 0, 9)
    amount = _rounded(value, decimals, "format_number")
    return ("-" if amount < 0 else "") + _grouped(amount, decimals, language, "format_number")


def _percent(value: Value, places: Value = 0, language: Value = "fr") -> str:
    decimals = whole_in(places, "the decimals of percent", 0, 9)
    share = _decimal(value, "percent") * 100
    amount = share.quantize(Decimal(1).scaleb(-decimals), rounding=ROUND_HALF_EVEN)
    written = ("-" if amount < 0 else "") + _grouped(amount, decimals, language, "percent")
    return f"{written}\u00a0%" if language == "fr" else f"{written}%"


def _cents(value: Value) -> int:
    return int(_rounded(value, 2, "cents") * 100)


def _sum(items: Value) -> int | float:
    """Add exactly: 0.1 and 0.2 make 0.3, and whole numbers stay whole."""
    numbers = items_in(items, "sum")
    total = sum((_decimal(number, "sum") for number in numbers), Decimal(0))
    return int(total) if all(isinstance(number, int) for number in numbers) else float(total)


def _mean(items: Value) -> float:
    numbers = items_in(items, "mean")
    if not numbers:
        raise Unfit("mean needs at least one number")
    return float(sum((_decimal(number, "mean") for number in numbers), Decimal(0)) / len(numbers))


def _clamp(value: Value, least: Value, most: Value) -> int | float:
    number, low, high = (number_in(one, "clamp") for one in (value, least, most))
    if low > high:
        raise Unfit(f"clamp needs bounds in order, not {low} and {high}")
    return min(max(number, low), high)


def _middle(numbers: list[int | float]) -> int | float:
    ordered = sorted(numbers)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def _spread(name: str, pick: Callable[[list[int | float]], int | float]) -> Callable[..., Value]:
    def run(*arguments: Value) -> Value:
        values = arguments[0] if len(arguments) == 1 and isinstance(arguments[0], list) else list(arguments)
        if not values:
            raise Unfit(f"{name} needs at least one number")
        return pick([number_in(value, name) for value in values])

    return run


def _absolute(value: Value) -> int | float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Unfit(f"abs needs a number, not {type_name(value)}")
    if value == INT_MIN:
        raise Unfit("abs leaves the whole numbers of 64 bits")
    return abs(value)


_NUMBERS = ("array|number|integer",)
_WRITTEN = ("number", "integer", "string")
# fmt: off
MONEY: Mapping[str, Builtin] = {
    "round": Builtin(
        1,
        2,
        "number",
        _round,
        "round(x, decimals?)",
        "Rounded as at school: a half goes away from zero.",
        "round(2.345, 2)",
        ("number", "integer"),
    ),
    "round_even": Builtin(
        1,
        2,
        "number",
        _round_even,
        "round_even(x, decimals?)",
        "Rounded as in accounts: a half goes to the even digit.",
        "round_even(2.345, 2)",
        ("number", "integer"),
    ),
    "money": Builtin(
        1,
        3,
        "string",
        _money,
        "money(x, language?, currency?)",
        "A sum as people write it: 'fr' or 'en'; EUR, USD, GBP or CHF; a half cent goes to the even cent.",
        "money(1234.5, 'en')",
        ("number", "string", "string"),
    ),
    "cents": Builtin(
        1,
        1,
        "integer",
        _cents,
        "cents(x)",
        "A sum in whole cents, for exact computation; a half goes to the even cent.",
        "cents(12.345)",
        ("number",),
    ),
    "format_number": Builtin(
        1,
        3,
        "string",
        _number,
        "format_number(x, decimals?, language?)",
        "A number with its thousands apart.",
        "format_number(1234567, 0, 'en')",
        _WRITTEN,
    ),
    "percent": Builtin(
        1, 3, "string", _percent, "percent(x, decimals?, language?)", "A share of one as a percentage.",
        "percent(0.125, 1, 'en')", _WRITTEN,
    ),
    "sum": Builtin(
        1,
        1,
        "number",
        _sum,
        "sum(list)",
        "The sum of numbers, exact in decimals; 0 for an empty list.",
        "sum([0.1, 0.2])",
        ("array",),
    ),
    "mean": Builtin(1, 1, "number", _mean, "mean(list)", "The mean of numbers.", "mean([1, 2, 6])", ("array",)),
    "median": Builtin(
        1,
        16,
        "number",
        _spread("median", _middle),
        "median(list)",
        "The number in the middle, or the mean of the two that are.",
        "median([7, 1, 3])",
        _NUMBERS,
    ),
    "min": Builtin(
        1, 16, "number", _spread("min", min), "min(list)", "The least number of a list or of the arguments.",
        "min([3, 1, 2])", _NUMBERS,
    ),
    "max": Builtin(
        1, 16, "number", _spread("max", max), "max(list)", "The greatest number of a list or of the arguments.",
        "max(3, 1, 2)", _NUMBERS,
    ),
    "clamp": Builtin(
        3,
        3,
        "number",
        _clamp,
        "clamp(x, least, most)",
        "A number kept between two bounds.",
        "clamp(14, 0, 10)",
        ("number", "number", "number"),
    ),
    "abs": Builtin(1, 1, "number", _absolute, "abs(x)", "A number without its sign.", "abs(-3)", ("number",)),
}
# fmt: on
