"""Tokens of Google Cloud for a service account: a signed claim is exchanged once, the token kept until it is old."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

import aiohttp
import orjson
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from metier.catalog import Deployment
from metier.errors import ProviderTimeout, ProviderUnavailable
from metier.providers.exchange import Exchange

__all__ = ["GoogleTokens"]

_TOKEN_URL: Final = "https://oauth2.googleapis.com/token"
_SCOPE: Final = "https://www.googleapis.com/auth/cloud-platform"
_GRANT: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_FORM: Final = {"content-type": "application/x-www-form-urlencoded"}
_CLAIM_S: Final = 3600
_MARGIN_S: Final = 300.0
_LAST_S: Final = 5.0
_REST_S: Final = 10.0
"""How long after a failure the token that is still good is used without asking again."""
_SKEW_S: Final = 240


@dataclass(frozen=True, slots=True)
class _Source:
    account: str
    """The JSON of the service account, or the path to it."""
    token_url: str | None

    def __repr__(self) -> str:
        return "_Source()"


@dataclass(frozen=True, slots=True)
class _Token:
    value: str
    ends: float

    def __repr__(self) -> str:
        return f"_Token(ends={self.ends})"


@dataclass(frozen=True, slots=True)
class _Failure:
    error: ProviderUnavailable | ProviderTimeout
    at: float


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
        self._ticks = ticks
        self._tokens: dict[_Source, _Token] = {}
        self._locks: dict[_Source, asyncio.Lock] = {}
        self._failed: dict[_Source, _Failure] = {}

    async def token(self, deployment: Deployment) -> str:
        """Give a token that is good for some minutes more, or as long as the last one lasts if no new one comes."""
        source = _Source(deployment.options["service_account"], deployment.options.get("token_url"))
        failed = self._failed.get(source)
        rests = failed is not None and self._ticks() - failed.at < _REST_S
        kept = self._kept(source, _LAST_S if rests else _MARGIN_S)
        if kept is not None:
            return kept
        async with self._locks.setdefault(source, asyncio.Lock()):
            last = self._failed.get(source)
            kept = self._kept(source, _MARGIN_S if last is failed else _LAST_S)
            if kept is not None:
                return kept
            if last is not None and last is not failed:
                # Whoever waited for the exchange that failed shares its failure: no queue of further ones.
                raise type(last.error)(last.error.message)
            try:
                token = await self._fetch(source, deployment)
            except (ProviderUnavailable, ProviderTimeout) as error:
                self._failed[source] = _Failure(error, self._ticks())
                kept = self._kept(source, _LAST_S)
                if kept is None:
                    raise
                return kept
            self._tokens[source] = token
            return token.value

    def forget(self, deployment: Deployment) -> None:
        """Drop a token that was refused, so that the next call asks for a new one."""
        self._tokens.pop(_Source(deployment.options["service_account"], deployment.options.get("token_url")), None)

    def _kept(self, source: _Source, margin_s: float) -> str | None:
        token = self._tokens.get(source)
        return token.value if token is not None and token.ends - self._ticks() > margin_s else None

    async def _fetch(self, source: _Source, deployment: Deployment) -> _Token:
        began, now = self._ticks(), int(self._clock())
        # Reading a file and signing take milliseconds that other calls need not wait for.
        try:
            url, claim = await asyncio.to_thread(_claim, source, now)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ProviderUnavailable(
                f"deployment {deployment.id!r} has no usable `service_account` ({type(error).__name__}): give it the "
                "JSON key of a Google Cloud service account, or the path to one, in metier.yaml"
            ) from None
        form = urlencode({"grant_type": _GRANT, "assertion": claim}).encode()
        # What breaks here broke at the address of tokens, and is said to.
        target = replace(deployment, base_url=url)
        with self._exchange.guard(target):
            async with await self._exchange.post(url, form, _FORM, target) as response:
                data = await self._exchange.refusal(response, target)
        try:
            body = orjson.loads(data)
            if response.status == 200:
                # The time it lasts counts from before the request: never later than the truth.
                return _Token(str(body["access_token"]), began + float(body["expires_in"]))
            code = str(body.get("error"))
        except (LookupError, TypeError, ValueError, AttributeError):
            code = "no answer that can be read"
        raise ProviderUnavailable(
            f"Google gave no token for deployment {deployment.id!r}: {url!r} answered {response.status} "
            f"({code[:60]}); {_advice(response, now)}"
        )


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
    key = load_pem_private_key(account["private_key"].encode(), password=None)
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
