"""Killed at any line of the record room: every call is in the ledger exactly once, its money and contents with it."""

from __future__ import annotations

import asyncio
import pathlib
import sys
from decimal import Decimal

import pytest

from metier.store import Store
from tests.record.world import build, rows

KILLS = 24


@pytest.mark.parametrize("seed", [1])
async def test_a_kill_between_any_two_steps_loses_and_doubles_nothing(
    store: Store, tmp_path: pathlib.Path, seed: int
) -> None:
    world = await build(store, tmp_path, "1000")
    admission = world.admission("survivor")
    ledger, records = world.recording("survivor", admission)
    await world.capture(records, "full")
    arguments = [store.url, str(world.folder), world.principal.project, world.principal.system, str(KILLS), str(seed)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.record.killed", *arguments,
        cwd=pathlib.Path(__file__).parents[2], stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()[-2000:]
    told = [line.split() for line in out.decode().splitlines()]
    opened = {words[1] for words in told if words[0] == "opened"}
    answered = {words[1] for words in told if words[0] == "answered"}
    assert len([words for words in told if words[0] == "child"]) == KILLS + 1 and len(opened) > KILLS
    [lines] = [int(words[1]) for words in told if words[0] == "lines"]
    assert lines > 300, "the steps between which a child may be killed"
    await ledger.recover()
    found = {row["id"]: row for row in await rows(store)}
    assert opened <= found.keys(), "a call that began is never lost"
    assert {found[call]["outcome"] for call in answered} == {"answered"}
    unsaid = [row for call, row in found.items() if call not in opened]
    assert {row["outcome"] for row in unsaid} <= {"lost"}, "written down, and killed before it could say so"
    assert {row["outcome"] for row in found.values()} == {"answered", "lost"}
    async with store.connection() as connection:
        kept = {r["call"] for r in await (await connection.execute("SELECT call FROM contents")).fetchall()}
    assert answered <= kept, "what was said is kept with the call that was answered"
    assert not [path for path in world.folder.iterdir() if path.is_dir() and path.name != "survivor"]
    budget = await admission.budget(world.principal.project)
    assert budget is not None and budget.held_eur == Decimal(0)
    assert budget.spent_eur == sum(row["cost_eur"] for row in found.values())
    assert await admission.drift() == []
    [whole] = await ledger.usage([])
    assert (whole.calls, whole.cost_eur) == (len(found), budget.spent_eur)
