"""`kind: imap_append`: drafts put into a mailbox by IMAP, each once, found again by its Message-ID."""

from __future__ import annotations

import asyncio
import email
import email.message
import email.policy
import re
import ssl
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from metier.calls import JSON, Principal
from metier.connectors.base import Connector, Effect, Given, ToolSpec, schema_of, text, whole
from metier.connectors.effects import Commit, Deed, Doubt, NotTaken, identity
from metier.connectors.letters import compose
from metier.deferred import deferred
from metier.errors import ConfigError, Invalid, NotFound, Unavailable

if TYPE_CHECKING:
    import imapclient
    import imapclient.exceptions
else:
    imapclient = deferred("imapclient")

__all__ = ["Drafts", "imap_append"]

_T = TypeVar("_T")
_MESSAGE_ID = re.compile(r"[\x21-\x3b\x3d\x3f-\x7e]{1,900}", re.ASCII)
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_SCHEMA = schema_of({"to": "string", "subject": "string", "body": "string", "in_reply_to?": "string"}, "a draft")
_OUTPUT = schema_of({"message_id": "string"}, "a draft")


def imap_append(given: Given) -> Connector:
    """Make the connector from `host`, `user`, the name of the secret `password`, and `folder`."""
    given.known("host port tls user password folder sender timeout_s")
    options = given.options
    for name in ("host", "user", "password", "sender"):
        if not isinstance(options.get(name), str):
            raise given.wrong(f" needs {name}")
    if "@" not in options["sender"]:
        raise given.wrong(".sender must be the address that drafts are from")
    if options.get("tls", "tls") not in ("tls", "starttls", "none"):
        raise given.wrong(".tls must be tls, starttls or none")
    if options.get("tls") == "none" and options["host"] not in _LOOPBACK:
        raise given.wrong(".tls may be none on loopback only: a password would travel in the clear")
    if not isinstance(options.get("folder", "Drafts"), str):
        raise given.wrong(".folder must be the name of a mailbox")
    return Drafts(given, whole(options, "timeout_s", 30, 600))


class Drafts:
    """Puts drafts into one folder; a connection that broke is settled by looking for the Message-ID there."""

    def __init__(self, given: Given, timeout_s: float) -> None:
        self._given = given
        self._timeout_s = timeout_s
        self._options: Mapping[str, Any] = given.options
        self._folder = str(given.options.get("folder", "Drafts"))

    async def tools(self) -> Sequence[ToolSpec]:
        """Give the one tool: put a draft there, for a person to read and send."""
        what = f"Put a draft into the folder {self._folder} of {self._options['user']}; nothing is sent."
        return [ToolSpec(f"{self._given.name}.draft", what, _SCHEMA, True, self._draft, _OUTPUT)]

    async def preview(self, operation: str, with_: Mapping[str, JSON]) -> Mapping[str, JSON]:
        """Show the draft as it would be put there."""
        if operation != "draft":
            raise NotFound(f"{self._given.name!r} has no operation {operation!r}: it has 'draft'")
        message = self._message("preview", with_)
        shown: dict[str, JSON] = {"folder": self._folder, "message": message.as_string(), "effect": True}
        return shown | {"doubt": "its Message-ID is looked for in the folder"}

    async def probe(self) -> str:
        """Sign in and open the folder, without changing it."""

        def look(client: imapclient.IMAPClient) -> int:
            found = client.select_folder(self._folder, readonly=True)
            return int(found[b"EXISTS"])

        count = await self._on(None, look)
        return f"{self._options['user']} at {self._options['host']}: the folder {self._folder} has {count} messages"

    async def close(self) -> None:
        """Nothing is held between drafts."""

    async def _draft(self, effect: Effect, with_: dict[str, JSON]) -> JSON:
        message = self._message(effect.key, with_)
        name = str(message["Message-ID"]).strip("<>")

        async def transmit(kept: bytes, _: str, commit: Commit) -> JSON:
            await self._append(effect.principal, kept, commit)
            return {"message_id": name}

        async def confirm(doubt: Doubt) -> bool | None:
            return await self._there(effect.principal, doubt.identity)

        content = message.as_bytes(policy=email.policy.SMTP)
        deed = Deed(
            f"{self._given.name}.draft", f"{self._options['host']} {self._folder}", content, transmit, confirm, name
        )
        await self._given.effects.once(effect.key, deed, effect.principal.organisation)
        return {"message_id": name}

    def _message(self, key: str, with_: Mapping[str, JSON]) -> email.message.EmailMessage:
        sender = str(self._options["sender"])
        message = compose(sender, text(with_, "to"), text(with_, "subject"), text(with_, "body"))
        # A person sends it, under their own name.
        del message["Auto-Submitted"]
        message["Message-ID"] = f"<{identity(key)}@{sender.rsplit('@', 1)[1].strip('> ')}>"
        before = with_.get("in_reply_to")
        if isinstance(before, str) and before.strip():
            if not before.isprintable():
                raise Invalid("`with.in_reply_to` must be one Message-ID")
            bare = before.strip("<> ")
            # Senders choose it: what is no plain id would be read as something else, and the thread is not worth it.
            if _MESSAGE_ID.fullmatch(bare) and "=?" not in bare:
                message["In-Reply-To"] = message["References"] = f"<{bare}>"
        return message

    async def _append(self, who: Principal | None, content: bytes, commit: Commit) -> None:
        loop = asyncio.get_running_loop()
        claimed = False

        def put(client: imapclient.IMAPClient) -> None:
            nonlocal claimed
            if not client.folder_exists(self._folder):
                raise ConfigError(f"{self._given.name!r} has no folder {self._folder!r}: make it, or name another")
            asyncio.run_coroutine_threadsafe(_awaited(commit), loop).result()
            claimed = True
            client.append(self._folder, content, flags=(imapclient.DRAFT, imapclient.SEEN))

        try:
            await self._on(who, put)
        except Invalid as error:
            # The server answered NO or BAD: it has not kept it.
            raise (NotTaken(error) if claimed else error) from error.__cause__

    async def _there(self, who: Principal | None, name: str) -> bool | None:
        def look(client: imapclient.IMAPClient) -> bool:
            client.select_folder(self._folder, readonly=True)
            return bool(client.search(["HEADER", "Message-ID", name]))

        try:
            return await self._on(who, look)
        except Unavailable:
            return None

    async def _on(self, who: Principal | None, work: Callable[[imapclient.IMAPClient], _T]) -> _T:
        """Sign in, work, sign out, in a thread: the library waits where it stands."""
        password = await self._given.secret(str(self._options["password"]), who)
        return await asyncio.to_thread(self._worked, password, work)

    def _worked(self, password: str, work: Callable[[imapclient.IMAPClient], _T]) -> _T:
        name, options = self._given.name, self._options
        tls = options.get("tls", "tls")
        client: imapclient.IMAPClient | None = None
        try:
            client = imapclient.IMAPClient(
                options["host"],
                port=int(options.get("port") or (993 if tls == "tls" else 143)),
                ssl=tls == "tls",
                ssl_context=ssl.create_default_context() if tls == "tls" else None,
                timeout=self._timeout_s,
            )
            if tls == "starttls":
                client.starttls(ssl.create_default_context())
            self._signed_in(client, password)
            return work(client)
        except imapclient.exceptions.IMAPClientAbortError as error:
            raise Unavailable(f"the mailbox of {name!r} broke off; it is tried again") from error
        except imapclient.exceptions.IMAPClientError as error:
            raise Invalid(f"the mailbox of {name!r} refused what was asked: check the folder and its rights") from error
        except (OSError, EOFError) as error:
            raise Unavailable(f"the mailbox of {name!r} cannot be reached or broke off; it is tried again") from error
        finally:
            if client is not None:
                _leave(client)

    def _signed_in(self, client: imapclient.IMAPClient, password: str) -> None:
        try:
            client.login(self._options["user"], password)
        except imapclient.exceptions.LoginError:
            # What it says may repeat what it was given.
            raise ConfigError(
                f"the mailbox of {self._given.name!r} refused our credentials: check user and the secret "
                f"{self._options['password']!r}"
            ) from None


async def _awaited(commit: Commit) -> None:
    await commit()


def _leave(client: imapclient.IMAPClient) -> None:
    try:
        client.logout()
    except (imapclient.exceptions.IMAPClientError, OSError, EOFError):
        client.shutdown()
