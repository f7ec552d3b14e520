"""`kind: mcp`: tools of MCP servers, started by a command of the configuration or reached over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson

from metier.calls import JSON, Principal
from metier.connectors.base import Connector, Effect, Given, ToolSpec, whole
from metier.connectors.effects import Commit, Deed, NotTaken, again, unknowable
from metier.connectors.mcp_stdio import Meter, program
from metier.connectors.web import Web, web_of
from metier.errors import ConfigError, Invalid, MetierError, NotFound, Unavailable
from metier.workflow.tool_schema import checkable

__all__ = ["Mcp", "mcp"]

_T = TypeVar("_T")
_FRESH_S = 300


@dataclass(frozen=True, slots=True)
class _Learnt:
    """What the server said it can do."""

    specs: tuple[ToolSpec, ...]
    until: float


def mcp(given: Given) -> Connector:
    """Make the connector from `command` (a list) or `url`, and what of its tools is wanted."""
    given.known(
        "command env secret_env folder url tools reads timeout_s most_bytes auth hosts private retries longest_wait_s "
        "headers"
    )
    options = given.options
    command, url = options.get("command"), options.get("url")
    if (command is None) == (url is None):
        raise given.wrong(" needs one of command (a list: the program and its arguments) and url")
    if command is not None and (
        not isinstance(command, list) or not command or any(not isinstance(one, str) for one in command)
    ):
        raise given.wrong(".command must be a list of text: the program and its arguments")
    for name in ("env", "secret_env"):
        section = options.get(name) or {}
        if not isinstance(section, dict) or any(not isinstance(one, str) for one in section.values()):
            raise given.wrong(f".{name} must give text for each variable")
    for name in ("tools", "reads"):
        section = options.get(name) or []
        if not isinstance(section, list) or any(not isinstance(one, str) for one in section):
            raise given.wrong(f".{name} must be a list of names, or of patterns such as find_*")
    if url is not None and not isinstance(url, str):
        raise given.wrong(".url must be text")
    return Mcp(given, web_of(given, url) if url else None, whole(options, "timeout_s", 60, 600))


class Mcp:
    """Opens a session for each call, so that a server that died or forgot harms one call and no more."""

    def __init__(self, given: Given, web: Web | None, timeout_s: float) -> None:
        self._given = given
        self._web = web
        self._timeout_s = timeout_s
        self._most = int(whole(given.options, "most_bytes", 5_000_000, 100_000_000))
        self._learnt: _Learnt | None = None

    async def tools(self) -> Sequence[ToolSpec]:
        """Give the tools of the server that are wanted, asked for again after five minutes."""
        if self._learnt is None or self._learnt.until <= time.monotonic():
            found = await self._session(None, self._listed)
            wanted = self._given.options.get("tools") or ["*"]
            kept = [one for one in found if any(fnmatch.fnmatchcase(one.name, pattern) for pattern in wanted)]
            self._learnt = _Learnt(tuple(self._tool(one) for one in kept), time.monotonic() + _FRESH_S)
        return self._learnt.specs

    async def preview(self, operation: str, with_: Mapping[str, JSON]) -> Mapping[str, JSON]:
        """Show the call that would be made; the server is asked for its tools, and for nothing else."""
        for spec in await self.tools():
            if spec.name == f"{self._given.name}.{operation}":
                shown: dict[str, JSON] = {"tool": operation, "arguments": dict(with_), "effect": spec.effect}
                return shown
        raise NotFound(f"{self._given.name!r} has no tool {operation!r}: it has {[s.name for s in await self.tools()]}")

    async def probe(self) -> str:
        """Open a session and list the tools."""
        self._learnt = None
        found = await self.tools()
        return f"{self._given.name} gives {len(found)} tools: {', '.join(spec.name for spec in found)}"

    async def close(self) -> None:
        """Nothing is held between calls."""
        self._learnt = None

    def _tool(self, found: Any) -> ToolSpec:
        name, hints = f"{self._given.name}.{found.name}", found.annotations
        reads = bool(hints and hints.read_only_hint) or any(
            fnmatch.fnmatchcase(found.name, pattern) for pattern in self._given.options.get("reads") or ()
        )
        repeats = bool(hints and hints.idempotent_hint)

        async def ask(effect: Effect, with_: dict[str, JSON]) -> JSON:
            return await self._called(found.name, with_, effect.principal, None)

        async def do(effect: Effect, with_: dict[str, JSON]) -> JSON:
            async def transmit(kept: bytes, _: str, commit: Commit) -> JSON:
                return await self._called(found.name, orjson.loads(kept)["arguments"], effect.principal, commit)

            content = orjson.dumps({"tool": found.name, "arguments": with_})
            deed = Deed(name, self._given.name, content, transmit, again if repeats else unknowable)
            return await self._given.effects.once(effect.key, deed, effect.principal.organisation)

        # Servers write schemas for other languages, and refer to other machines: neither is for us to follow.
        schema = checkable(found.input_schema or {"type": "object"})
        output = None if found.output_schema is None else checkable(found.output_schema)
        described = str(found.description or found.title or found.name)
        return ToolSpec(name, described, schema, not reads, ask if reads else do, output, foreign=True)

    async def _listed(self, client: Any, hidden: Sequence[str]) -> list[Any]:
        found, cursor = list[Any](), None
        while True:
            page = await client.list_tools(cursor=cursor)
            found += page.tools
            cursor = page.next_cursor
            if not cursor or len(found) > 1_000:
                return found

    async def _called(self, name: str, with_: Mapping[str, JSON], who: Principal | None, commit: Commit | None) -> JSON:
        async def work(client: Any, hidden: Sequence[str]) -> JSON:
            if commit is not None:
                await commit()
            answer = await client.call_tool(name, dict(with_))
            if answer.is_error:
                failed = Invalid(f"the tool {self._given.name}.{name} says that it failed: check what it was given")
                raise failed if commit is None else NotTaken(failed)
            return self._value(answer, hidden)

        return await self._session(who, work)

    def _value(self, answer: Any, hidden: Sequence[str]) -> JSON:
        if answer.structured_content is not None:
            found: JSON = answer.structured_content
        else:
            found = "\n".join(part.text for part in answer.content if part.type == "text")
        raw = orjson.dumps(found)
        if len(raw) > self._most:
            raise Invalid(f"{self._given.name!r} answered more than {self._most:,} bytes: raise `most_bytes:`")
        for word in hidden:
            raw = raw.replace(orjson.dumps(word)[1:-1], b"[secret]")
        clear: JSON = orjson.loads(raw)
        return clear

    async def _session(self, who: Principal | None, work: Callable[[Any, Sequence[str]], Awaitable[_T]]) -> _T:
        """Open a session, work, close it; whatever the library wraps comes out as an error of ours."""
        try:
            from mcp import Client, MCPError
        except ImportError as error:
            raise ConfigError("MCP servers need the package mcp: pip install 'metier[mcp]'") from error
        name, outcome = self._given.name, list[_T]()
        failed: MetierError | NotTaken | None = None
        meter = Meter(name, self._most)
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._transport(who, meter) as (transport, hidden),
                Client(transport, read_timeout_seconds=self._timeout_s) as client,
            ):
                # The library would check answers by patterns of the server, which may never end: ToolSpec does it.
                session: Any = client.session
                session.validate_tool_result = _unchecked
                try:
                    outcome.append(await work(client, hidden))
                except (MetierError, NotTaken) as error:
                    failed = error
        except MCPError as error:
            raise meter.refused or self._said(error) from None
        except (ExceptionGroup, OSError, TimeoutError) as error:
            if not outcome and failed is None:
                raise (
                    meter.refused
                    or _found(error)
                    or Unavailable(
                        f"the MCP server {name!r} cannot be reached or broke off ({type(error).__name__}); try again"
                    )
                ) from error
        if failed is not None:
            raise failed
        return outcome[0]

    def _said(self, error: Any) -> MetierError:
        """Its words may repeat what it was given, so its number is told."""
        code = error.error.code
        if code == -32602:
            return Invalid(f"the MCP server {self._given.name!r} refused what it was given ({code})")
        return Unavailable(f"the MCP server {self._given.name!r} answered with the error {code}; it is tried again")

    @contextlib.asynccontextmanager
    async def _transport(self, who: Principal | None, meter: Meter) -> AsyncIterator[tuple[Any, Sequence[str]]]:
        from mcp.client.streamable_http import streamable_http_client

        options = self._given.options
        if self._web is None:
            secret = {n: await self._given.secret(s, who) for n, s in (options.get("secret_env") or {}).items()}
            env = {**(options.get("env") or {}), **secret}
            yield program(options["command"], env, options.get("folder"), meter), tuple(secret.values())
            return
        proof = await self._web.auth.proof(who)
        headers = {**(options.get("headers") or {}), **proof.headers}
        async with _client(self._web, headers, self._timeout_s, meter) as client:
            yield streamable_http_client(options["url"], http_client=client), proof.hidden


async def _unchecked(name: str, answer: Any) -> None:
    """Stand in for the check of the library."""


def _client(web: Web, headers: Mapping[str, str], timeout_s: float, meter: Meter) -> Any:
    """Make an HTTP client that connects to the addresses that were checked, and takes no more than a meter lets it."""
    import httpx2

    class Bounded(httpx2.AsyncByteStream):
        def __init__(self, stream: Any) -> None:
            self._stream = stream

        async def __aiter__(self) -> AsyncIterator[bytes]:
            async for piece in self._stream:
                if not meter.takes(len(piece)):
                    raise httpx2.ReadError("it answers without end")
                yield piece

        async def aclose(self) -> None:
            await self._stream.aclose()

    class Checked(httpx2.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            host = request.url.host
            address = await web.reachable(str(request.url))
            request.url = request.url.copy_with(host=address)
            request.extensions = {**request.extensions, "sni_hostname": host}
            response = await super().handle_async_request(request)
            packed = response.headers.get("Content-Encoding", "")
            if packed.strip().lower() not in ("", "identity"):
                meter.packed(packed)
                await response.aclose()
                raise httpx2.ReadError("its size is not known")
            response.stream = Bounded(response.stream)
            return response

    asked = {**headers, "Accept-Encoding": "identity"}
    return httpx2.AsyncClient(transport=Checked(), headers=asked, timeout=timeout_s, trust_env=False)


def _found(error: BaseException) -> MetierError | None:
    """The error of ours inside what a library wrapped."""
    if isinstance(error, MetierError):
        return error
    for inner in error.exceptions if isinstance(error, BaseExceptionGroup) else ():
        found = _found(inner)
        if found is not None:
            return found
    return None
