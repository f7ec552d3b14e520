"""Kept answers on every surface: what a client asks for, what it is told, and how a hit streams."""

from __future__ import annotations

import pathlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.applications import Starlette

from metier.api.server import application
from metier.providers.scripted import ScriptedProvider, says
from metier.store import Store
from metier.vault import Vault
from tests.api.client import Response, ask
from tests.cache.desk import Desk, desk

BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Quel délai ?"}]},
    "/v1/messages": {"max_tokens": 50, "messages": [{"role": "user", "content": "Quel délai ?"}]},
    "/v1/responses": {"input": "Quel délai ?", "store": False},
}


class Front:
    """The application of a desk."""

    def __init__(self, here: Desk, provider: ScriptedProvider) -> None:
        self.here = here
        self.provider = provider
        self.app: Starlette = application(here.world)

    async def post(self, path: str, *, stream: bool = False, **headers: str) -> Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        body = {"model": "petit", "stream": stream, **BODIES[path]}
        found = await ask(self.app, path, body, headers={"authorization": f"Bearer {self.here.world.secret}", **named})
        await self.here.cache.entries.write()
        return found


@pytest.fixture
async def front(store: Store, vault: Vault, tmp_path: pathlib.Path) -> AsyncIterator[Front]:
    """A surface whose system keeps answers; the provider says another word each time."""
    provider = ScriptedProvider(says("Quatorze ", "jours."), says("autre"), says("encore"))
    async with desk(store, vault, tmp_path, provider) as here:
        yield Front(here, provider)


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("first", [False, True], ids=["whole", "stream"])
async def test_a_hit_is_given_whole_or_streamed_whatever_the_first_was(front: Front, path: str, first: bool) -> None:
    missed = await front.post(path, stream=first)
    front.here.time.now += 61.5
    whole, stream = await front.post(path), await front.post(path, stream=True)
    assert (missed.headers["x-metier-cache"], "age" in missed.headers) == ("miss", False)
    for hit in (whole, stream):
        assert (hit.status, hit.headers["x-metier-cache"], hit.headers["age"]) == (200, "hit-exact", "61")
        assert float(hit.headers["x-metier-saved-eur"]) > 0
        assert b"Quatorze jours." in hit.body or b"Quatorze jours" in hit.body
    assert whole.headers["x-metier-cost-eur"].strip("0.") == "" and "x-metier-deployment" not in whole.headers
    told = whole.json["usage"]["metier"]
    assert (told["cache"], told["age_s"], told["cost_eur"]) == ("hit-exact", 62, 0) and told["saved_eur"] > 0
    assert len(front.provider.calls) == 1
    assert stream.ended


@pytest.mark.parametrize("path", BODIES)
async def test_a_client_says_what_it_wants(front: Front, path: str) -> None:
    only = await front.post(path, x_metier_cache="only")
    assert only.status == 404 and b"x-metier-cache" in only.body
    assert (await front.post(path, x_metier_cache="off")).headers["x-metier-cache"] == "off"
    assert (await front.post(path, cache_control="max-age=0, no-store")).headers["x-metier-cache"] == "off"
    assert (await front.post(path, x_metier_cache="Refresh")).headers["x-metier-cache"] == "miss"
    hit = await front.post(path, x_metier_cache="only")
    assert (hit.headers["x-metier-cache"], b"encore" in hit.body) == ("hit-exact", True)
    wrong = await front.post(path, x_metier_cache="maybe")
    assert wrong.status in (400, 422) and b"refresh" in wrong.body
    assert len(front.provider.calls) == 3
