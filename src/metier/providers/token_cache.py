"""Tokens a cloud lends for an hour: fetched once for all who wait, and kept until they are old."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import orjson

from metier.errors import ProviderTimeout, ProviderUnavailable
from metier.providers.base import mark_unasked
from metier.providers.cause import cause, caused

__all__ = ["Token", "TokenCache", "granted", "reason", "word"]

_Source = TypeVar("_Source", bound=Hashable)
_MARGIN_S: Final = 300.0
_LAST_S: Final = 5.0
_REST_S: Final = 10.0
"""How long after a failure the token that is still good is used without asking again."""
_UNREADABLE: Final = (LookupError, TypeError, ValueError, AttributeError)
_REASONS: Final = frozenset({
    "access_denied", "interaction_required", "invalid_client", "invalid_grant", "invalid_request", "invalid_resource",
    "invalid_scope", "server_error", "temporarily_unavailable", "unauthorized_client", "unsupported_grant_type",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Token:
    """A token and when it ends, on the clock of the cache."""

    value: str
    ends: float

    def __repr__(self) -> str:
        """Say when it ends, never what it is."""
        return f"Token(ends={self.ends})"


@dataclass(frozen=True, slots=True)
class _Failure:
    error: ProviderUnavailable | ProviderTimeout
    at: float


class TokenCache(Generic[_Source]):
    """Gives the token of an identity; many callers who need a new one wait for one request."""

    def __init__(self, ticks: Callable[[], float] = time.monotonic) -> None:
        self.ticks = ticks
        """What tells the time tokens end by."""
        self._tokens: dict[_Source, Token] = {}
        self._locks: dict[_Source, asyncio.Lock] = {}
        self._failed: dict[_Source, _Failure] = {}

    async def get(self, source: _Source, fetch: Callable[[], Awaitable[Token]]) -> str:
        """Give a token that is good for some minutes more, or as long as the last one lasts if no new one comes."""
        try:
            return await self._get(source, fetch)
        except (asyncio.CancelledError, ProviderTimeout) as error:
            # Whoever leaves or waits in vain here owes nothing: nobody has been asked for an answer yet.
            mark_unasked(error)
            raise

    async def _get(self, source: _Source, fetch: Callable[[], Awaitable[Token]]) -> str:
        failed = self._failed.get(source)
        rests = failed is not None and self.ticks() - failed.at < _REST_S
        kept = self._kept(source, _LAST_S if rests else _MARGIN_S)
        if kept is not None:
            return kept
        async with self._locks.setdefault(source, asyncio.Lock()):
            last = self._failed.get(source)
            kept = self._kept(source, _MARGIN_S if last is failed else _LAST_S)
            if kept is not None:
                return kept
            if last is not None and last is not failed:
                # Whoever waited for the request that failed shares its failure: no queue of further ones.
                raise caused(type(last.error)(last.error.message), cause(last.error) or "token")
            try:
                token = await fetch()
            except (ProviderUnavailable, ProviderTimeout) as error:
                self._failed[source] = _Failure(error, self.ticks())
                kept = self._kept(source, _LAST_S)
                if kept is None:
                    raise
                return kept
            self._tokens[source] = token
            return token.value

    def forget(self, source: _Source) -> None:
        """Drop a token that was refused, so that the next call asks for a new one."""
        self._tokens.pop(source, None)

    def _kept(self, source: _Source, margin_s: float) -> str | None:
        token = self._tokens.get(source)
        return token.value if token is not None and token.ends - self.ticks() > margin_s else None


def granted(data: bytes, began: float) -> Token | None:
    """Read a token that lasts from `began`, a time on the clock of the cache; None where the answer holds none."""
    try:
        body = orjson.loads(data)
        value, ends = body["access_token"], began + float(body["expires_in"])
    except _UNREADABLE:
        return None
    # It becomes part of a header, which a line end would end.
    usable = isinstance(value, str) and value.isascii() and value.isprintable() and value.strip()
    return Token(value, ends) if usable else None


def reason(data: bytes) -> str:
    """Name why no token was given in OAuth's words; any other words may quote the secret that was sent."""
    try:
        code = orjson.loads(data)["error"]
    except _UNREADABLE:
        return "no answer that can be read"
    return code if isinstance(code, str) and code in _REASONS else "no reason that is known"


def word(data: bytes) -> tuple[str, ...]:
    """Give OAuth's own word for why no token was given, where it is one of them."""
    said = reason(data)
    return (said,) if said in _REASONS else ()
