"""The fault matrix over a real server and real sockets: clients that hang up, wherever their answer stands."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
from urllib.parse import urlsplit

import pytest

from metier.store import Store
from tests.chaos.client import content
from tests.chaos.faulty import USAGE
from tests.chaos.matrix import COLUMNS, Cell, House, cells, house
from tests.world import serve


async def hang_up(here: House, cell: Cell, url: str, abruptly: bool) -> None:
    """Ask over a socket, wait until the provider is silent, and leave."""
    reader, writer = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port)
    body, kind = content(cell.column.path, cell.column.body(cell.model))
    head = (
        f"POST {cell.column.path} HTTP/1.1\r\nhost: metier.test\r\nauthorization: Bearer {here.secret}\r\n"
        f"content-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    await here.server.came(f"cell-{cell.number}-0").wait()
    if abruptly:
        writer.transport.abort()
    else:
        writer.close()
    with contextlib.suppress(ConnectionError):
        await reader.read()
        await writer.wait_closed()


@pytest.mark.parametrize("abruptly", [False, True], ids=["tidily", "abruptly"])
async def test_clients_that_hang_up_are_noticed(store: Store, tmp_path: pathlib.Path, abruptly: bool) -> None:
    leaving = ("client leaves before the head", "client leaves after piece", "client leaves midway")
    made = [
        cell
        for cell in cells([column.path for column in COLUMNS])
        if cell.fault.title.startswith(leaving) and cell.fault.outcomes == {"cancelled"}
    ]
    async with house(tmp_path, store.url, made) as here, serve(here.api) as url:
        turn = asyncio.Semaphore(32)

        async def one(cell: Cell) -> None:
            async with turn:
                await hang_up(here, cell, url, abruptly)

        await asyncio.gather(*(one(cell) for cell in made))
        for _ in range(1200):
            rows = await here.calls()
            if len(rows) == len(made):
                break
            await asyncio.sleep(0.05)
        wrong = await here.settled()
        wrong += [f"{row['model']}: {row['outcome']}" for row in rows if row["outcome"] != "cancelled"]
        for row in rows:
            exact = (row["input_tokens"], row["output_tokens"]) == USAGE
            if row["deployment"] and not (row["estimated"] or exact):
                wrong.append(f"{row['model']} is not said to be estimated")
    assert wrong == [] and sorted(row["model"] for row in rows) == sorted(cell.model for cell in made)
