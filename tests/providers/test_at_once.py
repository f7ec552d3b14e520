"""Short answers nobody watches grow: asked for in one piece, timed as a whole, charged as long as they could be."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import orjson
import pytest

from metier.calls import LONGEST_AT_ONCE, Call, Message
from metier.errors import MetierError, ProviderTimeout
from metier.record.entry import Entry
from tests.providers.test_openai import CALL, deployment, serving
from tests.upstream import Reply, answer

WHOLE = orjson.dumps(
    {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Bien reçu."}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 3},
    }
)
SHORT = replace(CALL, whole=True, max_output_tokens=200)


@pytest.mark.parametrize(
    ("call", "streamed"),
    [
        (SHORT, False),
        (replace(SHORT, max_output_tokens=LONGEST_AT_ONCE), False),
        (replace(SHORT, max_output_tokens=LONGEST_AT_ONCE + 1), True),
        (replace(SHORT, max_output_tokens=None), True),
        (replace(SHORT, whole=False), True),
    ],
)
async def test_only_a_short_answer_nobody_watches_comes_in_one_piece(call: Call, streamed: bool) -> None:
    reply = Reply([answer("Bien ", "reçu.")]) if streamed else Reply([WHOLE], kind="application/json")
    async with serving(reply) as (provider, server):
        chunks = [chunk async for chunk in provider.stream(call, deployment(server.url))]
    assert "".join(chunk.text for chunk in chunks) == "Bien reçu."
    assert server.requests[0]["stream"] is streamed
    assert ("stream_options" in server.requests[0]) is streamed


async def test_an_answer_in_one_piece_has_the_time_of_the_whole() -> None:
    async with serving(Reply([WHOLE], kind="application/json"), first_token_s=0.001) as (provider, server):
        chunks = [chunk async for chunk in provider.stream(SHORT, deployment(server.url))]
    assert chunks[0].text == "Bien reçu."
    async with serving(Reply([], kind="application/json", then="hang")) as (provider, server):
        with pytest.raises(ProviderTimeout):
            [chunk async for chunk in provider.stream(SHORT, deployment(server.url, timeout_s=0.1))]


class _Paper:
    payload: dict[str, Any]

    def opened(self, call_id: str, payload: bytes) -> None:
        """Nothing is kept."""

    def ended(self, call_id: str, payload: bytes, contents: bytes | None = None) -> None:
        """Keep the last."""
        self.payload = orjson.loads(payload)


@pytest.mark.parametrize(
    ("error", "call", "tokens"),
    [
        (asyncio.CancelledError(), SHORT, 200),
        (ProviderTimeout("late"), SHORT, 200),
        (MetierError("down"), SHORT, 0),
        (asyncio.CancelledError(), replace(SHORT, whole=False), 0),
        (asyncio.CancelledError(), Call(CALL.principal, "petit", messages=(Message("user", "x"),), whole=True), 0),
    ],
)
async def test_what_was_written_unseen_counts_as_long_as_it_could_be(
    error: BaseException, call: Call, tokens: int
) -> None:
    paper = _Paper()
    with pytest.raises(type(error)):
        async with Entry(call, paper) as entry:
            entry.hold(None, 10)
            entry.deployment = deployment("http://127.0.0.1:1/v1")
            raise error
    assert (paper.payload["output_tokens"], paper.payload["estimated"]) == (tokens, True)
