"""What clients see of keys and limits: statuses, headers, typed ends of streams, on every surface."""

from __future__ import annotations

import pathlib
import time
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.routing import Route

from metier.api.server import application, routes
from metier.calls import Chunk, KeyId, Usage
from metier.policy.keys import Scopes
from metier.policy.limits import Limit, LimitPeriod, Measure, Scope
from metier.providers.scripted import Script, ScriptedProvider, says
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
        self.app = application(here)

    async def post(self, path: str = CHAT, body: Any = HELLO, secret: str | None = None, **headers: str) -> Response:
        given = {"authorization": f"Bearer {secret or self.here.secret}", **headers}
        return await ask(self.app, path, body, headers=given)

    async def limit(self, scope: Scope, subject: str, measure: Measure, period: LimitPeriod, amount: str) -> None:
        made = Limit("", scope, subject, measure, period, Decimal(amount))
        await self.here.admission.limits.set(made, "Camille")


@pytest.fixture
async def door(store: Store, vault: Vault, tmp_path: pathlib.Path) -> AsyncIterator[Door]:
    """A door behind which a provider says "Bonjour" until told otherwise."""
    provider = ScriptedProvider(says("Bon", "jour"))
    async with world(store, vault, tmp_path, provider) as here:
        yield Door(here, provider)


async def test_the_headers_say_what_the_next_calls_get(door: Door) -> None:
    key = door.here.principal.key_id
    await door.limit("key", key, "requests", "minute", "3")
    await door.limit("project", door.here.principal.project, "requests", "minute", "50")
    await door.limit("project", door.here.principal.project, "tokens", "minute", "100000")
    began = time.monotonic()
    for left in (2, 1, 0):
        response = await door.post()
        assert response.status == 200
        assert response.headers["x-ratelimit-limit-requests"] == "3"
        assert response.headers["x-ratelimit-remaining-requests"] == str(left)
        assert 0 < float(response.headers["x-ratelimit-reset-requests"].removesuffix("s")) <= 62
        assert 0 < int(response.headers["x-ratelimit-remaining-tokens"]) < 100_000
    refused = await door.post()
    assert (refused.status, refused.json["error"]["code"]) == (429, "rate_limited")
    wait_s, wait_ms = int(refused.headers["retry-after"]), int(refused.headers["retry-after-ms"])
    # A minute from the first of them on: on a busy machine a part of it is over.
    assert began + 59 - time.monotonic() < wait_ms / 1000 <= wait_s <= 63 and "x-should-retry" not in refused.headers
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    anthropic = {**HELLO, "max_tokens": 5}
    assert (await door.post("/v1/messages", anthropic)).status == 429


async def test_streams_have_the_headers_too_and_calls_without_limits_have_none(door: Door) -> None:
    plain = await door.post()
    assert not [name for name in plain.headers if name.startswith("x-ratelimit")]
    await door.limit("key", door.here.principal.key_id, "requests", "day", "10")
    response = await door.post(CHAT, {**HELLO, "stream": True})
    assert response.headers["x-ratelimit-remaining-requests"] in {"8", "9"}


async def test_a_quota_that_is_used_up_is_not_to_be_tried_again(door: Door) -> None:
    await door.limit("organisation", door.here.principal.organisation, "requests", "month", "1")
    assert (await door.post()).status == 200
    refused = await door.post()
    assert (refused.status, refused.json["error"]["code"]) == (429, "budget_exceeded")
    assert refused.headers["x-should-retry"] == "false" and "retry-after" not in refused.headers


async def test_each_end_user_is_limited_alone(door: Door) -> None:
    await door.limit("end_user", door.here.principal.project, "requests", "minute", "1")
    assert [(await door.post(CHAT, {**HELLO, "user": name})).status for name in ("a", "a", "b")] == [200, 429, 200]


async def test_a_stream_that_outlives_its_budget_ends_with_a_typed_error_and_is_charged(door: Door) -> None:
    await door.limit("project", door.here.principal.project, "money", "month", "0.01")
    long = Script((*(Chunk(text="mot " * 250) for _ in range(60)), Chunk(finish="stop", usage=Usage(12, 15_000))))
    door.provider.then(long)
    assert (await door.post()).status == 200
    response = await door.post(CHAT, {**HELLO, "stream": True})
    assert response.status == 200 and b"[DONE]" not in response.body
    *pieces, error = response.events
    assert len(pieces) > 5 and error["error"]["code"] == "budget_exceeded" and "cut off" in error["error"]["message"]
    [first, row] = await door.here.rows()
    assert (row["outcome"], row["error_code"]) == ("refused", "budget_exceeded")
    assert Decimal("0.005") < row["cost_eur"] <= Decimal("0.012")
    budget = await door.here.admission.budget(door.here.principal.project)
    assert budget is not None and budget.spent_eur == first["cost_eur"] + row["cost_eur"]
    assert await door.here.admission.drift() == []


async def test_a_budget_used_up_degrades_to_the_model_its_rule_names(
    store: Store, vault: Vault, tmp_path: pathlib.Path
) -> None:
    models = {
        "grand": {"deployments": [{"id": "cher", "provider": "scripted", "model_id": "a",
                                   "price": {"input": 1, "output": 4000}}]},
        "petit": {"deployments": [{"id": "peu", "provider": "scripted", "model_id": "b",
                                   "price": {"input": 1, "output": 4}}]},
    }  # fmt: skip
    async with world(store, vault, tmp_path, ScriptedProvider(says("oui")), models=models) as here:
        door = Door(here, ScriptedProvider(says("oui")))
        made = Limit("", "project", here.principal.project, "money", "month", Decimal("0.05"), "degrade", "petit")
        await here.admission.limits.set(made, "Camille")
        asked = {**HELLO, "model": "grand", "max_tokens": 10}
        told = [(await door.post(CHAT, asked)).headers["x-metier-deployment"] for _ in range(3)]
        assert told == ["cher", "peu", "peu"]
        assert [row["deployment"] for row in await here.rows()] == told
        assert await here.admission.drift() == []


def surfaces(door: Door) -> list[Route]:
    return [
        r for r in routes(door.here) if isinstance(r, Route) and r.path not in ("/", "/healthz", "/readyz", "/metrics")
    ]


async def test_a_key_of_no_surface_is_refused_on_every_one(door: Door) -> None:
    who = door.here.principal
    shut = await door.here.keys.issue("nulle part", who.project, who.system, "C", scopes=Scopes(surfaces=frozenset()))
    for route in surfaces(door):
        path = route.path.replace("{name:path}", "petit").replace("{id}", "x").replace("{file}", "x")
        for method in (route.methods or set()) - {"HEAD"}:
            headers = {"authorization": f"Bearer {shut.secret}"}
            response = await ask(door.app, path, HELLO if method == "POST" else None, headers=headers, method=method)
            assert response.status == 403, (method, path, response.body)


async def test_a_key_is_kept_to_its_surfaces(door: Door) -> None:
    who = door.here.principal
    only = await door.here.keys.issue("chat", who.project, who.system, "C", scopes=Scopes(surfaces=frozenset({"chat"})))
    assert (await door.post(secret=only.secret)).status == 200
    refused = await door.post("/v1/embeddings", {"model": "vecteurs", "input": "x"}, secret=only.secret)
    assert refused.status == 403 and "'embeddings'" in refused.json["error"]["message"]


_NOISE = st.one_of(
    st.binary(max_size=300),
    st.builds(lambda rest: b"Bearer sk-mt-" + rest, st.binary(max_size=80)),
    st.builds(lambda a, b: f"Bearer sk-mt-{a}-{b}".encode("utf-8", "surrogatepass"), st.text(max_size=20), st.text()),
)


async def test_no_authorization_header_breaks_the_server(door: Door) -> None:
    seen: set[int] = set()

    async def present(noise: bytes, name: bytes) -> int:
        scope = {
            "type": "http", "method": "GET", "path": "/v1/models", "raw_path": b"/v1/models", "query_string": b"",
            "headers": [(name, noise)], "http_version": "1.1", "scheme": "http", "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80), "root_path": "",
        }  # fmt: skip
        status: list[int] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                status.append(message["status"])

        await door.app(scope, receive, send)
        return status[0]

    tried: list[tuple[bytes, bytes]] = []

    @settings(max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(_NOISE, st.sampled_from([b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key"]))
    def collect(noise: bytes, name: bytes) -> None:
        tried.append((noise, name))

    collect()
    for noise, name in tried:
        seen.add(await present(noise, name))
    assert seen == {401}


async def test_the_secret_before_a_rotation_works_during_its_grace_and_no_longer(door: Door) -> None:
    keys, key = door.here.keys, door.here.principal.key_id
    rotated = await keys.rotate(key, grace_s=3600)
    assert rotated.key.before_until is not None
    assert [(await door.post(secret=s)).status for s in (door.here.secret, rotated.secret)] == [200, 200]
    again = await keys.rotate(key, grace_s=0)
    assert [(await door.post(secret=s)).status for s in (door.here.secret, rotated.secret, again.secret)] == [
        401,
        401,
        200,
    ]
    await keys.revoke(KeyId(key), "Camille")
    assert (await door.post(secret=again.secret)).status == 401
