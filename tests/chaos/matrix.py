"""The fault matrix: every fault × every format × every surface, run side by side on one platform, then judged."""

from __future__ import annotations

import asyncio
import logging
import pathlib
import re
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

import orjson
from psycopg.rows import dict_row
from starlette.types import ASGIApp, Message

from metier.api.server import application
from metier.app import App, Parts, build
from metier.calls import Call, Principal
from metier.calls import Message as Turn
from metier.catalog import Catalog
from metier.settings import Settings
from metier.store import Row
from metier.tokens import likely, shape_of
from tests.chaos.faults import Fault, departures, embedding_faults, faults
from tests.chaos.faulty import FORMATS, USAGE, Asked, Faulty, Format, counted, faulty, good

__all__ = ["COLUMNS", "PROMPT", "Cell", "Column", "Heard", "House", "Report", "cells", "house", "judge", "run", "talk"]

PROMPT = "Réponds à camille.durand@exemple.fr que sa commande est partie."
MAIL = "camille.durand@exemple.fr"
PRICE = {"input": 1, "output": 4}
LONGEST = 64
"""Most tokens a deployment of the matrix may answer; clients ask for more."""

_CODE = re.compile(r"\[\[|EMAIL_\d")
_SIDE_BY_SIDE = 48
_SECRET = "sk-provider-"


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

    def body(self, model: str) -> dict[str, Any]:
        """A request of this surface."""
        if self.path == "/v1/embeddings":
            return {"model": model, "input": PROMPT}
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
)


@dataclass(frozen=True, slots=True)
class Cell:
    """One fault in one column for one format."""

    number: int
    kind: Format
    column: Column
    fault: Fault

    @property
    def model(self) -> str:
        """The public name of its model, which no other cell has."""
        return f"cell-{self.number}"

    @property
    def name(self) -> str:
        """How people call it."""
        return f"{self.kind} | {self.column.name} | {self.fault.title}"

    def entry(self, server: Faulty, closed: int) -> dict[str, Any]:
        """Its model in the catalogue."""
        both = (0, 1) if self.fault.backup else (0,)
        operation = "embed" if self.column.path == "/v1/embeddings" else "chat"
        return {"operation": operation, "deployments": [self._deployment(server, closed, place) for place in both]}

    def _deployment(self, server: Faulty, closed: int, place: int) -> dict[str, Any]:
        known = f"cell-{self.number}-{place}"
        made: dict[str, Any] = {
            "id": known, "provider": self.kind, "model_id": known, "base_url": server.url(self.kind), "price": PRICE,
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
        if self.fault.unreachable:
            made["base_url"] = made["base_url"].replace(str(server.port), str(closed))
        return made


def cells(paths: Iterable[str], formats: Sequence[Format] = FORMATS) -> list[Cell]:
    """Every cell of the matrix on the surfaces that exist."""
    found: list[Cell] = []
    there = set(paths)
    for column in COLUMNS:
        for kind in formats:
            if column.path not in there or (column.path == "/v1/embeddings" and kind == "anthropic"):
                continue
            # Only OpenAI's format has answers in one piece; the others are always streamed to us.
            once = column.at_once and kind == "openai"
            rows = (
                embedding_faults(kind)
                if column.path == "/v1/embeddings"
                else (*faults(kind, once), *departures(kind, once))
            )
            found += [Cell(len(found) + place, kind, column, fault) for place, fault in enumerate(rows)]
    return found


@dataclass(slots=True)
class Heard:
    """What one client got."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    ended: bool = False
    left: bool = False
    raised: BaseException | None = None

    @property
    def events(self) -> list[Any]:
        """The data of each event; "[DONE]" stays text."""
        blocks = [block for block in self.body.split(b"\n\n") if block]
        found = [line[6:] for block in blocks for line in block.split(b"\n") if line.startswith(b"data: ")]
        return ["[DONE]" if data == b"[DONE]" else orjson.loads(data) for data in found]

    @property
    def end(self) -> str:
        """How it ended: "clean", "error" with a type, "open" without any end, "both" when it contradicts itself."""
        if not self.headers.get("content-type", "").startswith("text/event-stream"):
            if not self.ended:
                return "open"
            body = orjson.loads(self.body)
            if self.status == 200:
                return "clean" if "error" not in body or body["error"] is None else "both"
            return "error" if body["error"]["type"] and body["error"]["message"] and self.status >= 400 else "both"
        kinds = [event if event == "[DONE]" else _kind(event) for event in self.events]
        clean = {"[DONE]", "message_stop", "response.completed", "response.incomplete"} & set(kinds)
        error = {"error", "response.failed"} & set(kinds)
        if clean and error:
            return "both"
        return "clean" if clean and self.ended else "error" if error and self.ended else "open"

    @property
    def text(self) -> str:
        """What was said to the client, in whatever shape."""
        if not self.headers.get("content-type", "").startswith("text/event-stream"):
            return _said(orjson.loads(self.body)) if self.status == 200 and self.ended else ""
        return "".join(_piece(event) for event in self.events if event != "[DONE]")


def _kind(event: Mapping[str, Any]) -> str:
    return str(event.get("type") or ("error" if event.get("error") else "chunk"))


def _said(body: Mapping[str, Any]) -> str:
    if "choices" in body:
        return str(body["choices"][0]["message"]["content"])
    parts = body.get("content") or [part for item in body.get("output", ()) for part in item.get("content", ())]
    return "".join(part.get("text", "") for part in parts)


def _piece(event: Mapping[str, Any]) -> str:
    if event.get("type") == "response.output_text.delta":
        return str(event["delta"])
    if event.get("type") == "content_block_delta":
        return str(event["delta"].get("text", ""))
    return "".join(choice["delta"].get("content") or "" for choice in event.get("choices", ()))


async def talk(
    app: ASGIApp, path: str, body: Mapping[str, Any], secret: str, *,
    leave: asyncio.Event | None = None, first: bool = False, end: bool = False,
    conversation: str | None = None,
) -> Heard:  # fmt: skip
    """Ask as a client does; it leaves when `leave` is set, at the `first` bytes, or at the `end`."""
    heard, gone = Heard(), leave or asyncio.Event()
    waiting = [orjson.dumps(dict(body))]

    async def receive() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        await gone.wait()
        heard.left = True
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if heard.left:
            return
        if message["type"] == "http.response.start":
            heard.status = message["status"]
            heard.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            return
        heard.body += message.get("body", b"")
        heard.ended = not message.get("more_body", False)
        if first or (end and heard.ended):
            gone.set()
        await asyncio.sleep(0)

    headers = {"host": "metier.test", "authorization": f"Bearer {secret}", "content-type": "application/json"}
    if conversation is not None:
        headers["x-metier-conversation"] = conversation
    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "POST",
        "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2),
    }  # fmt: skip
    try:
        await app(scope, receive, send)
    except Exception as error:  # noqa: BLE001  # whatever comes out of the surface is what the cell is judged by
        heard.raised = error
    return heard


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
        for _ in range(100):
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
        if self.app.ledger.spool_bytes or self.app.ledger.waiting:
            wrong.append(f"{self.app.ledger.spool_bytes} bytes stay in the spool")
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
    if cell.column.path == "/v1/embeddings":
        return next(iter(embedding_faults(cell.kind))).script
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

    def broken(self, kind: Format, column: Column) -> list[str]:
        """What is wrong in one column of one format, a line each."""
        return [
            f"{cell.fault.title}: {'; '.join(self.wrong[cell.number])}"
            for cell in self.cells
            if (cell.kind, cell.column) == (kind, column) and self.wrong.get(cell.number)
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
        call = Call(there.who, "m", messages=(Turn("user", PROMPT),))
        embed = replace(call, operation="embed", messages=(), inputs=(PROMPT,))
        wrong: dict[int, list[str]] = {}
        for cell, got in zip(made, heard, strict=True):
            about = embed if cell.column.path == "/v1/embeddings" else call
            asked = there.server.asked.get(f"cell-{cell.number}-0", [])
            told = rows.get(cell.model, [])
            families = {one.tokenizer for one in there.app.catalog.model(cell.model).deployments}
            found = judge(cell, got, told, hours.get(cell.model), likely(shape_of(about), families), asked)
            if there.secret.encode() in got.body:
                found.append("the client's key stands in its answer")
            if found:
                wrong[cell.number] = found
        return Report(list(made), wrong, after, Counter(row["outcome"] for them in rows.values() for row in them))


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
    if got.status >= 500 and got.status not in (502, 503, 504):
        wrong.append(f"status {got.status}: {got.body[:200]!r}")
    wrong += _leaks(cell, got)
    wrong += _money(cell, got, row, estimate, asked)
    shown = ("calls", "input_tokens", "output_tokens", "cost_eur")
    told = {"calls": 1, "errors": int(row["outcome"] != "answered"), **{name: row[name] for name in shown[1:]}}
    if hours is None or any(hours[name] != value for name, value in told.items()):
        wrong.append(f"the totals say {hours}, the call {told}")
    return wrong


def _leaks(cell: Cell, got: Heard) -> list[str]:
    shown = got.body.decode("utf-8", "replace") + str(got.headers)
    wrong = []
    if _SECRET in shown or "AKIDcell" in shown:
        wrong.append(f"a credential in what the client sees: {shown[:300]!r}")
    if found := _CODE.search(shown):
        wrong.append(f"a placeholder in what the client sees: {shown[max(0, found.start() - 60) : found.end() + 60]!r}")
    if "TROP TARD" in shown:
        wrong.append("what came after the end was shown")
    if got.end == "clean" and cell.column.path != "/v1/embeddings" and MAIL not in got.text:
        wrong.append(f"the answer was not restored: {got.text!r}")
    return wrong


def _money(cell: Cell, got: Heard, row: Row, estimate: int, asked: Sequence[Asked]) -> list[str]:
    wrong = []
    fault, given, made = cell.fault, row["input_tokens"], row["output_tokens"]
    if row["cost_eur"] != (given * Decimal(PRICE["input"]) + made * Decimal(PRICE["output"])) / 1_000_000:
        wrong.append(f"{given} + {made} tokens cost {row['cost_eur']}")
    if fault.exact is not None and row["estimated"] == fault.exact:
        wrong.append(f"estimated is {row['estimated']} ({given} + {made} tokens)")
    known = (USAGE[0], 0) if cell.column.path == "/v1/embeddings" else USAGE
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
    if not (cell.column.path == "/v1/embeddings" or least <= made <= most):
        wrong.append(f"{made} output tokens are estimated, between {least} and {most} were seen")
    if got.text and not given:
        wrong.append("text was shown and its input is free")
    if not asked and not fault.unreachable and row["cost_eur"]:
        wrong.append("charged without being asked")
    return wrong
