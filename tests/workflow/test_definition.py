"""Definitions: what the language accepts, what it refuses and where, and the pinned copy of it."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from pathlib import Path

import jsonschema
import pytest
import yaml

from metier.errors import Invalid, NotFound
from metier.workflow import definition, editor, flow_kinds, grammar, kinds
from metier.workflow.definition import OnError, Retry, RunBudget, accept, from_data, load, parse, seconds, to_data

SHIPPED = Path(definition.__file__).parents[1] / "templates" / "support-reply" / "flow.yaml"
FLOW = """
flow: reply
schema: 1
inputs: {email: string, language: {type: string, default: fr}}
budget: {per_run_eur: 0.05, on_exceed: human}
defaults: {retry: {max: 3, backoff: constant, first: 500ms}, timeout: 60s}
steps:
  - {id: customer, tool: crm.find_contact, with: {email: "{{ inputs.email }}"}, on_error: {output: {tier: a}}, retry: 0}
  - {id: docs, retrieve: {collection: sav, query: "{{ inputs.email }}", top_k: 6}}
  - id: route
    switch:
      - when: inputs.email == ''
        steps: [{end: empty}]
      - else: [{id: handoff, human: {assign: group:sav, title: Voir, due: 1d}}]
  - id: refine
    loop: {max: 3, until: steps.draft.ok, keep: "1"}
    steps:
      - id: draft
        llm: {model: writer, prompt: prompts/draft.md}
        with: {email: "{{ inputs.email }}"}
        output: {ok: boolean}
        budget: 0.01
        mock: {ok: true}
  - {id: done, when: steps.draft.ok, end: {status: finished, output: {ok: true}}}
output: {ok: "{{ steps.draft.ok }}"}
tests:
  - {name: all is well, inputs: {email: a}, mock: {"refine#1.draft": {ok: true}}, expect: [output.ok, status == 'done']}
"""
FILES = {"prompts/draft.fr.md": "Réponds à {{ email }}", "prompts/draft.en.md": "Answer {{ email }}"}


def refused(text: str) -> str:
    with pytest.raises(Invalid) as caught:
        parse(text, FILES)
    return caught.value.message


def test_a_whole_workflow_is_read_to_data() -> None:
    workflow = parse(FLOW, FILES)
    assert [step.id for step in workflow.walk()] == [
        "customer",
        "docs",
        "route",
        "end_1",
        "handoff",
        "refine",
        "draft",
        "done",
    ]
    assert workflow.budget == RunBudget(Decimal("0.05"), "human")
    customer, docs, route, refine, done = workflow.steps
    assert customer.retry == Retry(0, "exponential", 1.0)
    assert customer.on_error == OnError({"tier": "a"}, "continue")
    assert docs.retry == Retry(3, "constant", 0.5)
    assert docs.timeout_s == 60
    assert docs.with_ == {"query": "{{ inputs.email }}"}
    assert [branch.when for branch in route.branches] == ["inputs.email == ''", None]
    assert route.branches[0].steps[0].config == {"status": "empty", "output": None}
    assert route.retry is None
    assert refine.config == {"max": 3, "until": "steps.draft.ok", "keep": "1"}
    assert refine.steps[0].budget_eur == Decimal("0.01")
    assert refine.steps[0].mock == {"ok": True}
    assert done.config == {"status": "finished", "output": {"ok": True}}
    assert set(workflow.files) == set(FILES)
    assert str(customer.mark) == "flow.yaml:8:5"
    assert str(customer.marks["with/email"]).startswith("flow.yaml:8:")
    assert workflow.tests[0].mock == {"refine#1.draft": {"ok": True}}


def test_the_pinned_copy_gives_the_same_workflow() -> None:
    workflow = parse(FLOW, FILES)
    assert from_data(json.loads(json.dumps(to_data(workflow)))) == workflow


def test_a_damaged_or_newer_copy_is_refused() -> None:
    data = to_data(parse(FLOW, FILES))
    with pytest.raises(Invalid, match="format 3"):
        from_data({**data, "format": 3})
    with pytest.raises(Invalid, match="damaged"):
        from_data({**data, "steps": [{"id": "x"}]})


def test_the_hash_is_of_what_a_run_depends_on() -> None:
    original = parse(FLOW, FILES).hash
    assert parse("# a comment\n" + FLOW.replace("all is well", "renamed"), FILES).hash == original
    assert parse(FLOW.replace("top_k: 6", "top_k: 5"), FILES).hash != original
    assert parse(FLOW, {**FILES, "prompts/draft.en.md": "Other"}).hash != original
    assert (
        parse(
            FLOW.replace(
                "email: string, language: {type: string, default: fr}",
                "language: {type: string, default: fr}, email: string",
            ),
            FILES,
        ).hash
        != original
    )


def test_defaults_are_for_work_and_end_no_wait_of_a_person_or_an_event() -> None:
    steps = """
flow: paying
schema: 1
defaults: {retry: 2, timeout: 1s, on_error: continue}
steps:
  - {id: work, tool: crm.find_contact, with: {email: a}, output: object}
  - {id: paid, wait: {event: invoice.paid}}
  - {id: late, wait: {event: invoice.paid}, timeout: 30d}
  - {id: seen, human: {assign: group:sav, title: Voir}}
  - {id: sub, call: {flow: "refund@1"}}
"""
    work, *others = parse(steps, {}).steps
    assert (work.timeout_s, work.retry) == (1, Retry(2, "exponential", 1.0))
    assert work.on_error is not None and work.on_error.then == "continue"
    assert [one.timeout_s for one in others] == [None, 30 * 86400, None, None]
    assert [(one.retry, one.on_error) for one in others] == [(None, None)] * 4


def test_inputs_are_accepted_with_their_defaults() -> None:
    workflow = parse(FLOW, FILES)
    assert accept(workflow, {"email": "a"}) == {"email": "a", "language": "fr"}
    with pytest.raises(Invalid, match="did you mean 'email'"):
        accept(workflow, {"email": "a", "emial": "b"})


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("tool: crm.find_contact", "tol: crm.find_contact", "flow.yaml:8:20: unknown kind 'tol'; did you mean 'tool'?"),
        ("with: {email", "wth: {email", "unknown key 'wth' in step 'customer'; did you mean 'with'?"),
        (
            'output: {ok: "',
            'onput: {ok: "',
            "flow.yaml:25:1: unknown key 'onput' in a workflow; did you mean 'output'?",
        ),
        ("tool: crm.find_contact,", "tool: a.b, code: c,", "exactly one kind; this one has 'tool' and 'code'"),
        ("retry: 0", "cache: often", "cannot read the length of time 'often'"),
        ("id: docs", "id: customer", "id 'customer' is here twice; the first is at flow.yaml:8:10"),
        ("id: docs", "id: handoff", "id 'handoff' is here twice"),
        ("id: docs", "id: my-docs", "an id is lower case letters"),
        ("id: docs", "id: steps", "is a word of expressions"),
        ("id: docs, ", "", "a step needs 'id'"),
        ("top_k: 6", "topk: 6", "unknown key 'topk' in retrieve of step 'docs'; did you mean 'top_k'?"),
        ("top_k: 6", "top_k: 600", "must be a whole number between 1 and 50, not 600"),
        ("top_k: 6", "top_k: 6, top_k: 7", "the key 'top_k' is here twice"),
        ("due: 1d", "due: tomorrow", "cannot read the length of time 'tomorrow'; write 60s, 10m, 4h or 1d"),
        ("assign: group:sav", "assign: sav", "write group:<name> or user:<name>"),
        ("until: steps.draft.ok", "until: steps.draft.", "cannot read the expression 'steps.draft.'"),
        ("until: steps.draft.ok", "until: '{{ steps.draft.ok }}'", "write it without the double braces"),
        ('{ inputs.email }}"}, on', '{ inputs.email }"}, on', "is never closed"),
        ("max: 3, until", "max: 3000, until", "must be a whole number between 1 and 50"),
        ("prompts/draft.md", "../draft.md", "must be a relative path inside the folder"),
        ("prompts/draft.md", "/etc/passwd", "must be a relative path inside the folder"),
        ("prompts/draft.md", "prompts/other.md", "there is no file 'prompts/other.md' beside the workflow"),
        ("schema: 1", "schema: 2", "schema must be 1, not 2"),
        ("flow: reply", "flow: Reply", "a name is lower case"),
        ("per_run_eur: 0.05", "per_run_eur: -1", "must be more than 0"),
        ("retry: 0", "budget: much", "cannot read the sum of money 'much'"),
        ("- else: [", "- otherwise: [", "unknown key 'otherwise'"),
        (
            "- when: inputs.email == ''\n        steps: [{end: empty}]",
            "- else: [{end: empty}]",
            "a branch after 'else'",
        ),
        ("end: {status: finished", "end: {status: All Done", "write one word in lower case"),
        ("expect: [output.ok", "expect: [output.", "not CEL"),
        ("refine#1.draft", "refine[x].draft", "write the path of a step"),
        ("inputs: {email: string,", "inputs: {email: strng,", "did you mean 'string'"),
        ("handoff, human:", "handoff, with: {}, human:", "unknown key 'with' in step 'handoff'"),
    ],
)
def test_a_mistake_is_refused_with_its_place_and_what_to_do(old: str, new: str, message: str) -> None:
    assert FLOW.count(old) >= 1
    said = refused(FLOW.replace(old, new, 1))
    assert message in said
    assert re.match(r"flow\.yaml:\d+:\d+: ", said)


def test_every_mistake_is_said_at_once() -> None:
    said = refused(
        "flow: x\nschema: 1\nsteps:\n- {id: a, tol: b}\n- {id: b, tool: c, wen: true}\n- {id: c, tool: '?'}\n"
    )
    assert [line.split(":")[1] for line in said.splitlines()] == ["4", "5", "6"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x [1]\nb: *x", "flow.yaml:1:4: anchors (&x) are not supported"),
        ("a: *x", "aliases (*x) are not supported"),
        ("a: !!python/object:os.system x", "tags (tag:yaml.org,2002:python/object:os.system) are not supported"),
        ("a: {<<: {b: 1}}", "merge keys"),
        ("a: 1\n---\nb: 2", "one document"),
        ("", "it is empty"),
        ("a: [1", "flow.yaml:1:6: cannot read the YAML"),
        ("a: \x01", "cannot read the YAML"),
        ("a: 99999999999999999999", "64 bits"),
        ("a: 1e999", "too large"),
        ("[" * 50, "more than 40 levels"),
        ("- a\n" * 21_000, "more than 20000 values"),
        ("x" * 300_000, "more than 262144"),
        ("- a", "a workflow must be a mapping"),
        ("a: \ud800", "the character U+D800 cannot be in YAML"),
    ],
)
def test_yaml_that_could_surprise_is_refused(text: str, message: str) -> None:
    assert message in refused(text)


def test_a_place_is_the_one_an_editor_shows() -> None:
    # YAML counts these two as ends of lines; editors do not.
    odd = 'flow: x\r\nschema: 1\r\ntitle: "a\u2028b\u0085c"\r\nsteps: [{id: a, cod: reply}]\r\n'
    with pytest.raises(Invalid, match=r"^flow\.yaml:4:17: unknown kind 'cod'"):
        parse(odd, {})
    with pytest.raises(Invalid, match=r"^flow\.yaml:2:4: cannot read the YAML: the character U\+D800 "):
        parse("flow: x\n# \u00e9\ud800\n", {})


def test_words_and_dates_stay_what_people_wrote() -> None:
    values = "{c: no, d: 2026-10-01, e: 1:30, f: 010, g: on, h: .inf}"
    workflow = parse(f"flow: x\nschema: 1\nsteps:\n- id: a\n  tool: b\n  with: {values}\n", {})
    assert workflow.steps[0].with_ == {"c": "no", "d": "2026-10-01", "e": "1:30", "f": 10, "g": "on", "h": ".inf"}


def test_files_are_read_from_the_folder_and_from_nowhere_else(tmp_path: Path) -> None:
    folder = tmp_path / "flow"
    (folder / "prompts").mkdir(parents=True)
    (folder / "flow.yaml").write_text("\ufeff" + FLOW, encoding="utf-8")
    for name, text in FILES.items():
        (folder / name).write_text(text, encoding="utf-8")
    assert load(folder / "flow.yaml").hash == parse(FLOW, FILES).hash
    (tmp_path / "secret.md").write_text("secret", encoding="utf-8")
    (folder / "prompts" / "draft.de.md").symlink_to(tmp_path / "secret.md")
    with pytest.raises(Invalid, match="leads out of the folder"):
        load(folder / "flow.yaml")


def test_a_file_that_is_not_utf8_is_refused_at_its_byte(tmp_path: Path) -> None:
    path = tmp_path / "flow.yaml"
    path.write_bytes("flow: x\ntitle: é".encode("latin-1"))
    with pytest.raises(Invalid, match=r"flow\.yaml:2:8: .*0xe9 is not UTF-8"):
        load(path)
    path.write_bytes(b"\xef\xbb\xbftitle: " + "é".encode() + b"\xe9")
    with pytest.raises(Invalid, match=r"flow\.yaml:1:9: .*0xe9 is not UTF-8"):
        load(path)
    path.write_bytes("flow: x".encode("utf-16"))
    with pytest.raises(Invalid, match="UTF-16"):
        load(path)
    with pytest.raises(NotFound, match="no such file"):
        load(tmp_path / "nope.yaml")


def test_lengths_of_time_are_read() -> None:
    assert [seconds(text) for text in ("500ms", "60s", "10m", "4h", "1d", "2w", "1.5h")] == [
        0.5,
        60,
        600,
        14400,
        86400,
        1209600,
        5400,
    ]
    for wrong in ("0s", "5", "1y", "-1h", 60, None, "9999w"):
        with pytest.raises(Invalid):
            seconds(wrong)


def test_the_schema_for_editors_accepts_what_the_reader_accepts() -> None:
    schema = editor.schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    checker = jsonschema.Draft202012Validator(schema)
    for text in (FLOW, SHIPPED.read_text(encoding="utf-8")):
        assert list(checker.iter_errors(yaml.safe_load(text))) == []


def test_the_schema_for_editors_knows_every_key_of_the_reader() -> None:
    schema = json.loads(json.dumps(editor.schema()))
    assert set(schema["properties"]) == set(grammar.FLOW_KEYS)
    steps = {next(iter(set(one["properties"]) & set(kinds.KIND_KEYS))): one for one in schema["$defs"]["step"]["oneOf"]}
    assert set(steps) == set(kinds.KIND_KEYS)
    for kind, one in steps.items():
        assert set(one["properties"]) == {"id", kind, *grammar.ALLOWED[kind]}
    for kind, keys in (
        ("llm", kinds.LLM_KEYS),
        ("retrieve", kinds.RETRIEVE_KEYS),
        ("human", kinds.HUMAN_KEYS),
        ("loop", flow_kinds.LOOP_KEYS),
        ("agent", kinds.AGENT_KEYS),
        ("call", flow_kinds.CALL_KEYS),
    ):
        assert set(steps[kind]["properties"][kind]["properties"]) == set(keys)
