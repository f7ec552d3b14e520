"""A whole platform to attack: two organisations, keys in every state they can be in, and HTTP spoken in-process."""

from __future__ import annotations

import asyncio
import pathlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

import orjson
from starlette.applications import Starlette
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message

from metier.api.server import Watch, application
from metier.app import App, Parts, build
from metier.calls import Call, Chunk, Media, Principal, Usage
from metier.console import pages
from metier.policy.keys import Issued, Project, Scopes
from metier.providers.base import Provider
from metier.providers.scripted import Script, ScriptedProvider, says, vector
from metier.record.exposition import text
from metier.settings import Settings
from metier.store import Store

__all__ = ["ELSEWHERE", "MODELS", "Answer", "House", "answered", "exposition", "house", "populate", "send"]

ELSEWHERE: Final = "203.0.113.9"
"""An address that is not this machine's."""

_USAGE: Final = Usage(input_tokens=3, output_tokens=2)


def _model(operation: str) -> dict[str, Any]:
    price = {"input": 1, "output": 4}
    return {"operation": operation, "deployments": [{"provider": "scripted", "model_id": operation, "price": price}]}


MODELS: Final[Mapping[str, Any]] = {
    "petit": _model("chat"),
    "vecteurs": _model("embed"),
    "trieur": _model("rerank"),
    "oreille": _model("transcribe"),
    "peintre": _model("image"),
}
"""One model for each operation, all of them scripted."""


def answered(call: Call) -> Script:
    """Answer every operation well."""
    if call.operation == "embed":
        return Script((Chunk(vectors=tuple(map(vector, call.inputs)), usage=_USAGE),))
    if call.operation == "rerank":
        scores = tuple(1.0 / (index + 1) for index, _ in enumerate(call.inputs))
        return Script((Chunk(scores=scores, usage=_USAGE),))
    if call.operation == "image":
        return Script((Chunk(media=(Media("image/png", "aGVsbG8="),), usage=_USAGE),))
    return says("Bonjour")


@dataclass(slots=True)
class Answer:
    """What came back."""

    status: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""

    @property
    def json(self) -> Any:
        """The body, read as JSON."""
        return orjson.loads(self.body)

    def header(self, name: str) -> str | None:
        """One header, the first of that name."""
        return next((value.decode("latin-1") for key, value in self.headers if key == name.encode()), None)

    @property
    def whole(self) -> bytes:
        """Everything a client could read."""
        return b"\n".join([*(name + b": " + value for name, value in self.headers), self.body])


async def send(
    app: ASGIApp,
    method: str,
    path: str,
    body: bytes = b"",
    headers: Sequence[tuple[bytes, bytes]] = (),
    *,
    query: bytes = b"",
    client: str = "127.0.0.1",
) -> Answer:
    """Send one request as a server would hand it over; headers may be any bytes, and repeat."""
    answer = Answer()
    given = False

    async def receive() -> Message:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": body, "more_body": False}
        await asyncio.Event().wait()
        raise AssertionError("never")

    async def take(message: Message) -> None:
        if message["type"] == "http.response.start":
            answer.status, answer.headers = message["status"], list(message["headers"])
        else:
            answer.body += message.get("body", b"")
        await asyncio.sleep(0)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode("utf-8", "surrogatepass"),
        "query_string": query,
        "root_path": "",
        "headers": [(b"host", b"metier.test"), *headers],
        "client": (client, 40_000),
        "server": ("127.0.0.1", 8400),
    }
    await app(scope, receive, take)
    return answer


@dataclass(slots=True)
class House:
    """The platform, its application, and whoever knocks."""

    app: App
    asgi: Starlette
    provider: Provider
    keys: dict[str, Issued] = field(default_factory=dict)
    """By what became of them: right, unscoped, revoked, expired, suspended, foreign."""
    projects: dict[str, Project] = field(default_factory=dict)

    async def principal(self, name: str = "right") -> Principal:
        """Who stands behind a key."""
        return await self.app.keys.principal(self.keys[name].key.id)

    async def ask(
        self, method: str, path: str, body: Any = None, key: str | None = "right", client: str = "127.0.0.1"
    ) -> Answer:
        """Send a JSON body, or bytes with their type, with the key of that name."""
        headers = [] if key is None else [(b"authorization", f"Bearer {self.keys[key].secret}".encode())]
        if isinstance(body, tuple):
            data, kind = body
        else:
            data, kind = (b"", b"") if body is None else (orjson.dumps(body), b"application/json")
        headers += [(b"content-type", kind)] if kind else []
        path, _, query = path.partition("?")
        return await send(self.asgi, method, path, data, headers, query=query.encode(), client=client)

    async def issue(self, name: str, organisation: str, project: str, *, groups: Sequence[str] = ("public",)) -> Issued:
        """Give a project of an organisation, both made where they are not, a key for a system of its own."""
        known = {one.name for one in await self.app.keys.organisations()}
        if organisation not in known:
            await self.app.keys.create_organisation(organisation)
        if project not in self.projects:
            self.projects[project] = await self.app.keys.create_project(project, organisation)
            await self.app.admission.set_budget(self.projects[project].id, Decimal(100))
        system = await self.app.register.register(f"system of {name}", "tests", "tests")
        await self.app.register.approve(system.id, "tests")
        issued = await self.app.keys.issue(name, self.projects[project].id, system.id, "tests", groups=groups)
        self.keys[name] = issued
        return issued


@asynccontextmanager
async def house(
    folder: pathlib.Path,
    store: Store,
    provider: Provider | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    parts: Mapping[str, Any] | None = None,
    more: Sequence[BaseRoute] = (),
) -> AsyncIterator[House]:
    """Build the real platform on an empty database; `settings` and `parts` replace the usual ones."""
    provider = provider or ScriptedProvider(answer=answered)
    config = {"models": MODELS, **(settings or {}).get("config", {})}
    given = {**(settings or {}), "config": config}
    made = Settings(**{"home": folder, "config_path": folder / "metier.yaml", "database_url": store.url, **given})
    providers = {"scripted": provider} | dict((parts or {}).get("providers", {}))
    async with build(made, Parts(**{**(parts or {}), "providers": providers})) as app:
        watch = Watch(behind_proxy=False, traced=app.spans is not None, exposition=lambda: exposition(app))
        yield House(app, application(app, [*pages(app), *more], watch=watch), provider)


async def exposition(app: App) -> bytes:
    """The metrics of this process, as text."""
    return text({"1": app.metrics.families()})


async def populate(house: House) -> None:
    """Make the keys of every state, and one of another organisation."""
    app = house.app
    await house.issue("right", "main", "Service client")
    system = house.keys["right"].key.system
    project = house.projects["Service client"].id

    async def further(name: str, **more: Any) -> Issued:
        house.keys[name] = await app.keys.issue(name, project, system, "tests", groups=["public"], **more)
        return house.keys[name]

    await further("metrics", scopes=Scopes(surfaces=frozenset({"metrics"})))
    await further("models only", scopes=Scopes(surfaces=frozenset({"models"})))
    await further("unscoped", scopes=Scopes(surfaces=frozenset()))
    await app.keys.revoke((await further("revoked")).key.id, "tests")
    expired = await further("expired", expires_at=datetime.now(UTC) + timedelta(hours=1))
    async with app.store.connection() as connection:
        await connection.execute("UPDATE keys SET expires_at = now() WHERE id = %s", (expired.key.id,))
    await house.issue("suspended", "main", "Service client")
    await app.register.suspend(house.keys["suspended"].key.system, "tests")
    await house.issue("foreign", "Ailleurs", "Projet étranger")
