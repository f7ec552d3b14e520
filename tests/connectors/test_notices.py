"""Alerts: once per period and kind, delivered signed until they are taken, nowhere but where metier.yaml says."""

from __future__ import annotations

import asyncio
import email
import email.policy
import pathlib
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import orjson
import pytest
from starlette.types import Receive, Scope, Send

from metier.connectors.notices import Webhooks, addresses, alerts, signature, ways_out
from metier.connectors.smtp import Sink, Smtp
from metier.errors import BudgetExceeded, ConfigError
from metier.governance.register import ADMITTED
from metier.policy.admission import Admission, Surroundings
from metier.policy.alerts import Alerts
from metier.policy.limits import Limit
from metier.record.ledger import Ledger
from metier.store import Store
from tests.record.world import World, build, spend
from tests.world import serve

SECRET = "a secret of the house"


class Receiver:
    """A webhook that answers what it is told to, the last status for ever."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = [*statuses]
        self.got: list[tuple[dict[str, str], bytes]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = (await receive())["body"]
        self.got.append(({k.decode(): v.decode() for k, v in scope["headers"]}, body))
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        headers = [(b"location", b"http://127.0.0.1:1/stolen")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"x" * 10})

    def kinds(self) -> list[str]:
        return [orjson.loads(body)["kind"] for _, body in self.got]


def alerted(world: World, made: Alerts, worker: str = "w") -> tuple[Admission, Ledger]:
    admission = Admission(world.store, worker, world.register.statuses, ADMITTED, around=Surroundings(alerts=made))
    return admission, world.ledger(worker, admission)


async def soon(store: Store) -> None:
    """Make every delivery due."""
    async with store.connection() as connection:
        await connection.execute("UPDATE deliveries SET due_at = now()")


async def states(store: Store) -> Sequence[dict[str, Any]]:
    async with store.connection() as connection:
        cursor = await connection.execute("SELECT state, attempts, error FROM deliveries ORDER BY alert, target")
        return await cursor.fetchall()


async def test_each_part_is_told_once_to_each_address_signed_over_all_workers(
    store: Store, tmp_path: pathlib.Path
) -> None:
    world = await build(store, tmp_path, "0.1")
    receiver = Receiver(200)
    async with serve(receiver) as url:
        made = alerts(store, {"webhooks": [{"url": url, "secret": SECRET}]}, None, None, "fr")
        workers = [alerted(world, made, f"w{n}") for n in range(2)]
        for number in range(9):
            admission, ledger = workers[number % 2]
            await spend(world, ledger, admission, 10, asked=10)
            await ledger.flush()
            await admission.tick(idle_s=0)
            async with asyncio.TaskGroup() as group:
                for _ in range(2):
                    group.create_task(made.deliver())
        with pytest.raises(BudgetExceeded):
            await spend(world, workers[0][1], workers[0][0], 20, asked=20)
    assert receiver.kinds() == ["50", "80"]
    headers, body = receiver.got[0]
    told = orjson.loads(body)
    assert (told["limit"]["subject"], told["limit"]["name"]) == (world.principal.project, "Clients")
    assert told["spent"] >= 0.05 and told["unit"] == "€"
    at = int(headers["x-metier-signature"].split(",")[0].removeprefix("t="))
    assert headers["x-metier-signature"] == signature(SECRET, body, at) and headers["x-metier-alert"] == told["id"]
    assert headers["x-metier-signature"] != signature("another", body, at)
    feed = await made.feed()
    assert [row["body"]["kind"] for row in feed] == ["50", "80"] and {row["organisation"] for row in feed} == {"main"}
    assert await made.feed(after=feed[-1]["id"]) == [] and await made.feed("other") == []
    assert [(row["deliveries"], row["sent"]) for row in await made.list()] == [(1, 1), (1, 1)]


async def test_a_webhook_that_is_away_is_tried_again_and_one_that_refuses_is_not(
    store: Store, tmp_path: pathlib.Path
) -> None:
    world = await build(store, tmp_path, "0.01")
    away, refusing, moving = Receiver(503, 200), Receiver(410), Receiver(302)
    async with serve(away) as one, serve(refusing) as two, serve(moving) as three:
        hooks = [{"url": url, "secret": SECRET} for url in (one, two, three)]
        made = alerts(store, {"webhooks": hooks}, None, None, "fr")
        admission, ledger = alerted(world, made)
        await spend(world, ledger, admission, 6, asked=6)
        await ledger.flush()
        assert [await made.deliver() for _ in range(2)] == [0, 0], "not due again at once"
        await soon(store)
        assert await made.deliver() == 1
    assert (len(away.got), len(refusing.got), len(moving.got)) == (2, 1, 2)
    assert away.got[0][1] == away.got[1][1], "the same words under the same id"
    assert sorted(row["state"] for row in await states(store)) == ["failed", "sent", "waiting"]


async def test_an_address_taken_out_of_metier_yaml_gets_nothing_more(store: Store, tmp_path: pathlib.Path) -> None:
    world = await build(store, tmp_path, "0.01")
    receiver = Receiver(503)
    async with serve(receiver) as url:
        made = alerts(store, {"webhooks": [{"url": url, "secret": SECRET}]}, None, None, "fr")
        admission, ledger = alerted(world, made)
        await spend(world, ledger, admission, 6, asked=6)
        await ledger.flush()
        await made.deliver()
        await soon(store)
        assert await alerts(store, None, None, None, "fr").deliver() == 0
    assert len(receiver.got) == 1
    [row] = await states(store)
    assert row["state"] == "failed" and "metier.yaml" in row["error"]


async def test_an_address_put_into_metier_yaml_gets_what_comes_without_a_restart(
    store: Store, tmp_path: pathlib.Path
) -> None:
    world = await build(store, tmp_path, "0.01")
    receiver = Receiver(200)
    async with serve(receiver) as url:
        made = alerts(store, None, None, None, "fr")
        admission, ledger = alerted(world, made)
        made.use(*ways_out({"webhooks": [{"url": url, "secret": SECRET}]}, None, None, "fr"))
        await spend(world, ledger, admission, 6, asked=6)
        await ledger.flush()
        assert await made.deliver() == len(receiver.got) == 1


async def mailed(world: World, store: Store, tmp_path: pathlib.Path, sender: str, lang: str) -> list[bytes]:
    """Spend until two alerts are due, and give them as a mail server got them."""
    sink = Sink(tmp_path / "mails")
    account = await sink.start()
    try:
        made = alerts(store, {"emails": ["ops@exemple.fr"]}, Smtp(account), sender, lang)
        admission, ledger = alerted(world, made)
        await spend(world, ledger, admission, 8, asked=8)
        await ledger.flush()
        assert await made.deliver() == 2
    finally:
        await sink.stop()
    return [file.read_bytes() for file in (tmp_path / "mails").rglob("*.eml")]


@pytest.mark.parametrize(("lang", "words"), [("fr", "80 % de la limite"), ("en", "80 % of the limit")])
async def test_an_e_mail_says_it_in_the_language_of_the_house(
    store: Store, tmp_path: pathlib.Path, lang: str, words: str
) -> None:
    world = await build(store, tmp_path, "0.01")
    kept = await mailed(world, store, tmp_path, "Métier <metier@exemple.fr>", lang)
    found = [email.message_from_bytes(data, policy=email.policy.default) for data in kept]
    assert len(found) == 2 and {str(one["To"]) for one in found} == {"ops@exemple.fr"}
    [one] = [one for one in found if words in str(one["Subject"])]
    assert "Clients" in str(one["Subject"]) and world.principal.project not in one.get_content()
    assert "0.01 €" in one.get_content() and one["Message-ID"].startswith("<alert_")


async def test_a_name_cannot_add_headers_to_an_alert(store: Store, tmp_path: pathlib.Path) -> None:
    world = await build(store, tmp_path, "0.01")
    async with store.connection() as connection:
        await connection.execute("UPDATE projects SET name = %s", ("=?utf-8?q?a=0ACc:_x@y.example?=",))
    for data in await mailed(world, store, tmp_path, "metier@exemple.fr", "en"):
        kept = email.message_from_bytes(data)
        assert "Cc" not in kept and "x@y.example" in str(kept["Subject"])


async def test_a_forecast_is_told_once_with_enough_of_the_period_behind_it(
    store: Store, tmp_path: pathlib.Path
) -> None:
    world = await build(store, tmp_path)
    now = [datetime.now(UTC).replace(hour=1, minute=0, second=0, microsecond=0)]
    made = Alerts(store, {}, {}, now=lambda: now[0])
    admission, ledger = alerted(world, made)
    await admission.limits.set(Limit("", "project", world.principal.project, "money", "day", Decimal("0.1")), "Nadia")
    await spend(world, ledger, admission, 30, asked=30)
    await ledger.flush()
    assert await made.forecast() == 0, "an hour of a day says nothing"
    now[0] = now[0].replace(hour=12)
    assert await made.forecast() == 0, "0.06 of 0.1"
    now[0] = now[0].replace(hour=6)
    assert [await made.forecast(), await made.forecast()] == [1, 0]
    [row] = await made.list()
    assert row["told"]["name"] == "Clients" and row["kind"] == "forecast" and row["forecast"] == Decimal("0.12")


async def test_a_total_passed_at_once_tells_every_part(store: Store, tmp_path: pathlib.Path) -> None:
    world = await build(store, tmp_path)
    made = Alerts(store, {}, {})
    admission, ledger = alerted(world, made)
    soft = Limit("", "organisation", "main", "money", "total", Decimal("0.001"), "alert")
    await admission.limits.set(soft, "Nadia")
    await spend(world, ledger, admission, 10, asked=10)
    await ledger.flush()
    assert sorted(row["kind"] for row in await made.list()) == ["100", "50", "80"]


@pytest.mark.parametrize(
    "section",
    [
        [], {"phones": []}, {"webhooks": [{"url": "http://exemple.fr/x", "secret": SECRET}]},
        {"webhooks": [{"url": "https://u:p@exemple.fr", "secret": SECRET}]}, {"webhooks": ["https://exemple.fr"]},
        {"webhooks": [{"url": "https://exemple.fr", "secret": "short"}]}, {"emails": ["nobody"]},
        {"webhooks": [{"url": "ftp://exemple.fr", "secret": SECRET}]}, {"emails": ["a@b.fr\nBcc: x@y.z"]},
    ],
)  # fmt: skip
def test_addresses_that_cannot_be_meant_are_refused(section: object) -> None:
    with pytest.raises(ConfigError):
        addresses(section if section else ["x"])


def test_secrets_are_not_shown(store: Store) -> None:
    to = addresses({"webhooks": [{"url": "https://exemple.fr/h", "secret": SECRET}]})
    assert SECRET not in repr(to) and SECRET not in repr(Webhooks(to.webhooks))
    with pytest.raises(ConfigError, match="METIER_SMTP_URL"):
        alerts(store, {"emails": ["a@b.fr"]}, None, None, "fr")
