"""The fault matrix: a task that is cancelled at any of its awaits leaves one record, settled money and nothing open."""

from __future__ import annotations

import asyncio
import pathlib
from collections.abc import Sequence
from decimal import Decimal

from metier.store import Row, Store
from tests.chaos.client import talk
from tests.chaos.matrix import Cell, House, cells, house
from tests.chaos.stepping import Moment, Steps, stepping
from tests.chaos.test_fault_matrix_further import further

PATHS = ("/v1/chat/completions", "/v1/messages", "/v1/responses", "/v1/embeddings")
MOMENTS: tuple[Moment, ...] = ("waiting", "ready")


async def once(here: House, cell: Cell, at: int, moment: Moment) -> int:
    """Ask once, cancelled at that await; gives how many awaits there were."""
    steps = Steps()
    # Nothing is warm: money has to be borrowed, the conversation is a new one.
    await here.app.admission.tick(idle_s=0)
    talking = talk(
        here.api, cell.column.path, cell.column.body(cell.model), here.secret,
        conversation=f"{cell.model}-{moment}-{at}",
    )  # fmt: skip

    async def asking() -> None:
        await stepping(talking, steps, at, moment)

    task = asyncio.ensure_future(asking())
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()
    return steps.taken


async def every_await(here: House, cell: Cell) -> int:
    """Ask again and again, cancelled at every await in turn and at both moments; gives how often was asked."""
    await once(here, cell, 0, "waiting")
    asked = 1
    for moment in MOMENTS:
        at = 1
        # The number of awaits depends on how bytes arrive: on until one run ends before it is cancelled.
        while await once(here, cell, at, moment) >= at:
            asked, at = asked + 1, at + 1
        asked += 1
    return asked


def faults_of(cell: Cell, rows: list[Row], asked: int, reached: int) -> list[str]:
    """Say what is not as it must be with the calls of one cell."""
    wrong = [
        f"{cell.name}: {row['outcome']} ({row['error_code']})"
        for row in rows
        if row["outcome"] not in ("answered", "cancelled") and row["error_code"] != "provider_timeout"
    ]
    known = cell.column.counted
    wrong += [
        f"{cell.name}: {row['input_tokens']} + {row['output_tokens']} tokens are said to be the provider's"
        for row in rows
        if not row["estimated"] and row["deployment"] and (row["input_tokens"], row["output_tokens"]) != known
    ]
    wrong += [
        f"{cell.name}: {row['cost_eur']} for nothing" for row in rows if row["cost_eur"] and not row["deployment"]
    ]
    if len({row["id"] for row in rows}) != len(rows) or len(rows) > asked:
        wrong.append(f"{cell.name}: {len(rows)} calls for {asked} requests")
    if sum(1 for row in rows if row["deployment"]) < reached:
        wrong.append(f"{cell.name}: {reached} requests reached the provider, {len(rows)} calls are known")
    return wrong


async def everywhere(home: pathlib.Path, url: str, made: Sequence[Cell]) -> tuple[list[str], set[str]]:
    """Cancel the tasks of cells at every await; gives what is not as it must be, and how the calls ended."""
    async with house(home, url, made) as here:
        before = set(asyncio.all_tasks())
        asked = await asyncio.gather(*(every_await(here, cell) for cell in made))
        wrong = await here.settled()
        rows = await here.calls()
        hours = await here.hours()
        for cell, times in zip(made, asked, strict=True):
            mine = [row for row in rows if row["model"] == cell.model]
            wrong += faults_of(cell, mine, times, len(here.server.asked[f"cell-{cell.number}-0"]))
            total = sum((row["cost_eur"] for row in mine), Decimal(0))
            if (hours[cell.model]["calls"], hours[cell.model]["cost_eur"]) != (len(mine), total):
                wrong.append(f"{cell.name}: {len(mine)} calls for {total}, the totals say {hours[cell.model]}")
            if times <= 5:
                wrong.append(f"{cell.name}: only {times} awaits")
        left = [task for task in set(asyncio.all_tasks()) - before if "serve" not in repr(task.get_coro())]
        wrong += [f"a task is left: {task!r}" for task in left]
    return wrong, {row["outcome"] for row in rows}


async def test_a_task_may_be_cancelled_at_every_await(store: Store, tmp_path: pathlib.Path) -> None:
    made = [cell for cell in cells(PATHS) if cell.fault.title == "nothing goes wrong"]
    assert await everywhere(tmp_path, store.url, made) == ([], {"answered", "cancelled"})


async def test_beyond_conversations_with_four_providers_too(store: Store, tmp_path: pathlib.Path) -> None:
    titles = ("nothing goes wrong", "token: is over at once")
    made = [cell for cell in further() if cell.fault.title in titles]
    assert await everywhere(tmp_path, store.url, made) == ([], {"answered", "cancelled"})
