"""Schemas that others wrote take a bounded work to apply, and mean what they say where they can be applied."""

from __future__ import annotations

from typing import Any

import pytest

from metier.calls import JSON
from metier.errors import Invalid
from metier.workflow.context import fits
from metier.workflow.tool_check import Overdone, faults, reads
from metier.workflow.tool_schema import checkable, fits_tool, moved, problem_of

HOSTILE = "a" * 60 + "!"


def of(part: JSON, **more: Any) -> dict[str, JSON]:
    return {"type": "object", "properties": {"a": part}, **more}


def ladder(steps: int) -> dict[str, JSON]:
    """A schema that applies itself twice at each step."""
    defs: dict[str, JSON] = {f"s{n}": {"allOf": [{"$ref": f"#/$defs/s{n + 1}"}] * 2} for n in range(steps)}
    return {"$defs": {**defs, f"s{steps}": {"type": "object"}}, "$ref": "#/$defs/s0"}


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (of({"pattern": "^(a+)+$"}), {"a": HOSTILE}),
        (of({"pattern": "^(a|a)*$"}), {"a": HOSTILE}),
        ({"patternProperties": {"^(a+)+$": False}}, {HOSTILE: 1}),
        ({"patternProperties": {"^(a+)+$": True}, "additionalProperties": False}, {HOSTILE: 1}),
        ({"patternProperties": {"^(a+)+$": True}, "unevaluatedProperties": False}, {HOSTILE: 1}),
        ({"propertyNames": {"pattern": "^(a+)+$"}}, {HOSTILE: 1}),
        (of({"pattern": "(a?){200}(x|y|z|a){0,300}b"}), {"a": "a" * 1_000_000}),
        (ladder(50), {}),
        (of({"uniqueItems": True}), {"a": [{"n": n} for n in range(100_000)]}),
        ({"allOf": [{"pattern": "^(a+)+$"}] * 10_000}, {"a": "x"}),
    ],
)
def test_no_schema_keeps_a_worker_busy(schema: dict[str, JSON], value: dict[str, JSON]) -> None:
    problem_of(value, schema)
    moved(schema, "#/properties/edited")
    fits(value, moved(schema, "#"), "what was edited")
    try:
        fits_tool(value, schema, "what it was given")
    except Invalid as refused:
        assert HOSTILE not in str(refused)


def test_what_takes_too_much_work_is_let_through_and_costs_little() -> None:
    with pytest.raises(Overdone):
        faults({}, ladder(50))
    assert checkable(ladder(50)) == {"type": "object"}
    assert faults({}, ladder(3)) == []


@pytest.mark.parametrize(
    ("pattern", "fits_it", "does_not"),
    [
        ("^(a+)+$", "aaa", "aab"),
        (r"^[\w.-]+@\w+$", "zoé.müller@été", "zoé müller"),
        (r"^\d{2}\s\d$", "12\u00a03", "1x 3"),
        (r"^\p{Lu}", "Éric", "éric"),
        (r"^\u00e9$", "é", "e"),
        (r"^[^\]\w]\\w$", r"-\w", "-a"),
    ],
)
def test_patterns_mean_what_they_say(pattern: str, fits_it: str, does_not: str) -> None:
    assert problem_of({"a": fits_it}, of({"pattern": pattern})) is None
    found = problem_of({"a": does_not}, of({"pattern": pattern}))
    assert found is not None and found[0] == "a"


def test_patterns_that_are_not_read_are_left_to_whoever_wrote_them() -> None:
    assert not reads("(?=a)a") and not reads(r"(a)\1") and not reads("a" * 1_001) and reads("a" * 1_000)
    assert problem_of({"a": "b"}, of({"pattern": "(?=a)a"})) is None
    # A name that a pattern of another language may mean is not refused for it.
    names: dict[str, JSON] = {"properties": {}, "patternProperties": {"^(?!x-)": {}}, "additionalProperties": False}
    assert problem_of({"a": 1}, names) is None
    fits({"edited": {"a": 1}}, of({}, properties={"edited": moved(names, "#/properties/edited")}), "it")


def test_names_are_refused_as_before() -> None:
    closed: dict[str, JSON] = {
        "properties": {"a": {}},
        "patternProperties": {"^x-": {"type": "integer"}},
        "additionalProperties": False,
    }
    assert problem_of({"a": 1, "x-b": 2}, closed) is None
    assert problem_of({"x-b": "2"}, closed) == ("x-b", "'2' is not of type 'integer'")
    found = problem_of({"b": 1}, closed)
    assert found is not None and "'b' was unexpected" in found[1]
    with pytest.raises(Invalid, match="what it gave does not fit its schema at a: expected type 'integer'"):
        fits_tool({"a": "1"}, of({"type": "integer"}), "what it gave")


UNREAD = "^(?=b)b"
RIGHT: list[tuple[dict[str, JSON], JSON]] = [
    (of({"not": {"pattern": UNREAD}}), "a"),
    (of({"not": {"pattern": "^x"}}), "a" * 20_000),
    (of({"oneOf": [{"pattern": UNREAD}, {"pattern": "^(?!b)"}]}), "a"),
    (of({"oneOf": [{"pattern": "^[0-9]+$"}, {"pattern": "^[a-z]+$"}]}), "a"),
    (of({"oneOf": [{"$ref": "https://elsewhere.example/schema"}, {"type": "string"}]}), "a"),
    (of({"oneOf": [{"properties": {n: {}}, "unevaluatedProperties": False} for n in ("b", "c")]}), {"b": 1}),
    (of({"if": {"pattern": UNREAD}, "then": {"minLength": 9}}), "a"),
    (of({"if": {"pattern": "^b"}, "then": {"minLength": 9}}), "a"),
    (of({"contains": {"pattern": UNREAD}, "maxContains": 1}), ["b", "c", "d"]),
    (of({"not": {"uniqueItems": True}}), [1, 1]),
    (of({"not": {"$ref": "#/$defs/b"}}, **{"$defs": {"b": {"pattern": UNREAD}}}), "a"),
    (of({"pattern": r"^[\w-~]+$"}), "a-b"),
    (of({"pattern": r"^[^\W]+$"}), "éa"),
    (of({"pattern": r"^\bé"}), "é"),
    (of({"pattern": "^a{,3}$"}), "aa"),
]


@pytest.mark.parametrize(("schema", "value"), RIGHT)
def test_what_cannot_be_applied_refuses_nothing(schema: dict[str, JSON], value: JSON) -> None:
    given: dict[str, JSON] = {"a": value}
    assert problem_of(given, schema) is None
    fits_tool(given, schema, "what it was given")
    fits({"edited": given}, of({}, properties={"edited": moved(schema, "#/properties/edited")}), "what was edited")


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ({"not": {"pattern": "^x"}}, "xa"),
        ({"oneOf": [{"pattern": "^a"}, {"pattern": "a$"}, {"pattern": UNREAD}]}, "a"),
        ({"oneOf": [{"type": "integer"}, {"type": "null"}]}, "a"),
        ({"if": {"pattern": "^x"}, "then": {"minLength": 9}, "else": {"minLength": 3}}, "a"),
        ({"if": {"pattern": "^x"}, "then": {"minLength": 9}}, "xa"),
        ({"contains": {"const": 1}, "maxContains": 1}, [1, 1]),
        ({"contains": {"const": 1}, "minContains": 2}, [1, 2]),
    ],
)
def test_what_can_be_applied_refuses_as_before(part: dict[str, JSON], value: JSON) -> None:
    with pytest.raises(Invalid, match="at a"):
        fits_tool({"a": value}, of(part), "what it was given")


OLD: dict[str, JSON] = {"$schema": "http://json-schema.org/draft-07/schema#", "pattern": "^(a+)+$"}
FAR: dict[str, JSON] = {"$ref": "http://192.0.2.1/schema", "$dynamicRef": "http://192.0.2.1/schema"}


@pytest.mark.parametrize(
    "schema",
    [
        of(OLD),
        of({"$ref": "#/default"}, default=OLD),
        of(FAR),
        of({"$ref": "#/default"}, default=FAR),
        of({"$id": "http://192.0.2.1/", "$ref": "#/$defs/b"}, **{"$defs": {"b": {}}}),
        of({"$ref": "#/x-b"}, **{"x-b": {"properties": 5, "pattern": 5}}),
    ],
)
def test_no_schema_brings_back_patterns_or_other_machines(schema: dict[str, JSON]) -> None:
    problem_of({"a": HOSTILE}, schema)
    fits({"edited": {"a": HOSTILE}}, of({}, properties={"edited": moved(schema, "#/properties/edited")}), "it")
    if "x-b" not in schema:
        try:
            fits_tool({"a": HOSTILE}, schema, "what it was given")
        except Invalid as refused:
            assert HOSTILE not in str(refused)
