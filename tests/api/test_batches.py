"""The official client makes batches on a real server, with a worker beside it."""

from __future__ import annotations

import asyncio
import pathlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any

import openai
import orjson
import pytest

from metier.api import batches
from metier.api.server import application
from metier.batches import Batches, Files, Rules, Runner
from metier.calls import Call
from metier.policy.keys import Scopes
from metier.providers.scripted import Script, ScriptedProvider, fails, says, vector
from metier.store import Store
from metier.testing import StillClock
from metier.vault import Vault
from tests.batches.house import CHAT, jsonl, line
from tests.world import World, serve, world


@dataclass(slots=True)
class Office:
    """A served world, its clients of two projects, and its worker."""

    here: World
    ai: openai.AsyncOpenAI
    other: openai.AsyncOpenAI
    provider: ScriptedProvider
    clock: StillClock
    runner: Runner

    async def file(self, *lines: Any, data: bytes | None = None) -> str:
        """Send a file of lines."""
        return (
            await self.ai.files.create(file=("in.jsonl", jsonl(lines) if data is None else data), purpose="batch")
        ).id

    async def make(self, *lines: Any, endpoint: Any = CHAT, data: bytes | None = None, **metadata: str) -> Any:
        """Make a batch of lines."""
        file = await self.file(*lines, data=data)
        return await self.ai.batches.create(
            input_file_id=file, endpoint=endpoint, completion_window="24h", metadata=metadata or None
        )

    async def read(self, id: str | None) -> list[Any]:
        """The lines of a file of results."""
        assert id is not None
        return [orjson.loads(each) for each in (await self.ai.files.content(id)).content.splitlines()]


def reply(call: Call) -> Script:
    """What the model says."""
    if call.operation == "embed":
        return Script(ScriptedProvider()._next(call).chunks)
    text = call.messages[-1].text
    return fails(400) if text == "bad" else says("re: ", text)


@pytest.fixture
async def office(store: Store, vault: Vault, tmp_path: pathlib.Path) -> AsyncIterator[Office]:
    """A real server; the worker moves when it is told to."""
    provider, clock = ScriptedProvider(answer=reply), StillClock()
    async with world(store, vault, tmp_path, provider) as here:
        here.batches = Batches(store, vault, Files(store, vault, Rules(), clock=clock), clock=clock)
        project = await here.keys.create_project("Autre")
        second = await here.keys.issue("autre", project.id, here.principal.system, by="Camille")
        async with (
            serve(application(here)) as url,
            openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=here.secret, max_retries=0) as ai,
            openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=second.secret, max_retries=0) as other,
        ):
            yield Office(here, ai, other, provider, clock, batches.runner(here))


async def test_a_batch_from_its_file_to_its_results(office: Office) -> None:
    made = await office.make(line("un", "Bonjour"), line("deux", "bad"), line("trois", "Merci"), client="Dupont")
    assert (made.status, made.object, made.endpoint, made.metadata) == (
        "validating",
        "batch",
        CHAT,
        {"client": "Dupont"},
    )
    assert made.expires_at == made.created_at + 86_400
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(office.runner.work(stop))
        now = made
        for _ in range(2400):
            if (now := await office.ai.batches.retrieve(made.id)).status == "completed":
                break
            await asyncio.sleep(0.05)
        stop.set()
    counts = now.request_counts
    assert counts is not None
    assert (counts.total, counts.completed, counts.failed) == (3, 2, 1)
    assert now.in_progress_at and now.finalizing_at and now.completed_at
    assert (now.failed_at, now.expired_at, now.cancelled_at, now.errors) == (None, None, None, None)
    first, second = await office.read(now.output_file_id)
    assert (first["custom_id"], second["custom_id"]) == ("un", "trois")
    assert first["response"]["body"]["choices"][0]["message"]["content"] == "re: Bonjour"
    assert set(first) == {"id", "custom_id", "response", "error"}
    [error] = await office.read(now.error_file_id)
    assert (error["custom_id"], error["response"]["status_code"]) == ("deux", 422)
    assert error["response"]["body"]["error"]["type"] == "invalid_request_error"
    named = await office.ai.files.retrieve(now.output_file_id or "")
    assert (named.purpose, named.filename) == ("batch_output", f"{made.id}_output.jsonl")


async def test_what_it_took_is_told_as_it_was_recorded(office: Office) -> None:
    made = await office.make(*[line(str(n), f"question {n}") for n in range(5)])
    await office.runner.drain()
    rows = await office.here.rows()
    now: Any = await office.ai.batches.retrieve(made.id)
    assert {row["run"] for row in rows} == {made.id}
    assert sorted(row["path"] for row in rows) == [f"line {n}" for n in range(1, 6)]
    assert Decimal(str(now.metier["cost_eur"])) == sum(row["cost_eur"] for row in rows) > 0
    assert now.metier["calls"] == 5
    assert now.usage.total_tokens == 5 * 20


async def test_embeddings_and_responses_are_answered_as_their_endpoints_do(office: Office) -> None:
    body = {"model": "vecteurs", "input": ["un", "deux"]}
    made = await office.make(line("v", url="/v1/embeddings", body=body), endpoint="/v1/embeddings")
    asked = [{"model": "petit", "input": "Bonjour"}, {"model": "petit", "input": "x", "store": True},
             {"model": "petit", "input": "x", "previous_response_id": "resp_1"}]  # fmt: skip
    lines = [line(str(n), url="/v1/responses", body=each) for n, each in enumerate(asked)]
    spoken = await office.make(*lines, endpoint="/v1/responses")
    await office.runner.drain()
    [found] = await office.read((await office.ai.batches.retrieve(made.id)).output_file_id)
    assert [row["embedding"] for row in found["response"]["body"]["data"]] == [list(vector("un")), list(vector("deux"))]
    now = await office.ai.batches.retrieve(spoken.id)
    [answer] = await office.read(now.output_file_id)
    response = answer["response"]["body"]
    assert (response["object"], response["status"], response["store"]) == ("response", "completed", False)
    assert response["output"][-1]["content"][0]["text"] == "re: Bonjour"
    refused = await office.read(now.error_file_id)
    assert [each["error"]["param"] for each in refused] == ["body.store", "body.previous_response_id"]


async def test_another_project_sees_nothing_of_it(office: Office) -> None:
    made = await office.make(line())
    for attempt in (office.other.batches.retrieve, office.other.batches.cancel):
        with pytest.raises(openai.NotFoundError):
            await attempt(made.id)
    assert [batch async for batch in office.other.batches.list()] == []
    with pytest.raises(openai.NotFoundError):
        await office.other.batches.create(input_file_id=made.input_file_id, endpoint=CHAT, completion_window="24h")
    await office.runner.drain()
    now = await office.ai.batches.retrieve(made.id)
    with pytest.raises(openai.NotFoundError):
        await office.other.files.content(now.output_file_id or "")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"endpoint": "/v1/completions"}, "endpoint"),
        ({"endpoint": "/v1/messages"}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"input_file_id": ""}, "input_file_id"),
        ({"metadata": {"metier_window": "at night"}}, "metadata.metier_window"),
        ({"metadata": {"metier_window": "22:00-06:00 Nowhere/City"}}, "metadata.metier_window"),
        ({"metadata": {"k" * 65: "v"}}, None),
        ({"metadata": {"k": "v" * 513}}, "metadata.k"),
        ({"metadata": {str(n): "v" for n in range(17)}}, "metadata"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 60}}, "output_expires_after"),
        ({"priority": "high"}, "priority"),
    ],
)
async def test_what_a_batch_cannot_be_is_refused_by_name(office: Office, change: Any, param: str | None) -> None:
    good = {"input_file_id": await office.file(line()), "endpoint": CHAT, "completion_window": "24h"}
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        await office.ai.post("/batches", body={**good, **change}, cast_to=object)
    assert param is None or refused.value.param == param
    assert [batch async for batch in office.ai.batches.list()] == []


async def test_a_file_sent_for_something_else_or_in_use(office: Office) -> None:
    other = await office.ai.files.create(file=("a", jsonl([line()])), purpose="user_data")
    with pytest.raises(openai.UnprocessableEntityError, match="purpose"):
        await office.ai.batches.create(input_file_id=other.id, endpoint=CHAT, completion_window="24h")
    made = await office.make(line())
    with pytest.raises(openai.ConflictError, match=made.id):
        await office.ai.files.delete(made.input_file_id)
    await office.runner.drain()
    assert (await office.ai.files.delete(made.input_file_id)).deleted


async def test_batches_are_listed_in_pages_and_cancelled(office: Office) -> None:
    made = [(await office.make(line(), n=str(n), metier_window=_never(office))).id for n in range(3)]
    assert [batch.id async for batch in office.ai.batches.list(limit=2)] == made[::-1]
    await office.runner.drain()
    waiting: Any = await office.ai.batches.retrieve(made[0])
    assert (waiting.status, waiting.metier["waits_for"]) == ("in_progress", "window")
    assert (await office.ai.batches.cancel(made[0])).status == "cancelling"
    await office.runner.drain()
    now = await office.ai.batches.retrieve(made[0])
    assert (now.status, now.cancelled_at is not None, now.output_file_id) == ("cancelled", True, None)
    assert (await office.ai.batches.cancel(made[0])).status == "cancelled", "asking twice is no mistake"
    [line_] = await office.read(now.error_file_id)
    assert (line_["custom_id"], line_["error"]["code"]) == ("a", "batch_cancelled")


async def test_a_revoked_key_stops_the_batch_and_says_so(office: Office) -> None:
    made = await office.make(line(), metier_window=_never(office))
    await office.runner.drain()
    await office.here.keys.revoke(office.here.principal.key_id, by="Camille")
    office.clock.forward(12 * 3600)
    await office.runner.turn(made.id)
    stopped = await office.here.batches.get(made.id)
    assert (stopped.status, stopped.errors[0]["code"]) == ("failed", "not_authenticated")
    assert "revoked" in stopped.errors[0]["message"]
    assert office.provider.calls == []


async def test_a_key_that_loses_its_right_to_batches_stops_them(office: Office) -> None:
    made = await office.make(line(), metier_window=_never(office))
    await office.runner.drain()
    project = await office.here.keys.project("Service client")
    await office.here.keys.bound(project, Scopes(surfaces=frozenset({"chat"})))
    await office.here.keys.refresh()
    with pytest.raises(openai.PermissionDeniedError, match="batches"):
        await office.ai.batches.retrieve(made.id)
    with pytest.raises(openai.PermissionDeniedError, match="batches"):
        await office.ai.files.list()
    office.clock.forward(12 * 3600)
    await office.runner.turn(made.id)
    stopped = await office.here.batches.get(made.id)
    assert (stopped.status, stopped.errors[0]["code"]) == ("failed", "not_allowed")
    assert office.provider.calls == []


async def test_a_suspended_system_stops_the_batch_and_says_so(office: Office) -> None:
    await office.here.register.suspend(office.here.principal.system, by="Camille")
    async with asyncio.timeout(60):
        while True:
            await office.here.admission.tick()
            made = await office.make(line())
            await office.runner.drain()
            now = await office.ai.batches.retrieve(made.id)
            if now.status == "failed":
                break
    assert now.errors is not None and now.errors.data is not None
    assert now.errors.data[0].code == "system_not_approved"


async def test_a_spent_budget_is_waited_for_and_raising_it_is_enough(office: Office) -> None:
    project = office.here.principal.project
    await office.here.admission.set_budget(project, Decimal("0.000001"))
    made = await office.make(line("a"), line("b"))
    await office.runner.drain()
    waiting: Any = await office.ai.batches.retrieve(made.id)
    assert (waiting.status, waiting.metier["waits_for"]) == ("in_progress", "budget_exceeded")
    assert (waiting.request_counts.completed, office.provider.calls) == (0, [])
    await office.here.admission.set_budget(project, Decimal(10))
    office.clock.now = (await office.here.batches.get(made.id)).resume_at or office.clock.now
    await office.runner.turn(made.id)
    assert (await office.ai.batches.retrieve(made.id)).status == "completed"


async def test_not_even_a_result_is_kept_longer_than_asked(office: Office) -> None:
    file = await office.file(line())
    made = await office.ai.batches.create(
        input_file_id=file, endpoint=CHAT, completion_window="24h",
        output_expires_after={"anchor": "created_at", "seconds": 7200},
    )  # fmt: skip
    await office.runner.drain()
    now = await office.ai.batches.retrieve(made.id)
    kept = await office.ai.files.retrieve(now.output_file_id or "")
    assert kept.expires_at == int((office.clock() + timedelta(hours=2)).timestamp())


def _never(office: Office) -> str:
    """A window that opens half a day after now."""
    later = office.clock() + timedelta(hours=12)
    return f"{later:%H:%M}-{later + timedelta(hours=1):%H:%M} UTC"
