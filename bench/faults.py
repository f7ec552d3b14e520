"""The fault matrix at full length: every way a call can go wrong, and what ledger, budget and client say of it.

    python bench/faults.py [--outage 60] [--only TEXT]

Prints one row per fault and one column per way to ask: how many cells hold of how many (six providers, and the places
of a fault that comes after every piece), then the batches, one for each fault that meets their calls, then the faults
of the house, then one JSON line. A cell holds when the call stands once in the ledger with the right outcome and the
right money, the hourly totals agree, the client got one end with a type, and nothing leaked; the run holds when the
budget equals the sum of all costs, nothing stays held, and no task, connection or byte of the spool is left. Needs a
checkout: it uses the servers of the tests.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import pathlib
import re
import sys
import tempfile
import time
from collections.abc import Sequence

from metier.postgres import Embedded
from metier.store import Store, create_database

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.chaos import outages  # noqa: E402  # found through the path above
from tests.chaos.batch_matrix import batch_cells, run_batches  # noqa: E402  # found through the path above
from tests.chaos.matrix import COLUMNS, MAKERS, Report, cells, run  # noqa: E402  # found through the path above

_PLACE = re.compile(r" (\d+)( of \d+)?$")


def table(report: Report) -> list[str]:
    """One line per fault: how many of its cells hold, by column."""
    counts: dict[str, dict[str, list[bool]]] = {}
    for cell in report.cells:
        row = counts.setdefault(_PLACE.sub(" k", cell.fault.title), {})
        row.setdefault(cell.column.name, []).append(cell.number not in report.wrong)
    names = [column.name for column in COLUMNS]
    widest = max(map(len, counts))
    lines = [" " * widest + " | " + " | ".join(names)]
    for title, row in counts.items():
        held = [_held(row.get(name, [])).rjust(len(name)) for name in names]
        lines.append(title.ljust(widest) + " | " + " | ".join(held))
    return lines


def _held(cells: Sequence[bool]) -> str:
    if not cells:
        return "-"
    return f"{sum(cells)}" if all(cells) else f"{sum(cells)} of {len(cells)} !"


async def measure(outage_s: float, only: str) -> dict[str, object]:
    """Run everything and print the tables."""
    made = [cell for cell in cells([column.path for column in COLUMNS], MAKERS) if only in cell.name]
    lines = [one for one in batch_cells() if only in one.name]
    with tempfile.TemporaryDirectory(prefix="metier-faults-") as folder:
        home = pathlib.Path(folder)
        async with outages.own_database() as (embedded, url):
            began = time.perf_counter()
            report = await run(home / "matrix", url, made)
            seconds = time.perf_counter() - began
            print("\n".join(table(report)))
            for cell in report.cells:
                for line in report.wrong.get(cell.number, ()):
                    print(f"  {cell.name}: {line}")
            broken, after = await run_batches(home / "batches", await fresh(embedded, "batches"), lines)
            print(f"\nbatches: {len(lines) - len(broken)} of {len(lines)}")
            for name, wrong in broken.items():
                print(f"  {name}: {'; '.join(wrong)}")
            house = {"after the matrix": report.after, "after the batches": after}
            house["a worker is killed -9 before, during and after answers"] = await outages.worker_killed(
                home / "killed", await fresh(embedded, "killed")
            )
            house["the disk is full before and during calls"] = await outages.disk_full(
                home / "full", await fresh(embedded, "full")
            )
            house["the database refuses to write for a while"] = await outages.database_read_only(
                home / "standby", await fresh(embedded, "standby")
            )
            async with Store(await fresh(embedded, "clock"), size=4) as store:
                await store.migrate()
                house["the clock is set by a day, back and forth"] = await outages.clock_set(store, home / "clock")
            name = f"PostgreSQL is stopped for {outage_s:g} s"
            house[name], took = await outages.database_stopped(
                home / "stopped", embedded, await fresh(embedded, "stopped"), outage_s
            )
    print()
    for title, wrong in house.items():
        print(f"{'holds' if not wrong else 'BROKEN'}  {title}", *wrong, sep="\n        ")
    took.sort()
    counted = (len(made) + len(lines), len(report.wrong) + len(broken))
    return figures(report, counted, seconds, house) | {
        "answered_without_database": len(took),
        "median_s_without_database": round(took[len(took) // 2], 3) if took else None,
        "longest_s_without_database": round(took[-1], 3) if took else None,
    }


def figures(report: Report, counted: tuple[int, int], seconds: float, house: dict[str, list[str]]) -> dict[str, object]:
    """What the JSON line says; `counted` are all cells, and those that broke."""
    return {
        "bench": "faults",
        "cells": counted[0],
        "broken": counted[1],
        "outcomes": dict(report.outcomes),
        "house": {title: not wrong for title, wrong in house.items()},
        "seconds": round(seconds, 1),
    }


async def fresh(embedded: Embedded, name: str) -> str:
    """A database of its own for one fault of the house."""
    await create_database(embedded.url("postgres"), name)
    return embedded.url(name)


def main() -> None:
    """Read the arguments, run, and fail when anything does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--outage", type=float, default=60.0, help="seconds PostgreSQL is stopped for")
    parser.add_argument("--only", default="", help="run the cells whose name holds this text")
    asked = parser.parse_args()
    told = asyncio.run(measure(asked.outage, asked.only))
    print(json.dumps(told))
    house = told["house"]
    sys.exit(1 if told["broken"] or not (isinstance(house, dict) and all(house.values())) else 0)


if __name__ == "__main__":
    main()
