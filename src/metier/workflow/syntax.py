"""The shape of a parsed CEL expression: what the evaluator runs over and the linter reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = [
    "Binary",
    "Choice",
    "Comprehension",
    "Constant",
    "Function",
    "Index",
    "ListOf",
    "Macro",
    "MapOf",
    "Name",
    "Node",
    "Operator",
    "Select",
    "Unary",
    "inside",
]

Operator: TypeAlias = Literal["||", "&&", "==", "!=", "<", "<=", ">", ">=", "in", "+", "-", "*", "/", "%"]
Macro: TypeAlias = Literal["all", "exists", "exists_one", "map", "filter"]


@dataclass(frozen=True, slots=True)
class Constant:
    """A number, text, boolean or null written in the expression."""

    value: bool | int | float | str | None
    at: int


@dataclass(frozen=True, slots=True)
class Name:
    """A variable: `inputs`, `steps`, or one bound by a comprehension."""

    name: str
    at: int


@dataclass(frozen=True, slots=True)
class Select:
    """A field of an object: `target.field`."""

    target: Node
    field: str
    at: int
    test: bool = False
    """True inside `has()`: asks whether the field is there."""


@dataclass(frozen=True, slots=True)
class Index:
    """An element of a list or object: `target[index]`."""

    target: Node
    index: Node
    at: int


@dataclass(frozen=True, slots=True)
class Function:
    """A function call; a method call has its target as the first argument."""

    name: str
    arguments: tuple[Node, ...]
    at: int


@dataclass(frozen=True, slots=True)
class Comprehension:
    """A macro that runs an expression over every element of a list, or every key of an object."""

    macro: Macro
    target: Node
    variable: str
    condition: Node | None
    """Which elements take part, for `map` with three arguments."""
    body: Node
    at: int


@dataclass(frozen=True, slots=True)
class Unary:
    """Negation of a boolean or of a number."""

    operator: Literal["!", "-"]
    operand: Node
    at: int


@dataclass(frozen=True, slots=True)
class Binary:
    """Two operands and what stands between them."""

    operator: Operator
    left: Node
    right: Node
    at: int


@dataclass(frozen=True, slots=True)
class Choice:
    """`condition ? then : otherwise`."""

    condition: Node
    then: Node
    otherwise: Node
    at: int


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list written in the expression."""

    items: tuple[Node, ...]
    at: int


@dataclass(frozen=True, slots=True)
class MapOf:
    """An object written in the expression."""

    entries: tuple[tuple[Node, Node], ...]
    at: int


Node: TypeAlias = Constant | Name | Select | Index | Function | Comprehension | Unary | Binary | Choice | ListOf | MapOf


def inside(node: Node) -> Iterator[Node]:
    """Yield the operands directly inside a node, left to right."""
    match node:
        case Constant() | Name():
            return
        case Select(target=target):
            yield target
        case Index(target=target, index=index):
            yield from (target, index)
        case Function(arguments=arguments):
            yield from arguments
        case Comprehension(target=target, condition=condition, body=body):
            yield target
            if condition is not None:
                yield condition
            yield body
        case Unary(operand=operand):
            yield operand
        case Binary(left=left, right=right):
            yield from (left, right)
        case Choice(condition=condition, then=then, otherwise=otherwise):
            yield from (condition, then, otherwise)
        case ListOf(items=items):
            yield from items
        case MapOf(entries=entries):
            for key, value in entries:
                yield from (key, value)
