"""The fault matrix of two clouds: who lends the tokens they want misbehaves, and what they say that others do not."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any
from urllib.parse import unquote_plus

import orjson
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.chaos.faults import Fault, answers, fails
from tests.chaos.faulty import USAGE, Act, Asked, Format, Script, chunked, counted, good, head, lent

__all__ = ["account", "filter_faults", "token_faults"]


@cache
def account(at: str) -> str:
    """The JSON of a service account of Google Cloud, whose short key is quick to sign with."""
    made = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    pem = made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    fields = {
        "type": "service_account",
        "private_key": pem,
        "client_email": "matrice@projet",
        "token_uri": f"{at}/token",
    }
    return orjson.dumps({**fields, "token_uri": f"{at}/token"}).decode()


def token_faults(kind: Format) -> Iterator[Fault]:
    """What can go wrong before a cloud is asked at all; `kind` is the format it would have answered in."""

    def well(asked: Asked) -> list[Act]:
        return good(kind, asked, counted(kind, *USAGE))

    def no_token(title: str, lending: Script, **more: Any) -> Fault:
        return fails(f"token: {title}", well, lending=lending, **more)

    for status in (301, 400, 401, 403, 404, 429, 500, 503):
        yield no_token(f"answers {status}", _refuses(status))
    yield fails("token: refuses the connection", well, lending="nobody")
    limits = {"first_token_s": 0.3}
    yield no_token("hangs before the head", lambda _: ["hang"], options=limits)
    yield no_token("hangs after the head", lambda _: [head("application/json"), "hang"], options=limits)
    yield no_token("hangs midway", lambda _: [head("application/json"), chunked(b'{"acc'), "hang"], options=limits)
    yield no_token("closes instead of a head", lambda _: ["close"])
    yield no_token("cuts midway", lambda _: [head("application/json"), chunked(b'{"acc'), "cut"])
    yield no_token("sends a broken head", lambda _: [b"\x00\xff nothing of the kind\r\n\r\n", "close"])
    yield no_token("sends nothing at all", lambda _: [head("application/json"), chunked(b"")])
    yield no_token("sends a page", _sends(b"<html><body>Sign in</body></html>"))
    yield no_token("sends half a JSON", _sends(b'{"access_token": "sk-prov'))
    yield no_token("sends JSON that is no answer", _sends(b'[1, "deux", null]'))
    yield no_token("sends an error for a token", _refuses(200))
    for title, changes in (
        ("is not there", {"access_token": None}), ("is empty", {"access_token": ""}),
        ("is a number", {"access_token": 7}), ("holds a line end", {"access_token": "sk-provider-a\r\nx-forged: b"}),
        ("lasts nobody knows how long", {"expires_in": None}), ("lasts for a word", {"expires_in": "longtemps"}),
    ):  # fmt: skip
        yield no_token(title, _sends(_token(**changes)))
    for title, lasts in (("is over at once", 0), ("was over before", -3600), ("lasts beyond reason", 1e300)):
        yield answers(f"token: {title}", well, lending=_sends(_token(expires_in=lasts)))
    yield answers("token: is there on time", well, lending=lent)
    yield answers("token: 500, then another deployment answers", well, lending=_refuses(500), backup=True)
    left: dict[str, Any] = {"outcomes": frozenset({"cancelled"}), "ending": "any", "exact": False, "leaves": "silence"}
    yield Fault("token: client leaves before it is there", well, lending=lambda _: ["hang"], **left)


def filter_faults() -> Iterator[Fault]:
    """A prompt that the filter of Azure refuses, by a status and inside an answer."""
    inner = {"code": "ResponsibleAIPolicyViolation", "content_filter_result": {"hate": {"filtered": True}}}

    def refused(status: int) -> Script:
        def acts(asked: Asked) -> list[Act]:
            error = {"message": f"filtered: {asked.echo}", "code": "content_filter", "innererror": inner}
            told = orjson.dumps({"error": error})
            if status == 200 and asked.streams:
                return [head("text/event-stream"), chunked(b"data: " + told + b"\n\n"), chunked(b"")]
            return [head("application/json", status), chunked(told), chunked(b"")]

        return acts

    for status in (400, 200):
        yield Fault(f"filters the prompt with status {status}", refused(status), frozenset({"refused"}), "error", False)


def _refuses(status: int) -> Script:
    """A refusal that quotes whatever it was asked with, the secret or the signed claim among it."""

    def acts(asked: Asked) -> list[Act]:
        quoted = unquote_plus(asked.body.decode("latin-1")).rpartition("client_secret=")[2]
        body = {"error": quoted, "error_description": f"{quoted} {asked.echo}"}
        where = {"location": "http://127.0.0.1:9/"} if status == 301 else {}
        return [head("application/json", status, **where), chunked(orjson.dumps(body)), chunked(b"")]

    return acts


def _sends(data: bytes) -> Script:
    return lambda _: [head("application/json"), chunked(data), chunked(b"")]


def _token(**changes: Any) -> bytes:
    return orjson.dumps({"access_token": "sk-provider-lent", "expires_in": 3599, "token_type": "Bearer", **changes})
