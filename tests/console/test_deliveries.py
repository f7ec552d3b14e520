"""An e-mail in doubt on the page: listed for those who may, settled once, by a form of this session only."""

from __future__ import annotations

import pathlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from metier.calls import JSON
from metier.connectors.effects import Commit, Deed, Effects
from metier.connectors.outbox import Outbox
from metier.connectors.smtp import Smtp
from metier.connectors.tools import tools
from metier.errors import Unavailable
from metier.store import Store
from metier.vault import Vault
from metier.workflow.definition import Workflow
from metier.workflow.engine import StepContext
from metier.workflow.steps.tool import Effect
from tests.connectors.mailserver import Server, serving
from tests.console.desk import APPROVAL, Office, office
from tests.workflow.flows import flow, step

SCRIPT = "</textarea><script>alert(1)</script>"


def ticket(subject: str) -> Workflow:
    """Its action gives nothing back where a person said that it was done."""
    config: JSON = {"assign": "group:sav", "title": "Valider", "edit": "steps.letter"}
    letter = step("letter", with_={"subject": subject, "body": "Bonjour"})
    return flow(letter, step("approve", "human", config, output=APPROVAL), step("mail", "tool", "crm.create_ticket"))


def mail(subject: str) -> Workflow:
    config: JSON = {"assign": "group:sav", "title": "Valider", "edit": "steps.letter"}
    given: dict[str, JSON] = {
        "to": "client@exemple.fr",
        "subject": "{{ steps.approve.edited.subject }}",
        "body": SCRIPT,
    }
    given["body"] = SCRIPT
    letter = step("letter", with_={"subject": subject, "body": "Bonjour"})
    return flow(
        letter, step("approve", "human", config, output=APPROVAL), step("mail", "tool", "email.send", with_=given),
        step("send", with_={"message_id": "{{ steps.mail.message_id }}"}), output="{{ steps.mail.message_id }}",
    )  # fmt: skip


async def _unknown(_: str) -> bool | None:
    return None


@asynccontextmanager
async def posting(
    store: Store, vault: Vault, folder: pathlib.Path, *answers: str
) -> AsyncIterator[tuple[Office, Server]]:
    """The customer service with a mail server that breaks the line."""
    server = Server(*answers)
    async with serving(server) as account:
        outbox = Outbox(store, vault, Smtp(account), _unknown, domain="exemple.fr")
        send = tools(outbox, None, "sav@exemple.fr")["email.send"]

        async def leave(context: StepContext, with_: dict[str, JSON]) -> JSON:
            return await send(Effect(f"{context.run}/{context.path}", context), with_)

        async with office(store, vault, folder, time.time, {"tool": leave}) as here:
            here.given.pop("letter")
            yield here, server


@pytest.mark.parametrize("cancelled", [False, True])
async def test_another_action_in_doubt_is_shown_as_what_it_is(
    store: Store, vault: Vault, tmp_path: pathlib.Path, cancelled: bool
) -> None:
    async def breaks(_: bytes, __: str, commit: Commit) -> JSON:
        await commit()
        raise Unavailable("the line broke")

    async def leave(context: StepContext, with_: dict[str, JSON]) -> JSON:
        deed = Deed("crm.create_ticket", "crm.exemple.fr", b'{"ticket": 7}', breaks)
        return await Effects(store, vault).once(f"{context.run}/{context.path}", deed, "main")

    async with office(store, vault, tmp_path, time.time, {"tool": leave}) as here:
        here.given.pop("letter")
        path = f"/review/deliveries/{await here.doubt(task := await here.park(ticket('Retour')))}"
        if cancelled:
            await here.engine.cancel(task.run)
        async with here.browser("zoe") as zoe:
            listed = (await zoe.get("/review")).text
            assert "crm › create ticket" in listed and "crm.exemple.fr" in listed
            page = await zoe.get(path)
            assert "seul le système joint" in page.text and '{"ticket": 7}' in page.text
            assert "messagerie" not in page.text and "C'est fait" in page.text
            assert ("Le faire de nouveau" in page.text) == (not cancelled)
            assert ("rien ne sera refait" in page.text) == cancelled
            done = await zoe.post(f"{path}/settle", settlement="delivered")
            assert "C'est noté" in done.text
            assert "Cette action n'est plus dans le doute" in (await zoe.get(path)).text
        await here.engine.drain()
        assert (await here.engine.get(task.run)).status == ("cancelled" if cancelled else "done")


@pytest.mark.parametrize(("found", "taken", "said"), [("delivered", 1, "Il est parti"), ("again", 2, "de nouveau")])
async def test_a_letter_in_doubt_is_listed_shown_and_settled_once(
    store: Store, vault: Vault, tmp_path: pathlib.Path, found: str, taken: int, said: str
) -> None:
    async with posting(store, vault, tmp_path, "250 then cut") as (here, server):
        task = await here.park(mail(f"Retour {SCRIPT}"))
        path = f"/review/deliveries/{await here.doubt(task)}"
        async with here.browser("zoe") as zoe, here.browser("max") as max_, here.browser("eve") as eve:
            listed = await zoe.get("/review")
            assert "Envois et actions dont on ignore" in listed.text and path.replace("@", "%40") in listed.source
            assert "Envois et actions dont on ignore" not in (await eve.get("/review")).text
            assert (await eve.get(path)).status == 404
            assert (await eve.post(f"{path}/settle", settlement=found)).status == 404
            for browser in (zoe, max_):
                page = await browser.get(path)
                assert page.status == 200 and "client@exemple.fr" in page.text and "<script" not in page.source
            assert (await zoe.post(f"{path}/settle", token="x", settlement=found)).status == 403
            await zoe.get(path)
            assert (await zoe.post(f"{path}/settle", settlement="perhaps")).status == 422
            await zoe.get(path)
            done = await zoe.post(f"{path}/settle", settlement=found)
            assert (done.url, "C'est noté" in done.text) == ("/review", True)
            assert "Envois et actions dont on ignore" not in done.text
            late = await max_.post(f"{path}/settle", settlement="again")
            assert late.status == 409 and "Rien n'a été enregistré" in late.text
            assert here.known("zoe") in late.text and said in late.text and "/settle" not in late.source
        await here.engine.drain()
        assert (await here.engine.get(task.run)).status == "done" and len(server.taken) == taken
        assert len(here.sent) == 1
