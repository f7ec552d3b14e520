"""The main job while its worker, or the database, is killed -9 wherever it hurts: nothing is lost or done twice."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from psycopg.rows import dict_row

from metier.calls import RunId
from metier.cli.emails import inputs_of
from metier.postgres import Embedded
from metier.store import Store, create_database
from metier.workflow.definition import parse
from tests.chaos.model import Model, model
from tests.chaos.support_worker import MAIL_POINTS, STEP_POINTS
from tests.journeys.company import ADVISER, Company, company, mail, sent
from tests.scratch import scratch

ROOT = pathlib.Path(__file__).parents[2]
PATHS = (
    *("language", "customer", "order", "classify", "policy", "asked", "docs", "brief"),
    *("refine#1.draft", "refine#1.letter", "refine#1.check", "refine#1.grade", "send"),
)
"""Every step that does something on the way of an e-mail that is answered at the first draft."""


@dataclass(slots=True)
class Site:
    """The people's side of the platform, the model server, and a folder for what workers write down."""

    company: Company
    model: Model
    folder: pathlib.Path
    stall_s: float = 2.0
    """A worker silent for so long is taken for dead: short where workers die, long where the database does."""
    supervisor: subprocess.Popen[bytes] | None = None

    def plan(self, deaths: Sequence[tuple[str, str]]) -> None:
        (self.folder / "plan.json").write_text(json.dumps(deaths))

    async def start(self) -> RunId:
        _, inputs = inputs_of(mail(4))
        flow = self.company.flow
        # One second less to wait where a database or a mail server was away.
        flow = parse(flow.source.replace("backoff: exponential", "backoff: constant, first: 100ms"), flow.files)
        return await self.company.app.engine.start(flow, inputs, self.company.who)

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """A supervisor and its worker."""
        told = {
            "home": str(self.company.app.settings.home),
            "mailbox": str(self.company.mailbox),
            "folder": str(self.folder),
            "database_url": self.company.app.settings.database_url,
            "smtp_port": self.company.smtp_port,
            "models": self.model.models(),
            "stall_s": self.stall_s,
        }
        (self.folder / "site.json").write_text(json.dumps(told))
        command = [sys.executable, "-m", "tests.chaos.support_worker", str(self.folder / "site.json")]
        self.supervisor = subprocess.Popen(command, cwd=ROOT)
        try:
            yield
        finally:
            self.supervisor.terminate()
            self.supervisor.wait(60)

    def worker(self) -> int:
        return int((self.folder / "worker").read_text())

    async def until(self, run: RunId, status: str) -> None:
        """Look until the run is there; the limit of the whole test is the only clock."""
        async with asyncio.timeout(540):
            while (found := await self.company.app.engine.get(run)).status != status:
                assert not found.over, found
                assert self.supervisor is not None and self.supervisor.poll() is None, "the supervisor died"
                await asyncio.sleep(0.05)

    async def approve(self, run: RunId) -> None:
        task = await self.company.task(run)
        await self.company.app.review.decide(task.id, ADVISER, {"decision": "approve"})

    async def ended_well(self, run: RunId, asked: dict[str, int]) -> None:
        """The outcome of an undisturbed run: every step once, every call once but those in flight, one e-mail."""
        engine = self.company.app.engine
        result: Any = await engine.result(run)
        assert result == {"sent": True, "category": "billing", "route": "auto", "score": 9, "verified": 1, "cited": 1}
        lines = await engine.steps(run)
        assert Counter(line.path for line in lines if line.kind == "result") == Counter(PATHS)
        answers = [(line.path, line.name) for line in lines if line.kind == "answer"]
        assert answers == [("refine#1.draft", "answer"), ("refine#1.grade", "answer")]
        log = (self.folder / "log").read_text().splitlines()
        assert not [line for line in log if line.startswith("repeated")]
        assert {line.split()[2] for line in log if line.startswith("started")} == {"1"}, "a death is no failed attempt"
        assert dict(self.model.kinds()) == asked
        assert len(self.model.asked) == 2, "what is asked again is the same, to the letter"
        assert log.count("delivered") == 1, "the mail server took one message, once"
        (message,) = sent(self.company.mailbox)
        assert message["To"] == "t.maupoix@courriel.example"
        assert not any(b"Maupoix" in body or b"maupoix" in body for body in self.model.bodies)
        await self.recorded(run, asked)

    async def recorded(self, run: RunId, asked: dict[str, int]) -> None:
        """Each request that reached the model has its line in the ledger, and the answered ones are the run's cost."""
        await self.company.app.ledger.flush()
        async with self.company.app.store.connection() as connection:
            cursor = connection.cursor(row_factory=dict_row)
            await cursor.execute("SELECT outcome, cost_eur FROM calls WHERE run = %s", (run,))
            calls = await cursor.fetchall()
        answered = [call["cost_eur"] for call in calls if call["outcome"] == "answered"]
        assert len(calls) <= sum(asked.values())
        assert (len(answered), sum(answered)) == (2, (await self.company.app.engine.get(run)).cost_eur)


@contextlib.asynccontextmanager
async def site(url: str, home: pathlib.Path) -> AsyncIterator[Site]:
    """A site on a migrated database."""
    folder = home / "chaos"
    folder.mkdir()
    async with model() as server, company(url, home) as made:
        found = Site(made, server, folder)
        found.plan([])
        yield found


async def test_a_worker_may_die_at_every_boundary_of_the_whole_job(store: Store, tmp_path: pathlib.Path) -> None:
    async with site(store.url, tmp_path) as s:
        s.plan([(path, point) for path in PATHS for point in STEP_POINTS])
        run = await s.start()
        with s.working():
            await s.until(run, "parked")
            await s.approve(run)
            await s.until(run, "done")
        await s.ended_well(run, {"draft": 1, "grade": 1})
        died = {path.name for path in s.folder.glob("died *")}
        assert {f"died {path} {point}" for path in PATHS for point in ("start", "done")} <= died
        assert len(died) >= len(PATHS) * 2 + len(PATHS) // 2, "most deaths after the journal were died too"


async def test_a_worker_may_die_while_the_model_answers(store: Store, tmp_path: pathlib.Path) -> None:
    async with site(store.url, tmp_path) as s:
        s.model.holding = {"draft": 2, "grade": 1}
        run = await s.start()
        with s.working():
            for kind in ("draft", "draft", "grade"):
                async with asyncio.timeout(60):
                    assert await s.model.held.get() == kind
                os.kill(s.worker(), signal.SIGKILL)
            await s.until(run, "parked")
            await s.approve(run)
            await s.until(run, "done")
        await s.ended_well(run, {"draft": 3, "grade": 2})


async def test_a_worker_may_die_around_the_sending_of_the_mail(store: Store, tmp_path: pathlib.Path) -> None:
    async with site(store.url, tmp_path) as s:
        s.plan([("mail", point) for point in MAIL_POINTS])
        run = await s.start()
        with s.working():
            await s.until(run, "parked")
            await s.approve(run)
            await s.until(run, "done")
        await s.ended_well(run, {"draft": 1, "grade": 1})
        assert len([*s.folder.glob("died mail *")]) == len(MAIL_POINTS)


@pytest.mark.parametrize("answered", ["after the database is back", "while it is away"])
async def test_the_database_may_be_killed_while_the_model_answers(answered: str) -> None:
    home = scratch("metier-kill-")
    embedded = Embedded(home / "server")
    home.chmod(0o711)
    await asyncio.to_thread(embedded.start)
    try:
        await create_database(embedded.url("postgres"), "metier")
        async with site(embedded.url(), home) as s:
            s.model.holding, s.stall_s = {"draft": 1}, 8.0
            run = await s.start()
            with s.working():
                async with asyncio.timeout(60):
                    assert await s.model.held.get() == "draft"
                worker, pid = s.worker(), embedded.pid()
                assert pid is not None
                os.kill(pid, signal.SIGKILL)
                if answered == "while it is away":
                    s.model.released.set()
                    await asyncio.wait_for(s.model.ended.wait(), 60)
                again = Embedded(home / "server")
                await asyncio.to_thread(again.start)
                s.model.released.set()
                await s.until(run, "parked")
                await s.approve(run)
                await s.until(run, "done")
                assert s.worker() == worker, "the worker itself stayed alive"
            asked = s.model.kinds()["draft"]
            assert asked <= 2, (
                "it was in flight: it may be asked again where the worker could not wait for the database"
            )
            await s.ended_well(run, {"draft": asked, "grade": 1})
        await asyncio.to_thread(again.stop)
    finally:
        await asyncio.to_thread(embedded.stop)
        shutil.rmtree(home, ignore_errors=True)
