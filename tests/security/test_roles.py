"""Every path × every method × every kind of caller, from one table; a path that is not in it makes this red."""

from __future__ import annotations

import pathlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

import orjson
import pytest
from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute, Route

from metier.api.server import routes
from metier.calls import KeyId, Principal
from metier.connectors.effects import Commit, Deed, Effects, identity
from metier.console import pages
from metier.console.session import Session, Sessions
from metier.errors import Unavailable
from metier.policy.keys import Scopes
from metier.store import Store
from metier.workflow.review import TaskId
from tests.security.house import ELSEWHERE, House, house, populate, send
from tests.workflow.flows import flow, step

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
STRANGERS: Final = ("nobody", "malformed", "unknown", "wrong secret", "revoked", "expired")
"""Callers whom no key stands for: 401 wherever a key is needed."""
ROLES: Final = (*STRANGERS, "unscoped", "suspended", "foreign", "right")

CHAT: Final[dict[str, Any]] = {"model": "petit", "messages": [{"role": "user", "content": "Bonjour"}]}
FORM: Final = (
    b'--b\r\ncontent-disposition: form-data; name="model"\r\n\r\noreille\r\n'
    b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.wav"\r\n\r\nRIFF\r\n--b--\r\n',
    b"multipart/form-data; boundary=b",
)

LINE: Final = orjson.dumps({"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": CHAT})
UPLOAD: Final = (
    b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n' + LINE + b"\r\n--b--\r\n",
    b"multipart/form-data; boundary=b",
)
BATCH: Final[dict[str, Any]] = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}

Prepare: TypeAlias = Callable[[House], Awaitable[str]]
"""Makes what a path names, owned by the right key, and gives its id."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What callers get on one method of one path."""

    surface: str | None = None
    """What a key must be allowed; None is for everybody."""
    body: Any = None
    right: int = 200
    foreign: int = 200
    """A key of another organisation: 404 wherever the path names something."""
    suspended: int = 403
    """A key whose system was suspended; 200 only where nothing is asked of a model."""
    prepare: Prepare | None = None


async def stored(here: House) -> str:
    """Have a response kept for the right key."""
    answer = await here.ask("POST", "/v1/responses", {"model": "petit", "input": "Bonjour"})
    assert answer.status == 200, answer.body
    return str(answer.json["id"])


async def brought(here: House) -> str:
    """Bring a file with the right key."""
    answer = await here.ask("POST", "/v1/files", UPLOAD)
    assert answer.status == 200, answer.body
    return str(answer.json["id"])


async def batched(here: House) -> str:
    """Make a batch with the right key."""
    answer = await here.ask("POST", "/v1/batches", {**BATCH, "input_file_id": await brought(here)})
    assert answer.status == 200, answer.body
    return str(answer.json["id"])


AWAY: Final = {"since": "2099-01-01T08:00:00+01:00", "until": "2099-01-02T08:00:00+01:00", "substitute": "user:nobody"}


async def asked(here: House) -> str:
    """Have a run of somebody else ask something of everybody who has a key in this house."""
    config: dict[str, Any] = {"assign": "group:public", "title": "Valider"}
    output: dict[str, Any] = {"type": "object", "properties": {"decision": {"enum": ["approve"]}}}
    starter = replace(await here.principal(), key_id=KeyId("starter"), name="starter")
    run = await here.app.engine.start(flow(step("ask", "human", config, output=output)), {}, starter)
    await here.app.engine.drain()
    (task,) = await here.app.review.list(run=run)
    return task.id


async def ran(here: House) -> str:
    """Have a run in the project of the right key, which looks after none: it is not of the group admins."""
    task = await here.app.review.get(TaskId(await asked(here)))
    return task.run


async def away(here: House) -> str:
    """Declare an absence with the right key."""
    answer = await here.ask("POST", "/v1/absences", AWAY)
    assert answer.status == 200, answer.body
    return str(answer.json["id"])


async def doubted(here: House) -> str:
    """Have an effect in doubt in a run that asked everybody something; its id is the identity it was done under."""

    async def transmit(content: bytes, identity: str, commit: Commit) -> None:
        await commit()
        raise Unavailable("the line broke")

    key = f"{await ran(here)}/send"
    with pytest.raises(Unavailable):
        await Effects(here.app.store, here.app.vault).once(
            key, Deed("tickets.create", "a queue", b"{}", transmit), "main"
        )
    return identity(key)


TABLE: Final[Mapping[tuple[str, str], Rule]] = {
    ("POST", "/v1/chat/completions"): Rule("chat", CHAT),
    ("POST", "/v1/responses"): Rule("responses", {"model": "petit", "input": "Bonjour"}),
    ("GET", "/v1/responses/{id}"): Rule("responses", None, 200, 404, 404, stored),
    ("DELETE", "/v1/responses/{id}"): Rule("responses", None, 200, 404, 404, stored),
    ("GET", "/v1/responses/{id}/input_items"): Rule("responses", None, 200, 404, 404, stored),
    ("POST", "/v1/responses/{id}/cancel"): Rule("responses", {}, 400, 404, 404, stored),
    ("POST", "/v1/embeddings"): Rule("embeddings", {"model": "vecteurs", "input": "Bonjour"}),
    ("POST", "/v1/messages"): Rule("messages", {**CHAT, "max_tokens": 9}),
    ("POST", "/v1/messages/count_tokens"): Rule("messages", CHAT, suspended=403),
    ("POST", "/v1/rerank"): Rule("rerank", {"model": "trieur", "query": "a", "documents": ["b", "c"]}),
    ("POST", "/v1/audio/transcriptions"): Rule("audio", FORM),
    ("POST", "/v1/images/generations"): Rule("images", {"model": "peintre", "prompt": "un chat"}),
    ("GET", "/v1/models"): Rule("models", suspended=200),
    ("GET", "/v1/models/{name:path}"): Rule("models", suspended=200),
    ("POST", "/v1/files"): Rule("batches", UPLOAD, suspended=200),
    ("GET", "/v1/files"): Rule("batches", suspended=200),
    ("GET", "/v1/files/{id}"): Rule("batches", None, 200, 404, 200, brought),
    ("DELETE", "/v1/files/{id}"): Rule("batches", None, 200, 404, 200, brought),
    ("GET", "/v1/files/{id}/content"): Rule("batches", None, 200, 404, 200, brought),
    ("POST", "/v1/batches"): Rule("batches", {**BATCH, "input_file_id": "none"}, 404, 404, 404),
    ("GET", "/v1/batches"): Rule("batches", suspended=200),
    ("GET", "/v1/batches/{id}"): Rule("batches", None, 200, 404, 200, batched),
    ("POST", "/v1/batches/{id}/cancel"): Rule("batches", {}, 200, 404, 200, batched),
    ("GET", "/v1/tasks"): Rule("admin", suspended=200),
    ("GET", "/v1/tasks/{id}"): Rule("admin", None, 200, 404, 200, asked),
    ("POST", "/v1/tasks/{id}/claim"): Rule("admin", {}, 200, 404, 200, asked),
    ("POST", "/v1/tasks/{id}/release"): Rule("admin", {}, 409, 404, 409, asked),
    ("POST", "/v1/tasks/{id}/comments"): Rule("admin", {"text": "Vu"}, 200, 404, 200, asked),
    ("POST", "/v1/tasks/{id}/decide"): Rule("admin", {"decision": {"decision": "approve"}}, 200, 404, 200, asked),
    ("POST", "/v1/tasks/{id}/hand-off"): Rule("admin", {"to": "group:public", "note": "Vu"}, 200, 404, 200, asked),
    ("POST", "/v1/tasks/{id}/links"): Rule("admin", {"person": "right"}, 403, 404, 403, asked),
    ("GET", "/v1/deliveries"): Rule("admin", suspended=200),
    ("GET", "/v1/deliveries/{id}"): Rule("admin", None, 200, 404, 200, doubted),
    ("POST", "/v1/deliveries/{id}/settle"): Rule("admin", {"settlement": "delivered"}, 200, 404, 200, doubted),
    ("GET", "/v1/corrections"): Rule("admin", None, 403, 403, 403),
    ("GET", "/v1/corrections/{id}"): Rule("admin", None, 403, 403, 403),
    ("GET", "/v1/agreement"): Rule("admin", None, 403, 403, 403),
    ("GET", "/v1/runs"): Rule("admin", suspended=200),
    ("DELETE", "/v1/runs"): Rule("admin", None, 403, 403, 403),
    ("GET", "/v1/runs/{id}"): Rule("admin", None, 200, 404, 200, ran),
    **{
        (method, f"/v1/runs/{{id}}/{what}"): Rule("admin", body, 403, 404, 403, ran)
        for method, what, body in (
            ("GET", "moment", None),
            ("GET", "differences", None),
            ("POST", "pause", {}),
            ("POST", "unpause", {}),
            ("POST", "resume", {}),
            ("POST", "cancel", {}),
            ("POST", "retry", {"step": "ask"}),
            ("POST", "fork", {"afresh": True}),
        )
    },
    ("POST", "/v1/reruns"): Rule("admin", {"how": "resume"}, 403, 403, 403),
    ("POST", "/v1/plans"): Rule("admin", {"flow": "refund"}, 403, 403, 403),
    ("GET", "/v1/absences"): Rule("admin", suspended=200),
    ("POST", "/v1/absences"): Rule("admin", AWAY, suspended=200),
    ("DELETE", "/v1/absences/{id}"): Rule("admin", None, 200, 404, 404, away),
    ("GET", "/"): Rule(),
    ("GET", "/healthz"): Rule(),
    ("GET", "/readyz"): Rule(),
    # A key without a list of surfaces is one for models: figures of every project are asked for by name.
    ("GET", "/metrics"): Rule("metrics", None, 403, 403, 403),
}
"""The paths of programs. Add a line with every route: who may, and what the others are told."""

GUEST, MEMBER = "guest", "member"
PAGES: Final[Mapping[tuple[str, str], str]] = {
    ("GET", "/review"): MEMBER,
    ("POST", "/review/sign-in"): GUEST,
    ("POST", "/review/sign-out"): MEMBER,
    ("GET", "/review/static/{name}"): GUEST,
    ("GET", "/review/deliveries/{delivery}"): MEMBER,
    ("POST", "/review/deliveries/{delivery}/settle"): MEMBER,
    ("GET", "/review/tasks/{task}"): MEMBER,
    ("POST", "/review/tasks/{task}/claim"): MEMBER,
    ("POST", "/review/tasks/{task}/decide"): MEMBER,
    ("POST", "/review/tasks/{task}/comment"): MEMBER,
    ("POST", "/review/tasks/{task}/hand-off"): MEMBER,
    ("GET", "/review/links/{link}"): GUEST,
    ("POST", "/review/links/{link}"): GUEST,
    ("GET", "/review/runs"): MEMBER,
    ("GET", "/review/runs/{run}"): MEMBER,
    **{("POST", f"/review/runs/{{run}}/{what}"): MEMBER for what in ("pause", "unpause", "resume", "cancel", "retry")},
    ("GET", "/review/absences"): MEMBER,
    ("POST", "/review/absences"): MEMBER,
    ("POST", "/review/absences/{absence}/end"): MEMBER,
    ("POST", "/review/tasks/{task}/release"): MEMBER,
}
"""The pages of people: for whoever is signed in, or for anybody."""


class Absent:
    """Stands for every part of a platform that is not built: paths can be listed without one."""

    def __getattr__(self, name: str) -> Any:
        return self


def listed(found: list[BaseRoute]) -> set[tuple[str, str]]:
    """Every method and path of some routes; whatever is no plain route is named as it is."""
    known: set[tuple[str, str]] = set()
    for route in found:
        if isinstance(route, Route) and route.methods:
            known |= {(method, route.path) for method in route.methods - {"HEAD"}}
        else:
            known.add((type(route).__name__, getattr(route, "path", "?")))
    return known


def missing(found: list[BaseRoute], table: Mapping[tuple[str, str], object]) -> set[tuple[str, str]]:
    """Routes nobody has said of who may use them, and lines of the table without a route."""
    return listed(found) ^ set(table)


def test_every_route_has_a_line_and_every_line_a_route() -> None:
    absent: Any = Absent()
    assert not missing(routes(absent), TABLE), "say in TABLE who may use these, and what the others are told"
    assert not missing(pages(absent), PAGES), "say in PAGES whether these are for anybody or for members"


def test_a_route_without_a_line_is_found() -> None:
    absent: Any = Absent()

    async def open_door(_: object) -> PlainTextResponse:
        return PlainTextResponse("everything")

    more = [*routes(absent), Route("/v1/secret", open_door)]
    assert missing(more, TABLE) == {("GET", "/v1/secret")}


@pytest.fixture
async def here(store: Store, tmp_path: pathlib.Path) -> AsyncIterator[House]:
    """The platform with keys in every state."""
    async with house(tmp_path, store) as made:
        await populate(made)
        yield made


def presented(here: House, role: str) -> list[tuple[bytes, bytes]]:
    """What a caller of that kind sends."""
    right = here.keys["right"].secret
    public = right.split("-")[2]
    texts = {
        "nobody": None,
        "malformed": "sk-nobody-of-ours",
        "unknown": f"sk-mt-{secrets.token_hex(6)}-{secrets.token_urlsafe(32)}",
        "wrong secret": f"sk-mt-{public}-{secrets.token_urlsafe(32)}",
    }
    text = texts[role] if role in texts else here.keys[role].secret
    return [] if text is None else [(b"authorization", f"Bearer {text}".encode())]


def expected(rule: Rule, role: str) -> int:
    """What the table says."""
    if rule.surface is None:
        return rule.right
    if role in STRANGERS:
        return 401
    return {"unscoped": 403, "suspended": rule.suspended, "foreign": rule.foreign, "right": rule.right}[role]


async def test_every_caller_gets_what_the_table_says(here: House) -> None:
    wrong: list[tuple[object, ...]] = []
    for (method, path), rule in TABLE.items():
        for role in ROLES:
            name = "petit" if rule.prepare is None else await rule.prepare(here)
            data, kind = rule.body if isinstance(rule.body, tuple) else (orjson.dumps(rule.body), b"application/json")
            headers = [*presented(here, role), (b"content-type", kind)]
            target = path.replace("{id}", name).replace("{name:path}", name)
            body = b"" if rule.body is None else data
            answer = await send(here.asgi, method, target, body, headers, client=ELSEWHERE)
            if answer.status != expected(rule, role):
                wrong.append((method, path, role, answer.status, expected(rule, role), answer.body[:200]))
            if answer.status >= 400 and path.startswith("/v1/"):
                assert set(answer.json) in ({"error"}, {"type", "error", "request_id"}), answer.body
    assert not wrong, "\n".join(map(str, wrong))


async def test_methods_without_a_line_are_refused_to_everybody_alike(here: House) -> None:
    for path in {path for _, path in TABLE}:
        known = {method for method, its in TABLE if its == path}
        known |= {"HEAD"} if "GET" in known else set()
        target = path.replace("{id}", "resp_call_0").replace("{name:path}", "petit")
        for method in METHODS:
            if method in known:
                continue
            answers = [
                await send(here.asgi, method, target, b"{}", presented(here, role)) for role in ("nobody", "right")
            ]
            assert {answer.status for answer in answers} == {405}, (method, path)
            assert answers[0].header("allow") and answers[0].body == answers[1].body


async def test_head_needs_the_key_that_get_needs(here: House) -> None:
    for method, path in TABLE:
        if method != "GET" or TABLE[method, path].surface is None:
            continue
        target = path.replace("{id}", "resp_call_0").replace("{name:path}", "petit")
        assert (await send(here.asgi, "HEAD", target, client=ELSEWHERE)).status == 401


async def test_metrics_are_for_this_machine_and_for_keys_made_for_them(here: House) -> None:
    assert (await here.ask("GET", "/metrics", key=None)).status == 200
    assert (await here.ask("GET", "/metrics", key=None, client=ELSEWHERE)).status == 401
    assert (await here.ask("GET", "/metrics", key="metrics", client=ELSEWHERE)).status == 200
    spoken_for = [(b"x-forwarded-for", b"127.0.0.1")]
    assert (await send(here.asgi, "GET", "/metrics", headers=spoken_for)).status == 401


def cookie(here: House, role: str) -> list[tuple[bytes, bytes]]:
    """The session a browser of that kind would show."""
    sessions = Sessions(here.app.vault)
    if role == "nobody":
        return []
    if role in ("malformed", "unknown", "wrong secret"):
        session = sessions.start("0" * 12 if role == "unknown" else here.keys["right"].key.id)
        value = sessions.seal(session)
        value = {"malformed": "a.b.c.d", "unknown": value, "wrong secret": value[:-4] + "AAAA"}[role]
    else:
        value = sessions.seal(sessions.start(here.keys[role].key.id))
    return [(b"cookie", f"metier_session={value}".encode())]


async def test_pages_are_shown_to_members_alone(here: House) -> None:
    for (method, path), who in PAGES.items():
        target = (
            path.replace("{task}", "task_0")
            .replace("{delivery}", "none")
            .replace("{absence}", "none")
            .replace("{name}", "none.css")
        )
        for role in (*STRANGERS, "unscoped"):
            headers = [*cookie(here, role), *presented(here, "right")]  # a key in a header opens no page
            answer = await send(here.asgi, method, target, b"", headers)
            if who == MEMBER and (method, path) != ("GET", "/review"):
                assert answer.status in (401, 403), (method, path, role, answer.status)
            assert answer.status < 500 and b"sign-out" not in answer.body, (method, path, role)
        for other in METHODS:
            if (other, path) not in PAGES and other != "HEAD":
                assert (await send(here.asgi, other, target, b"", cookie(here, "right"))).status == 405
    shown = await send(here.asgi, "GET", "/review", headers=cookie(here, "right"))
    assert shown.status == 200 and b"sign-out" in shown.body


async def test_a_session_ends_when_its_key_may_no_longer_see_pages(here: House) -> None:
    headers = cookie(here, "right")
    assert b"sign-out" in (await send(here.asgi, "GET", "/review", headers=headers)).body
    await here.app.keys.bound(here.projects["Service client"], Scopes(surfaces=frozenset({"chat"})))
    assert b"sign-out" not in (await send(here.asgi, "GET", "/review", headers=headers)).body


async def test_a_form_of_another_session_changes_nothing(here: House) -> None:
    sessions = Sessions(here.app.vault)
    own = sessions.start(here.keys["right"].key.id)
    other: Session = sessions.start(here.keys["foreign"].key.id)
    for token in ("", "x", sessions.token(other)):
        headers = [
            (b"cookie", f"metier_session={sessions.seal(own)}".encode()),
            (b"content-type", b"application/x-www-form-urlencoded"),
        ]
        for path in [path for method, path in PAGES if method == "POST"]:
            target = path.replace("{task}", "task_0").replace("{delivery}", "none").replace("{absence}", "none")
            answer = await send(here.asgi, "POST", target, f"token={token}".encode(), headers)
            assert answer.status == 403, (path, token)


async def test_a_revoked_key_stops_on_every_surface_at_once(here: House) -> None:
    principal: Principal = await here.principal()
    assert (await here.ask("GET", "/v1/models")).status == 200
    await here.app.keys.revoke(principal.key_id, "tests")
    for (method, path), rule in TABLE.items():
        if rule.surface not in (None, "metrics"):
            assert (await here.ask(method, path, rule.body)).status == 401, path
