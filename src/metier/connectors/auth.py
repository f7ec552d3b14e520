"""How HTTP connectors prove themselves: with secrets named in the configuration, opened when a request leaves."""

from __future__ import annotations

import asyncio
import base64
import time
import urllib.parse
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import orjson

from metier.calls import Principal
from metier.connectors.base import Given
from metier.errors import ConfigError, Unavailable

__all__ = ["Auth", "Post", "Proof", "auth_of"]

Post: TypeAlias = Callable[[str, bytes, Mapping[str, str]], Awaitable[tuple[int, bytes]]]
"""Posts a form to the server that gives tokens: address, body, headers; gives status and body."""

_EARLY_S = 30
_KINDS = "bearer basic header oauth2"


@dataclass(frozen=True, slots=True)
class Proof:
    """Headers that prove who we are, and the words that must never be seen elsewhere."""

    headers: Mapping[str, str]
    hidden: tuple[str, ...]

    def __repr__(self) -> str:
        return "Proof()"


class Auth:
    """Gives the headers of one connector; tokens are fetched once and kept in memory until they expire."""

    def __init__(self, given: Given, section: Mapping[str, Any], post: Post, now: Callable[[], float]) -> None:
        self._given = given
        self._section = section
        self._post = post
        self._now = now
        self._tokens: dict[tuple[str, str], tuple[str, float]] = {}
        self._lock = asyncio.Lock()

    @property
    def renews(self) -> bool:
        """Whether a refused token can be replaced by another."""
        return "oauth2" in self._section

    async def proof(self, principal: Principal | None, *, anew: bool = False) -> Proof:
        """Open what is needed for one request in somebody's name; `anew` forgets the token that was refused."""
        section = self._section
        if "bearer" in section:
            token = await self._given.secret(section["bearer"], principal)
            return Proof({"Authorization": f"Bearer {token}"}, (token,))
        if "basic" in section:
            name, secret = section["basic"]["user"], await self._given.secret(section["basic"]["password"], principal)
            coded = base64.b64encode(f"{name}:{secret}".encode()).decode()
            return Proof({"Authorization": f"Basic {coded}"}, (secret, coded))
        if "header" in section:
            secret = await self._given.secret(section["header"]["secret"], principal)
            return Proof({section["header"]["name"]: secret}, (secret,))
        if "oauth2" in section:
            return await self._token(principal, anew)
        return Proof({}, ())

    async def _token(self, principal: Principal | None, anew: bool) -> Proof:
        whose = (principal.organisation, principal.project) if principal else ("", "")
        async with self._lock:
            token, until = self._tokens.get(whose, ("", 0.0))
            if anew or until <= self._now():
                token, until = await self._fetched(principal)
                self._tokens[whose] = (token, until)
        return Proof({"Authorization": f"Bearer {token}"}, (token,))

    async def _fetched(self, principal: Principal | None) -> tuple[str, float]:
        section = self._section["oauth2"]
        secret = await self._given.secret(section["client_secret"], principal)
        form = {"grant_type": "client_credentials"} | {n: section[n] for n in ("scope", "audience") if section.get(n)}
        quoted = ":".join(urllib.parse.quote(part, safe="") for part in (section["client_id"], secret))
        headers = {
            "Authorization": "Basic " + base64.b64encode(quoted.encode()).decode(),
            "Content-Type": "application/x-www-form-urlencoded",
            "Accept": "application/json",
        }
        status, body = await self._post(section["token_url"], urllib.parse.urlencode(form).encode(), headers)
        name = self._given.name
        if status >= 500 or status == 429:
            raise Unavailable(f"the server that gives tokens to {name!r} answered {status}: it is tried again")
        if status != 200:
            raise ConfigError(
                f"the server that gives tokens to {name!r} refused our credentials with {status}: check the client_id "
                f"and the secret {section['client_secret']!r}"
            )
        try:
            told = orjson.loads(body)
            token, lasts = told["access_token"], float(told.get("expires_in", 300))
        except (ValueError, TypeError, KeyError, AttributeError):
            raise Unavailable(f"the server that gives tokens to {name!r} answered something that is no token") from None
        return str(token), self._now() + max(0.0, lasts - _EARLY_S)


def auth_of(given: Given, post: Post, now: Callable[[], float] = time.monotonic) -> Auth:
    """Read `auth:` of a connector; secrets are named there, never written."""
    section = given.options.get("auth") or {}
    if not isinstance(section, dict) or len(section) > 1 or not section.keys() <= set(_KINDS.split()):
        raise given.wrong(f".auth must hold one of {_KINDS}, or be left out")
    wanted = {
        "basic": ("user", "password"),
        "header": ("name", "secret"),
        "oauth2": ("token_url", "client_id", "client_secret"),
    }
    for kind, inner in section.items():
        if kind == "bearer":
            if not isinstance(inner, str):
                raise given.wrong(".auth.bearer must be the name of a secret")
            continue
        missing = [n for n in wanted[kind] if not isinstance(inner, dict) or not isinstance(inner.get(n), str)]
        if missing:
            raise given.wrong(f".auth.{kind} needs {missing[0]}")
    return Auth(given, section, post, now)
