"""Why an exchange failed, in a few words that can hold no contents, secrets or personal data."""

from __future__ import annotations

import errno
import re
from typing import TypeVar

import aiohttp

from metier.errors import MetierError

__all__ = ["broken", "cause", "caused", "place", "placed"]

_E = TypeVar("_E", bound=MetierError)
_SAFE = re.compile(r"[A-Za-z0-9_ ]{1,60}")


def caused(error: _E, *words: str) -> _E:
    """Note on an error why it came about: a status, an OAuth word, the name of an errno, a kind of timeout."""
    vars(error)["cause"] = " ".join(words)
    return error


def cause(error: BaseException) -> str | None:
    """Tell what was noted, for logs and records; None where nothing was, or where it is more than plain words."""
    found = vars(error).get("cause")
    return found if isinstance(found, str) and _SAFE.fullmatch(found) else None


def placed(error: BaseException, deployment: str) -> None:
    """Note on an error which deployment was asked last."""
    vars(error).setdefault("placed", deployment)


def place(error: BaseException) -> str | None:
    """Tell which deployment was asked last before an error; None where none was."""
    found = vars(error).get("placed")
    return found if isinstance(found, str) else None


def broken(error: aiohttp.ClientError) -> str:
    """Name what broke an exchange, by its type and number and never by its message."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "dns"
    if isinstance(error, aiohttp.ClientSSLError):
        return "tls"
    if isinstance(error, OSError) and error.errno is not None:
        return errno.errorcode.get(error.errno, "connection")
    if isinstance(error, aiohttp.ClientConnectionError):
        return "disconnected" if isinstance(error, aiohttp.ServerDisconnectedError) else "connection"
    return "cut_off" if isinstance(error, aiohttp.ClientPayloadError) else "malformed"
