"""`metier review` between people: comments, changes, hand-offs, absences, links, corrections and agreement."""

from __future__ import annotations

import json
import pathlib
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.cli.house import House
from tests.cli.test_flows import allowed

FLOW = """
flow: NAME
schema: 1
inputs: {text: string}
steps:
  - id: approve
    human:
      assign: "ASSIGN"
      title: "Valider : {{ inputs.text }}"
      show: [inputs.text]
      edit: "{'subject': 'Retour', 'body': inputs.text}"
    output:
      decision: {enum: [approve, changes, reject]}
      edited: {type: [object, 'null']}
      note: string | null
output: {decision: "{{ steps.approve.decision }}", note: "{{ steps.approve.note }}"}
"""


def parked(house: House, folder: pathlib.Path, name: str, assign: str = "group:sav") -> dict[str, Any]:
    """A task that waits, of a run of its own."""
    allowed(house, name)
    path = folder / "flow.yaml"
    path.write_text(FLOW.replace("NAME", name).replace("ASSIGN", assign))
    run = house.data("run", str(path), "text=Bonjour")["run"]
    found: dict[str, Any] = next(one for one in house.data("review", "list")["tasks"] if one["run"] == run["id"])
    return found


def kinds(house: House, task: str) -> list[str]:
    return [one["kind"] for one in house.data("review", "show", task)["events"]]


def test_a_task_is_commented_handed_off_and_sent_back_for_changes(house: House, tmp_path: pathlib.Path) -> None:
    task = parked(house, tmp_path, "review-changes")["id"]
    assert "Kept" in house.run("review", "comment", task, "elle a rappelé", "--as", "zoe", "--group", "sav")
    assert "elle a rappelé" in house.run("review", "show", task)
    house.run("review", "hand-off", task, "user:max", "--note", "à toi", "--as", "zoe", "--group", "sav")
    assert "assigned to you" in house.run("review", "changes", task, "--note", "x", "--as", "zoe", code=2)
    house.run("review", "changes", task, "--as", "max", code=2)
    assert "changes" in house.run("review", "changes", task, "--note", "dites quand il part", "--as", "max")
    assert kinds(house, task) == ["opened", "commented", "handed_off", "decided"]
    shown = house.data("review", "show", task)["task"]
    assert shown["note"] == "dites quand il part" and shown["decided_by"] == "max"


def test_a_refusal_asks_for_its_reason_by_either_word(house: House, tmp_path: pathlib.Path) -> None:
    task = parked(house, tmp_path, "review-reject")["id"]
    assert "--reason" in house.run("review", "reject", task, code=2)
    told = house.run("review", "reject", task, "--reason", "l'offre est finie")
    assert "kept with its reason" in told and "sent" not in told, "nobody knows here what the flow does then"
    assert house.data("review", "show", task)["task"]["note"] == "l'offre est finie"


def test_who_is_away_is_stood_in_for_from_the_command_line(house: House, tmp_path: pathlib.Path) -> None:
    task = parked(house, tmp_path, "review-absent", "user:claire")["id"]
    today = datetime.now(UTC).astimezone().date()
    assert [one["id"] for one in house.data("review", "list", "--as", "max")["tasks"]] == []
    days = ("--from", str(today), "--until", str(today + timedelta(days=3)))
    made = house.data("review", "absent", "claire", *days, "--substitute", "user:max")["absence"]
    assert made["substitute"] == "user:max" and made["id"] in house.run("review", "absences")
    assert [one["id"] for one in house.data("review", "list", "--as", "max")["tasks"]] == [task]
    assert "no date" in house.run(
        "review", "absent", "claire", "--from", "demain", "--until", "x", "--substitute", "user:max", code=2
    )
    house.run("review", "back", made["id"])
    assert house.data("review", "list", "--as", "max")["tasks"] == []


def test_a_link_is_made_and_what_was_corrected_is_exported(house: House, tmp_path: pathlib.Path) -> None:
    task = parked(house, tmp_path, "review-learn")["id"]
    link = house.data("review", "link", task, "claire")
    assert link["path"].startswith("/review/links/") and link["person"] == "claire"
    assert kinds(house, task) == ["opened", "linked"]
    edited = {"EDITOR": "sed -i s/Bonjour/Bonsoir/"}
    house.run("review", "approve", task, "--edit", "--note", "plus tard", env=edited)
    assert house.data("review", "show", task)["task"]["decision"]["edited"]["body"] == "Bonsoir"
    file = tmp_path / "corrections.jsonl"
    house.run("review", "corrections", "--export", str(file))
    (line,) = [one for one in map(json.loads, file.read_text().splitlines()) if one["workflow"] == "review-learn"]
    assert "Bonjour" in json.dumps(line) and "Bonsoir" in json.dumps(line)
    house.run("review", "agreement")
