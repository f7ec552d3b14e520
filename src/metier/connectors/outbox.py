"""Outgoing e-mail, each exactly once: written down first, transmitted once, doubtful cases given to a person."""

from __future__ import annotations

import email
import email.message
import email.policy
import hashlib
from collections.abc import Awaitable, Callable
from typing import Protocol

from metier.errors import Conflict, StepFailed
from metier.store import Store
from metier.vault import Vault

__all__ = ["Confirm", "NotTaken", "Outbox", "Transport", "message_id"]

Confirm = Callable[[str], Awaitable[bool | None]]
"""Asks whether a Message-ID was delivered: yes, no, or None when that cannot be known."""


class Transport(Protocol):
    """Transmits one message; calls `commit` at the last moment at which nothing has been sent yet."""

    async def transmit(self, message: bytes, commit: Callable[[], Awaitable[None]]) -> None:
        """Send, or raise: Unavailable when it may pass later, Invalid when the server refuses for good."""
        ...


class Outbox:
    """Sends messages so that a crash anywhere never sends one twice."""

    def __init__(self, store: Store, vault: Vault, transport: Transport, confirm: Confirm, *, domain: str) -> None:
        self._queries = store.queries("outbox")
        self._vault = vault
        self._transport = transport
        self._confirm = confirm
        self._domain = domain

    async def send(self, key: str, message: email.message.EmailMessage) -> str:
        """Send `message` under `key` once in its life and return its Message-ID."""
        identity = message_id(key, self._domain)
        if "Message-ID" not in message:
            message["Message-ID"] = f"<{identity}>"
        content = message.as_bytes(policy=email.policy.SMTP)
        sealed = self._vault.seal("outbox", content, key)
        await self._queries.run("prepare", {"key": key, "message_id": identity, "content": sealed})
        row = await self._queries.one("get", {"key": key})
        assert row is not None
        if row["state"] == "sent":
            return identity
        if row["state"] in ("sending", "unsure") and not await self._settled(key, row["state"], identity):
            return identity
        # What was written down first is what leaves, whatever the caller brings on a second try.
        await self._transmit(key, self._vault.open("outbox", row["content"], key))
        return identity

    async def state(self, key: str) -> str | None:
        """Where a message stands: prepared, sending, sent, unsure; None when there is none."""
        row = await self._queries.one("get", {"key": key})
        return None if row is None else str(row["state"])

    async def _transmit(self, key: str, content: bytes) -> None:
        claimed = False

        async def commit() -> None:
            nonlocal claimed
            if await self._queries.one("claim", {"key": key}) is None:
                raise Conflict(f"sending {key!r}: another worker is sending it; nothing was sent twice")
            claimed = True

        try:
            await self._transport.transmit(content, commit)
        except NotTaken as refusal:
            if claimed:
                await self._move(key, "sending", "prepared", str(refusal.cause))
            raise refusal.cause from None
        await self._move(key, "sending", "sent")

    async def _settled(self, key: str, state: str, identity: str) -> bool:
        """A sender died while the message was on the wire: find out. True means it was not delivered."""
        delivered = await self._confirm(identity)
        if delivered is None:
            await self._move(key, state, "unsure")
            raise StepFailed(
                f"the e-mail {identity!r} may or may not have been delivered when the process stopped: "
                "look for it in the sent messages, then resume or cancel the run"
            )
        await self._move(key, state, "sent" if delivered else "prepared")
        return not delivered

    async def _move(self, key: str, before: str, after: str, error: str | None = None) -> None:
        await self._queries.run("move", {"key": key, "from": before, "to": after, "error": error})


class NotTaken(Exception):
    """The server said, in words of the protocol, that it did not take the message."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


def message_id(key: str, domain: str) -> str:
    """Make the Message-ID of an effect: the same key always gives the same one."""
    return f"{hashlib.sha256(key.encode()).hexdigest()[:40]}@{domain}"
