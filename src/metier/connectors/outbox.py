"""Outgoing e-mail, each exactly once: written down first, transmitted once, doubtful cases given to a person."""

from __future__ import annotations

import asyncio
import email
import email.message
import email.policy
import hashlib
from collections.abc import Awaitable, Callable
from typing import Protocol

from metier.errors import Conflict, StepFailed, Unavailable
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
        if row["state"] in ("sending", "unsure") and await self._delivered(key, row["state"], identity):
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
                await self._move(key, "sending", "prepared", refusal.kept)
            raise refusal.cause from None
        except (Unavailable, asyncio.CancelledError) as error:
            if claimed:
                # Shielded: a step that ran out of time still says that its message is in doubt.
                await asyncio.shield(self._move(key, "sending", "unsure", _class(error)))
            raise
        await self._queries.run("taken", {"key": key})

    async def _delivered(self, key: str, state: str, identity: str) -> bool:
        """Whether a message that was on the wire arrived: ask the server, then whoever settled it meanwhile."""
        delivered = await self._confirm(identity)
        if delivered is not None:
            await self._move(key, state, "sent" if delivered else "prepared")
            return delivered
        await self._move(key, state, "unsure")
        now = await self.state(key)
        if now in ("sent", "prepared"):
            return now == "sent"
        raise StepFailed(
            f"the e-mail {identity!r} may or may not have been delivered when its connection broke: look for it among "
            f"the messages that left, then `metier review settle {key}` or the review page"
        )

    async def _move(self, key: str, before: str, after: str, error: str | None = None) -> None:
        await self._queries.run("move", {"key": key, "from": before, "to": after, "error": error})


class NotTaken(Exception):
    """The server said, in words of the protocol, that it did not take the message."""

    def __init__(self, cause: Exception, status: str = "") -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.kept = f"{_class(cause)} {status}".strip()
        """What may be stored in the clear: class and status codes. The words of a server may name people."""


def _class(error: BaseException) -> str:
    return type(error.__cause__ or error).__name__


def message_id(key: str, domain: str) -> str:
    """Make the Message-ID of an effect: the same key always gives the same one."""
    return f"{hashlib.sha256(key.encode()).hexdigest()[:40]}@{domain}"
