"""Dispatch under concurrency: a living worker keeps what it has, and no run is stuck for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, LiteralString

import pytest

from metier.calls import JSON, RunId
from metier.store import Store
from metier.vault import Vault
from metier.workflow.dispatch import Dispatch, Pace
from metier.workflow.engine import Engine, StepContext
from tests.workflow.engines import QUICK, working
from tests.workflow.flows import WHO, flow, step


class Thinking:
    """A step function that gets its answer when it is let go."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.begun, self.go = asyncio.Event(), asyncio.Event()

    async def __call__(self, context: StepContext, given: dict[str, JSON]) -> JSON:
        self.asked.append(context.path)
        self.begun.set()
        await self.go.wait()
        return context.path


async def said(store: Store, query: LiteralString, *given: object) -> list[dict[str, Any]]:
    """Ask the database."""
    async with store.connection() as connection:
        found = await connection.execute(query, given)
        return await found.fetchall() if found.description else []


async def ended(engine: Engine, run: RunId) -> str:
    """Wait for the end of a run."""

    async def over() -> bool:
        return (await engine.get(run)).over

    await until(over)
    return (await engine.get(run)).status


async def until(so: Callable[[], Awaitable[bool]]) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(60):
        while True:
            if await so():
                return
            await asyncio.sleep(0.02)


async def dead(store: Store, run: RunId, number: int = 1) -> list[int]:
    """Leave what workers leave that died with a segment of a run each."""
    workers = []
    for _ in range(number):
        row = (await said(store, "SELECT worker_id AS id FROM procrastinate_register_worker_v1()"))[0]
        workers.append(int(row["id"]))
        await said(
            store,
            "INSERT INTO procrastinate_jobs (queue_name, task_name, queueing_lock, args, status, worker_id)"
            " VALUES ('workflow', 'metier.segment', %s, jsonb_build_object('run', %s::text), 'doing', %s)",
            run, run, row["id"],
        )  # fmt: skip
    await said(
        store,
        "UPDATE procrastinate_workers SET last_heartbeat = now() - interval '1 hour' WHERE id = ANY(%s)",
        workers,
    )
    return workers


async def test_a_living_worker_keeps_its_run_when_another_starts_after_the_clock_was_set_forward_by_days(
    store: Store, vault: Vault
) -> None:
    think = Thinking()
    engine = Engine(store, vault, {"code": think}, pace=replace(QUICK, heartbeat_s=30.0, stall_s=60.0))
    other = Engine(store, vault, {"code": think}, pace=QUICK)
    run = await engine.start(flow(step("a")), {}, WHO)
    async with working(engine):
        await think.begun.wait()
        await said(store, "SELECT procrastinate_register_worker_v1()")
        await asyncio.sleep(QUICK.stall_s)  # after its start a PostgreSQL gives workers time to report
        await said(store, "UPDATE procrastinate_workers SET last_heartbeat = now() - interval '3 days'")
        await other.drain()
        assert await other.recover() == 0
        rows = await said(store, "SELECT worker_id FROM procrastinate_jobs")
        known = await said(store, "SELECT id AS worker_id FROM procrastinate_workers")
        assert rows == known, "who has nothing is forgotten"
        think.go.set()
        assert await ended(engine, run) == "done"
    rows = await said(store, "SELECT epoch FROM runs")
    assert (think.asked, [row["epoch"] for row in rows]) == (["a"], [1])


async def test_runs_of_the_dead_move_again_however_long_another_chore_takes(store: Store, vault: Vault) -> None:
    think, slow = Thinking(), asyncio.Event()
    think.go.set()
    engine = Engine(store, vault, {"code": think}, pace=QUICK)
    run = await engine.start(flow(step("a")), {}, WHO)
    await said(store, "DELETE FROM procrastinate_jobs")
    await dead(store, run)
    stop = asyncio.Event()

    async def chore() -> None:
        slow.set()
        await asyncio.sleep(QUICK.stall_s)

    async with asyncio.TaskGroup() as group:
        group.create_task(engine.work(stop, [chore]))
        try:
            assert await ended(engine, run) == "done"
        finally:
            stop.set()
    assert slow.is_set()


async def test_the_dead_are_seen_to_be_dead_though_every_look_comes_late(store: Store, vault: Vault) -> None:
    engine = Engine(store, vault, {"code": Thinking()}, pace=replace(QUICK, heartbeat_s=0.01, stall_s=0.1))
    run = await engine.start(flow(step("a")), {}, WHO)
    await said(store, "DELETE FROM procrastinate_jobs")
    await dead(store, run)
    recovered = []
    for _ in range(8):
        recovered.append(await engine.recover())
        await asyncio.sleep(0.06)
    assert sum(recovered) == 1 and recovered[0] == 0


async def test_a_run_whose_segments_were_all_of_dead_workers_is_due_once(store: Store, vault: Vault) -> None:
    engines = [Engine(store, vault, {"code": Thinking()}, pace=replace(QUICK, stall_s=0.0)) for _ in range(4)]
    run = await engines[0].start(flow(step("a")), {}, WHO)
    for _ in range(5):
        await said(store, "DELETE FROM procrastinate_jobs")
        await dead(store, run, 3)
        await asyncio.gather(*(engine.recover() for engine in engines))
        jobs = await said(store, "SELECT queueing_lock AS run, status::text FROM procrastinate_jobs")
        assert jobs == [{"run": run, "status": "todo"}]


async def test_one_that_is_due_already_leaves_the_others_and_the_transaction_as_they_are(
    store: Store, vault: Vault
) -> None:
    engine = Engine(store, vault, {"code": Thinking()})
    one, two = [await engine.start(flow(step("a")), {}, WHO) for _ in range(2)]
    dispatch = Dispatch(store)
    await said(store, "DELETE FROM procrastinate_jobs WHERE queueing_lock = %s", two)
    async with store.transaction() as tx:
        await tx.execute("UPDATE runs SET priority = 7")
        await dispatch.defer_all(tx, {one: -1, two: -2})
    rows = await said(store, "SELECT queueing_lock AS run, priority FROM procrastinate_jobs ORDER BY id")
    assert [(row["run"], row["priority"]) for row in rows] == [(one, 0), (two, -2)]
    assert {row["priority"] for row in await said(store, "SELECT priority FROM runs")} == {7}


async def test_a_segment_whose_end_the_database_refused_is_put_in_place_again(store: Store, vault: Vault) -> None:
    think = Thinking()
    engine = Engine(store, vault, {"code": think}, pace=QUICK)
    run = await engine.start(flow(step("a")), {}, WHO)
    await said(store, "CREATE SEQUENCE refused")
    await said(
        store,
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " PERFORM nextval('refused'); RAISE 'no space is left' USING ERRCODE = '53100'; END $$",
    )
    done = "FOR EACH ROW WHEN (new.status = 'done') EXECUTE FUNCTION refuse()"
    await said(store, "CREATE TRIGGER full_a BEFORE UPDATE ON runs " + done)
    await said(store, "CREATE TRIGGER full_b BEFORE DELETE ON procrastinate_jobs EXECUTE FUNCTION refuse()")

    async def refused() -> bool:
        return bool((await said(store, "SELECT last_value >= 2 AS both FROM refused"))[0]["both"])

    async def nothing_left() -> bool:
        return not await said(store, "SELECT 1 FROM procrastinate_jobs")

    async with working(engine):
        think.go.set()
        await until(refused)
        await said(store, "DROP TRIGGER full_a ON runs")
        await said(store, "DROP TRIGGER full_b ON procrastinate_jobs")
        assert await ended(engine, run) == "done"
        await until(nothing_left)
    assert think.asked == ["a"]


async def test_one_cause_starts_one_run_also_where_some_begin_at_once_and_others_in_line(
    store: Store, vault: Vault
) -> None:
    engines = [Engine(store, vault, {"code": Thinking()}, pace=Pace(concurrency=2)) for _ in range(3)]
    one = flow(step("a"))
    for cause in range(6):
        starts = [engine.start(one, {}, WHO, dedupe=f"cause {cause}") for engine in engines for _ in range(3)]
        assert len(set(await asyncio.gather(*starts))) == 1
    rows = await said(
        store,
        "SELECT runs.status::text, count(*) AS runs, count(job.id) AS jobs FROM runs"
        " LEFT JOIN procrastinate_jobs job ON queueing_lock = runs.id GROUP BY 1",
    )
    assert sum(row["runs"] for row in rows) == 6
    assert {row["status"]: row["jobs"] for row in rows if row["runs"] == row["jobs"]}.keys() == {"pending"}


async def test_a_start_that_is_cancelled_leaves_a_run_that_can_move_or_none(store: Store, vault: Vault) -> None:
    think = Thinking()
    think.go.set()
    engine, one = Engine(store, vault, {"code": think}, pace=Pace(concurrency=3)), flow(step("a"))
    for turn in range(40):
        start = asyncio.create_task(engine.start(one, {}, WHO))
        await asyncio.sleep(turn / 5000)
        start.cancel()
        await asyncio.wait([start])
    left = await said(
        store,
        "SELECT id FROM runs WHERE (status = 'pending')"
        " <> EXISTS (SELECT 1 FROM procrastinate_jobs WHERE queueing_lock = runs.id)",
    )
    assert left == []
    await engine.drain()
    assert {row["status"] for row in await said(store, "SELECT status::text FROM runs")} <= {"done"}


async def test_a_segment_that_was_given_out_after_its_worker_had_looked_is_made_due_again(
    store: Store, vault: Vault
) -> None:
    think = Thinking()
    think.go.set()
    engine = Engine(store, vault, {"code": think}, pace=QUICK)
    run = await engine.start(flow(step("a")), {}, WHO)
    await said(store, "DELETE FROM procrastinate_jobs")
    (before,) = await dead(store, run)
    await said(store, "UPDATE procrastinate_workers SET last_heartbeat = now() + interval '1 hour'")

    async def there() -> bool:
        # It took something, and so has no doubt.
        return bool(await said(store, "SELECT 1 FROM runs WHERE id = %s AND status = 'done'", other))

    async with working(engine):
        other = await engine.start(flow(step("a")), {}, WHO)
        await until(there)
        await said(store, "UPDATE procrastinate_jobs SET worker_id = (SELECT max(id) FROM procrastinate_workers)")
        await said(store, "DELETE FROM procrastinate_workers WHERE id = %s", before)
        assert await ended(engine, run) == "done"


@pytest.mark.parametrize("hold", ["hold_run", "hold_batch"])
async def test_a_stalled_segment_of_what_was_erased_meanwhile_ends_without_a_word(store: Store, hold: str) -> None:
    dispatch, taken = Dispatch(store, replace(QUICK, stall_s=0.0), hold=hold), list[RunId]()
    await dead(store, RunId("run_erased"), 2)
    stalled = await dispatch.stalled()
    assert sorted(await asyncio.gather(*(dispatch.revive(one) for one in stalled))) in ([False, False], [False, True])

    async def segment(run: RunId) -> None:
        taken.append(run)

    await dispatch.drain(segment)
    assert len(taken) <= 1 and await said(store, "SELECT 1 FROM procrastinate_jobs") == []
