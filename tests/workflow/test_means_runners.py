"""The means of the support template on its labelled messages: rules, trained classifier, scripted model."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import pytest

from metier.calls import Call
from metier.cli import flows
from metier.cli.preparation import TEMPLATES
from metier.errors import Invalid, NotFound
from metier.providers.scripted import Script, ScriptedProvider, gives, says
from metier.store import Store
from metier.testing import build_for_tests, caller
from metier.tuning.train import fit, read_examples
from metier.workflow.means import judge, measure
from metier.workflow.means_data import Candidate, Kept, answer_of, candidates, rows
from metier.workflow.means_runners import Runners

SUPPORT = TEMPLATES / "support-reply"
MESSAGES = SUPPORT / "sample" / "messages.jsonl"


class Teacher:
    """A model that is right nine times in ten, and that needs a repair every seventh time."""

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = labels
        self.asked = -1

    def __call__(self, call: Call) -> Script:
        if "does not fit" not in str(call.messages[-1].content):
            self.asked += 1
            if self.asked % 7 == 0:
                return says("je dirais que c'est un remboursement")
        right = self.asked % 10 != 0
        return gives({"category": self.labels[self.asked] if right else "other", "confidence": 0.9})


async def test_rules_classifier_and_model_are_measured_on_the_sample(store: Store, tmp_path: pathlib.Path) -> None:
    workflow = flows.find("support-reply")
    step = workflow.step("classify")
    assert step is not None
    items = rows(MESSAGES, step, "label", None, None)
    teacher = Teacher([item.label for item in items])
    async with build_for_tests(tmp_path, store.url, ScriptedProvider(answer=teacher)) as app:
        examples = [e for n, e in enumerate(read_examples(MESSAGES)) if e.split == "test" or n % 4 == 0]
        trained = await fit(examples, "tfidf")
        await app.classifiers.add("intent", trained.classifier, trained.card)
        who = await caller(app)
        runners = Runners(workflow, who, app.gateway.collect, app.catalog, app.roles, app.classifiers.get)
        answer = answer_of(step)
        found = candidates(workflow, step, SUPPORT / "means" / "classify.yaml")
        assert [one.name for one in found] == ["model", "rules", "llm"]
        kept = Kept(tmp_path / "kept.jsonl", answer)
        bill = runners.bill(found, items, kept)
        assert (bill.least_calls, bill.most_calls) == (len(items), 2 * len(items)) and len(items) == 126
        await measure([(one, runners.of(one)) for one in found], items, answer, kept)
        ranking = judge(found, items, kept)
        by = {one.name: one for one in ranking.measured}
        assert by["model"].quality == pytest.approx(trained.test.accuracy, abs=1e-9)
        assert by["rules"].quality < by["model"].quality and by["rules"].adequate is False
        assert by["llm"].calls > 126 and 0 < by["llm"].cost_eur * 126 <= float(bill.most_eur)
        assert by["model"].cost_eur == 0 and by["llm"].wh is None
        await app.ledger.flush()
        (row,) = await app.ledger.usage(by=("project",))
        assert row.calls == by["llm"].calls
        assert runners.bill(found, items, kept).most_calls == 0


async def test_means_that_cannot_be_done_are_told(store: Store, tmp_path: pathlib.Path) -> None:
    workflow = flows.find("support-reply")
    async with build_for_tests(tmp_path, store.url, ScriptedProvider(says("non"))) as app:
        who = await caller(app)
        runners = Runners(workflow, who, app.gateway.collect, app.catalog, app.roles, app.classifiers.get)
        with pytest.raises(NotFound, match="nowhere"):
            runners.of(Candidate("a", "code", "nowhere", {}, None))
        with pytest.raises(Invalid, match="versions are numbers"):
            runners.of(Candidate("a", "model", "intent@new", {}, None))
        with pytest.raises(NotFound, match="decision table"):
            runners.of(Candidate("a", "rules", "none@1", {}, None))
        code = runners.of(Candidate("a", "code", "text.language", {}, None))
        with pytest.raises(Invalid, match="cannot be called"):
            await code({"words": "Bonjour"})
        model = runners.of(Candidate("a", "model", "intent@1", {}, None))
        with pytest.raises(Invalid, match="needs `text`"):
            await model({"text": 3})
        config = {"model": "writer", "prompt": "p.md"}
        schema = {"type": "object", "required": ["category"]}
        llm = runners.of(Candidate("a", "llm", config, {"p.md": "Dis : {{ text }}"}, schema))  # type: ignore[arg-type]  # JSON
        outcome = await llm({"text": "Bonjour"})
        assert (outcome.failed, outcome.calls) == ("step_failed", 2) and outcome.cost_eur > 0
