from __future__ import annotations

import logging
import pathlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from metier.api.exchange import BODY_LIMIT
from metier.api.server import application
from metier.providers.scripted import ScriptedProvider, says
from metier.store import Store
from metier.vault import Vault
from tests.api.client import ask
from tests.world import World, world

CHAT = "/v1/chat/completions"
EMBED = "/v1/embeddings"
GOOD: dict[str, Any] = {"model": "petit", "messages": [{"role": "user", "content": "Bonjour"}]}


async def breaks(request: Request) -> Response:
    raise ZeroDivisionError("CANARI")


async def leaves(request: Request) -> Response:
    raise ClientDisconnect


async def stops(request: Request) -> Response:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"half"
        raise ZeroDivisionError("CANARI")

    return StreamingResponse(pieces())


async def plain(request: Request) -> Response:
    return PlainTextResponse("well")


MORE = [Route(f"/{action.__name__}", action) for action in (breaks, leaves, stops, plain)]


@pytest.fixture
async def here(store: Store, vault: Vault, tmp_path: pathlib.Path) -> AsyncIterator[World]:
    """A world whose provider says "Bonjour"."""
    async with world(store, vault, tmp_path, ScriptedProvider(says("Bonjour"))) as made:
        yield made


@pytest.fixture
def app(here: World) -> Starlette:
    """The application of that world, with a few paths of another surface."""
    return application(here, MORE)


def announced(size: int) -> dict[str, str]:
    return {"content-length": str(size)}


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "code", "kind"),
    [
        ("GET", "/nowhere", None, {}, 404, "not_found", "invalid_request_error"),
        ("GET", "/v1/nothing", None, {}, 404, "not_found", "invalid_request_error"),
        ("POST", "/v1/completions", GOOD, {}, 404, "not_found", "invalid_request_error"),
        ("DELETE", "/V1/models", None, {}, 404, "not_found", "invalid_request_error"),
        ("GET", "/v1/models/inconnu", None, {}, 404, "not_found", "invalid_request_error"),
        ("GET", CHAT, None, {}, 405, "mistaken", "invalid_request_error"),
        ("PUT", EMBED, GOOD, {}, 405, "mistaken", "invalid_request_error"),
        ("BREW", "/healthz", None, {}, 405, "mistaken", "invalid_request_error"),
        ("POST", "/v1/models", GOOD, {}, 405, "mistaken", "invalid_request_error"),
        ("POST", "/plain", GOOD, {}, 405, "mistaken", "invalid_request_error"),
        ("POST", CHAT, GOOD, announced(BODY_LIMIT + 1), 413, "too_large", "invalid_request_error"),
        ("POST", EMBED, b" " * (BODY_LIMIT + 1), {}, 413, "too_large", "invalid_request_error"),
        ("POST", CHAT, b"{", {}, 400, "mistaken", "invalid_request_error"),
        ("POST", EMBED, b"[]", {}, 400, "mistaken", "invalid_request_error"),
        ("POST", CHAT, b"\xff", {}, 400, "mistaken", "invalid_request_error"),
        ("POST", CHAT, GOOD, {"content-encoding": "gzip"}, 400, "mistaken", "invalid_request_error"),
        ("POST", CHAT, {**GOOD, "invented": 1}, {}, 422, "invalid", "invalid_request_error"),
        ("POST", EMBED, {"model": "vecteurs", "input": [1]}, {}, 422, "invalid", "invalid_request_error"),
        ("POST", CHAT, GOOD, {"authorization": ""}, 401, "not_authenticated", "authentication_error"),
        ("GET", "/v1/models", None, {"authorization": "Bearer no"}, 401, "not_authenticated", "authentication_error"),
        ("GET", "/breaks", None, {}, 500, "broken", "server_error"),
    ],
)
async def test_every_failure_has_an_id_and_openais_shape(
    app: Starlette, here: World, method: str, path: str, body: Any, headers: dict[str, str], status: int, code: str,
    kind: str,
) -> None:  # fmt: skip
    sent = {"authorization": f"Bearer {here.secret}", **headers}
    response = await ask(app, path, body, headers=sent, method=method)
    assert response.status == status, response.body
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"].startswith("req_")
    assert set(response.json) == {"error"}
    error = response.json["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["code"], error["type"]) == (code, kind)
    assert ("allow" in response.headers) == (status == 405)


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/v1/models", "/plain", "/v1/embeddings/"])
async def test_every_other_answer_has_an_id_of_its_own(app: Starlette, here: World, path: str) -> None:
    told = {
        (await ask(app, path, headers={"authorization": f"Bearer {here.secret}"})).headers["x-request-id"]
        for _ in range(2)
    }
    assert len(told) == 2
    head = await ask(app, path, headers={"authorization": f"Bearer {here.secret}"}, method="HEAD")
    assert head.headers["x-request-id"].startswith("req_")


async def test_a_call_keeps_its_own_id_and_says_it_once(app: Starlette, here: World) -> None:
    response = await ask(app, CHAT, GOOD, headers={"authorization": f"Bearer {here.secret}"})
    [row] = await here.rows()
    assert response.headers["x-request-id"] == row["id"]


async def test_what_nobody_caught_is_logged_without_its_message(
    app: Starlette, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        response = await ask(app, "/breaks")
    assert response.headers["x-request-id"] in response.json["error"]["message"]
    assert response.headers["x-request-id"] in caplog.text
    assert "ZeroDivisionError" in caplog.text
    assert "CANARI" not in caplog.text + response.body.decode()


async def test_an_answer_that_has_begun_is_cut_off_rather_than_ended_well(app: Starlette) -> None:
    with pytest.raises(ZeroDivisionError):
        await ask(app, "/stops")


async def test_a_client_who_left_is_answered_nothing(app: Starlette) -> None:
    assert (await ask(app, "/leaves")).status == 0
