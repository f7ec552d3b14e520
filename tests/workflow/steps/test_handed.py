"""`model:`, `rules:`, `tool:` and `code:` steps: each takes what it is handed and says what it cannot do."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from metier.app import Parts
from metier.calls import JSON
from metier.connectors.smtp import Sink, Smtp
from metier.store import Store
from metier.tuning.classifier import Classifier
from metier.tuning.features import WIDTH
from metier.tuning.train import Example, fit
from metier.vault import Vault
from metier.workflow.definition import Retry
from metier.workflow.engine import Engine
from metier.workflow.steps.code import CodeSteps
from metier.workflow.steps.tool import Effect, ToolSteps
from tests.workflow.flows import WHO, flow, step
from tests.workflow.steps.flows import Bench, bench, one

LABEL = 'model: LABELS, with: {text: "{{ inputs.text }}"}'
SAID = {
    "retour": ["je veux renvoyer mon colis", "retour de mon robot", "renvoyer cet article", "mon retour svp"],
    "facture": ["ma facture est fausse", "erreur de facturation", "la facture du mois", "facture en double"],
}
TABLE = """
rules: tri
version: "1"
hit: first
inputs: {type: object, required: [amount], properties: {amount: {type: number}}}
outputs: {type: object, required: [route], properties: {route: {enum: [person, machine]}}}
rows:
  - when: amount > 80.0
    then: {route: person}
  - when: "true"
    then: {route: machine}
"""


async def classifier(b: Bench, name: str = "intent") -> None:
    examples = [Example(text, label, "train") for label, texts in SAID.items() for text in texts]
    checks = [Example(text, label, split) for label, (text, *_) in SAID.items() for split in ("validation", "test")]
    trained = await fit([*examples, *checks], "tfidf")
    await b.app.classifiers.add(name, trained.classifier, trained.card)


async def test_a_classifier_gives_category_and_confidence(store: Store, tmp_path: pathlib.Path) -> None:
    async with bench(store, tmp_path) as b:
        await classifier(b)
        found = await b.give(one(LABEL.replace("LABELS", "intent@1")), {"text": "un retour de colis"})
        assert set(found) == {"category", "confidence"}
        assert (found["category"], 0.5 < found["confidence"] <= 1) == ("retour", True)
        shares = (
            LABEL.replace("LABELS", "intent@1")
            + ", output: {category: string, confidence: number, probabilities: object}"
        )
        found = await b.give(one(shares), {"text": "ma facture"})
        assert found["category"] == "facture"
        assert sum(found["probabilities"].values()) == pytest.approx(1, abs=1e-3)


async def test_a_pinned_version_stays_when_a_newer_one_is_trained(store: Store, tmp_path: pathlib.Path) -> None:
    async with bench(store, tmp_path) as b:
        await classifier(b)
        upside_down = await b.app.classifiers.get("intent", 1)
        swapped = type(upside_down)(
            ("retour", "facture"), "tfidf", upside_down.weights, upside_down.bias, upside_down.idf
        )
        await b.app.classifiers.add("intent", swapped, {})
        text = {"text": "un retour de colis"}
        assert (await b.give(one(LABEL.replace("LABELS", "intent@1")), text))["category"] == "retour"
        assert (await b.give(one(LABEL.replace("LABELS", "intent@2")), text))["category"] == "facture"


async def test_a_classifier_that_is_not_there_is_named(store: Store, tmp_path: pathlib.Path) -> None:
    async with bench(store, tmp_path) as b:
        code, message = await b.fail(one(LABEL.replace("LABELS", "intent@3")), {"text": "x"})
        assert (code, "'intent@3'" in message, "metier train" in message) == ("not_found", True, True)
        assert (await b.fail(one("model: intent@1, with: {text: 3}"), {"text": "x"}))[0] == "invalid"


async def test_embeddings_without_an_embedder_are_a_mistake_of_the_platform(
    store: Store, tmp_path: pathlib.Path
) -> None:
    async with bench(store, tmp_path) as b:
        await classifier(b)
        own = await b.app.classifiers.get("intent", 1)
        asking = Classifier(own.labels, "embeddings", np.zeros((2, 8), np.float32), own.bias, np.zeros(0, np.float32))
        await b.app.classifiers.add("vectors", asking, {})
        code, message = await b.fail(one(LABEL.replace("LABELS", "vectors@1")), {"text": "x"})
    assert WIDTH > 8
    assert (code, "embedder" in message) == ("not_found", True)


@pytest.mark.parametrize(("amount", "route"), [("249.0", "person"), ("12.5", "machine"), ("80", "machine")])
async def test_a_table_decides(store: Store, tmp_path: pathlib.Path, amount: str, route: str) -> None:
    async with bench(store, tmp_path) as b:
        step = f"rules: tri@1, with: {{amount: {amount}}}"
        assert await b.give(one(step), {"text": ""}, **{"rules/tri@1.yaml": TABLE}) == {"route": route}


async def test_a_table_read_before_is_not_taken_for_another_of_its_name(store: Store, tmp_path: pathlib.Path) -> None:
    async with bench(store, tmp_path) as b:
        text = one("rules: tri@1, with: {amount: 50}")
        assert await b.give(text, {"text": ""}, **{"rules/tri@1.yaml": TABLE}) == {"route": "machine"}
        lower = {"rules/tri@1.yaml": TABLE.replace("80.0", "20.0")}
        assert await b.give(text, {"text": ""}, **lower) == {"route": "person"}
        assert await b.give(text, {"text": "again"}, **{"rules/tri@1.yaml": TABLE}) == {"route": "machine"}


async def test_a_table_is_pinned_with_the_run(store: Store, tmp_path: pathlib.Path) -> None:
    async with bench(store, tmp_path) as b:
        flow_text = one('rules: tri@1, with: {amount: "{{ inputs.text }}"}')
        code, message = await b.fail(flow_text, {"text": "beaucoup"}, **{"rules/tri@1.yaml": TABLE})
        assert (code, "amount" in message, "beaucoup" in message) == ("invalid", True, False)


async def test_the_tools_of_the_platform_say_what_is_missing(store: Store, tmp_path: pathlib.Path) -> None:
    async with bench(store, tmp_path) as b:
        code, message = await b.fail(one("tool: crm.find_contact, with: {email: a@b.example}"), {"text": ""})
        assert (code, "customers:" in message) == ("config_error", True)
        code, message = await b.fail(
            one("tool: email.send, with: {to: a@b.example, subject: s, body: t}"), {"text": ""}
        )
        assert (code, "METIER_SMTP_URL" in message) == ("config_error", True)
        code, message = await b.fail(one("tool: slack.post, with: {}"), {"text": ""})
        assert (code, "email.send" in message) == ("not_found", True)


async def test_an_email_is_sent_once_under_the_key_of_its_step(store: Store, tmp_path: pathlib.Path) -> None:
    sink = Sink(tmp_path / "sent")
    parts = Parts(
        transport=Smtp(await sink.start()), confirm=sink.confirm, mail_from="Service <service@exemple.example>"
    )
    try:
        async with bench(store, tmp_path, parts=parts) as b:
            send = 'tool: email.send, with: {to: a@b.example, subject: "Été", body: "{{ inputs.text }}"}'
            found = await b.give(one(send), {"text": "Bonjour"})
    finally:
        await sink.stop()
    (sent,) = (tmp_path / "sent").glob("*.eml")
    assert sent.name == f"{found['message_id']}.eml"


async def test_the_key_of_an_effect_is_the_same_at_every_attempt(store: Store, vault: Vault) -> None:
    keys: list[str] = []

    async def note(effect: Effect, with_: dict[str, JSON]) -> JSON:
        keys.append(effect.key)
        if len(keys) < 3:
            raise RuntimeError("broke after the effect")
        return {"seen": with_["n"], "attempt": effect.context.attempt}

    engine = Engine(store, vault, {"tool": ToolSteps({"note.down": note})})
    it = step("it", "tool", "note.down", with_={"n": 3}, retry=_twice())
    run = await engine.start(flow(it, output="{{ steps.it }}"), {}, WHO)
    await engine.drain()
    assert await engine.result(run) == {"seen": 3, "attempt": 3}
    assert keys == [f"{run}/it"] * 3


def _twice() -> Retry:
    return Retry(2, "constant", 0)


async def test_code_is_called_by_name_with_its_arguments(store: Store, tmp_path: pathlib.Path) -> None:
    async with bench(store, tmp_path) as b:
        assert await b.give(one("code: text.language, with: {text: Hello to you}"), {"text": ""}) == {
            "language": "en", "empty": False
        }  # fmt: skip
        code, message = await b.fail(one("code: text.language, with: {words: Hello}"), {"text": ""})
        assert (code, "words" in message) == ("invalid", True)
        code, message = await b.fail(one("code: text.shout, with: {text: Hello}"), {"text": ""})
        assert (code, "text.language" in message) == ("not_found", True)


async def test_a_mistake_inside_a_function_is_not_blamed_on_the_caller(store: Store, vault: Vault) -> None:
    def broken(text: str) -> JSON:
        return len(text) + None  # type: ignore[operator]  # the mistake

    engine = Engine(store, vault, {"code": CodeSteps({"a.b": broken})})
    run = await engine.start(flow(step("it", "code", "a.b", with_={"text": "x"})), {}, WHO)
    await engine.drain()
    failure = (await engine.get(run)).failure
    assert failure is not None
    assert failure.code == "step_failed", "the trace in the journal says where"
