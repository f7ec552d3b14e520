"""Tokens of Google Cloud for a service account: a signed claim is exchanged once, the token kept until it is old."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

import aiohttp
import orjson
from cryptography.hazmat.primitives import hashes

from metier.catalog import Deployment
from metier.deferred import deferred
from metier.errors import ProviderUnavailable
from metier.providers.cause import caused
from metier.providers.exchange import Exchange, bare
from metier.providers.token_cache import Token, TokenCache, granted, reason, word

if TYPE_CHECKING:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import padding, rsa
else:
    serialization = deferred("cryptography.hazmat.primitives.serialization")
    padding = deferred("cryptography.hazmat.primitives.asymmetric.padding")
    rsa = deferred("cryptography.hazmat.primitives.asymmetric.rsa")

__all__ = ["GoogleTokens"]

_TOKEN_URL: Final = "https://oauth2.googleapis.com/token"
_SCOPE: Final = "https://www.googleapis.com/auth/cloud-platform"
_GRANT: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_FORM: Final = {"content-type": "application/x-www-form-urlencoded"}
_CLAIM_S: Final = 3600
_SKEW_S: Final = 240


@dataclass(frozen=True, slots=True)
class _Source:
    account: str
    """The JSON of the service account, or the path to it."""
    token_url: str | None

    def __repr__(self) -> str:
        return "_Source()"


class GoogleTokens:
    """Gives the token of a service account; many callers who need a new one wait for one exchange."""

    def __init__(
        self,
        exchange: Exchange,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._exchange = exchange
        self._clock = clock
        self._cache: TokenCache[_Source] = TokenCache(ticks)

    async def token(self, deployment: Deployment) -> str:
        """Give a token that is good for some minutes more, or as long as the last one lasts if no new one comes."""
        source = _source(deployment)
        return await self._cache.get(source, lambda: self._fetch(source, deployment))

    def forget(self, deployment: Deployment) -> None:
        """Drop a token that was refused, so that the next call asks for a new one."""
        self._cache.forget(_source(deployment))

    async def _fetch(self, source: _Source, deployment: Deployment) -> Token:
        began, now = self._cache.ticks(), int(self._clock())
        # Reading a file and signing take milliseconds that other calls need not wait for.
        try:
            url, claim = await asyncio.to_thread(_claim, source, now)
        except (OSError, ValueError, KeyError, TypeError) as error:
            unusable = ProviderUnavailable(
                f"deployment {deployment.id!r} has no usable `service_account` ({type(error).__name__}): give it the "
                "JSON key of a Google Cloud service account, or the path to one, in metier.yaml"
            )
            raise caused(unusable, "no_credential") from None
        form = urlencode({"grant_type": _GRANT, "assertion": claim}).encode()
        with self._exchange.guard(deployment, at=url):
            async with await self._exchange.post(url, form, _FORM, deployment) as response:
                data = await self._exchange.refusal(response, deployment)
        # The time it lasts counts from before the request: never later than the truth.
        token = granted(data, began) if response.status == 200 else None
        if token is not None:
            return token
        refused = ProviderUnavailable(
            f"Google gave no token for deployment {deployment.id!r}: {bare(url)!r} answered {response.status} "
            f"({reason(data)}); {_advice(response, now)}"
        )
        raise caused(refused, "token", f"http_{response.status}", *word(data))


def _source(deployment: Deployment) -> _Source:
    return _Source(deployment.options["service_account"], deployment.options.get("token_url"))


def _advice(response: aiohttp.ClientResponse, now: int) -> str:
    try:
        off_s = now - parsedate_to_datetime(response.headers.get("date", "")).timestamp()
    except (ValueError, TypeError):
        off_s = 0.0
    if abs(off_s) > _SKEW_S:
        side = "ahead of" if off_s > 0 else "behind"
        return f"the clock of this machine is {abs(off_s):.0f} s {side} Google's: set it right, for example with NTP"
    return "check that the service account and its key still exist, and that it may use Vertex AI"


def _claim(source: _Source, now: int) -> tuple[str, str]:
    """Write who asks, for whom and until when, signed with the key of the service account."""
    text = source.account.strip()
    account = orjson.loads(text if text.startswith("{") else Path(text).expanduser().read_bytes())
    if account.get("type", "service_account") != "service_account":
        raise ValueError("this is the credential of something else than a service account")
    key = serialization.load_pem_private_key(account["private_key"].encode(), password=None)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise TypeError("Google's service accounts have RSA keys")
    url = source.token_url or account.get("token_uri") or _TOKEN_URL
    head = {"alg": "RS256", "typ": "JWT"}
    if account.get("private_key_id"):
        head["kid"] = account["private_key_id"]
    claims = {"iss": account["client_email"], "scope": _SCOPE, "aud": url, "iat": now, "exp": now + _CLAIM_S}
    signed = f"{_plain(orjson.dumps(head))}.{_plain(orjson.dumps(claims))}"
    proof = key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
    return url, f"{signed}.{_plain(proof)}"


def _plain(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
