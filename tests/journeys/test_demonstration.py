"""The demonstration tells a model that answers from one that is away, by its words and by its exit code."""

from __future__ import annotations

import asyncio
import pathlib

import pytest

from metier.calls import Call
from metier.cli import demo
from metier.cli.terminal import Terminal
from metier.errors import Unavailable
from metier.providers.scripted import Script, fails
from metier.store import Store
from tests.journeys.company import Company, company, drafting, faithful
from tests.journeys.test_support_reply import changed


async def shown(c: Company) -> demo.Outcome:
    """One e-mail through the demonstration, with a worker beside it."""
    stop = asyncio.Event()
    worker = asyncio.create_task(c.app.engine.work(stop))
    flow = changed("backoff: exponential", "backoff: constant, first: 1ms")
    (path,) = (demo.TEMPLATE / "sample" / "emails").glob("04-*.eml")
    try:
        return await demo.answer(c.app, c.who, flow, path.stem, Terminal(False), False)
    finally:
        stop.set()
        await worker


async def test_a_draft_that_waits_is_a_success(store: Store, tmp_path: pathlib.Path) -> None:
    async with company(store.url, tmp_path) as c:
        outcome = await shown(c)
    assert (outcome.status, outcome.outage) == ("waits for group:sav", "")
    demo.require_answers([outcome])


@pytest.mark.parametrize("absent", ["the writer", "the judge"])
async def test_a_model_that_is_away_is_told_and_is_a_failure(
    store: Store, tmp_path: pathlib.Path, absent: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(call: Call) -> Script:
        return fails(503) if drafting(call) is (absent == "the writer") else faithful(call)

    async with company(store.url, tmp_path, answer) as c:
        outcome = await shown(c)
    assert "503" in outcome.outage or "deployment" in outcome.outage
    assert outcome.outage.split()[0] in capsys.readouterr().out
    with pytest.raises(Unavailable, match="for 1 of 1 e-mails"):
        demo.require_answers([outcome])
