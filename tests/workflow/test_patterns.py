"""The worked examples on the real engine: dynamic, and bounded even when the model does as it pleases."""

from __future__ import annotations

import asyncio
import json
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from metier.calls import JSON, Call
from metier.connectors.tools import NAMES
from metier.providers.scripted import Script, ScriptedProvider, fails, gives
from metier.store import Store
from metier.testing import StillClock
from metier.triggers import Event, Triggers
from metier.vault import Vault
from metier.workflow import editor, rules
from metier.workflow.definition import Workflow, accept, load
from metier.workflow.engine import Engine, Run, StepContext
from metier.workflow.lint import Known as Platform
from metier.workflow.lint import lint
from metier.workflow.rehearsal import rehearse
from metier.workflow.review import Review, Reviewer, TaskDesk
from metier.workflow.steps.functions import FUNCTIONS
from tests.journeys.company import TEMPLATE, company
from tests.triggers.house import Known, who
from tests.workflow.flows import WHO
from tests.workflow.steps.flows import Bench, bench

TEMPLATES = TEMPLATE.parent
EXAMPLES = (
    "contract-check", "deadline-reminder", "front-desk", "guided-conversation", "meeting-minutes", "product-notice",
    "tender-answer",
)  # fmt: skip
ZOE = Reviewer("zoe", frozenset({"sav", "juridique", "accueil", "direction"}))


def example(name: str) -> Workflow:
    return load(TEMPLATES / name / "flow.yaml")


def sample(name: str, language: str) -> dict[str, JSON]:
    found: dict[str, JSON] = json.loads((TEMPLATES / name / "sample" / f"{language}.json").read_text(encoding="utf-8"))
    return found


def asked(call: Call) -> str:
    """The step a call is made for."""
    assert call.output is not None
    return call.output.name


def by_step(**answers: Script | Callable[[Call], Script]) -> ScriptedProvider:
    """Answer by the step that asks."""

    def answer(call: Call) -> Script:
        given = answers[asked(call)]
        return given if isinstance(given, Script) else given(call)

    return ScriptedProvider(answer=answer)


async def play(b: Bench, name: str, inputs: Mapping[str, JSON]) -> Run:
    run = await b.app.engine.start(example(name), inputs, b.who)
    await b.app.engine.drain()
    return await b.app.engine.get(run)


async def give(b: Bench, name: str, inputs: Mapping[str, JSON]) -> Any:
    run = await play(b, name, inputs)
    assert run.failure is None, run.failure
    return await b.app.engine.result(run.id)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_has_no_finding_and_its_tests_hold(name: str) -> None:
    workflow = example(name)
    assert lint(workflow, Platform(tools=NAMES, code=tuple(FUNCTIONS))) == ()
    assert workflow.tests
    for test in workflow.tests:
        assert rehearse(workflow, test, FUNCTIONS).failures == ()
    for step in workflow.walk():
        if step.kind == "rules":
            table = rules.table(workflow, str(step.config))
            assert table.tests and not any(rules.rehearse(table, test) for test in table.tests)


@pytest.mark.parametrize("language", ["fr", "en"])
@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_has_words_and_data_in_both_languages(name: str, language: str) -> None:
    workflow = example(name)
    assert accept(workflow, sample(name, language))["language"] == language
    configs = [step.config for step in workflow.walk() if isinstance(step.config, dict)]
    prompts = {str(config["prompt"]) for config in configs if "prompt" in config}
    assert all(path.replace(".md", f".{language}.md") in workflow.files for path in prompts)


def test_the_published_schema_takes_the_examples() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    yaml = pytest.importorskip("yaml")
    checker = jsonschema.Draft202012Validator(json.loads(json.dumps(editor.schema())))
    for name in EXAMPLES:
        checker.validate(yaml.safe_load(example(name).source))


async def test_a_chain_hands_on_what_stood_the_check(store: Store, tmp_path: pathlib.Path) -> None:
    actions: JSON = [
        {"who": "Nadia", "what": "Call Lumen", "due": ""},
        {"who": "Victor", "what": "Pay everything", "due": ""},
    ]
    provider = by_step(
        facts=gives({"decisions": [], "actions": actions}),
        minutes=gives({"subject": "Minutes", "body": "Nadia calls Lumen, that is all."}),
    )
    async with bench(store, tmp_path, provider) as b:
        found = await give(b, "meeting-minutes", {"notes": "Nadia calls Lumen.", "language": "en"})
        assert [action["who"] for action in found["doubtful"]] == ["Victor"]
        said = provider.calls[-1].messages[-1].content
        assert "Call Lumen" in said and "Pay everything" not in said


async def test_a_chain_stops_at_its_gate(store: Store, tmp_path: pathlib.Path) -> None:
    provider = by_step(facts=gives({"decisions": [], "actions": []}))
    async with bench(store, tmp_path, provider) as b:
        run = await play(b, "meeting-minutes", {"notes": "Coffee.", "language": "en"})
        assert (run.outcome, len(provider.calls)) == ("nothing", 1)


@pytest.mark.parametrize(
    ("kind", "calls", "ends"),
    [
        ("quote", ["kind", "wanted"], "quote"), ("appointment", ["kind", "when_"], "appointment"),
        ("invoice", ["kind"], "invoice"), ("job", ["kind"], "parked"), ("other", ["kind"], "parked"),
    ],
)  # fmt: skip
async def test_exactly_one_way_is_taken(
    store: Store, tmp_path: pathlib.Path, kind: str, calls: list[str], ends: str
) -> None:
    provider = by_step(
        kind=gives({"kind": kind}),
        wanted=gives({"work": "A shed", "place": "", "missing": []}),
        when_=gives({"summary": "A visit", "wishes": []}),
    )
    async with bench(store, tmp_path, provider) as b:
        run = await play(b, "front-desk", {"text": "Is INV-2026-042 paid?", "language": "en"})
        assert [asked(call) for call in provider.calls] == calls
        assert (run.outcome if run.status == "done" else run.status) == ends


@pytest.mark.parametrize("says", [gives({"kind": "banana"}), fails(400)])
async def test_a_kind_that_does_not_exist_goes_to_a_person(store: Store, tmp_path: pathlib.Path, says: Script) -> None:
    async with bench(store, tmp_path, by_step(kind=says)) as b:
        run = await play(b, "front-desk", {"text": "Hello", "language": "en"})
        assert (run.status, run.parked_on) == ("parked", "way.person")


async def test_sections_are_read_at_once_and_votes_are_counted(store: Store, tmp_path: pathlib.Path) -> None:
    three, votes = asyncio.Event(), iter(["low", "high", "high"])

    async def meet() -> None:
        if len(provider.calls) >= 3:
            three.set()
        await asyncio.wait_for(three.wait(), 60)

    def read(value: JSON) -> Script:
        return Script(gives(value).chunks, before=meet)

    provider = by_step(
        payment=lambda call: read({"days": 30, "quote": "within 30 days"}),
        liability=lambda call: read({"capped": True, "quote": "limited"}),
        term=lambda call: read({"notice_months": 1, "renews": False, "quote": ""}),
        vote=lambda call: gives({"risk": next(votes)}),
    )
    async with bench(store, tmp_path, provider) as b:
        run = await play(b, "contract-check", {"contract": "Paid within 30 days; limited.", "language": "en"})
        assert three.is_set() and len(provider.calls) == 6
        assert run.parked_on == "way.lawyer"
        (task,) = await b.app.review.list(ZOE, run=run.id)
        assert task.show["steps.policy.reason"] == "risk"
        assert task.show["steps.votes"] == {"risk": "high", "agreement": pytest.approx(2 / 3), "lost": 0}


async def test_votes_that_are_none_are_lost_and_a_lawyer_reads(store: Store, tmp_path: pathlib.Path) -> None:
    provider = by_step(
        payment=gives({"days": 30, "quote": ""}), liability=gives({"capped": True, "quote": ""}),
        term=gives({"notice_months": 1, "renews": False, "quote": ""}), vote=gives({"risk": "perhaps"}),
    )  # fmt: skip
    async with bench(store, tmp_path, provider) as b:
        run = await play(b, "contract-check", {"contract": "Paid within 30 days.", "language": "en"})
        (task,) = await b.app.review.list(ZOE, run=run.id)
        assert task.show["steps.votes"] == {"risk": "high", "agreement": 0.0, "lost": 3}


def planner(questions: list[str], worker: Callable[[Call], Script]) -> ScriptedProvider:
    return by_step(plan=gives({"questions": [*questions]}), worker=worker)


def covers(call: Call) -> Script:
    return gives({"answer": "Yes, we do.", "covered": True})


@pytest.mark.parametrize("number", [0, 1, 4, 6, 9])
async def test_there_are_as_many_workers_as_questions_and_never_more_than_six(
    store: Store, tmp_path: pathlib.Path, number: int
) -> None:
    provider = planner([f"Question {n}?" for n in range(number)], covers)
    async with bench(store, tmp_path, provider) as b:
        found = await give(b, "tender-answer", {"tender": "…", "company": "…", "language": "en"})
        assert sum(asked(call) == "worker" for call in provider.calls) == len(found["answers"]) == min(number, 6)
        assert found["open"] == [f"Question {n}?" for n in range(6, number)]


async def test_a_plan_without_end_starts_no_worker(store: Store, tmp_path: pathlib.Path) -> None:
    provider = planner([f"Question {n}?" for n in range(500)], covers)
    async with bench(store, tmp_path, provider) as b:
        run = await play(b, "tender-answer", {"tender": "…", "company": "…", "language": "en"})
        assert run.failure is not None and run.failure.path == "plan"
        assert not any(asked(call) == "worker" for call in provider.calls)
        assert len(provider.calls) <= 4, "it is asked again, but not for ever"


async def test_workers_run_a_few_at_a_time_and_a_lost_one_is_told(store: Store, tmp_path: pathlib.Path) -> None:
    most, three = [0], asyncio.Event()

    async def slowly() -> None:
        most[0] = max(most[0], len(provider.calls) - len(provider.closed))
        if most[0] >= 3:
            three.set()
        await asyncio.wait_for(three.wait(), 60)
        await asyncio.sleep(0.1)  # a fourth would begin meanwhile

    def worker(call: Call) -> Script:
        said = "".join(message.content for message in call.messages)
        if "Question 2" in said:
            return gives({"answer": "", "covered": "perhaps"})
        answer = "Yes, in 3 days." if "Question 1" in said else "Yes."
        return Script(gives({"answer": answer, "covered": True}).chunks, before=slowly)

    provider = planner([f"Question {n}?" for n in range(5)], worker)
    async with bench(store, tmp_path, provider) as b:
        found = await give(b, "tender-answer", {"tender": "…", "company": "Nothing.", "language": "en"})
        assert [part["question"] for part in found["answers"]] == ["Question 0?", "Question 3?", "Question 4?"]
        assert found["open"] == ["Question 1?", "Question 2?"], "3 days stand nowhere; the other answer never came"
        assert most[0] == 3


NOTICE: dict[str, JSON] = {
    "product": "Drill", "facts": ["18 V", "2 speeds", "1.4 kg"], "forbidden": ["perfect"], "least": 10, "most": 120,
    "language": "en",
}  # fmt: skip


@pytest.mark.parametrize(
    ("texts", "turns", "kept"),
    [
        (["A drill: 18 V, 2 speeds, 1.4 kg."], 1, "A drill: 18 V, 2 speeds, 1.4 kg."),
        (["A perfect drill.", "A drill of 18 V, 2 speeds, 1.4 kg."], 2, "A drill of 18 V, 2 speeds, 1.4 kg."),
        (["A drill of 18 V, 2 speeds.", "A perfect drill.", "No."], 3, "A drill of 18 V, 2 speeds."),
        (["x" * 400, "A drill of 18 V.", "A perfect drill of 18 V."], 3, "A drill of 18 V."),
    ],
)
async def test_the_best_turn_is_kept_and_there_are_three_at_most(
    store: Store, tmp_path: pathlib.Path, texts: list[str], turns: int, kept: str
) -> None:
    provider = ScriptedProvider(*(gives({"text": text}) for text in texts))
    async with bench(store, tmp_path, provider) as b:
        found = await give(b, "product-notice", NOTICE)
        assert (found["text"], found["turns"], len(provider.calls)) == (kept, turns, turns)
        assert found["ok"] is (kept != texts[-1] or turns < 3) or found["wrong"]
        said = [call.messages[-1].content for call in provider.calls]
        assert "refused" not in said[0] and all("refused" in one for one in said[1:])


async def test_a_scripted_answer_asks_no_model(store: Store, tmp_path: pathlib.Path) -> None:
    provider = ScriptedProvider()
    async with bench(store, tmp_path, provider) as b:
        for language, message in (("fr", "Mot de passe oublié"), ("en", "The saw hurt my hand")):
            run = await play(b, "guided-conversation", {"message": message, "language": language})
            assert run.outcome == "scripted"
    assert provider.calls == []


HISTORY: JSON = [{"who": "customer", "text": "Hello"}, {"who": "house", "text": "Good morning, how can I help?"}]


async def test_a_person_takes_over_with_everything(store: Store, tmp_path: pathlib.Path) -> None:
    def promises(call: Call) -> Script:
        talk = asked(call) == "topic"
        return gives({"topic": "talk"}) if talk else gives({"answer": "I promise you a refund of 40 €."})

    async with company(store.url, tmp_path, promises, flow=example("guided-conversation")) as c:
        known = {"customer": "claire.vasseur@courriel.example", "history": HISTORY, "language": "en"}
        run = await c.app.engine.start(c.flow, {"message": "You are kind!", **known}, c.who)
        await c.app.engine.drain()
        task = await c.task(run)
        show: Any = task.show
        assert show["inputs.history"] == HISTORY and show["inputs.message"] == "You are kind!"
        assert "refund" in show["steps.chat"]["answer"] and show["steps.tone"]["found"]
        assert show["steps.known"]["orders"], "the orders of the customer are beside it"
        await c.decide(run, {"decision": "answer", "answer": "Thank you. Zoé"})
        assert await c.app.engine.result(run) == {"mode": "person", "answer": "Thank you. Zoé", "sources": []}


async def test_a_checked_answer_quotes_the_documents(store: Store, tmp_path: pathlib.Path) -> None:
    def quotes(call: Call) -> Script:
        if asked(call) == "topic":
            return gives({"topic": "returns"})
        found = re.search(r"^\[([^\]]+)\]", call.messages[-1].content, re.MULTILINE)
        assert found is not None
        wrong = "combien" in call.messages[-1].content.lower()
        return gives({"answer": "C'est 77 jours." if wrong else "Oui, par courrier.", "citations": [found[1]]})

    async with company(store.url, tmp_path, quotes, flow=example("guided-conversation")) as c:
        ends = []
        for message in ("Puis-je retourner une perceuse ?", "En combien de jours retourner une perceuse ?"):
            run = await c.app.engine.start(c.flow, {"message": message, "language": "fr"}, c.who)
            await c.app.engine.drain()
            found = await c.run(run)
            ends.append(found.outcome if found.status == "done" else found.parked_on)
        assert ends == ["checked", "person"]


@pytest.mark.parametrize("confirmed", [True, False])
async def test_a_reminder_starts_by_the_clock_and_is_sent_again_unless_confirmed(
    store: Store, vault: Vault, confirmed: bool
) -> None:
    sent: list[str] = []

    async def send(context: StepContext, with_: dict[str, JSON]) -> JSON:
        sent.append(str(with_["subject"]))
        return {"message_id": f"{context.path}@here"}

    async def later(seconds: float) -> None:
        clock.forward(seconds)
        async with store.connection() as connection:  # the queue keeps its own time
            await connection.execute("UPDATE procrastinate_jobs SET scheduled_at = now() WHERE status = 'todo'")
        await engine.drain()

    clock = StillClock()
    engine = Engine(store, vault, {"tool": send}, desk=TaskDesk(store, vault), clock=clock)
    review = Review(store, vault, engine)
    triggers = Triggers.built(store, vault, engine, who, Known(), clock=clock)
    deployed = await triggers.deployments.deploy(example("deadline-reminder"), WHO, "ada")
    cron = next(one for one in deployed if one.kind == "cron")
    tenth = clock.now.strftime("%Y-%m-10") if clock.now.day < 10 else clock.now.strftime("%Y-%m-%d")
    event: dict[str, JSON] = {
        "at": f"{tenth}T09:00:00+01:00",
        "date": tenth,
        "utc": f"{tenth}T08:00:00Z",
        "missed": False,
    }
    taken = [await triggers.fire(cron.id, Event(f"cron {tenth}", event)) for _ in range(2)]
    run = taken[0].run
    assert run is not None and taken[1].run == run, "one time of the clock is one run"
    await engine.drain()
    assert sent == ["À faire : Déclaration de TVA"]
    if confirmed:
        key = f"Déclaration de TVA {tenth[:8]}19"
        await engine.emit(None, WHO.project, "deadline.done", key, {}, id="it is done")
        await engine.drain()
        assert await engine.result(run) == {"confirmed": True, "reminders": 1}
        return
    await later(5 * 86_400 + 1)
    assert sent[1:] == ["Rappel : Déclaration de TVA"]
    await later(40 * 86_400)
    (task,) = await review.list(ZOE, run=run)
    await review.decide(task.id, ZOE, {"decision": "late", "note": ""})
    await engine.drain()
    assert await engine.result(run) == {"confirmed": False, "reminders": 2}
    assert len(sent) == 2
