"""What an expression reads and gives, found from the schemas of inputs and outputs without running it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from metier.calls import JSON
from metier.workflow.functions import FUNCTIONS, Unfit
from metier.workflow.nulls import allows_null, asked, is_there, mended, of_element, refuses_null, shaped, without_null
from metier.workflow.schema_types import NUMBERS, alike, either, items_of, named, of_value, types_of, words
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

__all__ = ["Remark", "give"]

_WORDS = {"None": "null", "nil": "null", "undefined": "null", "NULL": "null", "True": "true", "False": "false"}
"""What other languages call null and the truths."""
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
    doubted: set[str] = field(default_factory=set)

    def say(self, code: str, message: str, suggestion: str = "", severity: Severity = "error") -> None:
        remark = Remark(code, message, suggestion.removeprefix("; "), severity)
        if remark not in self.remarks:
            self.remarks.append(remark)

    def schema(self, node: Node, view: View) -> Schema:
        """Find what an expression gives at a place, without the null that is ruled out there."""
        found = self._found(node, view)
        return without_null(found) if allows_null(found) and is_there(node, view.facts) else found

    def needed(self, node: Node, view: View, does: str) -> Schema:
        """Find what an expression gives where null would make the run fail, and say so where it may be null."""
        found = self.schema(node, view)
        if (id := step_id(node)) is not None and not is_there(node, view.facts):
            self._not_null(id, "", view)
        if not allows_null(found):
            return found
        sure = without_null(found)
        shown, mend = mended(node, types_of(sure), does)
        if shown not in self.doubted:
            self.say("may-be-null", f"{shown} may be null, and {does} takes no null", mend, "warning")
        self.doubted.add(shown)
        return sure

    def _found(self, node: Node, view: View) -> Schema:
        match node:
            case Constant(value=value):
                return of_value(value)
            case Name(name=name):
                return self._name(name, view)
            case Select():
                return self._select(node, view)
            case Index(target=target, index=index):
                self.needed(index, view, "[…]")
                whole = self.needed(target, view, "[…]")
                if isinstance(index, Constant) and isinstance(index.value, str):
                    return self._field(whole, index.value, target, view)
                self._able(whole, {"array", "object", "null"}, "cannot take an element of {}")
                return items_of(whole)
            case Function(name=name, arguments=arguments):
                return self._call(name, arguments, view)
            case Comprehension():
                return self._comprehend(node, view)
            case Unary(operator=operator, operand=operand):
                given = self.needed(operand, view, f"'{operator}'")
                if operator == "!":
                    self._boolean(given, "what follows '!'")
                    return {"type": "boolean"}
                self._able(given, NUMBERS, "cannot negate {}")
                return given
            case Binary():
                return self._binary(node, view)
            case Choice(condition=condition, then=then, otherwise=otherwise):
                self._boolean(self.needed(condition, view, "a condition"), "the condition before '?'")
                yes, no = known_after(condition, view)
                one = self.schema(then, view.knowing(yes))
                two = self.schema(otherwise, view.knowing(no))
                return one if one == two else either(one, two)
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
        if (id := step_id(node.target)) is None:
            return self._field(self.needed(node.target, view, f"'.{node.field}'"), node.field, node.target, view)
        if not is_there(node.target, view.facts):
            self._not_null(id, f".{node.field}", view)
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
            self.say("always-null", f"'steps.{id}' is null here: {seen.never}", f"remove 'steps.{id}{wanted}'")
            return
        open_reasons = [reason for reason in seen.reasons if reason.key not in view.facts]
        if open_reasons:
            self.say(
                "may-be-null",
                f"'steps.{id}' may be null here: {open_reasons[0].text}",
                f"write steps.{id} == null ? … : steps.{id}{wanted}",
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
        given = [
            self.needed(one, view, name) if refuses_null(name, number) else self.schema(one, view)
            for number, one in enumerate(arguments)
        ]
        function = FUNCTIONS[name]
        for wanted, schema in zip(function.takes, given, strict=False):
            types, allowed = types_of(schema) - {"null"}, frozenset(wanted.split("|"))
            if wanted and types and not alike(types, allowed):
                self.say("wrong-type", f"{name} needs {named(allowed)}, and this is {words(types)}")
        constants = [one.value for one in arguments if isinstance(one, Constant)]
        if len(constants) == len(arguments) - 1 and name in _TRIED and not isinstance(arguments[0], Constant):
            constants.insert(0, _TRIED[name])
        if len(constants) == len(arguments):
            try:
                function.run(*constants)
            except Unfit as wrong:
                self.say("wrong-value", f"this call always fails: {wrong}")
        if function.like is not None and given:
            like = given[0] if function.like == "first" else items_of(given[0])
            return without_null(like) if allows_null(like) else like
        return {"type": function.gives} if function.gives is not None else {}

    def _comprehend(self, node: Comprehension, view: View) -> Schema:
        whole = self.needed(node.target, view, node.macro)
        types = types_of(whole)
        if types and not types & {"array", "object"}:
            self.say("wrong-type", f"{node.macro} needs a list, and this is {words(types)}")
        element: Schema = {"type": "string"} if types == {"object"} else items_of(whole)
        inner = view.naming({node.variable: element}).knowing(of_element(view.facts, node.variable, node.target))
        if node.condition is not None:
            self._boolean(self.needed(node.condition, inner, "a condition"), "the condition of map")
            inner = inner.knowing(known_after(node.condition, inner)[0])
        if node.macro == "map":
            return {"type": "array", "items": dict(self.schema(node.body, inner))}
        self._boolean(self.needed(node.body, inner, "a condition"), f"the condition of {node.macro}")
        if node.macro != "filter":
            return {"type": "boolean"}
        if types != {"array"}:
            return {"type": "array"}
        kept = shaped(element, known_after(node.body, inner)[0], node.variable)
        return whole if kept == element else {**whole, "items": dict(kept)}

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
        does = f"'{node.operator}'"
        if node.operator in ("&&", "||"):
            which = 0 if node.operator == "&&" else 1
            # A side that decides wins even where the other fails: what the right side asks also guards the left.
            left = self.needed(node.left, view.knowing(asked(node.right)[which]), does)
            right = self.needed(node.right, view.knowing(known_after(node.left, view)[which]), does)
            self._boolean(left, f"what stands before '{node.operator}'")
            self._boolean(right, f"what stands after '{node.operator}'")
            return {"type": "boolean"}
        if node.operator in ("==", "!="):
            left, right = self.schema(node.left, view), self.schema(node.right, view)
            self._comparable(node, left, right)
            return {"type": "boolean"}
        left = self.schema(node.left, view) if node.operator == "in" else self.needed(node.left, view, does)
        right = self.needed(node.right, view, does)
        if node.operator in ("+", "-", "*", "/", "%"):
            return self._arithmetic(node.operator, left, right)
        if node.operator == "in":
            self._able(right, {"array", "object"}, "cannot look for something in {}")
            for item in node.right.items if isinstance(node.right, ListOf) else ():
                self._chosen(left, item, "it is never found")
            return {"type": "boolean"}
        one, two = types_of(left), types_of(right)
        if one and two and not alike(one - {"null"}, two - {"null"}):
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
        if one <= NUMBERS and two <= NUMBERS:
            return {"type": "integer" if one == two == {"integer"} else "number"}
        if operator == "+" and one == two and one <= {"string", "array"}:
            return {"type": next(iter(one))}
        if not one & two and not (one & NUMBERS and two & NUMBERS):
            self.say(
                "wrong-type",
                f"cannot compute {words(one)} {operator} {words(two)}",
                "convert with string() or double()",
            )
        elif "null" not in one | two and not (one | two) & {"string", "array"} and not (one | two) & NUMBERS:
            self.say("wrong-type", f"cannot compute {words(one)} {operator} {words(two)}")
        return {}

    def _boolean(self, schema: Schema, what: str) -> None:
        types = types_of(schema)
        if types and "boolean" not in types:
            self.say("not-a-condition", f"{what} is {words(types)}; it must be true or false")


def give(node: Node, view: View, needed: str = "") -> tuple[Schema, tuple[Remark, ...]]:
    """Find the schema of what an expression gives at a place, and what is wrong with it there.

    Where its value must not be null, `needed` says what takes it, such as `a text`.
    """
    reading = _Reading()
    schema = reading.needed(node, view, needed) if needed else reading.schema(node, view)
    return schema, tuple(reading.remarks)


def _names(node: Node) -> Iterator[str]:
    if isinstance(node, Name):
        yield node.name
    for part in inside(node):
        yield from _names(part)
