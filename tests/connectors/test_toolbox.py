"""The table of tools in a running engine: connectors as steps, effects in doubt settled by people, secrets nowhere."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from metier.calls import JSON
from metier.connectors.deliveries import Deliveries
from metier.connectors.effects import Deed, Effects, NotTaken
from metier.connectors.secrets import Secrets
from metier.connectors.tools import KINDS, Toolbox, names, tools
from metier.errors import ConfigError, Conflict, Invalid, NotFound, Unavailable
from metier.store import Store
from metier.vault import Vault
from metier.workflow.engine import Engine
from metier.workflow.review import Review, Reviewer, TaskDesk
from metier.workflow.steps.tool import ToolSteps
from tests.connectors.place import box
from tests.connectors.webserver import serving
from tests.sealing import age, found, proven
from tests.workflow.flows import WHO, Counting, flow, step

ADA = Reviewer("ada", frozenset({"admins"}), "key_ada")
TOKEN = "canary-token-of-a-run"


def crm(url: str) -> dict[str, Any]:
    operations = {"create": {"post": "/contacts", "input": {"name": "string"}}, "find": {"get": "/contacts"}}
    auth = {"bearer": "crm-token"}
    return {
        "kind": "http",
        "base_url": url,
        "private": ["127.0.0.1"],
        "auth": auth,
        "operations": operations,
        "retries": 0,
    }


async def test_a_doubtful_request_of_a_run_is_settled_by_a_person_and_no_secret_is_in_the_run(
    store: Store, vault: Vault
) -> None:
    await Secrets.built(store, vault).set("crm-token", TOKEN, scope=["crm"], by="ada")
    async with serving("taken then cut", (200, {"token": TOKEN})) as server:
        made = box(store, vault, crm=crm(server.url))
        engine = Engine(store, vault, {"tool": ToolSteps(made), "code": Counting()}, desk=TaskDesk(store, vault))
        review = Review(store, vault, engine)
        deliveries = Deliveries(store, vault, engine, review)
        given: dict[str, JSON] = {"name": "Ada"}
        asked = flow(step("make", "tool", "crm.create", with_=given), step("look", "tool", "crm.find"))
        run = await engine.start(asked, {}, WHO)
        await engine.drain()
        (doubtful,) = await deliveries.list()
        assert (doubtful.tool, doubtful.key, doubtful.state) == ("crm.create", f"{run}/make", "unsure")
        assert doubtful.recipient.startswith("POST 127.0.0.1") and "Ada" in doubtful.body and TOKEN not in doubtful.body
        assert (await deliveries.get(doubtful.message_id, ADA)).key == doubtful.key
        await deliveries.settle(doubtful.key, ADA, "delivered")
        await engine.drain()
        assert (await engine.get(run)).status == "done"
        assert [one.method for one in server.asked] == ["POST", "GET"]
        told = repr([line.value for line in await engine.steps(run)])
        assert "[secret]" in told and TOKEN not in told


async def test_effects_in_doubt_of_a_cancelled_run_are_listed(store: Store, vault: Vault) -> None:
    await Secrets.built(store, vault).set("crm-token", TOKEN, scope=["crm"], by="ada")
    async with serving("cut") as server:
        made = box(store, vault, crm=crm(server.url))
        engine = Engine(store, vault, {"tool": ToolSteps(made)}, desk=TaskDesk(store, vault))
        deliveries = Deliveries(store, vault, engine, Review(store, vault, engine))
        given: dict[str, JSON] = {"name": "Ada"}
        run = await engine.start(flow(step("make", "tool", "crm.create", with_=given)), {}, WHO)
        await engine.drain()
        await engine.cancel(run)
        (doubtful,) = await deliveries.list()
        assert doubtful.cancelled
        with pytest.raises(Conflict):
            await deliveries.settle(doubtful.key, ADA, "again")
        await deliveries.settle(doubtful.key, ADA, "delivered")
        assert await deliveries.list() == ()


async def test_tools_are_found_by_name_and_pattern_those_of_a_connector_first(store: Store, vault: Vault) -> None:
    made = box(store, vault, crm=crm("http://127.0.0.1:9"))
    assert [spec.name for spec in await made.matching(["*"])] == ["crm.create", "crm.find", "email.send"]
    assert [spec.name for spec in await made.matching(["crm.f*", "email.send"])] == ["crm.find", "email.send"]
    with pytest.raises(NotFound, match="no tool is called"):
        await made.matching(["nobody.*"])
    assert sorted(made) == ["crm.*", "email.send"] and len(made) == 2 and "email.send" in made
    with pytest.raises(KeyError):
        made["nobody.calls"]
    assert sorted(Toolbox.built(store, vault, None, tools(None, None, None))) == ["crm.find_contact", "email.send"]


def test_a_linter_is_told_what_is_declared() -> None:
    assert names(None) == ("crm.find_contact", "email.send")
    section = {
        "crm": crm("https://x.example"), "shop": {"kind": "sql", "queries": {"q": {}}}, "files": {"kind": "mcp"},
        "hooks": {"kind": "webhook"}, "drafts": {"kind": "imap_append"},
    }  # fmt: skip
    told = ("email.send", "crm.create", "crm.find", "shop.q", "files.*", "hooks.send", "drafts.draft")
    assert names(section) == told


@pytest.mark.parametrize(
    "section", [[], {"Crm": {}}, {"a b": {}}, {"crm": {"kind": "soap"}}, {"crm": None}, {"crm": {}}, {"a.b": {}}]
)
def test_a_wrong_section_is_refused(store: Store, vault: Vault, section: Any) -> None:
    with pytest.raises(ConfigError):
        Toolbox.built(store, vault, section, {})
    assert set(KINDS) == {"http", "imap_append", "mcp", "openapi", "sql", "webhook"}


async def test_what_was_written_down_first_is_what_is_done_and_its_answer_is_sealed(store: Store, vault: Vault) -> None:
    effects, seen = Effects(store, vault), list[bytes]()

    async def refuse(content: bytes, name: str, commit: Any) -> JSON:
        await commit()
        raise NotTaken(Invalid("no"), "422")

    async def do(content: bytes, name: str, commit: Any) -> JSON:
        await commit("tx 7")
        seen.append(content)
        return {"canary": "answer"}

    with pytest.raises(Invalid, match="no"):
        await effects.once("run_1/a", Deed("t", "x", b"first", refuse), "org_a")
    assert await effects.state("run_1/a") == "prepared"
    with pytest.raises(Conflict, match="already kept"):
        await effects.once("run_1/a", Deed("other", "x", b"second", do), "org_a")
    assert await effects.once("run_1/a", Deed("t", "x", b"second", do), "org_a") == {"canary": "answer"}
    assert await effects.once("run_1/a", Deed("t", "x", b"third", do), "org_a") == {"canary": "answer"} and seen == [
        b"first"
    ]
    ((content, result, mark),) = await found(store, "outbox", "content", "result", "mark")
    assert mark == "tx 7" and b"canary" not in result
    assert proven(vault, "org_a", "outbox", content, "run_1/a") == b"first"
    assert orjson.loads(proven(vault, "org_a", "outbox result", result, "run_1/a")) == {"canary": "answer"}


async def test_an_effect_from_before_organisations_had_keys_is_done_and_its_answer_is_given(
    store: Store, vault: Vault
) -> None:
    effects = Effects(store, vault)

    async def away(content: bytes, name: str, commit: Any) -> JSON:
        raise Unavailable("away")

    async def do(content: bytes, name: str, commit: Any) -> JSON:
        await commit()
        return content.decode()

    with pytest.raises(Unavailable):
        await effects.once("run_1/a", Deed("t", "x", b"first", away), "org_a")
    ((content,),) = await found(store, "outbox", "content")
    await age(store, "outbox", "content", content, vault.seal("outbox", b"first", "run_1/a"))
    assert await effects.once("run_1/a", Deed("t", "x", b"second", do), "org_a") == "first"
    ((result,),) = await found(store, "outbox", "result")
    await age(store, "outbox", "result", result, vault.seal("outbox result", b'"before"', "run_1/a"))
    assert await effects.once("run_1/a", Deed("t", "x", b"third", do), "org_a") == "before"


@pytest.mark.parametrize("known", [True, False, None])
async def test_a_step_that_is_cancelled_on_the_wire_leaves_a_doubt_that_is_asked_about(
    store: Store, vault: Vault, known: bool | None
) -> None:
    effects, begun, count = Effects(store, vault), asyncio.Event(), 0

    async def hang(content: bytes, name: str, commit: Any) -> JSON:
        nonlocal count
        await commit("mark")
        count += 1
        begun.set()
        if count == 1:
            await asyncio.sleep(60)
        return count

    async def ask(doubt: Any) -> bool | None:
        assert doubt.mark == "mark"
        return known

    deed = Deed("t", "x", b"c", hang, ask)
    task = asyncio.create_task(effects.once("run_1/a", deed, "org_a"))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await effects.state("run_1/a") == "unsure"
    if known is None:
        with pytest.raises(Exception, match="may or may not"):
            await effects.once("run_1/a", deed, "org_a")
    else:
        assert await effects.once("run_1/a", deed, "org_a") == (None if known else 2)
    assert count == (2 if known is False else 1)
