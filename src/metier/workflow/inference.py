"""What an expression reads and gives, found from the schemas of inputs and outputs without running it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace

from metier.calls import JSON
from metier.workflow.functions import FUNCTIONS, Unfit
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
from metier.workflow.view import Schema, Severity, View, known_after, path_of, step_id
from metier.workflow.yaml_source import suggest

__all__ = ["Remark", "alike", "give", "types_of", "words"]

_WORDS = {"None": "null", "nil": "null", "undefined": "null", "NULL": "null", "True": "true", "False": "false"}
"""What other languages call null and the truths."""
_NUMBERS = frozenset({"integer", "number"})
_TRIED = dict.fromkeys(("matches", "find", "find_all"), "") | dict.fromkeys(("format_date", "in_zone"), "2026-10-01")
"""What functions are tried with whose other arguments can be wrong in themselves, such as a pattern."""


@dataclass(frozen=True, slots=True)
class Remark:
    """Something wrong, or doubtful, in an expression."""

    code: str
    message: str
    suggestion: str = ""
    severity: Severity = "error"


@dataclass(slots=True)
class _Reading:
    remarks: list[Remark] = field(default_factory=list)

    def say(self, code: str, message: str, suggestion: str = "", severity: Severity = "error") -> None:
        remark = Remark(code, message, suggestion.removeprefix("; "), severity)
        if remark not in self.remarks:
            self.remarks.append(remark)

    def schema(self, node: Node, view: View) -> Schema:
        match node:
            case Constant(value=value):
                return _constant(value)
            case Name(name=name):
                return self._name(name, view)
            case Select():
                return self._select(node, view)
            case Index(target=target, index=index):
                self.schema(index, view)
                whole = self.schema(target, view)
                if isinstance(index, Constant) and isinstance(index.value, str):
                    return self._field(whole, index.value, target, view)
                self._able(whole, {"array", "object", "null"}, "cannot take an element of {}")
                return _items(whole)
            case Function(name=name, arguments=arguments):
                return self._call(name, arguments, view)
            case Comprehension():
                return self._comprehend(node, view)
            case Unary(operator=operator, operand=operand):
                given = self.schema(operand, view)
                if operator == "!":
                    self._boolean(given, "what follows '!'")
                    return {"type": "boolean"}
                self._able(given, _NUMBERS, "cannot negate {}")
                return given
            case Binary():
                return self._binary(node, view)
            case Choice(condition=condition, then=then, otherwise=otherwise):
                self._boolean(self.schema(condition, view), "the condition before '?'")
                yes, no = known_after(condition, view)
                one = self.schema(then, view.knowing(yes))
                two = self.schema(otherwise, view.knowing(no))
                return one if one == two else _either(one, two)
            case ListOf(items=items):
                for item in items:
                    self.schema(item, view)
                return {"type": "array"}
            case MapOf(entries=entries):
                return self._map(entries, view)

    def _name(self, name: str, view: View) -> Schema:
        if name == "steps":
            return {"type": "object"}
        if name not in view.variables:
            mend = f"did you mean {_WORDS[name]}?" if name in _WORDS else suggest(name, [*view.variables, "steps"])
            self.say("unknown-name", f"there is no {name!r} here", mend)
            return {}
        return view.variables[name]

    def _select(self, node: Select, view: View) -> Schema:
        if node.test:
            if not (isinstance(node.target, Name) and node.target.name == "steps"):
                # has() is false, not an error, when something on the way is missing: only names are checked.
                _Reading().schema(node.target, view)
            for name in _names(node.target):
                if name != "steps":
                    self._name(name, view)
            return {"type": "boolean"}
        if isinstance(node.target, Name) and node.target.name == "steps":
            return self._step(node.field, view)
        if isinstance(node.target, Select) and (id := step_id(node.target)) is not None:
            self._not_null(id, node.field, view)
        return self._field(self.schema(node.target, view), node.field, node.target, view)

    def _step(self, id: str, view: View) -> Schema:
        if id in view.racing:
            self.say(
                "race",
                f"'steps.{id}' is in another section of {view.racing[id]!r}, which runs at the same time",
                f"read it after {view.racing[id]!r}, or put both steps into one section",
            )
            return {}
        if id in view.steps:
            return view.steps[id].schema
        if id in view.all_ids:
            self.say(
                "later-step", f"'steps.{id}' comes later, so it cannot be read here", "move the step before this one"
            )
        else:
            self.say("unknown-step", f"there is no step {id!r}", suggest(id, view.steps or view.all_ids))
        return {}

    def _not_null(self, id: str, wanted: str, view: View) -> None:
        seen = view.steps.get(id)
        if seen is None or id in view.racing:
            return
        if seen.never is not None:
            if any(reason.key == f"end {id}" and reason.key in view.facts for reason in seen.reasons):
                return
            self.say("always-null", f"'steps.{id}' is null here: {seen.never}", f"remove 'steps.{id}.{wanted}'")
            return
        open_reasons = [reason for reason in seen.reasons if reason.key not in view.facts]
        if open_reasons:
            self.say(
                "may-be-null",
                f"'steps.{id}' may be null here: {open_reasons[0].text}",
                f"write steps.{id} == null ? … : steps.{id}.{wanted}",
                "warning",
            )

    def _field(self, whole: Schema, name: str, target: Node, view: View) -> Schema:
        types = types_of(whole)
        path = path_of(target)
        if types == {"null"}:
            why = ": this step is in no loop" if path == "loop" else ""
            self.say("always-null", f"{path or 'this value'!r} is null here{why}", f"remove {path or 'it'}.{name}")
            return {}
        if types and not types & {"object", "null"}:
            self.say("no-fields", f"{path or 'this value'!r} is {words(types)}, which has no field {name!r}")
            return {}
        properties = whole.get("properties")
        if not isinstance(properties, dict):
            return {}
        if name not in properties:
            severity: Severity = "error" if whole.get("additionalProperties") is False else "warning"
            self.say(
                "unknown-field", f"{path or 'this value'!r} has no field {name!r}", suggest(name, properties), severity
            )
            return {}
        found = properties[name]
        required = whole.get("required")
        optional = not (isinstance(required, list) and name in required)
        if optional and isinstance(found, dict) and "default" not in found and f"has {path}.{name}" not in view.facts:
            self.say(
                "may-be-missing",
                f"{path + '.' + name!r} may be missing: its schema does not require it",
                f"write has({path}.{name}) ? … : …",
                "warning",
            )
        return found if isinstance(found, dict) else {}

    def _call(self, name: str, arguments: tuple[Node, ...], view: View) -> Schema:
        given = [self.schema(argument, view) for argument in arguments]
        function = FUNCTIONS[name]
        for wanted, schema in zip(function.takes, given, strict=False):
            types, allowed = types_of(schema) - {"null"}, frozenset(wanted.split("|"))
            if wanted and types and not alike(types, allowed):
                self.say("wrong-type", f"{name} needs {_named(allowed)}, and this is {words(types)}")
        constants = [one.value for one in arguments if isinstance(one, Constant)]
        if len(constants) == len(arguments) - 1 and name in _TRIED and not isinstance(arguments[0], Constant):
            constants.insert(0, _TRIED[name])
        if len(constants) == len(arguments):
            try:
                function.run(*constants)
            except Unfit as wrong:
                self.say("wrong-value", f"this call always fails: {wrong}")
        if function.like is not None and given:
            return dict(given[0]) if function.like == "first" else _items(given[0])
        return {"type": function.gives} if function.gives is not None else {}

    def _comprehend(self, node: Comprehension, view: View) -> Schema:
        whole = self.schema(node.target, view)
        types = types_of(whole)
        if types and not types & {"array", "object"}:
            self.say("wrong-type", f"{node.macro} needs a list, and this is {words(types)}")
        element: Schema = {"type": "string"} if types == {"object"} else _items(whole)
        inner = replace(view, variables={**view.variables, node.variable: element})
        if node.condition is not None:
            self._boolean(self.schema(node.condition, inner), "the condition of map")
        body = self.schema(node.body, inner)
        if node.macro == "map":
            return {"type": "array", "items": dict(body)}
        self._boolean(body, f"the condition of {node.macro}")
        return (
            whole
            if node.macro == "filter" and types == {"array"}
            else {"type": "array" if node.macro == "filter" else "boolean"}
        )

    def _map(self, entries: tuple[tuple[Node, Node], ...], view: View) -> Schema:
        properties: dict[str, JSON] = {}
        for key, value in entries:
            self.schema(key, view)
            schema = self.schema(value, view)
            if not (isinstance(key, Constant) and isinstance(key.value, str)):
                return {"type": "object"}
            properties[key.value] = dict(schema)
        return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}

    def _binary(self, node: Binary, view: View) -> Schema:
        left = self.schema(node.left, view)
        if node.operator in ("&&", "||"):
            yes, no = known_after(node.left, view)
            right = self.schema(node.right, view.knowing(yes if node.operator == "&&" else no))
            self._boolean(left, f"what stands before '{node.operator}'")
            self._boolean(right, f"what stands after '{node.operator}'")
            return {"type": "boolean"}
        right = self.schema(node.right, view)
        if node.operator in ("+", "-", "*", "/", "%"):
            return self._arithmetic(node.operator, left, right)
        if node.operator == "in":
            self._able(right, {"array", "object"}, "cannot look for something in {}")
            for item in node.right.items if isinstance(node.right, ListOf) else ():
                self._chosen(left, item, "it is never found")
            return {"type": "boolean"}
        one, two = types_of(left), types_of(right)
        if node.operator in ("==", "!="):
            self._comparable(node, left, right)
        elif one and two and not alike(one - {"null"}, two - {"null"}):
            self.say("wrong-type", f"cannot compare {words(one)} {node.operator} {words(two)}")
        return {"type": "boolean"}

    def _comparable(self, node: Binary, left: Schema, right: Schema) -> None:
        one, two = types_of(left), types_of(right)
        result = "false" if node.operator == "==" else "true"
        if one and two and not alike(one, two) and "null" not in one | two:
            self.say("never-equal", f"{words(one)} {node.operator} {words(two)} is always {result}", severity="warning")
            return
        for schema, other in ((left, node.right), (right, node.left)):
            self._chosen(schema, other, f"the comparison is always {result}")

    def _chosen(self, schema: Schema, other: Node, so: str) -> None:
        choices = schema.get("enum")
        value = other.value if isinstance(other, Constant) else None
        if isinstance(choices, list) and value is not None and value not in choices:
            named = suggest(value, [str(choice) for choice in choices])
            self.say("not-a-choice", f"{value!r} is none of its values, so {so}", named)

    def _able(self, schema: Schema, kinds: Collection[str], wrong: str) -> None:
        types = types_of(schema)
        if types and not types.intersection(kinds):
            self.say("wrong-type", wrong.format(words(types)))

    def _arithmetic(self, operator: str, left: Schema, right: Schema) -> Schema:
        one, two = types_of(left), types_of(right)
        if not one or not two:
            return {}
        if one <= _NUMBERS and two <= _NUMBERS:
            return {"type": "integer" if one == two == {"integer"} else "number"}
        if operator == "+" and one == two and one <= {"string", "array"}:
            return {"type": next(iter(one))}
        if not one & two and not (one & _NUMBERS and two & _NUMBERS):
            self.say(
                "wrong-type",
                f"cannot compute {words(one)} {operator} {words(two)}",
                "convert with string() or double()",
            )
        elif "null" not in one | two and not (one | two) & {"string", "array"} and not (one | two) & _NUMBERS:
            self.say("wrong-type", f"cannot compute {words(one)} {operator} {words(two)}")
        return {}

    def _boolean(self, schema: Schema, what: str) -> None:
        types = types_of(schema)
        if types and "boolean" not in types:
            self.say("not-a-condition", f"{what} is {words(types)}; it must be true or false")


def give(node: Node, view: View) -> tuple[Schema, tuple[Remark, ...]]:
    """Find the schema of what an expression gives at a place, and what is wrong with it there."""
    reading = _Reading()
    schema = reading.schema(node, view)
    return schema, tuple(reading.remarks)


def types_of(schema: Schema) -> frozenset[str]:
    """Name the types a schema allows; empty when it does not say."""
    named = schema.get("type")
    if isinstance(named, str):
        return frozenset({named})
    if isinstance(named, list):
        return frozenset(str(one) for one in named)
    choices = schema.get("enum")
    if isinstance(choices, list):
        return frozenset(name for choice in choices for name in types_of(_constant(choice)))
    if "const" in schema:
        return types_of(_constant(schema["const"]))
    return frozenset()


def _constant(value: JSON) -> Schema:
    match value:
        case None:
            return {"type": "null"}
        case bool():
            return {"type": "boolean"}
        case int():
            return {"type": "integer"}
        case float():
            return {"type": "number"}
        case str():
            return {"type": "string"}
        case list():
            return {"type": "array"}
    return {"type": "object"}


def _items(schema: Schema) -> Schema:
    items = schema.get("items")
    return items if isinstance(items, dict) else {}


def _either(one: Schema, two: Schema) -> Schema:
    types = types_of(one) | types_of(two)
    return {"type": [*sorted(types)]} if types_of(one) and types_of(two) else {}


def alike(one: frozenset[str], two: frozenset[str]) -> bool:
    """Tell whether a value could be of both kinds; numbers are alike, and what is unknown is like anything."""
    return bool(one & two) or bool(one & _NUMBERS and two & _NUMBERS) or not one or not two


def words(types: frozenset[str]) -> str:
    """Name types in a message, in a stable order."""
    return " or ".join(sorted(types))


def _named(types: frozenset[str]) -> str:
    names = {"array": "a list", "object": "a map", "integer": "a whole number"}
    return " or ".join(sorted(names.get(one, f"a {one}") for one in types))


def _names(node: Node) -> Iterator[str]:
    if isinstance(node, Name):
        yield node.name
    for part in inside(node):
        yield from _names(part)
