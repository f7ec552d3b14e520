"""E-mail by IMAP from a real Dovecot: each message once, whatever restarts, renumbers or breaks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import pathlib
import re
import secrets
from collections.abc import AsyncIterator
from email.message import EmailMessage

import pytest

from metier.calls import JSON
from metier.errors import ConfigError, Invalid
from metier.store import Store
from metier.triggers import Event
from metier.triggers.imap import Imap, account_from_url
from metier.vault import Vault
from metier.workflow.shape import TriggerKind
from tests.triggers.dovecot import PASSWORD, Dovecot
from tests.triggers.house import House, soon, trigger, triggered

SEEN: dict[str, JSON] = {"subject": "{{ event.subject }}", "text": "{{ event.text }}", "from": "{{ event.from }}"}


def message(number: int, text: str = "Bonjour") -> bytes:
    made = EmailMessage()
    made["From"], made["To"] = "Zoé <zoe@exemple.fr>", "support@exemple.fr"
    made["Subject"], made["Message-ID"] = f"Commande {number}", f"<{number}@exemple.fr>"
    made.set_content(text)
    return made.as_bytes()


@pytest.fixture
async def user(mailserver: Dovecot) -> AsyncIterator[str]:
    """A mailbox of this test alone."""
    yield f"u{secrets.token_hex(5)}"


def house_of(store: Store, vault: Vault, server: Dovecot, user: str) -> House:
    house = House(store, vault, ca_file=server.ca_file)
    house.secrets.values["support-at-exemple.fr"] = server.url(user)
    return house


async def deployed(house: House, **config: JSON) -> str:
    made = trigger("email", {"mailbox": "support@exemple.fr", **config}, SEEN)
    return await house.deploy(triggered(made))


async def test_messages_there_and_messages_that_arrive_start_one_run_each(
    store: Store, vault: Vault, mailserver: Dovecot, user: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    house = house_of(store, vault, mailserver, user)
    mailserver.put(message(1), message(2), user=user)
    id = await deployed(house, existing=True)
    async with house.working():
        await house.until(2)
        mailserver.put(message(3, "Où est mon colis ?"), user=user)
        await house.settled(3)
    found = await house.triggers.deployments.get(id)
    assert (found.taken, found.error, found.holder) == (3, None, None)
    assert (await house.runs())[2] == {"subject": "Commande 3", "text": "Où est mon colis ?", "from": "zoe@exemple.fr"}
    assert mailserver.count(user=user, criterion="UNSEEN") == 3
    assert PASSWORD not in caplog.text


async def test_a_message_that_arrives_while_others_are_read_waits_for_no_next_one(
    store: Store, vault: Vault, mailserver: Dovecot, user: str
) -> None:
    house = house_of(store, vault, mailserver, user)
    mailserver.put(message(1), user=user)
    id = await deployed(house, existing=True)
    source = await house.triggers.source(await house.triggers.deployments.get(id))
    seen = []
    async with asyncio.timeout(60), contextlib.aclosing(source.events(None)) as events:
        async for event in events:
            if isinstance(event, Event):
                seen.append(event.data["subject"])
                if len(seen) == 3:
                    break
                # After the look and before the wait: the wait is told of it in a way that wakes nobody.
                mailserver.put(message(len(seen) + 1), user=user)
    assert seen == ["Commande 1", "Commande 2", "Commande 3"]


async def test_old_mail_starts_nothing_unless_it_is_asked_for(
    store: Store, vault: Vault, mailserver: Dovecot, user: str
) -> None:
    house = house_of(store, vault, mailserver, user)
    with mailserver.client(user) as client:
        client.append("INBOX", "", '"01-Jan-2024 10:00:00 +0100"', message(1))
    await deployed(house)
    mailserver.put(message(2), user=user)
    async with house.working():
        await house.until(1)
        mailserver.put(message(3), user=user)
        await house.until(2)
    assert [run["subject"] for run in await house.runs()] == ["Commande 2", "Commande 3"]


async def test_two_workers_and_a_restart_take_each_message_once(
    store: Store, vault: Vault, mailserver: Dovecot, user: str
) -> None:
    house = house_of(store, vault, mailserver, user)
    id = await deployed(house, existing=True, after="seen")
    mailserver.put(*(message(n) for n in range(6)), user=user)
    async with house.working(), house.working():
        await house.until(6)
        mailserver.put(*(message(n) for n in range(6, 12)), user=user)
        await house.until(12)
    mailserver.put(message(12), user=user)
    async with house.working():
        await house.settled(13)
    assert (await house.triggers.deployments.get(id)).taken == 13
    assert await house.count() == 13
    assert mailserver.count(user=user, criterion="SEEN") == 13


async def test_a_mailbox_that_is_numbered_anew_starts_nothing_twice(
    store: Store, vault: Vault, mailserver: Dovecot, user: str
) -> None:
    house = house_of(store, vault, mailserver, user)
    await deployed(house, existing=True)
    mailserver.put(*(message(n) for n in range(4)), user=user)
    async with house.working():
        await house.until(4)
    (before,) = await house.triggers.deployments.list()
    mailserver.renumber(user)
    mailserver.put(message(4), user=user)
    async with house.working():
        await house.until(5)
    (after,) = await house.triggers.deployments.list()
    assert isinstance(before.state, dict) and isinstance(after.state, dict)
    assert before.state["validity"] != after.state["validity"]
    assert await house.count() == 5


async def test_messages_are_moved_to_where_they_went(
    store: Store, vault: Vault, mailserver: Dovecot, user: str
) -> None:
    house = house_of(store, vault, mailserver, user)
    await deployed(house, existing=True, after="move", done="Traités", failed="Refusés")
    # Dovecot refuses an empty message; one without a header is what no reader can make sense of.
    mailserver.put(message(1), b"\r\nno header\r\n", message(2), user=user)
    async with house.working():
        await house.until(2)
        await soon(lambda: mailserver.count(user=user) == 0)
    assert mailserver.count("Trait&AOk-s", user=user) == 2
    assert mailserver.count("Refus&AOk-s", user=user, criterion="FLAGGED") == 1
    (letter,) = await house.triggers.intake.letters()
    assert "no header" in letter.error


async def test_large_and_broken_messages_are_read_as_they_are(
    store: Store, vault: Vault, mailserver: Dovecot, user: str
) -> None:
    house = house_of(store, vault, mailserver, user)
    with_: dict[str, JSON] = {
        "size": "{{ event.size }}",
        "files": "{{ event.files }}",
        "problems": "{{ event.problems }}",
    }
    await house.deploy(triggered(trigger("email", {"mailbox": "support@exemple.fr", "existing": True}, with_)))
    large = EmailMessage()
    large["From"], large["Subject"] = "zoe@exemple.fr", "Gros"
    large.set_content("voir ci-joint")
    large.add_attachment(secrets.token_bytes(20_000_000), "application", "octet-stream", filename="film.bin")
    broken = (
        b"From: zoe@exemple.fr\r\nSubject: =?utf-8?B?broken\r\nContent-Type: multipart/mixed; boundary=x\r\n\r\n"
        b"--x\r\nContent-Type: text/plain; charset=nope\r\nContent-Transfer-Encoding: base64\r\n\r\n!!!\xff\r\n"
    )
    # Python's own reader gives up on what this says of its characters; the mailbox must not stand still for it.
    worse = b"From: zoe@exemple.fr\r\nContent-Type: text/plain; charset*=utf-8''%ff\r\n\r\nBonjour \xe9\r\n"
    mailserver.put(bytes(large), broken, worse, user=user)
    async with house.working():
        await house.until(3)
    first, second, third = await house.runs()
    assert third["size"] == len(worse) and third["problems"] == []
    assert isinstance(first["size"], int) and first["size"] > 26_000_000
    assert isinstance(first["files"], list) and isinstance(first["files"][0], dict)
    assert first["files"][0]["size"] == 20_000_000
    assert second["problems"]


async def test_a_server_that_is_away_is_told_on_the_trigger_and_tried_again(
    store: Store, vault: Vault, mailserver: Dovecot, user: str
) -> None:
    house = house_of(store, vault, mailserver, user)
    house.secrets.values["support-at-exemple.fr"] = f"imaps://{user}:{PASSWORD}@127.0.0.1:1"
    id = await deployed(house, existing=True)
    mailserver.put(message(1), user=user)
    async with house.working():
        async with asyncio.timeout(60):
            while (found := await house.triggers.deployments.get(id)).failures < 2:  # noqa: ASYNC110  # a row, not an event
                await asyncio.sleep(0.05)
        assert found.error is not None and "127.0.0.1" in found.error and PASSWORD not in found.error
        house.secrets.values["support-at-exemple.fr"] = mailserver.url(user)
        await house.until(1)
    assert (await house.triggers.deployments.get(id)).error is None


async def test_a_certificate_nobody_vouches_for_is_refused(
    store: Store, vault: Vault, mailserver: Dovecot, user: str, tmp_path: pathlib.Path
) -> None:
    house = House(store, vault)
    house.secrets.values["support-at-exemple.fr"] = mailserver.url(user)
    id = await deployed(house, existing=True)
    async with house.working():
        async with asyncio.timeout(60):
            while (found := await house.triggers.deployments.get(id)).error is None:  # noqa: ASYNC110  # a row, not an event
                await asyncio.sleep(0.05)
    assert "certificate" in found.error.lower() and "SSL_CERT_FILE" in found.error


@pytest.mark.parametrize(
    ("user_of", "folder", "told"),
    [
        ("{user}:wrong", "INBOX", "AUTHENTICATIONFAILED] Authentication failed.; correct the user and the password"),
        ("{user}:" + PASSWORD, "Clients", "the mailbox has no folder 'Clients': it has 'INBOX'"),
    ],
)
async def test_a_wrong_password_and_a_folder_that_is_not_there_say_what_to_correct(
    store: Store, vault: Vault, mailserver: Dovecot, user: str, user_of: str, folder: str, told: str
) -> None:
    house = house_of(store, vault, mailserver, user)
    url = f"imaps://{user_of.format(user=user)}@localhost:{mailserver.tls}"
    house.secrets.values["support-at-exemple.fr"] = url
    id = await deployed(house, folder=folder)
    async with house.working():
        async with asyncio.timeout(60):
            while (found := await house.triggers.deployments.get(id)).error is None:  # noqa: ASYNC110  # a row, not an event
                await asyncio.sleep(0.05)
    assert told in found.error and not re.search(r"\bb'", found.error), "no bytes as Python writes them"
    assert PASSWORD not in found.error


@pytest.mark.parametrize(
    "url",
    ["imap.exemple.fr", "imaps://host", "imaps://u:p@", "http://u:p@h", "imap://u:canari@h.fr", "imaps://u:canari@h:x"],
)
def test_an_address_that_is_none_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(Exception, match="secret") as refused:
        account_from_url(url)
    assert "canari" not in str(refused.value)


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("email", {"mailbox": "imaps://zoe:canari@imap.exemple.fr"}),
        ("email", {"mailbox": "zoe:canari@exemple.fr"}),
        ("email", {"mailbox": "zoe@exemple.fr", "secret": "imaps://zoe:canari@imap.exemple.fr"}),
        ("webhook", {"secret": "whsec_canariCANARI"}),
        ("row", {"secret": "postgresql://u:canari@db/x", "table": "t", "watermark": "w", "key": "k"}),
    ],
)
async def test_a_password_written_where_the_name_of_a_secret_stands_is_refused_and_not_repeated(
    store: Store, vault: Vault, kind: TriggerKind, config: dict[str, JSON]
) -> None:
    house = House(store, vault)
    with pytest.raises(Invalid, match="metier secret set") as refused:
        await house.deploy(triggered(trigger(kind, config)))
    assert "canari" not in refused.value.message.lower()
    assert await house.triggers.deployments.list() == []


async def test_a_server_that_repeats_the_password_it_refuses_is_not_repeated() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"* OK [CAPABILITY IMAP4rev1] ready\r\n")
        while line := await reader.readline():
            tag, _, rest = line.partition(b" ")
            writer.write(tag + b" NO wrong: " + rest if rest.startswith(b"LOGIN") else tag + b" OK done\r\n")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        imap = Imap(account_from_url(f"imap://zoe:canari%2F31@127.0.0.1:{port}"))
        with pytest.raises(ConfigError, match=r"wrong: LOGIN.*\[secret\]") as refused:
            await imap.call(lambda client: client.noop())
        await imap.aclose()
        assert "canari" not in str(refused.value)
