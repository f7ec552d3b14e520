"""The connector over HTTP: where it may go, how it proves itself, what it tries again, and effects done once."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from metier.calls import JSON
from metier.connectors.base import Given
from metier.connectors.effects import Effects, identity
from metier.connectors.http import http
from metier.connectors.reach import Reach
from metier.connectors.rest import Rest
from metier.connectors.secrets import Secrets
from metier.connectors.tools import Toolbox
from metier.errors import ConfigError, Conflict, Invalid, MetierError, NotFound, RateLimited, StepFailed, Unavailable
from metier.store import Store
from metier.vault import Vault
from tests.connectors.place import Place, box
from tests.connectors.webserver import serving

TOKEN = "canary-token-71c0"
OPERATIONS = {
    "find": {"get": "/contacts/{id}", "input": {"id": "string", "fields?": {"type": "array"}}},
    "create": {"post": "/contacts", "input": {"name": "string"}, "output": {"id": "integer"}},
    "pay": {"post": "/payments", "input": {"eur": "number"}, "idempotency_key": "Idempotency-Key"},
    "rename": {"put": "/contacts/{id}", "input": {"id": "string", "name": "string"}},
}


class Waits:
    """A sleep that takes no time and remembers how long it was asked to take."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


def crm(store: Store, vault: Vault, url: str, **more: Any) -> Toolbox:
    options = {"kind": "http", "base_url": url + "/api", "private": ["127.0.0.0/8"], "operations": OPERATIONS}
    made = box(store, vault, crm={**options, "retries": 2, **more})
    connector = made.connector("crm")
    assert isinstance(connector, Rest)
    connector._web._sleep = Waits()
    return made


def waited(made: Toolbox) -> list[float]:
    connector = made.connector("crm")
    assert isinstance(connector, Rest) and isinstance(connector._web._sleep, Waits)
    return connector._web._sleep.seconds


async def call(made: Toolbox, name: str, with_: dict[str, JSON], key: str = "run_1/send") -> JSON:
    return await made[name](Place(key), with_)


async def test_inputs_go_to_the_path_the_query_and_the_body_encoded(store: Store, vault: Vault) -> None:
    async with serving((200, {"name": "Ada"}), (200, {"id": 7})) as server:
        made = crm(store, vault, server.url)
        assert await call(made, "crm.find", {"id": "a/../b ?#é", "fields": ["x", "y&z"]}) == {"name": "Ada"}
        assert await call(made, "crm.create", {"name": "Ada"}) == {"id": 7}
        first, second = server.asked
        assert (first.method, first.path) == ("GET", "/api/contacts/a%2F..%2Fb%20%3F%23%C3%A9?fields=x&fields=y%26z")
        assert json.loads(second.body) == {"name": "Ada"} and second.headers["Idempotency-Key"] == identity(
            "run_1/send"
        )


@pytest.mark.parametrize("segment", ["..", ".", ""])
async def test_an_input_cannot_climb_out_of_its_place_in_the_address(store: Store, vault: Vault, segment: str) -> None:
    async with serving() as server:
        with pytest.raises(Invalid, match="cannot stand in an address"):
            await call(crm(store, vault, server.url), "crm.find", {"id": segment})
        assert server.asked == []


@pytest.mark.parametrize(
    ("name", "with_"), [("crm.find", {}), ("crm.find", {"id": 3}), ("crm.create", {"name": "a", "more": 1})]
)
async def test_what_does_not_fit_the_schema_never_leaves(
    store: Store, vault: Vault, name: str, with_: dict[str, JSON]
) -> None:
    async with serving() as server:
        with pytest.raises(Invalid, match="does not fit its schema"):
            await call(crm(store, vault, server.url), name, with_)
        assert server.asked == []


async def test_an_answer_that_does_not_fit_is_refused(store: Store, vault: Vault) -> None:
    async with serving((200, {"id": "seven"})) as server:
        with pytest.raises(Invalid, match=r"what 'crm\.create' gave"):
            await call(crm(store, vault, server.url), "crm.create", {"name": "Ada"})


@pytest.mark.parametrize(
    ("auth", "header", "value"),
    [
        ({"bearer": "token"}, "Authorization", f"Bearer {TOKEN}"),
        ({"basic": {"user": "moi", "password": "token"}}, "Authorization", "Basic bW9pOmNhbmFyeS10b2tlbi03MWMw"),
        ({"header": {"name": "X-Api-Key", "secret": "token"}}, "X-Api-Key", TOKEN),
    ],
)
async def test_secrets_prove_who_we_are_and_are_seen_nowhere_else(
    store: Store, vault: Vault, auth: dict[str, Any], header: str, value: str
) -> None:
    await Secrets.built(store, vault).set("token", TOKEN, scope=["crm"], by="ada")
    async with serving((200, {"you": value}), (401, {"code": "no", "was": value}), (422, value)) as server:
        made = crm(store, vault, server.url, auth=auth)
        answer = await call(made, "crm.find", {"id": "1"})
        assert server.asked[0].headers[header] == value and "[secret]" in str(answer) and TOKEN not in str(answer)
        for error in (ConfigError, Invalid):
            with pytest.raises(error) as refused:
                await call(made, "crm.pay", {"eur": 3})
            assert TOKEN not in str(refused.value) and value not in str(refused.value)
    async with store.connection() as connection:
        rows = await (await connection.execute("SELECT outbox::text AS told FROM outbox")).fetchall()
        assert rows and all(TOKEN not in row["told"] and TOKEN.encode().hex() not in row["told"] for row in rows)
    kept = await store.queries("outbox").one("get", {"key": "run_1/send"})
    assert kept is not None and TOKEN.encode() not in vault.open("outbox", kept["content"], "run_1/send")


async def test_a_secret_that_is_not_set_says_how_to_set_it(store: Store, vault: Vault) -> None:
    async with serving() as server:
        made = crm(store, vault, server.url, auth={"bearer": "token"})
        with pytest.raises(NotFound, match="metier secret set token --for crm"):
            await call(made, "crm.pay", {"eur": 3})
        assert server.asked == []


async def test_a_token_is_fetched_once_and_again_when_it_is_refused(store: Store, vault: Vault) -> None:
    await Secrets.built(store, vault).set("client", TOKEN, scope=["crm"], by="ada")
    first, second = ((200, {"access_token": name, "expires_in": 3600}) for name in ("one", "two"))
    async with serving(first, (200, {}), (200, {}), 401, second, (200, {}), (401, {}), (401, {})) as server:
        auth = {"oauth2": {"token_url": f"{server.url}/token", "client_id": "me", "client_secret": "client"}}
        made = crm(store, vault, server.url, auth=auth)
        for _ in range(3):
            await call(made, "crm.find", {"id": "1"})
        used = [one.headers.get("Authorization") for one in server.asked if one.path != "/token"]
        assert used == ["Bearer one", "Bearer one", "Bearer one", "Bearer two"]
        assert server.asked[0].body == b"grant_type=client_credentials"
        with pytest.raises(ConfigError, match="refused our credentials") as refused:
            await call(made, "crm.find", {"id": "1"})
        assert TOKEN not in str(refused.value)


async def test_a_read_is_tried_again_as_the_server_asks(store: Store, vault: Vault) -> None:
    async with serving((429, {}, {"Retry-After": "7"}), "cut", "cut", (200, {"ok": True})) as server:
        # Of a cut the library tries what changes nothing once more by itself, at once.
        made = crm(store, vault, server.url)
        assert await call(made, "crm.find", {"id": "1"}) == {"ok": True}
        assert waited(made) == [7, 1.0]


async def test_a_server_that_asks_for_too_long_is_not_waited_for(store: Store, vault: Vault) -> None:
    async with serving((429, {}, {"Retry-After": "3600"})) as server:
        made = crm(store, vault, server.url)
        with pytest.raises(RateLimited):
            await call(made, "crm.find", {"id": "1"})
        assert waited(made) == [] and len(server.asked) == 1


async def test_an_effect_is_done_once_and_its_answer_given_again(store: Store, vault: Vault) -> None:
    async with serving((200, {"id": 7})) as server:
        made = crm(store, vault, server.url)
        for _ in range(3):
            assert await call(made, "crm.create", {"name": "Ada"}) == {"id": 7}
        assert len(server.asked) == 1


@pytest.mark.parametrize("answer", ["cut", "taken then cut", 500, 502, "hang"])
async def test_an_effect_in_doubt_is_not_repeated_unless_the_server_honours_keys(
    store: Store, vault: Vault, answer: Any
) -> None:
    async with serving(answer) as server:
        # Only what hangs has to run out of time, and that not before it is asked for.
        made = crm(store, vault, server.url, timeout_s=1.5 if answer == "hang" else 60)
        with pytest.raises(Unavailable):
            await call(made, "crm.create", {"name": "Ada"})
        with pytest.raises(StepFailed, match="metier review settle run_1/send"):
            await call(made, "crm.create", {"name": "Ada"})
        assert len(server.asked) == 1


@pytest.mark.parametrize("answer", ["cut", "taken then cut", 500, 429, "hang"])
@pytest.mark.parametrize("name", ["crm.pay", "crm.rename"])
async def test_an_effect_that_may_be_repeated_is_done_once_under_one_key(
    store: Store, vault: Vault, answer: Any, name: str
) -> None:
    with_: dict[str, JSON] = {"eur": 3} if name == "crm.pay" else {"id": "1", "name": "Ada"}
    async with serving(*[answer] * 10) as server:
        made = crm(store, vault, server.url, timeout_s=0.5 if answer == "hang" else 60)
        with pytest.raises((Unavailable, RateLimited)):
            await call(made, name, with_)
        assert len(server.asked) >= 3
        server.answers = [(200, {"paid": True})]
        assert await call(crm(store, vault, server.url, timeout_s=60), name, with_) == {"paid": True}
        assert len(server.done) == 1
        assert {one.headers["Idempotency-Key"] for one in server.asked} == server.done


@pytest.mark.parametrize("answer", [429, 503, (400, {"code": "no_name"}), 404, 403])
async def test_a_refused_effect_may_be_tried_again(store: Store, vault: Vault, answer: Any) -> None:
    async with serving(answer, (200, {"id": 7})) as server:
        made = crm(store, vault, server.url)
        with pytest.raises(MetierError) as refused:
            await call(made, "crm.create", {"name": "Ada"})
        assert ("no_name" in str(refused.value)) == isinstance(answer, tuple)
        assert await call(made, "crm.create", {"name": "Ada"}) == {"id": 7}
        assert len(server.asked) == 2


async def test_a_redirected_effect_is_done_in_doubt_or_not_done_as_http_says(store: Store, vault: Vault) -> None:
    elsewhere = {"Location": "/contacts/7"}
    async with serving((303, None, elsewhere), (302, None, elsewhere), (307, None, elsewhere), (200, {"id": 7})) as one:
        made = crm(store, vault, one.url)
        for _ in range(2):
            assert await call(made, "crm.create", {"name": "Ada"}, "seen") is None
        with pytest.raises(Unavailable, match="before and after"):
            await call(made, "crm.create", {"name": "Ada"}, "moved")
        with pytest.raises(StepFailed, match="may or may not"):
            await call(made, "crm.create", {"name": "Ada"}, "moved")
        with pytest.raises(Invalid, match="307"):
            await call(made, "crm.create", {"name": "Ada"}, "kept")
        assert await call(made, "crm.create", {"name": "Ada"}, "kept") == {"id": 7}
        assert len(one.asked) == 4


async def test_a_server_that_is_not_there_leaves_no_doubt(store: Store, vault: Vault) -> None:
    made = crm(store, vault, "http://127.0.0.1:9")
    for _ in range(2):
        with pytest.raises(Unavailable, match="cannot be reached"):
            await call(made, "crm.create", {"name": "Ada"})


async def test_two_workers_at_once_do_it_once(store: Store, vault: Vault) -> None:
    async with serving((200, {"id": 7})) as server:
        made = crm(store, vault, server.url)
        done = await asyncio.gather(
            *(call(made, "crm.create", {"name": "Ada"}) for _ in range(5)), return_exceptions=True
        )
        assert len(server.asked) == 1 and {"id": 7} in done
        assert all(one == {"id": 7} or isinstance(one, Conflict | StepFailed) for one in done)


async def test_a_redirect_is_followed_on_the_same_host_only(store: Store, vault: Vault) -> None:
    async with serving((302, {}, {"Location": "/api/contacts/2"}), (200, {"id": 2})) as server:
        assert await call(crm(store, vault, server.url), "crm.find", {"id": "1"}) == {"id": 2}
    async with serving() as other, serving((302, {}, {"Location": other.url})) as server:
        with pytest.raises(Invalid, match="another place"):
            await call(crm(store, vault, server.url), "crm.find", {"id": "1"})
        assert other.asked == []


async def test_an_answer_that_is_too_large_is_cut_off(store: Store, vault: Vault) -> None:
    async with serving((200, "x" * 5_000)) as server:
        with pytest.raises(Invalid, match="more than 1,000 bytes"):
            await call(crm(store, vault, server.url, most_bytes=1_000), "crm.find", {"id": "1"})


async def test_an_address_inside_a_network_is_refused_unless_it_is_listed(store: Store, vault: Vault) -> None:
    async with serving() as server:
        for url in (server.url, server.url.replace("127.0.0.1", "localhost")):
            with pytest.raises(Invalid, match="inside a network"):
                await call(crm(store, vault, url, private=[]), "crm.find", {"id": "1"})
        assert server.asked == []


@pytest.mark.parametrize(
    "host",
    [
        "10.0.0.1", "169.254.169.254", "[::1]", "[::ffff:127.0.0.1]", "[fd00::1]", "[64:ff9b::7f00:1]", "0.0.0.0",
        "100.64.0.1", "[2002:7f00:1::]", "224.0.0.1", "192.168.1.1", "[fe80::1]", "[::127.0.0.1]", "[::]",
    ],
)  # fmt: skip
async def test_addresses_inside_networks_are_known_however_they_are_written(host: str) -> None:
    with pytest.raises(Invalid, match="inside a network"):
        Reach([host.strip("[]")]).url(f"http://{host}/")


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "http://a:b@x.example/", "gopher://x.example", "http://[::1", ""]
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        Reach(["x.example"]).url(url)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({}, "base_url"),
        ({"base_url": "https://x.example"}, "operations"),
        ({"base_url": "https://x.example", "operations": {"a": {"get": "x"}}}, "begins with '/'"),
        ({"base_url": "https://x.example", "operations": {"a": {"get": "/x", "put": "/x"}}}, "takes one of"),
        ({"base_url": "https://x.example", "operations": {"a": {"get": "/x"}}, "token": "t"}, "no option"),
        ({"base_url": "https://x.example", "operations": {"a": {"get": "/x"}}, "auth": {"bearer": 3}}, "bearer"),
        ({"base_url": "https://x.example", "operations": {"a": {"get": "/x"}}, "private": ["x"]}, "range"),
        ({"base_url": "https://x.example", "operations": {"a": {"get": "/x", "input": {"b": 3}}}}, "JSON Schema"),
        ({"base_url": "https://x.example", "operations": {"a": {"get": "/x"}}, "timeout_s": 0}, "timeout_s"),
        ({"base_url": "https://x.example", "operations": {"a": {"get": "/x"}}, "headers": {"a": "b\nc"}}, "one line"),
    ],
)
def test_a_wrong_entry_is_told_with_its_place(store: Store, vault: Vault, entry: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        http(Given("crm", entry, Effects(store, vault), Secrets(store, vault)))


async def test_what_would_be_done_is_shown_without_being_done(store: Store, vault: Vault) -> None:
    await Secrets.built(store, vault).set("token", TOKEN, scope=["crm"], by="ada")
    async with serving() as server:
        connector = crm(store, vault, server.url, auth={"bearer": "token"}).connector("crm")
        shown = await connector.preview("create", {"name": "Ada"})
        assert shown == {
            "method": "POST", "url": server.url + "/api/contacts", "headers": {"Content-Type": "application/json"},
            "body": {"name": "Ada"}, "effect": True, "doubt": "a person",
        }  # fmt: skip
        assert "127.0.0.1" in await connector.probe() and server.asked == []
