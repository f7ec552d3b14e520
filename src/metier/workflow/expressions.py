"""CEL, the only expression language of workflows: evaluate over JSON, decide conditions, fill `{{ }}` templates."""

from __future__ import annotations

import json
from collections.abc import Mapping

from metier.calls import JSON
from metier.errors import Invalid
from metier.workflow.cel import EXPRESSION_MAX, Piece, expressions_in, parse, pieces
from metier.workflow.evaluator import Evaluation
from metier.workflow.functions import FUNCTIONS
from metier.workflow.syntax import Node

__all__ = [
    "EXPRESSION_MAX",
    "Expressions",
    "Piece",
    "evaluate",
    "expressions_in",
    "parse",
    "pieces",
    "render",
]

_CACHE_MAX = 1_000


class Expressions:
    """Evaluates expressions and templates, keeping what it has parsed for the next time."""

    def __init__(self) -> None:
        self._parsed: dict[str, Node] = {}

    def evaluate(self, expr: str, scope: Mapping[str, JSON]) -> JSON:
        """Compute an expression over the variables of `scope`, or raise Invalid saying where it fails."""
        return Evaluation(expr, scope).run(self._node(expr))

    def render(self, template: JSON, scope: Mapping[str, JSON]) -> JSON:
        """Fill the `{{ }}` of every text in a template; a text that is one expression keeps its type."""
        match template:
            case str():
                return self._text(template, scope)
            case list():
                return [self.render(item, scope) for item in template]
            case dict():
                return {key: self.render(value, scope) for key, value in template.items()}
        return template

    def holds(self, expr: str, scope: Mapping[str, JSON]) -> bool:
        """Decide a condition; anything but true or false is Invalid."""
        value = self.evaluate(expr, scope)
        if not isinstance(value, bool):
            raise Invalid(f"cannot decide {expr!r}: it must give true or false, not {type(value).__name__}")
        return value

    def _node(self, expr: str) -> Node:
        node = self._parsed.get(expr)
        if node is None:
            node = parse(expr)
            if len(self._parsed) >= _CACHE_MAX:
                self._parsed.clear()
            self._parsed[expr] = node
        return node

    def _text(self, template: str, scope: Mapping[str, JSON]) -> JSON:
        found = pieces(template)
        if len(found) == 1 and found[0].expression:
            return self.evaluate(found[0].text, scope)
        return "".join(
            _as_text(piece.text, self.evaluate(piece.text, scope)) if piece.expression else piece.text
            for piece in found
        )


def evaluate(expr: str, scope: Mapping[str, JSON]) -> JSON:
    """Compute one expression over the variables of `scope`; use Expressions to do it often."""
    return Expressions().evaluate(expr, scope)


def render(template: JSON, scope: Mapping[str, JSON]) -> JSON:
    """Fill the `{{ }}` of a template once; use Expressions to do it often."""
    return Expressions().render(template, scope)


def _as_text(expr: str, value: JSON) -> str:
    match value:
        case None:
            raise Invalid(
                f"cannot put {expr!r} into a text: it is null; "
                f"write {{{{ {expr} == null ? '' : {expr} }}}} if nothing may stand there"
            )
        case list() | dict():
            return json.dumps(value, ensure_ascii=False)
    return str(FUNCTIONS["string"].run(value))
