"""GET /metrics: figures for Prometheus, to this machine or to whoever holds a key for them."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable

from starlette.types import Receive, Scope, Send

from metier.api.endpoint import Keys
from metier.api.exchange import Exchange
from metier.calls import Principal
from metier.errors import NotAllowed
from metier.record.exposition import CONTENT_TYPE

__all__ = ["SURFACE", "MetricsPage"]

SURFACE = "metrics"
"""What a key must be issued for, by name, to read metrics from elsewhere."""

_FORWARDED = frozenset((b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip", b"via"))


class MetricsPage:
    """GET /metrics: counters, gauges and histograms of every worker of this node, as text for Prometheus."""

    def __init__(
        self, keys: Keys, exposition: Callable[[], Awaitable[bytes]], *, everybody: bool, behind_proxy: bool
    ) -> None:
        self._keys = keys
        self._exposition = exposition
        self._everybody = everybody
        self._behind_proxy = behind_proxy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        exchange = Exchange(scope, receive, send)

        async def handle(exchange: Exchange) -> None:
            if not self._everybody and (self._behind_proxy or not _from_here(scope)):
                _allowed(await self._keys.authenticate(exchange.secret()))
            await exchange.raw(await self._exposition(), CONTENT_TYPE)

        await exchange.run(handle)


def _from_here(scope: Scope) -> bool:
    """A program of this machine, that no proxy speaks for."""
    client = scope.get("client")
    if client is None or any(name in _FORWARDED for name, _ in scope["headers"]):
        return False
    try:
        return ipaddress.ip_address(client[0]).is_loopback
    except ValueError:
        return False


def _allowed(principal: Principal) -> None:
    # A key without any list of surfaces is one for models; figures of all projects are asked for by name.
    if SURFACE not in (principal.surfaces or ()):
        raise NotAllowed(
            f"key {principal.key_id!r} may not read metrics: issue one for the surface {SURFACE!r}, ask from the "
            "machine itself, or set METIER_METRICS=open where only your own network reaches the port"
        )
