"""The sample company on the real platform: its documents, customers, classifier and mailbox, around scripted models."""

from __future__ import annotations

import contextlib
import email
import email.policy
import pathlib
import re
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from email.message import EmailMessage
from functools import cache
from typing import Any

import numpy as np
import orjson
import yaml

from metier.app import App, Parts
from metier.calls import JSON, Call, Principal, RunId
from metier.cli.emails import inputs_of
from metier.cli.preparation import TEMPLATES
from metier.connectors.smtp import Sink, Smtp
from metier.providers.scripted import Script, ScriptedProvider, gives
from metier.testing import build_for_tests, caller
from metier.tuning.classifier import Classifier
from metier.tuning.features import WIDTH
from metier.tuning.train import fit, read_examples
from metier.workflow.definition import Workflow, load
from metier.workflow.engine import Run
from metier.workflow.review import Reviewer, Task

TEMPLATE = TEMPLATES / "support-reply"
SAMPLE = TEMPLATE / "sample"
DOCUMENTS = (
    "retours-et-retractation.html", "livraison.html", "faq.md", "paiement-et-facturation.md",
    "delivery-and-returns-en.md", "cartes-cadeaux.md",
)  # fmt: skip
"""A few of the thirty; enough for every question the tests ask."""
SENDER = "Service client Tournevelle <service-client@tournevelle.example>"
ADVISER = Reviewer("zoe", frozenset({"sav"}))
LAWYER = Reviewer("luc", frozenset({"juridique"}))
ADMIN = Reviewer("ada", frozenset({"admins"}))
CATEGORIES = ("refund", "delivery", "warranty", "billing", "product", "legal", "other")
_SENTENCE = re.compile(r"^\((\d+)\) (.+)$", re.MULTILINE)


@cache
def truth() -> Mapping[str, Any]:
    """What a careful adviser would say is true of each e-mail, by file name."""
    written = yaml.safe_load((SAMPLE / "emails.yaml").read_text(encoding="utf-8"))
    return {entry["file"]: entry for entry in written["emails"]}


def constant(category: str) -> Classifier:
    """A classifier that is sure of one category whatever it reads."""
    bias = np.array([20.0 if label == category else 0.0 for label in CATEGORIES], np.float32)
    width = np.zeros(WIDTH, np.float32)
    return Classifier(CATEGORIES, "tfidf", np.zeros((len(CATEGORIES), WIDTH), np.float32), bias, width)


def mail(number: int) -> bytes:
    """One of the twelve e-mails, as it was received."""
    (path,) = (SAMPLE / "emails").glob(f"{number:02}-*.eml")
    return path.read_bytes()


def sent(folder: pathlib.Path) -> list[EmailMessage]:
    """What arrived at the mail server, oldest first."""
    found = []
    for path in sorted(folder.glob("*.eml"), key=lambda p: p.stat().st_mtime_ns):
        message = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        found.append(message)
    return found


def wrote(call: Call) -> str:
    """Everything the provider could read of a call, as one text."""
    return orjson.dumps(call, default=list).decode()


def drafting(call: Call) -> bool:
    """Whether a call asks for a draft, and not for a judgement."""
    return call.output is not None and call.output.name == "draft"


def numbered(call: Call) -> dict[int, str]:
    """The numbered sentences of the documents in a prompt."""
    return {int(number): text for number, text in _SENTENCE.findall(call.messages[-1].content)}


def faithful(call: Call) -> Script:
    """A model that copies the first sentence it is offered, and a judge that likes it."""
    if not drafting(call):
        return gives({"critique": "aucun", "grounded": True, "score": 9})
    number, sentence = next((n, text) for n, text in numbered(call).items() if len(text) > 25)
    return gives({"answers": [{"question": 1, "sentences": [number], "answer": sentence[:300]}]})


@dataclass(slots=True)
class Company:
    """What a test asks of the platform and of its people."""

    app: App
    who: Principal
    flow: Workflow
    provider: ScriptedProvider
    mailbox: pathlib.Path
    smtp_port: int

    async def receive(self, number: int, **changes: JSON) -> RunId:
        """Start the run of an e-mail and move it as far as it goes."""
        found, inputs = inputs_of(mail(number))
        run = await self.app.engine.start(self.flow, {**inputs, **changes}, self.who, dedupe=found.message_id)
        await self.app.engine.drain()
        return run

    async def run(self, run: RunId) -> Run:
        """Where a run stands."""
        return await self.app.engine.get(run)

    async def task(self, run: RunId, reviewer: Reviewer = ADVISER) -> Task:
        """The one task of a run that waits for this person."""
        (task,) = await self.app.review.list(reviewer, run=run)
        return task

    async def decide(self, run: RunId, decision: JSON, reviewer: Reviewer = ADVISER, note: str = "") -> None:
        """Decide the one task of a run, and move the run on."""
        await self.app.review.decide((await self.task(run, reviewer)).id, reviewer, decision, note)
        await self.app.engine.drain()

    async def values(self, run: RunId) -> dict[str, Any]:
        """What each finished step gave, by path."""
        steps = await self.app.engine.steps(run)
        return {step.path: step.value for step in steps if step.kind in ("result", "decision") and not step.name}


@contextlib.asynccontextmanager
async def company(
    url: str,
    home: pathlib.Path,
    answer: Callable[[Call], Script] = faithful,
    *,
    category: str | None = "billing",
    flow: Workflow | None = None,
) -> AsyncIterator[Company]:
    """Build it with its documents; every message is of this `category`, or of the one the sample messages teach."""
    provider = ScriptedProvider(answer=answer)
    sink = Sink(home / "sent")
    account = await sink.start()
    parts = Parts(transport=Smtp(account), confirm=sink.confirm, mail_from=SENDER, customers=SAMPLE / "customers.jsonl")
    try:
        async with build_for_tests(home, url, provider, parts) as app:
            who = await caller(app, "workflow support-reply")
            await furnish(app, who, category)
            yield Company(app, who, flow or load(TEMPLATE / "flow.yaml"), provider, sink.folder, account.port)
    finally:
        await sink.stop()


async def furnish(app: App, who: Principal, category: str | None = None) -> None:
    """Put documents and classifier where there are none yet."""
    if not await app.classifiers.list():
        if category is None:
            trained = await fit(read_examples(SAMPLE / "messages.jsonl"), "tfidf")
            await app.classifiers.add("intent", trained.classifier, trained.card)
        else:
            await app.classifiers.add("intent", constant(category), {})
    ingest = app.ingest(who)
    if not await ingest.collections():
        await ingest.create("sav")
        for name in DOCUMENTS:
            await ingest.add("sav", name, (SAMPLE / "documents" / name).read_bytes(), frozenset({"public"}))
