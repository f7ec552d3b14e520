"""The cases a decision table is tried with: values of its inputs that its conditions can tell apart."""

from __future__ import annotations

import datetime
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from metier.calls import JSON
from metier.errors import Invalid
from metier.workflow.cel import parse
from metier.workflow.rules import Table
from metier.workflow.schema_types import types_of
from metier.workflow.shorthand import conform
from metier.workflow.syntax import Binary, Choice, Constant, Function, ListOf, Node, Select, Unary, inside
from metier.workflow.view import path_of

__all__ = ["CASES_MAX", "Cases", "cases_of"]

CASES_MAX = 20_000
"""Cases tried at most; of a table with more, as many are tried as are spread among them."""
_WORK_MAX = 500_000
"""Rows asked at most over all cases, so that a large table is looked through in seconds."""
_STRIDES = (7919, 104_729, 1_299_709)
"""Primes: steps by one that divides not the count visit different cases."""
_SCALARS = frozenset({"boolean", "integer", "number", "string", "null"})
_TOLD_APART = frozenset(
    {"type", "enum", "const", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "default", "title"}
    | {"description", "examples"}
)
_EXAMPLES: Mapping[str, str] = {
    "date": "2026-10-01",
    "date-time": "2026-10-01T08:30:00Z",
    "time": "08:30:00",
    "email": "person@example.org",
    "uri": "https://example.org/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}
_ORDERS = ("<", "<=", ">", ">=")
_LOGIC = ("&&", "||")


@dataclass(frozen=True, slots=True)
class _Leaf:
    path: str
    """Where it stands among the inputs, such as `customer.tier`."""
    values: tuple[JSON, ...]
    optional: bool
    """Whether it may also be missing altogether."""
    whole: bool
    """Whether its values stand for all that comparisons with constants can tell apart."""


@dataclass(frozen=True, slots=True)
class Cases:
    """The cases of one table, in a fixed order; what they leave out is known."""

    leaves: tuple[_Leaf, ...]
    count: int
    """How many there are."""
    tried: int
    """How many of them are tried."""
    without: str | None
    """An input no value was found for, so that nothing is tried."""

    def __iter__(self) -> Iterator[dict[str, JSON]]:
        sizes = [len(leaf.values) + leaf.optional for leaf in self.leaves]
        if self.without is not None:
            return
        if self.tried == self.count:
            for chosen in itertools.product(*map(range, sizes)):
                yield self._case(chosen)
            return
        stride = next((prime for prime in _STRIDES if self.count % prime), 1)
        for number in range(self.tried):
            at, spread = (number * stride) % self.count, []
            for size in sizes:
                at, place = divmod(at, size)
                spread.append(place)
            yield self._case(spread)

    def tells(self, node: Node) -> bool:
        """Tell whether the cases hold every way a condition can come out: it only compares inputs with constants."""
        return self.tried == self.count and _tells(node, {leaf.path: leaf for leaf in self.leaves if leaf.whole})

    def _case(self, chosen: Sequence[int]) -> dict[str, JSON]:
        case: dict[str, JSON] = {}
        for leaf, number in zip(self.leaves, chosen, strict=True):
            *outer, name = leaf.path.split(".")
            target = case
            for one in outer:
                inner = target.setdefault(one, {})
                assert isinstance(inner, dict)
                target = inner
            if number < len(leaf.values):
                target[name] = leaf.values[number]
        return case


def cases_of(table: Table) -> Cases:
    """Choose values of each input: every choice, both truths, and each side of whatever it is compared with."""
    schemas = dict(_flattened(table.inputs, ""))
    seen: dict[str, _Seen] = {path: _Seen([], False, False) for path in schemas}
    used: set[str] = set()
    for row in table.rows:
        if row.when is not None:
            for atom in _atoms(parse(row.when)):
                used.update(_mark(atom, seen))
    leaves: list[_Leaf] = []
    without: str | None = None
    for path, (schema, optional) in schemas.items():
        values = _values(schema, seen[path])
        # A table's own input that is not given is null; one inside an object is not there.
        if optional and "." not in path:
            values, optional = [*values, *([] if None in values else [None])], False
        if path not in used:
            values, optional = values[:1] or [None], False
        elif not values and not optional:
            without = without or path
        leaves.append(_Leaf(path, tuple(values), optional, _whole(schema)))
    count = math.prod(len(leaf.values) + leaf.optional for leaf in leaves)
    return Cases(tuple(leaves), count, min(count, CASES_MAX, max(1, _WORK_MAX // len(table.rows))), without)


@dataclass(slots=True)
class _Seen:
    constants: list[JSON]
    ordered: bool
    computed: bool
    """Whether it stands in a call or a computation, where constants say little about which values matter."""


def _flattened(schema: Mapping[str, JSON], before: str) -> Iterator[tuple[str, tuple[Mapping[str, JSON], bool]]]:
    """Yield each input, those of an object that is always there one by one."""
    properties, required = schema.get("properties"), schema.get("required")
    for name, inner in (properties if isinstance(properties, dict) else {}).items():
        if not isinstance(inner, dict):
            continue
        needed = "default" in inner or (isinstance(required, list) and name in required)
        if needed and inner.get("type") == "object" and inner.get("properties"):
            yield from _flattened(inner, f"{before}{name}.")
        else:
            yield f"{before}{name}", (inner, not needed)


def _atoms(node: Node) -> Iterator[Node]:
    """Yield the conditions that `&&`, `||`, `!` and `? :` put together."""
    match node:
        case Binary(operator="&&" | "||", left=left, right=right):
            yield from (*_atoms(left), *_atoms(right))
        case Unary(operator="!", operand=operand):
            yield from _atoms(operand)
        case Choice(condition=condition, then=then, otherwise=otherwise):
            yield from (*_atoms(condition), *_atoms(then), *_atoms(otherwise))
        case _:
            yield node


def _mark(atom: Node, seen: Mapping[str, _Seen]) -> set[str]:
    """Write down what the inputs of one condition are compared with, and give these inputs."""
    found = {path for read in _paths(atom) for path in _read(read, seen)}
    constants = [one.value for one in _all(atom) if isinstance(one, Constant)]
    constants += [-below for one in _all(atom) if (below := _below(one)) is not None]
    compared = isinstance(atom, Binary) and _against(atom) is not None
    for path in found:
        seen[path].constants.extend(constants)
        seen[path].ordered |= isinstance(atom, Binary) and atom.operator in _ORDERS
        seen[path].computed |= not compared and path_of(atom) != path
    return found


def _read(path: str, known: Mapping[str, _Seen]) -> Iterator[str]:
    """Give the inputs an expression such as `customer.tier` reads: that one, or the whole it is a part of."""
    if path:
        yield from (one for one in known if one == path or path.startswith(f"{one}.") or one.startswith(f"{path}."))


def _paths(node: Node) -> Iterator[str]:
    """Yield what a condition reads, each as far as fields follow one another."""
    if isinstance(node, Select) and node.test:
        yield f"{path_of(node.target)}.{node.field}"
    elif path := path_of(node):
        yield path
    else:
        for part in inside(node):
            yield from _paths(part)


def _all(node: Node) -> Iterator[Node]:
    yield node
    for part in inside(node):
        yield from _all(part)


def _below(node: Node) -> int | float | None:
    """Give 5 for the constant that is written -5."""
    if not isinstance(node, Unary) or node.operator != "-" or not isinstance(node.operand, Constant):
        return None
    value = node.operand.value
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _values(schema: Mapping[str, JSON], seen: _Seen) -> list[JSON]:
    choices = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if isinstance(choices, list):
        return [*choices]
    kinds = types_of(schema) or _SCALARS
    found: list[JSON] = []
    if "boolean" in kinds:
        found.extend((True, False))
    if kinds & {"integer", "number"}:
        found.extend(_numbers(schema, seen, whole="number" not in kinds))
    if "string" in kinds:
        found.extend(_texts(schema, seen))
    if "array" in kinds:
        found.extend(_lists(schema, seen))
    if "object" in kinds:
        found.extend(({}, {path: values[0] for path, values in _parts(schema, seen) if values}))
    if "null" in kinds:
        found.append(None)
    return [value for value in {repr(one): one for one in found}.values() if _fits(value, schema)]


def _parts(schema: Mapping[str, JSON], seen: _Seen) -> Iterator[tuple[str, list[JSON]]]:
    properties = schema.get("properties")
    for name, inner in (properties if isinstance(properties, dict) else {}).items():
        if isinstance(inner, dict):
            yield name, _values(inner, seen)


def _fits(value: JSON, schema: Mapping[str, JSON]) -> bool:
    try:
        conform(value, schema, "a value")
    except Invalid:
        return False
    return True


def _numbers(schema: Mapping[str, JSON], seen: _Seen, *, whole: bool) -> list[JSON]:
    limits = [schema.get(key) for key in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")]
    given = (one for one in (*seen.constants, *limits) if isinstance(one, int | float) and not isinstance(one, bool))
    points = sorted({*given, *([0] if seen.computed else [])})
    if not points:
        return [0]
    between = [(one + two) // 2 if whole else (one + two) / 2 for one, two in itertools.pairwise(points)]
    around = dict.fromkeys((points[0] - 1, *points, *between, points[-1] + 1))
    if seen.computed:
        around = dict.fromkeys((*around, -points[-1] - 1, 10 * points[-1] + 1))
    finite = [int(one) if float(one).is_integer() else one for one in sorted(around) if math.isfinite(one)]
    return [one for one in finite if not whole or isinstance(one, int)]


def _texts(schema: Mapping[str, JSON], seen: _Seen) -> list[JSON]:
    texts = [one for one in seen.constants if isinstance(one, str)]
    example = _EXAMPLES.get(str(schema.get("format")))
    if schema.get("format") == "date":
        days = [day for one in texts if (day := _day(one)) is not None]
        near = [day + datetime.timedelta(days=more) for day in days for more in (-1, 0, 1)]
        return [*(day.isoformat() for day in near), str(example)]
    if example is not None:
        return [*(one for one in texts if not seen.computed), example]
    least = schema.get("minLength")
    others: list[JSON] = ["another text", "a", "x" * least if isinstance(least, int) and least <= 10_000 else "x"]
    if seen.ordered or seen.computed:
        return ["", *texts, *(f"{one}!" for one in texts), *others]
    fitting = next((other for other in others if other not in texts and _fits(other, schema)), None)
    return [*texts, *([] if fitting is None else [fitting])]


def _day(written: str) -> datetime.date | None:
    try:
        day = datetime.date.fromisoformat(written[:10])
    except ValueError:
        return None
    return day if 1 < day.year < 9999 else None


def _lists(schema: Mapping[str, JSON], seen: _Seen) -> list[JSON]:
    inner = schema.get("items")
    items = _values(inner if isinstance(inner, dict) else {}, seen)[:20]
    return [[], *([item] for item in items), items]


def _whole(schema: Mapping[str, JSON]) -> bool:
    dated = schema.get("type") == "string" and schema.get("format") == "date"
    told = schema.keys() - ({"format"} if dated else set()) <= _TOLD_APART
    return told and ("enum" in schema or "const" in schema or (bool(types_of(schema)) and types_of(schema) <= _SCALARS))


def _tells(node: Node, leaves: Mapping[str, _Leaf]) -> bool:
    match node:
        case Constant():
            return True
        case Unary(operator="!", operand=operand):
            return _tells(operand, leaves)
        case Binary(operator=operator, left=left, right=right) if operator in _LOGIC:
            return _tells(left, leaves) and _tells(right, leaves)
        case Choice(condition=condition, then=then, otherwise=otherwise):
            return all(_tells(part, leaves) for part in (condition, then, otherwise))
        case Binary():
            against = _against(node)
            return against is not None and path_of(against) in leaves
        case Select(test=True, target=target, field=name):
            return f"{path_of(target)}.{name}" in leaves
        case Function():
            return False
    return path_of(node) in leaves


def _against(node: Binary) -> Node | None:
    """Give what is compared with a constant, or with one of several."""
    for side, other in ((node.left, node.right), (node.right, node.left)):
        constants = other.items if isinstance(other, ListOf) else (other,)
        plain = all(isinstance(one, Constant) or _below(one) is not None for one in constants)
        if plain and path_of(side) and node.operator in ("==", "!=", "in", *_ORDERS):
            # `'vip' in tags` looks into the input, whatever it holds.
            return None if node.operator == "in" and side is node.right else side
    return None
