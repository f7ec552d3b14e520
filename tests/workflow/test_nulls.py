"""What may be null is found where it would make a run fail, and nowhere else: the linter against the evaluator."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

import pytest

from metier.calls import JSON
from metier.errors import MetierError
from metier.workflow.cel import parse as read
from metier.workflow.definition import parse
from metier.workflow.evaluator import Evaluation
from metier.workflow.expressions import evaluate
from metier.workflow.functions import FUNCTIONS, Builtin, Unfit
from metier.workflow.inference import give
from metier.workflow.lint import lint
from metier.workflow.nulls import refuses_null
from metier.workflow.syntax import Function, Node, inside
from metier.workflow.view import View

INPUTS: Mapping[str, JSON] = {
    "type": "object",
    "properties": {
        "u": {"type": ["string", "null"]},
        "n": {"type": ["integer", "null"]},
        "b": {"type": ["boolean", "null"]},
        "k": {"enum": ["a", None]},
        "s": {"type": "string"},
        "xs": {"type": "array", "items": {"type": ["integer", "null"]}},
        "ys": {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}]},
        "o": {"type": "object", "properties": {"p": {"type": ["string", "null"]}}, "required": ["p"]},
        "m": {"type": ["object", "null"], "properties": {"p": {"type": "string"}}, "required": ["p"]},
    },
    "required": ["u", "n", "b", "k", "s", "xs", "ys", "o", "m"],
    "additionalProperties": False,
}
VALUES: Mapping[str, tuple[JSON, ...]] = {
    "u": (None, "a", ""),
    "n": (None, 0, 5),
    "b": (None, True, False),
    "k": (None, "a"),
    "s": ("a", ""),
    "xs": ([], [1], [None], [1, None]),
    "ys": (None, ["a"]),
    "o": ({"p": None}, {"p": "a"}),
    "m": (None, {"p": "a"}),
}


def doubts(expr: str) -> tuple[str, ...]:
    return tuple(remark.message for remark in give(read(expr), View({"inputs": INPUTS}, {}))[1])


def failures(expr: str) -> Iterator[str]:
    used = [name for name in VALUES if f"inputs.{name}" in expr or f"'{name}'" in expr]
    rest = {name: values[-1] for name, values in VALUES.items()}
    for values in itertools.product(*(VALUES[name] for name in used)):
        try:
            evaluate(expr, {"inputs": {**rest, **dict(zip(used, values, strict=True))}})
        except MetierError as wrong:
            yield wrong.message


@pytest.mark.parametrize(
    "expr",
    [
        "inputs.u != null ? inputs.u + 'a' : ''",
        "inputs.u == null ? '' : inputs.u + 'a'",
        "!(inputs.u == null) ? inputs.u + 'a' : ''",
        "null != inputs.u ? inputs['u'] + 'a' : ''",
        "(inputs.u == null ? '' : inputs.u) + 'a'",
        "inputs.u != null && size(inputs.u) > 0",
        "size(inputs.u) > 0 && inputs.u != null",
        "inputs.u == null || size(inputs.u) > 0",
        "size(inputs.u) > 0 || inputs.u == null",
        "inputs.u == 'a' ? inputs.u + 'a' : ''",
        "inputs.u in ['a', 'b'] ? inputs.u + 'a' : ''",
        "type(inputs.u) == 'string' ? inputs.u + 'a' : ''",
        "type(inputs.u) != 'null' ? inputs.u + 'a' : ''",
        "(inputs.u != null) == true ? inputs.u + 'a' : ''",
        "(inputs.u == null ? false : inputs.n != null) ? inputs.u + string(inputs.n) : ''",
        "(inputs.u == null || inputs.n == null) ? '' : inputs.u + string(inputs.n)",
        "(inputs.u != null && inputs.s == 'a') || (inputs.u != null && inputs.s == '') ? inputs.u + 'a' : ''",
        "inputs.b == true",
        "inputs.k == null ? '' : inputs.k + 'a'",
        "inputs.n in [1, 2]",
        "inputs.u == inputs.s ? inputs.u + 'a' : ''",
        "inputs.xs.filter(x, x != null).map(x, x + 1)",
        "inputs.xs.map(x, x != null, x + 1)",
        "inputs.xs.map(x, x == null ? 0 : x + 1)",
        "inputs.xs.all(x, x != null) ? inputs.xs.map(x, x + 1) : []",
        "inputs.xs.exists(x, x == null) ? [] : inputs.xs.map(x, x + 1)",
        "null in inputs.xs ? [] : inputs.xs.map(x, x + 1)",
        "size(inputs.xs) > 0 && inputs.xs[0] != null ? inputs.xs[0] + 1 : 0",
        "size(inputs.xs) > 0 && inputs.xs.all(x, x != null) ? inputs.xs[0] + 1 : 0",
        "inputs.xs.all(x, x == null || [x].all(y, y + 1 > x))",
        "inputs.ys != null ? inputs.ys.map(y, y + 'a') : []",
        "[inputs.o].filter(o, o.p != null).map(o, o.p + 'a')",
        "inputs.o.p != null ? inputs.o.p + 'a' : ''",
        "has(inputs.m.p) ? inputs.m.p + 'a' : ''",
        "inputs.m != null ? inputs.m.p : ''",
        "substring(inputs.s, 0, inputs.n)== ''|| true",
        "get(inputs, 'u', '') + 'a'",
        "majority([1, inputs.n])",
    ],
)
def test_what_is_guarded_is_not_doubted(expr: str) -> None:
    assert doubts(expr) == ()
    assert not any("null" in wrong for wrong in failures(expr))


@pytest.mark.parametrize(
    ("expr", "doubt"),
    [
        ("inputs.u + 'x'", "'inputs.u' may be null, and '+' takes no null"),
        ("'x' + inputs['u']", "'inputs.u' may be null, and '+' takes no null"),
        ("inputs.u != '' ? inputs.u + 'x' : ''", "'inputs.u' may be null, and '+' takes no null"),
        ("inputs.n != null ? inputs.u + 'x' : ''", "'inputs.u' may be null, and '+' takes no null"),
        ("inputs.u == null ? inputs.u + 'x' : ''", "'inputs.u' may be null, and '+' takes no null"),
        ("inputs.u != null || size(inputs.u) > 0", "'inputs.u' may be null, and size takes no null"),
        ("size(inputs.u) > 0 && size(inputs.u) < 9", "'inputs.u' may be null, and size takes no null"),
        ("inputs.u != null || inputs.s == 'a' ? inputs.u + 'x' : ''", "'inputs.u' may be null, and '+' takes no null"),
        ("inputs.u.lower()", "'inputs.u' may be null, and lower takes no null"),
        ("inputs.n > 3", "'inputs.n' may be null, and '>' takes no null"),
        ("-inputs.n", "'inputs.n' may be null, and '-' takes no null"),
        ("!inputs.b", "'inputs.b' may be null, and '!' takes no null"),
        ("inputs.b ? 1 : 2", "'inputs.b' may be null, and a condition takes no null"),
        ("inputs.b && inputs.s == 'a'", "'inputs.b' may be null, and '&&' takes no null"),
        ("inputs.k + 'x'", "'inputs.k' may be null, and '+' takes no null"),
        ("'a' in inputs.ys", "'inputs.ys' may be null, and 'in' takes no null"),
        ("inputs.ys[0]", "'inputs.ys' may be null, and […] takes no null"),
        ("inputs.ys.map(y, y)", "'inputs.ys' may be null, and map takes no null"),
        ("inputs.xs.map(x, x + 1)", "'x' may be null, and '+' takes no null"),
        (
            "inputs.xs.filter(x, x != null && size(inputs.xs.map(x, x + 1)) > 0)",
            "'x' may be null, and '+' takes no null",
        ),
        ("inputs.xs.filter(x, x != 1).map(x, x + 1)", "'x' may be null, and '+' takes no null"),
        ("size(inputs.xs) > 0 ? inputs.xs[0] + 1 : 0", "'inputs.xs[0]' may be null, and '+' takes no null"),
        ("has(inputs.o.p) ? inputs.o.p + 'a' : ''", "'inputs.o.p' may be null, and '+' takes no null"),
        ("inputs.m.p", "'inputs.m' may be null, and '.p' takes no null"),
        ("(inputs.s == '' ? null : 1) + 2", "\"((inputs.s == '') ? null : 1)\" may be null, and '+' takes no null"),
    ],
)
def test_what_may_be_null_is_found_where_that_fails(expr: str, doubt: str) -> None:
    assert doubts(expr) == (doubt,)
    assert any(True for _ in failures(expr))


def test_every_condition_of_two_parts_is_followed_as_the_evaluator_decides_it() -> None:
    parts = (
        "inputs.u != null",
        "inputs.u == null",
        "inputs.u == 'a'",
        "inputs.n != null",
        "inputs.s == 'a'",
        "!(inputs.u != null)",
        "inputs.b == true",
    )
    for one, two, sign in itertools.product(parts, parts, ("&&", "||")):
        for expr in (f"{one} {sign} {two} ? inputs.u + 'x' : ''", f"{one} {sign} {two} ? '' : inputs.u + 'x'"):
            fails = any(True for _ in failures(expr))
            assert bool(doubts(expr)) is fails, expr


def test_every_function_refuses_null_where_it_is_said_to() -> None:
    for name, function in FUNCTIONS.items():
        call = next(one for one in _walk(read(function.example)) if isinstance(one, Function) and one.name == name)
        given = [Evaluation(function.example, {}).run(argument) for argument in call.arguments]
        # The first argument that may be left out is tried too, where the example leaves one out.
        for number in range(min(len(given) + 1, function.most)):
            changed = [*given[:number], None, *given[number + 1 :]]
            assert _fails(function, changed) is refuses_null(name, number), (name, number)


def _fails(function: Builtin, arguments: list[JSON]) -> bool:
    try:
        function.run(*arguments)
    except Unfit:
        return True
    return False


def _walk(node: Node) -> Iterator[Node]:
    yield node
    for part in inside(node):
        yield from _walk(part)


def flow(steps: str) -> tuple[str, ...]:
    head = "flow: x\nschema: 1\ninputs: {u: string | null, n: integer | null, o?: string}\nsteps:\n"
    return tuple(f"{one.line}:{one.column} {one.code} {one.severity}" for one in lint(parse(head + steps, {})))


def test_what_a_when_asks_is_known_in_its_step_and_of_its_output() -> None:
    assert flow("""
  - {id: a, when: inputs.u != null, code: f, with: {v: "{{ inputs.u + 'x' }}"}, output: {v: string}}
  - {id: b, code: f, with: {v: "{{ steps.a == null ? '' : inputs.u + steps.a.v }}"}}
  - {id: c, code: f, with: {v: "Dear {{ inputs.u }}"}}
""") == ("8:32 may-be-null warning",)


def test_after_an_end_what_it_waited_for_is_known() -> None:
    assert flow("""
  - {when: inputs.u == null, end: nothing}
  - {id: a, code: f, with: {v: "{{ inputs.u + 'x' }}"}}
  - {id: b, when: inputs.n > 3, code: f}
""") == ("8:19 may-be-null warning",)


def test_after_a_switch_that_ended_what_its_when_asked_has_failed() -> None:
    assert flow("""
  - {id: way, when: inputs.u == null, switch: [{when: inputs.n == null, steps: [{end: x}]}, {else: [{end: y}]}]}
  - {id: a, code: f, with: {v: "{{ inputs.u + 'x' }}", n: "{{ inputs.n + 1 }}"}}
""") == ("7:59 may-be-null warning",)


def test_what_is_known_of_an_item_is_not_known_of_the_items_inside_it() -> None:
    assert flow("""
  - id: a
    code: f
    output:
      type: object
      properties:
        item: {type: [string, "null"]}
        items:
          type: array
          items:
            type: object
            properties:
              n: {type: [integer, "null"]}
              items: {type: array, items: {type: object, properties: {n: {type: [integer, "null"]}}, required: [n]}}
            required: [n, items]
      required: [item, items]
  - {when: steps.a.item == null, end: nothing}
  - id: b
    foreach: {over: "{{ steps.a.items }}", max: 9}
    steps:
      - id: c
        when: item.n != null
        foreach: {over: "{{ item.items }}", max: 9}
        steps: [{id: d, code: f, with: {v: "{{ steps.a.item + 'x' }}", n: "{{ item.n + 1 }}"}, output: string}]
""") == ("28:75 may-be-null warning",)


def test_what_is_known_of_all_items_is_known_of_each_that_a_foreach_goes_over() -> None:
    assert (
        flow("""
  - id: a
    code: f
    output:
      type: object
      properties:
        rows: {type: array, items: {type: object, properties: {n: {type: [integer, "null"]}}, required: [n]}}
      required: [rows]
  - {when: "steps.a.rows.exists(row, row.n == null)", end: nothing}
  - id: b
    foreach: {over: "{{ steps.a.rows }}", max: 9}
    steps: [{id: c, code: f, with: {n: "{{ item.n + 1 }}"}, output: string}]
  - {id: d, code: f, with: {n: "{{ size(steps.a.rows) == 0 ? 0 : steps.a.rows[0].n + 1 }}"}}
""")
        == ()
    )


def test_a_branch_knows_what_the_branches_before_it_asked_and_so_does_what_comes_after() -> None:
    assert flow("""
  - id: way
    switch:
      - {when: inputs.u == null, steps: [{end: nothing}]}
      - {when: inputs.n == null, steps: [{id: a, code: f, with: {v: "{{ inputs.u + 'x' }}"}}]}
      - else: [{id: b, code: f, with: {v: "{{ inputs.u + string(inputs.n) }}"}}]
  - {id: c, code: f, with: {u: "{{ inputs.u + 'x' }}", n: "{{ steps.b == null ? 0 : inputs.n + 1 }}"}}
  - {id: d, code: f, with: {n: "{{ inputs.n + 1 }}", way: "{{ steps.way.branch + 1 }}"}}
""") == ("12:32 may-be-null warning",)


def test_the_score_of_a_loop_is_there_where_it_keeps_one() -> None:
    assert flow("""
  - id: kept
    loop: {max: 2, keep: steps.a.score}
    steps: [{id: a, code: f, output: {score: number}}]
  - id: once
    loop: {max: 1}
    steps: [{id: b, code: f}]
  - {id: c, code: f, with: {one: "{{ steps.kept.score + 1 }}", two: "{{ steps.once.score + 1 }}"}}
""") == ("12:69 may-be-null warning",)


def test_an_optional_input_is_guarded_by_has() -> None:
    assert flow("  - {id: a, code: f, with: {v: \"{{ has(inputs.o) ? inputs.o + 'x' : '' }}\"}}\n") == ()
    assert flow("  - {id: a, code: f, with: {v: \"{{ inputs.o + 'x' }}\"}}\n") == ("5:32 may-be-missing warning",)


def test_a_test_knows_what_ran_and_is_not_doubted() -> None:
    assert (
        flow("""
  - {id: a, when: inputs.u != null, code: f, output: {n: "integer | null"}}
tests: [{name: t, inputs: {u: a, n: 1}, mock: {a: {n: 1}}, expect: [steps.a.n > 0, inputs.n + 1 == 2]}]
""")
        == ()
    )


def test_a_long_value_is_doubted_without_repeating_it() -> None:
    long = f"(inputs.n == null ? inputs.u : '{'x' * 80}') + 'y'"
    (remark,) = give(read(long), View({"inputs": INPUTS}, {}))[1]
    assert remark.message == "this value may be null, and '+' takes no null"
    assert remark.suggestion == "compare it with null first"
