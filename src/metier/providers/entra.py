"""Tokens of Microsoft Entra ID for a service that calls in its own name: fetched once, kept until they are old."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urlencode

from metier.catalog import Deployment
from metier.errors import ProviderUnavailable
from metier.providers.cause import caused
from metier.providers.exchange import Exchange
from metier.providers.token_cache import Token, TokenCache, granted, reason, word

__all__ = ["Entra"]

_PUBLIC: Final = "https://login.microsoftonline.com"
_RESOURCES: Final = {
    "login.microsoftonline.us": "https://cognitiveservices.azure.us",
    "login.partner.microsoftonline.cn": "https://cognitiveservices.azure.cn",
    "login.chinacloudapi.cn": "https://cognitiveservices.azure.cn",
}
_RESOURCE: Final = "https://cognitiveservices.azure.com"
_FORM: Final = {"content-type": "application/x-www-form-urlencoded"}
_NEEDED: Final = ("tenant_id", "client_id", "client_secret")


@dataclass(frozen=True, slots=True)
class _Identity:
    authority: str
    tenant: str
    client: str
    secret: str


class Entra:
    """Gives the token of an identity; many callers who need a new one wait for one request."""

    def __init__(self, exchange: Exchange, clock: Callable[[], float] = time.monotonic) -> None:
        self._exchange = exchange
        self._cache: TokenCache[_Identity] = TokenCache(clock)

    async def token(self, deployment: Deployment) -> str:
        """Give a token that is good for some minutes more, or as long as the last one lasts if no new one comes."""
        identity = _identity(deployment)
        return await self._cache.get(identity, lambda: self._fetch(identity, deployment))

    def forget(self, deployment: Deployment) -> None:
        """Drop a token that was refused, so that the next call asks for a new one."""
        self._cache.forget(_identity(deployment))

    async def _fetch(self, identity: _Identity, deployment: Deployment) -> Token:
        url = f"{identity.authority}/{quote(identity.tenant, safe='')}/oauth2/v2.0/token"
        asked = {
            "grant_type": "client_credentials",
            "client_id": identity.client,
            "client_secret": identity.secret,
            "scope": f"{_RESOURCES.get(identity.authority.rpartition('/')[2], _RESOURCE)}/.default",
        }
        began = self._cache.ticks()
        with self._exchange.guard(deployment, at=url):
            response = await self._exchange.post(url, urlencode(asked).encode(), _FORM, deployment)
            async with response:
                data = await self._exchange.refusal(response, deployment)
        # The time it lasts counts from before the request: never later than the truth.
        token = granted(data, began) if response.status == 200 else None
        if token is not None:
            return token
        refused = ProviderUnavailable(
            f"Entra ID gave no token for deployment {deployment.id!r}: it answered {response.status} ({reason(data)}); "
            "check tenant_id, client_id and client_secret in metier.yaml, and that the secret has not expired"
        )
        raise caused(refused, "token", f"http_{response.status}", *word(data))


def _identity(deployment: Deployment) -> _Identity:
    options = deployment.options
    missing = [name for name in _NEEDED if not options.get(name)]
    if missing:
        lacking = ProviderUnavailable(
            f"deployment {deployment.id!r} has no credential: give it an `api_key`, or the options "
            f"{', '.join(_NEEDED)} of an Entra application; {', '.join(missing)} is missing"
        )
        raise caused(lacking, "no_credential")
    authority = options.get("authority", _PUBLIC).rstrip("/")
    if "://" not in authority:
        authority = f"https://{authority}"
    return _Identity(authority, options["tenant_id"], options["client_id"], options["client_secret"])
