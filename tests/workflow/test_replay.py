"""Recorded runs gone through again: the same steps, no call. `bench/replay.py` does it with 1,000 on PostgreSQL."""

from __future__ import annotations

import contextlib
import random
from datetime import timedelta
from functools import partial

from metier.calls import RunId
from tests.workflow.any_flow import Chancy, Crash, Making, deciding
from tests.workflow.engines import Acting, InMemory, functions
from tests.workflow.flows import WHO

PARTS, RUNS = 50, 20


async def lived(house: InMemory, making: Making, number: int) -> RunId:
    """Let one run live: workers die, time passes, people decide or not, events come or not."""
    run = await house.engine.start(making.workflow(), {"n": number % 9}, WHO)
    for turn in range(200):
        try:
            await house.settle()
        except Crash:
            assert await house.engine.recover() >= 1
            continue
        if making.chance.random() < 0.3 or (await house.engine.get(run)).over:
            break
        await house.engine.emit(None, WHO.project, "order", str(number % 9), turn, id=f"out-{number}-{turn}")
    if (await house.engine.get(run)).status == "failed" and making.chance.random() < 0.5:
        house.engine.clock.now += timedelta(seconds=1)
        await house.engine.resume(run)
        for _ in range(200):
            with contextlib.suppress(Crash):
                await house.settle()
                break
            await house.engine.recover()
    return run


async def test_recorded_runs_are_replayed_without_a_call() -> None:
    kinds, deaths, runs = set[str](), 0, 0
    for part in range(PARTS):
        chance = random.Random(part)
        making, acting = Making(chance), Chancy(chance, dies=0.1)
        house = InMemory(partial(deciding, chance), acting)
        for number in range(RUNS):
            await lived(house, making, number)
        kinds |= making.kinds
        deaths += acting.deaths
        runs += await _replayed(house, part)
    assert runs >= PARTS * RUNS, "and those that they have started"
    assert len(kinds) == 16
    assert deaths > RUNS


async def _replayed(house: InMemory, part: int) -> int:
    every = [run.id for run in await house.engine.list(limit=200)]
    before = {run: [(one.path, one.attempt, one.name) for one in await house.engine.steps(run)] for run in every}
    states = {run: await house.engine.get(run) for run in every}
    fresh = Acting()
    house.engine.again(functions(fresh))
    for run in every:
        replayed = await house.engine.replay(run)
        assert replayed.differences == (), (part, run)
        assert replayed.lines == len(before[run])
        ended = [(path, attempt) for path, attempt, name in before[run] if not name]
        assert [(did.path, did.attempt) for did in replayed.sequence] == ended, (part, run)
    assert fresh.commands == [], "a replay calls nothing"
    assert {run: await house.engine.get(run) for run in every} == states
    return len(every)
