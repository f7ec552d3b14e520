"""What a plan foresees: bounds that hold whatever happens, expectations from history, verdicts on budgets."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metier.calls import JSON
from metier.catalog import Catalog
from metier.errors import BudgetExceeded, Invalid
from metier.store import Store
from metier.vault import Vault
from metier.workflow.commands import Entry, Finish, RunStep, WaitUntil
from metier.workflow.definition import Branch, OnError, Retry, RunBudget, Step, Workflow, parse
from metier.workflow.engine import Engine, StepContext
from metier.workflow.interpreter import Walk
from metier.workflow.plan import Attempt, Seen, plan
from metier.workflow.plan_amount import NOTHING, Amount
from metier.workflow.plan_costs import ModelCosts
from metier.workflow.plan_history import History
from metier.workflow.plan_verdict import Bound, guard, verdict
from tests.workflow.flows import HERE, WHO, branch, flow, step

PRICE = {"input": 1, "output": 4}
WRITER = {"id": "w", "provider": "scripted", "model_id": "w", "price": PRICE, "context_tokens": 32_000}
MODELS = {"writer": {"deployments": [{**WRITER, "max_output_tokens": 1_000}]}}
THEN = datetime(2026, 1, 1, tzinfo=UTC)


def costs(workflow: Workflow, one: Step) -> Attempt:
    """A call takes one second and one cent, twice with its repair."""
    if one.kind != "llm":
        return Attempt(Amount(tries=1), Amount(tries=1), Amount(tries=1, seconds=1))
    once, twice = Amount(1, 1, 10, 5, 0.01, seconds=1), Amount(1, 2, 20, 10, 0.02, seconds=1)
    return Attempt(once, once, twice, "made up")


class Maker:
    """Makes random nested definitions, each step with an id of its own."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.count = 0

    def id(self) -> str:
        self.count += 1
        return f"s{self.count}"

    def steps(self, depth: int) -> tuple[Step, ...]:
        return tuple(self.step(depth) for _ in range(self.chance.randint(1, 3)))

    def step(self, depth: int) -> Step:
        chance = self.chance
        kind = chance.choice(["llm", "code", "loop", "switch", "foreach", "parallel"] if depth else ["llm", "code"])
        when = chance.choice([None, None, None, "inputs.n == 3", "inputs.n < 100"])
        on_error = chance.choice([None, None, OnError(None, "continue")])
        one = step(self.id(), when=when, on_error=on_error)
        if kind in ("llm", "code"):
            retry = chance.choice([None, Retry(chance.randint(0, 3), "constant", 1.0)])
            return replace(one, kind="llm" if kind == "llm" else "code", retry=retry)
        if kind == "loop":
            config: dict[str, JSON] = {"max": chance.randint(1, 3)}
            if chance.random() < 0.7:
                config["until"] = chance.choice(["false", "true", "loop.turn == 2"])
            return replace(one, kind="loop", config=config, steps=self.steps(depth - 1))
        if kind == "foreach":
            over: dict[str, JSON] = {"over": "{{ inputs.list }}", "max": 4} if chance.random() < 0.5 else {"times": 2}
            collect = chance.choice(["fail", "collect"])
            config = {**over, "concurrency": 2, "on_item_error": collect, "as": "paths"}
            return replace(one, kind="foreach", config=config, steps=self.steps(depth - 1))
        if kind == "parallel":
            names = ["left", "right"]
            sections = tuple(Branch(None, self.steps(depth - 1), HERE, name) for name in names)
            return replace(one, kind="parallel", config={"concurrency": None}, branches=sections)
        ways = [branch("inputs.n == 1", *self.steps(depth - 1)), branch("inputs.n < 3", *self.steps(depth - 1))]
        if chance.random() < 0.5:
            ways.append(branch(None, *self.steps(depth - 1)))
        return replace(one, kind="switch", config=[], branches=tuple(ways))


def played(workflow: Workflow, seed: int) -> tuple[bool, Amount]:
    """Play a definition to its end with random failures; every model call needs its repair, one time in two."""
    chance, used = random.Random(seed), NOTHING
    items: list[JSON] = [*range(chance.randint(0, 4))]
    inputs: dict[str, JSON] = {"n": chance.randint(1, 4), "list": items}
    walk = Walk(workflow, inputs, {}, {"id": "played"}, inline=True)
    for _ in range(5_000):
        for note in walk.notes():
            walk.feed(Entry(note.path, note.attempt, "", note.kind, note.value, THEN))
        command = chance.choice(walk.frontier())
        if isinstance(command, WaitUntil):
            command = command.then
        if isinstance(command, Finish):
            return command.failure is None, used
        assert isinstance(command, RunStep), command
        used += Amount(tries=1)
        if command.step.kind == "llm":
            used += Amount(calls=(calls := chance.choice([1, 2])), eur=0.01 * calls, input_tokens=10 * calls)
        wrong: JSON = {"code": "broken", "message": "…", "retry": chance.random() < 0.8}
        failed = chance.random() < 0.25
        value: JSON = wrong if failed else {"x": 1}
        walk.feed(Entry(command.path, command.attempt, "", "error" if failed else "result", value, THEN))
    raise AssertionError("it does not end")


@given(st.integers(0, 2**32), st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_no_run_ever_takes_more_than_the_worst_case_nor_ends_well_with_less_than_the_least(
    form: int, play: int
) -> None:
    workflow = flow(*Maker(form).steps(2))
    found = plan(workflow, costs)
    well, used = played(workflow, play)
    assert used.calls <= found.most.calls and used.tries <= found.most.tries
    assert used.eur <= found.most.eur + 1e-9 and used.input_tokens <= found.most.input_tokens
    if well:
        assert used.calls >= found.least.calls and used.tries >= found.least.tries


def test_the_cases_of_loops_switches_lists_and_retries_are_told_apart() -> None:
    draft = step("draft", "llm", retry=Retry(2, "exponential", 10.0))
    refine = step("refine", "loop", {"max": 3, "until": "true"}, steps=(draft,))
    found = plan(flow(refine), costs)
    assert (found.least.calls, found.most.calls, found.most.tries) == (1, 18, 9)
    assert found.most.seconds == 3 * (3 + 10 + 20)
    votes = step("votes", "foreach", {"over": "{{ inputs.x }}", "max": 20, "concurrency": 5}, steps=(step("v", "llm"),))
    found = plan(flow(votes), costs)
    assert (found.least.calls, found.most.calls, found.most.seconds, found.at_once) == (0, 40, 4, 5)
    easy = step("easy", "switch", branches=(branch("a", step("x", "llm"), step("stop", "end")), branch(None)))
    found = plan(flow(easy, step("y", "llm"), step("z", "llm")), costs)
    assert (found.least.calls, found.most.calls) == (1, 4)
    assert [one.expected_tries for one in found.steps] == [0.5, 0.5, 0.5]
    both = (Branch(None, (step("l", "llm"),), HERE, "l"), Branch(None, (step("r", "llm"),), HERE, "r"))
    found = plan(flow(step("both", "parallel", {"concurrency": None}, branches=both)), costs)
    assert (found.most.calls, found.most.seconds, found.at_once) == (4, 1, 2)


def test_time_is_that_of_what_goes_on_side_by_side_and_so_many_at_once_as_the_engine_lets() -> None:
    many = step("many", "foreach", {"over": "{{ inputs.x }}", "max": 40}, steps=(step("v", "llm"),))
    found = plan(flow(many), costs)
    assert found.at_once == 10, "where the definition says nothing"
    assert (found.most.seconds, found.expected.seconds) == (4, 2)
    assert "seconds" not in found.most.unknown
    as_runs = replace(many, config={"over": "{{ inputs.x }}", "max": 40, "concurrency": 5, "as": "runs"})
    assert "seconds" in plan(flow(as_runs), costs).most.unknown, "they wait in line for workers"
    both = (Branch(None, (step("l", "llm"),), HERE, "l"), Branch(None, (step("r", "llm"), step("s", "llm")), HERE, "r"))
    inner = step("both", "parallel", {"concurrency": None}, branches=both)
    found = plan(flow(step("a", "llm"), inner), costs)
    assert (found.expected.calls, found.expected.seconds, found.most.seconds) == (4, 3, 3)
    seen = {"v": Seen(Amount(2, 2, seconds=6), 9, "9 earlier runs")}
    assert plan(flow(many), costs, seen).expected.seconds == 3, "two items were seen, and so two at once"


def test_what_a_flow_calls_is_counted_and_what_is_not_known_is_said() -> None:
    parent = flow(step("sub", "call", {"flow": "flows/refund.yaml"}))
    child = flow(step("a", "llm"), step("b", "llm"), name="refund")
    known = plan(parent, costs, child=lambda _, name: child if name == "flows/refund.yaml" else None)
    assert (known.least.calls, known.most.calls, known.notes) == (2, 4, ())
    unknown = plan(parent, costs)
    assert "calls" in unknown.most.unknown and "nothing bounds it" in unknown.notes[0]
    endless = plan(parent, costs, child=lambda owner, _: owner)
    assert "calls" in endless.most.unknown


def test_budgets_refuse_the_expected_case_and_ask_for_the_worst() -> None:
    found = plan(flow(step("a", "llm"), step("b", "llm")), costs)
    euro = Bound("project 'shop'", "money", Decimal(1))
    assert verdict(found, 1, Decimal("0.1"), [euro]).level == "within"
    tight = verdict(found, 1, Decimal("0.03"))
    assert tight.level == "ask" and "worst case" in tight.reasons[0]
    assert verdict(found, 60, None, [euro]).level == "refuse"
    guard(verdict(found, 1, None), lambda told: False)
    guard(tight, lambda told: True)
    with pytest.raises(BudgetExceeded, match="--yes"):
        guard(tight, lambda told: False)
    with pytest.raises(BudgetExceeded, match="raise the budget"):
        guard(verdict(found, 60, None, [euro]), lambda told: True)
    with pytest.raises(Invalid, match="1 or more"):
        verdict(found, 0, None)
    for counted, left in (("tokens", 29), ("requests", 1)):
        short = Bound("system 's'", counted, Decimal(left))  # type: ignore[arg-type]  # terse
        assert verdict(found, 1, None, [euro, short]).level == "refuse"
        enough = Bound("system 's'", counted, Decimal(left * 2 + 1))  # type: ignore[arg-type]  # terse
        assert verdict(found, 1, None, [euro, enough]).level == "ask"
    warm = replace(found, most=replace(found.most, unknown=frozenset({"wh"})))
    assert "not known" in verdict(warm, 1, None, [Bound("organisation 'o'", "energy", Decimal(9))]).reasons[0]
    assert verdict(warm, 1, None, [Bound("organisation 'o'", "energy", Decimal(9), True)]).level == "within"
    capped = replace(flow(step("a", "llm"), step("b", "llm")), budget=RunBudget(Decimal("0.01"), "fail"))
    assert plan(capped, costs).held_eur == Decimal("0.03")


FLOW = """
flow: note
schema: 1
inputs: {text: string}
steps:
  - id: draft
    llm: {model: writer, prompt: draft.md, max_output_tokens: 100}
    with: {text: "{{ inputs.text }}"}
    output: {body: string}
    timeout: 30s
"""


def test_prompts_are_counted_and_priced_on_the_models_there_are() -> None:
    workflow = parse(FLOW, {"draft.md": "Réponds à ce message : {{ text }}"})
    catalog = Catalog.from_yaml(MODELS)
    short = plan(workflow, ModelCosts(catalog, {"writer": "writer"}, inputs={"text": "Bonjour"}))
    long = plan(workflow, ModelCosts(catalog, {"writer": "writer"}, inputs={"text": "Bonjour " * 500}))
    assert short.expected.input_tokens + 400 < long.expected.input_tokens
    assert short.most.input_tokens == 2 * 32_000 and short.most.output_tokens == 200
    assert short.most.eur == pytest.approx(2 * (32_000 * 1 + 100 * 4) / 1e6)
    assert short.least.eur < short.expected.eur < short.most.eur
    assert short.most.seconds == 30 and "wh" in short.most.unknown
    assert "prompt" in short.steps[0].source


async def test_history_replaces_what_would_be_guessed(store: Store, vault: Vault) -> None:
    async def ask(context: StepContext, with_: dict[str, JSON]) -> JSON:
        context.spend(Decimal("0.5"), 3)
        return {"ok": True}

    engine = Engine(store, vault, {"llm": ask})
    once = step("a", "llm")
    skipped = step("b", "llm", when="false")
    workflow = flow(once, skipped)
    before = await History(store).of(workflow)
    assert before.runs == 0 and not before.steps
    for _ in range(6):
        await engine.start(workflow, {}, WHO)
    await engine.drain()
    past = await History(store).of(workflow, "sales")
    assert past.runs == 6
    found = plan(workflow, costs, past.steps, history_runs=past.runs)
    assert found.expected.calls == pytest.approx(3) and found.expected.eur == pytest.approx(0.5)
    assert [one.expected_tries for one in found.steps] == [1, 0]
    assert found.steps[0].source == "6 earlier runs of this definition" and found.steps[0].bound == "made up"
    changed = flow(once, skipped, step("c", "llm"))
    seen = await History(store).of(changed, "sales")
    assert seen.runs == 0 and seen.steps["a"].source == "6 earlier runs of this flow" and "c" not in seen.steps
    assert not (await History(store).of(workflow, "another")).steps


async def test_what_items_took_that_were_runs_of_their_own_is_history_of_their_step(store: Store, vault: Vault) -> None:
    async def ask(context: StepContext, with_: dict[str, JSON]) -> JSON:
        context.spend(Decimal("0.5"), 3)
        return {"ok": True}

    engine = Engine(store, vault, {"llm": ask})
    items: JSON = {"over": "{{ range(4) }}", "max": 60, "as": "runs", "on_item_error": "fail"}
    workflow = flow(step("many", "foreach", items, steps=(step("v", "llm"),)))
    for _ in range(5):
        await engine.start(workflow, {}, WHO)
    await engine.drain()
    past = await History(store).of(workflow, "sales")
    assert past.runs == 5 and past.steps["v"].per_run.eur == pytest.approx(2)
    found = plan(workflow, costs, past.steps, history_runs=past.runs)
    assert found.expected.eur == pytest.approx(2) and found.expected.calls == pytest.approx(12)
    assert verdict(found, 1, Decimal(1)).level == "refuse"
