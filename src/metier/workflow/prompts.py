"""Prompt files: a system part, a user part, variables from `with`, in a template language that cannot run away."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from jinja2 import StrictUndefined, TemplateError, meta, nodes
from jinja2.filters import do_round
from jinja2.runtime import LoopContext, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from metier.calls import JSON, Message
from metier.errors import Invalid
from metier.workflow.files import language_of
from metier.workflow.shape import Workflow

__all__ = ["PROMPT_MAX", "WORK_MAX", "Prompt", "check", "choose", "messages", "prompt", "variables"]

PROMPT_MAX = 1_000_000
"""Characters a prompt may have once its variables are filled in."""
WORK_MAX = 300_000
"""Units one rendering may spend: a turn of a loop, an item a filter goes through, 16 characters of a text."""
_DEPTH_MAX = 50
_NESTED_LOOPS = 2
_FILTERS = (
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
_TESTS = (
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
_ALLOWED = (
    nodes.Template,
    nodes.Output,
    nodes.TemplateData,
    nodes.For,
    nodes.If,
    nodes.Name,
    nodes.NSRef,
    nodes.Const,
    nodes.List,
    nodes.Tuple,
    nodes.Getattr,
    nodes.Getitem,
    nodes.Filter,
    nodes.Test,
    nodes.Compare,
    nodes.Operand,
    nodes.And,
    nodes.Or,
    nodes.Not,
    nodes.CondExpr,
    nodes.Concat,
    nodes.Add,
    nodes.Sub,
    nodes.Neg,
    nodes.Keyword,
)


@dataclass(frozen=True, slots=True)
class Prompt:
    """What one call to a model says, with every variable filled in."""

    system: str | None
    user: str


class _Environment(ImmutableSandboxedEnvironment):
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
        self.filters.update(tojson=_tojson, join=_join, items=_items, round=_round)
        for name in set(self.filters) - set(_FILTERS):
            del self.filters[name]
        for name in set(self.tests) - set(_TESTS):
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
        elif isinstance(value, (list, dict)):
            pending, seen = [value], 0
            while pending:
                one = pending.pop()
                seen += len(one)
                if seen > self._left * share:
                    break
                for part in one if isinstance(one, list) else one.values():
                    if isinstance(part, str):
                        seen += len(part) // 16
                    elif isinstance(part, (list, dict)):
                        pending.append(part)
            self._spend(seen // share)
        return value

    def _written(self, value: Any) -> Any:
        return self._weighed(value, 1) if isinstance(value, (list, dict)) else value

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
_LIGHT = ("count", "d", "default", "first", "last", "length", "round")
"""Filters that look at no more than one item, or make nothing of what they get."""


def _counted(node: nodes.Node) -> int:
    """Put the counting of work around whatever can be slow, and give the number of nodes inside."""
    inner = 1 + sum(_counted(child) for child in node.iter_child_nodes())
    match node:
        case nodes.For():
            node.iter = _through(node.iter, _TURNS, 1 + inner // 8)
        case nodes.Filter(name=name) if name not in _LIGHT and node.node is not None:
            for _ in range(3 if name == "title" else 1):  # which is slow by the character
                node.node = _through(node.node, _WEIGHED, 1)
            node.args = [_through(one, _WEIGHED, 1) for one in node.args]
        case nodes.Concat():
            node.nodes = [_through(one, _WEIGHED, 1) for one in node.nodes]
        case nodes.Add():
            node.left, node.right = _through(node.left, _WEIGHED, 1), _through(node.right, _WEIGHED, 1)
        case nodes.Compare():
            # Comparing is quick by the item: four of them, or 64 characters, are a unit.
            node.expr = _through(node.expr, _WEIGHED, 4)
            for operand in node.ops:
                operand.expr = _through(operand.expr, _WEIGHED, 4)
        case nodes.Test(name="in" | "eq" | "ne"):
            node.node = _through(node.node, _WEIGHED, 4)
            node.args = [_through(one, _WEIGHED, 4) for one in node.args]
    return inner


def _through(expr: Any, name: str, number: int) -> Any:
    if isinstance(expr, nodes.Const):
        return expr
    return nodes.Filter(expr, name, [nodes.Const(number)], [], None, None, lineno=expr.lineno)


def check(text: str, file: str) -> None:
    """Refuse a prompt file that is not a template of the small language prompts are written in."""
    for part in _parts(text):
        _tree(part, file, _Environment())
    if not _parts(text)[-1].strip():
        raise Invalid(f"{file}:1:1: cannot read the prompt: its user part is empty")


def variables(text: str, file: str) -> frozenset[str]:
    """Name the variables a prompt file uses, all of which must come from `with`."""
    found: set[str] = set()
    for part in _parts(text):
        found |= meta.find_undeclared_variables(_tree(part, file, _Environment()))
    return frozenset(found)


def choose(files: Iterable[str], path: str, language: str | None) -> str:
    """Pick the file of a prompt: its variant in the language, else the file itself, else its English or first one."""
    known = set(files)
    folder = path.rpartition("/")[0]
    variants: dict[str, str] = {}
    for file in sorted(known):
        if file.rpartition("/")[0] == folder and (found := language_of(path, file.rpartition("/")[2])):
            variants[found] = file
    if language in variants:
        return variants[language]
    if path in known:
        return path
    if not variants:
        raise Invalid(f"cannot find the prompt {path!r} among the files of the workflow")
    return variants.get("en") or next(iter(variants.values()))


def prompt(text: str, file: str, with_: Mapping[str, JSON], system: str | None = None) -> Prompt:
    """Fill in a prompt file from the values of `with`; `system` is the text of a file for the system part alone."""
    *before, user = _parts(text)
    parts = [system] if system is not None else []
    parts.extend(before)
    environment = _Environment()
    *filled, last = [_filled(part, file, with_, environment).strip() for part in (*parts, user)]
    return Prompt("\n\n".join(part for part in filled if part) or None, last)


def messages(workflow: Workflow, config: Mapping[str, JSON], with_: Mapping[str, JSON]) -> tuple[Message, ...]:
    """Write the messages of an `llm:` step: system, examples, then the prompt, in the language that `with` names."""
    language = with_.get("language")
    chosen = language if isinstance(language, str) else None
    file = choose(workflow.files, str(config.get("prompt")), chosen)
    system = config.get("system")
    alone = workflow.files[choose(workflow.files, system, chosen)] if isinstance(system, str) else None
    filled = prompt(workflow.files[file], file, with_, alone)
    found = [Message("system", filled.system)] if filled.system else []
    examples = config.get("examples")
    for example in examples if isinstance(examples, list) else ():
        if isinstance(example, dict):
            found.append(Message("user", str(example.get("user"))))
            found.append(Message("assistant", str(example.get("assistant"))))
    return (*found, Message("user", filled.user))


def _parts(text: str) -> tuple[str, ...]:
    """Cut a file at its first line that is only `---`: what is above is for the system message."""
    lines = text.split("\n")
    for number, line in enumerate(lines):
        if line.rstrip() == "---":
            # The empty lines keep the line numbers of the user part those of the file.
            return "\n".join(lines[:number]), "\n" * (number + 1) + "\n".join(lines[number + 1 :])
    return (text,)


def _tree(text: str, file: str, environment: _Environment) -> nodes.Template:
    try:
        tree = environment.parse(text)
    except TemplateError as wrong:
        line = getattr(wrong, "lineno", 1)
        raise Invalid(f"{file}:{line}:1: cannot read the prompt: {wrong.message}") from None
    except (RecursionError, ValueError, OverflowError) as wrong:
        raise Invalid(f"{file}:1:1: cannot read the prompt: {wrong}") from None
    _restrict(tree, file, 0, 0)
    return tree


def _restrict(node: nodes.Node, file: str, loops: int, depth: int) -> None:
    """Allow what only reads: no assignment, call, macro or import, and loops at most two deep."""
    loops += isinstance(node, nodes.For)
    at = f"{file}:{node.lineno or 1}:1"
    if depth > _DEPTH_MAX:
        raise Invalid(f"{at}: cannot put more than {_DEPTH_MAX} things inside one another in a prompt")
    if isinstance(node, nodes.Name) and node.name == "self":
        raise Invalid(f"{at}: cannot use 'self' in a prompt: to Jinja it is the template; give the value another name")
    if not isinstance(node, _ALLOWED) or (isinstance(node, nodes.For) and node.recursive):
        raise Invalid(
            f"{at}: cannot use {type(node).__name__.lower()} in a prompt; prepare the value in `with` or in a code step"
        )
    if loops > _NESTED_LOOPS:
        raise Invalid(f"{at}: cannot put more than {_NESTED_LOOPS} loops inside one another in a prompt")
    if isinstance(node, nodes.Filter) and node.name not in _FILTERS:
        raise Invalid(f"{at}: there is no filter {node.name!r} in prompts; there are {', '.join(_FILTERS)}")
    if isinstance(node, nodes.Test) and node.name not in _TESTS:
        raise Invalid(f"{at}: there is no test {node.name!r} in prompts; there are {', '.join(_TESTS)}")
    for child in node.iter_child_nodes():
        _restrict(child, file, loops, depth + 1)


def _filled(text: str, file: str, with_: Mapping[str, JSON], environment: _Environment) -> str:
    tree = _tree(text, file, environment)
    _counted(tree)
    tree.set_environment(environment)
    pieces: list[str] = []
    size = 0
    try:
        for piece in environment.from_string(tree).generate(dict(with_)):
            pieces.append(piece)
            size += len(piece)
            if size > PROMPT_MAX:
                raise Invalid(
                    f"cannot fill in the prompt {file!r}: more than {PROMPT_MAX} characters; give it less in `with`"
                )
    except TemplateError as wrong:
        raise Invalid(f"cannot fill in the prompt {file!r}: {wrong.message}; it was given {sorted(with_)}") from None
    except (
        TypeError,
        ValueError,
        ArithmeticError,
        LookupError,
        AttributeError,
        AssertionError,
        RecursionError,
    ) as wrong:
        raise Invalid(f"cannot fill in the prompt {file!r}: {wrong}") from None
    return "".join(pieces)


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


def _round(value: Any, precision: int = 0, method: str = "common") -> float:
    # Ten to the power of a precision without bound is computed for ever.
    if not isinstance(precision, int) or not -15 <= precision <= 15:
        raise ValueError("round takes a precision between -15 and 15")
    return do_round(value, precision, method)  # type: ignore[arg-type]  # the method is checked there


def _join(items: Any, separator: str = "") -> str:
    if not isinstance(items, list):
        raise TypeError(f"join needs a list, not {type(items).__name__}")
    texts = [item if isinstance(item, str) else _tojson(item) for item in items]
    if sum(map(len, texts)) + len(separator) * len(texts) > PROMPT_MAX:
        raise ValueError(f"join would give more than {PROMPT_MAX} characters")
    return separator.join(texts)


def _items(value: Any) -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        raise TypeError(f"items needs an object, not {type(value).__name__}")
    return list(value.items())
