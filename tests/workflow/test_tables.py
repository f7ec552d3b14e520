"""What the linter finds in decision tables: cases left out or decided twice, rows never reached, tests that fail."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metier.errors import Invalid
from metier.workflow.definition import parse
from metier.workflow.lint import lint
from metier.workflow.rules import decide, read, rehearse
from metier.workflow.tables import gaps

HEAD = """
rules: refund
version: 1
inputs: {category: {enum: [refund, legal, other]}, amount: number, known: boolean}
outputs: {route: {enum: [auto, expert]}}
hit: HIT
rows:
"""
ROWS = ["category == 'legal'", "amount > 80", "amount <= 80 && category == 'refund'"]


def table(*whens: str, hit: str = "first", last: bool = False, head: str = HEAD, tail: str = "") -> str:
    rows = [f'  - {{when: "{when}", then: {{route: {"expert" if n % 2 else "auto"}}}}}' for n, when in enumerate(whens)]
    return head.replace("HIT", hit) + "\n".join([*rows, *(["  - {then: {route: auto}}"] if last else [])]) + "\n" + tail


def test_a_missing_case_is_shown() -> None:
    (gap,) = gaps(read(table(*ROWS), "t.yaml"))
    assert gap.code == "missing-case" and gap.witness["category"] == "other"
    with pytest.raises(Invalid, match="no row holds"):
        decide(read(table(*ROWS), "t.yaml"), dict(gap.witness))
    assert gaps(read(table(*ROWS, last=True), "t.yaml")) == ()


def test_the_border_of_two_ranges_is_a_case() -> None:
    (gap,) = gaps(read(table("amount < 80", "amount > 80"), "t.yaml"))
    assert gap.witness["amount"] == 80
    assert gaps(read(table("amount < 80", "amount >= 80"), "t.yaml")) == ()


def test_overlapping_rows_are_shown_where_only_one_may_hold() -> None:
    found = [gap for gap in gaps(read(table(*ROWS, last=True, hit="unique"), "t.yaml")) if gap.code == "overlap"]
    assert found[0].message.startswith("rows 1 and 2 both hold for category = 'legal', amount = 8")
    with pytest.raises(Invalid, match="rows 1 and 2 both hold"):
        decide(read(table(*ROWS, last=True, hit="unique"), "t.yaml"), dict(found[0].witness))
    only = read(table("known", "!known", hit="unique"), "t.yaml")
    assert gaps(only) == () and decide(only, {"category": "other", "amount": 1, "known": False}) == {"route": "expert"}


def test_a_row_that_never_decides_is_shown() -> None:
    (gap,) = gaps(read(table("amount > 10", "amount > 80", last=True), "t.yaml"))
    assert gap.code == "never-reached" and "row 2" in gap.message


def test_a_row_that_searches_a_free_text_is_not_said_to_decide_nothing() -> None:
    head = HEAD.replace("known: boolean", "words: string")
    assert gaps(read(table("words.matches('fire|flood')", "amount > 80", last=True, head=head), "t.yaml")) == ()


def test_of_too_many_cases_a_part_is_tried() -> None:
    fields = ", ".join(f"f{number}: boolean" for number in range(15))
    head = HEAD.replace("known: boolean", fields)
    assert [
        gap.code
        for gap in gaps(read(table(" || ".join(f"f{number}" for number in range(15)), last=True, head=head), "t.yaml"))
    ] == ["too-many-cases"]


def asked(inputs: str, *whens: str, hit: str = "first", last: bool = True) -> list[tuple[str, str]]:
    head = f"rules: t\nversion: 1\ninputs: {inputs}\noutputs: {{route: {{enum: [auto, expert]}}}}\nhit: {hit}\nrows:\n"
    return [(gap.code, gap.message) for gap in gaps(read(table(*whens, last=last, head=head), "t.yaml"))]


@pytest.mark.parametrize(
    ("inputs", "whens"),
    [
        ("{tags: 'string[]'}", ("size(tags) > 0", "'vip' in tags")),
        ("{customer: {tier: string, 'age?': integer}}", ("customer.tier == 'gold'", "has(customer.age)")),
        ("{day: {type: string, format: date}}", ("days_between(day, '2026-01-01') > 30", "day < '2026-01-01'")),
        ("{day: {type: string, format: date}}", ("day < '2026-01-01'", "day == '2026-01-01'")),
        ("{a: number, b: number}", ("a < b", "a > b")),
        ("{a: integer}", ("a * 2 > 100", "a % 7 == 3")),
        ("{a: 'number | null'}", ("a == null", "a > 3")),
        ("{'a?': number}", ("a == null", "a > 3")),
        ("{a: string}", ("a < 'm'", "a >= 'x'")),
        ("{a: any}", ("a == 'x'", "a == 3")),
    ],
)
def test_nothing_is_said_of_a_table_without_fault(inputs: str, whens: tuple[str, ...]) -> None:
    assert asked(inputs, *whens) == []


def test_no_case_is_shown_that_the_schema_refuses() -> None:
    bounded = "{a: {type: integer, minimum: 0, exclusiveMaximum: 10}}"
    assert asked(bounded, "a < 5", "a >= 5 && a < 10", last=False) == []
    impossible = asked("{a: {type: number, minimum: 5, maximum: 1}}", "a > 1")
    assert impossible == [("no-case", "no value for 'a' fits its schema, so no case was tried")]


@pytest.mark.parametrize(
    ("inputs", "whens", "said"),
    [
        ("{a: number, b: number}", ("a < b", "a > b"), "no row holds for a = -1, b = -1"),
        ("{a: integer}", ("a % 2 == 0", "a % 2 == 1"), "no row holds for a = -3"),
        ("{c: {tier: {enum: [gold, tin]}}}", ("c.tier == 'gold'",), "no row holds for c = {'tier': 'tin'}"),
        ("{code: string}", ("code.startsWith('FR')", "code == ''"), "no row holds for code = '!'"),
    ],
)
def test_a_missing_case_of_a_computed_condition_is_shown(inputs: str, whens: tuple[str, ...], said: str) -> None:
    assert asked(inputs, *whens, last=False) == [("missing-case", said)]


def test_rows_that_overlap_in_a_computation_are_shown() -> None:
    ((code, message),) = asked("{a: number, b: number}", "a + b > 10", "a > 3", hit="unique")
    assert code == "overlap" and message.startswith("rows 1 and 2 both hold for a = ")


def test_a_condition_that_gives_no_truth_is_a_row_that_fails() -> None:
    ((code, message),) = asked("{a: integer}", "a + 1")
    assert code == "failing-row" and message.endswith("'a + 1' must give true or false, not int")


def test_an_input_that_is_not_given_is_null() -> None:
    (gap,) = asked("{'a?': number}", "a > 3")
    assert gap[0] == "failing-row" and gap[1].startswith("row 1 fails for a = None: ")
    head = "rules: t\nversion: 1\ninputs: {'a?': number}\noutputs: {route: {enum: [auto, expert]}}\nrows:\n"
    found = read(table("a == null", "a > 3", head=head), "t.yaml")
    assert decide(found, {}) == {"route": "auto"} and decide(found, {"a": 4}) == {"route": "expert"}


def test_a_long_table_is_looked_through_in_bounded_work() -> None:
    whens = [f"a == {number} && b == 'x'" for number in range(1_000)]
    found = asked("{a: integer, b: {enum: [x, y, z]}}", *whens, last=False)
    assert [code for code, _ in found] == ["too-many-cases", "missing-case"]
    assert found[0][1] == "there are 3006 cases; 500 spread among them were tried, and not the others"


def test_tests_beside_a_table_are_played() -> None:
    tail = """tests:
  - {name: legal, inputs: {category: legal, amount: 1, known: true}, expect: {route: auto}}
  - {name: dear, inputs: {category: other, amount: 90, known: true}, expect: {route: auto}}
"""
    found = read(table(*ROWS, last=True, tail=tail), "t.yaml")
    assert rehearse(found, found.tests[0]) == ()
    assert rehearse(found, found.tests[1]) == ("t.yaml:14:5: route is 'expert', not 'auto'",)


def test_the_linter_says_it_at_the_place_in_the_table() -> None:
    flow = "flow: x\nschema: 1\nsteps: [{id: a, rules: refund@1, with: {category: legal, amount: 1, known: true}}]\n"
    found = lint(parse(flow, {"rules/refund@1.yaml": table("known")}))
    assert [(one.code, one.file, one.severity) for one in found] == [("missing-case", "rules/refund@1.yaml", "warning")]
    assert "no row holds for category = 'refund'" in found[0].message


CONDITIONS = st.sampled_from(
    ["amount > 5", "amount <= 5", "amount < 5", "amount == 7", "category == 'legal'", "category != 'legal'"]
    + ["known", "!known", "category in ['refund', 'other']", "amount >= 5 && known", "amount > 5 || known", "1 > 2"]
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(CONDITIONS, min_size=1, max_size=5),
    st.sampled_from(["refund", "legal", "other"]),
    st.floats(-20, 20),
    st.booleans(),
)
def test_a_table_without_a_missing_case_decides_everything(
    whens: list[str], category: str, amount: float, known: bool
) -> None:
    found = read(table(*whens), "t.yaml")
    missing = [gap for gap in gaps(found) if gap.code == "missing-case"]
    asked: dict[str, Any] = {"category": category, "amount": amount, "known": known}
    try:
        decide(found, asked)
    except Invalid:
        assert missing
