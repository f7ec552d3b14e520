"""Webhooks that leave: signed so that receivers can check, under one id for ever, done once."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from dataclasses import replace
from typing import Any

import pytest

from metier.calls import OrganisationId
from metier.connectors.secrets import Secrets
from metier.connectors.tools import Toolbox
from metier.connectors.webhook import signed
from metier.errors import ConfigError, Invalid, RateLimited, Unavailable
from metier.store import Store
from metier.vault import Vault
from tests.connectors.place import WHO, Place, box
from tests.connectors.webserver import serving
from tests.sealing import found, own, proven

KEY = "canary-of-the-hook"
EVENT: dict[str, Any] = {"type": "order.refunded", "data": {"id": 7}}


async def hooks(store: Store, vault: Vault, url: str, **more: Any) -> Toolbox:
    await Secrets.built(store, vault).set("erp", KEY, scope=["hooks"], by="ada")
    options = {"kind": "webhook", "url": f"{url}/h/1", "secret": "erp", "private": ["127.0.0.0/8"], "retries": 1}
    return box(store, vault, hooks={**options, "longest_wait_s": 0.01, **more})


async def test_an_event_is_signed_and_leaves_once(store: Store, vault: Vault) -> None:
    async with serving() as server:
        made = await hooks(store, vault, server.url)
        first = await made["hooks.send"](Place(), EVENT)
        assert first == await made["hooks.send"](Place(), EVENT)
        (one,) = server.asked
        name, at = one.headers["webhook-id"], one.headers["webhook-timestamp"]
        expected = hmac.digest(KEY.encode(), f"{name}.{at}.".encode() + one.body, "sha256")
        assert one.headers["webhook-signature"] == "v1," + base64.b64encode(expected).decode()
        assert one.headers["X-Hub-Signature-256"] == "sha256=" + hmac.digest(KEY.encode(), one.body, "sha256").hex()
        assert json.loads(one.body) == EVENT and isinstance(first, dict) and first["id"] == name


async def test_what_leaves_is_sealed_for_the_organisation_in_whose_name_it_does(store: Store, vault: Vault) -> None:
    await own(store, "theirs", "org_a")
    async with serving() as server:
        made = await hooks(store, vault, server.url)
        for organisation in ("main", "org_a"):
            await Secrets.built(store, vault).set("erp", KEY, organisation=organisation, scope=["hooks"], by="ada")
            who = replace(WHO, organisation=OrganisationId(organisation))
            await made["hooks.send"](Place(f"run_1/{organisation}", who), EVENT)
    for content, result, key in await found(store, "outbox", "content", "result", "key"):
        whose = key.removeprefix("run_1/")
        assert json.loads(proven(vault, whose, "outbox", content, key)) == EVENT
        assert json.loads(proven(vault, whose, "outbox result", result, key))["status"] == 200


def test_the_example_of_the_standard_is_signed_as_it_says() -> None:
    body = b'{"test": 2432232314}'
    headers = signed("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    made = hmac.digest(base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), body, hashlib.sha256).hex()
    assert headers["X-Hub-Signature-256"] == f"sha256={made}"
    with pytest.raises(Invalid, match="base64"):
        signed("whsec_canary!", "msg", 0, b"")


@pytest.mark.parametrize("answer", ["cut", "taken then cut", 500, 429, 503])
async def test_an_event_keeps_its_id_at_every_try(store: Store, vault: Vault, answer: Any) -> None:
    async with serving(*[answer] * 2) as server:
        made = await hooks(store, vault, server.url)
        with pytest.raises((Unavailable, RateLimited)):
            await made["hooks.send"](Place(), EVENT)
        await made["hooks.send"](Place(), {"type": "another", "data": {}})
        assert len({one.headers["webhook-id"] for one in server.asked}) == 1 and len(server.done) == 1
        assert {one.body for one in server.asked} == {server.asked[0].body}, "what was written down first leaves"


async def test_a_receiver_that_refuses_is_told_and_nothing_of_the_secret(store: Store, vault: Vault) -> None:
    async with serving((400, {"code": "unknown_type", "key": KEY})) as server:
        made = await hooks(store, vault, server.url)
        with pytest.raises(Invalid, match="unknown_type") as refused:
            await made["hooks.send"](Place(), EVENT)
        assert KEY not in str(refused.value)


async def test_what_would_leave_is_shown_without_its_path_and_nothing_is_posted(store: Store, vault: Vault) -> None:
    async with serving() as server:
        connector = (await hooks(store, vault, server.url)).connector("hooks")
        shown = await connector.preview("send", EVENT)
        assert shown["body"] == EVENT and "/h/1" not in str(shown)
        assert "nothing was posted" in await connector.probe() and server.asked == []


@pytest.mark.parametrize("entry", [{}, {"url": "https://x.example"}, {"url": "ftp://x.example", "secret": "s"}])
def test_a_wrong_entry_is_refused(store: Store, vault: Vault, entry: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        box(store, vault, hooks={"kind": "webhook", **entry})
