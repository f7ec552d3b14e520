"""The text of CEL: where expressions stand in a template, and the tree each one is read into."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from metier.calls import JSON
from metier.deferred import deferred
from metier.errors import Invalid
from metier.workflow.cel_meant import meant, nearest, shown
from metier.workflow.functions import FUNCTIONS, INT_MAX, INT_MIN
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
)

if TYPE_CHECKING:
    import lark
    from celpy import celparser
else:
    lark = deferred("lark")
    celparser = deferred("celpy.celparser")

__all__ = ["EXPRESSION_MAX", "Piece", "expressions_in", "parse", "pieces", "texts_in"]

EXPRESSION_MAX = 2_000
"""Characters of one expression."""
_NESTING_MAX = 60
_OPERATORS: Mapping[str, Any] = {
    "relation_lt": "<",
    "relation_le": "<=",
    "relation_gt": ">",
    "relation_ge": ">=",
    "relation_eq": "==",
    "relation_ne": "!=",
    "relation_in": "in",
    "addition_add": "+",
    "addition_sub": "-",
    "multiplication_mul": "*",
    "multiplication_div": "/",
    "multiplication_mod": "%",
    "conditionalor": "||",
    "conditionaland": "&&",
}
_MACROS = ("all", "exists", "exists_one", "map", "filter")
_ESCAPE = re.compile(
    r"\\(?:([abfnrtv\"'`?\\])|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-3][0-7]{2})|(.?))"
)
_PLAIN_ESCAPES: Mapping[str, str] = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


class _Wrong(Exception):
    def __init__(self, message: str, at: int) -> None:
        super().__init__(message)
        self.message = message
        self.at = at


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a template text: plain text, or an expression between double braces."""

    text: str
    expression: bool
    at: int
    """Where it begins in the template, in characters."""


def parse(expr: str) -> Node:
    """Read a CEL expression into its tree, or raise Invalid with the character that is wrong."""
    if len(expr) > EXPRESSION_MAX:
        raise Invalid(
            f"cannot read the expression {expr[:40] + '…'!r}: it has {len(expr)} characters, "
            f"more than {EXPRESSION_MAX}; move the computation to a code step"
        )
    try:
        guarded = _guarded(expr)
        return _Builder(guarded).node(celparser.CELParser().parse(guarded), 0)
    except celparser.CELParseError as wrong:
        at = _offset(expr, wrong.line, wrong.column)
        said = f"not CEL{meant(expr, at)}"
        raise Invalid(f"cannot read the expression {shown(expr, at)} at character {at + 1}: {said}") from None
    except _Wrong as wrong:
        said = f"{shown(expr, wrong.at)} at character {wrong.at + 1}: {wrong.message}"
        raise Invalid(f"cannot read the expression {said}") from None


def pieces(template: str) -> tuple[Piece, ...]:
    """Cut a template text into plain text and expressions; braces inside CEL strings and maps do not count."""
    found: list[Piece] = []
    start = 0
    while (opened := template.find("{{", start)) >= 0:
        if opened > start:
            found.append(Piece(template[start:opened], False, start))
        closed = _closing(template, opened + 2)
        if closed is None:
            raise Invalid(
                f"cannot read the template {template[:80]!r}: '{{{{' at character {opened + 1} is never closed"
            )
        found.append(Piece(template[opened + 2 : closed].strip(), True, opened + 2))
        start = closed + 2
    if start < len(template) or not found:
        found.append(Piece(template[start:], False, start))
    return tuple(found)


def expressions_in(template: JSON, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield every expression of a template with the path of the text it stands in."""
    for place, text in texts_in(template, path):
        for piece in pieces(text):
            if piece.expression:
                yield place, piece.text


def texts_in(template: JSON, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield every text of a template with its path, as `expressions_in` writes it."""
    match template:
        case str():
            yield path, template
        case list():
            for position, item in enumerate(template):
                yield from texts_in(item, f"{path}/{position}")
        case dict():
            for key, value in template.items():
                yield from texts_in(value, f"{path}/{key}")


def _closing(template: str, start: int) -> int | None:
    """Find the `}}` that ends the expression starting at `start`."""
    depth, position = 0, start
    while position < len(template):
        character = template[position]
        if character in "\"'":
            position = _string_end(template, position)
        elif character in "{":
            depth += 1
        elif character == "}" and depth:
            depth -= 1
        elif template.startswith("}}", position):
            return position
        position += 1
    return None


def _string_end(text: str, opened: int) -> int:
    """Find the quote that closes a CEL string; the end of the text when there is none."""
    raw = (
        opened > 0
        and text[opened - 1] in "rR"
        and not (opened > 1 and (text[opened - 2].isalnum() or text[opened - 2] == "_"))
    )
    position = opened + 1
    while position < len(text) and text[position] != text[opened]:
        position += 2 if text[position] == "\\" and not raw else 1
    return position


def _guarded(expr: str) -> str:
    """Refuse what the grammar's lexer reads badly: with an open string its pattern takes exponential time."""
    depth, position = 0, 0
    kept: list[str] = []
    while position < len(expr):
        character, start = expr[position], position
        if character in "\"'":
            if expr.startswith(character * 3, position):
                raise _Wrong("strings in triple quotes are not supported; use one quote", position)
            end = _string_end(expr, position)
            if end >= len(expr):
                raise _Wrong("the string is never closed", position)
            if position and expr[position - 1] in "rR" and expr[end - 1] == "\\":
                raise _Wrong("a raw string cannot end in a backslash", position)
            position = end
        elif character in "([{":
            depth += 1
            if depth > _NESTING_MAX:
                raise _Wrong(f"more than {_NESTING_MAX} levels of brackets", position)
        elif character in ")]}":
            depth -= 1
        elif expr.startswith("//", position):
            raise _Wrong("comments are not supported inside an expression; put them in YAML", position)
        position += 1
        # YAML turns "\n" in double quotes into a real line break, which CEL does not allow inside a string.
        piece = expr[start:position]
        kept.append(piece if len(piece) == 1 else piece.replace("\n", "\\n").replace("\r", "\\r"))
    return "".join(kept)


def _offset(expr: str, line: object, column: object) -> int:
    if not isinstance(line, int) or not isinstance(column, int) or line < 1:
        return len(expr)
    starts = [0, *(found.end() for found in re.finditer("\n", expr))]
    return min(starts[min(line, len(starts)) - 1] + max(column, 1) - 1, len(expr))


class _Builder:
    """Turns the tree of the grammar into ours: one node per operation, none for empty levels."""

    def __init__(self, text: str) -> None:
        self._text = text

    def node(self, tree: Any, depth: int) -> Node:
        """Build the node of one grammar tree; levels that only hold another one are passed through."""
        if depth > 2 * _NESTING_MAX:
            raise _Wrong("too many operations in one another; split it over several steps", 0)
        while isinstance(tree, lark.Tree) and len(tree.children) == 1 and tree.data in _PASSED:
            tree = tree.children[0]
        at = _start(tree)
        kind, parts = str(tree.data), tree.children
        if kind in ("conditionalor", "conditionaland"):
            # `a || b` is conditionalor(conditionalor(a), conditionaland(b)) in this grammar, however it is labelled.
            return Binary(
                _OPERATORS[kind], self.node(_operand(parts[0]), depth + 1), self.node(parts[1], depth + 1), at
            )
        if kind in ("relation", "addition", "multiplication"):
            operator = _OPERATORS[str(parts[0].data)]
            # The grammar takes `not inputs.n` for `not in puts.n`.
            right = _start(parts[1])
            if operator == "in" and re.match(r"in\w", self._text[right - 2 : right + 1]):
                raise _Wrong(f"not CEL{meant(self._text, right - 2)}", right - 2)
            return Binary(operator, self.node(_operand(parts[0]), depth + 1), self.node(parts[1], depth + 1), at)
        if kind == "expr":
            condition, then, otherwise = (self.node(part, depth + 1) for part in parts)
            return Choice(condition, then, otherwise, at)
        if kind == "unary":
            return Unary("!" if parts[0].data == "unary_not" else "-", self.node(parts[1], depth + 1), at)
        if kind == "member_dot":
            return Select(self.node(parts[0], depth + 1), str(parts[1]), parts[1].start_pos)
        if kind == "member_index":
            return Index(self.node(parts[0], depth + 1), self.node(parts[1], depth + 1), at)
        if kind == "ident":
            return Name(str(parts[0]), at)
        if kind == "literal":
            return Constant(_literal(parts[0]), at)
        if kind in ("member_dot_arg", "ident_arg"):
            return self._call(tree, depth, at)
        if kind == "list_lit":
            return ListOf(self._each(parts, depth), at)
        if kind == "map_lit":
            flat = self._each(parts, depth)
            return MapOf(tuple(zip(flat[::2], flat[1::2], strict=True)), at)
        raise _Wrong("this part of CEL is not supported", at)

    def _each(self, parts: list[Any], depth: int) -> tuple[Node, ...]:
        return tuple(self.node(part, depth + 1) for part in (parts[0].children if parts else ()))

    def _call(self, tree: Any, depth: int, at: int) -> Node:
        method = tree.data == "member_dot_arg"
        token = tree.children[1 if method else 0]
        name, place = str(token), token.start_pos
        parts = list(tree.children[2 if method else 1 :])
        target = self.node(tree.children[0], depth + 1) if method else None
        arguments = self._each(parts, depth)
        if name == "has" and target is None:
            if len(arguments) != 1 or not isinstance(arguments[0], Select):
                raise _Wrong("has() asks for one field, as in has(steps.grade.score)", place)
            return Select(arguments[0].target, arguments[0].field, arguments[0].at, test=True)
        if name in _MACROS and target is not None:
            return _comprehension(name, target, arguments, place)
        if name not in FUNCTIONS:
            raise _Wrong(f"there is no function {name!r}{nearest(name, _MACROS)}", place)
        given = arguments if target is None else (target, *arguments)
        function = FUNCTIONS[name]
        if not function.least <= len(given) <= function.most:
            wanted = str(function.least) if function.least == function.most else f"{function.least} to {function.most}"
            raise _Wrong(f"{name} takes {wanted} argument(s), {len(given)} given", place)
        return Function(name, given, place if method else at)


_PASSED = (
    "expr",
    "conditionalor",
    "conditionaland",
    "relation",
    "addition",
    "multiplication",
    "unary",
    "member",
    "primary",
    "paren_expr",
)


def _operand(tree: Any) -> Any:
    """Take the left side out of `addition_add(left)` and its like."""
    return tree.children[0] if str(tree.data) in _OPERATORS and len(tree.children) == 1 else tree


def _start(tree: Any) -> int:
    position = getattr(tree.meta, "start_pos", 0) if isinstance(tree, lark.Tree) else tree.start_pos
    return int(position or 0)


def _comprehension(name: Any, target: Node, arguments: tuple[Node, ...], at: int) -> Node:
    wanted = (2, 3) if name == "map" else (2,)
    if len(arguments) not in wanted or not isinstance(arguments[0], Name):
        raise _Wrong(f"{name} is written list.{name}(x, expression over x)", at)
    condition = arguments[1] if len(arguments) == 3 else None
    return Comprehension(name, target, arguments[0].name, condition, arguments[-1], at)


def _literal(token: Any) -> bool | int | float | str | None:
    text, at = str(token), int(token.start_pos or 0)
    match token.type:
        case "NULL_LIT":
            return None
        case "BOOL_LIT":
            return text == "true"
        case "INT_LIT":
            number = int(text, 16 if "x" in text else 10)
            if not INT_MIN <= number <= INT_MAX:
                raise _Wrong("the whole number does not fit in 64 bits", at)
            return number
        case "FLOAT_LIT":
            amount = float(text)
            if amount in (float("inf"), float("-inf")):
                raise _Wrong("the number is too large", at)
            return amount
        case "STRING_LIT":
            return text[2:-1] if text[0] in "rR" else _unescaped(text[1:-1], at)
    raise _Wrong("unsigned numbers and bytes are not supported; JSON has neither", at)


def _unescaped(text: str, at: int) -> str:
    def character(found: re.Match[str]) -> str:
        plain, two, four, eight, octal, wrong = found.groups()
        if wrong is not None:
            raise _Wrong(f"{found[0]!r} is not an escape; write '\\\\\\\\' for a backslash", at + found.start())
        if plain is not None:
            return _PLAIN_ESCAPES.get(plain, plain)
        code = int(octal, 8) if octal else int(two or four or eight, 16)
        if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
            raise _Wrong(f"{found[0]!r} is not a character", at + found.start())
        return chr(code)

    return _ESCAPE.sub(character, text)
