"""`metier release`: versions from draft to all and back on a real house, and the conflicts people meet."""

from __future__ import annotations

import pathlib

import pytest

from tests.cli.house import House

FLOW = """
flow: published
schema: 1
inputs: {text: string}
steps:
  - id: language
    code: text.language
    with: {text: "{{ inputs.text }} NUMBER"}
"""


@pytest.fixture
def place(house: House, tmp_path: pathlib.Path) -> pathlib.Path:
    house.run("key", "project", "vitrine")
    return tmp_path


def written(folder: pathlib.Path, number: int) -> str:
    (folder / "flow.yaml").write_text(FLOW.replace("NUMBER", str(number)), encoding="utf-8")
    return str(folder)


def test_versions_go_from_draft_to_all_and_back(house: House, place: pathlib.Path) -> None:
    to = ("--project", "vitrine")
    first = house.data("release", "create", written(place, 1), *to)["release"]
    assert (first["version"], first["state"]) == (1, "draft")
    assert "version 1 of 'published' already" in house.run("release", "create", str(place), *to, code=2)
    house.run("release", "promote", "published", "1", *to)
    rule = "error_rate > 5 % over 50 runs"
    second = house.data("release", "create", written(place, 2), "--rule", rule, "--score", "1.0", *to)["release"]
    assert second["rules"] == [rule] and second["score"] == "1.0"
    assert "group:sav" in house.run("release", "pilot", "published", "2", "--to", "group:sav", *to)
    canary = house.data("release", "canary", "published", "2", "--share", "10", *to)["release"]
    assert (canary["state"], canary["share"], canary["pilots"]) == ("canary", 0.1, ["group:sav"])
    assert canary["per"] == "person", "no input says whom its runs are for"
    told = house.run("release", "canary", "published", "2", "--share", "20", "--per", "inputs.form", *to, code=2)
    assert "cannot share 'published' per 'inputs.form'" in told
    canary = house.data("release", "canary", "published", "2", "--share", "20", "--per", "inputs.text", *to)["release"]
    assert canary["per"] == "inputs.text" and "20.0% of the runs, per inputs.text" in house.run(
        "release", "show", "published", "2", *to
    )
    stale = ("--seen", str(second["revision"]))
    assert "changed meanwhile" in house.run("release", "promote", "published", "2", *stale, *to, code=2)
    house.run("release", "promote", "published", "2", "--seen", str(canary["revision"]), *to)
    listed = house.data("release", "list", "published", *to)["releases"]
    assert [(one["version"], one["state"]) for one in listed] == [(2, "all"), (1, "retired")]
    assert "was taken back" in house.run("release", "rollback", "published", "2", "--reason", "ton", *to)
    shown = house.data("release", "show", "published", "2", *to)
    assert [move["state"] for move in shown["moves"]] == ["rolled_back", "all", "canary", "canary", "pilot", "draft"]
    assert [move["reason"] for move in shown["moves"]][2:4] == ["per inputs.text", "per person"]
    assert "taken back when error_rate" in house.run("release", "show", "published", "2", *to)
    apart = house.data("release", "compare", "published", "1", "2", *to)["differences"]
    assert all("too little data" in one["told"] for one in apart)
    assert "no run tells it" in house.run("release", "compare", "published", "1", "2", *to)
    assert house.data("release", "watch")["taken_back"] == 0
    assert "published@1" in house.run("release", "list")


def test_a_dry_run_says_what_would_change_for_whom_and_changes_nothing(house: House, place: pathlib.Path) -> None:
    to = ("--project", "vitrine")
    path = written(place, 21).replace("published", "foreseen")
    (place / "flow.yaml").write_text(FLOW.replace("published", "foreseen"), encoding="utf-8")
    told = house.run("release", "create", path, "--dry-run", *to)
    assert "foreseen@1 would be made" in told and told.endswith("Nothing was done.\n")
    assert house.data("release", "list", "foreseen", *to)["releases"] == []
    house.run("release", "create", path, *to)
    house.run("release", "promote", "foreseen", "1", *to)
    (place / "flow.yaml").write_text(FLOW.replace("published", "foreseen").replace("NUMBER", "2"), encoding="utf-8")
    house.run("release", "create", path, *to)
    before = house.data("release", "list", "foreseen", *to)
    pilot = house.run("release", "pilot", "foreseen", "2", "--to", "group:sav", "--dry-run", *to)
    assert "foreseen@2 is a draft and would be given to group:sav, and to nobody else." in pilot
    canary = house.data("release", "canary", "foreseen", "2", "--share", "10", "--dry-run", *to)
    assert [(one["before"]["state"], one["after"]["share"]) for one in canary["changes"]] == [("draft", 0.1)]
    promote = house.run("release", "promote", "foreseen", "2", "--dry-run", *to)
    assert "foreseen@2 is a draft and would be for all." in promote
    assert "foreseen@1 is for all and would be replaced" in promote and "Runs under way would keep" in promote
    assert "none came before it" in house.run("release", "rollback", "foreseen", "1", "--dry-run", *to, code=2)
    assert "changed meanwhile" in house.run(
        "release", "promote", "foreseen", "2", "--seen", "0", "--dry-run", *to, code=2
    )
    assert house.data("release", "list", "foreseen", *to) == before
    house.run("release", "promote", "foreseen", "2", *to)
    back = house.run("release", "rollback", "foreseen", "2", "--dry-run", *to)
    assert "foreseen@2 is for all and would be taken back" in back
    assert "foreseen@1 was replaced and would be for all." in back


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("promote", "published", "99", "--project", "vitrine"), "in project 'vitrine' (project_"),
        (("compare", "published", "1", "1", "--project", "vitrine"), "cannot be compared with itself"),
        (("promote", "published", "99", "--project", "vitrine"), "no version 99"),
        (("promote", "unknown-flow", "1"), "--project"),
        (("pilot", "published", "1", "--to", "everybody", "--project", "vitrine"), "group:<group of keys>"),
        (("list", "--project", "nulle part"), "no project"),
    ],
)
def test_what_is_wrong_is_told_and_changes_nothing(
    house: House, place: pathlib.Path, arguments: tuple[str, ...], word: str
) -> None:
    assert word in house.run("release", *arguments, code=2)


def test_rules_that_cannot_be_read_make_no_release(house: House, place: pathlib.Path) -> None:
    told = house.run("release", "create", written(place, 7), "--rule", "speed > 3", "--project", "vitrine", code=2)
    assert "cannot read the rule" in told
    needs = house.run("release", "create", str(place), "--rule", "quality < 0.8", "--project", "vitrine", code=2)
    assert "needs a score" in needs


def test_names_nobody_has_are_told_and_wrong_input_says_what_to_do(house: House, place: pathlib.Path) -> None:
    to = ("--project", "vitrine")
    (place / "flow.yaml").write_text(FLOW.replace("published", "told"), encoding="utf-8")
    house.run("release", "create", str(place), *to)
    piloted = ("release", "pilot", "told", "1", "--to", "user:nobody", "--to", "group:none")
    assert "nobody gets it by it: user:nobody, group:none." in house.run(*piloted, *to)
    assert house.data(*piloted, "--dry-run", *to)["nobody"] == ["user:nobody", "group:none"]
    for wrong in ("claire", "user:", ""):
        said = house.run("release", "pilot", "told", "1", "--to", wrong, *to, code=2)
        assert f"a pilot cannot be {wrong!r}" in said and "user:<name of a key>" in said
    house.run("release", "promote", "told", "1", *to)
    assert "cannot become 'canary': everybody gets it" in house.run(
        "release", "canary", "told", "1", "--share", "5", *to, code=2
    )
    (place / "flow.yaml").write_text(FLOW.replace("published", "told").replace("NUMBER", "2"), encoding="utf-8")
    house.run("release", "create", str(place), *to)
    house.run("release", "promote", "told", "2", *to)
    house.run("release", "rollback", "told", "2", *to)
    for again in (("promote", "told", "2"), ("create", str(place))):
        assert "make another version of a changed workflow" in house.run("release", *again, *to, code=2)
    assert "check the flow's name" in house.run("release", "show", "tolled", "1", code=2)
    assert "There is no release of 'tolled'" in house.run("release", "list", "tolled")
