"""Who is signed in: a signed, expiring cookie that names a key without holding it, and the token its forms carry."""

from __future__ import annotations

import base64
import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from metier.vault import Vault

__all__ = ["LASTS_S", "Session", "Sessions"]

LASTS_S = 8 * 3600
"""A working day; then one signs in again."""

_LONGEST = 300


@dataclass(frozen=True, slots=True)
class Session:
    """One browser that showed a key, or that was only shown the sign-in form."""

    key_id: str
    """Public part of the key; empty before signing in."""
    expires_at: int
    nonce: str

    @property
    def payload(self) -> str:
        """What is signed."""
        return f"{self.key_id}.{self.expires_at}.{self.nonce}"


class Sessions:
    """Makes and reads sessions; nothing is kept on the server, the key is looked up at each request."""

    def __init__(self, vault: Vault, now: Callable[[], float] = time.time) -> None:
        self._vault = vault
        self._now = now

    def start(self, key_id: str) -> Session:
        """Begin a session that no earlier cookie can have named."""
        return Session(key_id, int(self._now()) + LASTS_S, secrets.token_urlsafe(12))

    def seal(self, session: Session) -> str:
        """Write a session as the value of a cookie."""
        return f"{session.payload}.{self._sign('session', session)}"

    def read(self, cookie: str | None) -> Session | None:
        """Read a cookie back; None where it is altered, expired or not ours."""
        if not cookie or len(cookie) > _LONGEST or not cookie.isascii():
            return None
        parts = cookie.split(".")
        if len(parts) != 4 or not parts[1].isdigit():
            return None
        session = Session(parts[0], int(parts[1]), parts[2])
        if not hmac.compare_digest(parts[3], self._sign("session", session)):
            return None
        return session if session.expires_at > self._now() else None

    def token(self, session: Session) -> str:
        """What every form of this session carries, and no other site can know."""
        return self._sign("form", session)

    def fits(self, session: Session, token: str) -> bool:
        """Say whether a form came from this session."""
        return hmac.compare_digest(token.encode(), self.token(session).encode())

    def _sign(self, purpose: str, session: Session) -> str:
        digest = self._vault.digest(purpose, session.payload.encode())
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
