"""What a decision table leaves out or decides twice, found by trying every case its conditions can tell apart."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from metier.calls import JSON
from metier.errors import Invalid
from metier.workflow.cel import parse
from metier.workflow.evaluator import Evaluation
from metier.workflow.rules import Row, Table
from metier.workflow.shape import Mark
from metier.workflow.syntax import Binary, Constant, Function, ListOf, Name, Node, inside

__all__ = ["CASES_MAX", "Gap", "gaps"]

CASES_MAX = 20_000
"""Cases tried at most; a table with more is not looked through."""
_SAID_MAX = 10
_ALWAYS = (None, "true")


@dataclass(frozen=True, slots=True)
class Gap:
    """One thing a table leaves open, with a case that shows it."""

    code: str
    """`missing-case`, `overlap`, `never-reached`, `failing-row` or `too-many-cases`."""
    message: str
    mark: Mark
    witness: Mapping[str, JSON]


def gaps(table: Table) -> tuple[Gap, ...]:
    """Try every combination of values that conditions can tell apart; each finding shows one of them."""
    values = _values(table)
    count = math.prod(len(found) for found in values.values())
    first = table.rows[0].mark
    if count > CASES_MAX:
        return (Gap("too-many-cases", f"{count} cases are more than {CASES_MAX}, so none was tried", first, {}),)
    found: dict[str, Gap] = {}
    reached: set[int] = set()
    read = [None if row.when is None else parse(row.when) for row in table.rows]
    for chosen in itertools.product(*values.values()):
        case = dict(zip(values, chosen, strict=True))
        holding = []
        for number, (row, node) in enumerate(zip(table.rows, read, strict=True)):
            try:
                if node is None or Evaluation(str(row.when), case).run(node) is True:
                    holding.append(number)
            except Invalid as wrong:
                message = f"row {number + 1} fails for {_shown(case)}: {wrong.message}"
                found.setdefault(f"failing {number}", Gap("failing-row", message, row.mark, case))
        reached.update(holding[:1])
        if not holding:
            found.setdefault("missing", Gap("missing-case", f"no row holds for {_shown(case)}", first, case))
        if table.hit == "unique":
            found.update((key, gap) for key, gap in _overlaps(table, holding, case) if key not in found)
    free = _free(table)
    for number, (row, node) in enumerate(zip(table.rows, read, strict=True)):
        if node is not None and _searches(node, free):
            continue  # no text that a pattern finds is among the cases
        # A last row that always holds is a safety net: that it catches nothing is no mistake.
        if number not in reached and f"failing {number}" not in found and row.when not in _ALWAYS:
            found[f"never {number}"] = _never(number, row)
    return tuple(found.values())[:_SAID_MAX]


def _free(table: Table) -> set[str]:
    """Inputs that may be any text."""
    properties = table.inputs.get("properties")
    schemas = properties.items() if isinstance(properties, dict) else ()
    return {name for name, schema in schemas if isinstance(schema, dict) and "enum" not in schema}


def _searches(node: Node, free: set[str]) -> bool:
    if isinstance(node, Function) and free.intersection(_names(node)):
        return True
    return any(_searches(part, free) for part in inside(node))


def _never(number: int, row: Row) -> Gap:
    message = f"row {number + 1} never decides: rows before it hold whenever it does, or it holds for nothing"
    return Gap("never-reached", message, row.mark, {})


def _overlaps(table: Table, holding: list[int], case: Mapping[str, JSON]) -> Iterator[tuple[str, Gap]]:
    named = [number for number in holding if table.rows[number].when not in _ALWAYS]
    for one, two in itertools.combinations(named, 2):
        message = f"rows {one + 1} and {two + 1} both hold for {_shown(case)}"
        yield f"overlap {one} {two}", Gap("overlap", message, table.rows[two].mark, case)


def _values(table: Table) -> dict[str, list[JSON]]:
    """Choose values of each input: every choice, both truths, and each side of every number it is compared with."""
    properties = table.inputs.get("properties")
    schemas = properties if isinstance(properties, dict) else {}
    compared: dict[str, list[JSON]] = {name: [] for name in schemas}
    used: set[str] = set()
    for row in table.rows:
        if row.when is not None:
            _compared(parse(row.when), compared)
            used.update(_names(parse(row.when)))
    found = {name: _of(schema if isinstance(schema, dict) else {}, compared[name]) for name, schema in schemas.items()}
    return {name: values if name in used else values[:1] for name, values in found.items()}


def _names(node: Node) -> Iterator[str]:
    if isinstance(node, Name):
        yield node.name
    for part in inside(node):
        yield from _names(part)


def _compared(node: Node, found: dict[str, list[JSON]]) -> None:
    if isinstance(node, Binary):
        for side, other in ((node.left, node.right), (node.right, node.left)):
            if isinstance(side, Name) and side.name in found:
                constants = other.items if isinstance(other, ListOf) else (other,)
                found[side.name].extend(one.value for one in constants if isinstance(one, Constant))
    for part in inside(node):
        _compared(part, found)


def _of(schema: Mapping[str, JSON], compared: list[JSON]) -> list[JSON]:
    choices = schema.get("enum")
    if isinstance(choices, list):
        return [*choices]
    kind = schema.get("type")
    kinds = kind if isinstance(kind, list) else [kind]
    found: list[JSON] = []
    if "boolean" in kinds:
        found.extend((True, False))
    if "integer" in kinds or "number" in kinds:
        found.extend(_numbers(schema, compared, whole="number" not in kinds))
    if "string" in kinds:
        found.extend((*(text for text in compared if isinstance(text, str)), "another text"))
    if "null" in kinds:
        found.append(None)
    return list({repr(value): value for value in found}.values()) or [*compared, None]


def _numbers(schema: Mapping[str, JSON], compared: list[JSON], *, whole: bool) -> list[JSON]:
    limits = [schema.get(key) for key in ("minimum", "maximum")]
    points = sorted(
        {number for number in (*compared, *limits) if isinstance(number, int | float) and not isinstance(number, bool)}
    )
    if not points:
        return [0]
    between = [(one + two) // 2 if whole else (one + two) / 2 for one, two in itertools.pairwise(points)]
    least, most = (limit if isinstance(limit, int | float) else None for limit in limits)
    around = dict.fromkeys((points[0] - 1, *points, *between, points[-1] + 1))
    return [
        number
        for number in sorted(around)
        if (least is None or number >= least) and (most is None or number <= most)
        if not whole or float(number).is_integer()
    ]


def _shown(case: Mapping[str, JSON]) -> str:
    return ", ".join(f"{name} = {value!r}" for name, value in case.items())[:300]
