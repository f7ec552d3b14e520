"""Schema shorthand: what people write, and the JSON Schema it means."""

from __future__ import annotations

import pytest

from metier.calls import JSON
from metier.errors import Invalid
from metier.workflow.shorthand import conform, expand_fields
from metier.workflow.yaml_source import read


def expanded(text: str) -> dict[str, JSON]:
    return expand_fields(read(text, "flow.yaml"), "output")


def test_named_fields_become_a_closed_object() -> None:
    assert expanded("{category: {enum: [a, b]}, confidence: number}") == {
        "type": "object",
        "properties": {"category": {"enum": ["a", "b"]}, "confidence": {"type": "number"}},
        "required": ["category", "confidence"],
        "additionalProperties": False,
    }


@pytest.mark.parametrize(
    ("text", "schema"),
    [
        ("x: string[]", {"type": "array", "items": {"type": "string"}}),
        ("x: string | null", {"type": ["string", "null"]}),
        ("x: string[] | null", {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}]}),
        ("x: any", {}),
        ("x: {type: array, items: string}", {"type": "array", "items": {"type": "string"}}),
        ("x: {type: string, maxLength: 5}", {"type": "string", "maxLength": 5}),
        ("x: {type: object, properties: {a: integer}}", {"type": "object", "properties": {"a": {"type": "integer"}}}),
    ],
)
def test_a_type_is_written_in_a_few_ways(text: str, schema: JSON) -> None:
    properties = expanded(text)["properties"]
    assert isinstance(properties, dict)
    assert properties["x"] == schema


def test_a_field_may_be_called_type() -> None:
    assert expanded("{type: string, name: string}")["required"] == ["type", "name"]


def test_a_question_mark_or_a_default_makes_a_field_optional() -> None:
    assert expanded("{a?: string, b: {type: string, default: fr}, c: string}")["required"] == ["c"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x: strin", "flow.yaml:1:4: output.x has the unknown type 'strin'; did you mean 'string'"),
        ("x: [a, b]", "write {enum: "),
        ("x-y: string", "a field is letters"),
        ("x: {type: string, pattern: '('}", "not a regular expression"),
        ("x: {type: string, minLength: many}", "not JSON Schema at 'properties/x/minLength'"),
        ("x: 3", "must be a text, not 3"),
    ],
)
def test_what_is_not_a_schema_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(Invalid) as caught:
        expanded(text)
    assert message in caught.value.message


def test_values_are_checked_and_defaults_filled_in() -> None:
    schema = expanded("{email: string, language: {type: string, default: fr}, more: {n: {type: integer, default: 2}}}")
    assert conform({"email": "a", "more": {}}, schema, "inputs") == {"email": "a", "language": "fr", "more": {"n": 2}}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, "inputs: missing 'email'"),
        ({"email": 3}, "inputs.email: 3 does not satisfy type: string"),
        ({"email": "a", "emial": "b"}, "unknown 'emial'; did you mean 'email'"),
        ({"email": {"secret": "word"}}, "inputs.email: a dict does not satisfy"),
        ([], "a list does not satisfy"),
    ],
)
def test_a_value_that_does_not_fit_is_named_without_being_repeated(value: JSON, message: str) -> None:
    with pytest.raises(Invalid) as caught:
        conform(value, expanded("email: string"), "inputs")
    assert message in caught.value.message
    assert "word" not in caught.value.message
