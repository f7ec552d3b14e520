"""Evaluation of a parsed expression over JSON: counted, so that it always ends, and exact about where it fails."""

from __future__ import annotations

import datetime
import difflib
import math
from collections.abc import Mapping
from typing import Any, assert_never

from metier.calls import JSON
from metier.errors import Invalid
from metier.workflow.functions import FUNCTIONS, INT_MAX, INT_MIN, Unfit, Value, type_name
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
    Operator,
    Select,
    Unary,
)

__all__ = ["WORK_LIMIT", "Evaluation"]

_WHOLE = 1_000
WORK_LIMIT = 500_000
"""Units one evaluation may spend: a node visited, an element compared or copied, 16 characters made."""


class _Fault(Exception):
    """A failure of the expression itself, which `||` and `&&` may still absorb."""

    def __init__(self, message: str, at: int) -> None:
        super().__init__(message)
        self.message = message
        self.at = at


class Evaluation:
    """One evaluation of one expression: the variables it sees and the work it has left."""

    def __init__(self, text: str, scope: Mapping[str, JSON]) -> None:
        self._text = text
        self._variables: dict[str, Value] = dict(scope)
        self._left = WORK_LIMIT

    def run(self, node: Node) -> JSON:
        """Compute the value of the expression as plain JSON, or raise Invalid saying where it fails."""
        try:
            return self._plain(self._value(node), node.at)
        except _Fault as fault:
            raise Invalid(f"cannot evaluate {self._text!r} at character {fault.at + 1}: {fault.message}") from None
        except RecursionError:
            raise Invalid(f"cannot evaluate {self._text!r}: a value is nested too deeply") from None

    def _spend(self, units: int) -> None:
        self._left -= units
        if self._left < 0:
            raise Invalid(
                f"cannot evaluate {self._text!r}: it takes more than {WORK_LIMIT} units of work; "
                "compute this in a code step instead"
            )

    def _plain(self, value: Value, at: int) -> JSON:
        self._spend(1)
        match value:
            case None | bool() | int() | str():
                return value
            case float():
                if not math.isfinite(value):
                    raise _Fault("the result is not a finite number", at)
                return value
            case list():
                return [self._plain(item, at) for item in value]
            case dict():
                return {str(key): self._plain(item, at) for key, item in value.items()}
            case datetime.datetime() | datetime.timedelta():
                return str(FUNCTIONS["string"].run(value))
        raise _Fault(f"the result is {type_name(value)}, which is not JSON", at)

    def _value(self, node: Node) -> Value:
        self._spend(1)
        match node:
            case Constant():
                return node.value
            case Name():
                if node.name not in self._variables:
                    raise _Fault(f"there is no {node.name!r} here{_near(node.name, self._variables)}", node.at)
                return self._variables[node.name]
            case Select():
                return self._select(node)
            case Index():
                return self._index(node)
            case Function():
                return self._call(node)
            case Comprehension():
                return self._comprehend(node)
            case Unary():
                return self._unary(node)
            case Binary(operator="||" | "&&"):
                return self._logic(node)
            case Binary():
                return self._binary(node.operator, self._value(node.left), self._value(node.right), node.at)
            case Choice():
                return self._value(node.then if self._truth(node.condition) else node.otherwise)
            case ListOf():
                return [self._value(item) for item in node.items]
            case MapOf():
                return {self._key(key): self._value(value) for key, value in node.entries}
        assert_never(node)

    def _truth(self, node: Node) -> bool:
        value = self._value(node)
        if not isinstance(value, bool):
            raise _Fault(f"a condition must be true or false, not {type_name(value)}", node.at)
        return value

    def _logic(self, node: Binary) -> bool:
        """Evaluate `||` or `&&` as CEL does: a side that decides wins even when the other fails."""
        decisive = node.operator == "||"
        try:
            if self._truth(node.left) is decisive:
                return decisive
        except _Fault:
            if self._truth(node.right) is decisive:
                return decisive
            raise
        return self._truth(node.right)

    def _select(self, node: Select) -> Value:
        if node.test:
            try:
                target = self._value(node.target)
            except _Fault:
                return False
            return isinstance(target, dict) and node.field in target
        target = self._value(node.target)
        if isinstance(target, dict):
            if node.field in target:
                return target[node.field]
            raise _Fault(f"there is no {node.field!r} in it{_near(node.field, target)}", node.at)
        if target is None:
            raise _Fault(
                f"cannot take {node.field!r} of null: the step was skipped or has not run; compare with null first",
                node.at,
            )
        raise _Fault(f"cannot take {node.field!r} of {type_name(target)}", node.at)

    def _index(self, node: Index) -> Value:
        target, index = self._value(node.target), self._value(node.index)
        if isinstance(target, dict) and isinstance(index, str):
            if index in target:
                return target[index]
            raise _Fault(f"there is no {index!r} in it{_near(index, target)}", node.at)
        if isinstance(target, list) and isinstance(index, int) and not isinstance(index, bool):
            if 0 <= index < len(target):
                return target[index]
            raise _Fault(f"there is no element {index} in a list of {len(target)}", node.at)
        raise _Fault(f"cannot take element {type_name(index)} of {type_name(target)}", node.at)

    def _call(self, node: Function) -> Value:
        function = FUNCTIONS[node.name]
        arguments = [self._value(argument) for argument in node.arguments]
        for argument in arguments:
            self._weigh(argument, _WHOLE if function.deep else int(isinstance(argument, list)))
        try:
            made = function.run(*arguments)
        except Unfit as unfit:
            raise _Fault(str(unfit), node.at) from None
        except (RecursionError, MemoryError):
            raise _Fault(f"{node.name} cannot look that deep", node.at) from None
        if isinstance(made, (str, list, dict)):
            self._spend(len(made) // (16 if isinstance(made, str) else 2))
        return made

    def _weigh(self, value: Value, levels: int) -> None:
        """Count what a function looks at, so many levels down into lists and maps."""
        pending = [(value, levels)]
        while pending:
            one, left = pending.pop()
            self._spend(1 + len(one) // 16 if isinstance(one, str) else 1)
            if isinstance(one, (list, dict)):
                self._spend(len(one) // 16)
                if left:
                    pending.extend((part, left - 1) for part in (one if isinstance(one, list) else one.values()))

    def _comprehend(self, node: Comprehension) -> Value:
        target = self._value(node.target)
        if not isinstance(target, (list, dict)):
            raise _Fault(f"{node.macro} needs a list or map, not {type_name(target)}", node.at)
        outer = self._variables
        found: list[Value] = []
        count = 0
        fault: _Fault | None = None
        try:
            for item in target:
                self._variables = {**outer, node.variable: item}
                self._spend(1 + len(outer) // 8)
                if node.macro == "map":
                    if node.condition is None or self._truth(node.condition):
                        found.append(self._value(node.body))
                    continue
                try:
                    holds = self._truth(node.body)
                except _Fault as wrong:
                    if node.macro in ("filter", "exists_one"):
                        raise
                    fault = wrong
                    continue
                if node.macro == "filter" and holds:
                    found.append(item)
                elif (node.macro == "exists" and holds) or (node.macro == "all" and not holds):
                    return holds
                count += holds
        finally:
            self._variables = outer
        if fault is not None:
            raise fault
        if node.macro in ("map", "filter"):
            return found
        return count == 1 if node.macro == "exists_one" else node.macro == "all"

    def _unary(self, node: Unary) -> Value:
        if node.operator == "!":
            return not self._truth(node.operand)
        value = self._value(node.operand)
        if isinstance(value, datetime.timedelta):
            return -value
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise _Fault(f"cannot negate {type_name(value)}", node.at)
        return self._bounded(-value, node.at)

    def _key(self, node: Node) -> str:
        key = self._value(node)
        if not isinstance(key, str):
            raise _Fault(f"a key of a map must be a string, not {type_name(key)}", node.at)
        return key

    def _binary(self, operator: Operator, left: Value, right: Value, at: int) -> Value:
        if operator == "==":
            return self._equal(left, right)
        if operator == "!=":
            return not self._equal(left, right)
        if operator == "in":
            if isinstance(right, list):
                return any(self._equal(left, item) for item in right)
            if isinstance(right, dict):
                return isinstance(left, str) and left in right
            raise _Fault(f"cannot look for something in {type_name(right)}", at)
        if operator in ("<", "<=", ">", ">="):
            return self._ordered(operator, left, right, at)
        return self._arithmetic(operator, left, right, at)

    def _equal(self, left: Value, right: Value) -> bool:
        self._spend(1)
        if isinstance(left, bool) or isinstance(right, bool):
            return left is right
        if isinstance(left, list) and isinstance(right, list):
            return len(left) == len(right) and all(map(self._equal, left, right))
        if isinstance(left, dict) and isinstance(right, dict):
            return left.keys() == right.keys() and all(self._equal(left[key], right[key]) for key in left)
        return left == right

    def _ordered(self, operator: Operator, left: Value, right: Value, at: int) -> bool:
        match left, right:
            case (bool(), bool()) | (str(), str()):
                pass
            case (bool(), _) | (_, bool()):
                raise _Fault(f"cannot compare {type_name(left)} {operator} {type_name(right)}", at)
            case (int() | float(), int() | float()):
                pass
            case (datetime.datetime(), datetime.datetime()) | (datetime.timedelta(), datetime.timedelta()):
                pass
            case _:
                hint = "; the step was skipped or gave nothing" if left is None or right is None else ""
                raise _Fault(f"cannot compare {type_name(left)} {operator} {type_name(right)}{hint}", at)
        one: Any = left
        two: Any = right
        order = -1 if one < two else int(one > two)
        return {"<": order < 0, "<=": order <= 0, ">": order > 0}.get(operator, order >= 0)

    def _arithmetic(self, operator: Operator, left: Value, right: Value, at: int) -> Value:
        times = (datetime.datetime, datetime.timedelta)
        if operator == "+" and isinstance(left, str) and isinstance(right, str):
            self._spend((len(left) + len(right)) // 16)
            return left + right
        if operator == "+" and isinstance(left, list) and isinstance(right, list):
            self._spend(len(left) + len(right))
            return left + right
        if isinstance(left, times) or isinstance(right, times):
            return _time_arithmetic(operator, left, right, at)
        if (
            isinstance(left, bool)
            or isinstance(right, bool)
            or not isinstance(left, (int, float))
            or not isinstance(right, (int, float))
        ):
            raise _Fault(f"cannot compute {type_name(left)} {operator} {type_name(right)}", at)
        if operator in ("/", "%") and right == 0:
            raise _Fault("division by zero", at)
        try:
            return self._bounded(_computed(operator, left, right), at)
        except OverflowError:
            raise _Fault("the result is too large", at) from None

    def _bounded(self, value: int | float, at: int) -> int | float:
        if isinstance(value, int) and not INT_MIN <= value <= INT_MAX:
            raise _Fault("the whole number does not fit in 64 bits", at)
        if isinstance(value, float) and not math.isfinite(value):
            raise _Fault("the result is not a finite number", at)
        return value


def _computed(operator: Operator, left: int | float, right: int | float) -> int | float:
    match operator:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
        case "/" if isinstance(left, int) and isinstance(right, int):
            # CEL divides whole numbers towards zero, where Python rounds down.
            quotient = abs(left) // abs(right)
            return quotient if (left < 0) == (right < 0) else -quotient
        case "/":
            return left / right
    if isinstance(left, int) and isinstance(right, int):
        remainder = abs(left) % abs(right)
        return -remainder if left < 0 else remainder
    return math.fmod(left, right)


def _time_arithmetic(operator: Operator, left: Value, right: Value, at: int) -> Value:
    moment, length = datetime.datetime, datetime.timedelta
    try:
        if operator == "+" and isinstance(left, (moment, length)) and isinstance(right, length):
            return left + right
        if operator == "+" and isinstance(left, length) and isinstance(right, moment):
            return right + left
        if operator == "-" and isinstance(left, moment) and isinstance(right, (moment, length)):
            return left - right
        if operator == "-" and isinstance(left, length) and isinstance(right, length):
            return left - right
    except OverflowError:
        raise _Fault("the result is out of range", at) from None
    raise _Fault(f"cannot compute {type_name(left)} {operator} {type_name(right)}", at)


def _near(name: str, among: Mapping[str, Value]) -> str:
    known = [str(key)[:60] for key in list(among)[:200]]
    close = difflib.get_close_matches(name[:60], known, 1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; it has {', '.join(sorted(known)[:12])}" if known else "; it is empty"
