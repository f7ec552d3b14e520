"""The timeout of a step: it bounds what the step does, and not how long the database is away under what it has paid."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal

from metier.calls import JSON, RunId
from metier.store import Store
from metier.vault import Vault
from metier.workflow.calling import Calling, Held
from metier.workflow.commands import RunStep
from metier.workflow.context import StepContext, StepFunction, utc
from metier.workflow.engine import Engine
from metier.workflow.interpreter import Walk
from metier.workflow.journal import Hold, Line, LostRun
from tests.workflow.engines import QUICK, working
from tests.workflow.flows import WHO, flow, step
from tests.workflow.test_outages import Thinking, epoch, outage, over

TIGHT_S = 0.5


@dataclass
class Away:
    """A journal whose database is away until it is let go."""

    back_: asyncio.Event = field(default_factory=asyncio.Event)
    kept_: list[Line] = field(default_factory=list)
    writing: asyncio.Event = field(default_factory=asyncio.Event)

    async def append(self, hold: Hold, lines: Sequence[Line]) -> object:
        if lines:
            self.writing.set()
            await self.back_.wait()
            self.kept_.extend(lines)
        return None

    async def kept(self, place: JSON) -> JSON:
        return None

    async def keep(self, place: JSON, value: JSON, for_s: float, workspace: str) -> None:
        return None

    async def back(self, run: RunId, path: str) -> None:
        return None


async def tried(journal: Away, function: StepFunction, during: Callable[[], None] = lambda: None) -> Line:
    """Try a step with little time under a journal that comes back long after it is over."""
    made = flow(step("a", timeout_s=TIGHT_S))
    walk = Walk(made, {}, {}, {"id": "run_1"})
    (command,) = walk.frontier()
    assert isinstance(command, RunStep)
    held = Held(Hold(RunId("run_1"), 1), made, {}, WHO, walk, {}, 0)
    task = asyncio.ensure_future(Calling(journal, journal, {"code": function}, utc).attempt(held, command))
    writing = asyncio.ensure_future(journal.writing.wait())
    await asyncio.wait([task, writing], return_when=asyncio.FIRST_COMPLETED)
    writing.cancel()
    if not task.done():
        await asyncio.sleep(2 * TIGHT_S)
    during()
    journal.back_.set()
    came = await task
    assert isinstance(came, Line), came
    return came


async def paid(context: StepContext) -> JSON:
    context.spend(Decimal("0.01"))
    return "answer"


async def test_an_answer_that_waits_for_the_database_does_not_run_out_of_time() -> None:
    async def work(context: StepContext, given: dict[str, JSON]) -> JSON:
        both = [context.once(name, lambda: paid(context)) for name in ("one", "two")]
        return [*await asyncio.gather(*both)]

    journal = Away()
    line = await tried(journal, work)
    assert (line.kind, line.value, line.cost_eur) == ("result", ["answer", "answer"], Decimal("0.02"))
    assert len(journal.kept_) == 2


async def test_what_takes_its_time_afterwards_still_runs_out_of_it() -> None:
    async def work(context: StepContext, given: dict[str, JSON]) -> JSON:
        await context.once("one", lambda: paid(context))
        await asyncio.Event().wait()
        return None

    line = await tried(Away(), work)
    assert isinstance(line.value, dict) and (line.kind, line.value["code"]) == ("error", "timeout")
    assert line.cost_eur == Decimal("0.01")


async def test_a_step_that_never_writes_runs_out_of_its_time() -> None:
    async def work(context: StepContext, given: dict[str, JSON]) -> JSON:
        await asyncio.Event().wait()
        return None

    line = await tried(Away(), work)
    assert isinstance(line.value, dict) and line.value["code"] == "timeout"


async def test_what_was_paid_as_the_time_ran_out_is_written_too() -> None:
    async def work(context: StepContext, given: dict[str, JSON]) -> JSON:
        try:
            return await asyncio.Event().wait()
        finally:
            await context.once("one", lambda: paid(context))

    journal = Away()
    journal.back_.set()
    line = await tried(journal, work)
    assert isinstance(line.value, dict) and line.value["code"] == "timeout"
    assert [one.value for one in journal.kept_] == ["answer"] and line.cost_eur == Decimal("0.01")


async def test_what_is_written_behind_a_step_that_has_ended_bounds_nothing() -> None:
    journal, behind = Away(), list[asyncio.Task[JSON]]()

    async def work(context: StepContext, given: dict[str, JSON]) -> JSON:
        behind.append(asyncio.ensure_future(context.once("late", lambda: paid(context))))
        await journal.writing.wait()
        return "done"

    line = await tried(journal, work)
    assert (line.kind, line.value) == ("result", "done")
    assert await behind[0] == "answer"


async def test_a_step_stopped_as_its_answer_came_leaves_no_error_that_nobody_hears() -> None:
    class Lost(Away):
        async def append(self, hold: Hold, lines: Sequence[Line]) -> object:
            await super().append(hold, lines)
            if lines:
                raise LostRun("somebody cancelled the run")
            return None

    async def pays(context: StepContext, given: dict[str, JSON]) -> JSON:
        return await context.once("answer", lambda: asyncio.sleep(0, 1))

    unheard: list[object] = []
    loop, journal = asyncio.get_running_loop(), Lost()
    loop.set_exception_handler(lambda _, told: unheard.append(told))
    made = flow(step("a"))
    walk = Walk(made, {}, {}, {"id": "run_1"})
    (command,) = walk.frontier()
    assert isinstance(command, RunStep)
    held = Held(Hold(RunId("run_1"), 1), made, {}, WHO, walk, {}, 0)
    task = asyncio.ensure_future(Calling(journal, journal, {"code": pays}, utc).attempt(held, command))
    await journal.writing.wait()
    task.cancel()
    await asyncio.wait([task])
    journal.back_.set()
    for _ in range(3):
        await asyncio.sleep(0)
    gc.collect()
    loop.set_exception_handler(None)
    assert not unheard


async def test_a_step_with_little_time_outlives_an_outage(store: Store, vault: Vault) -> None:
    think = Thinking(1)
    engine = Engine(store, vault, {"code": think}, pace=replace(QUICK, stall_s=30.0))
    run = await engine.start(flow(step("a", timeout_s=3.0), output="{{ steps.a }}"), {}, WHO)
    async with working(engine):
        await think.all_asked.wait()
        async with outage(store):
            think.go.set()
            await asyncio.sleep(3.5)
        assert await over(engine, run) == "done"
    assert (think.asked, await epoch(store, run), await engine.result(run)) == (["a"], 1, "a")
