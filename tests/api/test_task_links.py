"""Links for people over HTTP: made by who looks after runs, for whom a task waits, good once, and written down."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from metier.app import App
from metier.connectors.people import people
from metier.errors import Conflict
from metier.policy.keys import Scopes
from metier.providers.scripted import ScriptedProvider, says
from metier.store import Store
from metier.testing import build_for_tests, caller
from metier.workflow.review import Reviewer, TaskId
from tests.api.client import Response
from tests.api.test_tasks import TASKS, Desk, asking

SECTION: dict[str, Any] = {
    "url": "https://metier.exemple.fr/",
    "people": {
        "nora": {"email": "nora@exemple.fr", "groups": ["sav"]},
        "omar": {"email": "omar@exemple.fr", "groups": ["sav"], "organisation": "org_other"},
    },
}


@contextlib.asynccontextmanager
async def opened(store: Store, folder: pathlib.Path) -> AsyncIterator[Desk]:
    """Zoe and max of the group sav, eve of another, and root who looks after runs and reads no drafts."""
    async with build_for_tests(folder, store.url, ScriptedProvider(says("x"))) as app:
        made = Desk(app, await caller(app, "desk"))
        for name, group in (("zoe", "sav"), ("max", "sav"), ("eve", "compta"), ("root", "admins")):
            await made.hire(name, group)
        yield made


@pytest.fixture
async def desk(store: Store, tmp_path: pathlib.Path) -> AsyncIterator[Desk]:
    async with opened(store, tmp_path) as made:
        yield made


async def link(desk: Desk, task: str, person: str, by: str = "root", **more: object) -> Response:
    return await desk.ask(by, f"{task}/links", {"person": person, **more})


async def links(desk: Desk) -> int:
    async with desk.app.store.connection() as connection:
        row = await (await connection.execute("SELECT count(*) AS n FROM task_links")).fetchone()
    assert row is not None
    return int(row["n"])


async def events(app: App, task: str) -> list[tuple[str, str | None, str | None, str]]:
    found = await app.review.history(TaskId(task.rpartition("/")[2]))
    return [(one.kind, one.by_name, one.target, one.words) for one in found]


async def test_who_looks_after_runs_makes_a_link_for_somebody_the_task_waits_for(desk: Desk) -> None:
    task = await desk.park(asking())
    made = await link(desk, task, "zoe")
    assert made.status == 200 and made.headers["cache-control"] == "no-store"
    told: Mapping[str, Any] = made.json
    assert (told["object"], told["person"], told["url"], f"{TASKS}/{told['task']}") == ("task.link", "zoe", None, task)
    left = datetime.fromisoformat(told["expires_at"]) - datetime.now(UTC)
    assert timedelta(hours=71) < left <= timedelta(hours=72)
    assert (await events(desk.app, task))[1:] == [("linked", "root", "user:zoe", told["id"])]
    found = desk.app.review.links
    token = told["path"].removeprefix("/review/links/")
    used = await found.use(token)
    assert (used.id, used.person) == (told["id"], "zoe") and used.reviewer.name == "zoe"
    with pytest.raises(Conflict):
        await found.use(token)
    await desk.app.review.decide(used.task, used.reviewer, {"decision": "approve"})
    seen = await desk.app.review.get(used.task)
    assert (seen.decided_by, seen.decided_id) == ("zoe", told["id"]), "who made the link is found by its id"
    assert (await link(desk, task, "max")).status == 409


async def test_nobody_gets_a_link_that_is_not_among_those_the_task_waits_for(desk: Desk) -> None:
    task = await desk.park(asking())
    for nobody in ("eve", "root", "omar", "nora", "personne", "sav", "group:sav", "desk"):
        told = await link(desk, task, nobody)
        assert (told.status, told.json["error"]["param"]) == (422, "person"), nobody
    for wrong in ({}, {"person": ""}, {"person": "z" * 201}, {"person": "a\x00b"}, {"person": 1}, {"person": " "}):
        assert (await desk.ask("root", f"{task}/links", wrong)).status == 422, wrong
    for hours in (0, 73, "1", 1.5, True):
        assert (await link(desk, task, "zoe", hours=hours)).status == 422, hours
    assert (await link(desk, task, "zoe", until="2030-01-01")).status == 422
    (zoe,) = [key for key in await desk.app.keys.list() if key.name == "zoe"]
    await desk.app.keys.revoke(zoe.id, "tests")
    assert (await link(desk, task, "zoe")).status == 422, "a revoked key makes nobody a member"
    issued = await desk.app.keys.issue(
        "bot", desk.who.project, desk.who.system, "tests", groups=["sav"], scopes=Scopes(surfaces=frozenset({"chat"}))
    )
    assert issued and (await link(desk, task, "bot")).status == 422, "a key for models alone is no person"
    assert await links(desk) == 0 and [kind for kind, *_ in await events(desk.app, task)] == ["opened"]


async def test_who_may_not_make_links_gets_none_and_learns_nothing(desk: Desk) -> None:
    task = await desk.park(asking())
    for one in ("zoe", "eve"):
        refused = await link(desk, task, "zoe", by=one)
        assert refused.status == 403 and "/review/links" not in refused.body.decode()
    app = desk.app
    project = await app.keys.create_project("voisin")
    abroad = await app.keys.create_project("ailleurs", (await app.keys.create_organisation("autre")).id)
    for name, owner in (("neighbour", project), ("stranger", abroad)):
        other = await caller(app, name)
        issued = await app.keys.issue(name, owner.id, other.system, "tests", groups=["admins", "sav"])
        desk.keys[name] = issued.secret
        assert (await link(desk, task, "zoe", by=name)).status == 404
    assert (await link(desk, f"{TASKS}/task_none", "zoe")).status == 404
    assert (await link(desk, f"{TASKS}/%00", "zoe")).status == 404
    assert (await desk.ask("root", f"{task}/links")).status == 405
    assert await links(desk) == 0


async def test_people_of_metier_yaml_and_substitutes_get_links_with_a_whole_address(desk: Desk) -> None:
    task = await desk.park(asking())
    notices = desk.app.notices
    notices.use(people(SECTION, "fr"), (None, None))
    told = await link(desk, task, "nora", hours=1)
    assert told.status == 200 and told.json["url"] == "https://metier.exemple.fr" + told.json["path"]
    assert datetime.fromisoformat(told.json["expires_at"]) - datetime.now(UTC) <= timedelta(hours=1)
    assert (await link(desk, task, "omar")).status == 422, "a person of another organisation"
    mine = await desk.park(asking(assign="user:zoe"))
    assert (await link(desk, mine, "zoe")).status == 200
    assert (await link(desk, mine, "max")).status == 422
    now = datetime.now(UTC)
    zoe = Reviewer("zoe", organisation=desk.who.organisation)
    await desk.app.review.absences.declare(zoe, now - timedelta(hours=1), now + timedelta(days=1), "user:max")
    stands_in = await link(desk, mine, "max")
    assert stands_in.status == 200
    used = await desk.app.review.links.use(stands_in.json["path"].removeprefix("/review/links/"))
    assert (await desk.app.review.get(used.task, used.reviewer)).id == used.task


async def test_who_may_not_decide_a_task_makes_no_link_to_decide_it_as_somebody_else(desk: Desk) -> None:
    app, who = desk.app, desk.who
    issued = await app.keys.issue(who.name, who.project, who.system, "tests", groups=["admins"])
    desk.keys["starter"] = issued.secret
    task = await desk.park(asking())
    refused = await link(desk, task, "zoe", by="starter")
    assert (refused.status, await links(desk)) == (403, 0)
    assert (await link(desk, await desk.park(asking(**{"not": "user:root"})), "zoe")).status == 403
    assert (await link(desk, task, "zoe")).status == 200


async def test_no_link_for_who_may_not_decide_or_past_somebody_who_has_it_in_hand(desk: Desk) -> None:
    barred = await desk.park(asking(**{"not": "user:zoe"}))
    refused = await link(desk, barred, "zoe")
    assert refused.status == 403 and "somebody else" in refused.json["error"]["message"]
    await desk.app.keys.issue(desk.who.name, desk.who.project, desk.who.system, "tests", groups=["sav"])
    assert (await link(desk, barred, desk.who.name)).status == 403, "who started the run does not decide it"
    task = await desk.park(replace(asking(), name="autre"))
    assert (await desk.ask("zoe", f"{task}/claim", {})).status == 200
    assert (await link(desk, task, "max")).status == 409
    assert (await link(desk, task, "zoe")).status == 200
    assert await links(desk) == 1
