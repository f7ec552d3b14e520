"""The fault matrix of batches: what providers do to their calls, who leaves, and what is kept, charged and told."""

from __future__ import annotations

import asyncio
import pathlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Literal

import orjson

from metier.api.batches import runner
from metier.batches import Batch, Batches, Files, Rules, Runner
from metier.gateway import Gateway
from metier.policy.keys import Keys
from metier.record.responses import StoredResponses
from metier.store import Row
from tests.chaos.faults import Fault
from tests.chaos.faulty import Act, Asked, Script
from tests.chaos.matrix import MAIL, PRICE, Cell, House, cells, house, leaks
from tests.chaos.stepping import Moment, Steps, stepping

__all__ = [
    "CUSTOM",
    "BatchCell",
    "Office",
    "batch_cells",
    "cancelled_everywhere",
    "judge_cancelled",
    "office",
    "run_batches",
]

CUSTOM = "la-ligne-de-camille"
"""What the client calls its line."""
Kind = Literal["once", "always", "cancelled"]
"""The provider does it once and then answers well, does it as often as it is asked, or the client cancels meanwhile."""

_MOST_OUTAGES = 12
_SIDE_BY_SIDE = 16
_LASTING = (
    "answers 401", "answers 429 with Retry-After", "answers 500", "refuses the connection", "hangs before the head",
    "sends nothing at all", "closes midway",
)  # fmt: skip
_PATHS = ("/v1/chat/completions", "/v1/responses", "/v1/embeddings")


@dataclass(frozen=True, slots=True)
class BatchCell:
    """One fault that meets the only line of a batch."""

    cell: Cell
    kind: Kind

    @property
    def name(self) -> str:
        """How people call it."""
        return f"{self.cell.name} | {self.kind}"

    @property
    def walls(self) -> int:
        """How many calls fail before the line has its answer or is given up."""
        if self.cell.fault.outcomes != {"failed"}:
            return 0
        return _MOST_OUTAGES if self.kind == "always" else 1


def batch_cells() -> list[BatchCell]:
    """Every fault of a provider that OpenAI's format knows, at each endpoint that batches have."""
    made: list[BatchCell] = []
    every = cells(_PATHS, ("openai",))
    well = {cell.column: cell.fault.script for cell in every if cell.fault.title == "nothing goes wrong"}
    for cell in every:
        fault = cell.fault
        if cell.column.stream or fault.backup:
            continue
        if fault.leaves:
            if fault.title == "client leaves before the head":
                made.append(BatchCell(_quick(cell, fault.script), "cancelled"))
            continue
        lasting = fault.unreachable or fault.title in _LASTING
        if not fault.unreachable:
            made.append(BatchCell(_quick(cell, _once(fault, well[cell.column])), "once"))
        if lasting:
            made.append(BatchCell(_quick(cell, fault.script), "always"))
    return [replace(one, cell=replace(one.cell, number=number)) for number, one in enumerate(made)]


def _quick(cell: Cell, script: Script) -> Cell:
    """The same cell with another script, and little patience with a silence: a line may wait in one twelve times."""
    short = {name: min(value, 0.2) if value < 1 else value for name, value in cell.fault.options.items()}
    if cell.fault.leaves:
        short = {"first_token_s": 0.3, "timeout_s": 0.4 if cell.column.at_once else 60}
    return replace(cell, fault=replace(cell.fault, script=script, options=short))


def _once(fault: Fault, good: Script) -> Script:
    """What goes wrong the first time and then never again."""
    came: list[Asked] = []

    def acts(asked: Asked) -> Sequence[Act]:
        came.append(asked)
        return good(asked) if fault.outcomes == {"failed"} and len(came) > 1 else fault.script(asked)

    return acts


@dataclass(slots=True)
class _Desk:
    """What making the calls of batches needs of the platform."""

    gateway: Gateway
    keys: Keys
    batches: Batches
    responses: StoredResponses


@dataclass(slots=True)
class Office:
    """A platform with a worker of batches that moves when it is told to."""

    there: House
    batches: Batches
    runner: Runner

    async def make(self, cell: Cell) -> Batch:
        """Bring a file of one line and make a batch of it."""
        line = {
            "custom_id": CUSTOM, "method": "POST", "url": cell.column.path, "body": cell.column.body(cell.model),
        }  # fmt: skip
        writing = await self.batches.files.begin(self.there.who)
        await writing.feed(orjson.dumps(line) + b"\n")
        file = await self.batches.files.store(writing, "essai.jsonl", "batch")
        return await self.batches.create(self.there.who, cell.column.path, file.id)

    async def over(self, batch: Batch) -> Batch:
        """Move a batch until it is over; however long it would wait, its turn is now."""
        for _ in range(2 * _MOST_OUTAGES):
            await self.runner.turn(batch.id)
            batch = await self.batches.get(batch.id)
            if batch.over:
                break
        return batch

    async def told(self, id: str | None) -> bytes:
        """A file of results."""
        if id is None:
            return b""
        file = await self.batches.files.get(self.there.who.project, id)
        return b"".join([piece async for piece in self.batches.files.content(id, file.bytes)])


@asynccontextmanager
async def office(home: pathlib.Path, url: str, made: Sequence[Cell]) -> AsyncIterator[Office]:
    """Build it on a database."""
    async with house(home, url, made) as there:
        app = there.app
        rules = Rules(open=10_000, project_files=100_000, project_concurrency=10_000)
        batches = Batches(app.store, app.vault, Files(app.store, app.vault, rules))
        desk = _Desk(app.gateway, app.keys, batches, app.responses)
        yield Office(there, batches, runner(desk))


async def run_batches(
    home: pathlib.Path, url: str, made: Sequence[BatchCell]
) -> tuple[dict[str, list[str]], list[str]]:
    """Make a batch for each cell; gives what is not as it must be, by cell, and of the house as a whole."""
    async with office(home, url, [one.cell for one in made]) as here:
        turn = asyncio.Semaphore(_SIDE_BY_SIDE)

        async def ended(one: BatchCell) -> Batch:
            async with turn:
                batch = await here.make(one.cell)
                if one.kind == "cancelled":
                    return await _cancelled(here, one, batch)
                return await here.over(batch)

        before = set(asyncio.all_tasks())
        batches = await asyncio.gather(*(ended(one) for one in made))
        after = await here.there.settled()
        left = [task for task in set(asyncio.all_tasks()) - before if "serve" not in repr(task.get_coro())]
        after += [f"a task is left: {task!r}" for task in left]
        rows: dict[str, list[Row]] = {}
        for row in await here.there.calls():
            rows.setdefault(row["model"], []).append(row)
        wrong: dict[str, list[str]] = {}
        for one, batch in zip(made, batches, strict=True):
            files = [await here.told(id) for id in (batch.output_file, batch.error_file)]
            told = await here.batches.get(batch.id)
            found = judge(one, told, rows.get(one.cell.model, []), files)
            if found:
                wrong[one.name] = found
        return wrong, after


async def _cancelled(here: Office, one: BatchCell, batch: Batch) -> Batch:
    """Cancel a batch while its provider is silent; the call under way is waited for."""
    moving = asyncio.ensure_future(here.runner.turn(batch.id))
    await here.there.server.came(f"cell-{one.cell.number}-0").wait()
    await here.batches.cancel(batch.id)
    await moving
    return await here.over(batch)


def judge(one: BatchCell, batch: Batch, rows: Sequence[Row], files: Sequence[bytes]) -> list[str]:
    """Say everything that is not as it must be with one batch."""
    fault = one.cell.fault
    answered = one.kind == "once" and fault.outcomes != {"refused"}
    wrong = []
    status = "cancelled" if one.kind == "cancelled" else "completed"
    if (batch.status, batch.done, batch.failed) != (status, int(answered), int(not answered)):
        wrong.append(f"the batch is {batch.status}: {batch.done} done, {batch.failed} failed")
    outcomes = [row["outcome"] for row in rows]
    expected = ["failed"] * one.walls + ([] if one.walls and not answered else [next(iter(fault.outcomes))])
    if one.walls and answered:
        expected[-1] = "answered"
    if one.kind == "cancelled":
        expected = ["failed"]
    if outcomes != expected:
        wrong.append(f"the calls are {outcomes}, not {expected}")
    wrong += [f"the error is {row['error_code']}" for row in rows if row["error_code"] in ("internal", "broken")]
    wrong += _money(one, batch, rows)
    output, errors = files
    said = output if answered else errors
    lines = [orjson.loads(line) for line in said.splitlines()]
    if (output if not answered else errors) or len(lines) != 1:
        return [*wrong, f"{len(lines)} lines, and {(output if not answered else errors)[:200]!r}"]
    return wrong + _line(one, lines[0], answered) + leaks(said.decode("utf-8", "replace"))


def _money(one: BatchCell, batch: Batch, rows: Sequence[Row]) -> list[str]:
    wrong = []
    for row in rows:
        given, made = row["input_tokens"], row["output_tokens"]
        if row["cost_eur"] != (given * Decimal(PRICE["input"]) + made * Decimal(PRICE["output"])) / 1_000_000:
            wrong.append(f"{given} + {made} tokens cost {row['cost_eur']}")
        if not row["estimated"] and (given, made) not in (one.cell.column.counted, (0, 0)):
            wrong.append(f"charged for {given} + {made} tokens, the provider counted {one.cell.column.counted}")
        if row["outcome"] == "answered" and not given:
            wrong.append("an answer whose input is free")
        if (row["run"], row["path"]) != (batch.id, "line 1"):
            wrong.append(f"the call says that it is of {row['run']}, {row['path']}")
    took = sum((row["cost_eur"] for row in rows), Decimal(0))
    if (batch.totals.calls, batch.totals.cost_eur) != (len(rows), took):
        wrong.append(f"the batch says {batch.totals.calls} calls for {batch.totals.cost_eur}, the ledger {took}")
    return wrong


def _line(one: BatchCell, line: Mapping[str, Any], answered: bool) -> list[str]:
    """Judge what the client reads of its line."""
    wrong = [] if line["custom_id"] == CUSTOM else [f"the line is called {line['custom_id']!r}"]
    if line["response"] is None:
        known = one.kind == "cancelled" and line["error"]["code"] == "batch_cancelled" and line["error"]["message"]
        return wrong if known else [*wrong, f"nothing came back: {line['error']}"]
    status, body = line["response"]["status_code"], line["response"]["body"]
    if answered:
        if status != 200 or body.get("error"):
            wrong.append(f"status {status}: {str(body)[:200]}")
        if one.cell.column.operation == "chat" and MAIL not in str(body):
            wrong.append(f"the answer was not restored: {str(body)[:300]}")
        return wrong
    if status < 400 or status == 500 or not (body["error"]["type"] and body["error"]["message"]):
        wrong.append(f"status {status}: {str(body)[:200]}")
    return wrong


async def cancelled_everywhere(here: Office, cell: Cell, moment: Moment) -> list[Batch]:
    """Cancel the worker's task at every await of a batch in turn; each batch then goes on with another worker."""
    made: list[Batch] = []
    while True:
        steps, batch = Steps(), await here.make(cell)
        moving = asyncio.ensure_future(_stepped(here, batch, steps, len(made) + 1, moment))
        await asyncio.wait([moving])
        if not moving.cancelled():
            moving.result()
        made.append(await here.over(batch))
        if steps.taken < len(made):
            return made


async def judge_cancelled(here: Office, cell: Cell, batches: Sequence[Batch]) -> list[str]:
    """Say what is not as it must be with batches whose worker was cancelled."""
    wrong = await here.there.settled()
    rows = await here.there.calls()
    for at, seen in enumerate(batches, 1):
        batch = await here.batches.get(seen.id)
        mine = [row for row in rows if row["run"] == batch.id]
        if (batch.status, batch.done, batch.failed) != ("completed", 1, 0):
            wrong.append(f"at await {at}: {batch.status}, {batch.done} done, {batch.failed} failed")
        # A call under way is given up, or its answer was not kept: it is made once more, and no third time.
        outcomes = [row["outcome"] for row in mine]
        if outcomes not in (["answered"], ["answered", "answered"], ["cancelled", "answered"]):
            wrong.append(f"at await {at}: the calls are {outcomes}")
        wrong += [f"at await {at}: {line}" for line in _money(BatchCell(cell, "once"), batch, mine)]
    return wrong


async def _stepped(here: Office, batch: Batch, steps: Steps, at: int, moment: Moment) -> None:
    await stepping(here.runner.turn(batch.id), steps, at, moment)
