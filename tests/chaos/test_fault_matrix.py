"""The fault matrix: whatever the provider does and whenever the client leaves, one record, the right money, one end."""

from __future__ import annotations

import asyncio

import pytest

from metier.postgres import Embedded
from tests.chaos.faulty import FORMATS, Maker
from tests.chaos.matrix import COLUMNS, Column, Report, cells, run_apart

PATHS = ("/v1/chat/completions", "/v1/messages", "/v1/responses", "/v1/embeddings")


@pytest.fixture(scope="module")
def report(server: Embedded, template: str, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Every cell, run once."""
    return asyncio.run(run_apart(tmp_path_factory.mktemp("matrix"), server, template, cells(PATHS)))


@pytest.mark.parametrize("column", [column for column in COLUMNS if column.path in PATHS], ids=lambda c: c.name)
@pytest.mark.parametrize("maker", FORMATS)
def test_every_fault_leaves_one_record_the_right_money_and_one_end(
    report: Report, maker: Maker, column: Column
) -> None:
    assert report.broken(maker, column) == []


def test_nothing_is_left_behind(report: Report) -> None:
    assert report.after == []
    assert len(report.cells) > 2_000
