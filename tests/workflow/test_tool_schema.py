"""Schemas of tools that servers wrote: nothing is fetched for them, none stops an agent, a person may change them."""

from __future__ import annotations

import pathlib
import socket
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metier.calls import JSON
from metier.providers.scripted import ScriptedProvider, asks, says
from metier.store import Store
from metier.workflow.shorthand import conform
from metier.workflow.tool_schema import checkable, moved, problem_of
from tests.workflow.steps.agents import Counted, desk, shop, told


def of(part: JSON, **more: Any) -> dict[str, JSON]:
    return {"type": "object", "properties": {"a": part}, **more}


@pytest.mark.parametrize(
    "schema",
    [
        of({"type": "string", "pattern": "^\\p{L}+$"}),
        of({"type": "text"}),
        of({"$ref": "#/$defs/nothing"}),
        of({"$ref": "other.json"}),
        of({"$dynamicRef": "#node"}),
        of(True),
        {"$ref": "#"},
        {"type": "object", "required": "a"},
        {"patternProperties": {"[": {"type": "integer"}}},
        {"$id": "urn:x", "$schema": "http://json-schema.org/draft-07/schema#"},
    ],
)
def test_what_cannot_be_applied_lets_arguments_through(schema: dict[str, JSON]) -> None:
    assert problem_of({"a": "é"}, schema) is None
    assert conform({"edited": {"a": "é"}}, of({}, properties={"edited": moved(schema, "#/properties/edited")}), "it")


def test_what_can_be_applied_is() -> None:
    schema = of({"$ref": "#/$defs/A~1b"}, **{"$defs": {"A/b": {"type": "integer", "pattern": "\\p{L}"}}})
    assert problem_of({"a": 1}, schema) is None
    assert problem_of({"a": "1"}, schema) == ("a", "'1' is not of type 'integer'")
    # Names of arguments are no keywords, and values no schemas.
    parts: dict[str, Any] = {
        "pattern": {"type": "integer"},
        "$ref": {"enum": [{"$ref": "x"}]},
        "default": {"$ref": "#"},
    }
    odd: dict[str, Any] = {"properties": parts}
    assert checkable(odd) == odd
    assert moved(odd, "#/here")["properties"] == {**parts, "default": {"$ref": "#/here"}}


def test_nothing_is_fetched() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/schema"
        assert problem_of({"a": 1}, of({"$ref": address})) is None
        with pytest.raises(TimeoutError):
            server.accept()


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.sampled_from(["object", "#", "#/properties/a", "[", "x", ""]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["type", "$ref", "properties", "a", "items", "pattern", "anyOf", "$defs", "$id", "enum", "not"]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_no_schema_stops_anybody(schema: JSON) -> None:
    whole: dict[str, JSON] = schema if isinstance(schema, dict) else {"properties": schema}
    problem_of({"a": [{"a": 1}, "x"]}, whole)
    moved(whole, "#/properties/edited")


async def test_a_person_changes_arguments_of_a_schema_with_definitions(store: Store, tmp_path: pathlib.Path) -> None:
    schema = of(
        {"$ref": "#/$defs/Item"}, **{"$defs": {"Item": {"type": "object", "properties": {"n": {"type": "integer"}}}}}
    )
    pay = Counted("bank.pay", "Pays.", schema, "paid")
    provider = ScriptedProvider(asks("bank_pay", {"a": {"n": "one"}}), asks("bank_pay", {"a": {"n": 1}}), says("Two."))
    async with shop(store, tmp_path, provider, more={"bank.pay": pay}) as s:
        run = await s.play(desk({"tools": ["bank.pay"], "approve": ["bank.pay"]}))
        assert "do not fit the schema of bank_pay at a/n" in told(provider)[-1][1]
        run = await s.decide(run, {"decision": "approve", "edited": {"a": {"n": 2}}})
        assert (run.status, pay.calls) == ("done", [{"a": {"n": 2}}])
