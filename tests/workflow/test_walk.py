"""Walks with many branches: the same commands in whatever order the lines of the journal came."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given as sampled
from hypothesis import settings
from hypothesis import strategies as st

from metier.calls import JSON
from metier.errors import MetierError
from metier.workflow.commands import (
    BEGAN,
    CHILD,
    GATHERED,
    Await,
    Call,
    Command,
    Emit,
    Entry,
    EntryKind,
    Finish,
    Items,
    Key,
    Park,
    RunStep,
    Sleep,
    Under,
    WaitUntil,
)
from metier.workflow.definition import Branch, OnError, Retry, Step, Workflow
from metier.workflow.interpreter import Walk
from tests.workflow.flows import branch, flow, step

T0 = datetime(2026, 11, 1, tzinfo=UTC)


def section(name: str, *steps: Step) -> Branch:
    return replace(branch(None, *steps), name=name)


def fault(retry: bool = False) -> dict[str, JSON]:
    return {"code": "unavailable", "message": "away", "retry": retry}


class Pen:
    """Feeds a walk the way the engine does, and keeps the lines in the order they came."""

    def __init__(self, workflow: Workflow, inputs: dict[str, JSON] | None = None) -> None:
        self.workflow, self.inputs = workflow, inputs or {}
        self.walk = Walk(workflow, self.inputs, {}, {"id": "run_1"})
        self.lines: list[Entry] = []

    def write(
        self, path: str, value: JSON = None, kind: EntryKind = "result", attempt: int = 1, name: str = ""
    ) -> None:
        for note in self.walk.notes():
            self.keep(Entry(note.path, note.attempt, "", note.kind, note.value, T0))
        self.keep(Entry(path, attempt, name, kind, value, T0))

    def keep(self, entry: Entry) -> None:
        self.lines.append(entry)
        self.walk.feed(entry)

    def paths(self) -> list[str]:
        return sorted(command.path for command in self.walk.frontier() if not isinstance(command, Finish))

    def end(self) -> Finish:
        (command,) = self.walk.frontier()
        assert isinstance(command, Finish), command
        return command


def seen(commands: tuple[Command, ...]) -> dict[str, Command]:
    return {getattr(command, "path", ""): command for command in commands}


def test_all_sections_run_at_once_and_are_seen_when_all_have_ended() -> None:
    both = step("both", "parallel", {"concurrency": None}, branches=(
        section("legal", step("law"), step("sum", with_={"x": "{{ steps.law }}", "other": "{{ steps.tone == null }}"})),
        section("tone", step("tone")),
    ))  # fmt: skip
    pen = Pen(flow(both, step("after"), output="{{ [steps.sum, steps.tone, steps.both] }}"))
    assert pen.paths() == ["both.legal.law", "both.tone.tone"]
    pen.write("both.tone.tone", "kind")
    pen.write("both.legal.law", 7)
    (command,) = pen.walk.frontier()
    assert isinstance(command, RunStep)
    assert command.with_ == {"x": 7, "other": True}, "a section sees nothing of the others"
    pen.write("both.legal.sum", 8)
    assert pen.paths() == ["after"]
    pen.write("after")
    assert pen.end().output == [8, "kind", {"legal": True, "tone": True}]


def test_no_more_sections_than_allowed_are_under_way() -> None:
    ways = tuple(section(name, step(name)) for name in "abc")
    pen = Pen(flow(step("all", "parallel", {"concurrency": 2}, branches=ways)))
    assert pen.paths() == ["all.a.a", "all.b.b"]
    pen.write("all.b.b")
    assert pen.paths() == ["all.a.a", "all.c.c"]


def test_a_section_that_fails_lets_the_others_end_first() -> None:
    ways = (section("a", step("a")), section("b", step("b"), step("c")))
    for policy in (None, OnError("instead", "continue")):
        pen = Pen(flow(step("all", "parallel", None, branches=ways, on_error=policy), output="{{ steps.all }}"))
        pen.write("all.a.a", fault(), "error")
        assert pen.paths() == ["all.b.b"]
        pen.write("all.b.b")
        pen.write("all.b.c")
        end = pen.end()
        if policy is None:
            assert end.failure is not None
            assert end.failure.path == "all.a.a", "where it failed, so that it can be resumed there"
        else:
            assert end.output == "instead"


def votes(**config: JSON) -> Step:
    return step("votes", "foreach", config, steps=(step("v", with_={"x": "{{ item }}", "n": "{{ index }}"}),))


def test_items_go_side_by_side_and_are_gathered() -> None:
    each = votes(over="{{ inputs.all }}", max=5, concurrency=2, each="{{ steps.v.x * 10 }}")
    pen = Pen(flow(each, step("after"), output="{{ [steps.votes, steps.v] }}"), {"all": [1, 2, 3]})
    assert pen.paths() == ["votes[0].v", "votes[1].v"]
    pen.write("votes[1].v", {"x": 2})
    assert pen.paths() == ["votes[0].v", "votes[2].v"]
    pen.write("votes[2].v", {"x": 3})
    pen.write("votes[0].v", {"x": 1})
    pen.write("after")
    gathered: JSON = {"items": [10, 20, 30], "errors": [], "count": 3, "failed": 0}
    assert pen.end().output == [gathered, None], "steps of a body are null outside of it"


def test_what_a_foreach_gives_is_made_of_its_items_and_errors() -> None:
    each = votes(
        times=3, max=3, on_item_error="collect", give={"n": "{{ size(items) }}", "bad": "{{ errors[0].index }}"}
    )
    pen = Pen(flow(each, output="{{ steps.votes }}"))
    pen.write("votes[0].v", 1)
    pen.write("votes[1].v", fault(), "error")
    pen.write("votes[2].v", 3)
    assert pen.end().output == {"n": 3, "bad": 1}


def test_an_item_that_must_not_fail_stops_those_far_behind_it() -> None:
    pen = Pen(flow(votes(times=9, max=9, concurrency=2)))
    pen.write("votes[1].v", 1)
    pen.write("votes[2].v", 2)
    assert pen.paths() == ["votes[0].v", "votes[3].v"]
    pen.write("votes[0].v", fault(), "error")
    end = pen.end()
    assert end.failure is not None
    assert end.failure.path == "votes[0].v"


@pytest.mark.parametrize(("config", "inputs"), [
    ({"over": "{{ inputs.all }}", "max": 2}, {"all": [1, 2, 3]}),
    ({"over": "{{ inputs.all }}", "max": 2}, {"all": "text"}),
    ({"times": "{{ inputs.n }}"}, {"n": -1}),
])  # fmt: skip
def test_items_that_are_too_many_or_none_are_an_error_of_the_step(
    config: dict[str, JSON], inputs: dict[str, JSON]
) -> None:
    end = Pen(flow(votes(**config)), inputs).end()
    assert end.failure is not None
    assert (end.failure.code, end.failure.path) == ("invalid", "votes")


def test_an_end_within_an_item_ends_the_item_and_within_a_section_the_run() -> None:
    stop = step("stop", "end", {"status": "enough", "output": {"i": "{{ index }}"}}, when="index == 1")
    each = step("each", "foreach", {"times": 2, "max": 2}, steps=(stop, step("v")))
    pen = Pen(flow(each, output="{{ steps.each.items }}"))
    assert pen.paths() == ["each[0].v"]
    pen.write("each[0].v", "went on")
    assert pen.end().output == ["went on", {"i": 1}]
    ways = (section("a", step("over", "end", {"status": "refused", "output": None})), section("b", step("b")))
    pen = Pen(flow(step("all", "parallel", None, branches=ways), step("never")))
    assert pen.paths() == ["all.b.b"]
    pen.write("all.b.b")
    assert pen.end().outcome == "refused"


def test_many_items_are_runs_of_their_own() -> None:
    pen = Pen(flow(votes(over="{{ inputs.all }}", max=100, concurrency=3), output="{{ steps.votes.items[59] }}"))
    pen = Pen(pen.workflow, {"all": [*range(60)]})
    (command,) = pen.walk.frontier()
    assert isinstance(command, Items)
    assert (len(command.items), command.width, command.given["inputs"]) == (60, 3, pen.inputs)
    pen.write("votes", {"items": 60}, "choice", name=CHILD)
    assert isinstance(pen.walk.frontier()[0], Under)
    pen.write("votes", {"outcomes": [{"value": n} for n in range(60)]}, "choice", name=GATHERED)
    assert pen.end().output == 59


def test_waiting_is_for_a_time_or_an_event() -> None:
    pen = Pen(flow(
        step("nap", "wait", {"for": "2h"}),
        step("till", "wait", {"until": "2026-12-01T00:00Z"}),
        step("paid", "wait", {"event": "payment", "key": "{{ inputs.id }}"}, timeout_s=60.0),
        output="{{ steps.paid.data }}",
    ), {"id": 7})  # fmt: skip
    assert pen.walk.frontier() == (Await("nap", 1, pen.workflow.steps[0], for_s=7200.0),)
    pen.write("nap", {"at": "2026-11-01T02:00:00+00:00"}, "choice", name=BEGAN)
    (command,) = pen.walk.frontier()
    assert isinstance(command, Sleep)
    assert command.at == datetime(2026, 11, 1, 2, tzinfo=UTC)
    pen.write("nap", {})
    (command,) = pen.walk.frontier()
    assert isinstance(command, Await)
    assert command.until == datetime(2026, 12, 1, tzinfo=UTC)
    pen.write("till", {})
    (command,) = pen.walk.frontier()
    assert isinstance(command, Await)
    assert (command.event, command.key, command.for_s) == ("payment", "7", 60.0)
    pen.write("paid", {"data": {"eur": 3}})
    assert pen.end().output == {"eur": 3}


def test_events_and_calls_are_commands_of_their_own() -> None:
    pen = Pen(flow(
        step("tell", "emit", {"event": "order", "key": "k"}, with_={"n": "{{ 1 + 1 }}"}),
        step("sub", "call", {"flow": "flows/sub.yaml"}, with_={"x": 1}, retry=Retry(1, "constant", 0)),
        output="{{ steps.sub }}",
    ))  # fmt: skip
    assert pen.walk.frontier() == (Emit("tell", 1, pen.workflow.steps[0], "order", "k", {"n": 2}),)
    pen.write("tell", {})
    for attempt in (1, 2):
        (command,) = pen.walk.frontier()
        command = command.then if isinstance(command, WaitUntil) else command
        assert isinstance(command, Call)
        assert (command.attempt, command.flow) == (attempt, "flows/sub.yaml")
        pen.write("sub", {"run": f"run_{attempt}"}, "choice", attempt, CHILD)
        assert isinstance(pen.walk.frontier()[0], Under)
        pen.write("sub", fault(retry=True) if attempt == 1 else "given", "error" if attempt == 1 else "result", attempt)
    assert pen.end().output == "given"


# ------ any workflow, any order


@st.composite
def workflows(draw: st.DrawFn) -> Workflow:
    return flow(*draw(_bodies(iter(f"s{n}" for n in range(99)), 2)), output="{{ inputs.n }}")


@st.composite
def _bodies(draw: st.DrawFn, names: Iterator[str], depth: int) -> tuple[Step, ...]:
    return tuple(draw(_steps(names, depth)) for _ in range(draw(st.integers(1, 3))))


@st.composite
def _steps(draw: st.DrawFn, names: Iterator[str], depth: int) -> Step:
    id = next(names)
    when = draw(st.sampled_from([None, None, "inputs.n % 2 == 0"]))
    error = draw(st.sampled_from([None, OnError("x", "continue"), OnError(None, "human")]))
    kind = draw(st.sampled_from(["code", "code", "human", "wait", *(["parallel", "foreach", "loop"] if depth else [])]))
    if kind == "parallel":
        ways = tuple(section(f"w{n}", *draw(_bodies(names, depth - 1))) for n in range(draw(st.integers(1, 3))))
        width = draw(st.sampled_from([None, 1, 2]))
        return step(id, "parallel", {"concurrency": width}, when=when, branches=ways, on_error=error)
    if kind == "foreach":
        config: JSON = {
            "times": draw(st.integers(0, 4)),
            "concurrency": draw(st.integers(1, 3)),
            "on_item_error": draw(st.sampled_from(["fail", "collect"])),
        }
        return step(id, "foreach", config, when=when, on_error=error, steps=draw(_bodies(names, depth - 1)))
    if kind == "loop":
        return step(id, "loop", {"max": 2, "until": "false"}, when=when, steps=draw(_bodies(names, depth - 1)))
    if kind == "human":
        return step(id, "human", {"title": "?"}, when=when)
    if kind == "wait":
        return step(id, "wait", {"for": 5}, when=when)
    retry = draw(st.sampled_from([None, Retry(1, "constant", 0)]))
    return step(id, "code", None, when=when, retry=retry, on_error=error)


def answer(pen: Pen, command: Command) -> None:
    """Do a command, with an outcome that its path decides."""
    work = command.then if isinstance(command, WaitUntil) else command
    match work:
        case Park():
            decision = ["retry", "output", "fail"][(len(work.path) + work.attempt) % 3]
            pen.write(work.path, {"decision": decision, "output": 0}, "decision", work.attempt, work.name)
        case Await():
            pen.write(work.path, {"at": None}, "choice", work.attempt, BEGAN)
        case RunStep() | Sleep():
            weight = sum(map(ord, work.path)) + work.attempt
            bad = weight % 5 == 0
            pen.write(work.path, fault(weight % 2 == 0) if bad else weight, "error" if bad else "result", work.attempt)
        case _:
            raise AssertionError(work)


@sampled(workflows(), st.integers(0, 4), st.randoms(use_true_random=False))
@settings(max_examples=120, deadline=None)
def test_a_walk_that_is_fed_knows_what_a_fresh_one_does(workflow: Workflow, n: int, chance: random.Random) -> None:
    pen = Pen(workflow, {"n": n})
    for _ in range(400):
        frontier = pen.walk.frontier()
        fresh = Walk(workflow, pen.inputs, {entry.key: entry for entry in pen.lines}, {"id": "run_1"})
        assert seen(fresh.frontier()) == seen(frontier)
        if isinstance(frontier[0], Finish):
            break
        answer(pen, chance.choice(frontier))
    else:
        raise AssertionError("the run does not end")
    shuffled = [*pen.lines]
    chance.shuffle(shuffled)
    walk, known = Walk(workflow, pen.inputs, {}, {"id": "run_1"}), dict[Key, Entry]()
    for entry in shuffled:
        walk.feed(entry)
        known[entry.key] = entry
        assert seen(walk.frontier()) == seen(Walk(workflow, pen.inputs, dict(known), {"id": "run_1"}).frontier())
    assert walk.frontier() == frontier


_VALUES: list[JSON] = [None, {}, 3, {"decision": "retry"}, {"decision": "output", "output": 1}, {"at": "x"}]
_VALUES += [{"outcomes": [None, {"code": 1}]}, {"met": 1, "score": "x"}, fault(True)]
_LINES = st.tuples(
    st.sampled_from(["s0", "s1", "s0.w0.s1", "s0[0].s1", "s0#1", "s0#1.s1"]),
    st.integers(1, 2),
    st.sampled_from(["", "!human", "!budget", BEGAN, CHILD, GATHERED, "call"]),
    st.sampled_from(["result", "error", "choice", "skipped", "decision", "answer"]),
    st.sampled_from(_VALUES),
)


@sampled(workflows(), st.lists(_LINES))
@settings(max_examples=200, deadline=None)
def test_whatever_stands_in_a_journal_a_walk_refuses_it_in_words(
    workflow: Workflow, lines: list[tuple[str, int, str, EntryKind, JSON]]
) -> None:
    walk = Walk(workflow, {"n": 1}, {}, {"id": "run_1"})
    for path, attempt, name, kind, value in lines:
        try:
            walk.feed(Entry(path, attempt, name, kind, value, T0))
            walk.frontier()
        except MetierError:
            return
