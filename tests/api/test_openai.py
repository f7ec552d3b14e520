from __future__ import annotations

import asyncio
import base64
import logging
import pathlib
import struct
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import orjson
import pytest
from starlette.applications import Starlette

from metier.api.server import application
from metier.calls import Call, Chunk
from metier.guardrails.base import Checked, Verdict
from metier.policy.keys import Scopes
from metier.providers.scripted import Script, ScriptedProvider, asks, breaks, fails, says, vector
from metier.store import Store
from metier.vault import Vault
from tests.api.client import Response, ask
from tests.world import World, world

CHAT = "/v1/chat/completions"
HELLO: dict[str, Any] = {"model": "petit", "messages": [{"role": "user", "content": "Bonjour"}]}


class Door:
    """The application of a world, with its key already in hand."""

    def __init__(self, here: World, provider: ScriptedProvider) -> None:
        self.here = here
        self.provider = provider
        self.app: Starlette = application(here)

    async def post(self, path: str, body: Any, **more: Any) -> Response:
        headers = {"authorization": f"Bearer {self.here.secret}", **more.pop("headers", {})}
        return await ask(self.app, path, body, headers=headers, **more)

    async def get(self, path: str, **headers: str) -> Response:
        return await ask(self.app, path, headers={"authorization": f"Bearer {self.here.secret}", **headers})


@pytest.fixture
async def door(store: Store, vault: Vault, tmp_path: pathlib.Path) -> AsyncIterator[Door]:
    """A door behind which a provider says "Bonjour" until told otherwise."""
    provider = ScriptedProvider(says("Bon", "jour"))
    async with world(store, vault, tmp_path, provider) as here:
        yield Door(here, provider)


async def test_a_whole_answer_has_openais_shape_and_says_what_it_cost(door: Door) -> None:
    response = await door.post(CHAT, HELLO)
    body = response.json
    assert (response.status, body["object"], body["model"]) == (200, "chat.completion", "petit")
    [choice] = body["choices"]
    assert choice["message"] == {"role": "assistant", "content": "Bonjour", "refusal": None}
    assert choice["finish_reason"] == "stop"
    assert body["usage"]["total_tokens"] == 20
    assert body["usage"]["metier"]["deployment"] == "petit-a"
    [row] = await door.here.rows()
    assert response.headers["x-request-id"] == response.headers["x-metier-call-id"] == row["id"]
    assert response.headers["x-metier-deployment"] == "petit-a"
    assert Decimal(response.headers["x-metier-cost-eur"]) == row["cost_eur"]


async def test_a_stream_has_openais_events(door: Door) -> None:
    response = await door.post(CHAT, {**HELLO, "stream": True, "stream_options": {"include_usage": True}})
    *chunks, usage, done = response.events
    assert response.headers["content-type"].startswith("text/event-stream")
    assert [c["choices"][0]["delta"].get("content") for c in chunks] == ["Bon", "jour", None]
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert [c["choices"][0]["finish_reason"] for c in chunks] == [None, None, "stop"]
    assert {c["usage"] for c in chunks} == {None}
    assert (usage["choices"], usage["usage"]["total_tokens"], done) == ([], 20, "[DONE]")
    plain = await door.post(CHAT, {**HELLO, "stream": True})
    assert not any("usage" in event for event in plain.events if event != "[DONE]")


async def test_tool_calls_are_streamed_in_pieces_and_given_whole(door: Door) -> None:
    tool = {"type": "function", "function": {"name": "heure", "parameters": {"type": "object"}}}
    asked = {**HELLO, "tools": [tool], "tool_choice": {"type": "function", "function": {"name": "heure"}}}
    door.provider.then(asks("heure", {"ville": "Lyon"}))
    await door.post(CHAT, HELLO)
    [choice] = (await door.post(CHAT, asked)).json["choices"]
    function = {"name": "heure", "arguments": '{"ville":"Lyon"}'}
    assert choice["message"]["tool_calls"] == [{"id": "call_1", "type": "function", "function": function}]
    assert (choice["message"]["content"], choice["finish_reason"]) == (None, "tool_calls")
    events = (await door.post(CHAT, {**asked, "stream": True})).events[:-1]
    deltas = [d for e in events for d in e["choices"][0]["delta"].get("tool_calls", [])]
    assert deltas[0]["id"] == "call_1"
    assert "".join(d["function"]["arguments"] for d in deltas) == '{"ville":"Lyon"}'
    assert door.provider.calls[-1].tool_choice == "heure"


@pytest.mark.parametrize("header", ["authorization", "x-api-key", "api-key", "x-goog-api-key"])
async def test_a_key_may_come_in_any_usual_header(door: Door, header: str) -> None:
    value = door.here.secret if header != "authorization" else f"bearer  {door.here.secret}"
    response = await ask(door.app, CHAT, HELLO, headers={header: value})
    assert response.status == 200


@pytest.mark.parametrize(
    "value", ["", "Bearer ", "Basic abc", "Bearer sk-mt-0-0", "Bearer été", "Bearer " + "a" * 9000]
)
async def test_no_key_or_a_wrong_one_is_401(door: Door, value: str) -> None:
    response = await ask(door.app, CHAT, HELLO, headers={"authorization": value} if value else None)
    error = response.json["error"]
    assert (response.status, error["code"], error["type"]) == (401, "not_authenticated", "authentication_error")
    assert door.provider.calls == []


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_is_a_status_never_text_in_an_answer(door: Door, stream: bool) -> None:
    response = await door.post(CHAT, {**HELLO, "model": "inconnu", "stream": stream})
    assert (response.status, response.json["error"]["code"]) == (404, "not_found")
    await door.here.admission.set_budget(door.here.principal.project, Decimal("0.000001"))
    response = await door.post(CHAT, {**HELLO, "stream": stream})
    assert (response.status, response.json["error"]["type"]) == (429, "insufficient_quota")
    assert response.headers["x-should-retry"] == "false"


async def test_the_wait_a_provider_asks_for_is_told(door: Door) -> None:
    door.provider.then(fails(503))
    await door.post(CHAT, HELLO)
    response = await door.post(CHAT, {**HELLO, "stream": True})
    assert (response.status, response.json["error"]["type"]) == (503, "server_error")


async def test_a_stream_that_breaks_ends_with_an_error_and_no_done(door: Door) -> None:
    door.provider.then(breaks("Votre dossier"))
    await door.post(CHAT, HELLO)
    response = await door.post(CHAT, {**HELLO, "stream": True})
    first, error = response.events
    assert first["choices"][0]["delta"]["content"] == "Votre dossier"
    assert error["error"]["code"] == "provider_unavailable"
    assert b"[DONE]" not in response.body
    assert response.ended


@pytest.mark.parametrize(("stream", "after"), [(False, 0), (True, 0), (True, 1), (True, 2), (True, 3)])
async def test_a_client_who_leaves_is_settled_at_once(door: Door, stream: bool, after: int) -> None:
    turns, left = 0, asyncio.Event()

    async def breathe() -> None:
        nonlocal turns
        turns += 1
        for _ in range(3):
            await asyncio.sleep(0)
        if not stream:
            # A whole answer that is there within a moment is given all the same: this one is not.
            await left.wait()

    script = says(*[f"mot {n} " for n in range(6)])
    door.provider.then(Script(script.chunks, before=breathe))
    await door.post(CHAT, HELLO)
    response = await door.post(CHAT, {**HELLO, "stream": stream}, leave_after=after)
    assert not response.ended
    assert turns <= after + 2, "the provider is not read to its end for nobody"
    row = (await door.here.rows())[-1]
    assert (row["outcome"], door.provider.closed[-1]) == ("cancelled", row["id"])
    left.set()
    # The loop is as it was: the next call of the same task is not cancelled by what came before.
    assert (await door.post(CHAT, HELLO, leave_after=None)).status == 200


async def test_embeddings_come_as_numbers_or_base64(door: Door) -> None:
    texts = ["un", "deux"]
    numbers = (await door.post("/v1/embeddings", {"model": "vecteurs", "input": texts})).json
    assert [row["embedding"] for row in numbers["data"]] == [list(vector(text)) for text in texts]
    assert numbers["usage"]["prompt_tokens"] == 2
    packed = (await door.post("/v1/embeddings", {"model": "vecteurs", "input": "un", "encoding_format": "base64"})).json
    raw = base64.b64decode(packed["data"][0]["embedding"])
    assert struct.unpack(f"<{len(raw) // 4}f", raw) == pytest.approx(vector("un"))


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": "a"}, "model"),
        ({"model": "vecteurs"}, "input"),
        ({"model": "vecteurs", "input": []}, "input"),
        ({"model": "vecteurs", "input": [""]}, "input"),
        ({"model": "vecteurs", "input": [1, 2]}, "input"),
        ({"model": "vecteurs", "input": "a", "dimensions": 0}, "dimensions"),
        ({"model": "petit", "input": "a"}, "model"),
    ],
)
async def test_an_embeddings_body_that_does_not_fit_is_refused(door: Door, body: Any, param: str) -> None:
    response = await door.post("/v1/embeddings", body)
    assert (response.status, response.json["error"]["param"]) == (422, param)


async def test_models_are_listed_as_far_as_the_key_reaches(door: Door) -> None:
    everything = (await door.get("/v1/models")).json["data"]
    assert [model["id"] for model in everything] == ["petit", "vecteurs"]
    assert (await door.get("/v1/models/petit")).json["metier"]["operation"] == "chat"
    assert (await door.get("/v1/models/inconnu")).status == 404
    assert (await ask(door.app, "/v1/models")).status == 401
    here = door.here
    key = await here.keys.issue(
        "étroit", here.principal.project, here.principal.system, "Camille", scopes=Scopes(frozenset({"petit"}))
    )
    narrow = await ask(door.app, "/v1/models", headers={"x-api-key": key.secret})
    assert [model["id"] for model in narrow.json["data"]] == ["petit"]
    assert (await ask(door.app, "/v1/models/vecteurs", headers={"x-api-key": key.secret})).status == 404


async def test_a_body_is_limited_and_may_come_in_pieces(door: Door) -> None:
    assert (await door.post(CHAT, HELLO, pieces=9)).status == 200
    large = {**HELLO, "messages": [{"role": "user", "content": "a" * (9 << 20)}]}
    for more in ({}, {"headers": {"content-length": str(9 << 20)}}, {"pieces": 20}):
        response = await door.post(CHAT, large, **more)
        assert (response.status, response.json["error"]["code"]) == (413, "too_large")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b'"a"', b'{"a":"\\ud800"}', b"[" * 100_000, b"NaN"])
async def test_a_body_that_is_no_json_object_is_400(door: Door, body: bytes) -> None:
    response = await door.post(CHAT, body)
    assert (response.status, response.json["error"]["type"]) == (400, "invalid_request_error")


async def test_a_conversation_can_be_named(door: Door) -> None:
    await door.post(CHAT, HELLO, headers={"x-metier-conversation": "dossier-42"})
    assert door.provider.calls[0].conversation == "dossier-42"
    response = await door.post(CHAT, HELLO, headers={"x-metier-conversation": "a b"})
    assert response.json["error"]["param"] == "x-metier-conversation"


async def test_the_server_says_whether_it_is_well(door: Door) -> None:
    assert (await ask(door.app, "/healthz")).json == {"status": "ok"}
    assert (await ask(door.app, "/readyz")).json == {"status": "ready", "parts": {"database": True}}


class Broken:
    name = "broken"
    revision = "1"

    async def check_input(self, call: Call) -> Checked:
        raise ZeroDivisionError(f"with {call.messages[0].content}")


class Late:
    name = "late"
    revision = "1"

    async def check_input(self, call: Call) -> Checked:
        return Checked(call, Verdict.PASS, output=Bomb())


class Bomb:
    def feed(self, chunk: Chunk) -> Chunk | None:
        if chunk.finish:
            raise ZeroDivisionError(chunk.text)
        return chunk

    def flush(self) -> Chunk | None:
        return None


@pytest.mark.parametrize("guardrail", [Broken(), Late()])
async def test_a_fault_of_ours_is_told_and_logged_without_contents(
    store: Store, vault: Vault, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture, guardrail: Broken | Late
) -> None:
    provider = ScriptedProvider(says("CANARI-sortie"))
    async with world(store, vault, tmp_path, provider, guardrails=[guardrail]) as here:
        door = Door(here, provider)
        asked = {**HELLO, "messages": [{"role": "user", "content": "CANARI-entrée"}]}
        with caplog.at_level(logging.DEBUG):
            response = await door.post(CHAT, asked)
        assert (response.status, response.json["error"]["code"]) == (500, "broken")
        assert "CANARI" not in response.body.decode() + caplog.text
        assert here.secret not in caplog.text
        assert response.headers["x-request-id"] in caplog.text
        assert "ZeroDivisionError" in caplog.text
        [row] = await here.rows()
        assert row["outcome"] == "failed"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/chat/completions", "base URL of OpenAI's clients with /v1 at its end"),
        ("/v1/v1/messages", "base URL of Anthropic's clients without /v1"),
        ("/v1/completions", "send messages to '/v1/chat/completions'"),
        ("/health/liveliness", "/readyz"),
        ("/key/generate", "listed in the reference"),
    ],
)
async def test_a_path_that_is_none_says_what_was_probably_meant(door: Door, path: str, said: str) -> None:
    response = await door.post(path, HELLO)
    assert response.status == 404 and said in response.json["error"]["message"]


async def test_a_failed_call_says_why_in_the_log_and_in_its_record_and_quotes_nobody(
    store: Store, vault: Vault, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with world(store, vault, tmp_path, ScriptedProvider(fails(401), fails(401), fails(429))) as here:
        door = Door(here, ScriptedProvider())
        with caplog.at_level(logging.DEBUG):
            said = [(await door.post(CHAT, HELLO)).status for _ in range(2)]
        lines = [orjson.loads(record.message) for record in caplog.records if record.name == "metier.api"]
        rows = {row["id"]: row for row in await here.rows()}
    assert said == [503, 503]
    assert [line["cause"] for line in lines] == ["http_401", "http_429"]
    assert all(rows[line["request"]]["error_cause"] == line["cause"] for line in lines)
    assert all(rows[line["request"]]["deployment"] == line["deployment"] for line in lines)
    assert "scripted failure" not in caplog.text
