"""Runs on a real PostgreSQL: start, work, fail, crash, resume, cancel, look."""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest
from psycopg import sql

from metier.calls import JSON, OrganisationId, RunId
from metier.errors import Conflict, Invalid, NotAllowed, NotFound, ProviderUnavailable
from metier.store import Store
from metier.vault import Vault
from metier.workflow.commands import ASK_BUDGET
from metier.workflow.definition import OnError, Retry
from metier.workflow.dispatch import Dispatch, Pace, migrations
from metier.workflow.engine import Engine, Event, StepContext
from metier.workflow.limits import Limit, Limits
from metier.workflow.review import Review, Reviewer, TaskDesk
from tests.workflow.engines import working
from tests.workflow.flows import WHO, Counting, Ticking, branch, flow, step

QUICK = Pace(heartbeat_s=0.2, stall_s=1.0, recover_s=0.2, poll_s=0.2, grace_s=0.5)
SAV = Reviewer("zoe", frozenset({"sav", "admins"}))


async def count(store: Store, table: str) -> int:
    async with store.connection() as connection:
        query = sql.SQL("SELECT count(*) AS n FROM {}").format(sql.Identifier(table))
        row = await (await connection.execute(query)).fetchone()
    assert row is not None
    return int(row["n"])


async def test_a_run_goes_through_its_steps_and_gives_its_output(store: Store, vault: Vault) -> None:
    done = Counting()
    engine = Engine(store, vault, {"code": done})
    first, second = step("a", with_={"x": "{{ inputs.x }}"}), step("b", with_={"y": "{{ steps.a.x }}"})
    run = await engine.start(flow(first, second, output="{{ steps.b }}"), {"x": 3}, WHO)
    assert (await engine.get(run)).status == "pending"
    with pytest.raises(Conflict, match="pending"):
        await engine.result(run)
    await engine.drain()
    assert await engine.result(run) == {"path": "b", "y": 3}
    found = await engine.get(run)
    assert (found.status, found.outcome, found.project, found.failure) == ("done", "done", "sales", None)
    assert [(s.path, s.given) for s in await engine.steps(run)] == [("a", {"x": 3}), ("b", {"y": 3})]
    assert done.runs == [("a", 1), ("b", 1)]
    assert await count(store, "procrastinate_jobs") == 0


async def test_a_step_done_in_the_foreground_takes_the_time_it_needs(store: Store, vault: Vault) -> None:
    begun: list[str] = []

    async def slow(context: StepContext, given: dict[str, JSON]) -> JSON:
        begun.append(context.path)
        await asyncio.sleep(0.2)
        return {"slow": True}

    # The grace is for workers that are asked to stop: here nobody asked, and what was begun would be paid twice.
    engine = Engine(store, vault, {"code": slow}, pace=replace(QUICK, grace_s=0.01))
    run = await engine.start(flow(step("a"), output="{{ steps.a }}"), {}, WHO)
    await engine.drain()
    assert await engine.result(run) == {"slow": True}
    assert begun == ["a"]


async def test_what_a_run_holds_is_sealed(store: Store, vault: Vault) -> None:
    engine = Engine(store, vault, {"code": Counting()})
    secret = "jean.dupont@exemple.fr"
    run = await engine.start(
        flow(step("a", with_={"to": "{{ inputs.to }}"}), output="{{ steps.a }}"), {"to": secret}, WHO
    )
    await engine.drain()
    assert secret in str(await engine.result(run))
    async with store.connection() as connection:
        for table in ("runs", "journal", "blobs", "procrastinate_jobs", "procrastinate_events", "tasks"):
            query = sql.SQL("SELECT t::text AS line FROM {} t").format(sql.Identifier(table))
            rows = await (await connection.execute(query)).fetchall()
            assert not [row for row in rows if secret in row["line"] or secret.encode().hex() in row["line"]]


async def test_what_a_run_holds_is_sealed_under_the_key_of_its_organisation(store: Store, vault: Vault) -> None:
    large: dict[str, JSON] = {"words": random.Random(7).randbytes(100_000).hex()}

    async def wordy(context: StepContext, given: dict[str, JSON]) -> JSON:
        return large

    engine = Engine(store, vault, {"code": wordy}, desk=TaskDesk(store, vault))
    made = flow(step("a"), step("ask", "human", {"assign": "group:sav", "title": "?"}), step("b"), output="ok")
    whose = {}
    for organisation in ("main", "org_a"):
        who = replace(WHO, organisation=OrganisationId(organisation))
        whose[await engine.start(made, {"x": 1}, who)] = organisation
    await engine.drain()
    review = Review(store, vault, engine)
    for task in await review.list():
        await review.comment(task.id, SAV, "I look at it")
        await review.decide(task.id, SAV, {"decision": "yes"}, "well")
    await engine.drain()
    assert [(await engine.get(run)).status for run in whose] == ["done", "done"]
    values = {
        "runs": "SELECT id AS run, unnest(ARRAY[rights, inputs, output]) AS sealed FROM runs",
        "journal": "SELECT run, value AS sealed FROM journal WHERE value IS NOT NULL",
        "blobs": "SELECT run, sealed FROM journal JOIN blobs ON digest = blob",
        "tasks": "SELECT run, unnest(ARRAY[title, payload, decision, note]) AS sealed FROM tasks",
        "words": "SELECT run, words AS sealed FROM task_events e JOIN tasks ON tasks.id = task WHERE words IS NOT NULL",
    }
    async with store.connection() as connection:
        for table, query in values.items():
            rows = await (await connection.execute(query.encode())).fetchall()
            assert {row["run"] for row in rows} == set(whose), table
            assert [(table, row["run"]) for row in rows if vault.workspace(row["sealed"]) != whose[row["run"]]] == []
    assert await count(store, "blobs") == 2, "what two organisations both hold is kept for each"


async def test_a_run_from_before_organisations_had_keys_goes_on(store: Store, vault: Vault) -> None:
    engine = Engine(store, vault, {"code": Counting()})
    run = await engine.start(flow(step("a"), output="{{ steps.a }}"), {"x": 1}, WHO)
    async with store.connection() as connection:
        for column in ("rights", "inputs"):
            name = sql.Identifier(column)
            row = await (await connection.execute(sql.SQL("SELECT {} AS it FROM runs").format(name))).fetchone()
            assert row is not None
            old = vault.seal("run", vault.open("run", row["it"], f"{run}/{column}"), f"{run}/{column}")
            await connection.execute(sql.SQL("UPDATE runs SET {} = %s").format(name), (old,))
    await engine.drain()
    assert (await engine.get(run)).status == "done"
    assert await engine.result(run) is not None


async def test_the_same_cause_starts_a_run_once(store: Store, vault: Vault) -> None:
    engine = Engine(store, vault, {"code": Counting()})
    workflow = flow(step("a"))
    starts = [engine.start(workflow, {"n": n}, WHO, dedupe="<mail-1@exemple.fr>") for n in range(8)]
    runs = set(await asyncio.gather(*starts))
    assert len(runs) == 1
    assert await count(store, "procrastinate_jobs") == 1
    assert await engine.start(workflow, {}, WHO, dedupe="another") not in runs


async def test_inputs_that_do_not_fit_start_nothing(store: Store, vault: Vault) -> None:
    engine = Engine(store, vault, {})
    strict = replace(flow(step("a")), inputs={"type": "object", "required": ["email"]})
    with pytest.raises(Invalid, match="missing 'email'"):
        await engine.start(strict, {"mail": 1}, WHO)
    assert await count(store, "runs") == 0


async def test_inputs_that_are_not_given_have_their_defaults(store: Store, vault: Vault) -> None:
    engine = Engine(store, vault, {})
    schema: dict[str, JSON] = {"type": "object", "properties": {"language": {"type": "string", "default": "fr"}}}
    run = await engine.start(replace(flow(output="{{ inputs.language }}"), inputs=schema), {}, WHO)
    await engine.drain()
    assert await engine.result(run) == "fr"
    assert await engine.inputs(run) == {"language": "fr"}


async def test_a_run_keeps_the_definition_it_was_started_with(store: Store, vault: Vault) -> None:
    old, new = flow(step("a"), output="old"), flow(step("a"), output="new")
    engine = Engine(store, vault, {"code": Counting()})
    run = await engine.start(old, {}, WHO)
    other = await engine.start(new, {}, WHO)
    fresh = Engine(store, vault, {"code": Counting()})  # knows neither by heart
    await fresh.drain()
    assert (await fresh.result(run), await fresh.result(other)) == ("old", "new")
    assert (await fresh.definition(run)).hash == old.hash


async def test_what_may_pass_is_tried_again_and_then_given_up(store: Store, vault: Vault) -> None:
    tries: list[int] = []

    async def flaky(context: StepContext, given: dict[str, JSON]) -> JSON:
        tries.append(context.attempt)
        context.spend(Decimal("0.001"))
        if context.attempt < given["good_from"]:  # type: ignore[operator]  # a number, here
            raise ProviderUnavailable("the provider is away")
        return "in the end"

    engine = Engine(store, vault, {"code": flaky})
    workflow = flow(
        step("a", with_={"good_from": "{{ inputs.n }}"}, retry=Retry(2, "constant", 0)), output="{{ steps.a }}"
    )
    good, bad = await engine.start(workflow, {"n": 3}, WHO), await engine.start(workflow, {"n": 9}, WHO)
    await engine.drain()
    assert await engine.result(good) == "in the end"
    assert sorted(tries) == [1, 1, 2, 2, 3, 3]
    failed = await engine.get(bad)
    assert failed.failure is not None
    assert (failed.status, failed.failure.code, failed.cost_eur) == ("failed", "provider_unavailable", Decimal("0.003"))


@pytest.mark.parametrize(("query", "times", "status", "called"), [
    ("SELECT pg_terminate_backend(pg_backend_pid())", 2, "done", 3),
    ("SELECT pg_terminate_backend(pg_backend_pid())", 99, "failed", 6),
    ("SET statement_timeout = 1; SELECT pg_sleep(9)", 99, "failed", 1),
], ids=["away twice", "brought about by the step", "refused, not away"])  # fmt: skip
async def test_a_database_that_goes_away_under_a_step_costs_no_attempt(
    store: Store, vault: Vault, query: str, times: int, status: str, called: int
) -> None:
    attempts: list[int] = []

    async def asking(context: StepContext, given: dict[str, JSON]) -> JSON:
        attempts.append(context.attempt)
        async with store.connection() as connection:
            if len(attempts) <= times:
                await connection.execute(query.encode())
        return None

    engine = Engine(store, vault, {"code": asking})
    run = await engine.start(flow(step("a")), {}, WHO)
    await engine.drain()
    assert (await engine.get(run)).status == status
    assert attempts == [1] * called


async def test_a_long_wait_is_a_row_and_no_process(store: Store, vault: Vault) -> None:
    clock, done = Ticking(), Counting()

    async def flaky(context: StepContext, given: dict[str, JSON]) -> JSON:
        if context.attempt == 1:
            raise ProviderUnavailable("away")
        return await done(context, given)

    engine = Engine(store, vault, {"code": flaky}, clock=clock)
    run = await engine.start(flow(step("a", retry=Retry(1, "constant", 600))), {}, WHO)
    await engine.drain()
    waiting = await engine.get(run)
    assert (waiting.status, waiting.wake_at) == ("waiting", clock.now + timedelta(seconds=600))
    assert done.runs == []
    clock.forward(601)
    async with store.connection() as connection:  # as if the time had come
        await connection.execute("UPDATE procrastinate_jobs SET scheduled_at = now()")
    await engine.drain()
    assert (await engine.get(run)).status == "done"
    assert done.runs == [("a", 2)]


@pytest.mark.parametrize("error", [NotAllowed("no"), Invalid("odd"), ValueError("secret 4970-1234")])
async def test_other_failures_say_whose_fault_and_hide_the_trace(store: Store, vault: Vault, error: Exception) -> None:
    async def failing(context: StepContext, given: dict[str, JSON]) -> JSON:
        raise error

    engine = Engine(store, vault, {"code": failing})
    run = await engine.start(flow(step("a")), {}, WHO)
    await engine.drain()
    failure = (await engine.get(run)).failure
    assert failure is not None
    assert failure.code == getattr(error, "code", "step_failed")
    assert "4970" not in str(failure) + str(await engine.steps(run))


async def test_an_output_that_does_not_fit_is_an_error_of_the_step(store: Store, vault: Vault) -> None:
    schema: dict[str, JSON] = {"type": "object", "required": ["score"]}
    workflow = flow(step("a", output=schema, on_error=OnError({"score": 0}, "continue")), output="{{ steps.a.score }}")
    engine = Engine(store, vault, {"code": Counting()})
    run = await engine.start(workflow, {}, WHO)
    await engine.drain()
    assert await engine.result(run) == 0
    line = (await engine.steps(run))[0]
    assert (line.kind, "schema" in str(line.value)) == ("error", True)


async def test_a_step_out_of_time_is_interrupted(store: Store, vault: Vault) -> None:
    async def endless(context: StepContext, given: dict[str, JSON]) -> JSON:
        await asyncio.Event().wait()
        return None

    engine = Engine(store, vault, {"code": endless})
    run = await engine.start(flow(step("a", timeout_s=0.01)), {}, WHO)
    await engine.drain()
    failure = (await engine.get(run)).failure
    assert failure is not None
    assert failure.code == "timeout"


async def test_a_failed_run_is_resumed_from_its_failed_step(store: Store, vault: Vault) -> None:
    done, broken = Counting(), [True]

    async def mended(context: StepContext, given: dict[str, JSON]) -> JSON:
        value = await done(context, given)
        if context.path == "b" and broken[0]:
            raise NotAllowed("not yet")
        return value

    engine = Engine(store, vault, {"code": mended})
    run = await engine.start(flow(step("a"), step("b"), output="{{ steps.b.path }}"), {}, WHO)
    await engine.drain()
    assert (await engine.get(run)).status == "failed"
    await engine.resume(run)
    await engine.drain()
    assert (await engine.get(run)).status == "failed"  # still broken: it may be resumed again
    broken[0] = False
    await engine.resume(run)
    await engine.drain()
    assert await engine.result(run) == "b"
    assert done.runs == [("a", 1), ("b", 1), ("b", 2), ("b", 3)]
    with pytest.raises(Conflict, match="done"):
        await engine.resume(run)


async def test_a_cancelled_run_writes_nothing_more(store: Store, vault: Vault) -> None:
    reached, interrupted = asyncio.Event(), asyncio.Event()

    async def slow(context: StepContext, given: dict[str, JSON]) -> JSON:
        reached.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            interrupted.set()
            raise
        return None

    engine = Engine(store, vault, {"code": slow}, pace=QUICK)
    run = await engine.start(flow(step("a"), step("b")), {}, WHO)
    async with working(engine):
        await asyncio.wait_for(reached.wait(), 60)
        await engine.cancel(run)
        await asyncio.wait_for(interrupted.wait(), 60)
    assert (await engine.get(run)).status == "cancelled"
    assert await engine.steps(run) == ()
    assert await count(store, "procrastinate_jobs") == 0
    with pytest.raises(Conflict, match="cancelled"):
        await engine.cancel(run)


async def test_a_stopped_worker_gives_its_run_back(store: Store, vault: Vault) -> None:
    reached = asyncio.Event()

    async def slow(context: StepContext, given: dict[str, JSON]) -> JSON:
        reached.set()
        await asyncio.Event().wait()
        return None

    first = Engine(store, vault, {"code": slow}, pace=QUICK)
    run = await first.start(flow(step("a"), output="{{ steps.a.path }}"), {}, WHO)
    async with working(first):
        await asyncio.wait_for(reached.wait(), 60)
    assert (await first.get(run)).status == "pending"
    second = Engine(store, vault, {"code": Counting()})
    await second.drain()
    assert await second.result(run) == "a"


async def test_a_worker_that_is_asked_to_stop_begins_no_further_step(store: Store, vault: Vault) -> None:
    reached, go, done = asyncio.Event(), asyncio.Event(), list[str]()

    async def slow(context: StepContext, given: dict[str, JSON]) -> JSON:
        reached.set()
        await go.wait()
        await asyncio.sleep(0.1)
        done.append(context.path)
        return None

    # With all the grace it needs: what was begun ends, however busy the machine.
    first = Engine(store, vault, {"code": slow}, pace=replace(QUICK, grace_s=60.0))
    run = await first.start(flow(*(step(name) for name in "abcdefghijklmnopqrst"), output=1), {}, WHO)
    stop = asyncio.Event()
    worker = asyncio.ensure_future(first.work(stop))
    await asyncio.wait_for(reached.wait(), 60)
    stop.set()
    go.set()
    await worker
    assert ((await first.get(run)).status, done) == ("pending", ["a"])
    await first.drain()
    assert (await first.get(run)).status == "done"
    assert done == [*"abcdefghijklmnopqrst"], "each once"


async def test_a_run_that_keeps_dying_is_put_aside_and_can_be_restarted(store: Store, vault: Vault) -> None:
    engine = Engine(store, vault, {"code": Counting()}, max_strikes=3)
    run = await engine.start(flow(step("a")), {}, WHO)
    async with store.connection() as connection:  # what three workers leave that die inside the same step
        await connection.execute("UPDATE runs SET status = 'running', epoch = 3, strikes = 3")
    await engine.drain()
    dead = await engine.get(run)
    assert dead.failure is not None
    assert (dead.status, dead.failure.code) == ("dead", "dead")
    await engine.resume(run)
    await engine.drain()
    assert (await engine.get(run)).status == "done"


async def test_workers_that_see_a_dead_one_at_the_same_time_make_its_run_due_once(store: Store, vault: Vault) -> None:
    engines = [Engine(store, vault, {"code": Counting()}, pace=QUICK) for _ in range(3)]
    await engines[0].start(flow(step("a")), {}, WHO)
    async with store.connection() as connection:  # what a worker leaves that was killed
        await connection.execute("UPDATE procrastinate_jobs SET status = 'doing'")
    assert sum(await asyncio.gather(*(engine.recover() for engine in engines))) == 1
    async with store.connection() as connection:
        found = await (await connection.execute("SELECT status FROM procrastinate_jobs")).fetchall()
    assert [row["status"] for row in found] == ["todo"]


async def test_a_run_that_another_worker_has_made_due_and_taken_is_not_made_due_again(
    store: Store, vault: Vault
) -> None:
    engine = Engine(store, vault, {"code": Counting()})
    run = await engine.start(flow(step("a")), {}, WHO)
    async with store.connection() as connection:
        await connection.execute("UPDATE procrastinate_jobs SET status = 'doing'")
    async with store.transaction() as tx:
        assert not await engine._dispatch.still_idle(tx, run)
        await tx.execute("DELETE FROM procrastinate_jobs")
        assert await engine._dispatch.still_idle(tx, run)


async def test_a_run_without_a_segment_is_found_again(store: Store, vault: Vault) -> None:
    engine = Engine(store, vault, {"code": Counting()})
    run = await engine.start(flow(step("a")), {}, WHO)
    async with store.connection() as connection:
        await connection.execute("DELETE FROM procrastinate_jobs")
    assert await engine.recover() == 1
    assert await engine.recover() == 0
    await engine.drain()
    assert (await engine.get(run)).status == "done"


async def test_a_segment_is_deferred_with_the_transaction_or_not_at_all(store: Store) -> None:
    dispatch = Dispatch(store)
    with contextlib.suppress(ZeroDivisionError):
        async with store.transaction() as tx:
            await dispatch.defer(tx, RunId("run_1"))
            raise ZeroDivisionError
    assert await count(store, "procrastinate_jobs") == 0
    async with store.transaction() as tx:
        await dispatch.defer(tx, RunId("run_1"))
        await dispatch.defer(tx, RunId("run_1"))  # due twice is due once, and the transaction goes on
        await tx.execute("SELECT 1")
    assert await count(store, "procrastinate_jobs") == 1


async def test_runs_let_in_together_are_due_once_each_though_one_of_them_was_due_already(store: Store) -> None:
    dispatch, ranks = Dispatch(store), {"run_0": 0, "run_1": -1, "run_2": -2}
    async with store.transaction() as tx:
        await dispatch.defer(tx, RunId("run_1"), rank=-7)
        await dispatch.defer_all(tx, {RunId(run): rank for run, rank in ranks.items()})
    async with store.connection() as connection:
        found = await (await connection.execute("SELECT queueing_lock, priority FROM procrastinate_jobs")).fetchall()
    assert {row["queueing_lock"]: row["priority"] for row in found} == {**ranks, "run_1": -7}
    assert len(found) == 3


async def test_a_run_put_in_line_by_a_cause_seen_before_is_the_one_it_started(store: Store, vault: Vault) -> None:
    engine = Engine(store, vault, {"code": Counting()})
    engine.limit(Limits(projects={WHO.project: Limit(concurrency=1)}))
    first, again = [await engine.start(flow(step("a")), {}, WHO, dedupe="mail 7") for _ in range(2)]
    other = await engine.start(flow(step("a")), {}, WHO, dedupe="mail 8")
    assert (first == again, first == other) == (True, False)
    assert (await count(store, "runs"), await count(store, "procrastinate_jobs")) == (2, 1)
    await engine.drain()
    assert {(await engine.get(run)).status for run in (first, other)} == {"done"}


async def test_no_connection_is_held_while_steps_run(store: Store, vault: Vault) -> None:
    together = asyncio.Barrier(5)
    async with Store(store.url, size=1) as narrow:

        async def waiting(context: StepContext, given: dict[str, JSON]) -> JSON:
            await together.wait()  # five steps in progress at once, on a pool of one connection
            async with narrow.connection() as connection:
                await connection.execute("SELECT 1")
            return context.path

        engine = Engine(narrow, vault, {"code": waiting})
        runs = [await engine.start(flow(step("a")), {}, WHO) for _ in range(5)]
        await engine.drain()
        assert {(await engine.get(run)).status for run in runs} == {"done"}


async def test_a_decision_for_a_run_that_waits_for_none_is_refused(store: Store, vault: Vault) -> None:
    engine = Engine(store, vault, {"code": Counting()})
    run = await engine.start(flow(step("a")), {}, WHO)
    for unknown, refusal in ((run, Conflict), (RunId("run_x"), NotFound)):
        with pytest.raises(refusal):
            async with store.transaction() as tx:
                await engine.signal(tx, unknown, ("a", 1, ""), {"decision": "approve"})
    assert await engine.steps(run) == ()


async def test_runs_are_listed_by_page(store: Store, vault: Vault) -> None:
    engine = Engine(store, vault, {"code": Counting()})
    one, two = flow(step("a"), name="one"), flow(step("a"), name="two")
    runs = [await engine.start(one if n % 2 else two, {}, WHO) for n in range(5)]
    page = await engine.list(limit=3)
    rest = await engine.list(before=page[-1].id, limit=3)
    assert [run.id for run in (*page, *rest)] == sorted(runs, reverse=True)
    assert {run.workflow for run in await engine.list(workflow="two")} == {"two"}
    assert await engine.list(status="failed") == ()
    with pytest.raises(Invalid):
        await engine.list(limit=0)
    with pytest.raises(NotFound):
        await engine.get(RunId("run_unknown"))


async def test_a_run_can_be_followed_live(store: Store, vault: Vault) -> None:
    engine = Engine(store, vault, {"code": Counting()}, pace=QUICK)
    run = await engine.start(flow(step("a"), step("b")), {}, WHO)
    seen: list[Event] = []
    async with working(engine), contextlib.aclosing(engine.follow(run)) as events:
        async with asyncio.timeout(60):
            seen.extend([event async for event in events])
    assert [(e.path, e.kind) for e in seen if e.kind] == [("a", "result"), ("b", "result")]
    assert seen[-1].status == "done"


async def test_a_run_out_of_money_asks_and_goes_on(store: Store, vault: Vault) -> None:
    async def paid(context: StepContext, given: dict[str, JSON]) -> JSON:
        context.spend(Decimal("0.03"))
        return context.path

    desk = TaskDesk(store, vault)
    engine = Engine(store, vault, {"code": paid}, desk=desk)
    review = Review(store, vault, engine)
    run = await engine.start(flow(step("a"), step("b"), step("c"), budget="0.05", output="{{ steps.c }}"), {}, WHO)
    await engine.drain()
    (task,) = await review.list(SAV)
    assert (task.path, task.assignee) == ("c", "group:admins")
    assert task.show == {"spent_eur": "0.06", "budget_eur": "0.05"}
    await review.decide(task.id, SAV, {"decision": "continue"})
    await engine.drain()
    assert (await engine.result(run), (await engine.get(run)).cost_eur) == ("c", Decimal("0.09"))
    assert ("c", ASK_BUDGET) in [(s.path, s.name) for s in await engine.steps(run)]


async def test_branches_and_loops_run_on_the_database_too(store: Store, vault: Vault) -> None:
    done = Counting()
    body = step("refine", "loop", {"max": 3, "until": "loop.turn == 2"}, steps=(step("draft"),))
    route = step("route", "switch", branches=(branch("inputs.n > 1", step("hard"), body), branch(None, step("easy"))))
    engine = Engine(store, vault, {"code": done})
    run = await engine.start(flow(route, step("skipped", when="false"), output="{{ steps.draft.path }}"), {"n": 2}, WHO)
    await engine.drain()
    assert await engine.result(run) == "route.refine#2.draft"
    kinds = {(s.path, s.kind) for s in await engine.steps(run)}
    assert {("route", "choice"), ("route.refine#1", "choice"), ("skipped", "skipped")} <= kinds


def test_the_schema_of_the_queue_is_the_one_of_the_library() -> None:
    names = [migration.name for migration in migrations()]
    assert names == sorted(names)
    assert len(names) > 30
