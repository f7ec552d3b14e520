"""A part of the chaos matrix of workflows that takes less than a minute; `python bench/chaos.py` runs the whole."""

from __future__ import annotations

import asyncio

import pytest

from tests.chaos.flow_matrix import Cell, Told, lane, run_cell, zygote
from tests.chaos.flow_shapes import SHAPES

NAMED = {shape.name: shape for shape in SHAPES}


@pytest.fixture(scope="module")
def told() -> list[Told]:
    """Some cells, each with some of its deaths: all kinds of places, workers and faults are among them."""
    chosen = [
        Cell(NAMED["chaining"], 1, False, 3),
        Cell(NAMED["orchestrator"], 3, False, 8),
        Cell(NAMED["wait and event"], 1, False, 5),
        Cell(NAMED["agent"], 1, False, 6),
    ]

    async def run() -> list[Told]:
        with zygote() as workers:
            async with lane() as here:
                return await asyncio.gather(*(run_cell(cell, here, workers) for cell in chosen))

    return asyncio.run(run())


def test_every_run_ends_well_with_nothing_repeated_or_paid_for_twice(told: list[Told]) -> None:
    assert {one.cell.name: one.wrong for one in told if one.wrong} == {}
    died = [one.died for one in told]
    assert min(died) >= 1 and sum(died) >= 20, [(one.cell.name, one.died, one.places) for one in told]


async def test_a_flow_survives_the_database_with_its_workers() -> None:
    cell = Cell(NAMED["human"], 1, True, 7)
    with zygote() as workers:
        async with lane() as here:
            found = await run_cell(cell, here, workers)
            assert found.wrong == []
            assert 0 < here.fallen <= found.died
