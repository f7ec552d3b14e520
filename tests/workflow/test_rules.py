"""Decision tables: the first row that holds decides, and a table that could not decide is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from metier.calls import JSON
from metier.errors import Invalid, NotFound
from metier.workflow import rules
from metier.workflow.cel import parse as parse_condition
from metier.workflow.definition import parse
from metier.workflow.syntax import Node

TABLE = """
rules: refund-policy
version: 2026-10
inputs: {category: {enum: [refund, legal]}, amount: number, tier: {type: string, default: unknown}}
outputs: {route: {enum: [auto, expert]}, reason: string}
hit: first
rows:
  - {when: category == 'legal', then: {route: expert, reason: legal}}
  - {when: amount > 80 && tier == 'unknown', then: {route: expert, reason: amount}}
  - {when: amount <= 80, then: {route: auto, reason: small}}
"""


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"category": "legal", "amount": 1}, "legal"),
        ({"category": "refund", "amount": 81}, "amount"),
        ({"category": "refund", "amount": 80}, "small"),
        ({"category": "refund", "amount": 80.0, "tier": "pro"}, "small"),
    ],
)
def test_the_first_row_that_holds_decides(asked: JSON, reason: str) -> None:
    assert rules.decide(rules.read(TABLE, "t.yaml"), asked)["reason"] == reason


def test_conditions_are_read_by_who_keeps_them_and_no_further_than_needed() -> None:
    table = rules.read(
        "rules: t\nversion: 1\ninputs: {n: integer}\noutputs: {r: string}\n"
        "rows:\n- {when: n > 9, then: {r: a}}\n- {when: n > 5, then: {r: b}}\n- {when: n > 1, then: {r: c}}\n",
        "t.yaml",
    )
    asked: list[str] = []

    def reading(written: str) -> Node:
        asked.append(written)
        return parse_condition(written)

    assert rules.decide(table, {"n": 6}, reading) == {"r": "b"}
    assert asked == ["n > 9", "n > 5"]


def test_no_row_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(Invalid, match=r"no row holds.*add a last row without 'when'"):
        rules.decide(rules.read(TABLE, "t.yaml"), {"category": "refund", "amount": 100, "tier": "pro"})


def test_a_question_that_does_not_fit_is_refused() -> None:
    with pytest.raises(Invalid, match="missing 'amount'"):
        rules.decide(rules.read(TABLE, "t.yaml"), {"category": "refund"})


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("reason: legal", "raison: legal", "t.yaml:8:39: cannot accept then: missing 'reason'"),
        ("route: auto,", "route: maybe,", "does not satisfy enum"),
        ("hit: first", "hit: all", "hit must be 'first'"),
        ("when: amount <= 80", "whn: amount <= 80", "did you mean 'when'"),
        ("amount <= 80", "amount <=", "not CEL"),
        ("version: 2026-10", "version: [1]", "version is"),
        ("category == 'legal'", "'true'", "never reached"),
        ("inputs:", "input:", "did you mean 'inputs'"),
    ],
)
def test_a_table_that_is_wrong_is_refused_with_its_place(old: str, new: str, message: str) -> None:
    with pytest.raises(Invalid) as caught:
        rules.read(TABLE.replace(old, new), "t.yaml")
    assert message in caught.value.message


def test_a_workflow_carries_its_tables_and_their_versions() -> None:
    flow = "flow: f\nschema: 1\nsteps: [{id: policy, rules: refund-policy@2026-10}, {id: other, rules: unknown@1}]\n"
    workflow = parse(flow, {"rules/refund-policy@2026-10.yaml": TABLE})
    assert rules.table(workflow, "refund-policy@2026-10").version == "2026-10"
    with pytest.raises(NotFound, match="unknown@1"):
        rules.table(workflow, "unknown@1")
    renamed = parse(flow, {"rules/refund-policy@2026-10.yaml": TABLE.replace("2026-10", "2026-11")})
    with pytest.raises(Invalid, match="it holds 'refund-policy@2026-11'"):
        rules.table(renamed, "refund-policy@2026-10")


def test_the_shipped_table_decides() -> None:
    folder = Path(rules.__file__).parents[1] / "templates" / "support-reply"
    path = next(folder.rglob("refund-policy@2026-11.yaml"))
    table = rules.read(path.read_text(encoding="utf-8"), path.name)
    asked: JSON = {"category": "refund", "confidence": 1, "tier": "pro"}
    assert rules.decide(table, asked)["route"] == "expert"
    assert rules.decide(table, {"category": "legal", "confidence": 0.4, "tier": "pro"})["priority"] == "high"
