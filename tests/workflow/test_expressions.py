"""Expressions: CEL over plain JSON, bounded, exact about what is wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from metier.calls import JSON
from metier.errors import Invalid
from metier.workflow.cel import expressions_in, parse, pieces
from metier.workflow.expressions import EXPRESSION_MAX, Expressions, evaluate, render

SCOPE: dict[str, JSON] = {
    "inputs": {"email": "Bonjour", "amount": 12, "tags": ["a", "b"]},
    "steps": {
        "grade": None,
        "classify": {"confidence": 0.5, "label": "refund", "n": 3},
        "docs": {"hits": [{"id": "x"}]},
    },
}


@pytest.mark.parametrize(
    ("expr", "value"),
    [
        ("steps.grade == null ? '' : steps.grade.critique", ""),
        ("steps.grade != null && steps.grade.score > 3", False),
        ("steps.classify.confidence < 1", True),
        ("steps.classify.n > 2.5", True),
        ("steps.classify.n == 3.0", True),
        ("steps.classify.n + 0.5", 3.5),
        ("inputs.amount * 2 - 4 * 3 + 1", 13),
        ("7 / 2", 3),
        ("-7 / 2", -3),
        ("-7 % 3", -1),
        ("7.0 / 2", 3.5),
        ("2 * (3 + 4)", 14),
        ("1 - -1", 2),
        ("inputs.amount-1", 11),
        ("true && false || true", True),
        ("!(1 > 2)", True),
        ("1/0 > 0 || true", True),
        ("false && 1/0 > 0", False),
        ("1 == 'a'", False),
        ("true == 1", False),
        ("null == false", False),
        ("[1, 2.0] == [1.0, 2]", True),
        ("'a' in inputs.tags", True),
        ("'label' in steps.classify", True),
        ("{'a': {'b': 1}}.a.b", 1),
        ("steps['classify'].label", "refund"),
        ("steps.docs.hits[0].id", "x"),
        ("has(steps.classify.label)", True),
        ("has(steps.classify.nope)", False),
        ("has(steps.grade.score)", False),
        ("inputs.tags.map(t, t + '!')", ["a!", "b!"]),
        ("[1, 2, 3].map(n, n > 1, n * 10)", [20, 30]),
        ("[1, 2, 3].filter(n, n > 1).size()", 2),
        ("[1, 2].exists(n, n == 2) && [1, 2].all(n, n > 0) && [1, 2].exists_one(n, n == 1)", True),
        ("size('été')", 3),
        ("'Été'.lower() + upper('é') + ' x '.trim()", "étéÉx"),
        ("'refund-12'.matches('^[a-z]+-[0-9]+$')", True),
        ("'abc'.contains('b') && 'abc'.startsWith('a') && 'abc'.endsWith('c')", True),
        ("round(2.345, 2)", 2.35),
        ("round(2.5)", 3),
        ("money(1234.5)", "1\u202f234,50\u00a0€"),
        ("money(-1234.5, 'en')", "-€1,234.50"),
        ("date('2026-10-01T23:30:00+02:00')", "2026-10-01"),
        ("add_days('2026-02-27', 2)", "2026-03-01"),
        ("days_between('2026-01-01', '2026-03-01')", 59),
        ("timestamp('2026-01-01T00:00:00Z') + duration('36h')", "2026-01-02T12:00:00Z"),
        ("timestamp('2026-01-02').getFullYear()", 2026),
        ("min(3, 1, 2) + max([4, 5])", 6),
        ("['a', 'b'].join(', ')", "a, b"),
        ("int('12') + int(3.9)", 15),
        ("string(3.0) + string(true) + string(1)", "3true1"),
        (r"'l\'été' + '\u00e9\n'", "l'étéé\n"),
        ("'a\nb'", "a\nb"),
        (r"r'\d'", r"\d"),
    ],
)
def test_an_expression_gives_plain_json(expr: str, value: JSON) -> None:
    given = evaluate(expr, SCOPE)
    assert given == value
    assert type(given) is type(value)


@pytest.mark.parametrize(
    ("expr", "message"),
    [
        ("steps.grade.critique", "character 13: cannot take 'critique' of null: the step was skipped"),
        ("steps.classify.labl", "did you mean 'label'"),
        ("nope", "there is no 'nope' here; it has inputs, steps"),
        ("steps.docs.hits[9]", "no element 9 in a list of 1"),
        ("1/0", "division by zero"),
        ("9223372036854775807 + 1", "64 bits"),
        ("'a' < 1", "cannot compare string < int"),
        ("null > 1", "the step was skipped or gave nothing"),
        ("'a' + 1", "cannot compute string + int"),
        ("1 ? 2 : 3", "must be true or false, not int"),
        ("'a'.matches('(')", "not a regular expression"),
        ("timestamp('yesterday')", "write 2026-10-01"),
        ("1e308 * 10.0", "not a finite number"),
    ],
)
def test_a_failure_says_where_and_why(expr: str, message: str) -> None:
    with pytest.raises(Invalid, match=re.escape(message)) as caught:
        evaluate(expr, SCOPE)
    assert repr(expr) in caught.value.message


@pytest.mark.parametrize(
    ("expr", "message"),
    [
        ("a ||", "not CEL"),
        ("", "not CEL; write an expression"),
        ("not inputs.n", "write ! before"),
        ("a if b else c", "write condition"),
        ("a ? b", "write condition"),
        ("a or b", "write \\|\\|"),
        ("a | lower", "write lower"),
        ("a === b", "write =="),
        ("a <> b", "write !="),
        ("“a” == b", "straight quotes"),
        ("{{ a }}", "without the double braces"),
        ("(a == ')'", "bracket at character 1"),
        ("a.includes(b)", "did you mean 'contains'"),
        ("now()", "always gives the same"),
        ("'abc", "never closed"),
        ('"' + "\\n" * 500, "never closed"),
        ("'''a'''", "triple quotes"),
        (r"r'a\'", "never closed|raw string"),
        ("b'a'", "neither"),
        ("1u", "neither"),
        ("a.b{c: 1}", "not supported"),
        (".a", "not supported"),
        ("x // comment", "comments"),
        ("sze([1])", "no function 'sze'"),
        ("size(1, 2)", "takes 1 argument"),
        ("has(a)", "has\\(\\) asks"),
        ("[1].map(1, 2)", "is written list.map"),
        ("99999999999999999999", "64 bits"),
        (r"'\q'", "not an escape"),
        ("(" * 100, "levels of brackets"),
        ("1+" * 400 + "1", "too many operations"),
        ("x" * (EXPRESSION_MAX + 1), "more than 2000"),
    ],
)
def test_what_is_not_an_expression_is_refused_when_read(expr: str, message: str) -> None:
    with pytest.raises(Invalid, match=message):
        parse(expr)


def test_what_would_not_end_is_stopped_by_the_count_of_its_work() -> None:
    ten = "[1,2,3,4,5,6,7,8,9,10]"
    nested = "true"
    for name in "abcdefg":
        nested = f"{ten}.all({name}, {nested})"
    doubled = "['aaaaaaaaaaaaaaaa']" + ".map(a, a + a)" * 60
    shared = "[1]" + ".map(a, [a, a])" * 60
    for expr in (nested, doubled, shared):
        with pytest.raises(Invalid, match="units of work"):
            evaluate(expr, {})


def test_deep_data_is_refused_and_does_not_break_the_interpreter() -> None:
    deep: JSON = 1
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(Invalid, match="nested too deeply"):
        evaluate("x", {"x": deep})


def test_a_text_that_is_one_expression_keeps_its_type() -> None:
    template: JSON = {
        "n": "{{ inputs.amount }}",
        "list": ["{{ inputs.tags }}", "plain", 1, None, True],
        "mixed": "{{ inputs.amount }} € pour {{ steps.classify.label }}",
        "json": "tags: {{ inputs.tags }}",
        "braces": "{{ {'a': {'b': 1}}.a.b }}",
        "quoted": "{{ '}}' }}",
    }
    assert render(template, SCOPE) == {
        "n": 12,
        "list": [["a", "b"], "plain", 1, None, True],
        "mixed": "12 € pour refund",
        "json": 'tags: ["a", "b"]',
        "braces": 1,
        "quoted": "}}",
    }


def test_null_in_the_middle_of_a_text_is_refused_rather_than_sent() -> None:
    with pytest.raises(Invalid, match="it is null"):
        render("Bonjour {{ steps.grade }},", SCOPE)


def test_an_open_template_is_refused() -> None:
    with pytest.raises(Invalid, match="never closed"):
        pieces("a {{ b }")


def test_expressions_are_listed_with_their_paths() -> None:
    assert list(expressions_in({"a": ["x {{ b }} {{ c }}"], "d": "{{ e }}"})) == [
        ("/a/0", "b"),
        ("/a/0", "c"),
        ("/d", "e"),
    ]


def test_a_condition_must_decide() -> None:
    expressions = Expressions()
    assert expressions.holds("inputs.amount > 1", SCOPE) is True
    with pytest.raises(Invalid, match="true or false, not int"):
        expressions.holds("inputs.amount", SCOPE)


def test_the_scope_is_never_changed_by_an_expression() -> None:
    given: dict[str, JSON] = {"x": [1]}
    evaluate("x + [2]", given)
    result = evaluate("x", given)
    assert given == {"x": [1]}
    assert result is not given["x"]


def test_only_one_module_knows_the_library() -> None:
    package = Path(parse.__code__.co_filename).parent.parent
    using = [path.name for path in package.rglob("*.py") if "from celpy" in path.read_text(encoding="utf-8")]
    assert using == ["cel.py"]
