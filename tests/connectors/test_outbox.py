from __future__ import annotations

import asyncio
import contextlib
import email.message
import pathlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from metier.calls import JSON
from metier.connectors.effects import Commit, Deed, Effects, again
from metier.connectors.outbox import Outbox, message_id
from metier.connectors.smtp import Account, Sink, Smtp, account_from_url
from metier.errors import ConfigError, Conflict, Invalid, StepFailed, Unavailable
from metier.store import Store
from metier.vault import Vault
from tests.connectors.mailserver import Server, serving


@pytest.fixture
async def sink(tmp_path: pathlib.Path) -> AsyncIterator[Sink]:
    made = Sink(tmp_path / "sent")
    yield made
    await made.stop()


Serve = Callable[[Server], Awaitable[Account]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    async with contextlib.AsyncExitStack() as stack:

        async def start(handler: Server) -> Account:
            return await stack.enter_async_context(serving(handler))

        yield start


def letter(body: str = "Bonjour,\n\nVotre colis part demain. Coût : 4,90 €.\n") -> email.message.EmailMessage:
    message = email.message.EmailMessage()
    message["From"] = "sav@exemple.fr"
    message["To"] = "client@exemple.fr"
    message["Subject"] = "Votre commande"
    message.set_content(body)
    return message


async def unknown(_: str) -> bool | None:
    return None


async def test_a_message_leaves_once_however_often_it_is_sent(store: Store, vault: Vault, sink: Sink) -> None:
    outbox = Outbox(store, vault, Smtp(await sink.start()), sink.confirm, domain="exemple.fr")
    first = await outbox.send("run_1/send", letter(), "main")
    second = await outbox.send("run_1/send", letter("another text"), "main")
    assert first == second == message_id("run_1/send", "exemple.fr")
    (kept,) = sink.folder.glob("*.eml")
    assert "4,90 €" in email.message_from_bytes(kept.read_bytes()).get_payload(decode=True).decode()  # type: ignore[union-attr]  # one text part
    assert await outbox.state("run_1/send") == "sent"


async def test_the_stored_content_is_sealed(store: Store, vault: Vault, sink: Sink) -> None:
    await Outbox(store, vault, Smtp(await sink.start()), sink.confirm, domain="exemple.fr").send(
        "run_1/send", letter(), "main"
    )
    row = await store.queries("outbox").one("get", {"key": "run_1/send"})
    assert row is not None and b"colis" not in bytes(row["content"])


@pytest.mark.parametrize(("answer", "error"), [("451 later", Unavailable), ("554 never", Invalid)])
async def test_a_refusal_leaves_the_message_ready_for_another_try(
    store: Store, vault: Vault, serve: Serve, answer: str, error: type[Exception]
) -> None:
    server = Server(answer)
    outbox = Outbox(store, vault, Smtp(await serve(server)), unknown, domain="exemple.fr")
    with pytest.raises(error, match=answer[:3]):
        await outbox.send("run_1/send", letter(), "main")
    assert await outbox.state("run_1/send") == "prepared"
    await outbox.send("run_1/send", letter(), "main")
    assert len(server.taken) == 1


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        ("550 5.1.1 <client@exemple.fr> is nobody here", "Invalid 550 5.1.1"),
        ("451 client@exemple.fr is over quota", "Unavailable 451"),
        ("554 5.7.1@client@exemple.fr", "Invalid 554"),
        ("cut", "Disconnected"),
    ],
)
async def test_of_what_the_server_says_only_class_and_codes_are_kept_in_the_clear(
    store: Store, vault: Vault, serve: Serve, answer: str, kept: str
) -> None:
    outbox = Outbox(store, vault, Smtp(await serve(Server(answer))), unknown, domain="exemple.fr")
    with pytest.raises((Invalid, Unavailable)):
        await outbox.send("run_1/send", letter(), "main")
    row = await store.queries("outbox").one("get", {"key": "run_1/send"})
    assert row is not None and kept in row["error"] and not {"client", "exemple"} & set(re.split(r"\W", row["error"]))


@pytest.mark.parametrize("answer", ["cut", "250 then cut"])
async def test_a_cut_on_the_wire_is_never_answered_by_a_second_message(
    store: Store, vault: Vault, serve: Serve, answer: str
) -> None:
    server = Server(answer)
    outbox = Outbox(store, vault, Smtp(await serve(server)), unknown, domain="exemple.fr")
    with pytest.raises(Unavailable, match="on the wire"):
        await outbox.send("run_1/send", letter(), "main")
    with pytest.raises(StepFailed, match="may or may not"):
        await outbox.send("run_1/send", letter(), "main")
    assert await outbox.state("run_1/send") == "unsure" and len(server.taken) <= 1


async def test_when_delivery_can_be_asked_the_doubt_is_settled(store: Store, vault: Vault, serve: Serve) -> None:
    server = Server("cut", "250 then cut")

    async def asked(identity: str) -> bool | None:
        return any(identity in text for text in server.taken)

    outbox = Outbox(store, vault, Smtp(await serve(server)), asked, domain="exemple.fr")
    for _ in range(2):
        with pytest.raises(Unavailable):
            await outbox.send("run_1/send", letter(), "main")
    await outbox.send("run_1/send", letter(), "main")
    assert len(server.taken) == 1 and await outbox.state("run_1/send") == "sent"


async def test_two_workers_at_once_send_one_message(store: Store, vault: Vault, sink: Sink) -> None:
    account = await sink.start()
    count = 0

    class Counting(Smtp):
        async def transmit(self, message: bytes, commit: Callable[[], Awaitable[None]]) -> None:
            async def counted() -> None:
                nonlocal count
                await commit()
                count += 1

            await super().transmit(message, counted)

    boxes = [Outbox(store, vault, Counting(account), unknown, domain="exemple.fr") for _ in range(4)]
    done = await asyncio.gather(*(b.send("run_1/send", letter(), "main") for b in boxes), return_exceptions=True)
    assert count == 1
    assert all(isinstance(d, str | Conflict | StepFailed) for d in done)


async def test_who_is_overtaken_waits_and_gives_what_the_other_was_answered(store: Store, vault: Vault) -> None:
    key, met, done = "run_1/book", asyncio.Barrier(2), 0

    async def transmit(content: bytes, name: str, commit: Commit) -> JSON:
        nonlocal done
        await met.wait()
        await commit()
        done += 1
        await asyncio.sleep(0.3)
        return {"done": done}

    deed = Deed("shop.book", "shop", b"{}", transmit, again)
    both = await asyncio.gather(*(Effects(store, vault).once(key, deed, "main") for _ in range(2)))
    assert (both, done) == ([{"done": 1}, {"done": 1}], 1)


async def test_a_server_that_is_not_there_is_unavailable_and_nothing_is_claimed(store: Store, vault: Vault) -> None:
    outbox = Outbox(store, vault, Smtp(Account("127.0.0.1", 9)), unknown, domain="exemple.fr")
    with pytest.raises(Unavailable, match="cannot be reached"):
        await outbox.send("run_1/send", letter(), "main")
    assert await outbox.state("run_1/send") == "prepared"


def test_the_url_of_the_mail_server_is_read_and_credentials_outside_loopback_demand_tls() -> None:
    account = account_from_url("smtp://moi%40exemple.fr:p%40ss@mail.exemple.fr")
    assert (account.user, account.password, account.port, account.starttls) == ("moi@exemple.fr", "p@ss", 587, True)
    assert account_from_url("smtps://mail.exemple.fr").tls
    with pytest.raises(ConfigError, match="METIER_SMTP_URL"):
        account_from_url("https://mail.exemple.fr")


async def test_an_address_no_server_takes_is_told_and_nothing_is_claimed(
    store: Store, vault: Vault, sink: Sink
) -> None:
    outbox = Outbox(store, vault, Smtp(await sink.start()), sink.confirm, domain="exemple.fr")
    odd = letter()
    odd.replace_header("To", "léa@exemple.fr")
    with pytest.raises(Invalid, match="address that mail servers do not take"):
        await outbox.send("run_1/send", odd, "main")
    assert await outbox.state("run_1/send") == "prepared"
