"""`metier batches`: progress and totals, for people and as JSON, and the worker that moves them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from metier.api import batches
from metier.app import Parts, build
from metier.catalog import Catalog
from metier.cli.working import working
from metier.providers.scripted import ScriptedProvider, says
from metier.settings import load
from metier.testing import MODELS, caller
from tests.batches.house import CHAT, jsonl, line
from tests.cli.house import House


@pytest.fixture(scope="module")
def made(house: House) -> tuple[str, str]:
    """A batch that is done and one that waits for its window, made with the worker of `metier worker`."""
    body = {"model": "writer", "messages": [{"role": "user", "content": "Bonjour"}]}

    async def make() -> tuple[str, str]:
        parts = Parts(providers={"scripted": ScriptedProvider(says("Bonjour"))}, catalog=Catalog.from_yaml(MODELS))
        async with build(load(house.environment), parts) as app:
            who = await caller(app, "batches-desk")
            found, later = [], datetime.now(UTC) + timedelta(hours=12)
            for window in ("always", f"{later:%H:%M}-{later + timedelta(hours=1):%H:%M} UTC"):
                writing = await app.batches.files.begin(who)
                await writing.feed(jsonl([line("a", body=body), line("b", body=body)]))
                file = await app.batches.files.store(writing, "in.jsonl", "batch")
                found.append((await app.batches.create(who, CHAT, file.id, {"metier_window": window})).id)
            stop = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                group.create_task(working(app, stop))
                for _ in range(2400):
                    await asyncio.sleep(0.05)
                    if (await app.batches.get(found[0])).over and (await app.batches.get(found[1])).paused:
                        break
                stop.set()
            await batches.runner(app).recover()
            return found[0], found[1]

    return asyncio.run(make())


def test_a_list_shows_how_far_they_are(house: House, made: tuple[str, str]) -> None:
    done, waiting = made
    found = {each["id"]: each for each in house.data("batches", "list", "--project", "batches-desk")["batches"]}
    assert set(found) == set(made)
    assert (found[done]["status"], found[done]["done"], found[done]["total"]) == ("completed", 2, 2)
    assert (found[waiting]["status"], found[waiting]["paused"]) == ("in_progress", "window")
    told = house.run("batches", "list", "--limit", "1")
    assert waiting in told and "window until" in told and f"--after {waiting}" in told
    assert done in house.run("batches", "list", "--after", waiting)
    assert "no-such" in house.run("batches", "list", "--project", "no-such", code=2)


def test_one_is_shown_with_what_it_took(house: House, made: tuple[str, str]) -> None:
    shown = house.data("batches", "show", made[0])["batch"]
    assert (shown["totals"]["calls"], shown["totals"]["input_tokens"]) == (2, 24)
    assert shown["totals"]["cost_eur"] > 0
    told = house.run("batches", "show", made[0])
    assert "2 answered, 0 failed, of 2" in told and "not estimated" in told and "€" in told
    assert "batch_x" in house.run("batches", "show", "batch_x", code=2)


def test_one_that_waits_is_cancelled(house: House, made: tuple[str, str]) -> None:
    assert house.data("batches", "cancel", made[1])["batch"]["status"] == "cancelling"
    assert "nothing left to cancel" in house.run("batches", "cancel", made[0], code=2)
