"""The fault matrix beyond conversations with four providers: ranks, transcripts, images; Azure OpenAI and Vertex AI."""

from __future__ import annotations

import asyncio

import pytest

from metier.postgres import Embedded
from tests.chaos.faulty import CLOUDS, Maker
from tests.chaos.matrix import MAKERS, Cell, Column, Report, cells, run_apart

WHOLE = ("/v1/rerank", "/v1/audio/transcriptions", "/v1/images/generations")


def further() -> list[Cell]:
    """The cells that tests/chaos/test_fault_matrix.py leaves to this module."""
    # Clouds answer /v1/messages and /v1/responses through the same adapters: those cells are left to bench/faults.py.
    made = cells(("/v1/chat/completions", "/v1/embeddings", *WHOLE), MAKERS)
    return [cell for cell in made if cell.maker in CLOUDS or cell.column.path in WHOLE]


PAIRS = list(dict.fromkeys((cell.maker, cell.column) for cell in further()))


@pytest.fixture(scope="module")
def report(server: Embedded, template: str, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Every cell, run once."""
    return asyncio.run(run_apart(tmp_path_factory.mktemp("further"), server, template, further()))


@pytest.mark.parametrize(("maker", "column"), PAIRS, ids=[f"{maker}, {column.name}" for maker, column in PAIRS])
def test_every_fault_leaves_one_record_the_right_money_and_one_end(
    report: Report, maker: Maker, column: Column
) -> None:
    assert report.broken(maker, column) == []


def test_nothing_is_left_behind(report: Report) -> None:
    assert report.after == []
    assert len(report.cells) > 700
