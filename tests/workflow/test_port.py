"""Both engines do the same: same lines of the journal, same values, same calls of step functions, for every kind."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace

import pytest

from metier.calls import JSON, RunId
from metier.errors import Conflict, Invalid, NotFound
from metier.store import Store
from metier.vault import Vault
from metier.workflow.commands import ASK_BUDGET
from metier.workflow.definition import Branch, OnError, Retry, Step, Workflow
from tests.workflow.engines import House, InMemory, Made, OnPostgres, came_to, journal, make
from tests.workflow.flows import WHO, branch, flow, step

__all__ = ["make"]

SUB = """
flow: sub
schema: 1
inputs: {x: integer}
steps:
  - {id: work, code: double, with: {x: "{{ inputs.x }}"}}
output: "{{ steps.work.x * 2 }}"
"""
BAD = SUB.replace('{x: "{{ inputs.x }}"}', "{do: refuse}")


@dataclass(frozen=True)
class Case:
    """A flow, what people decide in it, and what it must come to."""

    workflow: Workflow
    output: JSON = None
    status: str = "done"
    people: dict[str, JSON] = field(default_factory=dict)
    inputs: dict[str, JSON] = field(default_factory=dict)


def section(name: str, *steps: Step) -> Branch:
    return replace(branch(None, *steps), name=name)


def each(**config: JSON) -> Step:
    body = step("v", with_={"x": "{{ item }}", "n": "{{ index }}", "do": "{{ item == 2 ? 'refuse' : null }}"})
    return step("votes", "foreach", {"over": "{{ inputs.all }}", "max": 80, "concurrency": 3, **config}, steps=(body,))


def worded(code: str, message: str) -> JSON:
    return {"index": 1, "code": code, "message": message}


def simple(kind: str) -> Case:
    one = step("a", kind, "x@1", with_={"x": "{{ inputs.x }}"})  # type: ignore[arg-type]  # named below
    return Case(flow(one, output="{{ steps.a.x }}"), 4, inputs={"x": 4})


GATHERED: JSON = {"items": [1, None, 3], "errors": [worded("not_allowed", "refused")], "count": 3, "failed": 1}
REFUSED: dict[str, JSON] = {"do": "refuse"}
CASES: dict[str, Case] = {
    **{kind: simple(kind) for kind in ("tool", "code", "model", "rules", "llm", "agent", "retrieve")},
    "skipped": Case(flow(step("a", when="false"), output="{{ steps.a == null }}"), True),
    "tried again": Case(
        flow(step("a", with_={"do": "later"}, retry=Retry(3, "constant", 0.01)), output="{{ steps.a.path }}"), "a"
    ),
    "given up": Case(flow(step("a", with_={"do": "later"}, retry=Retry(1, "constant", 0))), status="failed"),
    "refused": Case(flow(step("a", with_=REFUSED)), status="failed"),
    "a mistake": Case(flow(step("a", with_={"do": "break"})), status="failed"),
    "wrong output": Case(flow(step("a", output={"type": "string"})), status="failed"),
    "wrong expression": Case(flow(step("a", with_={"x": "{{ inputs.none.at.all }}"})), status="failed"),
    "instead": Case(
        flow(step("a", with_=REFUSED, on_error=OnError("b", "continue")), output="{{ steps.a }}"), "b"
    ),
    "person instead": Case(
        flow(step("a", with_=REFUSED, on_error=OnError(None, "human")), output="{{ steps.a }}"), 7,
        people={"a!human": {"decision": "output", "output": 7}},
    ),
    "human": Case(
        flow(step("ask", "human", {"title": "Go?", "assign": "group:sav"}), output="{{ steps.ask.decision }}"), "yes",
        people={"ask": {"decision": "yes"}},
    ),
    "nobody decides": Case(flow(step("ask", "human", {"title": "Go?", "assign": "group:sav"})), status="parked"),
    "agent asks": Case(
        flow(step("a", "agent", {}, with_={"do": "ask"}), output="{{ steps.a }}"), {"thought": "hm", "decided": "ok"},
        people={"a!allow": "ok"},
    ),
    "over budget": Case(
        flow(step("a", with_={"eur": "0.02"}), step("b"), output="{{ steps.b.path }}", budget="0.01"), "b",
        people={f"b{ASK_BUDGET}": {"decision": "continue"}},
    ),
    "money stopped": Case(
        flow(step("a", with_={"eur": "0.02"}), step("b"), budget="0.01"), status="failed",
        people={f"b{ASK_BUDGET}": {"decision": "stop"}},
    ),
    "wait": Case(
        flow(step("nap", "wait", {"for": 0.05}), step("till", "wait", {"until": "2025-01-01"}), output="{{ 1 }}"), 1
    ),
    "event in time": Case(
        flow(
            step("tell", "emit", {"event": "order", "key": "{{ inputs.id }}"}, with_={"n": 3}),
            step("paid", "wait", {"event": "order", "key": "{{ inputs.id }}"}), output="{{ steps.paid.data.n }}",
        ), 3, inputs={"id": 7},
    ),
    "event too late": Case(
        flow(
            step("paid", "wait", {"event": "never"}, timeout_s=0.05, on_error=OnError("late", "continue")),
            output="{{ steps.paid }}",
        ), "late",
    ),
    "event awaited": Case(flow(step("paid", "wait", {"event": "never"})), status="parked"),
    "call": Case(
        replace(
            flow(step("sub", "call", {"flow": "sub.yaml"}, with_={"x": 4}), output="{{ steps.sub }}"),
            files={"sub.yaml": SUB},
        ), 8,
    ),
    "call of one that fails": Case(
        replace(
            flow(step("sub", "call", {"flow": "sub.yaml"}, with_={"x": 4}, retry=Retry(1, "constant", 0))),
            files={"sub.yaml": BAD},
        ), status="failed",
    ),
    "call of nothing": Case(flow(step("sub", "call", {"flow": "refund@3"})), status="failed"),
    "switch": Case(
        flow(
            step("way", "switch", branches=(branch("inputs.x > 5", step("big")), branch(None, step("small")))),
            output="{{ [steps.way.branch, steps.big == null] }}",
        ), [1, True], inputs={"x": 1},
    ),
    "loop": Case(
        flow(
            step("refine", "loop", {"max": 4, "until": "steps.g.n >= 3", "keep": "steps.g.n"},
                 steps=(step("g", with_={"n": "{{ loop.turn }}"}),)),
            output="{{ [steps.refine.turns, steps.g.n] }}",
        ), [3, 3],
    ),
    "end": Case(
        flow(step("stop", "end", {"status": "enough", "output": "{{ inputs.x }}"}, when="inputs.x > 0"), step("b")), 2,
        inputs={"x": 2},
    ),
    "parallel": Case(
        flow(
            step("both", "parallel", {}, branches=(section("a", step("x"), step("y")), section("b", step("z")))),
            output="{{ [steps.both, steps.y.path, steps.z.path] }}",
        ), [{"a": True, "b": True}, "both.a.y", "both.b.z"],
    ),
    "a section fails": Case(
        flow(
            step("both", "parallel", {}, on_error=OnError("so", "continue"),
                 branches=(section("a", step("x", with_=REFUSED)), section("b", step("y"), step("z")))),
            output="{{ steps.both }}",
        ), "so",
    ),
    "foreach": Case(
        flow(each(each="{{ steps.v.x }}", on_item_error="collect"), output="{{ steps.votes }}"), GATHERED,
        inputs={"all": [1, 2, 3]},
    ),
    "foreach fails": Case(flow(each()), status="failed", inputs={"all": [1, 3, 2, 4, 5, 6, 7, 8]}),
    "items as runs": Case(
        flow(each(each="{{ steps.v.x }}", on_item_error="collect", **{"as": "runs"}), output="{{ steps.votes }}"),
        GATHERED, inputs={"all": [1, 2, 3]},
    ),
    "items as runs fail": Case(
        flow(each(concurrency=1, **{"as": "runs"})), status="failed", inputs={"all": [1, 2, 3, 4]}
    ),
    "many items": Case(flow(each(), output="{{ steps.votes.count }}"), 60, inputs={"all": [*range(3, 63)]}),
    "too many items": Case(flow(each()), status="failed", inputs={"all": [*range(81)]}),
    "kept": Case(
        flow(
            step("twice", "foreach", {"times": 3, "max": 3, "concurrency": 1},
                 steps=(step("k", with_={"x": 1}, cache_s=60.0),)),
            output="{{ steps.twice.items.map(i, i.path) }}",
        ), ["twice[0].k"] * 3,
    ),
}  # fmt: skip


async def played(house: House, case: Case) -> RunId:
    run = await house.engine.start(case.workflow, case.inputs, WHO)
    await house.settle()
    return run


@pytest.mark.parametrize("name", CASES)
async def test_a_flow_comes_to_its_end_in_memory(name: str) -> None:
    case = CASES[name]
    house = InMemory(case.people)
    run = await played(house, case)
    found = await house.engine.get(run)
    assert found.status == case.status, found.failure
    if case.status == "done":
        assert await house.engine.result(run) == case.output
    replayed = await house.engine.replay(run)
    assert replayed.differences == ()


async def test_postgresql_does_the_same(store: Store, vault: Vault) -> None:
    different = []
    for name, case in CASES.items():
        houses: tuple[House, House] = (InMemory(case.people), OnPostgres(store, vault, case.people))
        seen = []
        for house in houses:
            run = await played(house, case)
            commands = sorted(house.acting.commands)
            seen.append((await journal(house.engine, run), await came_to(house.engine, run), commands))
        if seen[0] != seen[1]:
            different.append((name, *seen))
    assert not different
    runs = await houses[1].engine.list(limit=200)
    assert len(runs) > len(CASES)
    replayed = [(run.workflow, await houses[1].engine.replay(run.id)) for run in runs]
    assert not [(name, one.differences) for name, one in replayed if not one.same]


# ------ what is done to runs from outside


ASK = step("ask", "human", {"title": "Go?", "assign": "group:sav"}, output={"enum": ["yes", "no"]})


async def test_the_same_cause_starts_a_run_once(make: Made) -> None:
    engine = make({}).engine
    runs = {await engine.start(flow(step("a")), {}, WHO, dedupe="mail-1") for _ in range(3)}
    assert len(runs) == 1
    assert await engine.start(flow(step("a")), {}, WHO) not in runs
    strict = replace(flow(step("a")), inputs={"type": "object", "required": ["email"]})
    with pytest.raises(Invalid, match="missing 'email'"):
        await engine.start(strict, {}, WHO)
    with pytest.raises(NotFound):
        await engine.get(RunId("run_none"))


async def test_a_decision_is_taken_once(make: Made) -> None:
    house = make({})
    run = await house.engine.start(flow(ASK, output="{{ steps.ask }}"), {}, WHO)
    await house.settle()
    assert (await house.engine.get(run)).parked_on == "ask"
    with pytest.raises(Conflict, match="parked"):
        await house.engine.result(run)
    with pytest.raises(Conflict):
        await house.decide(run, ("other", 1, ""), "yes")
    await house.decide(run, ("ask", 1, ""), "yes")
    with pytest.raises(Conflict):
        await house.decide(run, ("ask", 1, ""), "no")
    await house.settle()
    assert await house.engine.result(run) == "yes"


async def test_a_failed_run_goes_on_where_it_failed(make: Made) -> None:
    house = make({})
    tried = step("b", with_={"do": "later"}, retry=Retry(1, "constant", 0))
    run = await house.engine.start(flow(step("a"), tried, output="{{ steps.b.path }}"), {}, WHO)
    await house.settle()
    assert (await house.engine.get(run)).status == "failed"
    await house.engine.resume(run)
    await house.settle()
    assert await house.engine.result(run) == "b"
    assert [command[:2] for command in house.acting.commands] == [("a", 1), ("b", 1), ("b", 2), ("b", 3)]
    assert (await house.engine.replay(run)).differences == ()
    with pytest.raises(Conflict, match="done"):
        await house.engine.resume(run)


async def test_a_cancelled_run_takes_those_below_with_it(make: Made) -> None:
    house = make({})
    sub = "flow: sub\nschema: 1\nsteps:\n  - {id: ask, human: {assign: group:sav, title: '?'}}\n"
    run = await house.engine.start(
        replace(flow(step("sub", "call", {"flow": "sub.yaml"})), files={"sub.yaml": sub}), {}, WHO
    )
    await house.settle()
    assert {one.status for one in await house.engine.list()} == {"parked"}
    await house.engine.cancel(run)
    assert [one.status for one in await house.engine.list()] == ["cancelled", "cancelled"]
    with pytest.raises(Conflict, match="cancelled"):
        await house.engine.cancel(run)


async def test_events_are_told_once_and_to_those_who_wait(make: Made) -> None:
    house = make({})
    wait = step("paid", "wait", {"event": "payment", "key": "{{ inputs.id }}"})
    runs = [await house.engine.start(flow(wait, output="{{ steps.paid.data }}"), {"id": n}, WHO) for n in ("1", "2")]
    await house.settle()
    for first in (True, False):
        assert await house.engine.emit(None, WHO.project, "payment", "2", {"eur": 3}, id="bank-7") is first
    await house.settle()
    assert [(await house.engine.get(run)).status for run in runs] == ["parked", "done"]
    assert await house.engine.result(runs[1]) == {"eur": 3}


async def test_runs_are_listed_and_followed(make: Made) -> None:
    house = make({})
    runs = [await house.engine.start(flow(step("a"), output="{{ 1 }}"), {}, WHO) for _ in range(3)]
    await house.settle()
    assert [one.id for one in await house.engine.list(limit=2)] == sorted(runs)[:0:-1]
    assert [one.id for one in await house.engine.list(before=sorted(runs)[1])] == sorted(runs)[:1]
    assert await house.engine.list(status="failed") == ()
    told = []
    async with contextlib.aclosing(house.engine.follow(runs[0])) as events:
        async for event in events:
            told.append((event.path, event.status))
    assert told == [("a", None), ("", "done")]
    assert await house.engine.inputs(runs[0]) == {}
    assert (await house.engine.definition(runs[0])).name == "flow"
