"""The linter: what would fail in a run is found before it, with its place and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from metier.workflow import definition
from metier.workflow.definition import load, parse
from metier.workflow.lint import Finding, Known, lint

SHIPPED = Path(definition.__file__).parents[1] / "templates" / "support-reply" / "flow.yaml"
TABLE = """
rules: refund
version: 1
inputs: {category: string, tier: string}
outputs: {route: {enum: [auto, expert]}}
rows: [{then: {route: auto}}]
"""
FLOW = """
flow: reply
schema: 1
inputs: {email: string, amount: number}
steps:
  - id: classify
    model: intent@3
    with: {text: "{{ inputs.email }}"}
    output: {category: {enum: [refund, legal]}, confidence: number}
  - id: policy
    rules: refund@1
    with: {category: "{{ steps.classify.category }}", tier: gold}
    output: {route: {enum: [auto, expert]}}
  - id: route
    switch:
      - when: steps.policy.route == 'expert'
        steps:
          - {id: handoff, human: {assign: group:sav, title: See, show: [inputs.email]}}
          - {end: {status: handed, output: 1}}
  - {id: docs, retrieve: {collection: sav, query: "{{ inputs.email }}"}}
  - id: refine
    loop: {max: 3, until: steps.grade.score >= 8, keep: steps.grade.score}
    steps:
      - id: draft
        llm: {model: writer, prompt: draft.md}
        with: {docs: "{{ steps.docs.hits }}", critique: "{{ steps.grade == null ? '' : steps.grade.critique }}"}
        output: {body: string}
      - id: grade
        llm: {model: judge, prompt: grade.md}
        with: {draft: "{{ steps.draft.body }}"}
        output: {score: integer, critique: string}
  - id: approve
    human: {assign: group:sav, title: "About {{ inputs.email }}", edit: steps.draft}
    output: {decision: {enum: [approve, reject]}, edited: {body: string}}
  - id: send
    when: steps.approve.decision == 'approve'
    tool: email.send
    with: {body: "{{ steps.approve.edited.body }}"}
    output: {message_id: string}
output: {sent: "{{ steps.send != null }}", score: "{{ steps.grade.score }}"}
tests:
  - name: sent
    inputs: {email: a, amount: 1}
    mock: {"refine#1.draft": {body: b}, send: {message_id: m}}
    expect: [output.sent, steps.send.message_id == 'm', status == 'done']
"""
FILES = {"draft.md": "{{ docs }} {{ critique }}", "grade.md": "{{ draft }}", "rules/refund@1.yaml": TABLE}
KNOWN = Known(
    models={"writer", "judge"},
    classifiers={"intent@3"},
    rules=set(),
    collections={"sav"},
    tools={"email.send"},
    code=set(),
)


def found(old: str = "", new: str = "", files: dict[str, str] = FILES) -> tuple[Finding, ...]:
    assert old in FLOW
    return lint(parse(FLOW.replace(old, new, 1) if old else FLOW, files), KNOWN)


def test_a_good_workflow_has_no_findings() -> None:
    assert found() == ()


def test_the_shipped_template_has_no_findings() -> None:
    assert lint(load(SHIPPED)) == ()


@pytest.mark.parametrize(
    ("old", "new", "code", "message", "suggestion"),
    [
        (
            "steps.classify.category }}",
            "steps.classify.categry }}",
            "unknown-field",
            "has no field 'categry'",
            "'category'",
        ),
        ("steps.docs.hits }}", "steps.dosc.hits }}", "unknown-step", "there is no step 'dosc'", "'docs'"),
        ('text: "{{ inputs.email', 'text: "{{ inputs.emial', "unknown-field", "has no field 'emial'", "'email'"),
        ('text: "{{ inputs.email', 'text: "{{ input.email', "unknown-name", "there is no 'input' here", "'inputs'"),
        ('text: "{{ inputs.email', 'text: "{{ steps.docs.hits', "later-step", "'steps.docs' comes later", "move"),
        ("route == 'expert'", "route == 'experts'", "not-a-choice", "'experts' is none of its values", "'expert'"),
        ("score >= 8", "score >= '8'", "wrong-type", "cannot compare integer >= string", ""),
        ("until: steps.grade.score >= 8", "until: steps.grade.score", "not-a-condition", "gives integer", ""),
        ("keep: steps.grade.score", "keep: steps.grade.critique", "not-a-score", "gives string", "greatest"),
        ("steps.draft.body }}", "steps.draft.body.text }}", "no-fields", "is string, which has no field 'text'", ""),
        ("{{ steps.draft.body }}", "{{ lower(inputs.amount) }}", "wrong-type", "lower needs a string", ""),
        (
            "{{ steps.draft.body }}",
            "{{ inputs.email + inputs.amount }}",
            "wrong-type",
            "cannot compute string + number",
            "string()",
        ),
        ('critique: "{{', 'critic: "{{', "unknown-variable", "uses 'critique'", "'critic'"),
        ("tier: gold", "teir: gold", "missing-input", "asks for 'tier'", "add tier"),
        ("tier: gold", "tier: gold, teir: x", "unknown-input", "does not ask for 'teir'", "'tier'"),
        ("tier: gold", 'tier: "{{ inputs.amount }}"', "wrong-type", "must be string, and this is number", ""),
        (
            "route: {enum: [auto, expert]}}\n  - id: route",
            "way: string}\n  - id: route",
            "wrong-output",
            "does not fit refund@1",
            "declare",
        ),
        ("refund@1\n", "refund@2\n", "unknown-decision-table", "there is no decision-table 'refund@2'", ""),
        ("intent@3", "intent@4", "unknown-classifier", "there is no classifier 'intent@4'", "'intent@3'"),
        ("model: writer", "model: writr", "unknown-model", "there is no model 'writr'", "'writer'"),
        ("collection: sav", "collection: sva", "unknown-collection", "'sva'", "'sav'"),
        ("tool: email.send", "tool: mail.send", "unknown-tool", "'mail.send'", "'email.send'"),
        ("decision: {enum: [approve, reject]}, ", "", "no-decision", "has no 'decision'", "add decision"),
        (
            "edit: steps.draft}",
            "edit: steps.draft, due: 4h, on_timeout: {output: {decision: approve, edited: '{{ steps.darft }}'}}}",
            "unknown-step",
            "there is no step 'darft'",
            "'draft'",
        ),
        (
            "edit: steps.draft}",
            "edit: steps.draft, due: 4h, on_timeout: {reassign: 'group:{{ inputs.emial }}'}}",
            "unknown-field",
            "has no field 'emial'",
            "'email'",
        ),
        (
            "edit: steps.draft}",
            "edit: steps.draft, due: 4h, on_timeout: {output: {decision: later}}}",
            "wrong-output",
            "on_timeout.output of step 'approve'",
            "",
        ),
        (", edited: {body: string}", "", "no-edited", "has no 'edited'", "add edited"),
        (
            "{end: {status: handed, output: 1}}",
            "{end: handed}",
            "end-output",
            "'steps.grade' is null here",
            "output: {…}",
        ),
        (
            "output: 1}}\n",
            "output: 1}}\n          - {id: x, tool: email.send}\n",
            "unreachable",
            "'x' is never reached",
            "remove",
        ),
        ("send: {message_id: m}", "sned: {}", "unknown-path", "pretends 'sned'", "'send'"),
        ("send: {message_id: m}", "send: {id: m}", "wrong-output", "'send' in test 'sent'", ""),
        ("inputs: {email: a, amount: 1}", "inputs: {email: a}", "wrong-inputs", "missing 'amount'", ""),
        (
            "steps.send.message_id == 'm'",
            "steps.send.message == 'm'",
            "unknown-field",
            "has no field 'message'",
            "'message_id'",
        ),
        (
            "output: {message_id: string}\n",
            "output: {message_id: string}\n    on_error: {output: {}}\n",
            "wrong-output",
            "missing 'message_id'",
            "",
        ),
    ],
)
def test_a_mistake_is_an_error_with_a_suggestion(old: str, new: str, code: str, message: str, suggestion: str) -> None:
    matching = [one for one in found(old, new) if one.code == code and message in one.message]
    assert matching, found(old, new)
    assert matching[0].severity == "error"
    assert suggestion in matching[0].suggestion
    assert matching[0].file == "flow.yaml"
    assert matching[0].line > 1


@pytest.mark.parametrize(
    ("old", "new", "code", "message"),
    [
        (", keep: steps.grade.score", "", "no-keep", "keeps its last turn"),
        (
            "{{ steps.grade == null ? '' : steps.grade.critique }}",
            "{{ steps.grade.critique }}",
            "may-be-null",
            "has not run yet in the first turn",
        ),
        (
            'sent: "{{ steps.send != null }}"',
            'sent: "{{ steps.send.message_id }}"',
            "may-be-null",
            "step 'send' has a 'when'",
        ),
        ("with: {draft:", "with: {more: 1, draft:", "unused-variable", "'more' of step 'grade'"),
        ("route == 'expert'", "route == 3", "never-equal", "string == integer is always false"),
        (
            "steps.approve.decision == 'approve'",
            "inputs.email == 3",
            "never-equal",
            "string == integer is always false",
        ),
    ],
)
def test_what_is_doubtful_is_a_warning(old: str, new: str, code: str, message: str) -> None:
    matching = [one for one in found(old, new) if one.code == code and message in one.message]
    assert [one.severity for one in matching] == ["warning"], found(old, new)


@pytest.mark.parametrize(
    "guarded",
    [
        "{{ steps.send == null ? '' : steps.send.message_id }}",
        "{{ steps.send != null ? steps.send.message_id : '' }}",
        "{{ steps.send != null && steps.send.message_id == 'm' }}",
        "{{ steps.send == null || steps.send.message_id == 'm' }}",
        "{{ !(steps.send == null) && steps.send.message_id == 'm' }}",
        "{{ has(steps.send.message_id) ? steps.send.message_id : '' }}",
    ],
)
def test_a_step_that_was_compared_with_null_is_known_to_be_there(guarded: str) -> None:
    assert found("{{ steps.send != null }}", guarded) == ()


def test_a_step_in_a_branch_that_goes_on_may_be_null_after_it() -> None:
    flow = """
flow: x
schema: 1
inputs: {n: integer}
steps:
  - id: way
    switch:
      - when: inputs.n > 1
        steps: [{id: a, tool: t, output: {v: string}}, {id: b, tool: t, with: {v: "{{ steps.a.v }}"}}]
  - {id: c, tool: t, with: {v: "{{ steps.a.v }}"}}
  - {id: d, when: steps.a != null, tool: t, with: {v: "{{ steps.a.v }}"}}
"""
    warnings = lint(parse(flow, {}))
    assert [(one.code, one.line, one.severity) for one in warnings] == [("may-be-null", 10, "warning")]
    assert "branch 1 of switch 'way'" in warnings[0].message


def test_a_step_in_a_branch_that_ended_the_run_is_always_null_after_it() -> None:
    flow = """
flow: x
schema: 1
inputs: {n: integer}
steps:
  - id: way
    switch: [{when: inputs.n > 1, steps: [{id: a, tool: t, output: {v: string}}, {end: stopped}]}]
  - {id: c, tool: t, with: {v: "{{ steps.a.v }}"}}
"""
    assert [one.code for one in lint(parse(flow, {}))] == ["always-null"]


def test_when_every_branch_ends_nothing_after_it_is_reached() -> None:
    flow = """
flow: x
schema: 1
steps:
  - id: way
    switch: [{when: run.id == 'a', steps: [{end: one}]}, {else: [{end: two}]}]
  - {id: c, tool: t}
"""
    assert [(one.code, one.line) for one in lint(parse(flow, {}))] == [("unreachable", 7)]


def test_a_field_that_is_not_required_needs_has() -> None:
    flow = "flow: x\nschema: 1\ninputs: {{a?: string}}\nsteps: [{{id: c, tool: t, with: {{v: '{}'}}}}]\n"
    assert [one.code for one in lint(parse(flow.format("{{ inputs.a }}"), {}))] == ["may-be-missing"]
    assert lint(parse(flow.format('{{ has(inputs.a) ? inputs.a : "" }}'), {})) == ()


def test_elements_of_lists_are_known_too() -> None:
    flow = (
        "flow: x\nschema: 1\nsteps: [{id: d, retrieve: {collection: c, query: q}}, {id: c, tool: t, with: {v: '%s'}}]\n"
    )
    assert lint(parse(flow % "{{ steps.d.hits.map(h, h.text) }}", {})) == ()
    assert [one.code for one in lint(parse(flow % "{{ steps.d.hits.map(h, h.txt) }}", {}))] == ["unknown-field"]
    assert [one.code for one in lint(parse(flow % "{{ steps.d.hits[0].txt }}", {}))] == ["unknown-field"]


@pytest.mark.parametrize(
    ("expr", "code", "message"),
    [
        ("loop.turn", "always-null", "'loop' is null here: this step is in no loop"),
        ("inputs.text[0]", "wrong-type", "cannot take an element of string"),
        ("-inputs.text", "wrong-type", "cannot negate string"),
        ("'a' in inputs.text", "wrong-type", "cannot look for something in string"),
        ("inputs.kind in ['a', 'c']", "not-a-choice", "'c' is none of its values, so it is never found"),
        ("inputs.text.matches('(')", "wrong-value", "this call always fails: '(' is not a regular expression of RE2"),
        ("in_zone(inputs.text, 'Paris')", "wrong-value", "this call always fails: in_zone knows no time zone 'Paris'"),
        ("timestamp('yesterday')", "wrong-value", "this call always fails: timestamp cannot read 'yesterday'"),
    ],
)
def test_an_expression_that_would_always_fail_is_found(expr: str, code: str, message: str) -> None:
    (finding,) = expressed(expr)
    assert finding.code == code and message in finding.message and finding.severity == "error"


def test_has_says_that_everything_on_the_way_is_there() -> None:
    assert expressed("has(inputs.order.sum) ? inputs.order.sum : 0") == ()
    assert [finding.code for finding in expressed("inputs.order.sum")] == ["may-be-missing", "may-be-missing"]


def expressed(expr: str) -> tuple[Finding, ...]:
    head = "flow: x\nschema: 1\ninputs: {text: string, kind: {enum: [a, b]}, order?: {sum?: number}}\n"
    return lint(parse(f'{head}steps: [{{id: a, code: f, with: {{v: "{{{{ {expr} }}}}"}}}}]\n', {}))


def test_a_prompt_that_cannot_be_read_is_found() -> None:
    assert [one.code for one in found(files={**FILES, "grade.md": "{{ draft"})] == ["bad-prompt"]


def test_a_table_that_cannot_be_read_is_found() -> None:
    broken = {**FILES, "rules/refund@1.yaml": TABLE.replace("rows:", "row:")}
    assert "bad-rules" in [one.code for one in found(files=broken)]


def test_without_known_names_references_are_not_checked() -> None:
    assert lint(parse(FLOW, FILES)) == ()


def test_a_finding_reads_like_the_message_of_a_compiler() -> None:
    finding = Finding("flow.yaml", 3, 5, "unknown-step", "there is no step 'x'", "did you mean 'y'?", "error")
    assert str(finding) == "flow.yaml:3:5: error: there is no step 'x'; did you mean 'y'? [unknown-step]"
