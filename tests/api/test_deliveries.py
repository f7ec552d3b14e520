"""Effects in doubt, corrections and agreement over HTTP: seen and settled by whom the pages would let."""

from __future__ import annotations

import pathlib
from collections.abc import AsyncIterator

import pytest

from metier.calls import JSON, RunId
from metier.connectors.effects import Commit, Deed, Effects, identity
from metier.errors import Unavailable
from metier.store import Store
from metier.workflow.review import TaskId
from tests.api.test_tasks import TASKS, Desk, asking, opened

DOUBTS, CORRECTIONS, AGREEMENT = "/v1/deliveries", "/v1/corrections", "/v1/agreement"
LETTER: dict[str, JSON] = {"subject": "Retour", "body": "Bonjour"}


@pytest.fixture
async def desk(store: Store, tmp_path: pathlib.Path) -> AsyncIterator[Desk]:
    """Zoe and max of the group sav, eve of another one, ada who looks after runs, and ben who does so elsewhere."""
    async with opened(store, tmp_path) as made:
        await made.hire("ada", "admins")
        elsewhere = await made.app.keys.create_project("ailleurs")
        issued = await made.app.keys.issue("ben", elsewhere.id, made.who.system, "tests", groups=["admins"])
        made.keys["ben"] = issued.secret
        yield made


async def doubted(desk: Desk) -> tuple[RunId, str]:
    """Have an action in doubt in a run that asked zoe and max something; give the run and where it is settled."""

    async def transmit(content: bytes, name: str, commit: Commit) -> None:
        await commit()
        raise Unavailable("the line broke")

    task = (await desk.park(asking())).rpartition("/")[2]
    run = (await desk.app.review.get(TaskId(task))).run
    key = f"{run}/ticket"
    with pytest.raises(Unavailable):
        await Effects(desk.app.store, desk.app.vault).once(
            key, Deed("tickets.create", "sav", b"Bonjour", transmit), "main"
        )
    return run, f"{DOUBTS}/{identity(key)}"


async def test_an_effect_in_doubt_is_listed_shown_and_settled_once(desk: Desk) -> None:
    run, path = await doubted(desk)
    (listed,) = (await desk.ask("zoe", DOUBTS)).json["data"]
    assert (listed["run"], listed["path"], listed["in_doubt"], f"{DOUBTS}/{listed['id']}") == (
        run,
        "ticket",
        True,
        path,
    )
    shown = (await desk.ask("zoe", path)).json
    assert (shown["tool"], shown["recipient"], shown["body"], shown["state"]) == (
        "tickets.create", "sav", "Bonjour", "unsure",
    )  # fmt: skip
    for wrong in ({}, {"settlement": "perhaps"}, {"settlement": "delivered", "by": "ada"}):
        assert (await desk.ask("zoe", f"{path}/settle", wrong)).status == 422
    again = await desk.ask("zoe", f"{path}/settle", {"settlement": "again"})
    assert again.status == 409 and "would not be sent again" in again.json["error"]["message"]
    settled = await desk.ask("zoe", f"{path}/settle", {"settlement": "delivered"})
    assert (settled.status, settled.json["state"], settled.json["in_doubt"]) == (200, "sent", False)
    assert settled.json["settled_by"].startswith("zoe (") and settled.json["settled_as"] == "delivered"
    late = await desk.ask("max", f"{path}/settle", {"settlement": "delivered"})
    assert late.status == 409 and "settled by 'zoe" in late.json["error"]["message"]
    assert (await desk.ask("ada", DOUBTS)).json["data"] == []


async def test_effects_in_doubt_are_for_whom_the_run_asked_and_for_admins_of_the_organisation(desk: Desk) -> None:
    _, path = await doubted(desk)
    assert [len((await desk.ask(name, DOUBTS)).json["data"]) for name in ("zoe", "ada", "eve")] == [1, 1, 0]
    assert (await desk.ask("ada", path)).status == 200
    for act in (desk.ask("eve", path), desk.ask("eve", f"{path}/settle", {"settlement": "delivered"})):
        assert (await act).status == 404
    assert (await desk.ask("zoe", f"{DOUBTS}?limit=0")).status == 422


async def test_corrections_are_listed_and_shown_masked_to_admins_of_the_project(desk: Desk) -> None:
    path = await desk.park(asking())
    edited = {"decision": "approve", "edited": {**LETTER, "body": "Bonjour, écrivez à claire.vasseur@courriel.example"}}
    assert (await desk.ask("zoe", f"{path}/decide", {"decision": edited})).status == 200
    (listed,) = (await desk.ask("ada", f"{CORRECTIONS}?flow=flow")).json["data"]
    assert listed["path"] == "approve" and listed["by"].startswith("zoe (") and "edited" not in listed
    shown = (await desk.ask("ada", f"{CORRECTIONS}/{listed['id']}")).json
    assert shown["original"] == LETTER and "claire.vasseur" not in shown["edited"]["body"]
    assert (await desk.ask("ada", f"{CORRECTIONS}?flow=other")).json["data"] == []
    assert (await desk.ask("ada", f"{CORRECTIONS}?after={listed['id']}")).json["data"] == []
    assert (await desk.ask("ben", CORRECTIONS)).json["data"] == []
    for name, id in (("ben", listed["id"]), ("ada", "correction_none"), ("ada", "\x00")):
        assert (await desk.ask(name, f"{CORRECTIONS}/{id}")).status == 404
    for where in (CORRECTIONS, f"{CORRECTIONS}/{listed['id']}", AGREEMENT):
        assert (await desk.ask("zoe", where)).status == 403


async def test_agreement_is_counted_for_the_project_of_the_key(desk: Desk) -> None:
    path = await desk.park(asking(second_reading=1))
    decision = {"decision": {"decision": "approve", "edited": LETTER}}
    assert (await desk.ask("zoe", f"{path}/decide", decision)).status == 200
    await desk.app.engine.drain()
    (second,) = (await desk.ask("max", TASKS)).json["data"]
    assert (await desk.ask("max", f"{TASKS}/{second['id']}/decide", decision)).status == 200
    (told,) = (await desk.ask("ada", AGREEMENT)).json["data"]
    assert (told["flow"], told["path"], told["read_twice"], told["agreed"]) == ("flow", "approve", 1, 1)
    assert (await desk.ask("ada", f"{AGREEMENT}?flow=other")).json["data"] == []
    assert (await desk.ask("ben", AGREEMENT)).json["data"] == []
