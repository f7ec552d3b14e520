"""Where null may stand in an expression: what a schema allows, what refuses it, and what a condition rules out."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from metier.calls import JSON
from metier.workflow.syntax import (
    Binary,
    Choice,
    Comprehension,
    Constant,
    Function,
    Index,
    ListOf,
    MapOf,
    Name,
    Node,
    Select,
    Unary,
    inside,
)

__all__ = [
    "EVERYTHING",
    "allows_null",
    "asked",
    "is_there",
    "mended",
    "of_element",
    "refuses_null",
    "ruled_out",
    "shaped",
    "without_null",
]

EVERYTHING = "everything is there"
"""The fact that holds where nobody asks what may be null, such as in the expectations of a test."""
_WRITTEN_MAX = 80
_QUOTE = "'"
_TAKES_NULL: Mapping[str, int] = {
    "add_business_days": 2,
    "business_days_between": 2,
    "get": 2,
    "is_business_day": 1,
    "substring": 2,
}
"""The one argument of a function that may be null; `type` and `dyn` take null as their only one."""
_INSTEAD: Mapping[str, str] = {
    "string": "''",
    "integer": "0",
    "number": "0",
    "boolean": "false",
    "array": "[]",
    "object": "{}",
}
_NONE: frozenset[str] = frozenset()
_Facts: TypeAlias = frozenset[str] | None
"""Values that are not null; None where nothing can be, so that everything may be said."""


def allows_null(schema: Mapping[str, JSON]) -> bool:
    """Tell whether a schema lets null through beside other values; one that says nothing is not doubted."""
    choices, named, options = schema.get("enum"), schema.get("type"), schema.get("anyOf")
    if isinstance(choices, list):
        return None in choices and len(choices) > 1 and (named is None or _names_null(named))
    if isinstance(named, list):
        return _names_null(named) and len(named) > 1
    if named is None and isinstance(options, list):
        each = [one for one in options if isinstance(one, dict)]
        return any(_names_null(one.get("type")) or allows_null(one) for one in each)
    return False


def without_null(schema: Mapping[str, JSON]) -> Mapping[str, JSON]:
    """Give the schema of the same value once null is ruled out."""
    found = dict(schema)
    if isinstance(named := found.get("type"), list):
        kept = [one for one in named if one != "null"]
        found["type"] = kept[0] if len(kept) == 1 else kept
    if isinstance(choices := found.get("enum"), list):
        found["enum"] = [one for one in choices if one is not None]
    if isinstance(options := found.get("anyOf"), list):
        left = [one for one in options if not (isinstance(one, dict) and one.get("type") == "null")]
        if len(left) == 1 and isinstance(left[0], dict) and len(found) == 1:
            return without_null(left[0])
        found["anyOf"] = left
    return found


def shaped(schema: Mapping[str, JSON], facts: frozenset[str], variable: str) -> Mapping[str, JSON]:
    """Give the schema of an element of which is known what is not null in it, by the name it was called."""
    for fact in facts:
        head, _, rest = fact.partition(".")
        if head == _there(Name(variable, 0)) and re.fullmatch(r"[\w.]*", rest):
            schema = _narrowed(schema, rest.split(".") if rest else ())
    return schema


def _narrowed(schema: Mapping[str, JSON], path: Sequence[str]) -> Mapping[str, JSON]:
    if not path:
        return without_null(schema)
    properties = schema.get("properties")
    inner = properties.get(path[0]) if isinstance(properties, dict) else None
    if not isinstance(properties, dict) or not isinstance(inner, dict):
        return schema
    return {**schema, "properties": {**properties, path[0]: dict(_narrowed(inner, path[1:]))}}


def _names_null(named: JSON) -> bool:
    return named == "null" or (isinstance(named, list) and "null" in named)


def refuses_null(function: str, position: int) -> bool:
    """Tell whether a call fails where this argument, counted from 0, is null."""
    return function not in ("type", "dyn") and _TAKES_NULL.get(function) != position


def mended(node: Node, types: frozenset[str], does: str) -> tuple[str, str]:
    """Name a value that may be null, and say what to write instead, with what its type could have in its place."""
    text = _written(node)
    if len(text) > _WRITTEN_MAX:
        return "this value", "compare it with null first"
    if does.startswith(("'.", "[")):
        return repr(text), f"write {text} == null ? … : {text}{does.strip(_QUOTE)}"
    left = [_INSTEAD.get(one, "…") for one in types]
    choice = f"{text} == null ? {left[0] if len(left) == 1 else '…'} : {text}"
    return repr(text), f"write {choice}" if does.startswith("a ") else f"write ({choice})"


def is_there(node: Node, facts: frozenset[str]) -> bool:
    """Tell whether what is known rules out that the value of an expression is null."""
    if EVERYTHING in facts or not facts:
        return bool(facts)
    if _there(node) in facts or (isinstance(node, Index) and f"{_there(node.target)}[]" in facts):
        return True
    return f"some {_of_any(node)}" in facts


def _there(node: Node) -> str:
    return f"some {_written(node)}"


def _of_any(node: Node) -> str:
    """Write an expression as what is known of all elements of a list is written, whichever of them it takes."""
    match node:
        case Select(target=target, field=field, test=False):
            return f"{_of_any(target)}.{field}"
        case Index(target=target, index=Constant(value=str() as name)) if name.isidentifier():
            return f"{_of_any(target)}.{name}"
        case Index(target=target):
            return f"{_of_any(target)}[]"
    return _written(node)


def _written(node: Node) -> str:
    """Write an expression out, alike for all that read the same value."""
    match node:
        case Constant(value=None):
            return "null"
        case Constant(value=bool() as value):
            return str(value).lower()
        case Constant(value=value):
            return repr(value)
        case Name(name=name):
            return name
        case Select(target=target, field=field, test=test):
            return f"has({_written(target)}.{field})" if test else f"{_written(target)}.{field}"
        case Index(target=target, index=Constant(value=str() as name)) if name.isidentifier():
            return f"{_written(target)}.{name}"
        case Index(target=target, index=index):
            return f"{_written(target)}[{_written(index)}]"
        case Function(name=name, arguments=arguments):
            return f"{name}({', '.join(map(_written, arguments))})"
        case Comprehension(target=target, macro=macro, variable=variable, condition=condition, body=body):
            parts = (variable, *(_written(one) for one in (condition, body) if one is not None))
            return f"{_written(target)}.{macro}({', '.join(parts)})"
        case Unary(operator=sign, operand=operand):
            return f"{sign}{_written(operand)}"
        case Binary(operator=operator, left=left, right=right):
            return f"({_written(left)} {operator} {_written(right)})"
        case Choice(condition=condition, then=then, otherwise=otherwise):
            return f"({_written(condition)} ? {_written(then)} : {_written(otherwise)})"
        case ListOf(items=items):
            return f"[{', '.join(map(_written, items))}]"
        case MapOf(entries=entries):
            return f"{{{', '.join(f'{_written(key)}: {_written(value)}' for key, value in entries)}}}"


def _of_elements(facts: frozenset[str], variable: str, whole: Node) -> frozenset[str]:
    """Say of all elements of a list what is known of the variable that stood for each of them."""
    return _called(facts, _there(Name(variable, 0)), f"{_there(whole)}[]")


def of_element(facts: frozenset[str], variable: str, whole: Node) -> frozenset[str]:
    """Say of a variable that stands for an element what is known of all elements of its list."""
    return _called(facts, f"{_there(whole)}[]", _there(Name(variable, 0)))


def _called(facts: frozenset[str], old: str, new: str) -> frozenset[str]:
    return frozenset(new + fact[len(old) :] for fact in facts if fact == old or fact.startswith((f"{old}.", f"{old}[")))


def ruled_out(node: Node) -> tuple[frozenset[str], frozenset[str]]:
    """Say which values are not null where a condition holds, and where it does not."""
    return _facts(*_Ruling(_needed).of(node))


def asked(node: Node) -> tuple[frozenset[str], frozenset[str]]:
    """Say the same only of what a condition asks for, and not of what it needs itself to be decided."""
    return _facts(*_Ruling(lambda _: _NONE).of(node))


def _facts(yes: _Facts, no: _Facts) -> tuple[frozenset[str], frozenset[str]]:
    every = frozenset({EVERYTHING})
    return every if yes is None else yes, every if no is None else no


@dataclass(frozen=True, slots=True)
class _Ruling:
    needed: Callable[[Node], frozenset[str]]

    def of(self, node: Node) -> tuple[_Facts, _Facts]:
        match node:
            case Constant(value=bool() as value):
                return (_NONE, None) if value else (None, _NONE)
            case Unary(operator="!", operand=operand):
                yes, no = self.of(operand)
                return no, yes
            case Binary(operator="&&", left=left, right=right):
                # A side that decides wins even where the other fails, so the order says nothing.
                (one, not_one), (two, not_two) = self.of(left), self.of(right)
                return _both(one, two), _either(not_one, not_two)
            case Binary(operator="||", left=left, right=right):
                (one, not_one), (two, not_two) = self.of(left), self.of(right)
                return _either(one, two), _both(not_one, not_two)
            case Choice(condition=condition, then=then, otherwise=otherwise):
                (held, failed), one_way, other = self.of(condition), self.of(then), self.of(otherwise)
                return (
                    _either(_both(held, one_way[0]), _both(failed, other[0])),
                    _either(_both(held, one_way[1]), _both(failed, other[1])),
                )
            case Select(target=target, test=True):
                return _needed(target) | {_there(target)}, _NONE
            case Binary(operator="==", left=left, right=right):
                return self._equal(left, right)
            case Binary(operator="!=", left=left, right=right):
                same, other_ = self._equal(left, right)
                return other_, same
            case Binary(operator="in", left=left, right=right):
                return self._among(node, left, right)
            case Comprehension(macro="all", target=target, variable=variable, body=body):
                every = _of_elements(self.of(body)[0] or _NONE, variable, target)
                return self.needed(node) | every, self.needed(node)
            case Comprehension(macro="exists", target=target, variable=variable, body=body):
                every = _of_elements(self.of(body)[1] or _NONE, variable, target)
                return self.needed(node), self.needed(node) | every
        return self.needed(node), self.needed(node)

    def _among(self, node: Node, left: Node, right: Node) -> tuple[_Facts, _Facts]:
        found = self.needed(node)
        if isinstance(left, Constant) and left.value is None:
            return found, found | {f"{_there(right)}[]"}
        nulls = isinstance(right, ListOf) and any(
            isinstance(one, Constant) and one.value is None for one in right.items
        )
        return found if nulls else found | {_there(left)}, found

    def _equal(self, left: Node, right: Node) -> tuple[_Facts, _Facts]:
        found = self.needed(left) | self.needed(right)
        for side, other in ((left, right), (right, left)):
            match side, other:
                case _, Constant(value=None):
                    return found, found | {_there(side)}
                case Function(name="type", arguments=(value,)), Constant(value="null"):
                    return found, found | {_there(value)}
                case Function(name="type", arguments=(value,)), Constant():
                    return found | {_there(value)}, found
                case Binary() | Unary() | Select(test=True) | Comprehension(), Constant(value=bool() as wanted):
                    yes, no = self.of(side)
                    return (yes, no) if wanted else (no, yes)
        # Two values that are equal may both be null; whoever compares them with one another is not doubted.
        return found | {_there(left), _there(right)}, found


def _needed(node: Node) -> frozenset[str]:
    """Collect what must not be null for an expression to have a value at all, whichever way it goes."""
    found: set[str] = set()
    parts = tuple(inside(node))
    match node:
        case Binary(operator="&&" | "||") | Select(test=True):
            return _NONE
        case Choice(condition=condition):
            parts = (condition,)
            found.add(_there(condition))
        case Comprehension(target=target):
            parts = (target,)
            found.add(_there(target))
        case Function(name=name, arguments=arguments):
            found |= {_there(one) for number, one in enumerate(arguments) if refuses_null(name, number)}
        case Binary(operator="in", right=right):
            found.add(_there(right))
        case Binary(operator=operator) if operator not in ("==", "!="):
            found |= {_there(one) for one in parts}
        case Unary() | Index() | Select():
            found |= {_there(one) for one in parts}
    return frozenset(found.union(*map(_needed, parts)))


def _both(one: _Facts, two: _Facts) -> _Facts:
    return None if one is None or two is None else one | two


def _either(one: _Facts, two: _Facts) -> _Facts:
    if one is None or two is None:
        return two if one is None else one
    return one & two
