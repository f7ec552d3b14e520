"""Decision tables: business rules as rows that people can read, evaluated without any side effect."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from metier.calls import JSON
from metier.errors import Invalid, NotFound
from metier.workflow.cel import parse
from metier.workflow.evaluator import Evaluation
from metier.workflow.files import rules_paths
from metier.workflow.forms import condition, needs
from metier.workflow.functions import type_name
from metier.workflow.shape import Mark, Workflow
from metier.workflow.shorthand import conform, expand_fields
from metier.workflow.syntax import Node as Condition
from metier.workflow.yaml_source import Node
from metier.workflow.yaml_source import read as read_yaml

__all__ = ["Hit", "Row", "Table", "TableTest", "decide", "read", "rehearse", "table"]

Hit: TypeAlias = Literal["first", "unique"]

_ROWS_MAX = 1_000
_KEYS = ("rules", "version", "title", "description", "inputs", "outputs", "hit", "rows", "tests")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*\Z", re.ASCII)
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Row:
    """One rule: when its condition holds, this is the decision."""

    when: str | None
    """A CEL expression over the inputs; None always holds."""
    then: Mapping[str, JSON]
    mark: Mark

    def true(self, condition: Condition, known: Mapping[str, JSON]) -> bool:
        """Evaluate the condition as it was read; anything but true or false is Invalid."""
        value = Evaluation(str(self.when), known).run(condition)
        if not isinstance(value, bool):
            raise Invalid(f"{self.when!r} must give true or false, not {type_name(value)}")
        return value


@dataclass(frozen=True, slots=True)
class TableTest:
    """One test beside a table: what is asked, and what must be decided."""

    name: str
    asked: Mapping[str, JSON]
    expect: Mapping[str, JSON]
    """Fields of the decision that must be so; others are not looked at."""
    mark: Mark


@dataclass(frozen=True, slots=True)
class Table:
    """A whole decision table: the first row that holds decides, or the only one."""

    name: str
    version: str
    inputs: Mapping[str, JSON]
    """JSON Schema of what is asked."""
    outputs: Mapping[str, JSON]
    """JSON Schema that every decision satisfies; checked when the table is read."""
    rows: tuple[Row, ...]
    hit: Hit = "first"
    """`unique` refuses a case for which two rows with a condition hold."""
    tests: tuple[TableTest, ...] = ()

    @property
    def reference(self) -> str:
        """The name a workflow uses it by."""
        return f"{self.name}@{self.version}"


def read(text: str, file: str) -> Table:
    """Read a decision table from its YAML; Invalid says where it is wrong."""
    root = read_yaml(text, file)
    root.only("a decision table", _KEYS)
    entries = root.entries
    for key in ("rules", "version", "inputs", "outputs", "rows"):
        if key not in entries:
            root.fail(f"a decision table needs {key!r}")
    if "hit" in entries:
        entries["hit"].one_of("hit", ("first", "unique"))
    name, version = entries["rules"].text("rules"), entries["version"].scalar
    if not _NAME.match(name):
        entries["rules"].fail(f"rules is {name[:80]!r}; a name is letters, digits, '-' and '_'")
    if isinstance(version, bool) or not isinstance(version, (str, int)) or not _VERSION.match(str(version)):
        entries["version"].fail(f"version is {str(version)[:80]!r}; write a number or a text such as 2026-10")
    inputs, outputs = expand_fields(entries["inputs"], "inputs"), expand_fields(entries["outputs"], "outputs")
    if inputs.get("type") != "object":
        entries["inputs"].fail("inputs must be named fields, such as {category: string}")
    items = entries["rows"].list("rows")
    if not 1 <= len(items) <= _ROWS_MAX:
        entries["rows"].fail(f"rows must hold between 1 and {_ROWS_MAX} rows, not {len(items)}")
    rows: list[Row] = []
    for item in items:
        if rows and rows[-1].when in (None, "true"):
            item.fail(f"this row is never reached: the one at {rows[-1].mark} always holds")
        rows.append(_row(item, outputs))
    hit: Hit = "unique" if "hit" in entries and entries["hit"].scalar == "unique" else "first"
    tests = tuple(_test(node) for node in entries["tests"].list("tests")) if "tests" in entries else ()
    return Table(name, str(version), inputs, outputs, tuple(rows), hit, tests)


def decide(table: Table, asked: JSON, reading: Callable[[str], Condition] = parse) -> dict[str, JSON]:
    """Give the decision of the first row that holds; Invalid when what is asked does not fit or no row holds.

    Who decides often gives a `reading` that keeps the conditions it has read.
    """
    known = conform(asked, table.inputs, f"the inputs of {table.reference}")
    if not isinstance(known, dict):
        raise Invalid(f"cannot decide by {table.reference!r}: the inputs must be named values, not {asked!r}")
    properties = table.inputs.get("properties")
    # A condition can ask `x == null`, but not whether x was given: what was not is null.
    known = {**dict.fromkeys(properties if isinstance(properties, dict) else ()), **known}
    taken: int | None = None
    for number, row in enumerate(table.rows, 1):
        try:
            always = row.when in (None, "true")
            holds = taken is None if always else row.true(reading(str(row.when)), known)
        except Invalid as wrong:
            raise Invalid(
                f"cannot decide by {table.reference!r}, row {number} at {row.mark}: {wrong.message}"
            ) from None
        if holds and taken is not None:
            raise Invalid(f"cannot decide by {table.reference!r}: rows {taken} and {number} both hold; narrow one")
        if holds:
            taken = number
            if table.hit == "first":
                break
    if taken is not None:
        return dict(table.rows[taken - 1].then)
    raise Invalid(
        f"cannot decide by {table.reference!r}: no row holds for {str(known)[:300]}; add a last row without 'when'"
    )


def table(workflow: Workflow, reference: str) -> Table:
    """Read the table of a pinned reference among the files of a workflow."""
    for path in rules_paths(reference):
        if path in workflow.files:
            found = read(workflow.files[path], path)
            if found.reference != reference:
                raise Invalid(f"cannot use {path!r} as {reference!r}: it holds {found.reference!r}; write a new file")
            return found
    raise NotFound(f"cannot find the decision table {reference!r}; write it to {rules_paths(reference)[0]!r}")


def rehearse(table: Table, test: TableTest) -> tuple[str, ...]:
    """Play one test of a table and say what is not as it must be."""
    try:
        decided = decide(table, dict(test.asked))
    except Invalid as wrong:
        return (f"{test.mark}: {wrong.message}",)
    return tuple(
        f"{test.mark}: {name} is {decided.get(name)!r}, not {wanted!r}"
        for name, wanted in test.expect.items()
        if name not in decided or decided[name] != wanted
    )


def _test(node: Node) -> TableTest:
    node.only("a test", ("name", "inputs", "expect"))
    needs(node, "a test", "name", "inputs", "expect")
    asked = {name: value.data() for name, value in node.entries["inputs"].mapping("inputs of a test").items()}
    expect = {name: value.data() for name, value in node.entries["expect"].mapping("expect of a test").items()}
    return TableTest(node.entries["name"].text("the name of a test"), asked, expect, node.mark)


def _row(item: Node, outputs: Mapping[str, JSON]) -> Row:
    item.only("a row", ("when", "then"))
    if "then" not in item.entries:
        item.fail("a row needs 'then'")
    try:
        then = conform(item.entries["then"].data(), outputs, "then")
    except Invalid as wrong:
        item.entries["then"].fail(wrong.message)
    if not isinstance(then, dict):
        item.entries["then"].fail("then must be named values")
    when = condition(item.entries["when"], "when of a row") if "when" in item.entries else None
    return Row(when, then, item.mark)
