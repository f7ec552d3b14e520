"""A worker whose database goes away under a run: what was paid for is kept once it is back."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from typing import Any, LiteralString

import psycopg
import pytest
from procrastinate import App, PsycopgConnector
from procrastinate.exceptions import ConnectorException
from procrastinate.jobs import Job, Status
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg_pool import PoolClosed, PoolTimeout

from metier.calls import JSON, RunId
from metier.errors import Broken, Unavailable
from metier.store import Store, Tx, away, within
from metier.vault import Vault
from metier.workflow.definition import Step, Workflow
from metier.workflow.dispatch import Dispatch
from metier.workflow.engine import Engine, StepContext
from metier.workflow.pulse import Pulse, Watch
from metier.workflow.steadfast import Steadfast
from tests.workflow.engines import QUICK, working
from tests.workflow.flows import WHO, Counting, branch, flow, step

JOB = Job(
    id=1, status="doing", queue="workflow", priority=0, lock=None, queueing_lock="run_1", task_name="segment",
    task_kwargs={}, scheduled_at=None, attempts=0,
)  # fmt: skip


@contextlib.asynccontextmanager
async def outage(store: Store) -> AsyncIterator[None]:
    """Cut every connection to the database of a test and let nobody connect until the block ends."""
    name = str(conninfo_to_dict(store.url)["dbname"])
    master = await psycopg.AsyncConnection.connect(make_conninfo(store.url, dbname="postgres"), autocommit=True)
    allow = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
    async with master:
        await master.execute(allow.format(sql.Identifier(name), sql.SQL("false")))
        try:
            query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
            await master.execute(query, (name,))
            yield
        finally:
            await master.execute(allow.format(sql.Identifier(name), sql.SQL("true")))


async def over(engine: Engine, run: RunId) -> str:
    """Wait for the end of a run, however often the database is away meanwhile."""
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(psycopg.OperationalError, Unavailable):
                if (found := await engine.get(run)).over:
                    return found.status
            await asyncio.sleep(0.05)


async def epoch(store: Store, run: RunId) -> int:
    """Count how often a run was taken by a worker."""
    async with store.connection() as connection:
        row = await (await connection.execute("SELECT epoch FROM runs WHERE id = %s", (run,))).fetchone()
    assert row is not None
    return int(row["epoch"])


class Thinking:
    """A step function that pays for an answer and gets it when it is let go."""

    def __init__(self, most: int) -> None:
        self.asked: list[str] = []
        self.most = most
        self.all_asked, self.go = asyncio.Event(), asyncio.Event()

    async def __call__(self, context: StepContext, given: dict[str, JSON]) -> JSON:
        async def produce() -> JSON:
            self.asked.append(context.path)
            if len(self.asked) == self.most:
                self.all_asked.set()
            await self.go.wait()
            return context.path

        return await context.once("answer", produce)


def sections(*each: Step) -> Workflow:
    """Make a flow that does steps at once."""
    ways = tuple(replace(branch(None, one), name=one.id) for one in each)
    return flow(step("all", "parallel", branches=ways))


async def test_answers_that_come_while_the_database_is_away_are_kept_once_it_is_back(
    store: Store, vault: Vault
) -> None:
    think = Thinking(2)
    engine = Engine(store, vault, {"code": think}, pace=replace(QUICK, stall_s=30.0))
    run = await engine.start(sections(step("a"), step("b")), {}, WHO)
    async with working(engine):
        await think.all_asked.wait()
        async with outage(store):
            think.go.set()
            # Longer than the grace a worker gives its steps when it is asked to stop: here nobody asked it.
            await asyncio.sleep(2 * QUICK.grace_s)
        assert await over(engine, run) == "done"
    assert (sorted(think.asked), await epoch(store, run)) == (["all.a.a", "all.b.b"], 1)


async def test_what_is_under_way_ends_before_the_run_is_read_anew(store: Store, vault: Vault) -> None:
    think, told = Thinking(1), list[str]()

    async def heard(tx: Tx, project: str, event: str, *_: object) -> None:
        told.append(event)
        if len(told) == 1:
            await think.all_asked.wait()
            asyncio.get_running_loop().call_later(0.3, think.go.set)
            raise psycopg.OperationalError("the connection is lost")

    engine = Engine(store, vault, {"code": think}, pace=QUICK)
    engine.wire(heard=heard)
    run = await engine.start(sections(step("a"), step("tell", "emit", {"event": "gone", "key": "k"})), {}, WHO)
    async with working(engine):
        assert await over(engine, run) == "done"
    assert (think.asked, told, await epoch(store, run)) == (["all.a.a"], ["gone", "gone"], 2)


async def test_a_segment_that_was_given_out_and_never_came_is_made_due_again(store: Store, vault: Vault) -> None:
    engine = Engine(store, vault, {"code": Counting()})
    lost, mine = [await engine.start(flow(step("a")), {}, WHO) for _ in range(2)]
    async with store.connection() as connection:
        row = await (await connection.execute("SELECT * FROM procrastinate_register_worker_v1()")).fetchone()
        assert row is not None
        worker = int(row["worker_id"])
        await connection.execute("UPDATE procrastinate_jobs SET status = 'doing', worker_id = %s", (worker,))
        query = "SELECT id FROM procrastinate_jobs WHERE queueing_lock = %s"
        known = await (await connection.execute(query, (mine,))).fetchone()
    assert known is not None
    await engine._dispatch._unfetched(worker, [known["id"]])
    async with store.connection() as connection:
        found = await (await connection.execute("SELECT queueing_lock, status FROM procrastinate_jobs")).fetchall()
    assert {row["queueing_lock"]: row["status"] for row in found} == {lost: "todo", mine: "doing"}


@pytest.mark.parametrize("unfetched", [False, True])
async def test_a_living_worker_keeps_its_run_when_the_segment_of_a_dead_one_is_taken_away(
    store: Store, vault: Vault, unfetched: bool
) -> None:
    think = Thinking(1)
    engine = Engine(store, vault, {"code": think}, pace=QUICK)
    run = await engine.start(flow(step("a")), {}, WHO)
    async with working(engine):
        await think.all_asked.wait()
        async with store.connection() as connection:  # what a worker leaves that died, and was not missed so far
            row = await (await connection.execute("SELECT * FROM procrastinate_register_worker_v1()")).fetchone()
            assert row is not None
            await connection.execute(
                "UPDATE procrastinate_workers SET last_heartbeat = '-infinity' WHERE id = %s",
                (row["worker_id"],),
            )
            dead = await (
                await connection.execute(
                    "INSERT INTO procrastinate_jobs (queue_name, task_name, queueing_lock, args, status, worker_id)"
                    " SELECT queue_name, task_name, queueing_lock, args, 'doing', %s FROM procrastinate_jobs"
                    " RETURNING id",
                    (row["worker_id"],),
                )
            ).fetchone()
        assert dead is not None
        if unfetched:
            await engine._dispatch._unfetched(row["worker_id"], [])
        async with asyncio.timeout(60), store.connection() as connection:
            # Found by the chore beside the worker, otherwise.
            while True:
                found = await (await connection.execute("SELECT id, status FROM procrastinate_jobs")).fetchall()
                if dead["id"] not in {job["id"] for job in found}:
                    break
                await asyncio.sleep(0.05)
        assert [job["status"] for job in found] == ["doing"] and found[0]["id"] != dead["id"]
        think.go.set()
        assert await over(engine, run) == "done"
    assert (think.asked, await epoch(store, run)) == (["a"], 1)


async def test_a_living_worker_keeps_its_run_when_the_clock_of_the_database_is_set_forward(
    store: Store, vault: Vault
) -> None:
    think = Thinking(1)
    engine, other = [Engine(store, vault, {"code": think}, pace=QUICK) for _ in range(2)]
    run = await engine.start(flow(step("a")), {}, WHO)
    async with working(engine):
        await think.all_asked.wait()
        await asyncio.sleep(QUICK.stall_s)  # after its start a PostgreSQL gives workers time to report
        for _ in range(20):
            async with store.connection() as connection:  # what it said a moment ago is old at once
                query = "UPDATE procrastinate_workers SET last_heartbeat = now() - interval '1 hour'"
                await connection.execute(query)
            assert await other.recover() == 0
            await engine.recover()
        think.go.set()
        assert await over(engine, run) == "done"
    assert (think.asked, await epoch(store, run)) == (["a"], 1)


def test_silence_is_what_a_process_saw_itself_without_a_gap() -> None:
    now = [0.0]
    watch, noon, early, late = Watch(lambda: now[0]), 43_200.0, -math.inf, 129_600.0

    def silent(at: float, **beats: float) -> dict[int, float]:
        now[0] = at
        return watch.silent_s({int(name[1:]): beat for name, beat in beats.items()}, 10.0, 1.0)

    assert silent(0, w1=noon, w2=noon) == {1: 0, 2: 0}
    assert silent(5, w1=early, w2=noon) == {1: 0, 2: 5}, "a new sign of life is one, whatever the clock says"
    assert silent(10, w1=late, w2=noon, w3=early) == {1: 0, 2: 10, 3: 0}
    assert silent(15, w1=late, w3=early) == {1: 5, 3: 5}
    assert silent(26, w1=late, w3=early) == {1: 6, 3: 6}, "nobody could be heard for most of it"
    assert silent(31, w1=late, w3=noon) == {1: 11, 3: 0}


class Line(PsycopgConnector):
    """A line to a database that breaks now and then, in place of one."""

    def __init__(self, *breaks: psycopg.Error) -> None:
        super().__init__()
        self.breaks = list(breaks)
        self.sent = 0

    async def execute_query_async(self, query: LiteralString, **arguments: Any) -> None:
        self.sent += 1
        if self.breaks:
            raise ConnectorException from self.breaks.pop(0)


async def nothing(worker: int, known: Iterable[int]) -> None:
    """Find nothing that was given out and never came."""


class Heart(Pulse):
    """A pulse whose connection breaks now and then."""

    def __init__(self, store: Store, *breaks: psycopg.Error) -> None:
        super().__init__(store)
        self.breaks = list(breaks)
        self.beaten = 0

    async def beat(self, worker: int) -> None:
        self.beaten += 1
        if self.breaks:
            raise self.breaks.pop(0)


async def test_a_worker_goes_on_through_an_outage_unless_it_is_asked_to_stop(store: Store) -> None:
    gone, stop, line = psycopg.OperationalError("gone"), asyncio.Event(), Line()
    heart = Heart(store, gone, gone)
    await Steadfast(line, stop, heart, nothing).update_heartbeat(1)
    assert heart.beaten == 3 and not line.sent, "a pool is back later than the database"
    with pytest.raises(psycopg.errors.DiskFull):
        await Steadfast(line, stop, Heart(store, psycopg.errors.DiskFull("full")), nothing).update_heartbeat(1)
    stop.set()
    with pytest.raises(psycopg.OperationalError):
        await Steadfast(line, stop, Heart(store, gone), nothing).update_heartbeat(1)


async def test_a_sign_of_life_comes_on_a_new_connection_when_the_old_one_was_cut(store: Store) -> None:
    async def beats() -> list[float]:
        async with store.connection() as connection:
            found = await connection.execute(
                "SELECT extract(epoch FROM now() - last_heartbeat) AS age FROM procrastinate_workers"
            )
            return [row["age"] for row in await found.fetchall()]

    async with store.connection() as connection:
        row = await (
            await connection.execute("SELECT worker_id AS id FROM procrastinate_register_worker_v1()")
        ).fetchone()
    assert row is not None
    pulse = Pulse(store)
    await pulse.beat(row["id"])
    assert pulse._line is not None
    first = pulse._line.info.backend_pid
    async with store.connection() as connection:
        await connection.execute("UPDATE procrastinate_workers SET last_heartbeat = now() - interval '1 hour'")
        await connection.execute("SELECT pg_terminate_backend(%s, 5000)", (first,))
    with pytest.raises(psycopg.OperationalError) as cut:
        await pulse.beat(row["id"])
    assert away(cut.value) and [age > 3000 for age in await beats()] == [True]
    await asyncio.gather(*(pulse.beat(row["id"]) for _ in range(4)))
    assert [age < 3000 for age in await beats()] == [True] and pulse._line.info.backend_pid != first
    await pulse.close()
    await pulse.close()


async def test_the_end_of_a_segment_may_have_been_heard_before_the_line_broke(store: Store) -> None:
    unknown, job = psycopg.errors.RaiseException("Job was not found"), JOB
    line, heart = Line(psycopg.OperationalError("gone"), unknown), Heart(store)
    await Steadfast(line, asyncio.Event(), heart, nothing).finish_job(job, Status.SUCCEEDED, True)
    assert line.sent == 2
    with pytest.raises(ConnectorException):
        await Steadfast(Line(unknown), asyncio.Event(), heart, nothing).finish_job(job, Status.SUCCEEDED, True)


def caused(error: BaseException) -> Unavailable:
    """Make what rooms make of an error of the database."""
    try:
        raise Unavailable("the rights cannot be read") from error
    except Unavailable as made:
        return made


def test_a_database_that_is_away_is_told_from_one_that_refuses() -> None:
    gone = psycopg.OperationalError("server closed the connection")
    assert away(gone) and away(PoolTimeout("none free")) and away(psycopg.errors.AdminShutdown("stopped"))
    assert away(caused(gone)) and away(ExceptionGroup("both", [gone, caused(gone)]))
    assert not away(PoolClosed("we leave")) and not away(psycopg.errors.DiskFull("full"))
    assert not away(caused(ConnectionRefusedError("a shop"))) and not away(Broken("ours"))
    assert not away(ExceptionGroup("one of them", [gone, ValueError("a mistake")]))


async def test_a_database_that_does_not_answer_in_time_is_away() -> None:
    with pytest.raises(psycopg.OperationalError) as found:
        async with within(0.01):
            await asyncio.sleep(5)
    assert away(found.value)


@pytest.mark.parametrize("first", [True, False])
async def test_a_line_that_breaks_while_something_is_made_due_looks_like_any_other(store: Store, first: bool) -> None:
    dispatch = Dispatch(store)
    with pytest.raises(psycopg.OperationalError) as broken:
        async with store.transaction() as tx, outage(store):
            await dispatch.defer(tx, RunId("run_1"), rank=0, first=first)
    assert away(broken.value)


async def test_a_chore_whose_line_breaks_ends_no_worker(store: Store) -> None:
    tried: list[int] = []
    stop = asyncio.Event()

    async def chore() -> None:
        tried.append(len(tried))
        if len(tried) == 1:
            raise ConnectorException("Database error.")
        stop.set()

    async def segment(run: RunId) -> None:
        raise AssertionError(run)

    await Dispatch(store, QUICK).work(segment, stop, [chore])
    assert tried == [0, 1]


async def test_a_worker_stopped_while_it_connects_leaves_nothing_that_takes_no_cancellation() -> None:
    asked, held = asyncio.Event(), list[asyncio.StreamWriter]()

    async def never(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)
        asked.set()

    async with await asyncio.start_server(never, "127.0.0.1", 0) as silent:
        store, stop = Store(f"postgresql://u@127.0.0.1:{silent.sockets[0].getsockname()[1]}/x"), asyncio.Event()
        before, dispatch = asyncio.all_tasks(), Dispatch(store, QUICK)
        async with asyncio.TaskGroup() as group:
            group.create_task(dispatch.work(still, stop, []))
            await asyncio.wait_for(asked.wait(), 20)
            stop.set()
        # What the end of a process does: it cancels what is left, once, and waits for it.
        left = {task for task in asyncio.all_tasks() - before if task.get_name().startswith("pool-")}
        for task in left:
            task.cancel()
        assert not left or not (await asyncio.wait(left, timeout=20))[1]
        for writer in held:
            writer.transport.abort()


async def test_a_worker_whose_cancellation_was_swallowed_ends_before_it_begins(store: Store) -> None:
    stop, pulse = asyncio.Event(), Pulse(store)

    async def registered() -> int:
        async with store.connection() as connection:
            return len(await (await connection.execute("SELECT FROM procrastinate_workers")).fetchall())

    connector = PsycopgConnector(conninfo=store.url)
    async with App(connector=connector).open_async():
        manager = Steadfast(connector, stop, pulse, nothing)
        await manager.unregister_worker(await manager.register_worker())
        stop.set()
        with pytest.raises(asyncio.CancelledError):
            await manager.register_worker()
    assert await registered() == 0


async def still(_: RunId) -> None:
    """Move no run."""
