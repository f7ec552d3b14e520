"""The main job from the e-mail received to the e-mail sent, on everything real but the models."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from metier.calls import JSON, Call
from metier.cli.emails import inputs_of
from metier.errors import Conflict, NotAllowed
from metier.providers.scripted import Script, fails, gives
from metier.store import Store
from metier.workflow.definition import Workflow, load, parse
from metier.workflow.review import Reviewer
from tests.journeys.company import (
    ADMIN,
    ADVISER,
    LAWYER,
    TEMPLATE,
    company,
    drafting,
    faithful,
    mail,
    numbered,
    sent,
)

APPROVE: dict[str, JSON] = {"decision": "approve"}


def judged(*scores: int, draft: Callable[[Call], Script] = faithful) -> Callable[[Call], Script]:
    """A faithful writer, and a judge who gives these scores in turn."""
    left = [*scores]
    return lambda call: (
        draft(call) if drafting(call) else gives({"critique": "trop court", "grounded": True, "score": left.pop(0)})
    )


def changed(old: str, new: str) -> Workflow:
    """The template with one thing changed."""
    flow = load(TEMPLATE / "flow.yaml")
    assert old in flow.source
    return parse(flow.source.replace(old, new), flow.files)


async def test_an_email_becomes_an_approved_answer_in_the_mailbox(store: Store, tmp_path: pathlib.Path) -> None:
    async with company(store.url, tmp_path, category=None) as c:  # what the sample messages teach
        run = await c.receive(4)
        values = await c.values(run)
        assert (values["classify"]["category"], values["policy"]["route"]) == ("billing", "auto")
        assert values["customer"]["tier"] == "particulier"
        assert values["refine#1.check"]["ok"] is True and values["refine#1.check"]["verified"] == 1
        task = await c.task(run)
        assert (await c.run(run)).parked_on == "approve" and sent(c.mailbox) == [], "nothing leaves unapproved"
        assert {"inputs.text", "steps.docs.hits", "steps.check", "steps.grade"} <= set(task.show)
        draft: Any = task.edit
        await c.decide(run, APPROVE)
        (message,) = sent(c.mailbox)
        assert (message["To"], message["Subject"]) == ("t.maupoix@courriel.example", draft["subject"])
        assert message.get_content().replace("\r\n", "\n").strip() == draft["body"].strip()
        assert message["Auto-Submitted"] == "auto-replied"
        found: Any = await c.app.engine.result(run)
        assert found == {"sent": True, "category": "billing", "route": "auto", "score": 9, "verified": 1, "cited": 1}
        done = await c.run(run)
        assert done.cost_eur == Decimal("0.000088") > 0
        await c.app.ledger.flush()
        calls = await c.app.ledger.of_run(run)
        assert [call["path"] for call in calls] == ["refine#1.draft", "refine#1.grade"]
        assert sum(call["cost_eur"] for call in calls) == done.cost_eur, "journal and ledger agree"


async def test_what_the_adviser_wrote_is_what_leaves(store: Store, tmp_path: pathlib.Path) -> None:
    async with company(store.url, tmp_path) as c:
        run = await c.receive(4)
        edited: JSON = {"subject": "Vos frais de port", "body": "Bonjour,\nIls étaient dus.\nZoé"}
        await c.decide(run, {"decision": "approve", "edited": edited})
        (message,) = sent(c.mailbox)
        assert message["Subject"] == "Vos frais de port" and "Ils étaient dus." in message.get_content()


async def test_a_rejected_draft_is_not_sent(store: Store, tmp_path: pathlib.Path) -> None:
    async with company(store.url, tmp_path) as c:
        run = await c.receive(4)
        await c.decide(run, {"decision": "reject"}, note="trop sec")
        assert (await c.run(run)).status == "done" and sent(c.mailbox) == []
        found: Any = await c.app.engine.result(run)
        assert found["sent"] is False


async def test_the_same_email_twice_is_one_run_and_one_answer(store: Store, tmp_path: pathlib.Path) -> None:
    async with company(store.url, tmp_path) as c:
        run = await c.receive(4)
        assert await c.receive(4) == run
        await c.decide(run, APPROVE)
        assert await c.receive(4) == run
        assert (len(sent(c.mailbox)), len(c.provider.calls)) == (1, 2)


async def test_two_advisers_cannot_both_decide(store: Store, tmp_path: pathlib.Path) -> None:
    async with company(store.url, tmp_path) as c:
        run = await c.receive(4)
        task = await c.task(run)
        with pytest.raises(NotAllowed):
            await c.app.review.decide(task.id, LAWYER, APPROVE)
        await c.decide(run, APPROVE)
        with pytest.raises(Conflict):
            await c.app.review.decide(task.id, Reviewer("leo", frozenset({"sav"})), {"decision": "reject"})
        assert len(sent(c.mailbox)) == 1


async def test_a_wrong_citation_goes_back_to_the_writer_then_to_a_person(store: Store, tmp_path: pathlib.Path) -> None:
    def invents(call: Call) -> Script:
        if not drafting(call):
            return gives({"critique": "", "grounded": True, "score": 9})
        return gives({"answers": [{"question": 1, "sentences": [99], "answer": "La livraison coûte 3,33 € partout."}]})

    async with company(store.url, tmp_path, invents) as c:
        run = await c.receive(4)
        values = await c.values(run)
        assert [values[f"refine#{turn}.check"]["ok"] for turn in (1, 2)] == [False, False]
        drafts = [call for call in c.provider.calls if drafting(call)]
        assert "a été refusée" not in drafts[0].messages[-1].content
        assert "a été refusée" in drafts[1].messages[-1].content and "3,33 €" in drafts[1].messages[-1].content
        assert len(drafts) == 2, "the loop is bounded"
        shown: Any = (await c.task(run)).show["steps.check"]
        assert (shown["ok"], shown["verified"], shown["cited"]) == (False, 0, 1), "the person sees it is not verified"
        assert sent(c.mailbox) == []


async def test_a_better_second_attempt_replaces_the_first(store: Store, tmp_path: pathlib.Path) -> None:
    def mends(call: Call) -> Script:
        wrong = "a été refusée" not in call.messages[-1].content
        if drafting(call) and wrong:
            return gives({"answers": [{"question": 1, "sentences": [99], "answer": "La livraison coûte 3,33 €."}]})
        return faithful(call)

    async with company(store.url, tmp_path, mends) as c:
        run = await c.receive(4)
        task = await c.task(run)
        assert "3,33" not in str(task.edit)
        shown: Any = task.show["steps.check"]
        assert shown["ok"] is True


async def test_of_two_mediocre_attempts_the_best_is_kept(store: Store, tmp_path: pathlib.Path) -> None:
    def varies(call: Call) -> Script:
        last = "a été refusée" in call.messages[-1].content
        numbers = [n for n, text in numbered(call).items() if len(text) > 25]
        chosen = numbers[1] if last else numbers[0]
        answer = numbered(call)[chosen][:300]
        return gives({"answers": [{"question": 1, "sentences": [chosen], "answer": answer}]})

    async with company(store.url, tmp_path, judged(6, 3, draft=varies)) as c:
        run = await c.receive(4)
        values, task = await c.values(run), await c.task(run)
        assert task.edit == values["refine#1.letter"] != values["refine#2.letter"]
        shown: Any = task.show["steps.grade"]
        assert shown["score"] == 6


async def test_a_legal_email_is_escalated_and_nothing_is_drafted(store: Store, tmp_path: pathlib.Path) -> None:
    async with company(store.url, tmp_path, category="legal") as c:
        run = await c.receive(10)
        assert (await c.run(run)).parked_on == "route.legal"
        assert await c.app.review.list(ADVISER, run=run) == ()
        task = await c.task(run, LAWYER)
        assert (task.edit, task.title) == (None, f"Dossier juridique : {inputs_of(mail(10))[1]['subject']}")
        await c.decide(run, {"decision": "taken", "note": "vu"}, LAWYER)
        done = await c.run(run)
        assert (done.status, done.outcome, done.cost_eur) == ("done", "escalated", Decimal(0))
        assert c.provider.calls == [] and sent(c.mailbox) == []


@pytest.mark.parametrize(("number", "category"), [(8, "other"), (12, "delivery")])
async def test_what_no_document_answers_is_handed_to_an_adviser(
    store: Store, tmp_path: pathlib.Path, number: int, category: str
) -> None:
    async with company(store.url, tmp_path, category=category) as c:
        run = await c.receive(number)
        assert (await c.run(run)).parked_on == "route.handoff"
        await c.decide(run, {"decision": "taken", "note": ""})
        assert (await c.run(run)).outcome == "escalated" and c.provider.calls == []


async def test_a_run_out_of_money_waits_for_a_person(store: Store, tmp_path: pathlib.Path) -> None:
    async with company(store.url, tmp_path) as c:
        c.flow = changed("per_run_eur: 0.05", "per_run_eur: 0.00004")
        run = await c.receive(4)
        stopped = await c.run(run)
        assert (stopped.status, stopped.parked_on) == ("parked", "refine#1.letter"), "the draft spent it all"
        task = await c.task(run, ADMIN)
        assert task.show == {"spent_eur": "0.000044", "budget_eur": "0.00004"}
        await c.decide(run, {"decision": "continue"}, ADMIN)
        await c.decide(run, APPROVE)
        assert (await c.run(run)).parked_on == "send", "each time it may spend the same again"
        await c.decide(run, {"decision": "continue"}, ADMIN)
        assert len(sent(c.mailbox)) == 1 and len(c.provider.calls) == 2


async def test_the_budget_of_the_project_stops_the_draft_and_a_person_takes_over(
    store: Store, tmp_path: pathlib.Path
) -> None:
    async with company(store.url, tmp_path) as c:
        await c.app.admission.set_budget(c.who.project, Decimal("0.000001"))
        run = await c.receive(4)
        assert c.provider.calls == [], "a call that could pass the budget is never made"
        task = await c.task(run)
        failed: Any = task.show["error"]
        assert failed["code"] == "budget_exceeded"
        assert (await c.run(run)).status == "parked" and sent(c.mailbox) == []


async def test_a_provider_that_is_down_fails_the_run_and_resume_finishes_it(
    store: Store, tmp_path: pathlib.Path
) -> None:
    down = [True]

    def answer(call: Call) -> Script:
        return fails(503) if down[0] and not drafting(call) else faithful(call)

    async with company(store.url, tmp_path, answer) as c:
        c.flow = changed("backoff: exponential", "backoff: constant, first: 1ms")
        run = await c.receive(4)
        failed = await c.run(run)
        assert failed.failure is not None
        assert (failed.status, failed.failure.path) == ("failed", "refine#1.grade")
        assert failed.failure.code in ("provider_unavailable", "no_deployment")
        assert "503" in failed.failure.message or "judge" in failed.failure.message
        down[0] = False
        await c.app.engine.resume(run)
        await c.app.engine.drain()
        assert (await c.run(run)).parked_on == "approve"
        await c.decide(run, APPROVE)
        assert len(sent(c.mailbox)) == 1
        assert sum(map(drafting, c.provider.calls)) == 1, "the draft already paid for is not asked again"
