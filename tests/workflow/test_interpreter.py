"""What comes next: every construct, then any journal, any crash, any order of doing things."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given as sampled
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from metier.calls import JSON
from metier.errors import NonDeterministicReplay
from metier.workflow.commands import (
    ASK_BUDGET,
    ASK_HUMAN,
    Command,
    Entry,
    EntryKind,
    Finish,
    Key,
    Note,
    Park,
    RunStep,
    WaitUntil,
)
from metier.workflow.definition import Branch, Kind, Mark, OnError, Retry, RunBudget, Step, Workflow
from metier.workflow.interpreter import advance, given

HERE = Mark("flow.yaml", 1, 1)
T0 = datetime(2026, 11, 1, tzinfo=UTC)


def step(id: str, kind: Kind = "code", config: JSON = None, **more: object) -> Step:
    return replace(Step(id, kind, config, HERE), **more)  # type: ignore[arg-type]  # terse tests


def flow(*steps: Step, output: JSON = None, budget: RunBudget | None = None) -> Workflow:
    return Workflow("flow", {}, steps, output, budget, (), {}, "hash", "")


def branch(when: str | None, *steps: Step) -> Branch:
    return Branch(when, steps, HERE)


class Pen:
    """Writes a journal the way the engine does."""

    def __init__(self, workflow: Workflow, inputs: dict[str, JSON] | None = None) -> None:
        self.workflow, self.inputs = workflow, inputs or {}
        self.journal: dict[Key, Entry] = {}

    def next(self) -> Command:
        *notes, last = advance(self.workflow, self.inputs, self.journal, {"id": "run_1"})
        for note in notes:
            assert isinstance(note, Note)
            self.write(note.path, note.value, note.kind, note.attempt)
        return last

    def write(
        self, path: str, value: JSON, kind: EntryKind = "result", attempt: int = 1, name: str = "", cost: str = "0"
    ) -> None:
        assert (path, attempt, name) not in self.journal, "a line of the journal is written once"
        self.journal[path, attempt, name] = Entry(path, attempt, name, kind, value, T0, Decimal(cost))

    def runs(self) -> tuple[str, int]:
        command = self.next()
        assert isinstance(command, RunStep), command
        return command.path, command.attempt

    def ends(self) -> Finish:
        command = self.next()
        assert isinstance(command, Finish), command
        return command

    def parks(self) -> Park:
        command = self.next()
        assert isinstance(command, Park), command
        return command


def fault(retry: bool = True) -> dict[str, JSON]:
    return {"code": "unavailable", "message": "away", "retry": retry}


def test_steps_run_in_order_and_see_what_came_before() -> None:
    pen = Pen(
        flow(
            step("a", with_={"x": "{{ inputs.x }}"}),
            step("b", with_={"y": "{{ steps.a.n + 1 }}"}),
            output="{{ steps.b }}",
        )
    )
    pen.inputs = {"x": 4}
    first = pen.next()
    assert isinstance(first, RunStep)
    assert (first.path, first.with_) == ("a", {"x": 4})
    pen.write("a", {"n": 5})
    second = pen.next()
    assert isinstance(second, RunStep)
    assert second.with_ == {"y": 6}
    pen.write("b", "end")
    assert pen.ends() == Finish("end")
    assert given(pen.workflow, pen.inputs, pen.journal) == {"a": {"x": 4}, "b": {"y": 6}}


def test_a_step_whose_condition_fails_is_skipped_and_null() -> None:
    pen = Pen(flow(step("a", when="inputs.go"), step("b"), output="{{ steps.a == null }}"), {"go": False})
    assert pen.runs() == ("b", 1)
    assert pen.journal["a", 1, ""].kind == "skipped"
    pen.write("b", 1)
    assert pen.ends().output is True


def test_a_switch_takes_the_first_branch_that_holds_and_keeps_to_it() -> None:
    route = step(
        "route",
        "switch",
        branches=(
            branch("inputs.n > 9", step("big")),
            branch("inputs.n > 1", step("mid")),
            branch(None, step("small")),
        ),
    )
    pen = Pen(flow(route, step("after"), output="{{ steps.mid }}"), {"n": 5})
    assert pen.runs() == ("route.mid", 1)
    assert pen.journal["route", 1, ""].value == {"branch": 1}
    pen.inputs = {"n": 100}  # what was chosen stays chosen
    assert pen.runs() == ("route.mid", 1)
    pen.write("route.mid", "m")
    assert pen.runs() == ("after", 1)
    assert Pen(flow(route), {"n": 0}).runs() == ("route.small", 1)


def test_a_switch_without_a_branch_that_holds_goes_on() -> None:
    pen = Pen(flow(step("route", "switch", branches=(branch("false", step("x")),)), step("after")))
    assert pen.runs() == ("after", 1)


def test_a_loop_ends_when_its_condition_holds() -> None:
    body = step("refine", "loop", {"max": 3, "until": "steps.grade.score >= 8"}, steps=(step("draft"), step("grade")))
    pen = Pen(flow(body, output="{{ steps.draft }}"))
    for turn, score in ((1, 5), (2, 9)):
        assert pen.runs() == (f"refine#{turn}.draft", 1)
        pen.write(f"refine#{turn}.draft", f"draft {turn}")
        assert pen.runs() == (f"refine#{turn}.grade", 1)
        pen.write(f"refine#{turn}.grade", {"score": score})
    assert pen.ends().output == "draft 2"


@pytest.mark.parametrize(("scores", "kept"), [((7, 4, 6), 1), ((3, 3, 7), 3), ((5, 5, 5), 1), ((1, 6, 2), 2)])
def test_a_loop_that_uses_up_its_turns_keeps_the_best(scores: tuple[int, ...], kept: int) -> None:
    config: JSON = {"max": 3, "until": "steps.grade.score >= 8", "keep": "steps.grade.score"}
    pen = Pen(flow(step("refine", "loop", config, steps=(step("draft"), step("grade"))), output="{{ steps.draft }}"))
    for turn, score in enumerate(scores, 1):
        pen.next()
        pen.write(f"refine#{turn}.draft", turn)
        pen.next()
        pen.write(f"refine#{turn}.grade", {"score": score})
    assert pen.ends().output == kept


def test_the_turn_that_met_the_condition_is_kept_whatever_its_score() -> None:
    config: JSON = {"max": 3, "until": "steps.grade.ok", "keep": "steps.grade.score"}
    pen = Pen(flow(step("refine", "loop", config, steps=(step("grade"),)), output="{{ steps.refine }}"))
    for ok, score in ((False, 9), (True, 4)):
        pen.next()
        pen.write(f"refine#{1 + ok}.grade", {"ok": ok, "score": score})
    assert pen.ends().output == {"turns": 2, "kept": 2, "met": True, "score": 4}


def test_an_end_step_stops_the_run_wherever_it_stands() -> None:
    inner = step(
        "route", "switch", branches=(branch("true", step("stop", "end", {"status": "escalated", "output": None})),)
    )
    pen = Pen(flow(inner, step("never"), output={"sent": "{{ steps.never != null }}"}))
    assert pen.ends() == Finish({"sent": False}, "escalated")
    given_output = step("stop", "end", {"status": "refused", "output": {"why": "{{ inputs.why }}"}})
    assert Pen(flow(given_output), {"why": "spam"}).ends() == Finish({"why": "spam"}, "refused")


def test_a_failure_that_may_pass_is_tried_again_later_and_later() -> None:
    pen = Pen(flow(step("a", retry=Retry(3, "exponential", 2.0))))
    for attempt, pause in ((1, 2), (2, 4), (3, 8)):
        pen.write("a", fault(), "error", attempt)
        command = pen.next()
        assert isinstance(command, WaitUntil)
        assert (command.at, command.then.attempt) == (T0 + timedelta(seconds=pause), attempt + 1)
    pen.write("a", fault(), "error", 4)
    failure = pen.ends().failure
    assert failure is not None
    assert (failure.code, failure.path, failure.attempt) == ("unavailable", "a", 4)


def test_a_failure_that_cannot_pass_is_not_tried_again() -> None:
    pen = Pen(flow(step("a", retry=Retry(3, "constant", 0))))
    pen.write("a", fault(retry=False), "error")
    assert pen.ends().failure is not None


def test_on_error_puts_a_value_in_place_of_the_step() -> None:
    pen = Pen(flow(step("a", on_error=OnError({"tier": "unknown"}, "continue")), output="{{ steps.a.tier }}"))
    pen.write("a", fault(), "error")
    assert pen.ends().output == "unknown"


@pytest.mark.parametrize("decision", ["retry", "output", "fail"])
def test_on_error_may_ask_a_person(decision: str) -> None:
    pen = Pen(flow(step("a", on_error=OnError(None, "human", "group:it")), output="{{ steps.a }}"))
    pen.write("a", fault(), "error")
    park = pen.parks()
    assert (park.path, park.name, park.task["assign"]) == ("a", ASK_HUMAN, "group:it")
    pen.write("a", {"decision": decision, "output": "by hand"}, "decision", 1, ASK_HUMAN)
    if decision == "retry":
        assert pen.runs() == ("a", 2)
    else:
        end = pen.ends()
        assert (end.output == "by hand") is (decision == "output")
        assert (end.failure is not None) is (decision == "fail")


def test_a_person_is_asked_with_what_they_need_to_see() -> None:
    config: JSON = {
        "assign": "group:{{ inputs.team }}",
        "title": "Valider {{ inputs.who }}",
        "show": ["inputs.who"],
        "edit": "steps.draft",
        "due": "4h",
    }
    pen = Pen(flow(step("draft"), step("approve", "human", config), output="{{ steps.approve.decision }}"))
    pen.inputs = {"team": "sav", "who": "Zoé"}
    pen.write("draft", {"body": "…"})
    park = pen.parks()
    assert park.task == {
        "assign": "group:sav",
        "title": "Valider Zoé",
        "show": {"inputs.who": "Zoé"},
        "edit": {"body": "…"},
        "due": "4h",
    }
    pen.write("approve", {"decision": "approve"}, "decision")
    assert pen.ends().output == "approve"


@pytest.mark.parametrize("on_exceed", ["human", "fail"])
def test_a_run_that_has_spent_its_money_starts_no_further_step(on_exceed: str) -> None:
    budget = RunBudget(Decimal("0.05"), on_exceed)  # type: ignore[arg-type]  # one of the two
    pen = Pen(flow(step("a"), step("b", budget_eur=Decimal("0.01")), step("c"), output="{{ steps.c }}", budget=budget))
    pen.write("a", 1, cost="0.03")
    command = pen.next()
    assert isinstance(command, RunStep)
    assert command.budget_left_eur == Decimal("0.01")
    pen.write("b", 1, cost="0.021")
    if on_exceed == "fail":
        failure = pen.ends().failure
        assert failure is not None
        assert failure.code == "run_budget_exceeded"
        return
    assert (pen.parks().path, pen.parks().name) == ("c", ASK_BUDGET)
    pen.write("c", {"decision": "continue"}, "decision", 1, ASK_BUDGET)
    command = pen.next()
    assert isinstance(command, RunStep)
    assert command.budget_left_eur == Decimal("0.049")


def test_the_budget_of_a_step_ends_its_retries() -> None:
    pen = Pen(flow(step("a", retry=Retry(9, "constant", 0), budget_eur=Decimal("0.02"))))
    pen.write("a", fault(), "error", 1, cost="0.01")
    assert isinstance(pen.next(), WaitUntil)
    pen.write("a", fault(), "error", 2, cost="0.01")
    assert pen.ends().failure is not None


def test_an_expression_that_fails_is_an_error_of_its_step() -> None:
    broken = step("a", with_={"x": "{{ inputs.missing }}"}, on_error=OnError("instead", "continue"))
    pen = Pen(flow(broken, output="{{ steps.a }}"))
    assert pen.ends().output == "instead"
    assert pen.journal["a", 1, ""].kind == "error"
    for odd in (step("a", when="inputs.missing"), step("a", "switch", branches=(branch("inputs.missing", step("x")),))):
        failure = Pen(flow(odd)).ends().failure
        assert failure is not None
        assert failure.path == "a"


def test_a_journal_of_another_definition_is_noticed() -> None:
    pen = Pen(flow(step("a")))
    pen.write("a", {"branch": 0}, "choice")
    with pytest.raises(NonDeterministicReplay):
        pen.next()


# ------ any workflow, any crash

_ids = [f"s{n}" for n in range(40)]


@st.composite
def workflows(draw: st.DrawFn) -> Workflow:
    names = iter(_ids)
    return flow(*draw(_bodies(names, 2)), output=dict.fromkeys(("a", "b"), "{{ inputs.n }}"))


@st.composite
def _bodies(draw: st.DrawFn, names: Iterator[str], depth: int) -> tuple[Step, ...]:
    return tuple(draw(_steps(names, depth)) for _ in range(draw(st.integers(1, 3))))


@st.composite
def _steps(draw: st.DrawFn, names: Iterator[str], depth: int) -> Step:
    id = next(names)
    when = draw(st.sampled_from([None, None, "inputs.n % 2 == 0", "inputs.n < 3"]))
    kind = draw(st.sampled_from(["code", "code", "human", *(["switch", "loop"] if depth else [])]))
    if kind == "loop":
        config: JSON = {"max": draw(st.integers(1, 3)), "until": "loop.turn >= 2", "keep": "loop.turn"}
        return step(id, "loop", config, when=when, steps=draw(_bodies(names, depth - 1)))
    if kind == "switch":
        ways = (
            branch("inputs.n > 1", *draw(_bodies(names, depth - 1))),
            branch(None, *draw(_bodies(names, depth - 1))),
        )
        return step(id, "switch", None, when=when, branches=ways)
    if kind == "human":
        return step(id, "human", {"title": "?"}, when=when)
    retry = draw(st.sampled_from([None, Retry(1, "constant", 0), Retry(2, "exponential", 1)]))
    error = draw(st.sampled_from([None, OnError("x", "continue"), OnError(None, "human")]))
    return step(id, "code", None, when=when, retry=retry, on_error=error)


def outcome_of(path: str, attempt: int) -> tuple[EntryKind, JSON]:
    """Decide by the path alone how a step ends, so that any order of doing things meets the same fate."""
    weight = sum(map(ord, path)) + attempt
    return ("error", fault(retry=weight % 2 == 0)) if weight % 5 == 0 else ("result", weight)


def perform(pen: Pen) -> Finish | None:
    """Do what an engine does with the next command; None while the run is not over."""
    command = pen.next()
    match command:
        case WaitUntil():
            kind, value = outcome_of(command.then.path, command.then.attempt)
            pen.write(command.then.path, value, kind, command.then.attempt)
        case RunStep():
            kind, value = outcome_of(command.path, command.attempt)
            pen.write(command.path, value, kind, command.attempt)
        case Park():
            choices: list[JSON] = ["retry", "output", "fail"]
            decision = choices[(len(command.path) + command.attempt) % 3]
            pen.write(command.path, {"decision": decision, "output": 0}, "decision", command.attempt, command.name)
        case Finish():
            return command
    return None


def finished(workflow: Workflow, inputs: dict[str, JSON]) -> tuple[Finish, Mapping[Key, Entry]]:
    pen = Pen(workflow, inputs)
    for _ in range(500):
        if (end := perform(pen)) is not None:
            return end, pen.journal
    raise AssertionError("the run does not end")


@sampled(workflows(), st.integers(0, 4))
@settings(max_examples=60, deadline=None)
def test_the_same_journal_gives_the_same_commands(workflow: Workflow, n: int) -> None:
    pen = Pen(workflow, {"n": n})
    for _ in range(500):
        before = advance(workflow, pen.inputs, dict(pen.journal), {"id": "run_1"})
        shuffled = dict(sorted(pen.journal.items(), reverse=True))
        assert advance(workflow, pen.inputs, shuffled, {"id": "run_1"}) == before
        if perform(pen) is not None:
            return
    raise AssertionError("the run does not end")


class Crashes(RuleBasedStateMachine):
    """A worker that dies at any moment, losing what it had not written: the run ends the same."""

    @initialize(workflow=workflows(), n=st.integers(0, 4))
    def begin(self, workflow: Workflow, n: int) -> None:
        self.expected = finished(workflow, {"n": n})
        self.pen = Pen(workflow, {"n": n})
        self.saved: dict[Key, Entry] = {}
        self.end: Finish | None = None

    @rule()
    def go_on(self) -> None:
        if self.end is None:
            self.end = perform(self.pen)
            self.saved = dict(self.pen.journal)

    @rule()
    def die_before_writing(self) -> None:
        if self.end is None:
            perform(self.pen)  # done, but never written
            self.pen.journal = dict(self.saved)

    @rule()
    def die_after_writing_the_notes_only(self) -> None:
        self.pen.next()
        self.saved = dict(self.pen.journal)

    @invariant()
    def what_is_written_is_part_of_the_one_true_journal(self) -> None:
        if hasattr(self, "saved"):
            assert self.saved.items() <= dict(self.expected[1]).items()

    def teardown(self) -> None:
        if not hasattr(self, "end"):
            return
        for _ in range(500):
            if self.end is not None:
                break
            self.end = perform(self.pen)
        assert self.end == self.expected[0]
        assert self.pen.journal == dict(self.expected[1])


Crashes.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
test_any_crash_gives_the_same_end = Crashes.TestCase
