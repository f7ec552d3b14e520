"""Alerts leave the house: to webhooks, signed, and as e-mails; only to the addresses of metier.yaml."""

from __future__ import annotations

import email.message
import email.policy
import hashlib
import hmac
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson

from metier.connectors.letters import header_text
from metier.connectors.outbox import NotTaken, Transport
from metier.errors import ConfigError, Invalid, Unavailable
from metier.policy.alerts import Alert, Alerts, Channel, Send
from metier.store import Store

__all__ = ["Addresses", "Mails", "Webhooks", "addresses", "alerts", "signature", "ways_out"]

_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_TIMEOUT_S = 10
_LATER = frozenset({408, 425, 429})
_KINDS = frozenset({"webhooks", "emails"})

_WORDS: Mapping[str, Mapping[str, str]] = {
    "fr": {
        "subject": "Métier : {whose}, {measure} : {what}",
        "share": "{kind} % de la limite sont utilisés",
        "forecast": "la limite sera dépassée avant la fin de la période",
        "body": "{what}.\n\nLimite : {amount} {unit} par {period} ({whose}).\nUtilisé depuis le {starts_on} : {spent} "
        "{unit}.\n{coming}Quand elle est atteinte : {action}.\n\nVoir où elle en est : metier budget list\n",
        "coming": "Prévision à la fin de la période : {forecast} {unit}.\n",
        "refuse": "les appels sont refusés",
        "degrade": "les appels vont à un modèle moins cher",
        "alert": "rien d'autre que cette alerte",
        "day": "jour", "month": "mois", "total": "an et pour toujours",
        "organisation": "organisation", "project": "projet", "system": "système", "key": "clé",
        "requests": "requêtes", "tokens": "jetons", "money": "argent", "energy": "énergie", "carbon": "carbone",
    },
    "en": {
        "subject": "Métier: {whose}, {measure}: {what}",
        "share": "{kind} % of the limit are used",
        "forecast": "the limit will be passed before the period ends",
        "body": "{what}.\n\nLimit: {amount} {unit} per {period} ({whose}).\nUsed since {starts_on}: {spent} {unit}.\n"
        "{coming}When it is reached: {action}.\n\nSee where it stands: metier budget list\n",
        "coming": "Forecast for the end of the period: {forecast} {unit}.\n",
        "refuse": "calls are refused",
        "degrade": "calls go to a cheaper model",
        "alert": "nothing but this alert",
        "day": "day", "month": "month", "total": "all time",
        "organisation": "organisation", "project": "project", "system": "system", "key": "key",
        "requests": "requests", "tokens": "tokens", "money": "money", "energy": "energy", "carbon": "carbon",
    },
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where alerts go, as the section `alerts` of metier.yaml says."""

    webhooks: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Address and secret of each."""
    emails: tuple[str, ...] = ()


def addresses(section: object) -> Addresses:
    """Read the section `alerts`, or say which entry of it is wrong."""
    if not section:
        return Addresses()
    if not isinstance(section, dict) or not section.keys() <= _KINDS:
        raise ConfigError("alerts in metier.yaml takes two lists, webhooks and emails, and nothing else")
    webhooks: dict[str, str] = {}
    for number, entry in enumerate(section.get("webhooks") or ()):
        given: Mapping[str, Any] = entry if isinstance(entry, dict) else {}
        url, secret = given.get("url"), given.get("secret")
        if not isinstance(url, str) or not _proper(url):
            # It is not quoted: addresses of webhooks are secrets often enough.
            raise ConfigError(
                f"alerts.webhooks[{number}].url cannot be used: give an https address without a name and password in "
                "it (http on loopback)"
            )
        if not isinstance(secret, str) or len(secret) < 16:
            raise ConfigError(
                f"alerts.webhooks[{number}].secret needs 16 characters or more: make one with `openssl rand -hex 32` "
                "and write env/NAME there"
            )
        webhooks[url] = secret
    emails = section.get("emails") or ()
    for number, address in enumerate(emails):
        if not isinstance(address, str) or address.count("@") != 1 or any(c.isspace() for c in address):
            raise ConfigError(f"alerts.emails[{number}] is {address!r}: give one e-mail address")
    return Addresses(webhooks, tuple(emails))


def alerts(store: Store, section: object, transport: Transport | None, sender: str | None, lang: str) -> Alerts:
    """Make the alerts of a house, with the addresses that metier.yaml allows."""
    return Alerts(store, *ways_out(section, transport, sender, lang))


def ways_out(
    section: object, transport: Transport | None, sender: str | None, lang: str
) -> tuple[Mapping[Channel, Sequence[str]], Mapping[Channel, Send]]:
    """Give the addresses that the section `alerts` of metier.yaml allows, and what sends to each kind of them."""
    to = addresses(section)
    hooks = Webhooks(to.webhooks)
    send: dict[Channel, Send] = {"webhook": hooks.send}
    if to.emails:
        if transport is None or not sender:
            raise ConfigError("alerts.emails needs a mail server: set METIER_SMTP_URL and METIER_MAIL_FROM")
        send["email"] = Mails(transport, sender, lang).send
    return {"webhook": hooks.names, "email": to.emails}, send


def signature(secret: str, body: bytes, at: int) -> str:
    """Sign a body and its time: what the receiver computes again with the secret, and compares."""
    made = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={made}"


class Webhooks:
    """Posts alerts as JSON, signed with the secret of each address, following no redirect."""

    def __init__(self, secrets: Mapping[str, str], *, now: Callable[[], float] = time.time) -> None:
        self._places = {_named(url): (url, secret) for url, secret in secrets.items()}
        self._now = now

    @property
    def names(self) -> tuple[str, ...]:
        """What records and logs call the addresses: the host and a digest, since a path may be a secret."""
        return tuple(self._places)

    async def send(self, target: str, alert: Alert) -> None:
        """Post one alert; any 2xx takes it, 4xx refuses it for good, everything else may pass later."""
        url, secret = self._places[target]
        body = orjson.dumps(_document(alert))
        headers = {
            "content-type": "application/json",
            "x-metier-alert": alert.id,
            "x-metier-signature": signature(secret, body, int(self._now())),
        }
        host = urllib.parse.urlsplit(url).hostname
        try:
            timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
            async with (
                aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as session,
                session.post(url, data=body, headers=headers, allow_redirects=False) as response,
            ):
                status = response.status
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Unavailable(
                f"the webhook at {host!r} cannot be reached ({type(error).__name__}); it is tried again"
            ) from error
        if 200 <= status < 300:
            return
        if 400 <= status < 500 and status not in _LATER:
            raise Invalid(f"the webhook at {host!r} refused the alert with {status}: look at what it expects")
        raise Unavailable(f"the webhook at {host!r} answered {status}; it is tried again")


class Mails:
    """Sends alerts as e-mails in the language of the house, under one Message-ID each."""

    def __init__(self, transport: Transport, sender: str, lang: str) -> None:
        self._transport = transport
        self._sender = sender
        self._words = _WORDS[lang if lang in _WORDS else "en"]

    async def send(self, target: str, alert: Alert) -> None:
        """Hand one alert over to the mail server."""
        words, told = self._words, alert.told
        what = words["forecast"] if alert.kind == "forecast" else words["share"].format(kind=alert.kind)
        # A name may hold whatever its owner typed: a line break would begin another header.
        whose = f"{words[told['scope']]} {' '.join(str(told.get('name') or told['subject']).split())[:80]}"
        forecast = f"{alert.forecast or 0:.2f}"
        coming = "" if alert.forecast is None else words["coming"].format(forecast=forecast, unit=alert.unit)
        message = email.message.EmailMessage()
        message["From"], message["To"] = self._sender, target
        said = words["subject"].format(whose=whose, measure=words[told["measure"]], what=what)
        message["Subject"] = header_text(said)
        place = hashlib.sha256(target.encode()).hexdigest()[:12]
        message["Message-ID"] = f"<{alert.id}.{place}@{self._sender.rsplit('@', 1)[-1].strip('> ')}>"
        message["Date"] = alert.at
        message.set_content(
            words["body"].format(
                what=what[:1].upper() + what[1:], amount=f"{told['amount']:g}", unit=alert.unit,
                period=words[told["period"]], whose=whose, starts_on=alert.starts_on, spent=f"{alert.spent:.2f}",
                coming=coming, action=words[told["action"]],
            )
        )  # fmt: skip
        try:
            await self._transport.transmit(message.as_bytes(policy=email.policy.SMTP), _ready)
        except NotTaken as refusal:
            raise refusal.cause from None


async def _ready() -> None:
    """Nothing is written down between the addresses and the content."""


def _document(alert: Alert) -> dict[str, object]:
    return {
        "id": alert.id,
        "kind": alert.kind,
        "at": alert.at,
        "limit": dict(alert.told),
        "unit": alert.unit,
        "starts_on": alert.starts_on,
        "spent": float(alert.spent),
        "forecast": None if alert.forecast is None else float(alert.forecast),
    }


def _named(url: str) -> str:
    return f"{urllib.parse.urlsplit(url).hostname}#{hashlib.sha256(url.encode()).hexdigest()[:12]}"


def _proper(url: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        return False
    plain = parts.scheme == "http" and parts.hostname in _LOOPBACK
    return bool(parts.hostname) and not parts.username and (parts.scheme == "https" or plain)
