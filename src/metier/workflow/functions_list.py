"""Functions over lists and maps: voting, ordering, cutting to pieces; what they look into is counted as work."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from metier.workflow.builtin import Builtin, Unfit, Value, items_in, text_in, type_name, whole_in

__all__ = ["LISTS"]

_RANGE_MAX = 10_000


def _key(value: Value, what: str) -> str:
    """Tell values apart as JSON does, where 1 and 1.0 are the same."""
    plain = int(value) if isinstance(value, float) and value.is_integer() else value
    try:
        return json.dumps(plain, sort_keys=True)
    except (TypeError, ValueError, RecursionError) as wrong:
        raise Unfit(f"{what} needs plain values, not {type_name(value)}") from wrong


def _first_of_each(items: Value, what: str) -> tuple[dict[str, Value], dict[str, int]]:
    first: dict[str, Value] = {}
    counts: dict[str, int] = {}
    for item in items_in(items, what):
        key = _key(item, what)
        first.setdefault(key, item)
        counts[key] = counts.get(key, 0) + 1
    return first, counts


def _majority(items: Value) -> Value:
    first, counts = _first_of_each([item for item in items_in(items, "majority") if item is not None], "majority")
    if not counts:
        raise Unfit("majority needs at least one value that is not null")
    return first[max(counts, key=lambda key: counts[key])]


def _agreement(items: Value) -> float:
    voted = items_in(items, "agreement")
    _, counts = _first_of_each([item for item in voted if item is not None], "agreement")
    return max(counts.values()) / len(voted) if counts else 0.0


def _distinct(items: Value) -> list[Value]:
    return [*_first_of_each(items, "distinct")[0].values()]


def _count_by(items: Value) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for item in items_in(items, "count_by"):
        key = text_in(item, "count_by")
        before = found.get(key, 0)
        assert isinstance(before, int)
        found[key] = before + 1
    return found


def _order(what: str) -> Callable[[Value], tuple[int, Any]]:
    def key(value: Value) -> tuple[int, Any]:
        match value:
            case bool():
                raise Unfit(f"{what} orders numbers or texts, not {type_name(value)}")
            case int() | float():
                return 0, value
            case str():
                return 1, value
        raise Unfit(f"{what} orders numbers or texts, not {type_name(value)}")

    return key


def _sort(items: Value) -> list[Value]:
    return sorted(items_in(items, "sort"), key=_order("sort"))


def _sort_by(items: Value, field: Value) -> list[Value]:
    name, order = text_in(field, "sort_by"), _order("sort_by")
    return sorted(items_in(items, "sort_by"), key=lambda item: order(_field(item, name, "sort_by")))


def _best_by(items: Value, field: Value) -> Value:
    name, order, listed = text_in(field, "best_by"), _order("best_by"), items_in(items, "best_by")
    if not listed:
        raise Unfit("best_by needs at least one item")
    return max(listed, key=lambda item: order(_field(item, name, "best_by")))


def _group_by(items: Value, field: Value) -> dict[str, Value]:
    name = text_in(field, "group_by")
    found: dict[str, Value] = {}
    for item in items_in(items, "group_by"):
        group = found.setdefault(text_in(_field(item, name, "group_by"), "group_by"), [])
        assert isinstance(group, list)
        group.append(item)
    return found


def _field(item: Value, name: str, what: str) -> Value:
    if not isinstance(item, dict) or name not in item:
        raise Unfit(f"{what} needs a list of maps that have {name[:40]!r}")
    return item[name]


def _flatten(items: Value) -> list[Value]:
    return [inner for item in items_in(items, "flatten") for inner in (item if isinstance(item, list) else [item])]


def _chunk(items: Value, size: Value) -> list[Value]:
    listed, length = items_in(items, "chunk"), whole_in(size, "the size of chunk", 1, 1_000_000)
    return [listed[start : start + length] for start in range(0, len(listed), length)]


def _take(items: Value, count: Value) -> list[Value]:
    return items_in(items, "take")[: whole_in(count, "the number of take", 0, 1_000_000)]


def _skip(items: Value, count: Value) -> list[Value]:
    return items_in(items, "skip")[whole_in(count, "the number of skip", 0, 1_000_000) :]


def _reverse(items: Value) -> list[Value]:
    return items_in(items, "reverse")[::-1]


def _first(items: Value) -> Value:
    listed = items_in(items, "first")
    return listed[0] if listed else None


def _last(items: Value) -> Value:
    listed = items_in(items, "last")
    return listed[-1] if listed else None


def _range(count: Value) -> list[Value]:
    return list(range(whole_in(count, "range", 0, _RANGE_MAX)))


def _keys(value: Value) -> list[Value]:
    return [*sorted(_map_in(value, "keys"))]


def _values(value: Value) -> list[Value]:
    return [*_map_in(value, "values").values()]


def _merge(one: Value, two: Value) -> dict[str, Value]:
    return {**_map_in(one, "merge"), **_map_in(two, "merge")}


def _get(value: Value, key: Value, otherwise: Value = None) -> Value:
    found = _map_in(value, "get").get(text_in(key, "get"))
    return otherwise if found is None else found


def _map_in(value: Value, what: str) -> dict[str, Value]:
    if not isinstance(value, dict):
        raise Unfit(f"{what} needs a map, not {type_name(value)}")
    return value


_LIST, _BY = ("array",), ("array", "string")
# fmt: off
LISTS: Mapping[str, Builtin] = {
    "majority": Builtin(
        1, 1, None, _majority, "majority(list)",
        "The value that comes most often, nulls aside; of equals, the one that came first.",
        "majority(['refund', 'other', 'refund'])", _LIST, "item", True,
    ),
    "agreement": Builtin(
        1, 1, "number", _agreement, "agreement(list)", "The share of a list that is its majority, between 0 and 1.",
        "agreement(['a', 'b', 'a', 'a'])", _LIST, None, True,
    ),
    "distinct": Builtin(
        1, 1, "array", _distinct, "distinct(list)", "Every value once, in the order it first came.",
        "distinct(['b', 'a', 'b'])", _LIST, "first", True,
    ),
    "count_by": Builtin(
        1, 1, "object", _count_by, "count_by(list)", "How often each text of a list comes.",
        "count_by(['a', 'b', 'a'])", _LIST,
    ),
    "sort": Builtin(
        1, 1, "array", _sort, "sort(list)", "Numbers, then texts, from the least.", "sort([3, 1, 2])", _LIST, "first"
    ),
    "sort_by": Builtin(
        2, 2, "array", _sort_by, "sort_by(list, field)", "Maps by a number or text they hold, from the least.",
        "sort_by([{'n': 2}, {'n': 1}], 'n')", _BY, "first",
    ),
    "best_by": Builtin(
        2, 2, None, _best_by, "best_by(list, field)", "The map with the greatest value of a field.",
        "best_by([{'s': 6}, {'s': 9}], 's')", _BY, "item",
    ),
    "group_by": Builtin(
        2, 2, "object", _group_by, "group_by(list, field)", "Maps under the text they hold in a field.",
        "group_by([{'k': 'a'}, {'k': 'b'}], 'k')", _BY,
    ),
    "flatten": Builtin(
        1, 1, "array", _flatten, "flatten(list)", "The lists of a list as one; one level.", "flatten([[1], [2, 3]])",
        _LIST,
    ),
    "chunk": Builtin(
        2, 2, "array", _chunk, "chunk(list, size)", "A list cut to lists of a size.", "chunk([1, 2, 3], 2)",
        ("array", "integer"),
    ),
    "take": Builtin(
        2, 2, "array", _take, "take(list, count)", "The first so many.", "take([1, 2, 3], 2)", ("array", "integer"),
        "first",
    ),
    "skip": Builtin(
        2, 2, "array", _skip, "skip(list, count)", "All but the first so many.", "skip([1, 2, 3], 2)",
        ("array", "integer"), "first",
    ),
    "reverse": Builtin(
        1, 1, "array", _reverse, "reverse(list)", "From the last to the first.", "reverse([1, 2])", _LIST, "first"
    ),
    "first": Builtin(1, 1, None, _first, "first(list)", "The first, or null.", "first([1, 2])", _LIST),
    "last": Builtin(1, 1, None, _last, "last(list)", "The last, or null.", "last([1, 2])", _LIST),
    "range": Builtin(
        1, 1, "array", _range, "range(count)", "The whole numbers from 0, at most 10,000.", "range(3)", ("integer",)
    ),
    "keys": Builtin(
        1, 1, "array", _keys, "keys(map)", "The names in a map, in order.", "keys({'b': 1, 'a': 2})", ("object",)
    ),
    "values": Builtin(1, 1, "array", _values, "values(map)", "The values of a map.", "values({'a': 2})", ("object",)),
    "merge": Builtin(
        2, 2, "object", _merge, "merge(map, map)", "Two maps as one; the second wins.",
        "merge({'a': 1}, {'a': 2})", ("object", "object"),
    ),
    "get": Builtin(
        2, 3, None, _get, "get(map, name, otherwise?)", "A value by a name that may be missing or null.",
        "get({'a': 1}, 'b', 0)", ("object", "string"),
    ),
}
# fmt: on
