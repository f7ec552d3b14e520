"""The chaos matrix of workflows at full length: kill -9 at every place a run can be in, and what became of the run.

    python bench/chaos.py [--cells TEXT ...] [--every N] [--every-outage N] [--side-by-side N]

A cell is a shape of workflow, under 1 or 3 workers, with PostgreSQL killed too or not. The first to reach a place dies
there: before and after each statement that writes a line of the journal or the state of a run, an effect or a trigger,
after each transaction of several, while the model answers, before and after the shop has done what it was asked, while
an e-mail is on the wire and when it was taken. Prints for each cell how many places of how many it died at, how many
questions reached the model and how many of them were in flight at a death and so were asked again, then one JSON line.
Needs a checkout: it uses the servers of the tests.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import pathlib
import sys
import time
from collections.abc import Sequence

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.chaos.flow_matrix import (  # noqa: E402  # found through the path above
    Cell,
    Told,
    cells,
    lane,
    mailserver,
    run_cell,
    zygote,
)


def row(told: Told) -> str:
    """One line of the table."""
    found = "holds" if not told.wrong else "BROKEN"
    asked = f"{told.asked:3} questions, again {told.in_flight:2} in flight and {told.unkept:2} unkept"
    done = f"{told.effects} effects of {told.requests:2} requests, {told.mails} e-mails"
    return (
        f"{found:6} {told.cell.name:36} {told.died:3} of {told.places:3} places, {asked}, {done}, {told.seconds:5.1f} s"
    )


async def measure(chosen: Sequence[Cell], side_by_side: int) -> list[Told]:
    """Run cells: side by side where the database lives, each with a server of its own where it dies."""
    found: list[Told] = []
    turn = asyncio.Semaphore(side_by_side)

    def tell(told: Told) -> None:
        found.append(told)
        print(row(told), *told.wrong[:5], sep="\n         ", flush=True)

    async with contextlib.AsyncExitStack() as stack:
        workers, mail = stack.enter_context(zygote()), stack.enter_context(mailserver())
        here = await stack.enter_async_context(lane())

        async def alive(cell: Cell) -> None:
            async with turn:
                tell(await run_cell(cell, here, workers, mail))

        await asyncio.gather(*(alive(cell) for cell in chosen if not cell.database))
        left = [cell for cell in chosen if cell.database]

        async def dying() -> None:
            async with lane() as own:
                while left:
                    tell(await run_cell(left.pop(0), own, workers, mail))

        await asyncio.gather(*(dying() for _ in range(min(side_by_side, 4, len(left)))))
    return found


def main() -> None:
    """Read the arguments, run, and fail when a cell does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--cells", nargs="*", default=[], help="run the cells whose name holds one of these texts")
    parser.add_argument("--every", type=int, default=1, help="die at one in so many places")
    parser.add_argument("--every-outage", type=int, default=4, help="the same, where PostgreSQL dies")
    parser.add_argument("--side-by-side", type=int, default=6, help="cells under way at once")
    asked = parser.parse_args()
    # What is lost with a server that is killed is said a thousand times.
    logging.disable(logging.WARNING)
    began = time.monotonic()
    chosen = cells(asked.cells, every=asked.every, every_outage=asked.every_outage)
    told = asyncio.run(measure(chosen, asked.side_by_side))
    print(json.dumps({
        "bench": "chaos",
        "cells": len(told),
        "broken": sum(1 for one in told if one.wrong),
        "places": sum(one.places for one in told),
        "deaths": sum(one.died for one in told),
        "questions": sum(one.asked for one in told),
        "in_flight": sum(one.in_flight for one in told),
        "unkept": sum(one.unkept for one in told),
        "effects": sum(one.effects for one in told),
        "requests": sum(one.requests for one in told),
        "emails": sum(one.mails for one in told),
        "seconds": round(time.monotonic() - began, 1),
    }))  # fmt: skip
    sys.exit(1 if any(one.wrong for one in told) else 0)


if __name__ == "__main__":
    main()
