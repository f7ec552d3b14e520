"""The commands that run workflows: lint, test, run, review, runs, worker, on a small workflow of one's own."""

from __future__ import annotations

import json
import os
import pathlib
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

import pytest

from metier.cli.preparation import TEMPLATES
from tests.cli.house import House

METIER = str(pathlib.Path(sys.executable).with_name("metier"))
FLOW = """
flow: NAME
schema: 1
inputs: {text: string, from: string, urgent: {type: boolean, default: false}}
steps:
  - id: language
    code: text.language
    with: {text: "{{ inputs.text }}"}
    output: {language: {enum: [fr, en, other]}, empty: boolean}
  - id: letter
    code: letter.compose
    with:
      answers: [{question: 1, sentences: [1], answer: "Vous avez 14 jours."}]
      sentences: [{number: 1, source: a-1, text: "Vous avez 14 jours."}]
      subject: "{{ inputs.text }}"
      language: "{{ steps.language.language }}"
      signature: Le service
  - id: approve
    human:
      assign: "group:GROUP"
      title: "Valider : {{ inputs.text }}"
      show: [inputs.from, inputs.text]
      edit: steps.letter
      due: 4h
    output:
      decision: {enum: [approve, reject]}
      edited: {type: object}
output: {decision: "{{ steps.approve.decision }}", urgent: "{{ inputs.urgent }}"}
tests:
  - name: an approved letter
    inputs: {text: Retour, from: a@b.example}
    mock: {approve: {decision: approve, edited: {subject: "Re: Retour"}}}
    expect: [output.decision == 'approve', steps.language.language == 'fr']
"""
LOOKUP = """
flow: NAME
schema: 1
inputs: {email: string}
steps:
  - {id: language, code: text.language, with: {text: "Bonjour"}}
  - {id: customer, tool: crm.find_contact, with: {email: "{{ inputs.email }}"}}
output: "{{ steps.customer.tier }}"
"""
MAIL = "claire.vasseur@courriel.example"


def written(folder: pathlib.Path, name: str, text: str = FLOW, group: str = "sav") -> str:
    """A workflow file of one's own."""
    path = folder / "flow.yaml"
    path.write_text(text.replace("NAME", name).replace("GROUP", group))
    return str(path)


def allowed(house: House, name: str) -> None:
    """The key under which a workflow of one's own runs."""
    house.data("ingest", f"documents-{name}", "--list", code=2)  # the house's first use makes the default project
    if f"flows {name}" not in {system["name"] for system in house.data("system", "list")["systems"]}:
        house.run("system", "register", f"flows {name}", "--purpose", "tests", "--owner", "tests")
        house.run("system", "move", f"flows {name}", "pilot")
        house.run("key", "issue", f"workflow {name}", "--system", f"flows {name}", "--group", "public")


def worked(house: House, run: str, status: str, env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Let `metier worker` work until the run is there, then stop it as the system does; it leaves with 0."""
    with subprocess.Popen(
        [METIER, "worker"], env={**house.environment, "PATH": "/usr/bin:/bin", **(env or {})},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as worker:  # fmt: skip
        for _ in range(900):
            shown: dict[str, Any] = house.data("runs", "show", run)
            if shown["run"]["status"] == status:
                break
            time.sleep(0.1)
        worker.send_signal(signal.SIGTERM)
        _, error = worker.communicate(timeout=60)
    assert (worker.returncode, shown["run"]["status"]) == (0, status), (error, shown)
    assert "Traceback" not in error
    return shown


def test_the_template_is_sound_and_its_tests_pass(house: House) -> None:
    assert [f for f in house.data("lint", "support-reply")["findings"] if f["severity"] == "error"] == []
    assert "support-reply" in house.run("lint", str(TEMPLATES / "support-reply"))
    found = house.data("test", "support-reply")
    assert len(found["tests"]) >= 3 and all(test["ok"] for test in found["tests"])
    assert "0 failed" in house.run("test", "support-reply")


@pytest.mark.parametrize(
    ("old", "new", "code", "place"),
    [
        ("steps.language.language }}", "steps.langage.language }}", 1, "flow.yaml:16:17"),
        ("code: text.language", "code: text.langage", 1, "flow.yaml:7:11"),
        ("id: language", "id: Language", 2, "flow.yaml:6:9"),
        ("schema: 1", "schema: 1\nstepz: []", 2, "flow.yaml:4:1"),
        ("steps:", "steps: [", 2, "flow.yaml:"),
    ],
)
def test_a_mistake_in_a_workflow_is_shown_with_its_place(
    house: House, tmp_path: pathlib.Path, old: str, new: str, code: int, place: str
) -> None:
    path = written(tmp_path, "faux", FLOW.replace(old, new, 1))
    assert place in house.run("lint", path, code=code)
    if code == 1:
        (finding,) = (f for f in house.data("lint", path, code=1)["findings"] if f["severity"] == "error")
        assert (finding["file"], f"flow.yaml:{finding['line']}:{finding['column']}") == ("flow.yaml", place)


def test_a_model_that_this_house_does_not_know_is_a_warning_with_its_place(
    house: House, tmp_path: pathlib.Path
) -> None:
    model = "{operation: chat, deployments: [{provider: scripted, model_id: a, price: {input: 1, output: 1}}]}"
    config = tmp_path / "metier.yaml"
    config.write_text(f"models:\n  large: {model}\nroles: {{writer: large}}\n")
    env = {"METIER_CONFIG": str(config)}
    step = "{id: a, llm: {model: NAME, prompt: a.md}, output: {body: string}}"
    (tmp_path / "a.md").write_text("Bonjour")

    def said(name: str, env: dict[str, str]) -> list[tuple[str, str, int]]:
        path = written(tmp_path, "ici", "flow: NAME\nschema: 1\nsteps:\n  - " + step.replace("NAME", name))
        found = house.data("lint", path, env=env)["findings"]
        return [(one["severity"], one["suggestion"], one["line"]) for one in found if one["code"] == "model-not-here"]

    assert said("writr", env) == [("warning", "did you mean 'writer'?", 4)]
    assert [said(name, env) for name in ("writer", "large", "scripted/a")] == [[], [], []]
    assert said("writr", {}) == [], "a house without models says nothing of them"


def test_a_test_that_fails_leaves_with_1_and_says_where(house: House, tmp_path: pathlib.Path) -> None:
    path = written(tmp_path, "essais")
    assert "1 passed, 0 failed" in house.run("test", path)
    path = written(tmp_path, "essais", FLOW.replace("language == 'fr'", "language == 'en'"))
    assert "steps.language.language == 'en'" in house.run("test", path, code=1)
    assert house.data("test", path, code=1)["tests"][0]["ok"] is False


def test_a_dry_run_checks_and_starts_nothing(house: House, tmp_path: pathlib.Path) -> None:
    path = written(tmp_path, "sec")
    assert "Nothing was started" in house.run("run", path, "text=Retour", f"from={MAIL}", "--dry-run")
    found = house.data("run", path, "text=Retour", "from=a@b.example", "--dry-run")
    assert found["inputs"]["text"] == "Retour"
    assert "missing 'from'" in house.run("run", path, "text=Retour", "--dry-run", code=2)
    assert "urgent" in house.run("run", path, "text=R", "from=a", "urgent=maybe", "--dry-run", code=2)
    assert "key=value" in house.run("run", path, "Retour", "--dry-run", code=2)
    values = tmp_path / "values.json"
    values.write_text('{"text": "Retour", "from": "a@b.example", "urgent": true}')
    assert house.data("run", path, "--input", str(values), "--dry-run")["inputs"]["urgent"] is True
    for wrong in ("{", "[1]"):
        values.write_text(wrong)
        assert "values.json" in house.run("run", path, "--input", str(values), "--dry-run", code=2)
    house.run("run", path, "--input", "/nowhere.json", "--dry-run", code=2)
    assert house.data("runs", "list", "--workflow", "sec")["runs"] == []
    eml = next((TEMPLATES / "support-reply" / "sample" / "emails").glob("04-*.eml"))
    found = house.data("run", "support-reply", "--eml", str(eml), "--dry-run")
    assert found["inputs"]["from"] == "t.maupoix@courriel.example"


def test_a_workflow_without_a_key_says_how_to_issue_one(house: House, tmp_path: pathlib.Path) -> None:
    told = house.run("run", written(tmp_path, "sans-cle"), "text=Retour", "from=a@b.example", code=2)
    assert "metier key issue 'workflow sans-cle'" in told


def test_a_run_waits_for_a_person_and_ends_when_they_approve(house: House, tmp_path: pathlib.Path) -> None:
    allowed(house, "valide")
    started = house.run("run", written(tmp_path, "valide"), "text=Retour", f"from={MAIL}")
    assert "letter done" in started and "It waits for group:sav" in started
    (run,) = house.data("runs", "list", "--workflow", "valide")["runs"]
    assert (run["status"], run["parked_on"]) == ("parked", "approve")
    (task,) = (task for task in house.data("review", "list")["tasks"] if task["run"] == run["id"])
    assert task["id"] in house.run("review", "list") and task["id"] in house.run("review")
    shown = house.run("review", "show", task["id"])
    assert "Valider : Retour" in shown and MAIL in shown and "Vous avez 14 jours." in shown
    assert house.data("review", "show", task["id"])["task"]["edit"]["subject"] == "Re: Retour"
    for more in ((), ("--as", "ada")):
        of_others = house.data("review", "list", *more, "--group", "autres")["tasks"]
        assert task["id"] not in [one["id"] for one in of_others]
    assert "assigned to you" in house.run("review", "approve", task["id"], "--group", "autres", code=2)
    house.run("review", "hand-off", task["id"], "nobody", "--note", "voyez", code=2)
    assert "group:chefs" in house.run("review", "hand-off", task["id"], "group:chefs", "--note", "voyez")
    house.run("review", "approve", task["id"], "--as", "ada", code=2)
    assert task["id"] in [one["id"] for one in house.data("review", "list")["tasks"]], "every group, unless told"
    listed = [one["id"] for one in house.data("review", "list", "--group", "chefs")["tasks"]]
    others = [one["id"] for one in house.data("review", "list", "--group", "sav", "--as", "x")["tasks"]]
    assert task["id"] in listed and task["id"] not in others
    decided = house.data("review", "approve", task["id"], "--group", "chefs", "--as", "ada")
    assert decided["by"] == f"ada (local, by {pwd.getpwuid(os.geteuid()).pw_name})", "who acts for another is told"
    assert decided["decision"]["decision"] == "approve"
    house.run("review", "reject", task["id"], "--group", "chefs", "--note", "non", code=2)
    done = worked(house, run["id"], "done")
    assert [step["kind"] for step in done["steps"] if step["path"] == "approve"] == ["decision"]


def test_what_a_customer_wrote_is_not_obeyed_by_the_terminal(house: House, tmp_path: pathlib.Path) -> None:
    allowed(house, "echappe")
    text = "\x1b]0;owned\x07\x1b[2J[red]Retour\x9b31m"
    run = house.data("run", written(tmp_path, "echappe"), f"text={text}", "from=a@b.example")["run"]
    (task,) = (task for task in house.data("review", "list")["tasks"] if task["run"] == run["id"])
    for told in (
        house.run("review", "list"),
        house.run("review", "show", task["id"]),
        house.run("runs", "show", run["id"]),
    ):
        assert "[red]Retour" in told and not [odd for odd in ("\x1b", "\x07", "\x9b") if odd in told]
    house.run("review", "reject", task["id"], "--note", "non")


def test_a_rejected_draft_ends_the_run_too(house: House, tmp_path: pathlib.Path) -> None:
    allowed(house, "rejet")
    run = house.data("run", written(tmp_path, "rejet"), "text=Retour", "from=a@b.example")["run"]
    (task,) = (task for task in house.data("review", "list")["tasks"] if task["run"] == run["id"])
    told = house.run("review", "reject", task["id"], "--note", "trop court")
    assert "kept with its reason. The run goes on as its flow says" in told
    shown = worked(house, run["id"], "done")
    (decision,) = (step["value"] for step in shown["steps"] if step["kind"] == "decision")
    assert decision == {"decision": "reject", "edited": decision["edited"]}
    (asked,) = shown["tasks"]
    account = pwd.getpwuid(os.geteuid()).pw_name
    assert (asked["note"], asked["by"]) == ("trop court", f"{account} (local)")
    told = house.run("runs", "show", run["id"], env={"LOGNAME": "somebody", "USER": "somebody"})
    assert f"decided by {account} (local)" in told and "trop court" in told
    told = house.run("review", "show", task["id"])
    assert f"decided by {account} (local): trop court" in told


def test_personal_values_of_a_run_are_masked_unless_asked_otherwise(house: House, tmp_path: pathlib.Path) -> None:
    allowed(house, "masque")
    text = f"Bonjour, je suis Claire Vasseur-Lenoir, {MAIL}, 06 39 98 12 47"
    run = house.data("run", written(tmp_path, "masque"), f"text={text}", f"from={MAIL}")["run"]["id"]
    personal = ("Vasseur", MAIL, "06 39 98 12 47")
    for told in (house.run("runs", "show", run), json.dumps(house.data("runs", "show", run))):
        assert not [value for value in personal if value in told]
        assert "[[" in told
    for told in (house.run("runs", "show", run, "--clear"), json.dumps(house.data("runs", "show", run, "--clear"))):
        assert not [value for value in personal if value not in told]
    assert not [value for value in personal if value in house.run("runs", "list")]


def test_a_run_is_cancelled_with_its_task_and_only_once(house: House, tmp_path: pathlib.Path) -> None:
    allowed(house, "annule")
    run = house.data("run", written(tmp_path, "annule"), "text=Retour", "from=a@b.example", "--detach")["run"]
    assert run["status"] == "pending"
    worked(house, run["id"], "parked")
    assert house.data("runs", "cancel", run["id"])["run"]["status"] == "cancelled"
    assert [task for task in house.data("review", "list")["tasks"] if task["run"] == run["id"]] == []
    assert "cancelled" in house.run("runs", "cancel", run["id"], code=2)
    house.run("runs", "resume", run["id"], code=2)
    assert "cancelled" in house.run("runs", "list", "--status", "cancelled")


def test_a_failed_run_goes_on_where_it_failed_once_the_cause_is_mended(house: House, tmp_path: pathlib.Path) -> None:
    allowed(house, "suite")
    path = written(tmp_path, "suite", LOOKUP)
    told = house.run("run", path, f"email={MAIL}", code=1)
    assert "config_error at customer" in told and "Mend the cause, then: metier runs resume" in told
    (run,) = house.data("runs", "list", "--workflow", "suite", "--status", "failed")["runs"]
    found = house.data("run", path, f"email={MAIL}", code=1)
    assert found["run"]["failure"]["code"] == "config_error"
    config = tmp_path / "metier.yaml"
    config.write_text(f"customers: {TEMPLATES / 'support-reply' / 'sample' / 'customers.jsonl'}\n")
    env = {"METIER_CONFIG": str(config)}
    assert house.data("runs", "resume", run["id"], env=env)["run"]["status"] == "pending"
    shown = worked(house, run["id"], "done", env)
    kinds = [(step["path"], step["attempt"], step["kind"]) for step in shown["steps"] if not step["name"]]
    assert kinds == [("language", 1, "result"), ("customer", 1, "error"), ("customer", 2, "result")]


def test_runs_are_shown_by_page(house: House, tmp_path: pathlib.Path) -> None:
    allowed(house, "pages")
    path = written(tmp_path, "pages")
    for _ in range(3):
        house.run("run", path, "text=Retour", "from=a@b.example", "--detach")
    first = house.data("runs", "list", "--workflow", "pages", "--limit", "2")["runs"]
    rest = house.data("runs", "list", "--workflow", "pages", "--before", first[-1]["id"])["runs"]
    assert (len(first), len(rest)) == (2, 1)
    assert f"--before {first[-1]['id']}" in house.run("runs", "list", "--workflow", "pages", "--limit", "2")


def test_a_run_that_calls_another_is_followed_to_its_end(house: House, tmp_path: pathlib.Path) -> None:
    allowed(house, "appelle")
    folder = tmp_path / "appelle"
    folder.mkdir()
    head = "flow: {}\nschema: 1\ninputs: {{text: string}}\nsteps:\n"
    head += "  - {{id: s, {}, with: {{text: '{{{{ inputs.text }}}}'}}}}\n"
    for name, flow, what, gives in (
        ("dessous.yaml", "dessous", "code: text.language", "steps.s.language"),
        ("flow.yaml", "appelle", "call: {flow: dessous.yaml}", "steps.s"),
    ):
        text = f'{head.format(flow, what)}output: "{{{{ {gives} }}}}"\n'
        (folder / name).write_text(text, encoding="utf-8")
    told = house.run("run", str(folder / "flow.yaml"), "text=Bonjour, je voudrais savoir où est mon colis")
    assert "pending" not in told and "done" in told
