"""Faults of the house itself: a worker killed, the database stopped, the disk full, the clock set."""

from __future__ import annotations

import asyncio
import contextlib
import json
import pathlib
import resource
import shutil
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import psycopg
from psycopg import sql

from metier.calls import Call, Message, Principal, Usage
from metier.catalog import Catalog
from metier.governance.register import ADMITTED, Register
from metier.policy.admission import Admission
from metier.policy.keys import Keys
from metier.postgres import Embedded
from metier.record.ledger import Ledger
from metier.store import Row, Store, create_database
from metier.vault import Vault
from tests.chaos.client import Heard
from tests.chaos.faulty import USAGE
from tests.chaos.matrix import COLUMNS, PRICE, Cell, Column, House, cells, house
from tests.scratch import scratch

__all__ = ["clock_set", "database_read_only", "database_stopped", "disk_full", "own_database", "worker_killed"]

ROOT = pathlib.Path(__file__).parents[2]
EXACT = (USAGE[0] * Decimal(PRICE["input"]) + USAGE[1] * Decimal(PRICE["output"])) / 1_000_000


def chosen(*titles: str, columns: Sequence[Column] = COLUMNS[:5]) -> list[Cell]:
    """The cells of some rows of the matrix, in some columns, for every format."""
    return [cell for cell in cells([column.path for column in columns])
            if cell.column in columns and cell.fault.title in titles]  # fmt: skip


def by_model(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Sort the calls by their cell."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["model"], []).append(row)
    return found


async def worker_killed(home: pathlib.Path, url: str) -> list[str]:
    """Kill -9 a worker while calls wait for their provider, while others are midway, and after others were answered."""
    streams = [column for column in COLUMNS[:5] if column.stream]
    hanging = chosen("client leaves before the head") + chosen(
        *(f"client leaves after piece 3 of {number}" for number in (5, 8, 9)), columns=streams
    )
    good = chosen("nothing goes wrong")
    wrong: list[str] = []
    async with house(home, url, [*hanging, *good]) as here:
        plan = {
            "models": {cell.model: cell.entry(here.server, 9) for cell in [*hanging, *good]},
            "calls": [(cell.column.path, cell.column.body(cell.model)) for cell in [*hanging, *good]],
        }
        (home / "plan.json").write_text(json.dumps(plan))
        worker = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.chaos.matrix_worker", url, str(home), here.secret,
            cwd=ROOT, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            assert worker.stdout is not None
            for _ in good:
                line = await worker.stdout.readline()
                if not line.endswith(b" clean\n"):
                    wrong.append(f"a good answer ended as {line!r}")
            for cell in hanging:
                await here.server.came(f"cell-{cell.number}-0").wait()
        finally:
            worker.kill()
            await worker.wait()
        await here.app.ledger.recover()
        found = by_model(await here.calls())
        for cell in good:
            if [(row["outcome"], row["cost_eur"], row["estimated"]) for row in found.get(cell.model, [])] != [
                ("answered", EXACT, False)
            ]:
                wrong.append(f"{cell.name}: {found.get(cell.model)}")
        for cell in hanging:
            rows = found.get(cell.model, [])
            if [(row["outcome"], row["estimated"]) for row in rows] != [("lost", True)]:
                wrong.append(f"{cell.name}: {rows}")
            wrong += [f"{cell.name}: a lost call costs {row['cost_eur']}" for row in rows
                      if row["cost_eur"] != row["reserved_eur"] or not row["cost_eur"]]  # fmt: skip
        wrong += await here.settled()
        wrong += [f"left behind: {path}" for path in (home / "spool").glob("*/*.spool") if path.stat().st_size]
    return wrong


@contextlib.contextmanager
def full(home: pathlib.Path, room: int) -> Iterator[None]:
    """Let no file of this process grow beyond the biggest file of the spool, and `room` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    biggest = max((path.stat().st_size for path in (home / "spool").glob("*/*.spool")), default=0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (biggest + room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def disk_full(home: pathlib.Path, url: str) -> list[str]:
    """Fill the disk before calls and in the middle of calls: those are refused, these are recorded, later ones pass."""
    good, hanging = chosen("nothing goes wrong"), chosen("client leaves before the head")
    wrong: list[str] = []
    async with house(home, url, [*good, *hanging]) as here:
        for room in (0, 50):
            with full(home, room):
                refused = [await here.ask(cell) for cell in good]
            wrong += [f"status {heard.status} while the disk is full: {heard.body[:120]!r}" for heard in refused
                      if heard.status != 500 or heard.end != "error"]  # fmt: skip
        wrong += [f"{cell} was asked while the disk was full" for cell in here.server.asked]
        asking = [asyncio.ensure_future(here.ask(cell)) for cell in hanging]
        for cell in hanging:
            await here.server.came(f"cell-{cell.number}-0").wait()
        with full(home, 0):
            await asyncio.gather(*asking)
        passed = [await here.ask(cell) for cell in good]
        wrong += [f"a {heard.end} end once there is room again" for heard in passed if heard.end != "clean"]
        found = by_model(await here.calls())
        for cell in good:
            told = Counter((row["outcome"], row["error_code"], row["cost_eur"]) for row in found[cell.model])
            if told != {("failed", "ledger_broken", Decimal(0)): 2, ("answered", None, EXACT): 1}:
                wrong.append(f"{cell.name}: {told}")
        for cell in hanging:
            if [row["outcome"] for row in found.get(cell.model, [])] != ["cancelled"]:
                wrong.append(f"{cell.name}: {found.get(cell.model)}")
        wrong += await here.settled()
    return wrong


@contextlib.asynccontextmanager
async def own_database(*options: str) -> AsyncIterator[tuple[Embedded, str]]:
    """A PostgreSQL that may be stopped without disturbing anybody else."""
    place = scratch("metier-outage-")
    embedded = Embedded(place, options=options)
    await asyncio.to_thread(embedded.start)
    try:
        await create_database(embedded.url("postgres"), "metier")
        yield embedded, embedded.url()
    finally:
        await asyncio.to_thread(embedded.stop)
        shutil.rmtree(place, ignore_errors=True)


async def database_stopped(
    home: pathlib.Path, embedded: Embedded, url: str, seconds: float
) -> tuple[list[str], list[float]]:
    """Stop PostgreSQL under calls and start it again; gives what is wrong, and how long calls took meanwhile."""
    good = chosen("nothing goes wrong", columns=COLUMNS[2:4])
    hanging = chosen("client leaves before the head", columns=COLUMNS[2:4])
    heard: list[tuple[Cell, Heard]] = []
    async with house(home, url, [*good, *hanging]) as here:
        heard += [(cell, await here.ask(cell)) for cell in good]
        leave = asyncio.Event()
        asking = [asyncio.ensure_future(here.ask(cell, leave)) for cell in hanging]
        for cell in hanging:
            await here.server.came(f"cell-{cell.number}-0").wait()
        await asyncio.to_thread(embedded.stop)
        clock, took = asyncio.get_running_loop().time, list[float]()
        until = clock() + seconds
        while clock() < until or not took:
            timed = await asyncio.gather(*(_timed(here, cell) for cell in good))
            took += [seconds for got, seconds in timed if got.end == "clean"]
            heard += zip(good, (got for got, _ in timed), strict=True)
            leave.set()
            await asyncio.sleep(0.05)
        await asyncio.to_thread(embedded.start)
        heard += zip(good, await asyncio.gather(*(_again(here, cell) for cell in good)), strict=True)
        await asyncio.gather(*asking)
        wrong = await _patient(here)
        found = by_model(await here.calls())
        clean = Counter(cell.model for cell, got in heard if got.end == "clean")
        for cell in good:
            answered = [row for row in found.get(cell.model, []) if row["outcome"] == "answered"]
            if len(answered) != clean[cell.model] or any(row["cost_eur"] != EXACT for row in answered):
                wrong.append(f"{cell.name}: {clean[cell.model]} good answers, {len(answered)} in the ledger")
        for cell in hanging:
            if [row["outcome"] for row in found.get(cell.model, [])] != ["cancelled"]:
                wrong.append(f"{cell.name}: {found.get(cell.model)}")
        wrong += [f"an {got.end} end (status {got.status}): {got.body[:160]!r}" for _, got in heard
                  if got.end not in ("clean", "error") or got.raised is not None]  # fmt: skip
    return wrong, took


async def database_read_only(home: pathlib.Path, url: str) -> list[str]:
    """Let the database refuse every write for a while, as a standby does that takes over: calls go on, records wait."""
    good, wrong = chosen("nothing goes wrong", columns=COLUMNS[2:4]), list[str]()
    told = psycopg.conninfo.conninfo_to_dict(url)
    name = sql.Identifier(str(told["dbname"]))
    master = psycopg.conninfo.make_conninfo(url, dbname="postgres")
    async with (
        house(home, url, good) as here,
        await psycopg.AsyncConnection.connect(master, autocommit=True) as other,
    ):

        async def turn(command: str) -> None:
            await other.execute(sql.SQL(command).format(name))
            query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
            await other.execute(query, (told["dbname"],))

        heard = await asyncio.gather(*(here.ask(cell) for cell in good))
        await turn("ALTER DATABASE {} SET default_transaction_read_only = on")
        # Long enough for every loop of the house to have tried to write.
        for _ in range(3):
            heard += await asyncio.gather(*(here.ask(cell) for cell in good))
            await asyncio.sleep(0.8)
        await turn("ALTER DATABASE {} RESET default_transaction_read_only")
        heard += await asyncio.gather(*(_again(here, cell) for cell in good))
        wrong += await _patient(here)
        clean = sum(1 for got in heard if got.end == "clean")
        answered = sum(1 for row in await here.calls() if row["outcome"] == "answered" and row["cost_eur"] == EXACT)
        if clean != answered:
            wrong.append(f"{clean} good answers, {answered} in the ledger")
        wrong += [f"an {got.end} end (status {got.status})" for got in heard if got.end not in ("clean", "error")]
    return wrong


async def _timed(here: House, cell: Cell) -> tuple[Heard, float]:
    began = asyncio.get_running_loop().time()
    return await here.ask(cell), asyncio.get_running_loop().time() - began


async def _again(here: House, cell: Cell) -> Heard:
    """Ask until it is answered: connections notice a restart one by one."""
    for _ in range(100):
        heard = await here.ask(cell)
        if heard.end == "clean":
            break
        await asyncio.sleep(0.2)
    return heard


async def _patient(here: House) -> list[str]:
    """Settle once the ledger has caught up by itself."""
    for _ in range(400):
        if not here.app.ledger.waiting:
            break
        await asyncio.sleep(0.1)
    return await here.settled()


async def clock_set(store: Store, folder: pathlib.Path, jumps: Sequence[int] = (1, -1, -1, 1, 1)) -> list[str]:
    """Set the clock by days, back and forth, between calls and in the middle of them."""
    register = Register(store)
    system = await register.register("Horloge", "tests", "tests")
    await register.approve(system.id, "tests")
    keys = Keys(store, Vault(bytes(32)), register.statuses, frozenset(ADMITTED))
    issued = await keys.issue("k", (await keys.create_project("Horloge")).id, system.id, "tests")
    who = await keys.authenticate(issued.secret)
    today = datetime.now(UTC).date()

    def clock() -> date:
        return today

    admission = Admission(store, "w", register.statuses, frozenset(ADMITTED), today=clock)
    await admission.set_budget(who.project, Decimal(10), "day")
    ledger = Ledger(store, folder, "w", admission.charge, admission.settle_worker)
    ledger.open()
    for jump in (0, *jumps):
        calls = [asyncio.ensure_future(_spend(ledger, admission, who, 100)) for _ in range(3)]
        await asyncio.sleep(0)
        today += timedelta(days=jump)
        await asyncio.gather(*calls)
        await ledger.flush()
        await admission.tick(idle_s=0)
    await ledger.flush()
    await ledger.close()
    async with store.connection() as connection:
        row = await (await connection.execute("SELECT count(*), sum(cost_eur) AS cost FROM calls")).fetchone()
        kept = await (await connection.execute("SELECT sum(charged) AS charged FROM leases")).fetchone()
        held = await (await connection.execute("SELECT sum(held) AS held FROM standings")).fetchone()
    assert row is not None and kept is not None and held is not None
    number, cost = 3 * (1 + len(jumps)), 3 * (1 + len(jumps)) * Decimal("0.0004")
    wrong = [f"{row} instead of {number} calls for {cost}"] if (row["count"], row["cost"]) != (number, cost) else []
    if kept["charged"] != cost or held["held"] != 0:
        wrong.append(f"the leases were charged {kept['charged']} of {cost}, {held['held']} stay held")
    return wrong + [f"drift: {line}" for line in await admission.drift()]


async def _spend(ledger: Ledger, admission: Admission, who: Principal, tokens: int) -> None:
    catalog = Catalog.from_yaml({"m": {"deployments": [{"provider": "openai", "model_id": "m", "price": PRICE}]}})
    call = Call(who, "m", messages=(Message("user", "Bonjour"),), max_output_tokens=2 * tokens)
    async with ledger.entry(call) as entry:
        await admission.admit(call, catalog.model("m"), entry)
        await asyncio.sleep(0)
        entry.deployment = catalog.model("m").deployments[0]
        entry.usage = Usage(0, tokens)
        entry.receipt()
