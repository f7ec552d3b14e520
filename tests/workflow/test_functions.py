"""The functions of expressions: pure, total, bounded, and exact about days and money."""

from __future__ import annotations

import datetime
import json
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metier.calls import JSON
from metier.errors import Invalid, MetierError
from metier.workflow.evaluator import WORK_LIMIT
from metier.workflow.expressions import evaluate
from metier.workflow.functions import FUNCTIONS, GROUPS

QUICK = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["2026-10-01", "1h", "Europe/Paris", "dd/MM/yyyy", "fr", "n", "(", "[a-z]+"])
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.sampled_from("nab"), inner), max_leaves=12
)
DATES = st.dates(datetime.date(1990, 1, 1), datetime.date(2060, 12, 31))


def test_every_function_says_how_it_is_written_and_shows_an_example() -> None:
    assert sum(len(group) for group in GROUPS.values()) == len(FUNCTIONS) >= 70
    for name, function in FUNCTIONS.items():
        assert function.written.startswith(f"{name}(") and function.says.endswith("."), name
        evaluate(function.example, {})


@QUICK
@given(st.sampled_from(sorted(FUNCTIONS)), st.lists(VALUES, min_size=3, max_size=3))
def test_a_function_gives_a_value_or_says_what_is_wrong(name: str, values: list[Any]) -> None:
    function = FUNCTIONS[name]
    for count in range(function.least, min(function.most, 3) + 1):
        expr = f"{name}({', '.join('abc'[:count])})"
        try:
            value = evaluate(expr, dict(zip("abc", values, strict=True)))
        except MetierError as wrong:
            assert expr in wrong.message
            continue
        assert json.loads(json.dumps(value, allow_nan=False)) == value
        assert evaluate(expr, dict(zip("abc", values, strict=True))) == value


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_a_megabyte_does_not_make_a_function_quadratic(name: str) -> None:
    function = FUNCTIONS[name]
    larges: list[JSON] = [
        "a " * 500_000,
        ["a"] * 100_000,
        [{"n": 1}] * 20_000,
        {str(key): key for key in range(20_000)},
    ]
    for large in larges:
        scope: dict[str, JSON] = {"a": large, "b": "a", "c": "bb" * 1000, "d": 3}
        for arguments in ("a", "a, b", "a, a", "a, b, c", "a, d"):
            if function.least <= arguments.count(",") + 1 <= function.most:
                try:
                    evaluate(f"{name}({arguments})", scope)
                except MetierError:
                    continue


@pytest.mark.parametrize(
    "expr",
    [
        "distinct([x, x, x].map(a, [a, a, a]).map(a, [a, a, a]).map(a, [a, a, a]).map(a, [a, a, a]))",
        "majority([[x, x], [x, x]].map(a, [a, a, a]).map(a, [a, a, a]).map(a, [a, a, a]))",
        "[1, 2, 3, 4, 5].map(n, sort(x)).size()",
        "t.replace('a', t).size()",
        "x.map(y, join(['a', 'b'], t)).size()",
    ],
)
def test_work_is_counted_inside_what_functions_look_at(expr: str) -> None:
    with pytest.raises(MetierError, match=f"{WORK_LIMIT}|more than"):
        evaluate(expr, {"x": list(range(100_000)), "t": "a" * 1_000_000})


@QUICK
@given(st.integers(-(10**9), 10**9))
def test_money_rounds_a_half_cent_to_the_even_cent(thousandths: int) -> None:
    value = thousandths / 1000
    wanted = Decimal(str(value)).quantize(Decimal("0.01"), rounding=ROUND_HALF_EVEN)
    assert evaluate("cents(x)", {"x": value}) == int(wanted * 100)
    english = str(evaluate("money(x, 'en')", {"x": value})).replace("€", "").replace(",", "")
    assert Decimal(english) == wanted


def test_money_is_written_as_people_of_a_country_write_it() -> None:
    scope: dict[str, JSON] = {"x": -1234567.895}
    assert evaluate("money(x)", scope) == "-1\u202f234\u202f567,90\u00a0€"
    assert evaluate("money(x, 'en', 'USD')", scope) == "-$1,234,567.90"
    assert evaluate("money(x, 'en', 'CHF')", scope) == "-CHF\u00a01,234,567.90"
    assert evaluate("percent(0.125)", scope) == "12\u00a0%"
    with pytest.raises(Invalid, match="knows EUR, USD, GBP, CHF"):
        evaluate("money(1, 'fr', 'XYZ')", {})


@QUICK
@given(st.lists(st.integers(-(10**6), 10**6).map(lambda number: number / 100), max_size=30))
def test_sums_are_exact(amounts: list[float]) -> None:
    assert evaluate("sum(x)", {"x": [*amounts]}) == float(sum(Decimal(str(amount)) for amount in amounts))


@QUICK
@given(DATES, st.integers(-60, 60), st.lists(DATES, max_size=4))
def test_working_days_go_there_and_back(day: datetime.date, days: int, off: list[datetime.date]) -> None:
    scope: dict[str, JSON] = {"d": day.isoformat(), "n": days, "off": [one.isoformat() for one in off]}
    there = evaluate("add_business_days(d, n, off)", scope)
    scope["e"] = there
    assert evaluate("business_days_between(d, e, off)", scope) == days or not evaluate("is_business_day(d, off)", scope)
    if days:
        assert evaluate("is_business_day(e, off)", scope) is True


@QUICK
@given(DATES, DATES)
def test_working_days_are_counted_as_by_hand(one: datetime.date, two: datetime.date) -> None:
    first, last = min(one, two), min(max(one, two), min(one, two) + datetime.timedelta(days=400))
    counted = sum((first + datetime.timedelta(days=days)).weekday() < 5 for days in range(1, (last - first).days + 1))
    assert evaluate("business_days_between(a, b)", {"a": first.isoformat(), "b": last.isoformat()}) == counted


@QUICK
@given(DATES, st.integers(-500, 500))
def test_months_keep_the_day_or_take_the_last(day: datetime.date, months: int) -> None:
    found = datetime.date.fromisoformat(str(evaluate("add_months(d, n)", {"d": day.isoformat(), "n": months})))
    assert (found.year * 12 + found.month) - (day.year * 12 + day.month) == months
    assert found.day == day.day or (found + datetime.timedelta(days=1)).day == 1


@pytest.mark.parametrize(
    ("year", "monday"), [(2024, "2024-04-01"), (2025, "2025-04-21"), (2026, "2026-04-06"), (2038, "2038-04-26")]
)
def test_the_holidays_of_france_follow_easter(year: int, monday: str) -> None:
    found = evaluate("french_holidays(y)", {"y": year})
    assert isinstance(found, list) and len(found) == 11 and monday in found and f"{year}-07-14" in found


@pytest.mark.parametrize(
    ("expr", "value"),
    [
        ("in_zone('2026-03-29T00:59:59Z', 'Europe/Paris')", "2026-03-29T01:59:59+01:00"),
        ("in_zone('2026-03-29T01:00:00Z', 'Europe/Paris')", "2026-03-29T03:00:00+02:00"),
        ("format_date(in_zone('2026-10-01T22:30:00Z', 'Europe/Paris'), 'dd/MM HH:mm')", "02/10 00:30"),
        ("format_date('2026-10-01', 'EEEE d MMMM yyyy')", "jeudi 1er octobre 2026"),
        ("format_date('2026-10-01', 'EEEE d MMMM yyyy', 'en')", "Thursday 1 October 2026"),
        ("format_date('2026-10-01', \"'le' dd/MM\")", "le 01/10"),
        ("format_date('2026-10-01T08:05:00Z', 'HHhmm, H:mm')", "08h05, 8:05"),
        ("parse_date('1/2/2026 8:05', 'd/M/yyyy H:mm')", "2026-02-01T08:05:00Z"),
        ("parse_date('1/2/2026 08:05', 'd/M/yyyy HH:mm')", "2026-02-01T08:05:00Z"),
        ("majority([null, 'a', 'b', 'b'])", "b"),
        ("agreement([])", 0.0),
        ("flatten([[1], 2, [[3]]])", [1, 2, [3]]),
        ("sort(['b', 2, 'a', 1.5])", [1.5, 2, "a", "b"]),
        ("distinct([1, 1.0, '1'])", [1, "1"]),
        ("first([])", None),
        ("slug('  ---  ')", ""),
        ("cut('abcdef', 3)", "ab…"),
        ("get({'a': null}, 'a', 1)", 1),
    ],
)
def test_what_functions_give(expr: str, value: JSON) -> None:
    assert evaluate(expr, {}) == value


@pytest.mark.parametrize(
    ("expr", "said"),
    [
        ("in_zone('2026-10-01', '../etc/passwd')", "knows no time zone"),
        ("parse_date('31/02/2026', 'dd/MM/yyyy')", "cannot read '31/02/2026'"),
        ("parse_date('1', 'dd dd')", "cannot read"),
        ("parse_date('01/10/26', 'dd/MM/yy')", "does not know 'yy' in a pattern"),
        ("format_date('2026-10-01', 'd MMM yyyy')", "does not know 'MMM' in a pattern"),
        ("format_date('2026-10-01', 'hh:mm')", "does not know 'hh' in a pattern"),
        ("in_zone('2026-10-01', 'localtime')", "knows no time zone 'localtime'"),
        ("abs(-9223372036854775808)", "leaves the whole numbers of 64 bits"),
        ("french_holidays(1)", "between 1583 and 9998"),
        ("add_business_days('2026-10-01', 100000)", "between -4000 and 4000"),
        ("majority([])", "at least one value"),
        ("sort([true])", "orders numbers or texts"),
        ("sort_by([{'a': 1}], 'b')", "that have 'b'"),
        ("find('a', '(')", "not a regular expression of RE2"),
        ("range(100000)", "between 0 and 10000"),
        ("clamp(1, 3, 2)", "bounds in order"),
    ],
)
def test_what_a_function_cannot_take_is_said(expr: str, said: str) -> None:
    with pytest.raises(Invalid, match=said.replace("(", r"\(")):
        evaluate(expr, {})
