"""Control flow, agents, events and triggers: what the language accepts, what it refuses, and what is pinned with it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from metier.calls import JSON
from metier.errors import Invalid, NotFound
from metier.workflow import editor
from metier.workflow.definition import Trigger, Workflow, embedded, from_data, load, parse, to_data

FLOW = """
flow: claims
schema: 1
inputs: {claims: "string[]", order: string}
triggers:
  - email: {mailbox: claims@exemple.fr, with: {order: "{{ event.subject }}", claims: []}, dedupe: event.message_id}
  - cron: {at: "0 8 * * 1-5", time_zone: Europe/Paris, when: event.day != 'holiday'}
  - api:
steps:
  - {id: customer, tool: crm.find_contact, with: {order: "{{ inputs.order }}"}, cache: 10m}
  - id: both
    parallel:
      - {name: legal, steps: [{id: law, llm: {model: writer, prompt: law.md}, output: {ok: boolean}}]}
      - {name: tone, steps: [{id: tone, llm: {model: writer, prompt: tone.md}, output: {ok: boolean}}]}
  - id: few
    parallel: {concurrency: 1, sections: [{name: a, steps: [{id: x, code: f}]}, {name: b, steps: [{id: y, code: f}]}]}
  - id: votes
    foreach: {times: 5, each: "{{ steps.vote.category }}", give: {category: "{{ majority(items) }}"}}
    steps:
      - {id: vote, llm: {model: writer, prompt: law.md}, output: {category: string}}
  - id: each_claim
    foreach: {over: "{{ inputs.claims }}", max: 20, concurrency: 5, on_item_error: collect, as: runs}
    steps:
      - {id: answer, code: reply, with: {claim: "{{ item }}", number: "{{ index }}"}}
  - id: helper
    agent:
      instructions: agents/sav.md
      model: writer
      tools: [crm.*, kb.search]
      approve: [email.send]
      max_turns: 8
      handoffs: {accounts: {instructions: agents/accounts.md, tools: [sql.read], handoffs: []}}
      conversation: "{{ inputs.order }}"
    with: {order: "{{ inputs.order }}"}
    output: {answer: string}
  - {id: pause, wait: {for: 2h}}
  - {id: morning, wait: {until: "{{ steps.helper.answer }}"}}
  - {id: paid, wait: {event: payment.received, key: "{{ inputs.order }}"}, timeout: 7d, on_error: continue}
  - {id: told, emit: {event: claim.closed, key: "{{ inputs.order }}"}, with: {order: "{{ inputs.order }}"}}
  - {id: refund, call: {flow: flows/refund.yaml}, with: {order: "{{ inputs.order }}"}, output: {done: boolean}}
  - {id: archived, call: {flow: archive@3}, with: {order: "{{ inputs.order }}"}}
output: {done: "{{ steps.refund.done }}"}
"""
REFUND = """
flow: refund
schema: 1
inputs: {order: string}
steps:
  - {id: text, llm: {model: writer, prompt: prompts/refund.md}, with: {order: "{{ inputs.order }}"}}
  - {id: rules, rules: refund@1, with: {}}
  - {id: deeper, call: {flow: inner/more.yaml}}
output: {done: true}
"""
FILES = {
    "law.md": "law",
    "tone.fr.md": "ton",
    "agents/sav.md": "Help.",
    "agents/accounts.md": "Count.",
    "flows/refund.yaml": REFUND,
    "flows/prompts/refund.md": "{{ order }}",
    "flows/rules/refund@1.yaml": "rules: refund\nversion: 1\ninputs: {}\noutputs: {a: any}\nrows: [{then: {a: b}}]\n",
    "flows/inner/more.yaml": "flow: more\nschema: 1\nsteps: [{end: done}]\n",
}


def whole() -> Workflow:
    return parse(FLOW, FILES)


def config(id: str) -> JSON:
    step = whole().step(id)
    assert step is not None
    return step.config


def refused(flow: str, files: dict[str, str] = FILES) -> str:
    with pytest.raises(Invalid) as caught:
        parse(flow, files)
    return caught.value.message


def one(step: str, files: dict[str, str] | None = None) -> str:
    return refused(f"flow: x\nschema: 1\nsteps:\n  - {step}\n", files or {})


def test_sections_are_branches_with_names() -> None:
    both, few = whole().step("both"), whole().step("few")
    assert both is not None and few is not None
    assert [(branch.name, branch.when, branch.steps[0].id) for branch in both.branches] == [
        ("legal", None, "law"),
        ("tone", None, "tone"),
    ]
    assert (both.config, few.config) == ({"concurrency": None}, {"concurrency": 1})


def test_items_are_bounded_and_say_what_they_give() -> None:
    assert config("votes") == {
        "max": 5,
        "times": 5,
        "concurrency": None,
        "on_item_error": "fail",
        "as": None,
        "each": "{{ steps.vote.category }}",
        "give": {"category": "{{ majority(items) }}"},
    }
    assert config("each_claim") == {
        "max": 20,
        "over": "{{ inputs.claims }}",
        "concurrency": 5,
        "on_item_error": "collect",
        "as": "runs",
    }


def test_an_agent_is_whole_with_those_it_hands_over_to() -> None:
    assert config("helper") == {
        "instructions": "agents/sav.md",
        "model": "writer",
        "tools": ["crm.*", "kb.search"],
        "approve": ["email.send"],
        "max_turns": 8,
        "conversation": "{{ inputs.order }}",
        "handoffs": {
            "accounts": {"instructions": "agents/accounts.md", "tools": ["sql.read"], "approve": [], "handoffs": []}
        },
    }


def test_waiting_events_and_calls() -> None:
    assert config("pause") == {"for": "2h"}
    assert config("morning") == {"until": "{{ steps.helper.answer }}"}
    assert config("paid") == {"event": "payment.received", "key": "{{ inputs.order }}"}
    assert config("told") == {"event": "claim.closed", "key": "{{ inputs.order }}"}
    assert config("archived") == {"flow": "archive@3"}
    customer = whole().step("customer")
    assert customer is not None and customer.cache_s == 600


def test_triggers_keep_what_their_kind_needs() -> None:
    email, cron, api = whole().triggers
    assert email == Trigger(
        "email",
        {"mailbox": "claims@exemple.fr"},
        {"order": "{{ event.subject }}", "claims": []},
        "event.message_id",
        None,
        email.mark,
    )
    assert (cron.config, cron.when) == ({"at": "0 8 * * 1-5", "time_zone": "Europe/Paris"}, "event.day != 'holiday'")
    assert (api.kind, api.config, str(api.mark)) == ("api", {}, "flow.yaml:8:5")


def test_the_pinned_copy_is_the_same_workflow() -> None:
    assert from_data(json.loads(json.dumps(to_data(whole())))) == whole()


def test_a_copy_of_the_first_format_is_still_read() -> None:
    old = parse("flow: x\nschema: 1\nsteps:\n- {id: a, switch: [{when: 'true', steps: [{end: b}]}]}\n", {})
    data = json.loads(json.dumps(to_data(old)))
    del data["triggers"]
    assert "cache_s" not in data["steps"][0] and "name" not in data["steps"][0]["branches"][0]
    assert from_data({**data, "format": 1}) == old


def test_the_hash_knows_caches_sections_and_called_workflows_but_not_triggers() -> None:
    before = whole().hash
    assert parse(FLOW.replace("cache: 10m", "cache: 11m"), FILES).hash != before
    assert parse(FLOW.replace("name: tone", "name: tune"), FILES).hash != before
    assert parse(FLOW, {**FILES, "flows/prompts/refund.md": "other"}).hash != before
    assert parse(FLOW.replace("  - api:\n", ""), FILES).hash == before


def test_a_called_workflow_is_pinned_with_its_own_files() -> None:
    assert set(whole().files) == set(FILES)
    copy = from_data(json.loads(json.dumps(to_data(whole()))))
    refund = embedded(copy, "flows/refund.yaml")
    assert refund.name == "refund"
    assert set(refund.files) == {"prompts/refund.md", "rules/refund@1.yaml", "inner/more.yaml"}
    assert embedded(refund, "inner/more.yaml").name == "more"
    with pytest.raises(NotFound, match="no such file"):
        embedded(copy, "flows/other.yaml")


def test_called_workflows_are_read_from_the_folder(tmp_path: Path) -> None:
    for name, text in {**FILES, "flow.yaml": FLOW}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert load(tmp_path / "flow.yaml").hash == whole().hash


def test_a_mistake_in_a_called_workflow_is_found_at_its_place() -> None:
    said = refused(FLOW, {**FILES, "flows/refund.yaml": REFUND.replace("model: writer", "modl: writer")})
    assert said.startswith("flows/refund.yaml:6:22: unknown key 'modl'")


def test_workflows_that_call_one_another_are_refused_with_their_way() -> None:
    flow = "flow: x\nschema: 1\nsteps: [{id: a, call: {flow: %s}}]\n"
    said = refused(flow % "one.yaml", {"one.yaml": flow % "two.yaml", "two.yaml": flow % "one.yaml"})
    assert said.startswith("two.yaml:3:30: step 'a': these workflows call one another without end")
    assert "one.yaml → two.yaml → one.yaml" in said
    assert "flow.yaml → flow.yaml" in refused(flow % "flow.yaml", {"flow.yaml": flow % "flow.yaml"})


def test_calls_are_bounded() -> None:
    flow = "flow: x\nschema: 1\nsteps: [{id: a, call: {flow: %s}}]\n"
    deep = {f"f{number}.yaml": flow % f"f{number + 1}.yaml" for number in range(9)}
    assert "more than 5 calls inside one another" in refused(flow % "f0.yaml", deep)
    steps = ", ".join(f"{{id: s{number}, call: {{flow: f{number}.yaml}}}}" for number in range(31))
    many = {f"f{number}.yaml": "flow: y\nschema: 1\nsteps: [{end: a}]\n" for number in range(31)}
    assert "more than 30 workflows" in refused(f"flow: x\nschema: 1\nsteps: [{steps}]\n", many)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("{id: a, foreach: {over: '{{ inputs.a }}'}, steps: [{id: b, code: f}]}", "with over needs 'max'"),
        ("{id: a, foreach: {max: 3}, steps: [{id: b, code: f}]}", "either 'over' (a list) or 'times'"),
        ("{id: a, foreach: {times: 3, max: 3}, steps: [{id: b, code: f}]}", "with times has no 'max'"),
        ("{id: a, foreach: {over: inputs.a, max: 3}, steps: [{id: b, code: f}]}", "an expression that gives one"),
        ("{id: a, foreach: {times: 20000}, steps: [{id: b, code: f}]}", "between 1 and 10000"),
        ("{id: a, foreach: {times: 2, on_item_error: skip}, steps: [{id: b, code: f}]}", "must be 'fail' or 'collect'"),
        ("{id: a, foreach: {times: 2, concurency: 2}, steps: [{id: b, code: f}]}", "did you mean 'concurrency'?"),
        ("{id: a, foreach: {times: 2}}", "is a foreach and needs 'steps'"),
        (
            "{id: a, parallel: [{name: b, steps: [{id: c, code: f}]}, {name: d, steps: [{end: out}]}]}",
            "an end inside a section would end the run",
        ),
        ("{id: a, parallel: [{name: b, steps: [{id: c, code: f}]}]}", "between 2 and 20 sections, not 1"),
        (
            "{id: a, parallel: [{name: b, steps: [{id: c, code: f}]}, {name: b, steps: [{id: d, code: f}]}]}",
            "two sections of step 'a' are named 'b'",
        ),
        (
            "{id: a, parallel: [{name: b, steps: [{id: c, code: f}]}, {steps: [{id: d, code: f}]}]}",
            "a section of step 'a' needs 'name'",
        ),
        ("{id: a, wait: {}}", "needs one of 'for'"),
        ("{id: a, wait: {for: soon}}", "cannot read the length of time 'soon'"),
        ("{id: a, wait: {until: tomorrow}}", "write 2026-10-01T08:30:00Z"),
        ("{id: a, wait: {for: 2h, key: x}}", "only belongs to an 'event'"),
        ("{id: a, wait: {event: Payment}}", "write it like payment.received"),
        ("{id: a, wait: {for: 2h}, with: {b: 1}}", "unknown key 'with'"),
        ("{id: a, emit: {key: x}}", "needs 'event'"),
        ("{id: a, call: {flow: ../other.yaml}}", "inside the folder"),
        ("{id: a, call: {flow: flows/other}}", "a file such as flows/refund.yaml"),
        ("{id: a, call: {flow: flows/other.yaml}}", "there is no workflow 'flows/other.yaml' beside this one"),
        ("{id: a, agent: {instructions: i.md}}", "needs 'model'"),
        ("{id: a, agent: {instructions: i.md, model: w}}", "there is no file 'i.md'"),
        ("{id: a, agent: {instructions: i.md, model: w, tools: [a, a]}}", "names 'a' twice"),
        ("{id: a, agent: {instructions: i.md, model: w, max_turns: 500}}", "between 1 and 50"),
        ("{id: a, agent: {instructions: i.md, model: w, handoffs: {}}}", "between 1 and 10 agents, not 0"),
        (
            "{id: a, agent: {instructions: i.md, model: w, handoffs: {b: {instructions: j.md, handoffs: [c]}}}}",
            "must be 'b', not 'c'",
        ),
        ("{id: a, wait: {for: 2h}, cache: 1h}", "unknown key 'cache'"),
    ],
)
def test_a_mistake_is_refused_with_its_place_and_what_to_do(step: str, message: str) -> None:
    said = one(step)
    assert message in said
    assert re.match(r"flow\.yaml:4:\d+: ", said)


@pytest.mark.parametrize(
    ("triggers", "message"),
    [
        ("{email: {}}", "triggers must be a list"),
        ("[{mail: {}}]", "4:5: unknown trigger 'mail'; did you mean 'email'?"),
        ("[{email: {}, cron: {}}]", "exactly one kind"),
        ("[{email: {}, with: {a: b}}]", "'with' stands inside 'email', beside its other options"),
        ("[{email: {when: 'a ='}}]", "not CEL"),
        ("[{email: {with: {a: '{{ }'}}}]", "is never closed"),
        ("[{email: 3}]", "the email trigger must be a mapping"),
    ],
)
def test_a_trigger_written_wrong_is_refused(triggers: str, message: str) -> None:
    assert message in refused(f"flow: x\nschema: 1\ntriggers:\n  {triggers}\nsteps: [{{end: a}}]\n", {})


def test_the_schema_for_editors_accepts_it_too() -> None:
    checker = jsonschema.Draft202012Validator(editor.schema())
    assert [error.message for error in checker.iter_errors(yaml.safe_load(FLOW))] == []
