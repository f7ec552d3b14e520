"""Tasks over HTTP: found, read, claimed, commented, handed off and decided by the owner of a key, by nobody else."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from metier.api.server import application
from metier.app import App
from metier.calls import JSON, Principal
from metier.policy.keys import Scopes
from metier.providers.scripted import ScriptedProvider, says
from metier.store import Store
from metier.testing import build_for_tests, caller
from metier.workflow.shape import Workflow
from tests.api.client import Response, ask
from tests.console.desk import APPROVAL
from tests.workflow.flows import flow, step

LETTER: dict[str, JSON] = {"subject": "Retour", "body": "Bonjour"}
TASKS, ABSENCES = "/v1/tasks", "/v1/absences"


class Desk:
    """The surface, and a key for each of the people."""

    def __init__(self, app: App, who: Principal) -> None:
        self.app = app
        self.http = application(app)
        self.who = who
        self.keys: dict[str, str] = {}

    async def hire(self, name: str, *groups: str) -> None:
        issued = await self.app.keys.issue(name, self.who.project, self.who.system, "tests", groups=groups)
        self.keys[name] = issued.secret

    async def ask(
        self, name: str, path: str, body: Mapping[str, Any] | None = None, *, method: str | None = None
    ) -> Response:
        headers = {"authorization": f"Bearer {self.keys[name]}"}
        return await ask(self.http, path, body, headers=headers, method=method or ("GET" if body is None else "POST"))

    async def park(self, workflow: Workflow) -> str:
        run = await self.app.engine.start(workflow, {}, self.who)
        await self.app.engine.drain()
        (task,) = await self.app.review.list(run=run)
        return f"{TASKS}/{task.id}"


@contextlib.asynccontextmanager
async def opened(store: Store, folder: pathlib.Path) -> AsyncIterator[Desk]:
    """Zoe and max of the group sav, and eve of another one."""
    async with build_for_tests(folder, store.url, ScriptedProvider(says("x"))) as app:
        made = Desk(app, await caller(app, "desk"))
        for name in ("zoe", "max"):
            await made.hire(name, "sav")
        await made.hire("eve", "compta")
        yield made


@pytest.fixture
async def desk(store: Store, tmp_path: pathlib.Path) -> AsyncIterator[Desk]:
    async with opened(store, tmp_path) as made:
        yield made


def asking(**more: JSON) -> Workflow:
    letter = "{'subject': 'Retour', 'body': 'Bonjour'}"
    config: JSON = {"assign": "group:sav", "title": "Valider", "edit": letter, **more}
    return flow(step("approve", "human", config, output=APPROVAL), output="{{ steps.approve }}")


async def test_a_task_is_found_read_claimed_and_decided_once(desk: Desk) -> None:
    path = await desk.park(asking())
    listed = (await desk.ask("zoe", TASKS)).json["data"]
    assert [(one["title"], one["edit"], f"{TASKS}/{one['id']}") for one in listed] == [("Valider", LETTER, path)]
    assert (await desk.ask("eve", TASKS)).json["data"] == []
    seen = await desk.ask("zoe", path)
    assert seen.json["schema"]["properties"]["decision"] == {"enum": ["approve", "reject"]}
    assert (seen.json["may_not_decide"], [one["kind"] for one in seen.json["events"]]) == (None, ["opened"])
    claimed = await desk.ask("zoe", f"{path}/claim", {})
    assert claimed.status == 200 and claimed.json["claimed_by"].startswith("zoe (")
    edited = {"decision": "approve", "edited": {**LETTER, "body": "Bonsoir"}}
    assert (await desk.ask("max", f"{path}/decide", {"decision": edited})).status == 409
    assert (await desk.ask("zoe", f"{path}/release", {})).json["claimed_by"] is None
    wrong = await desk.ask("max", f"{path}/decide", {"decision": {"decision": "perhaps"}})
    assert wrong.status == 422
    done = await desk.ask("max", f"{path}/decide", {"decision": edited, "note": "plus poli"})
    assert (done.status, done.json["state"], done.json["note"]) == (200, "decided", "plus poli")
    assert done.json["decided_by"].startswith("max (") and done.json["decided_at"] is not None
    assert (await desk.ask("zoe", f"{path}/decide", {"decision": edited})).status == 409
    await desk.app.engine.drain()
    (run,) = await desk.app.engine.list()
    assert await desk.app.engine.result(run.id) == edited


async def test_comments_and_hand_offs_are_kept_with_their_author(desk: Desk) -> None:
    path = await desk.park(asking())
    told = await desk.ask("zoe", f"{path}/comments", {"text": "elle a rappelé"})
    assert (told.json["events"][-1]["kind"], told.json["events"][-1]["words"]) == ("commented", "elle a rappelé")
    assert told.json["events"][-1]["by"].startswith("zoe (")
    assert (await desk.ask("zoe", f"{path}/comments", {"text": ""})).status == 422
    assert (await desk.ask("zoe", f"{path}/hand-off", {"to": "group:compta"})).status == 422
    assert (await desk.ask("zoe", f"{path}/hand-off", {"to": "compta", "note": "à vous"})).status == 422
    handed = await desk.ask("zoe", f"{path}/hand-off", {"to": "group:compta", "note": "à vous"})
    assert (handed.status, handed.json["assignee"], "edit" in handed.json) == (200, "group:compta", False)
    assert (await desk.ask("zoe", path)).status == 404
    seen = await desk.ask("eve", path)
    assert [(one["kind"], one["words"]) for one in seen.json["events"]][-1] == ("handed_off", "à vous")
    refused = {"decision": {"decision": "reject", "edited": LETTER}}
    reasonless = await desk.ask("eve", f"{path}/decide", refused)
    assert reasonless.status == 422, "a refusal helps nobody without its reason"
    assert (await desk.ask("eve", f"{path}/decide", {**refused, "note": "trop tard"})).status == 200


async def test_who_may_not_decide_is_told_why_and_strangers_see_nothing(desk: Desk) -> None:
    path = await desk.park(asking(allow_self=False))
    await desk.hire(desk.who.name, "sav")
    own = await desk.ask(desk.who.name, path)
    assert own.json["may_not_decide"] == "self"
    decision = {"decision": {"decision": "approve", "edited": LETTER}}
    assert (await desk.ask(desk.who.name, f"{path}/decide", decision)).status == 403
    for name, target in (("eve", path), ("eve", f"{path}/claim"), ("zoe", f"{TASKS}/task_none")):
        assert (await desk.ask(name, target, {} if target.endswith("claim") else None)).status == 404
    assert (await desk.ask("zoe", f"{path}/decide", {"decision": {}, "force": True})).status == 422
    narrow = await desk.app.keys.issue(
        "robot", desk.who.project, desk.who.system, "tests", groups=["sav"], scopes=Scopes(surfaces=frozenset({"chat"}))
    )
    desk.keys["robot"] = narrow.secret
    assert (await desk.ask("robot", TASKS)).status == 403


async def test_a_second_reading_does_not_show_the_first(desk: Desk) -> None:
    path = await desk.park(asking(second_reading=1))
    decision = {"decision": {"decision": "reject", "edited": LETTER}, "note": "ton trop sec"}
    first = await desk.ask("zoe", f"{path}/decide", decision)
    assert first.status == 200
    (second,) = (await desk.ask("max", TASKS)).json["data"]
    whole = await desk.ask("max", f"{TASKS}/{second['id']}")
    assert "ton trop sec" not in whole.body.decode() and "zoe" not in whole.body.decode()
    assert (await desk.ask("zoe", f"{TASKS}/{second['id']}")).json["may_not_decide"] == "reader"
    assert (await desk.ask("max", f"{TASKS}/{second['id']}/decide", {**decision, "note": "sec"})).status == 200


async def test_an_absence_gives_the_tasks_to_who_stands_in(desk: Desk) -> None:
    path = await desk.park(asking(assign="user:zoe"))
    assert (await desk.ask("max", path)).status == 404
    now = datetime.now(UTC)
    days = {"since": (now - timedelta(hours=1)).isoformat(), "until": (now + timedelta(days=2)).isoformat()}
    made = await desk.ask("zoe", ABSENCES, {**days, "substitute": "user:max"})
    assert (made.status, made.json["person"], made.json["substitute"]) == (200, "zoe", "user:max")
    assert (await desk.ask("max", path)).status == 200
    assert [one["id"] for one in (await desk.ask("max", ABSENCES)).json["data"]] == [made.json["id"]]
    assert (await desk.ask("zoe", ABSENCES, {**days, "since": 3, "substitute": "user:max"})).status == 422
    assert (await desk.ask("eve", f"{ABSENCES}/{made.json['id']}", method="DELETE")).status == 404
    assert (await desk.ask("zoe", f"{ABSENCES}/{made.json['id']}", method="DELETE")).json["deleted"] is True
    assert (await desk.ask("max", path)).status == 404
