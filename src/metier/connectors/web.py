"""HTTP as connectors use it: hosts checked, secrets hidden, size and time bounded, repeated only where that is safe."""

from __future__ import annotations

import asyncio
import email.utils
import re
import time
import urllib.parse
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace

import aiohttp
import orjson
import yarl

from metier.calls import JSON, Principal
from metier.connectors.auth import Auth, Proof, auth_of
from metier.connectors.base import Given, whole
from metier.connectors.effects import Commit, NotTaken
from metier.connectors.reach import Reach
from metier.errors import ConfigError, Invalid, NotFound, RateLimited, Unavailable

__all__ = ["OPTIONS", "Reply", "Request", "Sleep", "Web", "web_of"]

OPTIONS = "auth hosts private timeout_s most_bytes retries longest_wait_s headers"
"""Options that every connector over HTTP has."""

Sleep = Callable[[float], Awaitable[None]]

_BUSY = frozenset({429, 503})
_ODD = frozenset({408, 425, 500, 502, 504, 520, 522, 524})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_SEE_OTHER = 303
_MOVED = frozenset({300, 301, 302})
"""What many servers answer to a form they have taken; 307 and 308 alone say that nothing was done."""
_MOST_REDIRECTS = 3
_CODE = re.compile(r"[A-Za-z][A-Za-z0-9_.:-]{0,59}", re.ASCII)
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Request:
    """One request, without what proves who we are."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back, with every secret that was sent taken out of it."""

    status: int
    media_type: str
    body: bytes
    location: str | None = None
    wait_s: float | None = None
    """How long the server asks us to wait."""

    def value(self) -> JSON:
        """Give the body as JSON where it is JSON, as text otherwise; null where there is none."""
        if not self.body.strip():
            return None
        if self.media_type.endswith("json"):
            try:
                found: JSON = orjson.loads(self.body)
            except ValueError:
                raise Invalid(f"the answer says it is {self.media_type!r} and is not JSON") from None
            return found
        return self.body.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class _Bounds:
    timeout_s: float
    most_bytes: int
    retries: int
    longest_wait_s: float


class Web:
    """Sends requests of one connector; opens a connection each, so that none is found closed half way."""

    def __init__(self, given: Given, reach: Reach, bounds: _Bounds, sleep: Sleep) -> None:
        self._given = given
        self._reach = reach
        self._bounds = bounds
        self._sleep = sleep
        self._headers: Mapping[str, str] = {}
        self.auth: Auth = auth_of(given, self._form)

    def check(self, url: str) -> str:
        """Give an address back when this connector may reach it."""
        return self._reach.url(url)

    async def read(self, request: Request, principal: Principal | None) -> Reply:
        """Ask something that changes nothing: tried again while that may help, redirected only on the same host."""
        for _ in range(_MOST_REDIRECTS + 1):
            reply = await self._repeated(request, principal)
            if reply.status not in _REDIRECTS:
                return self._good(reply)
            request = replace(request, url=self._next(request.url, reply))
        raise Invalid(f"{self._given.name!r} was redirected more than {_MOST_REDIRECTS} times: check its base_url")

    async def write(self, request: Request, principal: Principal | None, commit: Commit, *, repeats: bool) -> Reply:
        """Ask something that changes something; `repeats` says that the server does it once however often asked.

        Raises NotTaken where nothing was done for sure, Unavailable where that cannot be known.
        """
        try:
            await self._proof(principal)
        except Exception as error:
            raise NotTaken(error) from error
        await commit()
        try:
            reply = await (self._repeated(request, principal) if repeats else self._once(request, principal))
        except _Unsent as error:
            raise NotTaken(error.cause) from error.__cause__
        except (Invalid, ConfigError, NotFound) as error:
            raise Unavailable(f"{error.message} (the request had left)") from error
        if reply.status in _ODD:
            raise self._away(reply.status)
        if reply.status == _SEE_OTHER:
            # It was done, and is shown elsewhere; what this page says is for people.
            return Reply(reply.status, "", b"")
        if reply.status in _MOVED and not repeats:
            raise Unavailable(
                f"{self._given.name!r} answered {reply.status}: servers say so before and after having done it"
            )
        try:
            return self._good(reply)
        except (Invalid, NotFound, ConfigError, RateLimited, Unavailable) as error:
            raise NotTaken(error, str(reply.status)) from None

    async def reachable(self, url: str) -> str:
        """Resolve a host and say at which address it would be reached."""
        parts = urllib.parse.urlsplit(self.check(url))
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            found = await self._reach.resolve(parts.hostname or "", port)
        except OSError as error:
            raise Unavailable(f"the host {parts.hostname!r} cannot be resolved: {error.strerror}") from error
        return found[0]["host"]

    async def _repeated(self, request: Request, principal: Principal | None) -> Reply:
        left, pause = self._bounds.retries, 0.5
        while True:
            wait = pause
            try:
                reply = await self._once(request, principal)
            except _Unsent as error:
                if left == 0 or not isinstance(error.cause, Unavailable):
                    raise error.cause from error.__cause__
            except Unavailable:
                if left == 0:
                    raise
            else:
                wait = reply.wait_s if reply.wait_s is not None else pause
                late = reply.status in _BUSY | _ODD
                if not late or left == 0 or (reply.wait_s or 0) > self._bounds.longest_wait_s:
                    return reply
            left, pause = left - 1, pause * 2
            await self._sleep(min(wait, self._bounds.longest_wait_s))

    async def _once(self, request: Request, principal: Principal | None) -> Reply:
        reply = await self._sent(request, await self._proof(principal))
        if reply.status == 401 and self.auth.renews:
            reply = await self._sent(request, await self.auth.proof(principal, anew=True))
        return reply

    async def _proof(self, principal: Principal | None) -> Proof:
        return await self.auth.proof(principal)

    async def _sent(self, request: Request, proof: Proof) -> Reply:
        url, host = self.check(request.url), urllib.parse.urlsplit(request.url).hostname
        timeout = aiohttp.ClientTimeout(total=self._bounds.timeout_s, connect=min(10.0, self._bounds.timeout_s))
        connector = aiohttp.TCPConnector(resolver=self._reach, use_dns_cache=False, force_close=True)
        headers = {"Accept": "application/json", **self._headers, **request.headers, **proof.headers}
        try:
            async with (
                aiohttp.ClientSession(
                    timeout=timeout, connector=connector, cookie_jar=aiohttp.DummyCookieJar()
                ) as session,
                session.request(
                    request.method,
                    yarl.URL(url, encoded=True),
                    headers=headers,
                    data=request.body,
                    allow_redirects=False,
                ) as response,
            ):
                body = await self._bounded(response)
                return Reply(
                    response.status,
                    response.content_type or "",
                    _without(body, proof.hidden),
                    response.headers.get("Location"),
                    _wait(response.headers.get("Retry-After")),
                )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise _Unsent(
                Unavailable(f"{host!r} cannot be reached ({type(error).__name__}); it is tried again")
            ) from error
        except (aiohttp.InvalidURL, ValueError) as error:
            raise _Unsent(Invalid(f"the address at {host!r} cannot be used: {type(error).__name__}")) from error
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Unavailable(
                f"the connection to {host!r} broke before it had answered ({type(error).__name__})"
            ) from error

    async def _bounded(self, response: aiohttp.ClientResponse) -> bytes:
        found = bytearray()
        async for piece in response.content.iter_chunked(65_536):
            found += piece
            if len(found) > self._bounds.most_bytes:
                raise Invalid(
                    f"{self._given.name!r} answered more than {self._bounds.most_bytes:,} bytes: ask for less, or "
                    "raise `most_bytes:`"
                )
        return bytes(found)

    async def _form(self, url: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        try:
            reply = await self._sent(Request("POST", url, headers, body), Proof({}, ()))
        except _Unsent as error:
            raise error.cause from error.__cause__
        return reply.status, reply.body

    def _good(self, reply: Reply) -> Reply:
        name, status = self._given.name, reply.status
        if 200 <= status < 300:
            return reply
        if status in _BUSY or status in _ODD:
            raise self._away(status)
        if status in (401, 403):
            raise ConfigError(f"{name!r} refused our credentials with {status}: check `auth:` and its secret")
        said = _said(reply)
        if status in (404, 410):
            raise NotFound(f"{name!r} answered {status}{said}: what was asked for is not there")
        raise Invalid(f"{name!r} answered {status}{said}: check what was given")

    def _away(self, status: int) -> Unavailable | RateLimited:
        if status == 429:
            return RateLimited(f"{self._given.name!r} takes no more requests for now (429): it is tried again")
        return Unavailable(f"{self._given.name!r} answered {status}: it is tried again")

    def _next(self, url: str, reply: Reply) -> str:
        target = urllib.parse.urljoin(url, reply.location or "")
        before, after = urllib.parse.urlsplit(url), urllib.parse.urlsplit(target)
        if (before.scheme, before.netloc) != (after.scheme, after.netloc) or not reply.location:
            raise Invalid(
                f"{self._given.name!r} was sent to {after.hostname!r}, another place than its own: that is not followed"
            )
        return target


class _Unsent(Exception):
    """Nothing was handed over."""

    def __init__(self, cause: Unavailable | Invalid) -> None:
        super().__init__(str(cause))
        self.cause = cause


def web_of(given: Given, base_url: str, sleep: Sleep = asyncio.sleep) -> Web:
    """Make the way out of one connector from its options; its own host is allowed without saying so."""
    options = given.options
    hosts = [*_texts(given, "hosts"), urllib.parse.urlsplit(base_url).hostname or ""]
    token_url = ((options.get("auth") or {}).get("oauth2") or {}).get("token_url")
    if isinstance(token_url, str):
        hosts.append(urllib.parse.urlsplit(token_url).hostname or "")
    bounds = _Bounds(
        whole(options, "timeout_s", 30, 600),
        int(whole(options, "most_bytes", 5_000_000, 100_000_000)),
        int(whole({"retries": options.get("retries", 3) or 0.5}, "retries", 3, 10)),
        whole(options, "longest_wait_s", 30, 600),
    )
    web = Web(given, Reach(hosts, _texts(given, "private")), bounds, sleep)
    headers = options.get("headers") or {}
    for name, value in headers.items() if isinstance(headers, dict) else [("headers", None)]:
        if not _HEADER.fullmatch(str(name)) or not isinstance(value, str) or any(c in value for c in "\r\n\x00"):
            raise given.wrong(f".headers.{name} must be one line of text; secrets stand under `auth:`")
    web._headers = headers
    web.check(base_url)
    if isinstance(token_url, str):
        web.check(token_url)
    return web


def _texts(given: Given, name: str) -> list[str]:
    found = given.options.get(name) or []
    if not isinstance(found, list) or any(not isinstance(one, str) for one in found):
        raise given.wrong(f".{name} must be a list of text")
    return found


def _without(body: bytes, hidden: tuple[str, ...]) -> bytes:
    """What a server repeats of our secrets goes no further: not into a run, not into a message."""
    for word in hidden:
        if word:
            body = body.replace(word.encode(), b"[secret]").replace(orjson.dumps(word)[1:-1], b"[secret]")
    return body


def _wait(header: str | None) -> float | None:
    if not header:
        return None
    if header.isdigit():
        return float(header)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return None


def _said(reply: Reply) -> str:
    """A code the server gave with its refusal; its words may name people and are left where they are."""
    try:
        told = orjson.loads(reply.body)
    except ValueError:
        return ""
    inner = told.get("error") if isinstance(told, dict) else None
    places = (told, inner) if isinstance(told, dict) else ()
    for place in places:
        for name in ("code", "type", "error"):
            value = place.get(name) if isinstance(place, dict) else None
            if isinstance(value, str) and _CODE.fullmatch(value):
                return f" ({value})"
    return ""
