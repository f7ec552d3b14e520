"""Wrong sign-ins, counted by address, so that trying keys in a loop is slowed down."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable

from metier.errors import RateLimited

__all__ = ["Attempts"]


class Attempts:
    """Counts wrong sign-ins of each address in memory, over one window, for a bounded number of addresses."""

    def __init__(
        self,
        now: Callable[[], float] = time.monotonic,
        *,
        most: int = 10,
        window_s: float = 300,
        addresses: int = 10_000,
    ) -> None:
        self._now = now
        self._most = most
        self._window_s = window_s
        self._addresses = addresses
        self._wrong: dict[str, tuple[float, int]] = {}

    def check(self, address: str) -> None:
        """Raise RateLimited while too many sign-ins of this address were wrong."""
        since, wrong = self._wrong.get(_network(address), (0.0, 0))
        left = since + self._window_s - self._now()
        if wrong >= self._most and left > 0:
            raise RateLimited(f"{wrong} wrong sign-ins came from {address!r}: wait {round(left)} s and try again")

    def count(self, address: str) -> None:
        """Remember one wrong sign-in; the address seen longest ago gives way when there are too many."""
        network, now = _network(address), self._now()
        since, wrong = self._wrong.pop(network, (now, 0))
        if now - since >= self._window_s:
            since, wrong = now, 0
        if len(self._wrong) >= self._addresses:
            del self._wrong[next(iter(self._wrong))]
        self._wrong[network] = since, wrong + 1

    def forget(self, address: str) -> None:
        """Start anew after a good sign-in."""
        self._wrong.pop(_network(address), None)


def _network(address: str) -> str:
    """Who pays for an attempt: one subscriber holds a whole /64 of IPv6."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if found.version == 4:
        return address
    return str(ipaddress.ip_network((int(found), 64), strict=False))
