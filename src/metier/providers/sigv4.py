"""Signature version 4: the proof Amazon wants that a request was written by whoever holds the secret key."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote, unquote, urlsplit

__all__ = ["Credentials", "sign"]

_SPACES = re.compile(" +")
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who signs; a session token comes with keys that were lent for a time."""

    access_key_id: str
    secret_access_key: str
    session_token: str | None = None

    def __repr__(self) -> str:
        """Say whose credentials these are, never what they are."""
        return f"Credentials({self.access_key_id!r})"


@dataclass(frozen=True, slots=True)
class _Scope:
    day: str
    region: str
    service: str

    def __str__(self) -> str:
        return f"{self.day}/{self.region}/{self.service}/aws4_request"


def sign(
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes,
    credentials: Credentials,
    place: tuple[str, str],
    at: datetime,
) -> dict[str, str]:
    """Give the headers to send with a request: those handed in, and those that prove it; `place` is (region, service).

    The path of `url` is signed as it is written, so it must be sent without being written anew.
    """
    now = at.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.port is not None and parts.port != _DEFAULT_PORTS.get(parts.scheme):
        host = f"{host}:{parts.port}"
    signed = {name.lower(): value for name, value in headers.items()} | {"host": host, "x-amz-date": now}
    if credentials.session_token:
        signed["x-amz-security-token"] = credentials.session_token
    names = ";".join(sorted(signed))
    request = "\n".join((
        method,
        quote(parts.path or "/", safe="/-_.~"),
        _query(parts.query),
        *(f"{name}:{_SPACES.sub(' ', signed[name].strip())}" for name in sorted(signed)),
        "",
        names,
        hashlib.sha256(body).hexdigest(),
    ))  # fmt: skip
    scope = _Scope(now[:8], *place)
    text = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    signature = _mac(_key(credentials.secret_access_key, scope), text).hex()
    signed["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={credentials.access_key_id}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return signed


def _key(secret: str, scope: _Scope) -> bytes:
    key = f"AWS4{secret}".encode()
    for word in (scope.day, scope.region, scope.service, "aws4_request"):
        key = _mac(key, word)
    return key


def _mac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def _query(query: str) -> str:
    pairs = (pair.partition("=") for pair in query.split("&") if pair)
    return "&".join(f"{name}={value}" for name, value in sorted((_plain(n), _plain(v)) for n, _, v in pairs))


def _plain(text: str) -> str:
    return quote(unquote(text), safe="-_.~")
