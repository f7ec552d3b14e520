"""The example `agent-desk`, from its file, with the customers of the sample and a person who approves its letters."""

from __future__ import annotations

import pathlib

import pytest

from metier.calls import JSON
from metier.connectors.customers import Customers
from metier.connectors.tools import tools
from metier.providers.scripted import ScriptedProvider, asks, gives
from metier.store import Store
from metier.workflow.definition import load
from metier.workflow.steps.tool import Tool
from tests.workflow.steps.agents import Counted, shop, told, turn

TEMPLATES = pathlib.Path(__file__).parents[3] / "src" / "metier" / "templates"
FLOW = load(TEMPLATES / "agent-desk" / "flow.yaml")
CUSTOMER = "claire.vasseur@courriel.example"
LETTER: dict[str, JSON] = {"to": CUSTOMER, "subject": "Votre commande", "body": "Elle est livrée."}


@pytest.mark.parametrize(("language", "says_so"), [("fr", "Réponds en français"), ("en", "Answer in English")])
async def test_the_desk_looks_up_and_hands_over_what_must_be_written(
    store: Store, tmp_path: pathlib.Path, language: str, says_so: str
) -> None:
    find = tools(None, Customers(TEMPLATES / "support-reply" / "sample" / "customers.jsonl"), None)["crm.find_contact"]
    send = Counted("email.send", "Sends.", {"type": "object"}, {"message_id": "1@here"})
    provider = ScriptedProvider(
        asks("crm_find_contact", {"email": CUSTOMER}),
        asks("transfer_to_correspondent", {}),
        turn(("email_send", LETTER), text="She asks for it in writing."),
        gives({"answer": "C'est envoyé.", "written": True}),
        gives({"answer": "Elle est livrée.", "written": False}),
    )
    inputs: dict[str, JSON] = {"from": CUSTOMER, "text": "Écrivez-moi.", "language": language}
    more: dict[str, Tool] = {"crm.find_contact": find, "email.send": send}
    async with shop(store, tmp_path, provider, more=more) as s:
        run = await s.play(FLOW, inputs)
        assert (run.status, send.calls) == ("parked", [])
        (task,) = await s.review.of_run(run.id)
        assert task.assignee == "group:sav"
        assert (task.show["agent"], task.show["why"]) == ("correspondent", "She asks for it in writing.")
        changed = {**LETTER, "body": "Elle est livrée depuis lundi."}
        run = await s.decide(run, {"decision": "approve", "edited": changed})
        assert await s.engine.result(run.id) == {"answer": "C'est envoyé.", "written": True}
        assert send.calls == [changed]
        assert says_so in told(provider, 0)[0][1]
        assert "CMD-2026-10412" in told(provider, 1)[-1][1]
        await s.give(FLOW, {**inputs, "text": "Et ma commande ?"})
    again = [role for role, _ in told(provider)]
    assert again == ["system", "user", "assistant", "user"], "the desk knows what the correspondent answered"
    assert told(provider)[2][1].startswith("[correspondent]")
