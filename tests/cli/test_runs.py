"""`metier runs` on runs of one's own: list, pause, go on, compare, and what helps those that failed."""

from __future__ import annotations

import pathlib
from datetime import UTC, datetime, timedelta

import pytest

from metier.cli.review_who import reviewer
from tests.cli.house import House
from tests.cli.test_flows import allowed, worked, written

ASKS = """
flow: NAME
schema: 1
inputs: {text: string}
steps:
  - {id: language, code: text.language, with: {text: "{{ inputs.text }}"}}
  - id: approve
    human: {assign: "group:sav", title: "{{ inputs.text }}"}
    output: {decision: {enum: [approve, reject]}}
output: "{{ steps.approve.decision }}"
"""
FAILS = """
flow: NAME
schema: 1
inputs: {text: string}
steps:
  - {id: language, code: text.language, with: {text: "{{ inputs.text }}"}}
  - {id: again, code: text.language, with: {text: "{{ steps.language.language + 1 }}"}}
output: "{{ steps.again.language }}"
"""
ENDS_WRONG = FAILS.replace("language + 1 }}", "language }}").replace("{{ steps.again.language }}", "{{ 1 / 0 }}")


@pytest.fixture(scope="module")
def parked(house: House, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two runs that wait for a person."""
    allowed(house, "suivi")
    path = written(tmp_path_factory.mktemp("suivi"), "suivi", ASKS)
    french = house.data("run", path, "text=Bonjour, je voudrais renvoyer mon colis")["run"]
    english = house.data("run", path, "text=Hello, I would like to return my parcel")["run"]
    assert [one["status"] for one in (french, english)] == ["parked", "parked"]
    return french["id"], english["id"]


def test_runs_are_listed_by_what_they_are(house: House, parked: tuple[str, str]) -> None:
    listed = house.data("runs", "list", "--workflow", "suivi", "--status", "parked", "--status", "paused")["runs"]
    assert [one["id"] for one in listed] == [*reversed(parked)]
    first = house.run("runs", "list", "--workflow", "suivi", "--limit", "1")
    assert parked[1] in first and parked[0] not in first and f"--before {parked[1]}" in first
    assert parked[0] in house.run("runs", "list", "--workflow", "suivi", "--before", parked[1])
    assert house.data("runs", "list", "--workflow", "suivi", "--until", "2020-01-01")["runs"] == []
    assert "no project" in house.run("runs", "list", "--project", "nulle part", code=2)


def test_a_run_is_paused_and_goes_on_after_it_was_foreseen(house: House, parked: tuple[str, str]) -> None:
    run, _ = parked
    foreseen = house.data("runs", "pause", run, "--dry-run")
    assert (foreseen["would"], [one["id"] for one in foreseen["runs"]]) == ("pause", [run])
    assert "Nothing was done." in house.run("runs", "pause", run, "--dry-run")
    assert "nothing to unpause" in house.run("runs", "unpause", run, "--dry-run", code=2)
    assert "not paused" in house.run("runs", "unpause", run, code=2)
    assert "metier runs unpause" in house.run("runs", "pause", run)
    (paused,) = house.data("runs", "list", "--workflow", "suivi", "--status", "paused")["runs"]
    assert paused["id"] == run
    assert "'paused'" in house.run("runs", "pause", run, code=2)
    assert house.data("runs", "unpause", run, "--dry-run")["would"] == "unpause"
    assert house.data("runs", "show", run)["run"]["status"] == "paused"
    assert "metier worker" in house.run("runs", "unpause", run)
    assert house.data("runs", "show", run)["run"]["status"] == "pending"


def test_a_run_that_waits_for_its_hours_says_when_they_come(
    house: House, parked: tuple[str, str], tmp_path: pathlib.Path
) -> None:
    path = written(tmp_path, "suivi", ASKS)
    soon = datetime.now(UTC) + timedelta(hours=5)
    window = f"{soon:%H:%M}-{soon + timedelta(hours=1):%H:%M} UTC"
    started = house.data("run", path, "text=Bonsoir", "--window", window, "--detach")["run"]
    assert (started["status"], started["hours"]) == ("queued", window)
    told = f"{window}, next at {soon:%d/%m %H:%M} UTC"
    assert told in house.run("runs", "show", started["id"]) and told in house.run("runs", "list", "--status", "queued")
    forked = house.data("runs", "fork", started["id"])["run"]
    assert (forked["status"], forked["hours"]) == ("queued", window), "as the run it comes from was asked for"
    assert house.data("runs", "fork", started["id"], "--window", "always")["run"]["status"] == "pending"
    house.run("runs", "cancel", started["id"])
    chosen = ("--workflow", "suivi", "--status", "cancelled", "--yes")
    assert "write hours and a zone" in house.run("runs", "again", "afresh", *chosen, "--window", f"{window} ", code=2)
    (again,) = house.data("runs", "again", "afresh", *chosen)["runs"]
    assert house.data("runs", "show", again["made"])["run"]["hours"] == window
    assert "its hours" in house.run("runs", "again", "resume", *chosen, "--window", window, code=2)


def test_what_two_runs_gave_is_compared_path_by_path(house: House, parked: tuple[str, str]) -> None:
    one, other = parked
    found = house.data("runs", "diff", one, other)
    assert [each["path"] for each in found["differences"]] == ["language"]
    assert [found["differences"][0][side]["language"] for side in ("here", "there")] == ["fr", "en"]
    told = house.run("runs", "diff", one, other)
    assert "language" in told and '"fr"' in told and '"en"' in told
    assert "No step gave anything else." in house.run("runs", "diff", one, one)
    assert "run_x" in house.run("runs", "diff", one, "run_x", code=2)
    assert "line 1 of 1" in house.run("runs", "at", one)


def test_whoever_asks_for_further_runs_on_the_command_line_does_not_approve_them(
    house: House, tmp_path: pathlib.Path
) -> None:
    allowed(house, "reprise")
    run = house.data("run", written(tmp_path, "reprise", ASKS), "text=Bonjour, où est mon colis ?")["run"]["id"]
    forked = house.data("runs", "fork", run, "--afresh")["run"]["id"]
    house.run("runs", "cancel", run)
    chosen = ("--workflow", "reprise", "--status", "cancelled", "--yes", "--label", "encore")
    (again,) = house.data("runs", "again", "afresh", *chosen)["runs"]
    worked(house, again["made"], "parked")
    for made in (forked, again["made"]):
        (task,) = (one for one in house.data("review", "list")["tasks"] if one["run"] == made)
        for who in ((), ("--as", "zoe", "--group", "sav")):
            assert "started the run" in house.run("review", "approve", task["id"], *who, code=3)
        assert house.data("review", "show", task["id"])["task"]["started_by"] == reviewer(None, ()).name


@pytest.mark.parametrize("flow", [FAILS, ENDS_WRONG])
def test_a_fault_of_the_flow_is_mended_by_a_fork_and_not_by_resuming(
    house: House, tmp_path: pathlib.Path, flow: str
) -> None:
    allowed(house, "fautif")
    told = house.run("run", written(tmp_path, "fautif", flow), "text=Bonjour, mon colis", code=1)
    run = house.data("runs", "list", "--workflow", "fautif", "--limit", "1")["runs"][0]["id"]
    for said in (told, house.run("runs", "show", run)):
        assert f"metier runs fork {run} --flow FLOW" in said and "runs resume" not in said, said
    assert "No model was called." in house.run("runs", "show", run)
    mended = written(tmp_path, "fautif", FAILS.replace(" + 1", ""))
    assert house.data("runs", "fork", run, "--flow", mended)["run"]["status"] == "pending"
