"""Drafts put into a real mailbox of Dovecot: once, found again by their Message-ID, however the line breaks."""

from __future__ import annotations

import email
from collections.abc import Iterator
from typing import Any, Literal

import pytest

from metier.connectors.effects import identity
from metier.connectors.secrets import Secrets
from metier.connectors.tools import Toolbox
from metier.errors import ConfigError, Invalid, StepFailed, Unavailable
from metier.store import Store
from metier.vault import Vault
from tests.connectors.dovecot import PASSWORD, USER, Mailbox, cutting, dovecot, program
from tests.connectors.place import Place, box

pytestmark = pytest.mark.skipif(program() is None, reason="dovecot is not installed: apt-get install dovecot-imapd")
DRAFT: dict[str, Any] = {"to": "Élodie <elodie@exemple.fr>", "subject": "Réponse", "body": "Bonjour,\n\nÀ bientôt\n"}


@pytest.fixture(scope="module")
def running() -> Iterator[Mailbox]:
    with dovecot() as made:
        yield made


@pytest.fixture
def mailbox(running: Mailbox) -> Mailbox:
    with running.client() as client:
        if client.select("Drafts")[1] != [b"0"]:
            client.store("1:*", "+FLAGS", r"(\Deleted)")
            client.expunge()
    return running


async def office(store: Store, vault: Vault, place: Mailbox, password: str = PASSWORD, **more: Any) -> Toolbox:
    await Secrets.built(store, vault).set("imap", password, scope=["drafts"], by="ada")
    options = {"kind": "imap_append", "host": "127.0.0.1", "port": place.port, "tls": "none", "user": USER}
    return box(store, vault, drafts={**options, "password": "imap", "sender": "SAV <sav@exemple.fr>", **more})


async def test_a_draft_is_put_there_once(store: Store, vault: Vault, mailbox: Mailbox) -> None:
    made = await office(store, vault, mailbox)
    given = {**DRAFT, "in_reply_to": "<question@exemple.fr>"}
    first = await made["drafts.draft"](Place(), given)
    assert first == await made["drafts.draft"](Place(), DRAFT) == {"message_id": f"{identity('run_1/send')}@exemple.fr"}
    (kept,) = mailbox.drafts()
    assert b"\\Draft" in kept and b"In-Reply-To: <question@exemple.fr>" in kept and b"Auto-Submitted" not in kept
    assert b"To: =?utf-8?" in kept and f"<{identity('run_1/send')}@exemple.fr>".encode() in kept


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_line_that_breaks_is_settled_by_looking(
    store: Store, vault: Vault, mailbox: Mailbox, when: Literal["before", "after"]
) -> None:
    async with cutting(mailbox, when) as line:
        made = await office(store, vault, line)
        with pytest.raises(Unavailable, match="broke off"):
            await made["drafts.draft"](Place(), DRAFT)
        assert len(mailbox.drafts()) == (0 if when == "before" else 1)
        await made["drafts.draft"](Place(), DRAFT)
    assert len(mailbox.drafts()) == 1


async def test_while_nobody_can_look_a_person_is_asked(store: Store, vault: Vault, mailbox: Mailbox) -> None:
    async with cutting(mailbox, "after") as line:
        made = await office(store, vault, line)
        with pytest.raises(Unavailable):
            await made["drafts.draft"](Place(), DRAFT)
    away = await office(store, vault, Mailbox(9))
    with pytest.raises(StepFailed, match="metier review settle run_1/send"):
        await away["drafts.draft"](Place(), DRAFT)
    assert len(mailbox.drafts()) == 1


async def test_a_server_that_is_away_leaves_no_doubt(store: Store, vault: Vault, mailbox: Mailbox) -> None:
    away = await office(store, vault, Mailbox(9))
    with pytest.raises(Unavailable, match="cannot be reached"):
        await away["drafts.draft"](Place(), DRAFT)
    await (await office(store, vault, mailbox))["drafts.draft"](Place(), DRAFT)
    assert len(mailbox.drafts()) == 1


async def test_a_password_that_is_refused_is_told_without_being_told(
    store: Store, vault: Vault, mailbox: Mailbox
) -> None:
    made = await office(store, vault, mailbox, "canary-wrong")
    with pytest.raises(ConfigError, match="refused our credentials") as refused:
        await made["drafts.draft"](Place(), DRAFT)
    assert "canary" not in str(refused.value)


async def test_a_folder_that_is_not_there_is_told(store: Store, vault: Vault, mailbox: Mailbox) -> None:
    made = await office(store, vault, mailbox, folder="Brouillons")
    with pytest.raises(ConfigError, match="has no folder 'Brouillons'"):
        await made["drafts.draft"](Place(), DRAFT)


@pytest.mark.parametrize("field", ["to", "subject", "in_reply_to"])
async def test_no_input_adds_a_header(store: Store, vault: Vault, mailbox: Mailbox, field: str) -> None:
    made = await office(store, vault, mailbox)
    with pytest.raises(Invalid):
        await made["drafts.draft"](Place(), {**DRAFT, field: "a@b.example\r\nBcc: all@exemple.fr"})
    assert mailbox.drafts() == []


async def test_an_id_a_sender_chose_to_hide_a_header_in_ends_the_thread_only(
    store: Store, vault: Vault, mailbox: Mailbox
) -> None:
    made = await office(store, vault, mailbox)
    hidden = "=?utf-8?q?x=0ABcc:_spy@exemple.fr?=@b.example"
    await made["drafts.draft"](Place(), {**DRAFT, "subject": f"Re: {hidden}", "in_reply_to": hidden})
    kept = email.message_from_bytes(mailbox.drafts()[0])
    assert kept["Bcc"] is None and kept["In-Reply-To"] is None and kept["References"] is None


async def test_what_would_be_put_there_is_shown(store: Store, vault: Vault, mailbox: Mailbox) -> None:
    connector = (await office(store, vault, mailbox)).connector("drafts")
    shown = await connector.preview("draft", DRAFT)
    assert shown["folder"] == "Drafts" and "Subject: =?utf-8?" in str(shown["message"])
    assert await connector.probe() == "sav at 127.0.0.1: the folder Drafts has 0 messages" and mailbox.drafts() == []


@pytest.mark.parametrize(
    "more",
    [{"host": None}, {"sender": "nobody"}, {"tls": "perhaps"}, {"tls": "none", "host": "x.example"}, {"folder": 3}],
)
def test_a_wrong_entry_is_refused(store: Store, vault: Vault, more: dict[str, Any]) -> None:
    entry = {"kind": "imap_append", "host": "x.example", "user": "u", "password": "p", "sender": "a@x.example", **more}
    with pytest.raises(ConfigError):
        box(store, vault, drafts=entry)
