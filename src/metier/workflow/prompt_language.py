"""The template language of prompts: Jinja2 reduced to reading plain JSON, whose work is counted and bounded."""

from __future__ import annotations

import json
from itertools import chain
from typing import Any

from jinja2 import StrictUndefined, nodes
from jinja2.filters import do_round, do_sort, do_trim, do_truncate, do_unique, make_attrgetter, make_multi_attrgetter
from jinja2.runtime import LoopContext, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

__all__ = ["FILTERS", "PROMPT_MAX", "TESTS", "WORK_MAX", "Environment", "counted"]

PROMPT_MAX = 1_000_000
"""Characters a prompt may have once its variables are filled in."""
WORK_MAX = 300_000
"""Units one rendering may spend: a turn of a loop, an item a filter goes through, 16 characters of a text."""
_FIELDS_MAX = 8
_TRIMMED_MAX = 100
FILTERS = (
    "capitalize",
    "default",
    "d",
    "first",
    "float",
    "int",
    "join",
    "items",
    "last",
    "length",
    "count",
    "lower",
    "round",
    "sort",
    "title",
    "tojson",
    "trim",
    "truncate",
    "unique",
    "upper",
    "wordcount",
)
TESTS = (
    "defined",
    "undefined",
    "none",
    "string",
    "number",
    "mapping",
    "sequence",
    "iterable",
    "boolean",
    "in",
    "eq",
    "ne",
)


class Environment(ImmutableSandboxedEnvironment):
    """Jinja2 over plain JSON: fields of objects and never methods of Python values, and counted work."""

    def __init__(self) -> None:
        super().__init__(
            undefined=StrictUndefined,
            autoescape=False,
            keep_trailing_newline=True,
            finalize=self._written,
        )
        self._left = WORK_MAX
        self.globals.clear()
        self.filters.update(tojson=_tojson, join=_join, round=_round, trim=_trim)
        self.filters.update(items=self._items, sort=self._sort, truncate=self._truncate, unique=self._unique)
        for name in set(self.filters) - set(FILTERS):
            del self.filters[name]
        for name in set(self.tests) - set(TESTS):
            del self.tests[name]
        self.filters.update({_TURNS: self._turns, _WEIGHED: self._weighed})

    def _spend(self, units: int) -> None:
        self._left -= units
        if self._left < 0:
            raise ValueError(
                f"it takes more than {WORK_MAX} units of work (turns of loops, items, 16 characters); "
                "give it less in `with`, or prepare the value in a code step"
            )

    def _turns(self, items: Any, each: int) -> Any:
        """Count all turns of a loop before the first: nothing leaves a loop of a prompt early."""
        found = items if isinstance(items, (list, dict, str, Undefined)) else list(items)
        self._spend(len(found) * each)
        return found

    def _weighed(self, value: Any, share: int) -> Any:
        """Count what is looked at in a value, one unit for so many items or 16 times as many characters."""
        if isinstance(value, str):
            if units := len(value) // (16 * share):
                self._spend(units)
        elif isinstance(value, (list, tuple, dict)):
            pending: list[Any] = [value]
            seen = 0
            while pending:
                one = pending.pop()
                seen += len(one)
                if seen > self._left * share:
                    self._spend(self._left + 1)
                for part in chain(one, one.values()) if isinstance(one, dict) else one:
                    if isinstance(part, str):
                        seen += len(part) // 16
                    elif isinstance(part, (list, tuple, dict)):
                        pending.append(part)
            self._spend(seen // share)
        return value

    def _written(self, value: Any) -> Any:
        return self._weighed(value, 1) if isinstance(value, (list, tuple, dict)) else value

    def _items(self, value: Any) -> list[tuple[str, Any]]:
        if not isinstance(value, dict):
            raise TypeError(f"items needs an object, not {type(value).__name__}")
        self._spend(len(value))
        return list(value.items())

    def _truncate(
        self, s: Any, length: int = 255, killwords: bool = False, end: str = "...", leeway: Any = None
    ) -> Any:
        # However long a text is, no more of it is looked at than is kept.
        if isinstance(s, (str, list, tuple)):
            self._spend(min(len(s), length) // (16 if isinstance(s, str) else 1))
        return do_truncate(self, s, length, killwords, end, leeway)

    def _sort(self, value: Any, reverse: bool = False, case_sensitive: bool = False, attribute: Any = None) -> Any:
        return do_sort(
            self, self._compared(value, attribute, make_multi_attrgetter), reverse, case_sensitive, attribute
        )

    def _unique(self, value: Any, case_sensitive: bool = False, attribute: Any = None) -> Any:
        return do_unique(self, self._compared(value, attribute, make_attrgetter), case_sensitive, attribute)

    def _compared(self, value: Any, attribute: Any, getter: Any) -> list[Any]:
        """Count what is looked at to put things in order: of objects, only the fields that are named."""
        found = value if isinstance(value, list) else list(value)
        if attribute is None:
            self._weighed(found, 1)
            return found
        if str(attribute).count(".") + str(attribute).count(",") >= _FIELDS_MAX:
            raise ValueError(f"sort and unique take an attribute of at most {_FIELDS_MAX} fields")
        self._spend(len(found))
        fields = getter(self, attribute)
        for one in found:
            self._weighed(fields(one), 1)
        return found

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Look a field up in an object; only the loop variable has attributes of its own."""
        if isinstance(obj, LoopContext):
            return super().getattr(obj, attribute)
        return self.getitem(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Look an element up in an object, list or text, or give what fails when it is used."""
        try:
            if isinstance(obj, (dict, list, str)):
                return obj[argument]
        except (LookupError, TypeError):
            pass
        return self.undefined(obj=obj, name=argument)

    def is_safe_callable(self, obj: Any) -> bool:
        """Nothing can be called from a prompt."""
        return False


_TURNS, _WEIGHED = "turns counted", "weighed"
"""Filters no prompt can name, put around what costs work."""
_LIGHT = ("count", "d", "default", "first", "items", "last", "length", "round", "sort", "truncate", "unique")
"""Filters that look at no more than one item, make nothing of what they get, or count for themselves."""


def counted(node: nodes.Node) -> int:
    """Put the counting of work around whatever can be slow, and give the number of nodes inside."""
    inner = 1 + sum(counted(child) for child in node.iter_child_nodes())
    match node:
        case nodes.For():
            node.iter = _through(node.iter, _TURNS, 1 + inner // 8)
        case nodes.Filter(name=name) if node.node is not None:
            for _ in range(0 if name in _LIGHT else 3 if name == "title" else 1):  # which is slow by the character
                node.node = _through(node.node, _WEIGHED, 16 if name == "trim" else 1)  # which only copies
            if name not in ("d", "default"):
                _count_arguments(node)
        case nodes.Concat():
            node.nodes = [_through(one, _WEIGHED, 1) for one in node.nodes]
        case nodes.Add():
            node.left, node.right = _through(node.left, _WEIGHED, 1), _through(node.right, _WEIGHED, 1)
        case nodes.Compare(expr=left, ops=[nodes.Operand(op="eq" | "ne", expr=right)]) if isinstance(
            left, nodes.Const
        ) or isinstance(right, nodes.Const):
            pass  # No more is looked at than the constant has.
        case nodes.Compare():
            # Comparing is quick by the item: four of them, or 64 characters, are a unit.
            node.expr = _through(node.expr, _WEIGHED, 4)
            for operand in node.ops:
                operand.expr = _through(operand.expr, _WEIGHED, 4)
        case nodes.Test(name="in" | "eq" | "ne"):
            node.node = _through(node.node, _WEIGHED, 4)
            node.args = [_through(one, _WEIGHED, 4) for one in node.args]
    return inner


def _count_arguments(node: nodes.Filter) -> None:
    node.args = [_through(one, _WEIGHED, 1) for one in node.args]
    for pair in node.kwargs:
        pair.value = _through(pair.value, _WEIGHED, 1)
    if node.dyn_args is not None:
        node.dyn_args = _through(node.dyn_args, _WEIGHED, 1)
    if node.dyn_kwargs is not None:
        node.dyn_kwargs = _through(node.dyn_kwargs, _WEIGHED, 1)


def _through(expr: Any, name: str, number: int) -> Any:
    if isinstance(expr, nodes.Const):
        return expr
    return nodes.Filter(expr, name, [nodes.Const(number)], [], None, None, lineno=expr.lineno)


def _tojson(value: Any, indent: int | None = None) -> str:
    if isinstance(value, Undefined):
        return str(value)
    if indent is not None and not 0 <= indent <= 8:
        raise ValueError("tojson takes an indent between 0 and 8")
    if indent is None:
        return json.dumps(value, ensure_ascii=False)
    pieces: list[str] = []
    size = 0
    for piece in json.JSONEncoder(ensure_ascii=False, indent=indent).iterencode(value):
        pieces.append(piece)
        size += len(piece)
        if size > PROMPT_MAX:
            raise ValueError(f"tojson would give more than {PROMPT_MAX} characters")
    return "".join(pieces)


def _trim(value: Any, chars: str | None = None) -> str:
    # Every character of the text is looked for among them.
    if isinstance(chars, str) and len(chars) > _TRIMMED_MAX:
        raise ValueError(f"trim takes off at most {_TRIMMED_MAX} different characters")
    return do_trim(value, chars)


def _round(value: Any, precision: int | None = 0, method: str = "common") -> float:
    # Ten to the power of a precision without bound is computed for ever.
    if precision is not None and not (isinstance(precision, int) and -15 <= precision <= 15):
        raise ValueError("round takes a precision between -15 and 15")
    return do_round(value, precision, method)  # type: ignore[arg-type]  # the method is checked there


def _join(items: Any, separator: str = "") -> str:
    if not isinstance(items, list):
        raise TypeError(f"join needs a list, not {type(items).__name__}")
    texts = [item if isinstance(item, str) else _tojson(item) for item in items]
    if sum(map(len, texts)) + len(separator) * len(texts) > PROMPT_MAX:
        raise ValueError(f"join would give more than {PROMPT_MAX} characters")
    return separator.join(texts)
