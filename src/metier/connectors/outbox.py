"""Outgoing e-mail, each exactly once: written down first, transmitted once, doubtful cases given to a person."""

from __future__ import annotations

import email
import email.message
import email.policy
from collections.abc import Awaitable, Callable
from typing import Protocol

from metier.calls import JSON
from metier.connectors.effects import Commit, Deed, Doubt, Effects, NotTaken, identity
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
        self.effects = Effects(store, vault)
        self._transport = transport
        self._confirm = confirm
        self._domain = domain

    async def send(self, key: str, message: email.message.EmailMessage, workspace: str) -> str:
        """Send `message` of an organisation under `key` once in its life and return its Message-ID."""
        name = message_id(key, self._domain)
        if "Message-ID" not in message:
            message["Message-ID"] = f"<{name}>"

        async def transmit(content: bytes, _: str, commit: Commit) -> JSON:
            await self._transport.transmit(content, commit)
            return None

        async def confirm(doubt: Doubt) -> bool | None:
            return await self._confirm(doubt.identity)

        content = message.as_bytes(policy=email.policy.SMTP)
        deed = Deed("email.send", "", content, transmit, confirm, name, f"the e-mail {name!r}")
        await self.effects.once(key, deed, workspace)
        return name

    async def state(self, key: str) -> str | None:
        """Where a message stands: prepared, sending, sent, unsure; None when there is none."""
        return await self.effects.state(key)


def message_id(key: str, domain: str) -> str:
    """Make the Message-ID of an effect: the same key always gives the same one."""
    return f"{identity(key)}@{domain}"
