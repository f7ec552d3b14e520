"""Events other programs send over HTTP: who sent them is proved by a signature over id, time and body."""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import orjson

from metier.calls import JSON
from metier.errors import Invalid, NotAuthenticated
from metier.nesting import DEEPEST, read_deeper
from metier.triggers.event import Event, Kind, only, secret_name

__all__ = ["BODY_LIMIT", "KIND", "TOLERANCE_S", "Delivery", "signed", "verified"]

BODY_LIMIT = 1024 * 1024
TOLERANCE_S = 300
_ID = re.compile(r"[\x21-\x7e]{1,256}", re.ASCII)
_DIGITS = re.compile(r"[0-9]{1,12}", re.ASCII)
_SENT_MOST = 10


@dataclass(frozen=True, slots=True)
class Delivery:
    """One request as it came."""

    id: str
    """Header webhook-id."""
    timestamp: str
    """Header webhook-timestamp, in seconds since 1970."""
    signatures: str
    """Header webhook-signature: `v1,` and the signature in base64, several apart by spaces while a secret changes."""
    body: bytes


def signed(secret: str, id: str, timestamp: int, body: bytes) -> str:
    """Sign a body as the Standard Webhooks say, for senders and for tests."""
    mac = hmac.digest(_key(secret), f"{id}.{timestamp}.".encode() + body, "sha256")
    return f"v1,{base64.b64encode(mac).decode()}"


def verified(secret: str, delivery: Delivery, now: datetime) -> Event:
    """Give the event of a delivery whose signature is right and whose time is near, or refuse it."""
    stale = NotAuthenticated(
        f"webhook-timestamp is {delivery.timestamp[:20]!r}: it must be within {TOLERANCE_S} s of the clock here"
    )
    if not _ID.fullmatch(delivery.id):
        raise NotAuthenticated("the webhook has no usable webhook-id: send up to 256 visible ASCII characters")
    if not _DIGITS.fullmatch(delivery.timestamp):
        raise stale
    right = signed(secret, delivery.id, int(delivery.timestamp), delivery.body).encode()
    sent = delivery.signatures.encode("utf-8", "replace").split()[:_SENT_MOST]
    matches = [hmac.compare_digest(right, each) for each in sent]
    if not any(matches):
        raise NotAuthenticated("webhook-signature does not fit the body, its id and its time: check the secret")
    # After the signature: a stranger learns nothing of the clock.
    if abs(now.timestamp() - int(delivery.timestamp)) > TOLERANCE_S:
        raise stale
    return Event(delivery.id, _data(delivery), content=delivery.body)


def _data(delivery: Delivery) -> dict[str, JSON]:
    try:
        body: JSON = orjson.loads(delivery.body)
    except orjson.JSONDecodeError as error:
        raise Invalid(f"the body of webhook {delivery.id!r} is not JSON in UTF-8: {error.msg}") from None
    if read_deeper(delivery.body, body):
        raise Invalid(f"the body of webhook {delivery.id!r} is nested more than {DEEPEST} levels deep: flatten it")
    return {"id": delivery.id, "sent_at": int(delivery.timestamp), "body": body}


def _key(secret: str) -> bytes:
    if secret.startswith("whsec_"):
        try:
            key = base64.b64decode(secret[6:], validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if not key:
            # An empty one would let anybody sign.
            raise Invalid("the secret of the webhook begins with whsec_ and is no base64 after it: set it again")
        return key
    return secret.encode()


def _check(config: Mapping[str, JSON]) -> None:
    only(config, "webhook", ("secret",), ())
    secret_name(config["secret"], "webhook")


KIND = Kind(_check)
