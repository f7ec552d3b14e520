"""Who calls on which surface, and what is left of their limits: told in x-ratelimit headers."""

from __future__ import annotations

from typing import Protocol

from metier.api.exchange import Headers
from metier.calls import Call, Principal
from metier.errors import Unavailable
from metier.gateway import Gateway

__all__ = ["Door", "Surface", "limit_headers"]

_REQUESTS = (b"x-ratelimit-limit-requests", b"x-ratelimit-remaining-requests", b"x-ratelimit-reset-requests")
_TOKENS = (b"x-ratelimit-limit-tokens", b"x-ratelimit-remaining-tokens", b"x-ratelimit-reset-tokens")


class Door(Protocol):
    """Says who is calling, and whether the key may be used on a surface."""

    async def authenticate(self, secret: str, surface: str = "admin") -> Principal:
        """Find the principal behind a key for a surface, or raise NotAuthenticated or NotAllowed."""
        ...


class Surface:
    """The keys as one surface sees them: those not issued for it are refused."""

    def __init__(self, keys: Door, name: str) -> None:
        self._keys = keys
        self._name = name

    async def authenticate(self, secret: str) -> Principal:
        """Find the principal behind a key that may be used here."""
        return await self._keys.authenticate(secret, self._name)


async def limit_headers(gateway: Gateway, call: Call) -> Headers:
    """Tell limit, what is left of it, and when it is whole again, of the tightest limits of requests and tokens."""
    found: Headers = []
    try:
        remaining = await gateway.remaining(call)
    except Unavailable:
        return []
    for measure, told in remaining.items():
        limit, left, reset = _REQUESTS if measure == "requests" else _TOKENS
        found.append((limit, b"%d" % told.limit))
        found.append((left, b"%d" % told.remaining))
        found.append((reset, f"{told.reset_s:.3f}s".encode()))
    return found
