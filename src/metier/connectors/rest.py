"""Operations over HTTP: where each field goes, requests made of them, effects done once."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import orjson

from metier.calls import JSON
from metier.connectors.base import Effect, Given, ToolSpec
from metier.connectors.effects import Commit, Deed, again, identity, unknowable
from metier.connectors.web import Request, Web
from metier.errors import Invalid, NotFound

__all__ = ["KEY_HEADER", "READS", "Operation", "Place", "Rest"]

KEY_HEADER = "Idempotency-Key"
"""The header that effects carry where nothing else is said."""

READS = frozenset({"GET", "HEAD", "OPTIONS"})

Place: TypeAlias = Literal["path", "query", "header", "field", "body"]
"""Where a field of the input goes; "field" is one of a JSON body, "body" the whole of it."""

_PLACEHOLDER = re.compile(r"\{([^{}]+)\}")


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing the other side can do."""

    name: str
    description: str
    method: str
    path: str
    """Below the base address, with {names} in it."""
    schema: Mapping[str, JSON]
    output: Mapping[str, JSON] | None = None
    places: Mapping[str, tuple[Place, str]] = field(default_factory=dict)
    """Where each input goes and what it is called there; those that are not named are fields of the body, or query."""
    key_header: str = KEY_HEADER
    repeats: bool = False
    """The server does it once however often it is asked with the same key."""
    foreign: bool = False
    """Its schemas come from the other side."""
    joined: frozenset[str] = frozenset()
    """Lists that are written in one parameter, with commas."""

    @property
    def effect(self) -> bool:
        """Whether it may change something."""
        return self.method not in READS


class Rest:
    """A connector whose tools are operations over HTTP."""

    def __init__(self, given: Given, web: Web, base_url: str, operations: Sequence[Operation], note: str = "") -> None:
        self._given = given
        self._web = web
        self._base = base_url.rstrip("/")
        self._operations = {operation.name: operation for operation in operations}
        self._note = note

    async def tools(self) -> Sequence[ToolSpec]:
        """Give one tool for each operation."""
        return [self._tool(operation) for operation in self._operations.values()]

    async def preview(self, operation: str, with_: Mapping[str, JSON]) -> Mapping[str, JSON]:
        """Show the request that would leave, without what proves who we are."""
        found = self._operations.get(operation)
        if found is None:
            raise NotFound(f"{self._given.name!r} has no operation {operation!r}: it has {sorted(self._operations)}")
        request = self.request(found, with_)
        body: JSON = None if request.body is None else orjson.loads(request.body)
        shown: dict[str, JSON] = {"method": request.method, "url": request.url, "headers": dict(request.headers)}
        return shown | {"body": body, "effect": found.effect, "doubt": "sent again" if found.repeats else "a person"}

    async def probe(self) -> str:
        """Resolve the host and open the credentials; a `probe:` path is asked for too."""
        address = await self._web.reachable(self._base)
        await self._web.auth.proof(None)
        path = self._given.options.get("probe")
        asked = ""
        if isinstance(path, str):
            reply = await self._web.read(Request("GET", self._base + path), None)
            asked = f", {path} answers {reply.status}"
        return f"{self._base} is at {address}, credentials are there{asked}{self._note}"

    async def close(self) -> None:
        """Nothing is held between requests."""

    def request(self, operation: Operation, with_: Mapping[str, JSON]) -> Request:
        """Make the request of an operation from its input."""
        path, query, headers = operation.path, list[tuple[str, str]](), dict[str, str]()
        fields: dict[str, JSON] = {}
        whole: JSON = None
        for name, value in with_.items():
            usual: Place = "field" if operation.effect and operation.method != "DELETE" else "query"
            place, called = operation.places.get(name, (usual, name))
            if value is None and place != "field":
                continue
            if place == "path":
                path = path.replace("{" + called + "}", _segment(called, value))
            elif place == "query":
                query += _pairs(called, value, joined=name in operation.joined)
            elif place == "header":
                headers[called] = _line(called, value)
            elif place == "body":
                whole = value
            else:
                fields[called] = value
        missing = _PLACEHOLDER.search(path)
        if missing:
            raise Invalid(f"{self._given.name}.{operation.name} needs `with.{missing[1]}`: it is part of the address")
        url = self._base + path + ("?" + urllib.parse.urlencode(query) if query else "")
        content = whole if whole is not None else fields or None
        if content is None:
            return Request(operation.method, url, headers)
        headers["Content-Type"] = "application/json"
        return Request(operation.method, url, headers, orjson.dumps(content))

    def _tool(self, operation: Operation) -> ToolSpec:
        name = f"{self._given.name}.{operation.name}"

        async def ask(effect: Effect, with_: dict[str, JSON]) -> JSON:
            return (await self._web.read(self.request(operation, with_), effect.principal)).value()

        async def do(effect: Effect, with_: dict[str, JSON]) -> JSON:
            request = self.request(operation, with_)
            body = None if request.body is None else request.body.decode()
            headers: dict[str, JSON] = {**request.headers, operation.key_header: identity(effect.key)}
            content = {"method": request.method, "url": request.url, "body": body, "headers": headers}

            async def transmit(kept: bytes, _: str, commit: Commit) -> JSON:
                told = orjson.loads(kept)
                sent = None if told["body"] is None else told["body"].encode()
                leaving = Request(told["method"], told["url"], told["headers"], sent)
                reply = await self._web.write(leaving, effect.principal, commit, repeats=operation.repeats)
                return reply.value()

            host = urllib.parse.urlsplit(request.url).netloc
            confirm = again if operation.repeats else unknowable
            deed = Deed(name, f"{request.method} {host}", orjson.dumps(content), transmit, confirm)
            return await self._given.effects.once(effect.key, deed, effect.principal.organisation)

        call = do if operation.effect else ask
        return ToolSpec(
            name, operation.description, operation.schema, operation.effect, call, operation.output, operation.foreign
        )  # fmt: skip


def _segment(name: str, value: JSON) -> str:
    found = _plain(name, value)
    if found in ("", ".", ".."):
        raise Invalid(f"`with.{name}` is {found!r}, which cannot stand in an address")
    return urllib.parse.quote(found, safe="")


def _pairs(name: str, value: JSON, *, joined: bool) -> list[tuple[str, str]]:
    if not isinstance(value, list):
        return [(name, _plain(name, value))]
    found = [_plain(name, one) for one in value]
    return [(name, ",".join(found))] if joined else [(name, one) for one in found]


def _line(name: str, value: JSON) -> str:
    found = _plain(name, value)
    if not found.isprintable():
        raise Invalid(f"`with.{name}` cannot stand in a header: it is not one line of text")
    return found


def _plain(name: str, value: JSON) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise Invalid(f"`with.{name}` must be text, a number or true or false to stand in an address or a header")
