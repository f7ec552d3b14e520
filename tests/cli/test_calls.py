"""`metier calls`, `metier usage`: pages, contents shown on the record, keeping, holding, erasing, deleting by age."""

from __future__ import annotations

import asyncio
import getpass
from typing import Any

import pytest

from metier.app import Parts, build
from metier.calls import Call, Message
from metier.catalog import Catalog
from metier.providers.scripted import ScriptedProvider, says
from metier.settings import load
from metier.testing import MODELS, caller
from tests.cli.house import House

NAME = "calls-desk"


@pytest.fixture(scope="module")
def system(house: House) -> str:
    """A system whose calls are captured, with three of them recorded for two people."""
    house.run("system", "register", NAME, "--purpose", "tests", "--owner", "tests")
    house.run("system", "move", NAME, "pilot", "--reason", "tests")
    house.run("calls", "keep", NAME, "--capture", "masked", "--contents-days", "10", "--reason", "quality review")

    async def call() -> None:
        parts = Parts(providers={"scripted": ScriptedProvider(says("Bonjour"))}, catalog=Catalog.from_yaml(MODELS))
        async with build(load(house.environment), parts) as app:
            who = await caller(app, "calls-caller")
            system = (await app.register.get(NAME)).id
            project = await app.keys.create_project(NAME)
            await app.keys.issue(NAME, project.id, system, "tests")
            principal = await app.principal(NAME)
            assert principal.system == system != who.system
            for user in ("client-1", "client-2", "client-2"):
                words = (Message("user", "Je suis Jean Dupont, 06 12 34 56 78"),)
                await app.gateway.collect(Call(principal, "writer", messages=words, end_user=user))

    asyncio.run(call())
    return NAME


def calls(house: House, *more: str) -> list[dict[str, Any]]:
    """The recorded calls of the system, latest first."""
    found: list[dict[str, Any]] = house.data("calls", "list", "--system", NAME, *more)["calls"]
    return found


def test_calls_are_listed_page_by_page(house: House, system: str) -> None:
    whole = calls(house)
    assert len(whole) == 3 and all(one["outcome"] == "answered" and one["contents"] for one in whole)
    first = calls(house, "--limit", "2")
    rest = calls(house, "--limit", "2", "--after", first[-1]["id"])
    assert [one["id"] for one in (*first, *rest)] == [one["id"] for one in whole]
    assert [one["id"] for one in calls(house, "--subject", "client-1")] == [whole[-1]["id"]]
    assert calls(house, "--outcome", "failed") == [] and calls(house, "--since", "2999-01-01") == []
    told = house.run("calls", "list", "--system", NAME, "--limit", "2")
    assert "kept" in told and f"--after {first[-1]['id']}" in told


def test_contents_are_shown_to_whom_it_was_allowed_and_every_look_is_written_down(house: House, system: str) -> None:
    call = calls(house)[-1]["id"]
    row = house.data("calls", "show", call)["call"]
    assert row["error_cause"] is None and calls(house)[-1]["error_cause"] is None, "it was answered"
    assert row["contents"] and row["system"] and "Dupont" not in str(row) and "client-1" not in str(row)
    refused = house.run("calls", "show", call, "--contents", "--reason", "curious", code=3)
    assert "metier calls allow" in refused
    house.run("calls", "show", call, "--contents", code=2)
    me = getpass.getuser()
    allowed = house.data("calls", "allow", me, "--system", NAME, "--reason", "complaint")["readers"]
    assert [one["who"] for one in allowed] == [me]
    shown = house.data("calls", "show", call, "--contents", "--reason", "complaint")["contents"]
    assert shown["mode"] == "masked" and "Dupont" not in str(shown) and "[[" in str(shown["request"])
    told = house.run("calls", "show", call, "--contents", "--reason", "complaint")
    assert "contents (masked)" in told and "Bonjour" in told
    assert house.data("calls", "allow", me, "--system", NAME, "--withdraw", "--reason", "done")["readers"] == []
    outcomes = [one["outcome"] for one in house.data("calls", "reads", call)["reads"]]
    assert outcomes == ["shown", "shown", "refused"]
    assert "curious" in house.run("calls", "reads")


def test_what_is_kept_is_shown_and_changed_with_a_reason(house: House, system: str) -> None:
    [held] = house.data("calls", "keep", NAME)["keepings"]
    assert (held["capture"], held["contents_days"], held["metadata_days"]) == ("masked", 10, 365)
    assert "quality review" in house.run("calls", "keep")
    house.run("calls", "keep", NAME, "--contents-days", "20", code=2)
    assert "needs a system" in house.run("calls", "keep", "--capture", "none", "--reason", "x", code=2)
    assert "contents go first" in house.run("calls", "keep", NAME, "--contents-days", "900", "--reason", "x", code=2)


def test_a_hold_stops_an_erasure_and_a_dry_run_changes_nothing(house: House, system: str) -> None:
    dry = house.data("calls", "erase", "--subject", "client-2", "--reason", "article 17", "--dry-run")["erased"]
    assert (dry["records"], dry["unlinked"], dry["keys"], dry["dry_run"]) == (2, 2, 1, True)
    hold = house.data("calls", "hold", "--scope", "subject", "client-2", "--reason", "trial")["hold"]["id"]
    assert hold in house.run("calls", "erase", "--subject", "client-2", "--reason", "article 17", code=2)
    assert "trial" in house.run("calls", "holds")
    house.run("calls", "release", hold)
    assert "Erased: 1 keys, 2 contents" in house.run(
        "calls", "erase", "--subject", "client-2", "--reason", "article 17"
    )
    assert calls(house, "--subject", "client-2") == [] and len(calls(house)) == 3
    assert [one["contents"] for one in calls(house)] == [False, False, True]
    house.run("calls", "erase", "--reason", "x", code=2)
    house.run("calls", "erase", "call_x", "--subject", "y", "--reason", "x", code=2)
    house.run("calls", "erase", "call_x", "--reason", "x", code=2)
    assert "no project 'nothing'" in house.run("calls", "erase", "--project", "nothing", "--reason", "x", code=2)
    for scope, target in (("project", "nothing"), ("call", "call_nothing")):
        assert "no " in house.run("calls", "hold", "--scope", scope, target, "--reason", "x", code=2)


def test_nothing_is_old_enough_yet(house: House, system: str) -> None:
    assert house.data("calls", "retention", "--dry-run")["expired"] == []
    assert "Nothing is old enough" in house.run("calls", "retention")


def test_usage_by_key_with_times_and_unusual_hours(house: House, system: str) -> None:
    known = {row["project"] for row in house.data("usage", "--by", "project")["usage"]}
    [project] = [(one, name) for one, name in house.data("usage")["projects"].items() if one in known][:1]
    for named in project:
        assert house.data("usage", "--project", named)["usage"]
        assert house.data("calls", "list", "--project", named)["calls"]
    assert project[1] in house.run("usage", "--by", "project") and project[0] not in house.run(
        "usage", "--by", "project"
    )
    for command in (("usage",), ("calls", "list"), ("cache", "purge")):
        assert "no project 'nulle part'" in house.run(*command, "--project", "nulle part", code=2)
    found = house.data("usage", "--by", "organisation", "--by", "project")
    assert {row["organisation"] for row in found["usage"]} == {"main"} and found["latencies"]
    assert {"reasoning_tokens", "cached_tokens", "saved_kwh", "cache_hits"} <= found["usage"][0].keys()
    told = house.run("usage")
    assert "p95" in told and "client-1" not in told and "client-2" not in told
    assert any(row["calls"] == 3 for row in house.data("usage", "--keys")["keys"])
    assert house.data("usage", "--unusual")["unusual"] == []
    assert "Nothing was unusual" in house.run("usage", "--unusual")
