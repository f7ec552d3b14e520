"""SMTP: transmits a message to the configured server, and a sink on loopback that keeps what it gets as .eml."""

from __future__ import annotations

import asyncio
import email
import email.policy
import email.utils
import os
import pathlib
import re
import ssl
import urllib.parse
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import aiosmtplib

from metier.connectors.outbox import NotTaken
from metier.errors import ConfigError, Invalid, Unavailable

__all__ = ["Account", "Sink", "Smtp", "account_from_url"]

_ENHANCED = re.compile(r"\s*([245]\.\d{1,3}\.\d{1,3})(?=\s|$)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Account:
    """Where and how to hand over outgoing e-mail."""

    host: str
    port: int
    user: str | None = None
    password: str | None = None
    tls: bool = False
    """TLS from the first byte (smtps)."""
    starttls: bool | None = None
    """True demands it, False forbids it, None uses it where offered."""


def account_from_url(url: str) -> Account:
    """Read smtp://user:password@host:587 or smtps://…:465; outside loopback, credentials demand TLS."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("smtp", "smtps") or not parts.hostname:
        raise ConfigError("METIER_SMTP_URL must look like smtp://user:password@host:587 or smtps://…:465")
    user = urllib.parse.unquote(parts.username) if parts.username else None
    local = parts.hostname in ("127.0.0.1", "::1", "localhost")
    return Account(
        host=parts.hostname,
        port=parts.port or (465 if parts.scheme == "smtps" else 587),
        user=user,
        password=urllib.parse.unquote(parts.password) if parts.password else None,
        tls=parts.scheme == "smtps",
        starttls=True if user and not local and parts.scheme == "smtp" else None,
    )


class Smtp:
    """A transport that speaks SMTP to one server, one connection a message."""

    def __init__(self, account: Account, *, timeout_s: float = 30) -> None:
        self._account = account
        self._timeout = timeout_s

    async def transmit(self, message: bytes, commit: Callable[[], Awaitable[None]]) -> None:
        """Hand the message over; `commit` runs after the server took the addresses and before the content."""
        parsed = email.message_from_bytes(message, policy=email.policy.SMTP)
        sender = _addresses(parsed, "From")[:1]
        recipients = _addresses(parsed, "To") + _addresses(parsed, "Cc")
        if not sender or not recipients:
            raise Invalid("the e-mail has no sender or no recipient: set METIER_MAIL_FROM and check the address")
        account, client = self._account, None
        try:
            client = aiosmtplib.SMTP(
                hostname=account.host, port=account.port, use_tls=account.tls, start_tls=account.starttls,
                timeout=self._timeout, tls_context=ssl.create_default_context(),
            )  # fmt: skip
            await client.connect()
            if account.user:
                await client.login(account.user, account.password or "")
            await client.mail(sender[0])
            for recipient in recipients:
                await client.rcpt(recipient)
        except aiosmtplib.SMTPAuthenticationError as error:
            await _leave(client)
            raise ConfigError(
                f"the mail server {account.host!r} refused our credentials: check METIER_SMTP_URL"
            ) from error
        except aiosmtplib.SMTPResponseException as error:
            await _leave(client)
            raise _refusal(error, account.host) from error
        except (aiosmtplib.SMTPException, OSError, TimeoutError) as error:
            await _leave(client)
            raise Unavailable(
                f"the mail server {account.host!r} cannot be reached: {error}; it is tried again"
            ) from error
        except ValueError:
            # An address it cannot write; nothing of it is repeated, since a header may hold anything.
            await _leave(client)
            raise Invalid("the e-mail has an address that mail servers do not take: correct the recipient") from None
        try:
            await commit()
        except BaseException:
            await _leave(client)
            raise
        try:
            await client.data(message)
        except aiosmtplib.SMTPResponseException as error:
            await _leave(client)
            raise NotTaken(_refusal(error, account.host), _status(error)) from error
        except (aiosmtplib.SMTPException, OSError, TimeoutError) as error:
            await _leave(client)
            raise Unavailable(
                f"the connection to the mail server {account.host!r} broke while the message was on the wire: {error}"
            ) from error
        await _leave(client)


class Sink:
    """A real SMTP server on loopback that keeps each message as one .eml file, named by its Message-ID."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self._server: asyncio.Server | None = None

    async def start(self, port: int = 0) -> Account:
        """Open the server on loopback and return the account that reaches it."""
        try:
            from aiosmtpd.smtp import SMTP
        except ImportError as error:
            raise ConfigError("the mail sink needs the package aiosmtpd: pip install 'metier[demo]'") from error
        self.folder.mkdir(parents=True, exist_ok=True)
        keeper = _Keeper(self.folder)
        self._server = await asyncio.get_running_loop().create_server(
            lambda: SMTP(keeper, data_size_limit=50_000_000, hostname="localhost"), "127.0.0.1", port
        )
        return Account("127.0.0.1", int(self._server.sockets[0].getsockname()[1]), starttls=False)

    async def stop(self) -> None:
        """Close the server; messages stay."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def confirm(self, message_id: str) -> bool | None:
        """Tell whether a message arrived: the sink is asked, since it is ours."""
        return await asyncio.to_thread((self.folder / _file(message_id)).exists)


class _Keeper:
    """What the sink does with a message: write it whole, or say it was not taken."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder

    async def handle_DATA(self, server: object, session: object, envelope: Any) -> str:
        message = email.message_from_bytes(envelope.content, policy=email.policy.SMTP)
        name = _file(str(message.get("Message-ID", "")).strip("<> "))
        temporary = self._folder / f".{name}.{os.getpid()}"
        try:
            temporary.write_bytes(envelope.content)
            temporary.replace(self._folder / name)
        except OSError as error:
            return f"452 cannot keep the message: {error.strerror}"
        return "250 kept"


def _file(identity: str) -> str:
    return "".join(c if c.isalnum() or c in "@.-_" else "_" for c in identity)[:180].lstrip(".") + ".eml"


def _addresses(message: Any, name: str) -> list[str]:
    return [address for _, address in email.utils.getaddresses([str(v) for v in message.get_all(name, [])]) if address]


def _refusal(error: aiosmtplib.SMTPResponseException, host: str) -> Exception:
    said = f"the mail server {host!r} answered {error.code} {error.message!r}"
    return Unavailable(f"{said}: it is tried again") if error.code < 500 else Invalid(f"{said}: check the address")


def _status(error: aiosmtplib.SMTPResponseException) -> str:
    """The reply code, and the enhanced one of RFC 3463 where the server gives it: 550 5.1.1."""
    enhanced = _ENHANCED.match(error.message)
    return f"{error.code} {enhanced[1]}" if enhanced else str(error.code)


async def _leave(client: aiosmtplib.SMTP | None) -> None:
    if client is not None and client.is_connected:
        try:
            await client.quit()
        except (aiosmtplib.SMTPException, OSError, TimeoutError):
            client.close()
