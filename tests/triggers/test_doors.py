"""What is brought over HTTP: runs programs ask for, signed webhooks, forms people fill in."""

from __future__ import annotations

import contextlib
import pathlib
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from urllib.parse import urlencode

import orjson
import pytest
from starlette.types import ASGIApp

from metier.api.server import application
from metier.api.starting import starts, triggers
from metier.app import App
from metier.calls import JSON, Principal
from metier.connectors import webhook as outgoing
from metier.connectors.secrets import Secrets
from metier.errors import Invalid
from metier.providers.scripted import ScriptedProvider, says
from metier.store import Store
from metier.testing import build_for_tests, caller
from metier.triggers.webhook import signed
from tests.api.client import Response, ask
from tests.triggers.house import trigger, triggered

SECRET = "whsec_c2VjcmV0LWNhbmFyaS0xMjM0NTY3ODkw"
ORDER: Mapping[str, JSON] = {
    "order": {"type": "string", "title": "N° de commande", "maxLength": 40},
    "kind": {"type": "string", "enum": ["refund", "delivery"]},
    "amount": {"type": "number"},
    "urgent": {"type": "boolean"},
    "text": {"type": "string", "description": "Racontez <en détail>"},
}


class Http:
    """Requests to the application, in-process."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> Response:
        return await ask(self.app, path, headers=headers)

    async def post(
        self,
        path: str,
        *,
        json: object = None,
        data: Mapping[str, str] | None = None,
        content: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        kind = "application/json" if json is not None else "application/x-www-form-urlencoded"
        body = orjson.dumps(json) if json is not None else urlencode(data).encode() if data is not None else content
        return await ask(self.app, path, body, headers={"content-type": kind, **(headers or {})}, method="POST")


class Desk:
    """The platform with its HTTP surface, a caller and a key."""

    def __init__(self, app: App, http: Http, who: Principal, key: str) -> None:
        self.app = app
        self.http = http
        self.who = who
        self.triggers = triggers(app)
        self.bearer = {"authorization": f"Bearer {key}"}

    async def runs(self) -> list[Mapping[str, JSON]]:
        return [await self.app.engine.inputs(run.id) for run in reversed(await self.app.engine.list())]


@pytest.fixture
async def desk(store: Store, tmp_path: pathlib.Path) -> AsyncIterator[Desk]:
    async with contextlib.AsyncExitStack() as stack:
        app = await stack.enter_async_context(build_for_tests(tmp_path, store.url, ScriptedProvider(says("x"))))
        who = await caller(app, "desk")
        issued = await app.keys.issue("program", who.project, who.system, "tests", groups=["public"])
        http = Http(application(app, more=starts(app)))
        yield Desk(app, http, who, issued.secret)


async def test_programs_start_a_flow_once_per_key_of_theirs_and_read_its_run(desk: Desk) -> None:
    await desk.triggers.deployments.deploy(triggered(trigger("api"), inputs=ORDER, name="orders"), desk.who, "ada")
    sending = {**desk.bearer, "idempotency-key": "order-7"}
    first = await desk.http.post("/v1/flows/orders/runs", json={"inputs": {"order": "7"}}, headers=sending)
    again = await desk.http.post("/v1/flows/orders/runs", json={"inputs": {"order": "7"}}, headers=sending)
    assert (first.status, first.json["outcome"], again.json["outcome"]) == (202, "started", "known")
    assert first.json["id"] == again.json["id"]
    other = await desk.http.post("/v1/flows/orders/runs", json={"inputs": {"order": "8"}}, headers=sending)
    assert other.status == 409
    seen = await desk.http.get(f"/v1/flows/orders/runs/{first.json['id']}", headers=desk.bearer)
    assert (seen.status, seen.json["status"], seen.json["output"]) == (200, "pending", None)
    assert await desk.runs() == [{"order": "7"}]


async def test_what_programs_may_not_do_is_refused(desk: Desk) -> None:
    await desk.triggers.deployments.deploy(triggered(trigger("api"), inputs=ORDER, name="orders"), desk.who, "ada")
    other = await caller(desk.app, "elsewhere")
    stranger = await desk.app.keys.issue("spy", other.project, other.system, "tests", groups=["public"])
    spying = {"authorization": f"Bearer {stranger.secret}"}
    post = desk.http.post
    assert (await post("/v1/flows/orders/runs", json={"inputs": {}})).status == 401
    assert (await post("/v1/flows/orders/runs", json={"inputs": {}}, headers=spying)).status == 404
    for none in ("others", "%00"):
        assert (await post(f"/v1/flows/{none}/runs", json={"inputs": {}}, headers=desk.bearer)).status == 404
        assert (await desk.http.get(f"/v1/flows/orders/runs/{none}", headers=desk.bearer)).status == 404
    assert (await post("/v1/flows/orders/runs", json={"inputs": {"order": 7}}, headers=desk.bearer)).status == 422
    assert (await post("/v1/flows/orders/runs", json={"input": {}}, headers=desk.bearer)).status == 422
    made = await post("/v1/flows/orders/runs", json={"inputs": {}}, headers=desk.bearer)
    run = made.json["id"]
    assert (await desk.http.get(f"/v1/flows/orders/runs/{run}", headers=spying)).status == 404
    assert (await desk.http.get("/v1/flows/orders/runs/run_none", headers=desk.bearer)).status == 404
    assert await desk.triggers.intake.letters() == []
    (found,) = await desk.triggers.deployments.list()
    await desk.triggers.deployments.enable(found.id, False)
    assert (await post("/v1/flows/orders/runs", json={"inputs": {}}, headers=desk.bearer)).status == 403


async def hooked(desk: Desk) -> str:
    made = trigger("webhook", {"secret": "shop"}, {"order": "{{ event.body.order }}"})
    (found,) = await desk.triggers.deployments.deploy(triggered(made, inputs=ORDER), desk.who, "ada")
    secrets = Secrets.built(desk.app.store, desk.app.vault)
    await secrets.set("shop", SECRET, scope=["webhook"], by="ada", project=desk.who.project)
    return found.id


def delivery(body: bytes, id: str = "msg_1", at: int | None = None, secret: str = SECRET) -> dict[str, str]:
    at = int(time.time()) if at is None else at
    return {"webhook-id": id, "webhook-timestamp": str(at), "webhook-signature": signed(secret, id, at, body)}


async def test_a_signed_webhook_starts_one_run_however_often_it_comes(desk: Desk) -> None:
    id, body = await hooked(desk), b'{"order": "7"}'
    first = await desk.http.post(f"/hooks/{id}", content=body, headers=delivery(body))
    again = await desk.http.post(f"/hooks/{id}", content=body, headers=delivery(body))
    assert (first.status, first.json["outcome"]) == (202, "started")
    assert (again.status, again.json) == (200, {"outcome": "known", "run": first.json["run"]})
    swapped = await desk.http.post(f"/hooks/{id}", content=b'{"order": "8"}', headers=delivery(b'{"order": "8"}'))
    assert swapped.status == 409
    rotated = delivery(body, "msg_2")
    rotated["webhook-signature"] = f"v1,bm9uZQ== v1a,x {rotated['webhook-signature']}"
    assert (await desk.http.post(f"/hooks/{id}", content=body, headers=rotated)).status == 202
    assert await desk.runs() == [{"order": "7"}, {"order": "7"}]


async def test_what_is_nested_too_deep_to_be_written_down_is_refused_at_every_door(desk: Desk) -> None:
    id = await hooked(desk)
    form = triggered(trigger("form"), inputs=ORDER, name="asked")
    (made,) = await desk.triggers.deployments.deploy(form, desk.who, "ada")
    await desk.triggers.deployments.deploy(
        triggered(trigger("api"), inputs={"order": {}}, name="free"), desk.who, "ada"
    )
    path = desk.triggers.form_path(made)
    for deep in (b"[" * 900 + b"]" * 900, b'{"a":' * 300 + b"1" + b"}" * 300):
        body = b'{"order": ' + deep + b"}"
        told = await desk.http.post(f"/hooks/{id}", content=body, headers=delivery(body))
        assert (told.status, told.json["error"]["code"]) == (422, "invalid")
        kind = {"content-type": "application/json", "idempotency-key": "k" * 20}
        assert (await ask(desk.http.app, path, body, headers=kind, method="POST")).status == 400
        whole = b'{"inputs": ' + body + b"}"
        started = await desk.http.post("/v1/flows/free/runs", content=whole, headers=desk.bearer)
        assert (started.status, "levels deep" in started.json["error"]["message"]) == (400, True)
    just = b'{"inputs": {"order": ' + b"[" * 190 + b"]" * 190 + b"}}"
    assert (await desk.http.post("/v1/flows/free/runs", content=just, headers=desk.bearer)).status == 202
    assert len(await desk.runs()) == 1


async def test_our_own_outgoing_webhooks_are_understood(desk: Desk) -> None:
    id, body = await hooked(desk), b'{"order": "9"}'
    headers = outgoing.signed(SECRET, "run_1/send", int(time.time()), body)
    assert (await desk.http.post(f"/hooks/{id}", content=body, headers=dict(headers))).status == 202


async def test_webhooks_that_are_not_proved_are_refused(desk: Desk) -> None:
    id, body, now = await hooked(desk), b'{"order": "7"}', int(time.time())
    forged = [
        {},
        delivery(b'{"order": "8"}'),
        delivery(body, secret="whsec_YXV0cmU="),
        delivery(body, at=now - 301),
        delivery(body, at=now + 302),
        {**delivery(body), "webhook-id": "msg_9"},
        {**delivery(body), "webhook-timestamp": str(now + 1)},
        {**delivery(body), "webhook-timestamp": "1e9"},
        {**delivery(body), "webhook-signature": "v1,"},
        {**delivery(body), "webhook-signature": "v1,é".encode().decode("latin-1")},
    ]
    for headers in forged:
        told = await desk.http.post(f"/hooks/{id}", content=body, headers=headers)
        assert told.status == 401, headers
    for none in ("trg_none", "%00", "%ed%a0%80"):
        assert (await desk.http.post(f"/hooks/{none}", content=body, headers=delivery(body))).status == 404
    large = b" " * (1024 * 1024 + 1)
    assert (await desk.http.post(f"/hooks/{id}", content=large, headers=delivery(large))).status == 413
    assert await desk.runs() == []


async def test_a_webhook_that_becomes_no_run_is_kept_for_somebody_to_mend(desk: Desk) -> None:
    id, body = await hooked(desk), b'{"commande": "7"}'
    for _ in range(2):
        assert (await desk.http.post(f"/hooks/{id}", content=body, headers=delivery(body))).status == 422
    (letter,) = await desk.triggers.intake.letters()
    assert letter.data["body"] == {"commande": "7"}


async def formed(desk: Desk) -> str:
    made = trigger("form", {"title": "Réclamation <b>", "hint": "Nous répondons sous 2 jours"})
    (found,) = await desk.triggers.deployments.deploy(triggered(made, inputs=ORDER), desk.who, "ada")
    return desk.triggers.form_path(found)


async def test_a_form_is_shown_filled_in_and_sent_once(desk: Desk) -> None:
    path = await formed(desk)
    page = await desk.http.get(path, headers={"accept-language": "en-GB,fr;q=0.5"})
    assert page.status == 200 and '<html lang="en">' in page.body.decode()
    assert "Réclamation &lt;b&gt;" in page.body.decode() and "Racontez &lt;en détail&gt;" in page.body.decode()
    assert "N° de commande" in page.body.decode() and "<option>refund</option>" in page.body.decode()
    assert "default-src 'none'" in page.headers["content-security-policy"]
    once = re.search(r'name="_once" value="([^"]+)"', page.body.decode())
    assert once is not None
    sent = {"_once": once[1], "order": "7", "kind": "refund", "amount": "12,50", "urgent": "on", "text": "a\r\nb"}
    for _ in range(2):
        told = await desk.http.post(path, data=sent)
        assert told.status == 200 and 'role="status"' in told.body.decode()
    assert await desk.runs() == [{"order": "7", "kind": "refund", "amount": 12.5, "urgent": True, "text": "a\nb"}]


async def test_a_form_filled_in_wrong_keeps_what_was_written(desk: Desk) -> None:
    path = await formed(desk)
    sent = {"_once": "x" * 24, "amount": "beaucoup", "text": "</textarea><script>alert(1)</script>"}
    told = await desk.http.post(path, data=sent, headers={"accept-language": "fr"})
    assert told.status == 422 and "À corriger" in told.body.decode() and "écrivez un nombre" in told.body.decode()
    assert "<script>" not in told.body.decode() and "&lt;/textarea&gt;&lt;script&gt;" in told.body.decode()
    assert (await desk.http.post(path, data={**sent, "colour": "red"})).status == 422
    assert (await desk.http.post(path, data={"order": "7"})).status == 422
    assert (await desk.http.post(path, data={"_once": "x" * 24, "kind": "other"})).status == 422
    assert await desk.runs() == []


async def test_a_form_takes_json_and_its_address_cannot_be_guessed(desk: Desk) -> None:
    path = await formed(desk)
    sent = {"order": "7", "amount": 3}
    headers = {"idempotency-key": "k" * 20}
    told = [await desk.http.post(path, json=sent, headers=headers) for _ in range(2)]
    assert [one.status for one in told] == [202, 202]
    assert told[0].json["run"] == told[1].json["run"]
    assert await desk.runs() == [{"order": "7", "amount": 3, "urgent": False}]
    assert (await desk.http.get(path[:-1])).status == 404
    assert (await desk.http.get(path[:-2] + "é0")).status == 404
    assert (await desk.http.post(path, content=b"x" * (1024 * 1024 + 1))).status == 400


async def test_what_a_form_finds_wrong_is_told_in_the_language_of_its_page(desk: Desk) -> None:
    path, sent = await formed(desk), {"_once": "x" * 24, "amount": "beaucoup"}
    for language, word in (
        ("fr", "«\u00a0Amount\u00a0» vaut «\u00a0beaucoup\u00a0»\u00a0: écrivez un nombre"),
        ("en", "write a number"),
    ):
        told = await desk.http.post(path, data=sent, headers={"accept-language": language})
        assert told.status == 422 and word in told.body.decode() and f'<html lang="{language}"' in told.body.decode()
        assert re.search(
            r'id="f-amount" name="amount" aria-describedby="fault" aria-invalid="true"', told.body.decode()
        )
        assert told.body.decode().count("aria-invalid=") == 1
    # What the flow itself asks of its inputs is said by the flow, in English, under words of the page.
    french, english = {"accept-language": "fr"}, {"accept-language": "en"}
    long = await desk.http.post(path, data={"_once": "y" * 24, "order": "7" * 41}, headers=french)
    assert long.status == 422 and "Ce qui est écrit ne convient pas" in long.body.decode()
    assert 'class="hint" lang="en"' in long.body.decode()
    gone = await desk.http.get(path[:-1], headers=french)
    assert (gone.status, gone.headers["content-language"]) == (404, "fr")
    assert "Ce formulaire n’existe pas" in gone.body.decode()
    (found,) = await desk.triggers.deployments.list()
    await desk.triggers.deployments.enable(found.id, False)
    paused = await desk.http.post(path, data={"_once": "z" * 24, "order": "7"}, headers=english)
    assert paused.status == 403 and paused.body.decode() == "This form takes no requests for now."
    assert await desk.runs() == []


async def test_a_form_or_a_hook_asked_too_often_says_when_to_come_again(desk: Desk) -> None:
    path = await formed(desk)
    french = {"accept-language": "fr"}
    seen, late = await until_refused(lambda: desk.http.get(path, headers=french))
    assert set(seen) == {200} and len(seen) >= 30
    assert 1 <= int(late.headers["retry-after"]) <= 2 and "réessayez dans une minute" in late.body.decode()
    id = await hooked(desk)
    seen, _ = await until_refused(lambda: desk.http.post(f"/hooks/{id}", content=b"{}"))
    assert set(seen) == {401} and len(seen) >= 100, "what is not signed counts too: it costs a look-up"


async def until_refused(asked: Callable[[], Awaitable[Response]]) -> tuple[list[int], Response]:
    """Ask until it is too often, and give what came before; on a slow machine what is allowed grows meanwhile."""
    seen: list[int] = []
    while (answer := await asked()).status != 429:
        seen.append(answer.status)
    return seen, answer


@pytest.mark.parametrize("secret", ["whsec_", "whsec_é", "whsec_no base64"])
def test_a_secret_that_would_let_anybody_sign_is_refused(secret: str) -> None:
    for sign in (signed, outgoing.signed):
        with pytest.raises(Invalid, match="base64"):
            sign(secret, "msg_1", 1, b"{}")
