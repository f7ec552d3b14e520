"""A customer service for tests: reviewers with real keys, drafts that wait, and a browser without JavaScript."""

from __future__ import annotations

import html
import io
import pathlib
import re
import urllib.parse
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from starlette.applications import Starlette

from metier.calls import JSON, RunId
from metier.connectors.deliveries import Deliveries
from metier.console import pages
from metier.governance.register import ADMITTED, Register
from metier.policy.admission import Admission
from metier.policy.keys import Issued, Keys
from metier.record.ledger import Ledger
from metier.settings import Settings
from metier.store import Store
from metier.vault import Vault
from metier.workflow.definition import Kind, Workflow
from metier.workflow.engine import Engine, StepContext
from metier.workflow.operations import Operations
from metier.workflow.review import Review, Reviewer, Task, TaskDesk, known_as
from tests.workflow.flows import WHO, flow, step
from tests.world import serve

__all__ = ["APPROVAL", "HANDOFF", "LETTER", "Browser", "Office", "Page", "approval", "handoff", "office", "reviewer"]

APPROVAL: dict[str, JSON] = {
    "type": "object",
    "properties": {
        "decision": {"enum": ["approve", "reject"]},
        "edited": {
            "type": "object",
            "properties": {"subject": {"type": "string"}, "body": {"type": "string", "minLength": 1}},
            "required": ["subject", "body"],
        },
    },
    "required": ["decision", "edited"],
    "additionalProperties": False,
}
"""What a decision on a draft looks like."""

HANDOFF: dict[str, JSON] = {
    "type": "object",
    "properties": {"decision": {"enum": ["taken", "returned"]}, "note": {"type": "string"}},
    "required": ["decision", "note"],
    "additionalProperties": False,
}
"""What a decision on a case without a draft looks like."""

LETTER: dict[str, JSON] = {
    "subject": "Re: Retour du robot",
    "body": "Bonjour,\n\nVous avez 14 jours pour changer d'avis.\n\nLe service client",
    "citations": [{"id": "retours-1", "quote": "Vous avez 14 jours  calendaires"}],
}
"""A draft of the writer."""

GIVEN: dict[str, JSON] = {
    "docs": {
        "hits": [
            {"id": "livraison-2", "document": "livraison.html", "title": "Livraison", "text": "Offerte dès 60 €."},
            {
                "id": "retours-1",
                "document": "retours.html",
                "title": "Retours › Délai",
                "text": "Rappel. Vous avez 14 jours calendaires pour changer d'avis, sans raison.",
            },
        ]
    },
    "check": {
        "ok": False,
        "cited": 2,
        "verified": 1,
        "critique": "-",
        "findings": [
            {
                "kind": "figure unsupported",
                "where": "30",
                "fr": "« 30 » ne figure",
                "en": "'30' stands",
                "serious": True,
            }
        ],
    },
    "grade": {"score": 8, "critique": "Un peu sec.", "grounded": True},
    "policy": {"route": "auto", "priority": "high", "reason": "Retour dans les délais."},
    "letter": LETTER,
}
"""What the steps before the approval give, unless a test says otherwise."""


@dataclass(frozen=True, slots=True)
class Page:
    """What a browser was shown."""

    status: int
    url: str
    headers: Mapping[str, str]
    source: str

    @property
    def text(self) -> str:
        """The page as read, without its tags."""
        words = re.sub(r"<[^>]*>", " ", re.sub(r"<(head|template)\b.*?</\1>", " ", self.source, flags=re.DOTALL))
        return " ".join(html.unescape(words).split())

    @property
    def token(self) -> str:
        """The token its forms carry."""
        found = re.search(r'name="token" value="([^"]+)"', self.source)
        return found[1] if found else ""


@dataclass(slots=True)
class Browser:
    """One person's browser."""

    client: aiohttp.ClientSession
    url: str
    page: Page | None = None

    async def get(self, path: str, **headers: str) -> Page:
        """Look at a page."""
        return await self._show("GET", path, None, headers)

    async def post(self, path: str, *, token: str | None = None, **fields: str) -> Page:
        """Send a form of the page one looks at; a redirection is followed as browsers do."""
        seen = self.page.token if self.page else ""
        return await self._show("POST", path, {"token": seen if token is None else token, **fields}, {})

    async def sign_in(self, key: str) -> Page:
        """Sign in with a key."""
        await self.get("/review")
        return await self.post("/review/sign-in", key=key)

    async def _show(self, method: str, path: str, fields: dict[str, str] | None, headers: Mapping[str, str]) -> Page:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        data = None
        if fields is not None:
            named["content-type"] = "application/x-www-form-urlencoded"
            data = io.BytesIO(urllib.parse.urlencode(fields).encode())
        async with self.client.request(method, self.url + path, data=data, headers=named) as answer:
            page = Page(answer.status, answer.url.path, answer.headers, await answer.text())
        self.page = page
        return page


@dataclass(slots=True)
class Office:
    """The parts, as the console sees them, and what tests ask of them."""

    settings: Settings
    vault: Vault
    keys: Keys
    review: Review
    deliveries: Deliveries
    ledger: Ledger
    engine: Engine
    operations: Operations
    given: dict[str, JSON]
    clock: list[float]
    issued: dict[str, Issued] = field(default_factory=dict)
    sent: list[JSON] = field(default_factory=list)
    """What the last step of each run was given."""
    url: str = ""

    async def park(self, workflow: Workflow, **inputs: JSON) -> Task:
        """Start a run and give the task it waits for."""
        run = await self.engine.start(workflow, {"text": "Où est mon colis ?", "subject": "Retour", **inputs}, WHO)
        await self.engine.drain()
        now = await self.engine.get(run)
        assert now.status == "parked", now.failure
        return await self.task(run)

    async def doubt(self, task: Task) -> str:
        """Approve a task whose letter then leaves on a line that breaks, and give the letter's id."""
        await self.review.decide(task.id, reviewer("zoe", "sav"), {"decision": "approve"})
        await self.engine.drain()
        (found,) = await self.deliveries.of_run(task.run)
        assert found.doubtful
        return found.message_id

    async def namesake(self, name: str, under: str) -> None:
        """Issue a second key of the same name."""
        key = self.issued[name].key
        self.issued[under] = await self.keys.issue(name, key.project, key.system, by="Camille", groups=[*key.groups])

    def known(self, who: str) -> str:
        """How records name a reviewer."""
        key = self.issued[who].key
        return known_as(key.name, key.id)

    async def task(self, run: RunId) -> Task:
        """The open task of a run."""
        (task,) = await self.review.list(run=run)
        return task

    @asynccontextmanager
    async def browser(self, who: str | None = None, **headers: str) -> AsyncIterator[Browser]:
        """Open a browser, signed in as one of the reviewers if one is named."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True), headers=named) as client:
            opened = Browser(client, self.url)
            if who is not None:
                assert (await opened.sign_in(self.issued[who].secret)).status == 200
            yield opened


def approval(**more: JSON) -> Workflow:
    """A workflow whose draft waits for an approval, then leaves."""
    shown: list[JSON] = ["inputs.text", "steps.docs.hits", "steps.check", "steps.grade", "steps.policy"]
    config: JSON = {
        "assign": "group:sav",
        "title": "Valider : {{ inputs.subject }}",
        "show": shown,
        "edit": "steps.letter",
        "due": "4h",
        **more,
    }
    before = [step(name) for name in ("docs", "check", "grade", "policy", "letter")]
    leaves = step("send", with_={"letter": "{{ steps.approve.edited }}", "decision": "{{ steps.approve.decision }}"})
    return flow(*before, step("approve", "human", config, output=APPROVAL), leaves, output="{{ steps.send }}")


def handoff() -> Workflow:
    """A workflow that hands a case to a person, without a draft."""
    config: JSON = {
        "assign": "group:sav",
        "title": "À traiter : {{ inputs.subject }}",
        "show": ["inputs.text", "steps.policy.reason"],
    }
    leaves = step("send", with_={"letter": "{{ steps.case.note }}", "decision": "{{ steps.case.decision }}"})
    return flow(
        step("policy"), step("case", "human", config, output=HANDOFF), leaves, output="{{ steps.send }}", name="handoff"
    )


@asynccontextmanager
async def office(
    store: Store, vault: Vault, folder: pathlib.Path, now: Callable[[], float], more: Mapping[Kind, Any] | None = None
) -> AsyncIterator[Office]:
    """Open it: three reviewers with keys, a worker, and the pages on a real server."""
    register = Register(store)
    keys = Keys(store, vault, register.statuses, frozenset(ADMITTED))
    system = await register.register("Essai", "Répondre aux clients", "Camille")
    await register.approve(system.id, by="Camille")
    project = await keys.create_project("Service client")
    admission = Admission(store, "w1", register.statuses, frozenset(ADMITTED))
    ledger = Ledger(store, folder, "w1", admission.charge, admission.settle_worker)
    given = dict(GIVEN)
    sent: list[JSON] = []

    async def work(context: StepContext, with_: dict[str, Any]) -> JSON:
        if context.path == "send":
            sent.append(with_)
        return given.get(context.path, dict(with_))

    engine = Engine(store, vault, {"code": work, **(more or {})}, desk=TaskDesk(store, vault))
    review = Review(store, vault, engine)
    made = Office(
        Settings(home=folder, config_path=folder),
        vault,
        keys,
        review,
        Deliveries(store, vault, engine, review),
        ledger,
        engine,
        Operations(store, vault, engine, TaskDesk(store, vault)),
        given,
        [0.0],
        sent=sent,
    )
    for name, groups in (("zoe", ["sav"]), ("max", ["sav"]), ("eve", ["compta"]), ("ada", ["admins"])):
        made.issued[name] = await keys.issue(name, project.id, system.id, by="Camille", groups=groups)
    ledger.open()
    try:
        async with serve(Starlette(routes=pages(made, now=lambda: now() + made.clock[0]))) as made.url:
            yield made
    finally:
        await ledger.close()


def reviewer(name: str, *groups: str) -> Reviewer:
    """Somebody who reviews without a browser."""
    return Reviewer(name, frozenset(groups))
