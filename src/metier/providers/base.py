"""What a provider is, and how its refusals become errors of ours, by status and never by words."""

from __future__ import annotations

import base64
import itertools
import re
from collections.abc import AsyncIterator
from typing import Final, Protocol, runtime_checkable
from urllib.parse import quote

from metier.calls import Call, Chunk
from metier.catalog import Deployment
from metier.errors import Invalid, MetierError, ProviderTimeout, ProviderUnavailable
from metier.providers.cause import caused

__all__ = [
    "Counter",
    "Provider",
    "failure",
    "mark_unasked",
    "retry_after_s",
    "texts_of",
    "told_by_deployment",
    "unasked",
]

_TIMEOUTS = frozenset({408, 504, 524})
_OUR_CREDENTIAL = frozenset({401, 403})
_CALLER = frozenset({400, 413, 422})
_LONGEST_QUOTE = 400
_SHORTEST_SECRET = 6
"""Shorter options, such as a location, are words that a message may need."""
_SHORTEST_PIECE = 10
"""Characters in a row that are no coincidence: providers quote credentials in part, and spelt otherwise."""
_LONGEST_READ = 8_000
_SECRETS = ("client_secret", "access_key_id", "secret_access_key", "session_token")
_LOWER: Final = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}
_LONGEST_WAIT_S = 86_400.0
_BEARER = re.compile(r"(?i)\b(bearer\s+)[\w.~+/=-]{6,}")
_E5 = re.compile(r"(?<![a-z0-9])e5(?![a-z0-9])")
_CODE = re.compile(r"\[\[[A-Z][A-Z_0-9]*[a-z]*\]{0,2}")
"""A placeholder for personal data, or its beginning."""


class Provider(Protocol):
    """Serves calls of one kind of server; raises only errors of metier.errors, classified by status."""

    def stream(self, call: Call, deployment: Deployment) -> AsyncIterator[Chunk]:
        """Yield the answer as it arrives; the last chunks carry `finish` and `usage`, or the vectors of an embed."""
        ...

    async def close(self) -> None:
        """Give back connections and processes; the provider is not used afterwards."""
        ...


@runtime_checkable
class Counter(Protocol):
    """A provider that also counts the input tokens of a call before it is made."""

    async def count(self, call: Call, deployment: Deployment) -> int:
        """Give the deployment's own count, for which nothing is charged."""
        ...


def failure(status: int, message: str, deployment: Deployment, wait_s: float | None = None) -> MetierError:
    """Turn a provider's HTTP status into the error that says whose fault it is and what to do next."""
    return caused(_failure(status, message, deployment, wait_s), f"http_{status}")


def _failure(status: int, message: str, deployment: Deployment, wait_s: float | None) -> MetierError:
    message = _discreet(message, deployment)
    # What a provider quotes is the request as it got it: tokens lent for an hour, placeholders nobody outside knows.
    message = _CODE.sub("[masked]", _BEARER.sub(r"\1[credential]", message))
    wait_s = None if wait_s is None else min(wait_s, _LONGEST_WAIT_S)
    said = f"deployment {deployment.id!r} answered {status}: {message[:_LONGEST_QUOTE]!r}"
    if status in _OUR_CREDENTIAL:
        return ProviderUnavailable(
            f"deployment {deployment.id!r} answered {status}: the credential Métier holds for it is wrong or lacks "
            "a right; the caller's key is fine, ask whoever runs Métier to mend metier.yaml"
        )
    if status == 404:
        return ProviderUnavailable(f"{said}; check model id {deployment.model_id!r} and the base URL in metier.yaml")
    if status in _CALLER:
        refused = Invalid(f"{said}; change the request, sending it again will not help")
        vars(refused)["answered"] = status
        return refused
    if status in _TIMEOUTS:
        return ProviderTimeout(f"{said}; try again, or raise the time the deployment is given")
    when = "later" if wait_s is None else f"in {wait_s:g} s"
    limit = "its rate limit is reached, " if status == 429 else ""
    error = ProviderUnavailable(f"{said}; {limit}try again {when}")
    if wait_s is not None:
        vars(error)["retry_after_s"] = wait_s
    return error


def told_by_deployment(error: BaseException) -> bool:
    """Tell a refusal that came from a deployment from one made here, before it was asked."""
    return "answered" in vars(error)


def mark_unasked(error: BaseException) -> None:
    """Note on what ends a call that its deployment had not been asked yet, so that nothing is owed to it."""
    vars(error)["unasked"] = True


def unasked(error: BaseException) -> bool:
    """Tell whether a call ended before its deployment was asked."""
    return "unasked" in vars(error)


def texts_of(call: Call, model_id: str) -> tuple[str, ...]:
    """Give the texts to embed: models of the E5 family are told in words, before each, what it is for."""
    if call.purpose is None or not _E5.search(model_id.lower()):
        return call.inputs
    return tuple(f"{call.purpose}: {text}" for text in call.inputs)


def retry_after_s(error: BaseException) -> float | None:
    """Tell how many seconds the provider asked to be left alone, where it said so."""
    wait = vars(error).get("retry_after_s")
    return wait if isinstance(wait, float) else None


def _discreet(message: str, deployment: Deployment) -> str:
    """Take out of a message whatever it quotes of the credentials it was asked with."""
    message = message[:_LONGEST_READ]
    for option in deployment.options.values():
        if len(option) >= _SHORTEST_SECRET:
            message = message.replace(option, "[credential]")
    for secret in (deployment.api_key, *(deployment.options.get(name) for name in _SECRETS)):
        if secret:
            coded = base64.b64encode(secret.encode()).decode().rstrip("=")
            for spelt in {secret, quote(secret, safe=""), coded}:
                message = _without(message, spelt)
    return message


def _without(message: str, secret: str) -> str:
    """Replace every piece of a secret, in capitals or not; the folding of letters keeps the places."""
    text, wanted = message.translate(_LOWER), secret.translate(_LOWER)
    size = min(_SHORTEST_PIECE, len(wanted))
    told = bytearray(len(text))
    for start in range(len(wanted) - size + 1):
        piece = wanted[start : start + size]
        at = text.find(piece)
        while at >= 0:
            told[at : at + size] = b"\x01" * size
            at = text.find(piece, at + 1)
    if not any(told):
        return message
    runs = itertools.groupby(zip(message, told, strict=True), key=lambda pair: pair[1])
    return "".join("[credential]" if hidden else "".join(c for c, _ in pairs) for hidden, pairs in runs)
