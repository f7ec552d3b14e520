"""A server on loopback that answers like Google: it checks keys, claims of service accounts and tokens for real."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import cache
from typing import Any

import orjson
from aiohttp import web
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.providers.replies import Reply, give, running

__all__ = ["EMAIL", "KEY", "Google", "Reply", "account", "event", "google", "said"]

EMAIL = "metier@projet.iam.gserviceaccount.com"
KEY = "gemini-api-key"
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"


@cache
def private_key(owner: str) -> rsa.RSAPrivateKey:
    """Somebody's key, made once a session."""
    assert owner
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def account(url: str, owner: str = EMAIL, **changes: Any) -> str:
    """The JSON of a service account whose tokens come from this server."""
    pem = private_key(owner).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    fields = {
        "type": "service_account",
        "project_id": "projet",
        "private_key_id": "k1",
        "private_key": pem,
        "client_email": EMAIL,
        "token_uri": f"{url}/token",
    }
    return orjson.dumps({**fields, **changes}).decode()


def event(**fields: Any) -> bytes:
    """One piece of an answer as Google sends it."""
    return b"data: " + orjson.dumps(fields) + b"\r\n\r\n"


def said(*texts: str, finish: str = "STOP", usage: dict[str, int] | None = None) -> bytes:
    """A whole good answer of text."""
    pieces = [
        event(candidates=[{"content": {"role": "model", "parts": [{"text": text}]}, "index": 0}]) for text in texts
    ]
    figures = usage or {"promptTokenCount": 11, "candidatesTokenCount": 7, "totalTokenCount": 18}
    return b"".join(pieces) + event(candidates=[{"finishReason": finish, "index": 0}], usageMetadata=figures)


@dataclass(slots=True)
class Google:
    """The server while it runs."""

    url: str = ""
    replies: list[Reply] = field(default_factory=list)
    requests: list[Any] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    exchanges: int = 0
    """How many claims were exchanged for a token."""
    lasts_s: int = 3599
    down: bool = False
    """Whether the exchange of claims is out of order."""
    mute: bool = False
    """Whether a token comes without the time it lasts."""
    clock: Callable[[], float] = time.time
    valid: set[str] = field(default_factory=set)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)

    async def token(self, request: web.Request) -> web.Response:
        """Exchange a claim for a token, if everything in it is right."""
        self.exchanges += 1
        await asyncio.sleep(0.01)
        date = {"date": formatdate(self.clock(), usegmt=True)}
        if self.down:
            return web.Response(status=503, text="<html>later</html>", headers=date)
        form = await request.post()
        reason = self._reason(str(form.get("assertion", "")), str(form.get("grant_type", "")))
        if reason:
            told = {"error": "invalid_grant", "error_description": reason}
            return web.json_response(told, status=400, headers=date)
        token = f"ya29.{self.exchanges}"
        self.valid.add(token)
        if self.mute:
            return web.json_response({"access_token": token})
        return web.json_response({"access_token": token, "expires_in": self.lasts_s, "token_type": "Bearer"})

    def _reason(self, assertion: str, grant: str) -> str:
        head, claims, proof = (base64.urlsafe_b64decode(part + "==") for part in assertion.split("."))
        signed = assertion.rpartition(".")[0].encode()
        told, now = orjson.loads(claims), self.clock()
        if grant != _GRANT or orjson.loads(head) != {"alg": "RS256", "typ": "JWT", "kid": "k1"}:
            return "unsupported"
        try:
            private_key(EMAIL).public_key().verify(proof, signed, padding.PKCS1v15(), hashes.SHA256())
        except InvalidSignature:
            return "Invalid JWT Signature."
        if told["iss"] != EMAIL or told["scope"] != _SCOPE or told["aud"] != f"{self.url}/token":
            return "wrong claims"
        if not told["iat"] - 60 <= now <= told["exp"] <= told["iat"] + 3600:
            return "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe."
        return ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Check who asks, then send the next reply; the last one repeats."""
        body = await request.read()
        bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if request.headers.get("x-goog-api-key") != KEY and bearer not in self.valid:
            error = {"code": 401, "message": "Request had invalid authentication credentials.", "status": "X"}
            return web.json_response({"error": error}, status=401)
        self.requests.append(orjson.loads(body))
        self.paths.append(request.raw_path)
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        kind = "text/event-stream" if "alt=sse" in request.raw_path and reply.status == 200 else "application/json"
        return await give(request, reply, {"content-type": kind}, self.gone, self.released)


@asynccontextmanager
async def google(*replies: Reply) -> AsyncIterator[Google]:
    """Run the server on a free port of loopback."""
    server = Google(replies=list(replies))
    async with running({"/token": server.token, "/{path:.*}": server.handle}, server.released) as server.url:
        yield server
