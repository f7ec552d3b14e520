"""One connection to a mailbox, in a thread of its own: TLS unless it is this very machine, and IDLE."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import ipaddress
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, unquote, urlsplit

from metier.deferred import deferred
from metier.errors import ConfigError, Invalid, MetierError, Unavailable

if TYPE_CHECKING:
    import imapclient
    import imapclient.exceptions
else:
    imapclient = deferred("imapclient")

__all__ = ["Account", "Imap", "account_from_url"]

_T = TypeVar("_T")
_CONNECT_S = 15
_READ_S = 120


@dataclass(frozen=True, slots=True)
class Account:
    """Where a mailbox is and how to open it."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    tls: str
    """"tls" from the first byte, "starttls", or "none" on this very machine."""


def account_from_url(url: str) -> Account:
    """Read imaps://user:password@host:993, or imap+starttls://; the text is never repeated in an error."""
    wrong = (
        "the secret of the mailbox is no address: write imaps://user:password@imap.example.com, parts percent-encoded"
    )
    try:
        parts = urlsplit(url.strip())
        host, port, user, password = parts.hostname, parts.port, parts.username, parts.password
    except ValueError:
        raise Invalid(wrong) from None
    kinds = {"imaps": "tls", "imap+starttls": "starttls", "imap": "none"}
    if parts.scheme not in kinds or not host or user is None or password is None:
        raise Invalid(wrong)
    tls = kinds[parts.scheme]
    if tls == "none" and not _here(host):
        raise ConfigError(f"imap:// would send the password to {host!r} in the clear: write imaps:// in the secret")
    return Account(host, port or (993 if tls == "tls" else 143), unquote(user), unquote(password), tls)


class Imap:
    """Calls of one mailbox, one after the other, in a thread of its own; close it with `aclose`."""

    def __init__(self, account: Account, ca_file: str | None = None) -> None:
        self._account = account
        self._ca_file = ca_file
        self._client: imapclient.IMAPClient | None = None
        # Not the threads of the loop: waiting for mail takes one whole.
        self._thread = concurrent.futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix="imap")

    async def call(self, work: Callable[[imapclient.IMAPClient], _T]) -> _T:
        """Do something with the connection, made when there is none; failures are Unavailable or ConfigError."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._guarded, work)

    async def aclose(self) -> None:
        """End the connection, also in the middle of a call."""
        client, self._client = self._client, None
        if client is not None:
            # Wakes the thread wherever it waits.
            with contextlib.suppress(OSError, AttributeError):
                client.socket().shutdown(socket.SHUT_RDWR)
        self._thread.shutdown(wait=False, cancel_futures=True)
        if client is not None:
            await asyncio.to_thread(self._thread.shutdown)
            with contextlib.suppress(OSError, imapclient.exceptions.IMAPClientError):
                client.shutdown()

    def _guarded(self, work: Callable[[imapclient.IMAPClient], _T]) -> _T:
        try:
            if self._client is None:
                self._client = self._connected()
            return work(self._client)
        except (OSError, imapclient.exceptions.IMAPClientError) as error:
            raise self._told(error) from None

    def _told(self, error: Exception) -> MetierError:
        """Say what a server or the network said, without the password it may have repeated."""
        told = str(error)
        for written in {self._account.password, quote(self._account.password)} - {""}:
            told = told.replace(written, "[secret]")
        lines = told.strip().splitlines()
        said = lines[0][:200] if lines else type(error).__name__
        # The answer to a login comes as the text of bytes.
        said = said[2:-1] if said.startswith(("b'", 'b"')) else said
        place = f"the mailbox of {self._account.user!r} at {self._account.host!r}: {said}"
        if isinstance(error, imapclient.exceptions.LoginError):
            return ConfigError(f"{place}; correct the user and the password in its secret")
        if isinstance(error, ssl.SSLCertVerificationError):
            return ConfigError(
                f"{place}; correct the server in its secret, or name the file of its authority in SSL_CERT_FILE where "
                "`metier serve` or `metier worker` is started"
            )
        if isinstance(error, OSError):
            return Unavailable(f"{place}; check the server in its secret, and the network")
        return Unavailable(f"{place}; check the settings of the trigger, and the server")

    def _connected(self) -> imapclient.IMAPClient:
        account = self._account
        context = None
        if account.tls != "none":
            context = ssl.create_default_context()
            if self._ca_file is not None:
                context.load_verify_locations(self._ca_file)
        client: Any = imapclient.IMAPClient(
            account.host, account.port, ssl=account.tls == "tls", ssl_context=context if account.tls == "tls" else None,
            timeout=imapclient.SocketTimeout(connect=_CONNECT_S, read=_READ_S),
        )  # fmt: skip
        try:
            if account.tls == "starttls":
                client.starttls(context)
            client.login(account.user, account.password)
        except BaseException:
            with contextlib.suppress(OSError, imapclient.exceptions.IMAPClientError):
                client.shutdown()
            raise
        found: imapclient.IMAPClient = client
        return found


def _here(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
