"""Runs on a real PostgreSQL with several branches under way: people, events, times, runs of runs, items."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from decimal import Decimal

import pytest

from metier.calls import JSON, OrganisationId, ProjectId, RunId
from metier.errors import Conflict, NotAllowed, ProviderUnavailable
from metier.store import Store
from metier.vault import Vault
from metier.workflow.definition import Branch, OnError, Retry, Step, parse
from metier.workflow.dispatch import Pace
from metier.workflow.engine import Engine, StepContext
from metier.workflow.review import Review, Reviewer, TaskDesk
from tests.sealing import age, found, own, proven
from tests.workflow.flows import WHO, Counting, branch, flow, step

ZOE = Reviewer("zoe", frozenset({"sav", "admins"}))
QUICK = Pace(heartbeat_s=0.2, stall_s=1.0, recover_s=0.2, poll_s=0.2, grace_s=0.5)
SUB = """
flow: sub
schema: 1
inputs: {x: integer}
steps:
  - {id: do, code: double, with: {x: '{{ inputs.x }}'}}
output: '{{ steps.do }}'
"""


def section(name: str, *steps: Step) -> Branch:
    return replace(branch(None, *steps), name=name)


def ask(id: str) -> Step:
    return step(id, "human", {"assign": "group:sav", "title": id})


async def children(store: Store, run: RunId) -> list[tuple[str, str]]:
    async with store.connection() as connection:
        rows = await connection.execute("SELECT id, status FROM runs WHERE parent = %s ORDER BY id", (run,))
        return [(row["id"], row["status"]) for row in await rows.fetchall()]


async def test_steps_of_sections_are_under_way_at_once(store: Store, vault: Vault) -> None:
    together = asyncio.Barrier(3)

    async def meet(context: StepContext, given: dict[str, JSON]) -> JSON:
        await together.wait()
        return context.path

    ways = tuple(section(name, step(name)) for name in "abc")
    engine = Engine(store, vault, {"code": meet})
    run = await engine.start(flow(step("all", "parallel", branches=ways), output="{{ [steps.a, steps.c] }}"), {}, WHO)
    await engine.drain()
    assert await engine.result(run) == ["all.a.a", "all.c.c"]


async def test_a_question_in_one_section_stops_no_other(store: Store, vault: Vault) -> None:
    reached, go = asyncio.Event(), asyncio.Event()

    async def slow(context: StepContext, given: dict[str, JSON]) -> JSON:
        if context.path == "all.b.slow":
            reached.set()
            await go.wait()
        return context.path

    engine = Engine(store, vault, {"code": slow}, desk=TaskDesk(store, vault))
    review = Review(store, vault, engine)
    ways = (section("a", ask("one"), step("x")), section("b", step("slow"), ask("two")))
    run = await engine.start(flow(step("all", "parallel", branches=ways), output="{{ [steps.x, steps.two] }}"), {}, WHO)
    async with asyncio.TaskGroup() as group:
        working = group.create_task(engine.drain())
        await asyncio.wait_for(reached.wait(), 60)
        while not (tasks := await review.list(ZOE)):  # noqa: ASYNC110  # the engine tells nobody of it here
            await asyncio.sleep(0.02)
        assert (await engine.get(run)).status == "running"
        await review.decide(tasks[0].id, ZOE, {"decision": "yes"})
        assert (await engine.get(run)).status == "running", "a decision does not take the run from its worker"
        go.set()
        await working
    assert (await engine.get(run)).status == "parked"
    (task,) = await review.list(ZOE)
    assert task.path == "all.b.two"
    assert "all.a.x" in [line.path for line in await engine.steps(run)]
    with pytest.raises(Conflict):
        await review.decide(tasks[0].id, ZOE, {"decision": "again"})
    await review.decide(task.id, ZOE, {"decision": "no"})
    await engine.drain()
    assert await engine.result(run) == ["all.a.x", {"decision": "no"}]


async def test_a_run_with_a_question_and_a_timer_wakes_for_either(store: Store, vault: Vault) -> None:
    engine = Engine(store, vault, {"code": Counting()}, desk=TaskDesk(store, vault))
    review = Review(store, vault, engine)
    ways = (section("a", ask("one"), step("x")), section("b", step("nap", "wait", {"for": "1h"})))
    run = await engine.start(flow(step("all", "parallel", branches=ways), output="{{ steps.nap.at }}"), {}, WHO)
    await engine.drain()
    found = await engine.get(run)
    assert (found.status, found.parked_on) == ("waiting", "all.a.one")
    (task,) = await review.list(ZOE)
    await review.decide(task.id, ZOE, {"decision": "yes"})
    await engine.drain()
    assert "all.a.x" in [line.path for line in await engine.steps(run)]
    assert (await engine.get(run)).status == "waiting"
    await engine.cancel(run)


async def test_an_event_wakes_who_waits_and_is_told_once(store: Store, vault: Vault) -> None:
    engine = Engine(store, vault, {"code": Counting()})
    wait = step("paid", "wait", {"event": "payment", "key": "{{ inputs.id }}"})
    runs = [await engine.start(flow(wait, output="{{ steps.paid.data }}"), {"id": n}, WHO) for n in ("1", "2")]
    await engine.drain()
    assert [(await engine.get(run)).status for run in runs] == ["parked", "parked"]
    assert await engine.recover() == 0, "who waits for an event alone is not due"
    for first in (True, False):
        assert await engine.emit(None, WHO.project, "payment", "2", {"eur": 3}, id="bank-7") is first
    await engine.drain()
    assert [(await engine.get(run)).status for run in runs] == ["parked", "done"]
    assert await engine.result(runs[1]) == {"eur": 3}


async def test_a_flow_tells_events_to_others_even_before_they_wait(store: Store, vault: Vault) -> None:
    engine = Engine(store, vault, {"code": Counting()})
    wait = step("paid", "wait", {"event": "payment", "key": "k"})
    later = await engine.start(flow(wait, output="{{ steps.paid.data.n }}"), {}, WHO)
    tell = step("tell", "emit", {"event": "payment", "key": "k"}, with_={"n": "{{ 4 }}"})
    teller = await engine.start(flow(tell, name="teller"), {}, WHO)
    await engine.drain()
    assert (await engine.get(teller)).status == "done"
    assert await engine.result(later) == 4


async def test_an_event_that_does_not_come_in_time_is_an_error(store: Store, vault: Vault) -> None:
    engine = Engine(store, vault, {"code": Counting()})
    wait = step("paid", "wait", {"event": "payment", "key": "k"}, timeout_s=0.05, on_error=OnError("late", "continue"))
    run = await engine.start(flow(wait, output="{{ steps.paid }}"), {}, WHO)
    await engine.drain()
    assert await engine.result(run) == "late"


async def double(context: StepContext, given: dict[str, JSON]) -> JSON:
    context.spend(Decimal("0.01"))
    value = given["x"]
    assert isinstance(value, int)
    if value < 0:
        raise NotAllowed("negative")
    return 2 * value


async def test_a_called_flow_is_a_run_of_its_own(store: Store, vault: Vault) -> None:
    engine = Engine(store, vault, {"code": double})
    call = step("sub", "call", {"flow": "flows/sub.yaml"}, with_={"x": "{{ inputs.x }}"})
    parent = replace(flow(call, output="{{ steps.sub }}"), files={"flows/sub.yaml": SUB})
    run = await engine.start(parent, {"x": 21}, WHO)
    await engine.drain()
    assert await engine.result(run) == 42
    assert (await engine.get(run)).cost_eur == Decimal("0.01")
    ((child, status),) = await children(store, run)
    assert status == "done"
    assert (await engine.get(RunId(child))).workflow == "sub"


async def test_a_called_flow_that_fails_is_called_anew_and_then_an_error(store: Store, vault: Vault) -> None:
    engine = Engine(store, vault, {"code": double})
    retry, late = Retry(1, "constant", 0), OnError("instead", "continue")
    call = step("sub", "call", {"flow": "sub.yaml"}, with_={"x": -1}, retry=retry, on_error=late)
    run = await engine.start(replace(flow(call, output="{{ steps.sub }}"), files={"sub.yaml": SUB}), {}, WHO)
    await engine.drain()
    assert await engine.result(run) == "instead"
    assert [status for _, status in await children(store, run)] == ["failed", "failed"]
    errors = [line for line in await engine.steps(run) if line.kind == "error"]
    assert [(line.attempt, line.value["code"]) for line in errors if isinstance(line.value, dict)] == [
        (1, "not_allowed"),
        (2, "not_allowed"),
    ]


async def test_a_cancelled_run_takes_those_below_with_it(store: Store, vault: Vault) -> None:
    engine = Engine(store, vault, {}, desk=TaskDesk(store, vault))
    review = Review(store, vault, engine)
    sub = parse("flow: sub\nschema: 1\nsteps:\n  - {id: ask, human: {assign: group:sav, title: '?'}}\n", {})
    call = step("sub", "call", {"flow": "sub.yaml"})
    run = await engine.start(replace(flow(call), files={"sub.yaml": sub.source}), {}, WHO)
    await engine.drain()
    assert len(await review.list(ZOE)) == 1
    await engine.cancel(run)
    assert [status for _, status in await children(store, run)] == ["cancelled"]
    assert await review.list(ZOE) == ()


def many(number: int, **config: JSON) -> Step:
    body = step("do", with_={"x": "{{ item + inputs.base }}", "before": "{{ steps.first }}"})
    return step("each", "foreach", {"over": "{{ inputs.all }}", "max": number, "as": "runs", **config}, steps=(body,))


async def test_items_that_are_runs_give_what_paths_give(store: Store, vault: Vault) -> None:
    under, most, three = [0], [0], asyncio.Event()

    async def counted(context: StepContext, given: dict[str, JSON]) -> JSON:
        under[0] += 1
        most[0] = max(under[0], most[0])
        if under[0] == 3:
            three.set()
        await asyncio.wait_for(three.wait(), 60)
        await asyncio.sleep(0.01)
        under[0] -= 1
        return await double(context, given)

    engine = Engine(store, vault, {"code": counted, "tool": Counting()})
    inputs: dict[str, JSON] = {"all": [*range(30)], "base": 100}
    results = []
    for kept in ("runs", "paths"):
        most[0] = 0
        three.clear()
        made = flow(step("first", "tool"), many(30, **{"as": kept, "concurrency": 3}), output="{{ steps.each }}")
        run = await engine.start(made, inputs, WHO)
        await engine.drain()
        results.append(await engine.result(run))
        assert (await engine.get(run)).cost_eur == Decimal("0.30")
        assert most[0] == 3
    assert results[0] == results[1] == {
        "items": [2 * (n + 100) for n in range(30)], "errors": [], "count": 30, "failed": 0
    }  # fmt: skip


async def test_items_that_fail_are_collected_or_stop_the_others(store: Store, vault: Vault) -> None:
    engine, first = Engine(store, vault, {"code": double, "tool": Counting()}), step("first", "tool")
    inputs: dict[str, JSON] = {"all": [1, -5, *range(2, 20)], "base": 0}
    collected = await engine.start(
        flow(first, many(30, on_item_error="collect"), output="{{ steps.each }}"), inputs, WHO
    )
    failed = await engine.start(flow(first, many(30, concurrency=1), step("never")), inputs, WHO)
    await engine.drain()
    value = await engine.result(collected)
    assert isinstance(value, dict)
    assert value["errors"] == [{"index": 1, "code": "not_allowed", "message": "negative"}]
    assert (value["count"], value["failed"]) == (20, 1)
    found = await engine.get(failed)
    assert found.failure is not None
    assert (found.status, found.failure.path, found.failure.code) == ("failed", "each[1]", "not_allowed")
    statuses = [status for _, status in await children(store, failed)]
    assert (statuses.count("done"), statuses.count("failed"), statuses.count("cancelled")) == (1, 1, 18)


async def test_what_a_step_gave_is_given_again_for_the_same(store: Store, vault: Vault) -> None:
    done = Counting()
    engine = Engine(store, vault, {"code": done})
    kept = flow(step("a", with_={"x": "{{ inputs.x }}"}, cache_s=600.0), output="{{ steps.a.x }}")
    results = []
    for x in (1, 1, 2):
        run = await engine.start(kept, {"x": x}, WHO)
        await engine.drain()
        results.append(await engine.result(run))
    assert results == [1, 1, 2]
    assert len(done.runs) == 2
    run = await engine.start(kept, {"x": 1}, replace(WHO, project=type(WHO.project)("other")))
    await engine.drain()
    assert len(done.runs) == 3, "nothing is shared between projects"


async def test_what_is_kept_is_sealed_for_its_organisation_and_what_was_kept_before_that_is_given(
    store: Store, vault: Vault
) -> None:
    done = Counting()
    engine = Engine(store, vault, {"code": done})
    keeps = flow(step("a", with_={"x": 1}, cache_s=600.0), output="{{ steps.a.x }}")
    theirs = replace(WHO, organisation=OrganisationId("org_a"))
    await engine.start(keeps, {}, theirs)
    await engine.drain()
    ((sealed, digest),) = await found(store, "kept_results", "sealed", "digest")
    clear = proven(vault, "org_a", "kept", sealed, digest.hex())
    await age(store, "kept_results", "sealed", sealed, vault.seal("kept", clear, digest.hex()))
    run = await engine.start(keeps, {}, theirs)
    await engine.drain()
    assert await engine.result(run) == 1
    assert len(done.runs) == 1


async def test_an_event_is_sealed_for_the_organisation_of_its_project_and_one_from_before_that_is_had(
    store: Store, vault: Vault
) -> None:
    await own(store, "theirs", "org_a")
    engine = Engine(store, vault, {"code": Counting()})
    tell = flow(step("tell", "emit", {"event": "payment", "key": "k"}, with_={"n": "{{ 4 }}"}), name="teller")
    wait = flow(step("paid", "wait", {"event": "order", "key": "k"}), output="{{ steps.paid.data.n }}")
    whose = {project: replace(WHO, project=ProjectId(project)) for project in ("sales", "theirs")}
    for who in whose.values():
        await engine.start(tell, {}, who)
    await engine.drain()
    later = [await engine.start(wait, {}, who) for who in whose.values()]
    for project in whose:
        for first in (True, False):
            assert (
                await engine.emit(None, ProjectId(project), "order", "k", {"n": 5}, id=f"order in {project}") is first
            )
    events = await found(store, "events", "data", "id", "project")
    assert sorted(project for _, _, project in events) == ["sales", "sales", "theirs", "theirs"]
    for sealed, id, project in events:
        clear = proven(vault, "org_a" if project == "theirs" else "main", "event", sealed, id)
        await age(store, "events", "data", sealed, vault.seal("event", clear, id))
    await engine.drain()
    assert [await engine.result(run) for run in later] == [5, 5]


async def test_a_retry_in_one_section_does_not_hold_the_other(store: Store, vault: Vault) -> None:
    seen: list[str] = []

    async def flaky(context: StepContext, given: dict[str, JSON]) -> JSON:
        seen.append(f"{context.path}/{context.attempt}")
        if context.path == "all.a.x" and context.attempt == 1:
            raise ProviderUnavailable("away")
        return None

    ways = (section("a", step("x", retry=Retry(1, "constant", 0.2))), section("b", step("y"), step("z")))
    engine = Engine(store, vault, {"code": flaky}, pace=QUICK)
    run = await engine.start(flow(step("all", "parallel", branches=ways)), {}, WHO)
    await engine.drain()
    assert (await engine.get(run)).status == "done"
    assert seen[-1] == "all.a.x/2"
    assert len(seen) == 4
