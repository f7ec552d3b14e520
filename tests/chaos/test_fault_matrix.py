"""The fault matrix: whatever the provider does and whenever the client leaves, one record, the right money, one end."""

from __future__ import annotations

import asyncio
import secrets

import psycopg
import pytest

from metier.postgres import Embedded
from metier.store import create_database
from tests.chaos.faulty import FORMATS, Format
from tests.chaos.matrix import COLUMNS, Column, Report, cells, run

PATHS = ("/v1/chat/completions", "/v1/messages", "/v1/responses", "/v1/embeddings")


@pytest.fixture(scope="module")
def report(server: Embedded, template: str, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Every cell, run once."""
    name = f"matrix_{secrets.token_hex(4)}"

    async def made() -> Report:
        await create_database(server.url("postgres"), name, template=template)
        found = await run(tmp_path_factory.mktemp("matrix"), server.url(name), cells(PATHS))
        connection = await psycopg.AsyncConnection.connect(server.url("postgres"), autocommit=True)
        await connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())
        await connection.close()
        return found

    return asyncio.run(made())


@pytest.mark.parametrize("column", [column for column in COLUMNS if column.path in PATHS], ids=lambda c: c.name)
@pytest.mark.parametrize("kind", FORMATS)
def test_every_fault_leaves_one_record_the_right_money_and_one_end(
    report: Report, kind: Format, column: Column
) -> None:
    assert report.broken(kind, column) == []


def test_nothing_is_left_behind(report: Report) -> None:
    assert report.after == []
    assert len(report.cells) > 2_000
