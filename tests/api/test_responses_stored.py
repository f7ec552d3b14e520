"""Responses that are kept: read, listed, continued and deleted, by those who may, for 30 days."""

from __future__ import annotations

import asyncio
import pathlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from metier.api.server import application
from metier.calls import (
    Call,
    Chunk,
    KeyId,
    Message,
    Principal,
    ProjectId,
    Reasoning,
    ReasoningDelta,
    SystemId,
    ToolCall,
    Usage,
)
from metier.errors import Invalid, NotFound, Unavailable
from metier.guardrails.pii import PersonalData
from metier.providers.scripted import Script, ScriptedProvider, asks, says
from metier.record import responses as room
from metier.record.erasure import Erasure
from metier.record.keeping import Capture, Keepings, Scope
from metier.record.responses import StoredResponses
from metier.store import Store
from metier.testing import StillClock, build_for_tests
from metier.vault import Vault, member
from tests.api.client import Response, ask
from tests.world import World, world

PATH = "/v1/responses"
HELLO: dict[str, Any] = {"model": "petit", "input": "Bonjour"}
WEATHER = {"type": "function", "name": "meteo", "parameters": {"type": "object"}}


class Door:
    """The application of a world, asked in the name of any key."""

    def __init__(self, here: World, provider: ScriptedProvider) -> None:
        self.here = here
        self.provider = provider
        self.app = application(here)

    async def send(self, method: str, path: str = "", body: Any = None, key: str = "", **headers: str) -> Response:
        sent = {"x-api-key": key or self.here.secret, **headers}
        return await ask(self.app, PATH + path, body, headers=sent, method=method)

    async def made(self, key: str = "", **more: Any) -> Any:
        response = await self.send("POST", body={**HELLO, **more}, key=key)
        assert response.status == 200, response.body
        return response.json

    async def another_key(
        self, *, project: str | None = None, system: bool = False, groups: tuple[str, ...] = ()
    ) -> str:
        """Issue a key: of another project, of another system, or with groups."""
        keys, where, whose = self.here.keys, self.here.principal.project, self.here.principal.system
        if project is not None:
            where = (await keys.create_project(project)).id
        if system:
            made = await self.here.register.register("Autre", "Autre chose", "Camille")
            await self.here.register.approve(made.id, by="Camille")
            whose = made.id
        return (await keys.issue("autre", where, whose, by="Camille", groups=groups)).secret


@pytest.fixture
async def door(store: Store, vault: Vault, tmp_path: pathlib.Path) -> AsyncIterator[Door]:
    """A door behind which a provider says "Bonjour" until told otherwise."""
    provider = ScriptedProvider(says("Bon", "jour"))
    async with world(store, vault, tmp_path, provider) as here:
        yield Door(here, provider)


async def test_a_response_is_kept_as_it_was_given_and_sealed(door: Door) -> None:
    body = await door.made(input="Mon secret : tournesol", metadata={"a": "b"})
    assert (await door.send("GET", f"/{body['id']}")).json == body
    async with door.here.store.connection() as connection:
        [row] = await (await connection.execute("SELECT * FROM responses")).fetchall()
    assert b"tournesol" not in bytes(row["sealed"])
    assert b"Bonjour" not in bytes(row["sealed"])


async def test_a_streamed_response_is_kept_before_its_last_event(door: Door) -> None:
    response = await door.send("POST", body={**HELLO, "stream": True})
    name = f"resp_{response.headers['x-metier-call-id']}"
    kept = (await door.send("GET", f"/{name}")).json
    assert (kept["status"], kept["output"][0]["content"][0]["text"]) == ("completed", "Bonjour")


async def test_store_false_keeps_nothing(door: Door) -> None:
    body = await door.made(store=False)
    assert body["store"] is False
    refused = await door.send("GET", f"/{body['id']}")
    assert (refused.status, refused.json["error"]["code"]) == (404, "not_found")


async def test_a_conversation_goes_on_with_what_was_said_but_not_with_its_instructions(door: Door) -> None:
    first = await door.made(instructions="Sois bref.")
    second = await door.made(input="Et après ?", previous_response_id=first["id"], instructions="Sois long.")
    third = await door.made(input=[{"role": "user", "content": "Fin ?"}], previous_response_id=second["id"])
    assert second["previous_response_id"] == first["id"]
    assert third["instructions"] is None
    said = Message("assistant", "Bonjour")
    assert door.provider.calls[1].messages == (
        Message("system", "Sois long."),
        Message("user", "Bonjour"),
        said,
        Message("user", "Et après ?"),
    )
    assert door.provider.calls[2].messages == (
        Message("user", "Bonjour"),
        said,
        Message("user", "Et après ?"),
        said,
        Message("user", "Fin ?"),
    )


@pytest.mark.parametrize("stored", [True, False])
async def test_thoughts_and_proofs_go_back_to_the_provider_kept_here_or_by_the_client(door: Door, stored: bool) -> None:
    thinking = (
        Chunk(reasoning=(ReasoningDelta(0, "Il faut le temps."), ReasoningDelta(0, signature="sig"))),
        *asks("meteo", {"ville": "Lyon"}).chunks,
    )
    door.provider.then(Script(thinking), says("Il fait beau."))
    await door.made(store=False)
    first = await door.made(tools=[WEATHER], store=stored)
    call = next(item for item in first["output"] if item["type"] == "function_call")
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "12 °C"}
    if stored:
        await door.made(input=[result], previous_response_id=first["id"], tools=[WEATHER])
    else:
        items = [{"role": "user", "content": "Bonjour"}, *first["output"], result]
        await door.made(input=items, store=False, tools=[WEATHER])
    assert door.provider.calls[-1].messages == (
        Message("user", "Bonjour"),
        Message(
            "assistant",
            tool_calls=(ToolCall("call_1", "meteo", '{"ville":"Lyon"}'),),
            reasoning=(Reasoning("Il faut le temps.", "sig"),),
        ),
        Message("tool", "12 °C", tool_call_id="call_1"),
    )


async def test_a_function_call_without_its_output_is_named(door: Door) -> None:
    door.provider.then(asks("meteo", {}))
    await door.made(store=False)
    first = await door.made(tools=[WEATHER])
    refused = await door.send("POST", body={**HELLO, "previous_response_id": first["id"]})
    assert refused.status == 422
    assert "'call_1'" in refused.json["error"]["message"]


@pytest.mark.parametrize("other", ["project", "system", "groups"])
async def test_who_has_no_right_to_a_response_is_not_told_that_it_exists(door: Door, other: str) -> None:
    maker = await door.another_key(groups=("rh",)) if other == "groups" else ""
    groups = ("achats",) if other == "groups" else ()
    key = await door.another_key(
        project="Autre" if other == "project" else None, system=other == "system", groups=groups
    )
    name = (await door.made(key=maker))["id"]
    asked = [
        await door.send("GET", f"/{name}", key=key),
        await door.send("GET", f"/{name}/input_items", key=key),
        await door.send("POST", f"/{name}/cancel", body={}, key=key),
        await door.send("DELETE", f"/{name}", key=key),
        await door.send("POST", body={**HELLO, "previous_response_id": name}, key=key),
    ]
    nobodys = f"{name[:-1]}{'0' if name[-1] != '0' else '1'}"
    absent = await door.send("GET", f"/{nobodys}", key=key)
    assert [response.status for response in asked] == [404] * 5
    for response in asked[:4]:
        assert response.json["error"]["message"].replace(name, nobodys) == absent.json["error"]["message"]
    assert (await door.send("GET", f"/{name}", key=maker)).status == 200


async def test_a_key_with_more_groups_of_the_same_system_reads_it(door: Door) -> None:
    maker, reader = await door.another_key(groups=("rh",)), await door.another_key(groups=("rh", "achats"))
    name = (await door.made(key=maker))["id"]
    assert (await door.send("GET", f"/{name}", key=reader)).status == 200


async def test_a_thought_sealed_for_one_project_does_not_open_in_another(door: Door) -> None:
    sealed = door.here.responses.seal(door.here.principal, Reasoning("Voyons", "sig"))
    items = [{"type": "reasoning", "summary": [], "encrypted_content": sealed}, {"role": "user", "content": "Alors ?"}]
    stranger = await door.another_key(project="Autre")
    refused = await door.send("POST", body={**HELLO, "input": items}, key=stranger)
    assert (refused.status, refused.json["error"]["param"]) == (422, "input[0].encrypted_content")
    assert (await door.send("POST", body={**HELLO, "input": items})).status == 200


async def test_a_deleted_response_is_gone_and_what_continues_it_can_be_read_but_not_continued(door: Door) -> None:
    first = await door.made()
    second = await door.made(previous_response_id=first["id"])
    gone = await door.send("DELETE", f"/{first['id']}")
    assert gone.json == {"id": first["id"], "object": "response", "deleted": True}
    assert (await door.send("DELETE", f"/{first['id']}")).status == 404
    assert (await door.send("GET", f"/{second['id']}")).status == 200
    refused = await door.send("POST", body={**HELLO, "previous_response_id": second["id"]})
    assert (refused.status, refused.json["error"]["param"]) == (404, "previous_response_id")
    assert first["id"] in refused.json["error"]["message"]
    # No call was made of it, so that it is not named like one: that name would be in no ledger.
    assert refused.headers["x-request-id"].startswith("req_")


async def test_items_sent_are_listed_in_pages_the_last_first(door: Door) -> None:
    items = [{"role": "user", "content": f"n° {number}"} for number in range(5)]
    name = (await door.made(input=items))["id"]
    app, key = door.app, {"x-api-key": door.here.secret}

    async def page(query: str) -> Any:
        async def queried(scope: Any, receive: Any, send: Any) -> None:
            await app({**scope, "query_string": query.encode()}, receive, send)

        return (await ask(queried, f"{PATH}/{name}/input_items", headers=key)).json

    def numbers(listed: Any) -> list[str]:
        return [item["content"][0]["text"][-1] for item in listed["data"]]

    assert numbers(await page("")) == ["4", "3", "2", "1", "0"]
    first = await page("order=asc&limit=2&include[]=message.input_image.image_url")
    assert (numbers(first), first["has_more"], first["object"]) == (["0", "1"], True, "list")
    assert (first["first_id"], first["last_id"]) == (first["data"][0]["id"], first["data"][1]["id"])
    rest = await page(f"order=asc&limit=10&after={first['last_id']}")
    assert (numbers(rest), rest["has_more"]) == (["2", "3", "4"], False)
    for wrong in ("limit=0", "limit=101", "limit=x", "order=up", "after=nowhere", "other=1", "limit=%B2"):
        assert (await page(wrong))["error"]["type"] == "invalid_request_error", wrong


async def test_cancelling_is_refused_by_name(door: Door) -> None:
    name = (await door.made())["id"]
    refused = await door.send("POST", f"/{name}/cancel", body={})
    assert refused.status == 400
    assert "background" in refused.json["error"]["message"]


@pytest.mark.parametrize("name", ["resp_call_x", "x", "resp_call_" + "0" * 19, "résumé", "a\x00b"])
async def test_a_name_that_is_none_is_not_found(door: Door, name: str) -> None:
    assert (await door.send("GET", f"/{name}")).status == 404
    assert (await door.send("POST", body={**HELLO, "previous_response_id": name})).status == 404


async def test_after_30_days_a_response_is_not_given_any_more_and_the_purge_deletes_it(
    store: Store, vault: Vault, door: Door
) -> None:
    clock = StillClock()
    kept, who = StoredResponses(store, vault, clock=clock), door.here.principal
    name = "resp_call_" + "a" * 19
    call = door.here.call()
    assert await kept.keep(call, {"id": name, "previous_response_id": None, "output": []}, [])
    clock.forward(30 * 86_400 - 1)
    assert (await kept.read(who, name)).id == name
    assert await kept.purge() == 0
    clock.forward(1)
    with pytest.raises(NotFound):
        await kept.read(who, name)
    with pytest.raises(NotFound):
        await kept.chain(who, name)
    assert await kept.purge() == 1


@pytest.mark.parametrize(("capture", "kept"), [("none", False), ("masked", False), ("full", True)])
async def test_what_is_decided_for_a_system_holds_for_its_responses(
    store: Store, door: Door, capture: Capture, kept: bool
) -> None:
    system = door.here.principal.system
    await Keepings(store).decide(system, "Camille", "Essai", capture=capture, contents_days=2)
    body = await door.made()
    assert body["store"] is kept
    assert (await door.send("GET", f"/{body['id']}")).status == (200 if kept else 404)
    if kept:
        async with store.connection() as connection:
            [row] = await (await connection.execute("SELECT expires_at - created_at AS time FROM responses")).fetchall()
        assert row["time"].days == 2


@pytest.mark.parametrize("scope", ["system", "project", "subject", "call"])
async def test_what_is_under_a_legal_hold_is_deleted_for_the_client_and_stays(
    store: Store, vault: Vault, door: Door, scope: Scope
) -> None:
    name, who = (await door.made(user="u1"))["id"], door.here.principal
    targets = {
        "system": who.system,
        "project": who.project,
        "subject": member(vault, who.organisation, "u1"),
        "call": name.removeprefix("resp_"),
    }
    hold = await Keepings(store).hold(scope, targets[scope], "Camille", "Procès")
    assert (await door.send("DELETE", f"/{name}")).status == 200
    assert (await door.send("GET", f"/{name}")).status == 404
    assert await door.here.responses.purge() == 0
    await Keepings(store).release(hold.id, "Camille")
    assert await door.here.responses.purge() == 1


async def test_what_was_kept_for_a_person_or_of_a_call_is_erased(store: Store, vault: Vault, door: Door) -> None:
    theirs, others, third = await door.made(user="u1"), await door.made(user="u2"), await door.made()
    erasure = Erasure(store, vault)
    await erasure.person("main", "u1", "Camille", "Demande")
    names = [body["id"] for body in (theirs, others, third)]
    assert [(await door.send("GET", f"/{name}")).status for name in names] == [404, 200, 200]
    call = others["id"].removeprefix("resp_")
    dry = await erasure.call(call, "Camille", "Demande", dry_run=True)
    assert (dry.records, dry.elsewhere) == (0, {"responses": 1}), "nothing was captured, yet a response is kept"
    assert (await erasure.call(call, "Camille", "Demande")).elsewhere == {"responses": 1}
    with pytest.raises(NotFound, match="nothing is kept"):
        await erasure.call(call, "Camille", "Demande")
    assert [(await door.send("GET", f"/{name}")).status for name in names] == [404, 404, 200]


async def test_a_conversation_too_long_to_bring_back_is_refused(
    store: Store, vault: Vault, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "LONGEST_CHAIN", 2)
    first = await door.made()
    second = await door.made(previous_response_id=first["id"])
    third = await door.made(previous_response_id=second["id"])
    refused = await door.send("POST", body={**HELLO, "previous_response_id": third["id"]})
    assert (refused.status, refused.json["error"]["param"]) == (422, "previous_response_id")
    monkeypatch.setattr(room, "MOST_BYTES", 10)
    with pytest.raises(Invalid):
        await StoredResponses(store, vault).chain(door.here.principal, first["id"])


async def test_an_answer_that_cannot_be_kept_is_given_and_says_so(door: Door) -> None:
    async with door.here.store.connection() as connection:
        await connection.execute("ALTER TABLE responses RENAME TO elsewhere")
    body = await door.made()
    assert (body["status"], body["store"]) == ("completed", False)


async def test_a_database_that_does_not_answer_is_unavailable_and_not_broken(
    store: Store, vault: Vault, door: Door
) -> None:
    name, who = (await door.made())["id"], door.here.principal
    async with Store(store.url, size=1) as closed:
        pass
    kept = StoredResponses(closed, vault)
    for asked in (kept.read(who, name), kept.chain(who, name), kept.delete(who, name)):
        with pytest.raises(Unavailable):
            await asked


async def test_what_is_sealed_is_bound_to_its_place(store: Store, vault: Vault, door: Door) -> None:
    first, second = await door.made(), await door.made()
    async with store.connection() as connection:
        await connection.execute(
            "UPDATE responses SET sealed = (SELECT sealed FROM responses WHERE id = %s) WHERE id = %s",
            (first["id"], second["id"]),
        )
    assert (await door.send("GET", f"/{second['id']}")).status == 500


async def test_personal_data_is_masked_before_the_model_and_restored_across_chunks(
    store: Store, vault: Vault, tmp_path: pathlib.Path
) -> None:
    pieces = ("Écrivez à [[EMA", "IL_1", "]] : ", "merci [[EMAIL_1]]")
    provider = ScriptedProvider(says(*pieces), Script((
        Chunk(reasoning=(ReasoningDelta(0, "Voir [[EMAIL_1]]", "sig"),)),
        *asks("ecrire", {"a": "[[EMAIL_1]]"}).chunks[:-1],
        Chunk(finish="tool_calls", usage=Usage(3, 3)),
    )), says("Fait."))  # fmt: skip
    mail = "camille.durand@exemple.fr"
    async with world(store, vault, tmp_path, provider, guardrails=[PersonalData(store, vault)]) as here:
        door = Door(here, provider)
        response = await door.send("POST", body={**HELLO, "input": f"Mon adresse : {mail}", "stream": True})
        assert mail not in str(provider.calls[0].messages)
        assert f"Écrivez à {mail} : merci {mail}" in response.body.decode()
        first = f"resp_{response.headers['x-metier-call-id']}"
        kept = (await door.send("GET", f"/{first}")).json
        assert kept["output"][0]["content"][0]["text"] == f"Écrivez à {mail} : merci {mail}"
        assert kept["usage"]["metier"]["masked"] == {"EMAIL": 1}
        second = await door.made(previous_response_id=first, input="Écris-lui", tools=[{**WEATHER, "name": "ecrire"}])
        thought, call = second["output"]
        assert call["arguments"] == f'{{"a":"{mail}"}}'
        assert thought["summary"][0]["text"] == "Voir [[EMAIL_1]]"
        result = {"type": "function_call_output", "call_id": call["call_id"], "output": f"envoyé à {mail}"}
        await door.made(previous_response_id=second["id"], input=[result])
        assert mail not in str(provider.calls[-1].messages)
        assert provider.calls[-1].messages[-2].reasoning == (Reasoning("Voir [[EMAIL_1]]", "sig"),)


async def test_a_conversation_that_was_named_goes_on_under_its_placeholders(door: Door) -> None:
    response = await door.send("POST", body=HELLO, **{"x-metier-conversation": "dossier-7"})
    await door.made(previous_response_id=response.json["id"])
    assert [call.conversation for call in door.provider.calls] == ["dossier-7", "dossier-7"]


async def test_the_room_names_no_key_that_may_not_read(store: Store, vault: Vault, door: Door) -> None:
    name = (await door.made())["id"]
    who = door.here.principal
    same = Principal(KeyId("autre"), who.project, who.system, groups=frozenset({"plus"}))
    assert (await door.here.responses.read(same, name)).id == name
    elsewhere = Principal(who.key_id, who.project, who.system, organisation=type(who.organisation)("ailleurs"))
    with pytest.raises(NotFound):
        await door.here.responses.read(elsewhere, name)


async def test_the_platform_purges_what_is_over_its_time(store: Store, vault: Vault, tmp_path: pathlib.Path) -> None:
    clock = StillClock()
    clock.forward(-31 * 86_400)
    who = Principal(KeyId("k"), ProjectId("p"), SystemId("s"))
    body = {"id": "resp_call_" + "b" * 19, "previous_response_id": None}
    assert await StoredResponses(store, vault, clock=clock).keep(Call(who, "petit"), body, [])
    async with build_for_tests(tmp_path, store.url, ScriptedProvider()), asyncio.timeout(60), store.connection() as tx:
        while await (await tx.execute("SELECT id, pg_sleep(0.01) FROM responses")).fetchall():
            pass
