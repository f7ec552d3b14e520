"""Tokens of Microsoft Entra ID for a service that calls in its own name: fetched once, kept until they are old."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urlencode

import orjson

from metier.catalog import Deployment
from metier.errors import ProviderTimeout, ProviderUnavailable
from metier.providers.exchange import Exchange

__all__ = ["Entra"]

_PUBLIC: Final = "https://login.microsoftonline.com"
_RESOURCES: Final = {
    "login.microsoftonline.us": "https://cognitiveservices.azure.us",
    "login.partner.microsoftonline.cn": "https://cognitiveservices.azure.cn",
    "login.chinacloudapi.cn": "https://cognitiveservices.azure.cn",
}
_RESOURCE: Final = "https://cognitiveservices.azure.com"
_FORM: Final = {"content-type": "application/x-www-form-urlencoded"}
_MARGIN_S: Final = 300.0
_LAST_S: Final = 5.0
_NEEDED: Final = ("tenant_id", "client_id", "client_secret")


@dataclass(frozen=True, slots=True)
class _Identity:
    authority: str
    tenant: str
    client: str
    secret: str


@dataclass(frozen=True, slots=True)
class _Token:
    value: str
    ends: float


class Entra:
    """Gives the token of an identity; many callers who need a new one wait for one request."""

    def __init__(self, exchange: Exchange, clock: Callable[[], float] = time.monotonic) -> None:
        self._exchange = exchange
        self._clock = clock
        self._tokens: dict[_Identity, _Token] = {}
        self._locks: dict[_Identity, asyncio.Lock] = {}

    async def token(self, deployment: Deployment) -> str:
        """Give a token that is good for some minutes more, or as long as the last one lasts if no new one comes."""
        identity = _identity(deployment)
        kept = self._kept(identity, _MARGIN_S)
        if kept is not None:
            return kept
        async with self._locks.setdefault(identity, asyncio.Lock()):
            kept = self._kept(identity, _MARGIN_S)
            if kept is not None:
                return kept
            try:
                token = await self._fetch(identity, deployment)
            except (ProviderUnavailable, ProviderTimeout):
                kept = self._kept(identity, _LAST_S)
                if kept is None:
                    raise
                return kept
            self._tokens[identity] = token
            return token.value

    def forget(self, deployment: Deployment) -> None:
        """Drop a token that was refused, so that the next call asks for a new one."""
        self._tokens.pop(_identity(deployment), None)

    def _kept(self, identity: _Identity, margin_s: float) -> str | None:
        token = self._tokens.get(identity)
        return token.value if token is not None and token.ends - self._clock() > margin_s else None

    async def _fetch(self, identity: _Identity, deployment: Deployment) -> _Token:
        url = f"{identity.authority}/{quote(identity.tenant, safe='')}/oauth2/v2.0/token"
        asked = {
            "grant_type": "client_credentials",
            "client_id": identity.client,
            "client_secret": identity.secret,
            "scope": f"{_RESOURCES.get(identity.authority.rpartition('/')[2], _RESOURCE)}/.default",
        }
        began = self._clock()
        with self._exchange.guard(deployment):
            response = await self._exchange.post(url, urlencode(asked).encode(), _FORM, deployment)
            async with response:
                data = await self._exchange.refusal(response, deployment)
        try:
            body = orjson.loads(data)
            if response.status == 200:
                # The time it lasts counts from before the request: never later than the truth.
                return _Token(str(body["access_token"]), began + float(body["expires_in"]))
            code = str(body.get("error"))
        except (LookupError, TypeError, ValueError, AttributeError):
            code = "no answer that can be read"
        raise ProviderUnavailable(
            f"Entra ID gave no token for deployment {deployment.id!r}: it answered {response.status} ({code[:60]}); "
            "check tenant_id, client_id and client_secret in metier.yaml, and that the secret has not expired"
        )


def _identity(deployment: Deployment) -> _Identity:
    options = deployment.options
    missing = [name for name in _NEEDED if not options.get(name)]
    if missing:
        raise ProviderUnavailable(
            f"deployment {deployment.id!r} has no credential: give it an `api_key`, or the options "
            f"{', '.join(_NEEDED)} of an Entra application; {', '.join(missing)} is missing"
        )
    authority = options.get("authority", _PUBLIC).rstrip("/")
    if "://" not in authority:
        authority = f"https://{authority}"
    return _Identity(authority, options["tenant_id"], options["client_id"], options["client_secret"])
