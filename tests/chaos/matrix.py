"""The fault matrix: every fault × every provider × every surface, run side by side on one platform, then judged."""

from __future__ import annotations

import asyncio
import base64
import logging
import pathlib
import re
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import orjson
import psycopg
from psycopg.rows import dict_row
from starlette.types import ASGIApp

from metier.api.server import application
from metier.app import App, Parts, build
from metier.calls import Call, Media, Operation, Principal
from metier.calls import Message as Turn
from metier.catalog import Catalog
from metier.postgres import Embedded
from metier.settings import Settings
from metier.store import Row, create_database
from metier.tokens import likely, shape_of
from tests.chaos.client import Heard, talk
from tests.chaos.faults import Fault, departures, embedding_faults, faults
from tests.chaos.faulty import CLOUDS, FORMATS, USAGE, WIRES, Asked, Faulty, Format, Maker, counted, faulty, good
from tests.chaos.lending import account, filter_faults, token_faults
from tests.chaos.operations import DOCUMENTS, PIECES, SOUND, Whole, due, lacks, operation_faults

__all__ = [
    "COLUMNS", "MAIL", "MAKERS", "PRICE", "PROMPT", "Cell", "Column", "House", "Report", "cells", "house", "judge",
    "leaks", "run", "run_apart",
]  # fmt: skip

PROMPT = "Réponds à camille.durand@exemple.fr que sa commande est partie."
MAIL = "camille.durand@exemple.fr"
MAKERS: tuple[Maker, ...] = (*FORMATS, *CLOUDS)
PRICE = {"input": 1, "output": 4}
LONGEST = 64
"""Most tokens a deployment of the matrix may answer; clients ask for more."""

_CODE = re.compile(r"\[\[|EMAIL_\d")
_SIDE_BY_SIDE = 48
_SECRET = "sk-provider-"
_OPERATIONS: Mapping[str, Operation] = {
    "/v1/embeddings": "embed", "/v1/rerank": "rerank", "/v1/audio/transcriptions": "transcribe",
    "/v1/images/generations": "image",
}  # fmt: skip
_WHOLE: Mapping[Operation, Whole] = {"rerank": "rerank", "transcribe": "transcribe", "image": "image"}


@dataclass(frozen=True, slots=True)
class Column:
    """One way to ask."""

    path: str
    stream: bool = False
    at_once: bool = False
    """Whether the answer is short and nobody watches it grow."""

    @property
    def name(self) -> str:
        """What the column is called in the table."""
        return f"{self.path.removeprefix('/v1/')}, {'stream' if self.stream else 'short' if self.at_once else 'plain'}"

    @property
    def operation(self) -> Operation:
        """What is asked of the model."""
        return _OPERATIONS.get(self.path, "chat")

    @property
    def counted(self) -> tuple[int, int]:
        """The tokens a good answer counts."""
        return (USAGE[0], 0) if self.operation in ("embed", "rerank") else USAGE

    def call(self, who: Principal) -> Call:
        """The call a request of this surface comes to, as far as its tokens go."""
        if self.operation == "chat":
            return Call(who, "m", messages=(Turn("user", PROMPT),))
        if self.operation == "rerank":
            return Call(who, "m", "rerank", inputs=DOCUMENTS, query=PROMPT)
        if self.operation == "transcribe":
            sound = Media("audio/mpeg", base64.b64encode(SOUND).decode())
            return Call(who, "m", "transcribe", query=PROMPT, audio=sound)
        return Call(who, "m", self.operation, inputs=(PROMPT,))

    def body(self, model: str) -> dict[str, Any]:
        """A request of this surface; of a form, its fields without the sound."""
        if self.path == "/v1/embeddings":
            return {"model": model, "input": PROMPT}
        if self.operation == "rerank":
            return {"model": model, "query": PROMPT, "documents": [*DOCUMENTS]}
        if self.operation != "chat":
            return {"model": model, "prompt": PROMPT}
        asked: dict[str, Any] = {"model": model, "stream": self.stream}
        most = 4 * LONGEST
        if self.path == "/v1/responses":
            return {**asked, "input": PROMPT, **({"max_output_tokens": most} if self.at_once else {})}
        asked["messages"] = [{"role": "user", "content": PROMPT}]
        if self.at_once or self.path == "/v1/messages":
            asked["max_tokens"] = most
        return asked


COLUMNS = (
    Column("/v1/chat/completions"),
    Column("/v1/chat/completions", at_once=True),
    Column("/v1/chat/completions", stream=True),
    Column("/v1/messages", at_once=True),
    Column("/v1/messages", stream=True),
    Column("/v1/responses"),
    Column("/v1/responses", stream=True),
    Column("/v1/embeddings"),
    Column("/v1/rerank"),
    Column("/v1/audio/transcriptions"),
    Column("/v1/images/generations"),
)


@dataclass(frozen=True, slots=True)
class Cell:
    """One fault in one column for one provider."""

    number: int
    maker: Maker
    column: Column
    fault: Fault

    @property
    def kind(self) -> Format:
        """The format its provider speaks."""
        return WIRES[self.maker]

    @property
    def model(self) -> str:
        """The public name of its model, which no other cell has."""
        return f"cell-{self.number}"

    @property
    def name(self) -> str:
        """How people call it."""
        return f"{self.maker} | {self.column.name} | {self.fault.title}"

    def entry(self, server: Faulty, closed: int) -> dict[str, Any]:
        """Its model in the catalogue."""
        both = (0, 1) if self.fault.backup else (0,)
        return {
            "operation": self.column.operation,
            "deployments": [self._deployment(server, closed, place) for place in both],
        }

    def _deployment(self, server: Faulty, closed: int, place: int) -> dict[str, Any]:
        known = f"cell-{self.number}-{place}"
        made: dict[str, Any] = {
            "id": known, "provider": self.maker, "model_id": known, "base_url": server.url(self.maker),
            "price": self.price,
            "max_output_tokens": LONGEST, "context_tokens": 32_000, "api_key": f"{_SECRET}{known}", "priority": place,
            **(self.fault.options if place == 0 else {}),
        }  # fmt: skip
        if self.kind == "bedrock":
            del made["api_key"]
            made["options"] = {
                "region": "eu-west-3", "access_key_id": f"AKID{known}", "secret_access_key": f"{_SECRET}{known}",
                "session_token": f"{_SECRET}lent-{known}",
            }  # fmt: skip
            if self.column.path == "/v1/embeddings":
                made["model_id"] = f"amazon.titan-embed-text-{known}"
        if self.maker == "vertex" or (self.maker == "azure" and (self.column.stream or self.fault.lending)):
            del made["api_key"]
            made["options"] = self._lender(server, closed, place)
        if self.fault.unreachable:
            made["base_url"] = made["base_url"].replace(str(server.port), str(closed))
        return made

    @property
    def price(self) -> dict[str, Any]:
        """What its provider charges."""
        whole = _WHOLE.get(self.column.operation)
        return PRICE if whole is None else {**PRICE, PIECES[whole][0]: PIECES[whole][1]}

    def _lender(self, server: Faulty, closed: int, place: int) -> dict[str, str]:
        """Where its cloud gets its tokens: by an identity of its own if that goes wrong, else by that of all."""
        apart = self.fault.lending is not None and place == 0
        at = f"http://127.0.0.1:{closed if apart and self.fault.lending == 'nobody' else server.port}"
        known = f"cell-{self.number}-0" if apart else "locataire"
        if self.maker == "azure":
            return {
                "tenant_id": known, "client_id": "matrice", "client_secret": f"{_SECRET}of-the-application",
                "authority": at, "api_version": "2024-10-21",
            }  # fmt: skip
        where = {"token_url": f"{at}/token/{known}"} if apart else {}
        return {"project": "projet", "location": "europe-west9", "service_account": account(at), **where}


def cells(paths: Iterable[str], makers: Sequence[Maker] = FORMATS) -> list[Cell]:
    """Every cell of the matrix on the surfaces that exist."""
    found: list[Cell] = []
    there = set(paths)
    for column in COLUMNS:
        for maker in makers:
            if column.path in there and _serves(maker, column):
                found += [
                    Cell(len(found) + place, maker, column, fault) for place, fault in enumerate(_rows(maker, column))
                ]
    return found


def _serves(maker: Maker, column: Column) -> bool:
    if column.operation in _WHOLE:
        return maker == "openai" or (maker == "azure" and column.operation != "rerank")
    return column.operation != "embed" or maker != "anthropic"


def _rows(maker: Maker, column: Column) -> list[Fault]:
    whole, kind = _WHOLE.get(column.operation), WIRES[maker]
    if whole is not None:
        rows = [*operation_faults(whole)]
    elif column.operation == "embed":
        rows = [*embedding_faults(maker)]
    else:
        # Only OpenAI's format has answers in one piece; the others are always streamed to us.
        once = column.at_once and kind == "openai"
        rows = [*faults(kind, once), *departures(kind, once)]
    # Signing for a token takes long, and a token goes wrong in the same way wherever it is wanted.
    if (maker == "azure" and column.at_once) or (maker == "vertex" and column.stream):
        rows += token_faults(kind) if column.path == "/v1/chat/completions" else []
    return rows + [*filter_faults()] if maker == "azure" and column.operation == "chat" else rows


@dataclass(slots=True)
class House:
    """The platform around the misbehaving server, with one caller whose project has a budget."""

    app: App
    api: ASGIApp
    server: Faulty
    who: Principal
    secret: str
    logged: list[str]

    async def ask(self, cell: Cell, told: asyncio.Event | None = None) -> Heard:
        """Run one cell to its end; a client that leaves in a silence does it when `told`, where that is given."""
        place = f"cell-{cell.number}-0"
        leaves = cell.fault.leaves
        leave = told or (asyncio.Event() if leaves == "silence" else None)
        asking = asyncio.ensure_future(
            talk(self.api, cell.column.path, cell.column.body(cell.model), self.secret,
                 leave=leave, first=leaves == "first", end=leaves == "end")
        )  # fmt: skip
        if leave is not None and told is None:
            silent = asyncio.ensure_future(self.server.came(place).wait())
            await asyncio.wait([silent, asking], return_when=asyncio.FIRST_COMPLETED)
            silent.cancel()
            # What was sent before the silence has to reach the client, or at least its surface.
            await asyncio.sleep(0.05)
            for _ in range(100):  # where all that time went to others, it is still on its way through the loop
                await asyncio.sleep(0)
            leave.set()
        return await asking

    async def calls(self) -> list[Row]:
        """The ledger, once all of it is in PostgreSQL."""
        await self.app.ledger.flush()
        async with self.app.store.connection() as connection:
            cursor = connection.cursor(row_factory=dict_row)
            await cursor.execute("SELECT * FROM calls ORDER BY at, id")
            return await cursor.fetchall()

    async def hours(self) -> dict[str, Row]:
        """The totals by model."""
        async with self.app.store.connection() as connection:
            cursor = connection.cursor(row_factory=dict_row)
            await cursor.execute(
                "SELECT model, sum(calls) AS calls, sum(errors) AS errors, sum(input_tokens) AS input_tokens, "
                "sum(output_tokens) AS output_tokens, sum(cost_eur) AS cost_eur FROM usage_hours GROUP BY model"
            )
            return {row["model"]: row for row in await cursor.fetchall()}

    async def settled(self) -> list[str]:
        """What is wrong with the money, the spool, the tasks or the connections once everything is over."""
        wrong: list[str] = []
        rows = await self.calls()
        # Connections are given back in the turns after their call.
        for _ in range(1200):
            if not self.server.midway:
                break
            await asyncio.sleep(0.05)
        await self.app.admission.tick(idle_s=0)
        budget = await self.app.admission.budget(self.who.project)
        cost = sum((row["cost_eur"] for row in rows), Decimal(0))
        if budget is None or budget.spent_eur != cost:
            wrong.append(f"the budget says {budget and budget.spent_eur} are spent, the calls cost {cost}")
        if budget is None or budget.held_eur != 0:
            wrong.append(f"{budget and budget.held_eur} stay held")
        wrong += [f"drift: {row}" for row in await self.app.admission.drift()]
        if self.server.midway:
            wrong.append(f"{self.server.midway} connections to the provider are left open in the middle of an answer")
        if self.app.ledger.spool.size or self.app.ledger.waiting:
            wrong.append(f"{self.app.ledger.spool.size} bytes stay in the spool")
        wrong += [
            f"a credential in the log: {line[:200]}" for line in self.logged if _SECRET in line or self.secret in line
        ]
        wrong += [f"a value in the log: {line[:200]}" for line in self.logged if MAIL in line]
        return wrong


class _Listening(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(self.format(record))


@asynccontextmanager
async def house(home: pathlib.Path, url: str, made: Sequence[Cell] = (), budget: str = "1000") -> AsyncIterator[House]:
    """Build it on a database; the same home and database give the same house again."""
    lines: list[str] = []
    listening = _Listening(lines)
    logging.getLogger().addHandler(listening)
    try:
        async with faulty() as server:
            nobody = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
            closed = nobody.sockets[0].getsockname()[1]
            nobody.close()
            for cell in made:
                server.scripts[f"cell-{cell.number}-0"] = cell.fault.script
                server.scripts[f"cell-{cell.number}-1"] = _backup(cell)
                if cell.fault.lending and cell.fault.lending != "nobody":
                    server.lending[f"cell-{cell.number}-0"] = cell.fault.lending
            catalog = Catalog.from_yaml({cell.model: cell.entry(server, closed) for cell in made})
            settings = Settings(home=home, config_path=home / "metier.yaml", database_url=url)
            async with build(settings, Parts(catalog=catalog)) as app:
                system = await app.register.register(f"matrix {secrets.token_hex(3)}", "tests", "tests")
                await app.register.approve(system.id, "tests")
                project = await app.keys.create_project(system.id)
                await app.admission.set_budget(project.id, Decimal(budget))
                issued = await app.keys.issue("matrix", project.id, system.id, "tests")
                who = await app.keys.authenticate(issued.secret)
                yield House(app, application(app), server, who, issued.secret, lines)
    finally:
        logging.getLogger().removeHandler(listening)


def _backup(cell: Cell) -> Any:
    if cell.column.operation != "chat":
        return _rows(cell.maker, cell.column)[0].script
    return lambda asked: good(cell.kind, asked, counted(cell.kind, *USAGE))


@dataclass(slots=True)
class Report:
    """What came out of a run."""

    cells: list[Cell]
    wrong: dict[int, list[str]]
    """By the number of the cell, what is not as it must be."""
    after: list[str]
    """What is wrong with the house as a whole."""
    outcomes: Counter[str]

    def broken(self, maker: Maker, column: Column) -> list[str]:
        """What is wrong in one column of one provider, a line each."""
        return [
            f"{cell.fault.title}: {'; '.join(self.wrong[cell.number])}"
            for cell in self.cells
            if (cell.maker, cell.column) == (maker, column) and self.wrong.get(cell.number)
        ]


async def run(home: pathlib.Path, url: str, made: Sequence[Cell]) -> Report:
    """Run cells side by side in one house, then judge each by what its client got and what the ledger says."""
    async with house(home, url, made) as there:
        before = set(asyncio.all_tasks())
        turn = asyncio.Semaphore(_SIDE_BY_SIDE)

        async def one(cell: Cell) -> Heard:
            async with turn:
                return await there.ask(cell)

        heard = await asyncio.gather(*(one(cell) for cell in made))
        after = await there.settled()
        left = [task for task in set(asyncio.all_tasks()) - before if "serve" not in repr(task.get_coro())]
        after += [f"a task is left: {task!r}" for task in left]
        rows: dict[str, list[Row]] = {}
        for row in await there.calls():
            rows.setdefault(row["model"], []).append(row)
        hours = await there.hours()
        wrong: dict[int, list[str]] = {}
        for cell, got in zip(made, heard, strict=True):
            about = cell.column.call(there.who)
            asked = there.server.asked.get(f"cell-{cell.number}-0", [])
            told = rows.get(cell.model, [])
            families = {one.tokenizer for one in there.app.catalog.model(cell.model).deployments}
            found = judge(cell, got, told, hours.get(cell.model), likely(shape_of(about), families), asked)
            if there.secret.encode() in got.body:
                found.append("the client's key stands in its answer")
            if found:
                wrong[cell.number] = found
        return Report(list(made), wrong, after, Counter(row["outcome"] for them in rows.values() for row in them))


async def run_apart(home: pathlib.Path, server: Embedded, template: str, made: Sequence[Cell]) -> Report:
    """Run cells on a database of their own, which is gone afterwards."""
    name = f"matrix_{secrets.token_hex(4)}"
    await create_database(server.url("postgres"), name, template=template)
    found = await run(home, server.url(name), made)
    async with await psycopg.AsyncConnection.connect(server.url("postgres"), autocommit=True) as connection:
        await connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())
    return found


def judge(
    cell: Cell, got: Heard, rows: Sequence[Row], hours: Row | None, estimate: int, asked: Sequence[Asked]
) -> list[str]:
    """Say everything that is not as it must be in one cell."""
    if len(rows) != 1:
        return [f"{len(rows)} calls in the ledger"]
    (row,) = rows
    fault, wrong = cell.fault, []
    if got.raised is not None:
        wrong.append(f"{got.raised!r} came out of the surface")
    if row["outcome"] not in fault.outcomes:
        wrong.append(f"the outcome is {row['outcome']} ({row['error_code']})")
    if fault.backup and (row["tries"], row["deployment"]) != (2, f"cell-{cell.number}-1"):
        wrong.append(f"{row['tries']} tries, answered by {row['deployment']}")
    if row["error_code"] in ("internal", "interrupted", "broken"):
        wrong.append(f"the error is {row['error_code']}")
    end = got.end
    if end == "both" or (fault.ending != "any" and end != fault.ending):
        wrong.append(f"the client got a {end} end (status {got.status}, {got.body[-160:]!r})")
    if row["outcome"] != "answered" and end == "clean":
        wrong.append("the client got a clean end")
    whole = _WHOLE.get(cell.column.operation)
    if whole is not None and end == "clean":
        wrong += lacks(whole, orjson.loads(got.body))
    if got.status >= 500 and got.status not in (502, 503, 504):
        wrong.append(f"status {got.status}: {got.body[:200]!r}")
    wrong += leaks(got.body.decode("utf-8", "replace") + str(got.headers))
    if got.end == "clean" and cell.column.operation == "chat" and MAIL not in got.text:
        wrong.append(f"the answer was not restored: {got.text!r}")
    wrong += _money(cell, got, row, estimate, asked)
    shown = ("calls", "input_tokens", "output_tokens", "cost_eur")
    told = {"calls": 1, "errors": int(row["outcome"] != "answered"), **{name: row[name] for name in shown[1:]}}
    if hours is None or any(hours[name] != value for name, value in told.items()):
        wrong.append(f"the totals say {hours}, the call {told}")
    return wrong


def leaks(shown: str) -> list[str]:
    """Say what stands in what the client sees and must not."""
    wrong = []
    if _SECRET in shown or "AKIDcell" in shown or "PRIVATE KEY" in shown or "assertion=" in shown:
        wrong.append(f"a credential in what the client sees: {shown[:300]!r}")
    if found := _CODE.search(shown):
        wrong.append(f"a placeholder in what the client sees: {shown[max(0, found.start() - 60) : found.end() + 60]!r}")
    if "TROP TARD" in shown:
        wrong.append("what came after the end was shown")
    return wrong


def _money(cell: Cell, got: Heard, row: Row, estimate: int, asked: Sequence[Asked]) -> list[str]:
    wrong = []
    fault, given, made = cell.fault, row["input_tokens"], row["output_tokens"]
    whole = _WHOLE.get(cell.column.operation)
    piece = Decimal(0) if whole is None else due(whole, fault, row, bool(asked))
    if row["cost_eur"] != (given * Decimal(PRICE["input"]) + made * Decimal(PRICE["output"])) / 1_000_000 + piece:
        wrong.append(f"{given} + {made} tokens and {piece} cost {row['cost_eur']}")
    if fault.exact is not None and row["estimated"] == fault.exact:
        wrong.append(f"estimated is {row['estimated']} ({given} + {made} tokens)")
    known = fault.told or cell.column.counted
    if not row["estimated"]:
        if (given, made) != known and (row["outcome"] == "answered" or (given, made) != (0, 0)):
            wrong.append(f"charged for {given} + {made} tokens, the provider counted {known}")
        return wrong
    if given not in (0, estimate):
        wrong.append(f"{given} input tokens are estimated, admission counted {estimate}")
    said = len("".join(asked[-1].texts).encode()) if asked else 0
    # Bytes of a restored value are not those of its placeholder: only what is sure to have been said counts.
    least = len(got.text.replace(MAIL, "").encode()) // 3 if not fault.backup else 0
    most = max(-(-said // 3), LONGEST if cell.column.at_once else 0)
    if not (cell.column.operation == "embed" or least <= made <= most):
        wrong.append(f"{made} output tokens are estimated, between {least} and {most} were seen")
    if got.text and not given:
        wrong.append("text was shown and its input is free")
    # When patience with a silence ends, the request may still be on its way to the server.
    sent = fault.unreachable or (row["error_code"] == "provider_timeout" and fault.lending is None)
    if not asked and not sent and row["cost_eur"]:
        wrong.append("charged without being asked")
    return wrong
