"""`kind: webhook`: events that leave for an address of the configuration, signed, each under one id for ever."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence

import orjson

from metier.calls import JSON
from metier.connectors.base import Connector, Effect, Given, ToolSpec, schema_of, text
from metier.connectors.effects import Commit, Deed, again
from metier.connectors.web import Request, Web, web_of
from metier.errors import Invalid, NotFound

__all__ = ["Webhook", "signed", "webhook"]

_PREFIX = "whsec_"


def signed(secret: str, identity: str, at: int, body: bytes) -> dict[str, str]:
    """Sign as Standard Webhooks do, and as GitHub does: receivers check whichever they know."""
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True) if secret.startswith(_PREFIX) else None
    except ValueError:
        key = b""
    if key == b"":
        raise Invalid("the secret of a webhook that begins with 'whsec_' must go on in base64")
    key = key or secret.encode()
    made = hmac.digest(key, f"{identity}.{at}.".encode() + body, hashlib.sha256)
    return {
        "webhook-id": identity,
        "webhook-timestamp": str(at),
        "webhook-signature": "v1," + base64.b64encode(made).decode(),
        "X-Hub-Signature-256": "sha256=" + hmac.digest(key, body, hashlib.sha256).hex(),
    }


def webhook(given: Given) -> Connector:
    """Make the connector from `url` and the name of the `secret` that signs."""
    given.known("url secret hosts private timeout_s most_bytes retries longest_wait_s headers")
    url, secret = given.options.get("url"), given.options.get("secret")
    if not isinstance(url, str):
        raise given.wrong(" needs url, such as https://erp.exemple.fr/hooks/metier")
    if not isinstance(secret, str):
        raise given.wrong(" needs secret: the name of the one that signs, set with `metier secret set`")
    return Webhook(given, web_of(given, url), url, secret)


class Webhook:
    """Posts events; a receiver that gets one twice knows it by its webhook-id."""

    def __init__(self, given: Given, web: Web, url: str, secret: str, now: Callable[[], float] = time.time) -> None:
        self._given = given
        self._web = web
        self._url = url
        self._secret = secret
        self._now = now

    async def tools(self) -> Sequence[ToolSpec]:
        """Give the one tool: send an event of a type, with its data."""
        schema = schema_of({"type": "string", "data": {"type": "object"}}, "the event")
        what = f"Send an event to {urllib.parse.urlsplit(self._url).hostname}, signed, exactly once."
        return [ToolSpec(f"{self._given.name}.send", what, schema, True, self._send)]

    async def preview(self, operation: str, with_: Mapping[str, JSON]) -> Mapping[str, JSON]:
        """Show the event as it would leave, unsigned; of the address only its host, since a path may be a secret."""
        if operation != "send":
            raise NotFound(f"{self._given.name!r} has no operation {operation!r}: it has 'send'")
        shown: dict[str, JSON] = {"method": "POST", "host": urllib.parse.urlsplit(self._url).netloc}
        body: JSON = orjson.loads(self._body(with_))
        return shown | {"body": body, "effect": True, "doubt": "sent again under the same webhook-id"}

    async def probe(self) -> str:
        """Resolve the host and open the secret; nothing is posted."""
        address = await self._web.reachable(self._url)
        signed(await self._given.secret(self._secret, None), "probe", 0, b"")
        return f"{urllib.parse.urlsplit(self._url).hostname} is at {address}, the secret is there; nothing was posted"

    async def close(self) -> None:
        """Nothing is held between events."""

    async def _send(self, effect: Effect, with_: dict[str, JSON]) -> JSON:
        async def transmit(kept: bytes, identity: str, commit: Commit) -> JSON:
            secret = await self._given.secret(self._secret, effect.principal)
            headers = {"Content-Type": "application/json", **signed(secret, identity, int(self._now()), kept)}
            request = Request("POST", self._url, headers, kept)
            reply = await self._web.write(request, effect.principal, commit, repeats=True)
            return {"id": identity, "status": reply.status}

        host = urllib.parse.urlsplit(self._url).netloc
        deed = Deed(f"{self._given.name}.send", f"POST {host}", self._body(with_), transmit, again)
        return await self._given.effects.once(effect.key, deed, effect.principal.organisation)

    def _body(self, with_: Mapping[str, JSON]) -> bytes:
        return orjson.dumps({"type": text(with_, "type"), "data": with_.get("data")})
