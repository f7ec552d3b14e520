"""The Python builder: what it emits is what the YAML says, whatever the texts in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metier.errors import Invalid
from metier.workflow import builder, definition
from metier.workflow.builder import (
    Part,
    Written,
    branch,
    end,
    flow,
    foreach,
    loop,
    otherwise,
    parallel,
    section,
    step,
    switch,
)
from metier.workflow.definition import load, parse
from metier.workflow.lint import lint
from metier.workflow.yaml_source import read as read_yaml

TEMPLATES = Path(definition.__file__).parents[1] / "templates"
QUICK = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
# Texts that YAML would take for something else, and any others; none opens an expression.
TEXTS = st.sampled_from(
    [
        "no",
        "1e5",
        "010",
        "~",
        "",
        " a",
        "a: b",
        "- a",
        "# a",
        "2026-10-01",
        "1:30",
        "é\n b",
        "a\n",
        "\n",
        "'",
        '"',
        "null",
    ]
) | st.text(st.characters(exclude_categories=["Cs"]), max_size=20).filter(lambda text: "{{" not in text)
KEYS = TEXTS.filter(lambda key: key != "<<")
NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=5,
)
LEAVES = st.one_of(
    st.builds(lambda given: step("x", code="reply", with_={"a": given}, mock=given), VALUES),
    st.builds(lambda given: step("x", tool="crm.find", with_={"b": given}, cache="10m", retry=2), VALUES),
    st.builds(lambda given: step("x", emit={"event": "a.b", "key": "k"}, with_={"data": given}), VALUES),
    st.just(step("x", wait={"for": "2h"})),
)


def _named(steps: list[Written], prefix: str) -> tuple[Written, ...]:
    """Give every step, the nested ones too, an id of its own."""
    text = json.dumps([dict(one.data) for one in steps])
    for number in range(text.count('"id": "x"')):
        text = text.replace('"id": "x"', f'"id": "{prefix}{number}"', 1)
    return tuple(Written(one) for one in json.loads(text))


def _nested(inner: st.SearchStrategy[Written]) -> st.SearchStrategy[Written]:
    bodies = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        bodies.map(lambda steps: loop("x", *steps, max=2, until="loop.turn > 1")),
        bodies.map(lambda steps: foreach("x", *steps, times=3, give={"n": "{{ items.size() }}"})),
        st.tuples(bodies, bodies).map(
            lambda both: switch("x", branch("run.id == 'a'", *both[0]), otherwise(*both[1]), on_error="continue")
        ),
        st.tuples(bodies, bodies).map(
            lambda both: parallel("x", section("a", *both[0]), section("b", *both[1]), concurrency=1)
        ),
    )


STEPS = st.lists(st.recursive(LEAVES, _nested, max_leaves=4), min_size=1, max_size=3)


@QUICK
@given(STEPS, VALUES)
def test_what_is_built_is_read_back_the_same(steps: list[Written], output: Any) -> None:
    built = flow("any", inputs={"a": "string"}, output=output).add(*_named(steps, "s"))
    written = built.source()
    read = parse(written, {})
    assert read_yaml(written, "flow.yaml").data() == json.loads(json.dumps(built.data()))
    again = builder.read(written)
    assert again.data() == json.loads(json.dumps(built.data()))
    assert again.source() == written
    assert again.workflow().hash == read.hash


@pytest.mark.parametrize("path", sorted(TEMPLATES.glob("*/flow.yaml")), ids=lambda path: path.parent.name)
def test_shipped_workflows_go_through_the_builder_unchanged(path: Path) -> None:
    original = load(path)
    again = builder.read(original.source)
    assert parse(again.source(), original.files).hash == original.hash


def test_a_flow_reads_like_the_one_written_by_hand() -> None:
    built = (
        flow("claims", inputs={"claims": "string[]"}, output={"done": "{{ steps.answers.count }}"})
        .trigger("cron", at="0 8 * * *", with_={"claims": []})
        .add(
            foreach(
                "answers",
                step("draft", llm={"model": "writer", "prompt": "p.md"}, with_={"claim": "{{ item }}"}),
                over="{{ inputs.claims }}",
                max=20,
                on_item_error="collect",
            ),
        )
        .step("pause", wait={"for": "2h"})
        .add(end("finished", when="steps.answers.failed == 0"))
        .test("none", inputs={"claims": []}, mock={"answers[0].draft": {"text": "a"}}, expect=["status == 'finished'"])
    )
    by_hand = """
flow: claims
schema: 1
inputs: {claims: "string[]"}
triggers: [{cron: {at: 0 8 * * *, with: {claims: []}}}]
steps:
  - id: answers
    foreach: {over: "{{ inputs.claims }}", max: 20, on_item_error: collect}
    steps: [{id: draft, llm: {model: writer, prompt: p.md}, with: {claim: "{{ item }}"}}]
  - {id: pause, wait: {for: 2h}}
  - {when: steps.answers.failed == 0, end: finished}
output: {done: "{{ steps.answers.count }}"}
tests:
  - name: none
    inputs: {claims: []}
    mock: {"answers[0].draft": {text: a}}
    expect: [status == 'finished']
"""
    files = {"p.md": "{{ claim }}"}
    workflow = built.workflow(files)
    assert workflow.hash == parse(by_hand, files).hash
    assert workflow.triggers[0].config == {"at": "0 8 * * *"}
    assert lint(workflow) == ()


def test_mistakes_are_said_where_they_are_made() -> None:
    with pytest.raises(Invalid, match="'retrys' is unknown to a code step; did you mean 'retry'"):
        step("a", code="f", retrys=3)
    with pytest.raises(Invalid, match="'with' does not belong to a human step"):
        step("a", human={}, with_={})
    with pytest.raises(Invalid, match="exactly one kind, and has none"):
        step("a", when="true")
    with pytest.raises(Invalid, match="unknown key 'input'; did you mean 'inputs'"):
        flow("a", input={})
    with pytest.raises(Invalid, match="there is none; did you mean 'email'"):
        flow("a").trigger("mail")
    with pytest.raises(Invalid, match="not JSON"):
        flow("a", output=float("nan")).step("b", code="f").source()
    with pytest.raises(Invalid, match="must be a list of mappings"):
        builder.read("flow: x\nsteps: {a: 1}\n")
    with pytest.raises(Invalid, match="at least one step"):
        flow("a").workflow()
    with pytest.raises(Invalid, match=r"^flow\.yaml:2:1: unknown key 'step' in a workflow; did you mean 'steps'"):
        builder.read("flow: x\nstep: []\n")
    listed: Any = [step("a", code="f")]
    with pytest.raises(Invalid, match="it is no step"):
        flow("a").add(listed).source()


def test_a_part_is_plain_data() -> None:
    assert otherwise(end("out")) == Part({"else": [{"end": "out"}]})
    assert end("out", output={"a": 1}, id="stop").data == {"id": "stop", "end": {"status": "out", "output": {"a": 1}}}
