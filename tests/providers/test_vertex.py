from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from metier.calls import Call, Chunk, Purpose, Usage
from metier.catalog import Deployment
from metier.errors import ProviderUnavailable
from metier.providers.base import unasked
from metier.providers.exchange import Exchange
from metier.providers.gemini import VertexProvider
from metier.providers.gemini_format import batch_embed_bodies, predict_bodies
from metier.providers.google_auth import GoogleTokens
from tests.providers.google import KEY, Google, Reply, account, google, said
from tests.providers.test_gemini import CALL, WHO
from tests.providers.test_gemini import deployment as gemini


@dataclass(slots=True)
class World:
    provider: VertexProvider
    server: Google
    ahead_s: float = 0.0
    """How far the clock and the ticks of the provider are ahead of the server's."""
    skew_s: float = 0.0
    """How far only its clock is."""

    def deployment(self, **options: str) -> Deployment:
        places = {"project": "projet", "location": "europe-west9", "service_account": account(self.server.url)}
        made = gemini(f"{self.server.url}/v1", provider="vertex", api_key=None)
        return replace(made, options={**places, **options})

    async def ask(self, call: Call = CALL, **options: str) -> list[Chunk]:
        return [chunk async for chunk in self.provider.stream(call, self.deployment(**options))]


@asynccontextmanager
async def world(*replies: Reply) -> AsyncIterator[World]:
    exchange = Exchange()
    async with google(*(replies or [Reply([said("Bonjour")])])) as server:
        tokens = GoogleTokens(
            exchange,
            clock=lambda: time.time() + made.ahead_s + made.skew_s,
            ticks=lambda: time.monotonic() + made.ahead_s,
        )
        made = World(VertexProvider(tokens=tokens), server)
        try:
            yield made
        finally:
            await made.provider.close()
            await exchange.close()


async def test_a_service_account_gets_a_token_and_with_it_an_answer() -> None:
    async with world() as it:
        chunks = await it.ask()
        assert (chunks[0].text, chunks[-1].finish, chunks[-1].usage) == ("Bonjour", "stop", Usage(11, 7))
        assert it.server.paths == [
            "/v1/projects/projet/locations/europe-west9/publishers/google/models/gemini-2.5-flash"
            ":streamGenerateContent?alt=sse"
        ]


async def test_the_account_may_be_a_file(tmp_path: Path) -> None:
    async with world() as it:
        path = tmp_path / "account.json"
        path.write_text(account(it.server.url), encoding="utf-8")
        assert await it.ask(service_account=str(path))


async def test_the_address_of_tokens_may_be_given() -> None:
    async with world() as it:
        elsewhere = account(it.server.url, token_uri="http://127.0.0.1:9/token")
        assert await it.ask(service_account=elsewhere, token_url=f"{it.server.url}/token")


async def test_many_callers_wait_for_one_exchange_and_the_token_is_kept() -> None:
    async with world() as it:
        await asyncio.gather(*(it.ask() for _ in range(12)))
        await it.ask()
        assert it.server.exchanges == 1


async def test_a_token_is_renewed_before_it_ends() -> None:
    async with world() as it:
        it.server.clock = lambda: time.time() + it.ahead_s
        await it.ask()
        it.ahead_s = 3200.0
        await it.ask()
        assert it.server.exchanges == 1
        it.ahead_s = 3400.0
        await asyncio.gather(it.ask(), it.ask())
        assert it.server.exchanges == 2


async def test_the_old_token_serves_while_no_new_one_comes() -> None:
    async with world() as it:
        it.server.clock = lambda: time.time() + it.ahead_s
        await it.ask()
        it.server.down = True
        it.ahead_s = 3400.0
        await asyncio.gather(*(it.ask() for _ in range(5)))
        assert it.server.exchanges == 2
        await it.ask()
        assert it.server.exchanges == 2, "not asked again at once"
        it.ahead_s = 3500.0
        it.server.down = False
        await it.ask()
        assert it.server.exchanges == 3


async def test_callers_who_waited_share_a_failure_and_the_next_one_tries_again() -> None:
    async with world() as it:
        it.server.down = True
        failed = await asyncio.gather(*(it.ask() for _ in range(6)), return_exceptions=True)
        assert {type(error) for error in failed} == {ProviderUnavailable}
        assert it.server.exchanges == 1
        it.server.down = False
        assert await it.ask()


async def test_a_caller_who_leaves_takes_nobody_along() -> None:
    async with world() as it:
        first = asyncio.create_task(it.ask())
        second = asyncio.create_task(it.ask())
        await asyncio.sleep(0)
        first.cancel()
        assert await second
        with pytest.raises(asyncio.CancelledError):
            await first


async def test_a_token_that_is_refused_is_not_used_again() -> None:
    async with world() as it:
        await it.ask()
        it.server.valid.clear()
        with pytest.raises(ProviderUnavailable, match="credential Métier holds"):
            await it.ask()
        assert await it.ask()
        assert it.server.exchanges == 2


async def test_a_claim_signed_by_somebody_else_gets_no_token() -> None:
    async with world() as it:
        foreign = account(it.server.url, owner="somebody else")
        with pytest.raises(
            ProviderUnavailable, match=r"400 \(invalid_grant\); check that the service account"
        ) as caught:
            await it.ask(service_account=foreign)
        assert "PRIVATE KEY" not in caught.value.message
        assert it.server.paths == []


@pytest.mark.parametrize(("skew_s", "side"), [(4000.0, "ahead of"), (-4000.0, "behind")])
async def test_a_wrong_clock_is_said_to_be_the_cause(skew_s: float, side: str) -> None:
    async with world() as it:
        it.skew_s = skew_s
        with pytest.raises(ProviderUnavailable, match=rf"clock of this machine is (3[89]|40)\d\d s {side}"):
            await it.ask()


@pytest.mark.parametrize(
    "text",
    ["/nowhere/at/all.json", "{", '{"type": "authorized_user"}', "{}", '{"private_key": "x", "client_email": "y"}'],
)
async def test_what_is_no_service_account_is_said_to_be_none(text: str) -> None:
    async with world() as it:
        with pytest.raises(ProviderUnavailable, match="no usable `service_account`"):
            await it.ask(service_account=text)
        assert it.server.exchanges == 0


async def test_an_address_of_tokens_where_nobody_answers_is_named() -> None:
    async with world() as it:
        with pytest.raises(ProviderUnavailable, match=r"http://127\.0\.0\.1:9/token"):
            await it.ask(token_url="http://127.0.0.1:9/token")


async def test_nothing_but_the_place_is_said_of_an_address_of_tokens() -> None:
    async with world() as it:
        with pytest.raises(ProviderUnavailable, match=r"'http://127\.0\.0\.1:9/token'") as caught:
            await it.ask(token_url="http://anna:s3cret@127.0.0.1:9/token?key=hidden")
        assert "s3cret" not in caught.value.message and "hidden" not in caught.value.message


async def test_an_answer_that_is_no_token_is_refused() -> None:
    async with world() as it:
        it.server.mute = True
        with pytest.raises(ProviderUnavailable, match="no answer that can be read"):
            await it.ask()


async def test_whoever_leaves_before_the_token_is_there_owes_the_deployment_nothing() -> None:
    async with world() as it:
        asking = asyncio.create_task(it.ask())
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await asking
        assert unasked(caught.value) and it.server.paths == []


async def test_an_api_key_stands_in_for_a_service_account() -> None:
    async with world() as it:
        target = replace(it.deployment(service_account=""), api_key=KEY)
        assert [chunk async for chunk in it.provider.stream(CALL, target)]
        with pytest.raises(ProviderUnavailable, match="no credential"):
            await it.ask(service_account="")


@pytest.mark.parametrize(
    ("location", "address"),
    [
        ("europe-west9", "https://europe-west9-aiplatform.googleapis.com/v1"),
        ("global", "https://aiplatform.googleapis.com/v1"),
        ("eu", "https://aiplatform.eu.rep.googleapis.com/v1"),
    ],
)
def test_the_address_follows_from_the_location(location: str, address: str) -> None:
    target = gemini(None, provider="vertex", options={"project": "p", "location": location})
    assert VertexProvider().address(target) == address


def test_a_location_that_is_none_is_refused() -> None:
    target = gemini(None, provider="vertex", options={"project": "p", "location": "evil.example/"})
    with pytest.raises(ProviderUnavailable, match="location"):
        VertexProvider().address(target)


async def test_embeddings_are_predictions_with_their_tokens() -> None:
    rows = [{"embeddings": {"values": [n, 1], "statistics": {"token_count": 3, "truncated": False}}} for n in (1, 2)]
    async with world(Reply([orjson.dumps({"predictions": rows})])) as it:
        call = Call(WHO, "e", "embed", inputs=("un", "deux"), dimensions=2)
        target = replace(it.deployment(), model_id="text-multilingual-embedding-002")
        chunks = [chunk async for chunk in it.provider.stream(call, target)]
        assert chunks == [Chunk(vectors=((1.0, 1.0), (2.0, 1.0)), usage=Usage(6))]
        assert it.server.requests == [
            {
                "instances": [{"content": "un"}, {"content": "deux"}],
                "parameters": {"autoTruncate": False, "outputDimensionality": 2},
            }
        ]
        assert it.server.paths[0].endswith("/publishers/google/models/text-multilingual-embedding-002:predict")


@pytest.mark.parametrize(("purpose", "task"), [("query", "RETRIEVAL_QUERY"), ("passage", "RETRIEVAL_DOCUMENT")])
def test_what_texts_are_for_is_told_in_googles_words(purpose: Purpose, task: str) -> None:
    call = Call(WHO, "e", "embed", inputs=("un",), purpose=purpose)
    own: Any = batch_embed_bodies(call, gemini("http://127.0.0.1:1"))
    vertex: Any = predict_bodies(call, gemini("http://127.0.0.1:1", provider="vertex"))
    assert own[0]["requests"][0]["taskType"] == task and vertex[0]["instances"] == [
        {"content": "un", "task_type": task}
    ]


def test_secrets_are_not_shown() -> None:
    secret: Any = gemini(None, provider="vertex", options={"service_account": "PRIVATE"})
    assert "PRIVATE" not in repr(secret)
