"""The HTTP exchange with a provider: one pool of connections, and an end to every silence."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from types import TracebackType
from typing import Final, TypeVar

import aiohttp
from yarl import URL

from metier.catalog import Deployment
from metier.errors import ProviderTimeout, ProviderUnavailable
from metier.providers.base import mark_unasked
from metier.providers.cause import broken, caused

__all__ = ["Exchange", "Patience", "bare", "wait_s"]

_T = TypeVar("_T")
_LONGEST_REFUSAL: Final = 64 * 1024
_DRAIN_S: Final = 0.2


class Exchange:
    """Posts bodies to providers and reads what they answer; every wait has a limit of its own."""

    def __init__(self, *, first_token_s: float = 120.0, between_s: float = 60.0, connect_s: float = 10.0) -> None:
        self._first_token_s = first_token_s
        self._between_s = between_s
        self._connect_s = connect_s
        self._session: aiohttp.ClientSession | None = None
        self._timeouts: dict[float, aiohttp.ClientTimeout] = {}

    def guard(self, deployment: Deployment, at: str = "") -> _Guard:
        """Put around an exchange: what breaks in it becomes an error of ours that names the deployment.

        `at` is the address of an exchange with somebody else, such as who gives tokens: then that one is named.
        """
        return _Guard(deployment, self._connect_s, at)

    async def post(
        self,
        url: str | URL,
        body: bytes | aiohttp.FormData,
        headers: Mapping[str, str],
        deployment: Deployment,
        at_once: bool = False,
    ) -> aiohttp.ClientResponse:
        """Send a request and wait for the head of the answer; use the response with `async with`.

        An answer asked for `at_once` begins when it is complete: it has the time of the whole.
        """
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30),
                cookie_jar=aiohttp.DummyCookieJar(),
                # A compressed stream arrives in lumps and costs time on both sides.
                headers={"accept-encoding": "identity", "user-agent": "metier"},
            )
        sending = self._session.post(
            url,
            data=body,
            headers=headers,
            timeout=self._timeout(deployment.timeout_s),
            allow_redirects=False,
        )
        # What comes at once has the time of the whole, which aiohttp watches by itself.
        return await sending if at_once else await self._within(sending, deployment)

    async def read(self, response: aiohttp.ClientResponse, deployment: Deployment, at_once: bool = False) -> bytes:
        """Read a whole body that comes at once."""
        return await response.read() if at_once else await self._within(response.read(), deployment)

    async def refusal(self, response: aiohttp.ClientResponse, deployment: Deployment) -> bytes:
        """Read the body of a refusal, as much of it as a message may need."""
        return await self._within(response.content.read(_LONGEST_REFUSAL), deployment)

    def patience(self, response: aiohttp.ClientResponse, deployment: Deployment) -> Patience:
        """Read a body that comes piece by piece."""
        between_s = deployment.between_s or self._between_s
        return Patience(response.content, deployment, self._first(deployment), between_s)

    async def close(self) -> None:
        """Close the connections that are kept open between calls."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _first(self, deployment: Deployment) -> float:
        return deployment.first_token_s or self._first_token_s

    def _timeout(self, total_s: float) -> aiohttp.ClientTimeout:
        found = self._timeouts.get(total_s)
        if found is None:
            found = self._timeouts[total_s] = aiohttp.ClientTimeout(total=total_s, sock_connect=self._connect_s)
        return found

    async def _within(self, waiting: Awaitable[_T], deployment: Deployment) -> _T:
        limit_s = self._first(deployment)
        timer = asyncio.timeout(limit_s)
        try:
            async with timer:
                return await waiting
        except TimeoutError as error:
            if not timer.expired():
                raise
            raise _silent(deployment, limit_s) from error


class Patience:
    """Reads a body piece by piece and ends a silence that lasts too long, with one timer for the whole body."""

    def __init__(self, content: aiohttp.StreamReader, deployment: Deployment, first_s: float, between_s: float) -> None:
        self._content = content
        self._deployment = deployment
        self._limit_s = first_s
        self._between_s = between_s
        self._loop = asyncio.get_running_loop()
        self._since: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Patience:
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()

    async def next(self, done: bool = False) -> bytes:
        """Give what has arrived, or wait for it; empty at the end of the body, or soon after the answer is done."""
        content = self._content
        while not content.at_eof():
            if done:
                # The end of the body usually follows at once; seen, the connection can be kept.
                await _drain(content)
                return b""
            data = content.read_nowait(-1)
            if data:
                break
            self._since = self._loop.time()
            if self._timer is None:
                self._timer = self._loop.call_later(self._limit_s, self._check)
            data = await content.readany()
            self._since = None
            if data:
                break
        else:
            return b""
        if self._limit_s != self._between_s:
            self._limit_s = self._between_s
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        return data

    def _check(self) -> None:
        # While whoever listens is slow, nobody waits for the provider.
        waited = 0.0 if self._since is None else self._loop.time() - self._since
        left = self._limit_s - waited
        if left > 0:
            self._timer = self._loop.call_later(left, self._check)
        else:
            self._content.set_exception(_silent(self._deployment, self._limit_s))


class _Guard:
    """Turns what a broken exchange raises into errors of ours."""

    def __init__(self, deployment: Deployment, connect_s: float, at: str) -> None:
        self._deployment = deployment
        self._connect_s = connect_s
        self._at = at
        self._whose = ("token",) if at else ()

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        deployment = self._deployment
        place = bare(self._at) if self._at else _host(deployment)
        if isinstance(error, TimeoutError):
            late = ProviderTimeout(
                f"deployment {deployment.id!r} at {place!r} could not be reached in {self._connect_s:g} s or did not "
                f"end its answer in {deployment.timeout_s:g} s; try again, or raise its `timeout_s` in metier.yaml"
            )
            connecting = isinstance(error, aiohttp.ConnectionTimeoutError)
            if connecting:
                mark_unasked(late)
            raise caused(late, *self._whose, "connect_timeout" if connecting else "answer_timeout") from error
        if isinstance(error, aiohttp.ClientError):
            off = ProviderUnavailable(
                f"the exchange with deployment {deployment.id!r} at {place!r} broke off "
                f"({type(error).__name__}); check that the server is up and reachable, then try again"
            )
            raise caused(off, *self._whose, broken(error)) from error


def _host(deployment: Deployment) -> str:
    """Show where a deployment answers, without what an address may carry beside it: a password, a key."""
    return URL(deployment.base_url or "").host or "its usual address"


def bare(url: str) -> str:
    """Show an address without what it may carry beside the place: a password, a key in its query."""
    return str(URL(url).with_user(None).with_query(None).with_fragment(None))


def wait_s(response: aiohttp.ClientResponse) -> float | None:
    """Read how many seconds the provider asks to be left alone, where its headers say so in seconds."""
    milliseconds = response.headers.get("retry-after-ms", "")
    if milliseconds.isascii() and milliseconds.isdecimal():
        return float(milliseconds) / 1000
    wait = response.headers.get("retry-after", "")
    return float(wait) if wait.isascii() and wait.isdecimal() else None


def _silent(deployment: Deployment, limit_s: float) -> ProviderTimeout:
    late = ProviderTimeout(
        f"deployment {deployment.id!r} sent nothing for {limit_s:g} s; try again, "
        "or give it more time if the model is known to be slow"
    )
    return caused(late, "silence")


async def _drain(content: aiohttp.StreamReader) -> None:
    try:
        async with asyncio.timeout(_DRAIN_S):
            await content.readany()
    except (TimeoutError, aiohttp.ClientError):
        # The answer is complete: what breaks behind it is nobody's loss.
        return
