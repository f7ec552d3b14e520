"""One path of the API: who calls is found first, then something answers, and what it raises becomes an answer too."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Generic, Protocol, TypeVar, overload

from starlette.types import Receive, Scope, Send

from metier.api.exchange import Exchange
from metier.calls import Principal

__all__ = ["Endpoint", "Keys"]

_Exchange = TypeVar("_Exchange", bound=Exchange)


class Keys(Protocol):
    """Says who is calling."""

    async def authenticate(self, secret: str) -> Principal:
        """Find the principal behind a key, or raise NotAuthenticated."""
        ...


class Endpoint(Generic[_Exchange]):
    """The ASGI application of one path: `answer` is given the exchange and who is calling."""

    @overload
    def __init__(
        self: Endpoint[Exchange], keys: Keys, answer: Callable[[Exchange, Principal], Awaitable[None]]
    ) -> None: ...
    @overload
    def __init__(
        self, keys: Keys, answer: Callable[[_Exchange, Principal], Awaitable[None]], kind: type[_Exchange]
    ) -> None: ...
    def __init__(
        self, keys: Keys, answer: Callable[[_Exchange, Principal], Awaitable[None]], kind: Any = Exchange
    ) -> None:
        self._keys = keys
        self._kind: type[_Exchange] = kind
        self.answer = answer
        """What answers; its docstring says what the path is for."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await self._kind(scope, receive, send).run(self._handle)

    async def _handle(self, exchange: _Exchange) -> None:
        await self.answer(exchange, await self._keys.authenticate(exchange.secret()))
