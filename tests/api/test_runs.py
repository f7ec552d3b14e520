"""Looking after runs over HTTP: a key has its project and no other, and moves runs only as one of the admins."""

from __future__ import annotations

import pathlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from metier.calls import JSON, RunId
from metier.errors import NotAllowed
from metier.store import Store
from metier.workflow.reviewer import Reviewer
from metier.workflow.shape import Workflow
from tests.security.house import House, house, populate
from tests.workflow.flows import flow, step

ASK: JSON = {"assign": "group:public", "title": "?"}
CHAIN = flow(
    step("a", with_={"mail": "{{ inputs.mail }}"}), step("ask", "human", ASK), step("b"), output="{{ steps.b }}"
)


@dataclass(slots=True)
class Desk:
    """The platform, and a key of somebody who looks after the runs of a project."""

    house: House

    async def start(self, workflow: Workflow = CHAIN, key: str = "right", mail: str = "jean@exemple.fr") -> RunId:
        run = await self.house.app.engine.start(workflow, {"mail": mail}, await self.house.principal(key))
        await self.house.app.engine.drain()
        return run

    async def ask(self, method: str, path: str, body: Any = None, status: int = 200, key: str = "boss") -> Any:
        answer = await self.house.ask(method, path, body, key)
        assert answer.status == status, answer.body
        return answer.json


@pytest.fixture
async def desk(store: Store, tmp_path: pathlib.Path) -> AsyncIterator[Desk]:
    """Keys of one project, one of another, and step functions that give back what they get."""

    async def echo(context: Any, given: dict[str, JSON]) -> JSON:
        if given.get("mail") == "broken":
            raise ValueError("broken")
        return dict(given)

    async with house(tmp_path, store, parts={"around": lambda _: echo}) as made:
        await populate(made)
        await made.issue("boss", "main", "Service client", groups=("public", "admins"))
        await made.issue("other boss", "Ailleurs", "Projet étranger", groups=("public", "admins"))
        yield Desk(made)


async def test_runs_of_the_project_are_listed_a_page_at_a_time(desk: Desk) -> None:
    runs = [await desk.start() for _ in range(3)]
    await desk.start(key="foreign")
    first = await desk.ask("GET", "/v1/runs?limit=2", key="right")
    assert ([one["id"] for one in first["data"]], first["has_more"]) == ([runs[2], runs[1]], True)
    rest = await desk.ask("GET", f"/v1/runs?limit=2&after={first['last_id']}&status=parked,done")
    assert ([one["id"] for one in rest["data"]], rest["has_more"]) == ([runs[0]], False)
    assert not (await desk.ask("GET", "/v1/runs?status=done"))["data"]
    assert not (await desk.ask("GET", "/v1/runs?until=2020-01-01T00:00:00%2B01:00"))["data"]
    await desk.ask("GET", "/v1/runs?status=quick", status=422)
    await desk.ask("GET", "/v1/runs?since=yesterday", status=422)
    for odd in ("flow=%00", "after=%00", "code=%00"):
        await desk.ask("GET", f"/v1/runs?{odd}", status=200 if odd.startswith("code") else 422)
    await desk.ask("POST", "/v1/reruns", {"how": "resume", "flow": "a\0"}, status=422)
    await desk.ask("GET", "/v1/runs/%00", status=404)


async def test_a_run_is_paused_unpaused_and_cancelled_with_a_dry_run_before(desk: Desk) -> None:
    run = await desk.start()
    dry = await desk.ask("POST", f"/v1/runs/{run}/pause", {"dry_run": True})
    assert (dry["status"], [one["id"] for one in dry["would"]]) == ("parked", [run])
    assert (await desk.ask("POST", f"/v1/runs/{run}/pause"))["status"] == "paused"
    await desk.ask("POST", f"/v1/runs/{run}/pause", {}, status=409)
    assert (await desk.ask("POST", f"/v1/runs/{run}/unpause"))["status"] == "pending"
    assert (await desk.ask("POST", f"/v1/runs/{run}/cancel"))["status"] == "cancelled"
    await desk.ask("POST", f"/v1/runs/{run}/resume", {"dry_run": True}, status=409)


async def test_values_are_seen_by_those_who_look_after_runs_and_masked(desk: Desk) -> None:
    run = await desk.start()
    whole = await desk.ask("GET", f"/v1/runs/{run}", key="right")
    assert [step["path"] for step in whole["steps"]] == ["a"] and "exemple.fr" not in str(whole)
    then = await desk.ask("GET", f"/v1/runs/{run}/moment?line=1")
    assert then["next"] == ["ask"] and "exemple.fr" not in str(then)
    assert then["values"]["a"]["mail"].startswith("[[")
    await desk.ask("GET", f"/v1/runs/{run}/moment?line=9", status=404)
    await desk.ask("GET", f"/v1/runs/{run}/moment", key="right", status=403)
    for what in ("moment", "differences?with=" + run):
        await desk.ask("GET", f"/v1/runs/{run}/{what}", key="other boss", status=404)


async def test_a_run_is_done_again_and_forked(desk: Desk) -> None:
    run = await desk.start(flow(step("a"), step("b"), output=1))
    dry = await desk.ask("POST", f"/v1/runs/{run}/retry", {"step": "b", "dry_run": True})
    assert (dry["status"], dry["cut"]["kept"], dry["cut"]["first"]) == ("done", ["a"], ["b"])
    assert (await desk.ask("POST", f"/v1/runs/{run}/retry", {"step": "b"}))["status"] == "pending"
    await desk.house.app.engine.drain()
    assert (await desk.ask("GET", f"/v1/runs/{run}"))["set_aside"] == [{"retry": 1, "path": "b"}]
    body = {"afresh": True, "once": "mine"}
    made = {(await desk.ask("POST", f"/v1/runs/{run}/fork", body))["id"] for _ in range(2)}
    assert len(made) == 1
    (other,) = made
    assert (await desk.ask("GET", f"/v1/runs/{other}"))["forked_from"] == run
    await desk.ask("POST", f"/v1/runs/{run}/fork", {"release": "refund@3"}, status=404)
    await desk.ask("POST", f"/v1/runs/{run}/fork", {"model": "x"}, status=422)
    await desk.ask("POST", f"/v1/runs/{run}/retry", {"step": "b"}, key="other boss", status=404)
    found = await desk.ask("GET", f"/v1/runs/{run}/differences?with={other}")
    assert {one["there_kind"] for one in found["data"]} == {""}


async def test_a_fork_keeps_its_hours_or_is_given_others(desk: Desk) -> None:
    run, night = await desk.start(), "01:00-01:01 UTC"
    await desk.ask("POST", f"/v1/runs/{run}/cancel")
    forked = (await desk.ask("POST", f"/v1/runs/{run}/fork", {"window": night}))["id"]
    await desk.ask("POST", f"/v1/runs/{forked}/cancel")
    again = {"how": "afresh", "status": ["cancelled"], "dry_run": False}
    many = await desk.ask("POST", "/v1/reruns", again)
    hours = [(await desk.ask("GET", f"/v1/runs/{one['goes_on_as']}"))["hours"] for one in many["data"]]
    assert hours == [night, None]
    many = await desk.ask("POST", "/v1/reruns", {**again, "window": "02:00-02:01 UTC"})
    assert [(await desk.ask("GET", f"/v1/runs/{one['goes_on_as']}"))["hours"] for one in many["data"]] == [
        "02:00-02:01 UTC"
    ] * 2
    assert "its hours" in str(await desk.ask("POST", "/v1/reruns", {**again, "how": "resume", "window": night}, 422))


async def test_whoever_forks_runs_or_does_them_afresh_does_not_approve_what_comes_of_it(desk: Desk) -> None:
    run, app = await desk.start(), desk.house.app
    await desk.ask("POST", f"/v1/runs/{run}/cancel")
    forked = (await desk.ask("POST", f"/v1/runs/{run}/fork", {"afresh": True}))["id"]
    many = await desk.ask("POST", "/v1/reruns", {"how": "afresh", "status": ["cancelled"], "dry_run": False})
    made = [RunId(forked), *(RunId(one["goes_on_as"]) for one in many["data"])]
    await app.engine.drain()
    boss, other = [Reviewer.behind(await desk.house.principal(key)) for key in ("boss", "other boss")]
    for one in made:
        (task,) = await app.review.list(run=one)
        assert [await app.review.bar(task.id, who) for who in (boss, replace(other, organisation=None))] == [
            "self",
            None,
        ]
        with pytest.raises(NotAllowed, match="started the run"):
            await app.review.decide(task.id, boss, {"decision": "yes"})
    assert len(made) == 2


async def test_many_are_done_again_in_the_project_alone(desk: Desk) -> None:
    broken = flow(step("a", with_={"mail": "{{ inputs.mail }}"}), output=1)
    mine = [await desk.start(broken, mail="broken") for _ in range(2)]
    theirs = await desk.start(broken, key="foreign", mail="broken")
    asked = {"how": "resume", "status": ["failed", "dead"], "dry_run": True}
    dry = await desk.ask("POST", "/v1/reruns", asked)
    assert ({one["run"] for one in dry["data"]}, dry["able"], dry["most_eur"]) == (set(mine), 2, 0)
    done = await desk.ask("POST", "/v1/reruns", {**asked, "dry_run": False, "at_most_eur": 1})
    assert {one["goes_on_as"] for one in done["data"]} == set(mine)
    assert (await desk.house.app.engine.get(theirs)).status == "failed"
    await desk.ask("POST", "/v1/reruns", {"how": "retry"}, status=422)


async def test_runs_of_a_person_and_old_ones_are_deleted_in_the_project_alone(desk: Desk) -> None:
    for key in ("right", "right", "foreign"):
        await desk.start(key=key)
    await desk.start(mail="eve@exemple.fr")
    dry = await desk.ask("DELETE", "/v1/runs?person=jean@exemple.fr&dry_run=true")
    assert (dry["runs"], dry["dry_run"]) == (2, True)
    assert (await desk.ask("DELETE", "/v1/runs?person=jean@exemple.fr&reason=asked%20by%20letter"))["runs"] == 2
    async with desk.house.app.store.connection() as connection:
        (told,) = await (await connection.execute("SELECT part, elsewhere, reason, by_whom FROM erasures")).fetchall()
    assert (told["part"], told["elsewhere"], told["reason"]) == ("runs", {"runs": 2}, "asked by letter")
    assert len((await desk.ask("GET", "/v1/runs"))["data"]) == 1
    assert len((await desk.ask("GET", "/v1/runs", key="other boss"))["data"]) == 1
    await desk.start(flow(step("a"), output=1))
    async with desk.house.app.store.connection() as connection:
        await connection.execute("UPDATE runs SET finished_at = now() - interval '40 days' WHERE status = 'done'")
    assert (await desk.ask("DELETE", "/v1/runs?older_than_days=41"))["runs"] == 0
    assert (await desk.ask("DELETE", "/v1/runs?older_than_days=39&dry_run=true"))["runs"] == 1
    assert (await desk.ask("DELETE", "/v1/runs?older_than_days=39"))["runs"] == 1
    await desk.ask("DELETE", "/v1/runs", status=422)


async def test_runs_of_a_release_are_planned(desk: Desk) -> None:
    project = (await desk.house.principal()).project
    app = desk.house.app
    release = await app.releases.create(flow(step("a"), output=1, name="refund"), project, "zoe")
    await app.releases.promote("refund", project, release.version, "zoe")
    await desk.ask("POST", "/v1/plans", {"flow": f"refund@{release.version}", "runs": 3}, key="other boss", status=404)
    found = await desk.ask("POST", "/v1/plans", {"flow": f"refund@{release.version}", "runs": 3})
    assert (found["most"]["tries"], found["held_eur"]) == (3, 0)
