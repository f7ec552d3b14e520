"""The fault matrix of batches: each line ends once, with the right money, whatever meets its calls or its worker."""

from __future__ import annotations

import pathlib

import pytest

from metier.store import Store
from tests.chaos.batch_matrix import batch_cells, cancelled_everywhere, judge_cancelled, office, run_batches
from tests.chaos.stepping import Moment

SHORT, VECTORS = "chat/completions, short", "embeddings, plain"


async def test_every_fault_of_a_provider_ends_in_one_line_and_the_right_money(
    store: Store, tmp_path: pathlib.Path
) -> None:
    # The others are left to bench/faults.py.
    made = [
        one
        for one in batch_cells()
        if one.cell.column.name == VECTORS or (one.cell.column.name == SHORT and one.kind != "once")
    ]
    assert len(made) > 40 and {one.kind for one in made} == {"once", "always", "cancelled"}
    assert await run_batches(tmp_path, store.url, made) == ({}, [])


@pytest.mark.parametrize("moment", ["waiting", "ready"])
async def test_a_worker_may_be_cancelled_at_every_await_of_a_batch(
    store: Store, tmp_path: pathlib.Path, moment: Moment
) -> None:
    [cell] = [
        one.cell
        for one in batch_cells()
        if one.cell.fault.title == "nothing goes wrong" and one.cell.column.name == SHORT
    ]
    async with office(tmp_path, store.url, [cell]) as here:
        batches = await cancelled_everywhere(here, cell, moment)
        assert len(batches) > 20
        assert await judge_cancelled(here, cell, batches) == []
