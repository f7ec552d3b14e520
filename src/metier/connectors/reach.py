"""Which hosts and addresses a connector may reach: checked after resolving, connected to as checked."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import urllib.parse
from collections.abc import Sequence
from typing import TypeAlias

import aiohttp.abc

from metier.errors import ConfigError, Invalid

__all__ = ["Reach"]

_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
_HOLDING = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("::/96"))
"""Addresses of the sixth version that end with one of the fourth."""


class Reach(aiohttp.abc.AbstractResolver):
    """Resolves the hosts of one connector and gives only addresses it may reach, so that nothing is asked twice."""

    def __init__(self, hosts: Sequence[str], private: Sequence[str] = ()) -> None:
        self._hosts = frozenset(host.lower().rstrip(".") for host in hosts)
        try:
            self._private: tuple[_Network, ...] = tuple(ipaddress.ip_network(one) for one in private)
        except ValueError as error:
            raise ConfigError(f"{error}: give ranges of addresses such as 10.1.0.0/16") from None

    def url(self, url: str) -> str:
        """Check an address before anything is sent there, and give it back."""
        try:
            parts = urllib.parse.urlsplit(url)
            host, _ = parts.hostname, parts.port
        except ValueError:
            raise ConfigError("this is no address: give one such as https://api.exemple.fr/v1") from None
        if parts.scheme not in ("http", "https") or not host or parts.username or parts.password:
            raise ConfigError(
                f"the address at {host!r} must begin with https:// or http:// and hold no name and password: "
                "name a secret under `auth:`"
            )
        self._known(host)
        # A name is no address: it is checked when it has been resolved.
        with contextlib.suppress(ValueError):
            self._checked(host, ipaddress.ip_address(host))
        return url

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[aiohttp.abc.ResolveResult]:
        """Give the addresses of a host, or refuse it when one of them may not be reached."""
        self._known(host)
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, family=family, flags=socket.AI_ADDRCONFIG)
        given: list[aiohttp.abc.ResolveResult] = []
        for kind, _, protocol, _, place in found:
            address = str(place[0]).partition("%")[0]
            # One address that may not be reached condemns the name: it would be a matter of luck otherwise.
            self._checked(host, ipaddress.ip_address(address))
            given.append(
                {
                    "hostname": host, "host": address, "port": port, "family": kind, "proto": protocol,
                    "flags": socket.AI_NUMERICHOST,
                }
            )  # fmt: skip
        return given

    async def close(self) -> None:
        """Nothing is held."""

    def _known(self, host: str) -> None:
        if host.lower().rstrip(".") not in self._hosts:
            raise Invalid(f"the host {host!r} is none of {sorted(self._hosts)}: add it under `hosts:` if it should be")

    def _checked(self, host: str, address: _Address) -> None:
        meant = _meant(address)
        if any(one.version == meant.version and meant in one for one in self._private):
            return
        if not meant.is_global or meant.is_multicast:
            raise Invalid(
                f"the host {host!r} is at {str(address)!r}, an address inside a network: it is not reached unless its "
                "range is listed under `private:`"
            )


def _meant(address: _Address) -> _Address:
    """The address that is reached in the end, where one stands inside another."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if any(address in one for one in _HOLDING) and int(address) > 1:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address
