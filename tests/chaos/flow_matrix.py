"""The chaos matrix of workflows: each shape killed at every place, with one worker or three, PostgreSQL too or not."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import pathlib
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg

from metier.app import build
from metier.calls import JSON, Principal, RunId
from metier.errors import MetierError
from metier.postgres import Embedded
from metier.settings import Settings
from metier.store import Store, away, create_database
from metier.testing import caller
from metier.triggers import Triggers
from metier.vault import Vault
from metier.workflow.engine import Engine, Run, StepRecord
from metier.workflow.review import Review, Reviewer, TaskDesk
from tests.chaos.flow_deaths import Deaths, Fault
from tests.chaos.flow_outside import Outside, outside
from tests.chaos.flow_shapes import SHAPES, Shape
from tests.scratch import scratch
from tests.triggers.dovecot import Dovecot, dovecot, found
from tests.triggers.house import Known

__all__ = ["Cell", "Lane", "Told", "Zygote", "cells", "lane", "mailserver", "run_cell", "zygote"]

ROOT = pathlib.Path(__file__).parents[2]
ZOE = Reviewer("zoe", everywhere=True)
KEY = bytes(range(32))
# Data is safe from kill -9 once it is with the kernel: what is written must only not wait in PostgreSQL itself.
OPTIONS = ("fsync=off", "full_page_writes=off", "max_connections=200")


@dataclass(frozen=True, slots=True)
class Cell:
    """One shape, under so many workers, with the database killed too or not."""

    shape: Shape
    workers: int
    database: bool
    every: int = 1

    @property
    def most_s(self) -> int:
        """How long it may take: each restart of a database costs seconds."""
        return 3600 if self.database else 1800

    @property
    def name(self) -> str:
        """As the table and the choice of cells call it."""
        return f"{self.shape.name}, {self.workers} worker{'s' * (self.workers > 1)}{', PostgreSQL' * self.database}"


@dataclass(slots=True)
class Told:
    """What came of a cell."""

    cell: Cell
    places: int = 0
    died: int = 0
    asked: int = 0
    in_flight: int = 0
    """Questions asked again because whoever asked died before the whole answer was on the wire."""
    unkept: int = 0
    """Questions asked again because he died with the answer in his hands, before it was in the journal."""
    effects: int = 0
    requests: int = 0
    """At the shop, for those effects."""
    mails: int = 0
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Lane:
    """A PostgreSQL whose cells run one after the other, or all at once where it is never killed."""

    server: Embedded
    who: Principal
    fallen: int = 0

    async def keep(self) -> None:
        """Start the server again whenever it was killed."""
        while True:
            if self.server.pid() is None:
                self.fallen += 1
                again = Embedded(self.server.layout.home, options=OPTIONS)
                with contextlib.suppress(MetierError):
                    await asyncio.to_thread(again.start)
                    self.server = again
            await asyncio.sleep(0.02)


@dataclass(slots=True)
class Zygote:
    """The program that forks workers."""

    process: subprocess.Popen[bytes]

    def fork(self, site: pathlib.Path, number: int) -> None:
        """Have workers for a site."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{site} {number}\n".encode())
        self.process.stdin.flush()


def cells(names: Sequence[str] = (), *, every: int = 1, every_outage: int = 4) -> list[Cell]:
    """List the cells whose name holds one of some texts; all without any."""
    made = [
        Cell(shape, workers, database, every_outage if database else every)
        for database in (False, True)
        for workers in (1, 3)
        for shape in SHAPES
        if shape.start != "mailbox" or found() is not None
    ]
    return [cell for cell in made if not names or any(name in cell.name for name in names)]


@contextlib.contextmanager
def zygote() -> Iterator[Zygote]:
    """Run the program that forks workers until the block ends."""
    process = subprocess.Popen([sys.executable, "-m", "tests.chaos.flow_worker"], cwd=ROOT, stdin=subprocess.PIPE)
    try:
        yield Zygote(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(60)


@contextlib.asynccontextmanager
async def lane() -> AsyncIterator[Lane]:
    """A PostgreSQL with a migrated database in which somebody may call models."""
    home = scratch("metier-lane-")
    made = Lane(Embedded(home / "pg", options=OPTIONS), None)  # type: ignore[arg-type]  # known a moment later
    home.chmod(0o711)
    await asyncio.to_thread(made.server.start)
    try:
        await create_database(made.server.url("postgres"), "template_chaos")
        settings = Settings(
            home=home / "app", config_path=home / "none.yaml", database_url=made.server.url("template_chaos"),
            master_key=KEY,
        )  # fmt: skip
        async with build(settings) as app:
            made.who = await caller(app, "chaos")
        yield made
    finally:
        await asyncio.to_thread(made.server.stop)
        shutil.rmtree(home, ignore_errors=True)


async def run_cell(cell: Cell, lane: Lane, zygote: Zygote, mailserver: Dovecot | None = None) -> Told:
    """Run one flow through all its deaths, and tell what is wrong with what came of it."""
    told, began = Told(cell), time.monotonic()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="metier-cell-"))
    database = lane.server.layout.data / "postmaster.pid" if cell.database else None
    deaths = Deaths(folder, cell.every, database)
    name = f"cell_{secrets.token_hex(6)}"
    keeping = asyncio.create_task(lane.keep()) if cell.database else None
    try:
        await create_database(lane.server.url("postgres"), name, template="template_chaos")
        async with outside(deaths) as servers, Store(lane.server.url(name), size=3) as store:
            case = _Case(cell, lane, deaths, servers, store, mailserver)
            try:
                async with asyncio.timeout(cell.most_s):
                    await case.through(zygote)
                told.wrong += await case.verdict()
            except TimeoutError:
                told.wrong.append(f"not over after {cell.most_s} s: {await case.standing()}")
            finally:
                (folder / "over").touch()
            told.asked = sum(map(len, servers.asked.values()))
            told.effects, told.requests = len(servers.effects), servers.requests.total()
            told.mails = servers.mails.total()
            told.unkept = _unkept(servers, deaths.faults())
            told.in_flight = told.asked - len(servers.asked) - told.unkept
            # While the database is away no worker can begin; one that has begun lives through it.
            told.wrong += [f"a worker broke: {file.read_text()[-600:]}" for file in folder.glob("broke *")
                           if not cell.database or (folder / file.name.replace("broke", "ready")).exists()]  # fmt: skip
    finally:
        if keeping is not None:
            await _at_rest(lane, deaths)
            keeping.cancel()
        told.places, told.died = deaths.count("seen"), deaths.count("died")
        told.seconds = time.monotonic() - began
        if not told.wrong:
            await asyncio.sleep(0.2)
            shutil.rmtree(folder, ignore_errors=True)
        else:
            told.wrong.append(f"left in {folder}")
    return told


async def _at_rest(lane: Lane, deaths: Deaths) -> None:
    """Wait until nobody of a cell is left who could kill the database, and until it is up for the next one."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(60):
            while any(_lives(int(pid)) for pid, _ in deaths.lines("workers")):  # noqa: ASYNC110  # other processes
                await asyncio.sleep(0.02)
            while True:
                with contextlib.suppress(psycopg.OperationalError):
                    await (await psycopg.AsyncConnection.connect(lane.server.url("postgres"))).close()
                    return
                await asyncio.sleep(0.05)


class _Case:
    """The people's side of one cell, and its judge."""

    def __init__(
        self, cell: Cell, lane: Lane, deaths: Deaths, servers: Outside, store: Store, mailserver: Dovecot | None
    ) -> None:
        self.cell, self.shape, self.who, self.deaths = cell, cell.shape, lane.who, deaths
        self.servers, self.store, self.mailserver = servers, store, mailserver
        vault = Vault(KEY)
        self.engine = Engine(store, vault, {}, desk=TaskDesk(store, vault))
        self.review = Review(store, vault, self.engine)
        self.buried: set[tuple[str, str]] = set()
        self.user = f"u{secrets.token_hex(5)}"

    async def through(self, zygote: Zygote) -> None:
        """Start the flow, let workers die and people decide until every run is over."""
        site = self.deaths.folder / "site.json"
        site.write_text(json.dumps(self._site()))
        await self._start()
        zygote.fork(site, self.cell.workers)
        while True:
            with contextlib.suppress(MetierError, psycopg.Error):
                await self._bury()
                runs = await self._runs()
                wanted = self.shape.runs
                if len(runs) >= wanted and all(run.over for run in runs):
                    return
                for run in runs:
                    await self._help(run)
            await asyncio.sleep(0.05)

    def _site(self) -> dict[str, Any]:
        own = {"provider": "openai", "base_url": f"http://127.0.0.1:{self.servers.port}/v1", "timeout_s": 60,
               "price": {"input": 1, "output": 4}, "hosting": "private"}  # fmt: skip
        post = {"input": {"run": "string", "what": "string"}, "idempotency_key": "Idempotency-Key"}
        shop = {
            "kind": "http", "base_url": f"http://127.0.0.1:{self.servers.port}", "private": ["127.0.0.0/8"],
            "operations": {name: {"post": f"/shop/{name}", **post} for name in ("book", "ship")},
        }  # fmt: skip
        mail = self.mailserver
        return {
            "folder": str(self.deaths.folder),
            "database_url": self.store.url,
            "key": KEY.hex(),
            # Nobody is taken for dead who lives, however busy the machine is; the dead are told by us. A database that
            # was just started is trusted no sooner than this.
            "stall_s": 4.0 if self.cell.database else 20.0,
            "every": self.cell.every,
            "postmaster": None if self.deaths.database is None else str(self.deaths.database),
            "smtp_port": self.servers.smtp_port,
            "models": {"writer": {"deployments": [{**own, "id": "writer", "model_id": "writer"}]}},
            "connectors": {"shop": shop},
            "triggers": self.shape.start != "call",
            "secrets": {} if mail is None else {"support": mail.url(self.user)},
            "ca_file": None if mail is None else mail.ca_file,
        }

    async def _start(self) -> None:
        if self.shape.start == "call":
            await self.engine.start(self.shape.workflow(), {}, self.who, dedupe="chaos")
            return
        room = self.deaths.folder / "in"
        room.mkdir()
        written: dict[str, Any] = {"folder": {"path": str(room), "poll": "50ms", "with": {"text": "{{ event.text }}"}}}
        if self.shape.start == "mailbox":
            config = {"mailbox": "support", "existing": True, "with": {"text": "{{ event.subject }}"}}
            written = {"email": config}
        site = self._site()
        triggers = Triggers.built(
            self.store, Vault(KEY), self.engine, self._principal, Known(site["secrets"]), ca_file=site["ca_file"]
        )
        await triggers.deployments.deploy(self.shape.workflow([written]), self.who, "zoe")
        for number in range(self.shape.runs):
            if self.mailserver is not None and self.shape.start == "mailbox":
                text = f"From: ana@exemple.fr\r\nMessage-ID: <{number}@x>\r\nSubject: {number}\r\n\r\nBonjour\r\n"
                await asyncio.to_thread(self.mailserver.put, text.encode(), user=self.user)
            else:
                (room / f"{number}.txt").write_text(str(number))

    async def _principal(self, _: str) -> Principal:
        return self.who

    async def _runs(self) -> list[Run]:
        async with self.store.connection() as connection:
            rows = await (await connection.execute("SELECT id FROM runs ORDER BY created_at, id")).fetchall()
        return [await self.engine.get(RunId(row["id"])) for row in rows]

    async def _help(self, run: Run) -> None:
        """Decide what a run asks people, and tell the event it waits for."""
        if run.parked_on == "go":
            data: JSON = {"said": "now"}
            await self.engine.emit(None, self.who.project, "go", run.id, data, id=f"go-{run.id}")
        if run.parked_on in ("ask", "desk"):
            for task in await self.review.list(ZOE, run=run.id):
                await self.review.decide(task.id, ZOE, {"decision": "approve"})

    async def _bury(self) -> None:
        """Let the others know at once that a worker is dead, as if it had been silent for long."""
        for pid, number in self.deaths.lines("workers"):
            if (pid, number) not in self.buried and not _lives(int(pid)):
                async with self.store.connection() as connection:
                    await connection.execute(
                        "UPDATE procrastinate_workers SET last_heartbeat = '-infinity' WHERE id = %s", (int(number),)
                    )
                self.buried.add((pid, number))

    async def standing(self) -> list[str]:
        """Say where every run stands."""
        return [f"{run.id} {run.workflow} {run.status} {run.parked_on} {run.failure}" for run in await self._runs()]

    async def verdict(self) -> list[str]:
        """Judge, again where the database dies meanwhile: a worker may have one death left after the last run."""
        while True:
            try:
                return await self.judged()
            except (MetierError, psycopg.Error) as error:
                if not away(error):
                    raise
            await asyncio.sleep(0.05)

    async def judged(self) -> list[str]:
        """Say everything that is wrong with the state at the end, the journal, what was paid and what was done."""
        runs, shape = await self._runs(), self.shape
        wrong = [f"{run.id} of {run.workflow} is {run.status}: {run.failure}" for run in runs if run.status != "done"]
        if len(runs) != shape.runs:
            wrong.append(f"{len(runs)} runs instead of {shape.runs}")
        if wrong:
            return wrong
        outputs = [await self.engine.result(run.id) for run in runs]
        above = outputs[:1] if shape.start == "call" else sorted(outputs, key=str)
        if above != ([shape.output] if shape.start == "call" else shape.output):
            wrong.append(f"the output is {above!r} instead of {shape.output!r}")
        wrong += self._outside()
        faults = self.deaths.faults()
        for run in runs:
            wrong += self._journal(run.id, await self.engine.steps(run.id))
        return wrong + self._paid(faults)

    def _outside(self) -> list[str]:
        done = Counter(self.servers.effects.values())
        wrong = [f"{what} was done {number} times" for what, number in done.items() if number != 1]
        if len(done) != self.shape.effects:
            wrong.append(f"{len(done)} effects instead of {self.shape.effects}: {sorted(done)}")
        wrong += [f"{name} was mailed {number} times" for name, number in self.servers.mails.items() if number != 1]
        if len(self.servers.mails) != self.shape.mails:
            wrong.append(f"{len(self.servers.mails)} e-mails instead of {self.shape.mails}")
        return wrong + [f"the model was asked what it does not know: {text!r}" for text in self.servers.unclear]

    def _journal(self, run: RunId, lines: Sequence[StepRecord]) -> list[str]:
        keys = Counter((line.path, line.attempt, line.name) for line in lines)
        wrong = [f"{key} stands {number} times in the journal" for key, number in keys.items() if number != 1]
        wrong += [f"{line.path} of {run} failed once: {line.value}" for line in lines if line.kind == "error"]
        wrong += [f"{line.path} of {run} was tried again" for line in lines if line.attempt != 1]
        # A line is written by whoever did the step; nobody may begin it after that, even if he was taken for dead.
        ended = {(line.path, line.attempt): line.ended_at.timestamp() for line in lines if line.kind == "result"}
        for at, of, path, attempt, _ in self.deaths.lines("started"):
            if of == run and float(at) > ended.get((path, int(attempt)), float("inf")):
                wrong.append(f"{path} of {run} was begun again when it was done")
        return wrong + self._kept_before_asked(run, lines)

    def _paid(self, faults: Sequence[Fault]) -> list[str]:
        """Each question once, and once more only where whoever had asked it was killed before the answer was kept."""
        wrong = []
        if len(self.servers.asked) != self.shape.asks:
            wrong.append(f"{len(self.servers.asked)} questions instead of {self.shape.asks}")
        for key, asked in self.servers.asked.items():
            for before, after in itertools.pairwise(asked):
                # Whoever asked may have been dead when his question was read, on a busy machine. A database that dies
                # alone is no reason: whoever asked has the answer, and keeps it once the database is back.
                between = [fault for fault in faults if before.at - 5 <= fault.at <= after.at]
                if not any(before.holder and fault.pid == before.holder.pid for fault in between):
                    wrong.append(f"{key} was asked again although nobody who asked had died: {before}, then {after}")
        return wrong

    def _kept_before_asked(self, run: RunId, lines: Sequence[StepRecord]) -> list[str]:
        kept = {
            _question(line.path, line.name): line.ended_at.timestamp() for line in lines if line.kind == "answer"
        }  # fmt: skip
        wrong = []
        for ask, asked in ((ask, asked) for (of, ask), asked in self.servers.asked.items() if of == run):
            at = kept.get(ask, kept.get(ask.partition(" ")[0]))
            if at is None:
                wrong.append(f"the answer to {ask!r} of {run} was never kept")
            elif asked[-1].at > at:
                wrong.append(f"{ask!r} of {run} was asked when its answer was kept")
        return wrong


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _unkept(servers: Outside, faults: Sequence[Fault]) -> int:
    """Count the questions asked again although the answer had been on the wire before anybody died."""
    found = 0
    for before, after in itertools.chain.from_iterable(map(itertools.pairwise, servers.asked.values())):
        died = min((fault.at for fault in faults if before.at <= fault.at <= after.at), default=after.at)
        found += before.answered is not None and before.answered <= died
    return found


def _question(path: str, name: str) -> str:
    """Give what was asked by the place of its answer in the journal."""
    if name.startswith("turn."):
        return f"turn {int(name.split('.')[1]) - 1}" if name.count(".") == 1 else name
    parent, _, id = path.rpartition(".")
    if parent.startswith("refine#"):
        return f"{id} {parent.removeprefix('refine#')}"
    if parent.startswith("votes["):
        return f"{id} {parent.removeprefix('votes[').rstrip(']')}"
    return id


@contextlib.contextmanager
def mailserver() -> Iterator[Dovecot | None]:
    """A Dovecot, where it is installed."""
    if found() is None:
        yield None
        return
    home = pathlib.Path(tempfile.mkdtemp(prefix="mt-imap-"))
    try:
        with dovecot(home) as server:
            yield server
    finally:
        shutil.rmtree(home, ignore_errors=True)
