"""Whatever bytes or structures the language is given, it answers or says what is wrong; it never hangs."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metier.calls import JSON
from metier.errors import MetierError
from metier.workflow import prompts, rules
from metier.workflow.cel import parse as parse_expression
from metier.workflow.definition import conform, from_data, parse, to_data
from metier.workflow.evaluator import WORK_LIMIT
from metier.workflow.expressions import evaluate, render
from metier.workflow.files import Given
from metier.workflow.grammar import FLOW_KEYS, MODIFIERS
from metier.workflow.kinds import KIND_KEYS
from metier.workflow.lint import lint
from metier.workflow.yaml_source import decode, read

QUICK = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
VALUES: st.SearchStrategy[Any] = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
WORDS = st.sampled_from(
    [
        *"()[]{}.,?:!<>=+-*/%&|'\"\\\n ",
        "steps",
        "inputs",
        "a",
        "b",
        "==",
        "&&",
        "||",
        "in",
        "null",
        "true",
        "'x'",
        "1",
        "2.5",
    ]
    + [
        "-9223372036854775808",
        "has(",
        "size(",
        "map(x,",
        "all(x,",
        ".a",
        "[0]",
        "{{",
        "}}",
        "r'",
        "0x",
        "1e9",
        "matches(",
    ]
    + ["round(", "money(", "timestamp(", "duration(", "join(", "é", "\\u00", "//"]
)
EXPRESSIONS = (
    st.lists(WORDS, max_size=14).map(" ".join) | st.lists(WORDS, max_size=14).map("".join) | st.text(max_size=30)
)
SCOPE: dict[str, JSON] = {
    "inputs": {"a": [1, "x", None]},
    "steps": {"a": None, "b": {"a": 1.5}},
    "a": "text",
    "b": [[1], [2]],
}
ATOMS = st.sampled_from(
    ["1", "2.5", "'x'", "true", "null", "a", "b", "x", "steps.a", "steps.b.a", "inputs.a", "inputs", "[1, 2]"]
    + ["inputs.u", "inputs['u']", "inputs.u != null", "inputs.m.n", "has(inputs.m.n)", "inputs.l", "x != null"]
)
VALID: st.SearchStrategy[str] = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.tuples(
            inner, st.sampled_from(["==", "!=", "<", "<=", ">", ">=", "in", "+", "-", "*", "/", "%", "&&", "||"]), inner
        ).map("({0[0]} {0[1]} {0[2]})".format),
        st.tuples(inner, inner, inner).map("({0[0]} ? {0[1]} : {0[2]})".format),
        st.tuples(inner, st.sampled_from(["map", "filter", "all", "exists"]), inner).map(
            "({0[0]}).{0[1]}(x, {0[2]})".format
        ),
        st.tuples(
            st.sampled_from(["size", "string", "int", "double", "lower", "round", "date", "money", "type", "max"]),
            inner,
        ).map("{0[0]}({0[1]})".format),
        inner.map("(!{})".format),
        inner.map("(-{})".format),
        inner.map("has(({}).a)".format),
        inner.map("({}).a".format),
        inner.map("({})[0]".format),
        inner.map("{{'k': {}}}".format),
    ),
    max_leaves=8,
)
NULLABLE = {
    "type": "object",
    "properties": {
        "a": {"type": "array", "items": {"type": "string"}},
        "u": {"type": ["string", "null"]},
        "m": {"anyOf": [{"type": "object", "properties": {"n": {"enum": [1, None]}}}, {"type": "null"}]},
        "l": {"type": ["array", "null"], "items": {"type": ["integer", "null"]}},
    },
    "required": ["a", "u", "l"],
}
KEYS = st.sampled_from([*KIND_KEYS, *MODIFIERS, *FLOW_KEYS, "id", "else", "max", "prompt", "model", "collection"])
PARTS: st.SearchStrategy[Any] = st.recursive(
    LEAVES
    | EXPRESSIONS.map(lambda text: "{{ " + text + " }}")
    | st.sampled_from(["p.md", "group:a", "x@1", "a.b", "1h"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=20,
)
STEPS = st.lists(
    st.fixed_dictionaries({}, optional=dict.fromkeys(("id", *KIND_KEYS, *MODIFIERS), PARTS | EXPRESSIONS)), max_size=3
)
FLOWS = st.fixed_dictionaries(
    {"flow": st.just("x"), "schema": st.just(1), "steps": STEPS},
    optional={"inputs": PARTS, "output": PARTS, "tests": PARTS, "defaults": PARTS, "budget": PARTS},
)


def whole(text: str) -> None:
    """Take a text through everything that is done to a workflow before it runs."""
    try:
        workflow = parse(text, {"p.md": "{{ a }}"})
    except MetierError:
        return
    lint(workflow)
    assert from_data(json.loads(json.dumps(to_data(workflow)))) == workflow


@QUICK
@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    try:
        text = decode(data, "flow.yaml")
    except MetierError:
        return
    whole(text)


@QUICK
@given(st.text(alphabet="ab:-[]{}&*!|>'\"\n\t #%@,?~0", max_size=80))
def test_any_yaml(text: str) -> None:
    whole(text)


@QUICK
@given(FLOWS | PARTS)
def test_any_structure(structure: object) -> None:
    whole(yaml.safe_dump(structure, sort_keys=False, allow_unicode=True))


@QUICK
@given(EXPRESSIONS)
def test_any_expression(expr: str) -> None:
    try:
        value = evaluate(expr, SCOPE)
    except MetierError:
        return
    assert json.loads(json.dumps(value, allow_nan=False)) == value


@QUICK
@given(VALID)
def test_any_expression_that_can_be_read(expr: str) -> None:
    parse_expression(expr)
    try:
        evaluate(expr, SCOPE)
    except MetierError as wrong:
        assert repr(expr) in wrong.message


@QUICK
@given(VALID, VALID, VALID, PARTS)
def test_any_expressions_in_a_workflow(one: str, two: str, three: str, output: object) -> None:
    flow = {
        "flow": "x",
        "schema": 1,
        "inputs": NULLABLE,
        "steps": [
            {"id": "a", "when": one, "tool": "t", "with": {"v": "{{ " + two + " }}"}, "output": {"a": "integer"}},
            {"id": "s", "switch": [{"when": three, "steps": [{"id": "b", "tool": "t", "output": {"a?": "string"}}]}]},
            {
                "id": "l",
                "loop": {"max": 2, "until": one, "keep": two},
                "steps": [{"id": "c", "code": "f", "with": {"v": "{{ " + one + " }}"}}],
            },
            {"id": "h", "human": {"assign": "group:g", "title": "{{ " + one + " }} t", "show": [two], "edit": three}},
        ],
        "output": {"v": "{{ " + three + " }}"},
    }
    workflow = parse(yaml.safe_dump(flow), {})
    for finding in lint(workflow):
        assert str(finding).startswith("flow.yaml:")
    whole(yaml.safe_dump({**flow, "output": output}))


@QUICK
@given(PARTS)
def test_any_template(template: Any) -> None:
    with suppress(MetierError):
        render(template, SCOPE)


@QUICK
@given(EXPRESSIONS, VALUES)
def test_any_value_in_the_scope(expr: str, value: Any) -> None:
    with suppress(MetierError):
        evaluate(expr, {"inputs": value, "steps": value, "a": value, "b": value})


@QUICK
@given(
    st.lists(
        st.sampled_from(
            [
                "{{",
                "}}",
                "{%",
                "%}",
                "for",
                "in",
                "if",
                "endif",
                "endfor",
                "a",
                "|",
                "join",
                "(",
                ")",
                ".",
                "---",
                "\n",
                " ",
            ]
        )
    )
)
def test_any_prompt(words: list[str]) -> None:
    for text in (" ".join(words), "".join(words)):
        with suppress(MetierError):
            prompts.check(text, "p.md")
            prompts.prompt(text, "p.md", {"a": [{"a": "x"}]})


@QUICK
@given(
    st.fixed_dictionaries({}, optional=dict.fromkeys(("rules", "version", "inputs", "outputs", "rows", "hit"), PARTS)),
    VALUES,
)
def test_any_decision_table(table: object, asked: Any) -> None:
    with suppress(MetierError):
        rules.decide(rules.read(yaml.safe_dump(table), "t.yaml"), asked)


@QUICK
@given(PARTS, VALUES)
def test_any_schema(schema: object, value: Any) -> None:
    with suppress(MetierError):
        workflow = parse(yaml.safe_dump({"flow": "x", "schema": 1, "inputs": schema, "steps": [{"end": "a"}]}), {})
        conform(value, workflow.inputs, "inputs")


@QUICK
@given(st.dictionaries(st.sampled_from(["format", "name", "steps", "inputs", "files", "tests", "hash"]), VALUES))
def test_any_pinned_copy(data: dict[str, Any]) -> None:
    with pytest.raises(MetierError):
        from_data({**data, "source": None})


@pytest.mark.parametrize(
    "text", ["[" * 200_000, "{a: " * 60_000, "- " * 100_000, "a: b: " * 40_000, "'" * 200_001, "? " * 100_000]
)
def test_hostile_yaml_is_refused_soon(text: str) -> None:
    with pytest.raises(MetierError):
        read(text, "flow.yaml")


@pytest.mark.parametrize(
    "expr",
    [
        "'" + "\\n" * 900,
        "r'" + "\\" * 900,
        "(" * 900,
        "!" * 1900,
        "-" * 1900,
        "a." * 900,
        "a?b:" * 400,
        "[[" * 60,
        "1 in " * 380 + "1",
    ],
)
def test_hostile_expressions_are_refused_soon(expr: str) -> None:
    with pytest.raises(MetierError):
        evaluate(expr, SCOPE)


def test_work_is_counted_in_every_operation_over_large_values() -> None:
    large: dict[str, JSON] = {"x": [list(range(1000)) for _ in range(1000)], "t": "é" * 1_000_000}
    for expr in (
        "x == x",
        "x.map(y, y + y)",
        "x.exists(y, 2000 in y)",
        "[1].map(n, t + t + t + t + t + t + t + t + t)",
    ):
        with pytest.raises(MetierError, match=str(WORK_LIMIT)):
            evaluate(expr, large)


def test_files_are_only_those_given() -> None:
    assert Given({}).text("/etc/passwd") is None


@QUICK
@given(VALID, VALID, PARTS)
def test_any_expressions_in_control_flow(one: str, two: str, part: object) -> None:
    each = {"id": "c", "code": "f", "with": {"x": "{{ " + one + " }}"}, "cache": "1h"}
    flow = {
        "flow": "x",
        "schema": 1,
        "inputs": NULLABLE,
        "triggers": [{"email": {"with": {"a": "{{ " + one + " }}"}, "when": two}}],
        "steps": [
            {
                "id": "a",
                "foreach": {"over": "{{ " + one + " }}", "max": 5, "each": part, "give": "{{ " + two + " }}"},
                "steps": [each],
            },
            {
                "id": "b",
                "parallel": [
                    {"name": "d", "steps": [{"id": "e", "wait": {"event": "f", "key": "{{ " + one + " }}"}}]},
                    {"name": "g", "steps": [{"id": "h", "emit": {"event": "f"}, "with": {"x": "{{ " + two + " }}"}}]},
                ],
            },
        ],
        "output": {"o": "{{ " + two + " }}"},
    }
    whole(yaml.safe_dump(flow, sort_keys=False))
