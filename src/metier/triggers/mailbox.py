"""Events from a mailbox by IMAP: each message once, across restarts, two workers and renumbered mailboxes."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import re
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from metier.calls import JSON
from metier.connectors.mail import ToText, read
from metier.deferred import deferred
from metier.errors import ConfigError, Invalid, MetierError
from metier.triggers.event import Event, Kind, Mark, Mount, Taken, only, secret_name
from metier.triggers.imap import Imap, account_from_url

if TYPE_CHECKING:
    import imapclient
    import imapclient.exceptions
else:
    imapclient = deferred("imapclient")

__all__ = ["KIND", "After", "MailboxSource", "event_of"]

After: TypeAlias = Literal["keep", "seen", "move"]

_IDLE_S = 25.0
"""How late a message may be at most that arrived between two looks: servers do not tell of it once one waits."""
_SOON_S = 1.0
"""The first wait after something was taken, when more is likely."""
_POLL_S = 30.0
_LIMIT = 40 * 1024 * 1024
_TEXT = 200_000
_ATTACHED = 60_000
_FAILED = "Métier failed"
_FOLDERS = 10
_ADDRESS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*(@[A-Za-z0-9.-]+)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class _Rules:
    secret: str
    folder: str
    after: After
    done: str
    failed: str
    existing: bool


@dataclass(slots=True)
class _Place:
    """How far the mailbox was read: UIDs only mean something under their validity."""

    validity: int
    uid: int
    since: str | None
    """Messages that arrived before are not taken; None takes every one."""

    def state(self) -> JSON:
        return {"validity": self.validity, "uid": self.uid, "since": self.since}


class MailboxSource:
    """Reads what arrives in one mailbox and says there what was taken; waits by IDLE, or looks every 30 s."""

    def __init__(self, mount: Mount) -> None:
        self._mount = mount
        self._rules = _read(mount.config)
        self._imap: Imap | None = None
        self._uids: dict[str, int] = {}

    async def events(self, state: JSON) -> AsyncGenerator[Event | Mark, None]:
        """Give each message that was not taken yet, oldest first, then each that arrives."""
        url = await self._mount.secret(self._rules.secret, "email")
        self._imap = imap = Imap(account_from_url(url), self._mount.ca_file)
        try:
            place, idle = await imap.call(lambda client: self._opened(client, state))
            yield Mark(place.state())
            wait_s = _SOON_S
            while True:
                found = await imap.call(lambda client: _new(client, place))
                for uid in found:
                    event = await self._message(imap, place, uid)
                    if event is not None:
                        self._uids[event.id] = uid
                        yield event
                        self._uids.pop(event.id, None)
                    place.uid = uid
                if found:
                    # What arrives meanwhile may be told in the answer to any command, and is not told again.
                    wait_s = _SOON_S
                elif idle:
                    await imap.call(functools.partial(_idle, wait_s=wait_s))
                    wait_s = _IDLE_S
                else:
                    await self._mount.sleep(_POLL_S)
                yield Mark()
        finally:
            await imap.aclose()

    async def settle(self, event: Event, taken: Taken) -> None:
        """Flag or move the message as the trigger says; one that is gone was moved before."""
        uid, imap = self._uids.get(event.id), self._imap
        if uid is None or imap is None:
            return
        bad = taken.outcome == "failed" or (taken.outcome == "known" and bool(taken.error))
        await imap.call(lambda client: self._settled(client, uid, bad))

    def _settled(self, client: imapclient.IMAPClient, uid: int, bad: bool) -> None:
        if bad:
            client.add_flags([uid], [imapclient.FLAGGED], silent=True)
        if self._rules.after == "keep":
            return
        client.add_flags([uid], [imapclient.SEEN], silent=True)
        if self._rules.after == "move":
            target = self._rules.failed if bad else self._rules.done
            if not client.folder_exists(target):
                client.create_folder(target)
            if client.has_capability("MOVE"):
                client.move([uid], target)
            else:
                client.copy([uid], target)
                client.delete_messages([uid], silent=True)
                client.uid_expunge([uid])

    def _opened(self, client: imapclient.IMAPClient, state: JSON) -> tuple[_Place, bool]:
        told = self._selected(client)
        validity, idle = int(told[b"UIDVALIDITY"]), bool(client.has_capability("IDLE"))
        kept: Any = state
        if not isinstance(kept, dict):
            since = None if self._rules.existing else self._mount.since.isoformat()
            first = 0 if self._rules.existing else int(told.get(b"UIDNEXT", 1)) - 1
            # What arrived between the deployment and this first look is new, though it is there already.
            return _Place(validity, 0 if since else first, since), idle
        uid = kept["uid"] if kept["validity"] == validity else 0
        return _Place(validity, uid, kept["since"]), idle

    def _selected(self, client: imapclient.IMAPClient) -> Any:
        folder = self._rules.folder
        try:
            return client.select_folder(folder)
        except imapclient.exceptions.IMAPClientError:
            if client.folder_exists(folder):
                raise
            some = ", ".join(repr(str(name)) for _, _, name in client.list_folders()[:_FOLDERS])
            raise ConfigError(
                f"the mailbox has no folder {folder!r}: it has {some}; make it there, or correct `folder` and "
                "deploy again"
            ) from None

    async def _message(self, imap: Imap, place: _Place, uid: int) -> Event | None:
        head = await imap.call(lambda client: client.fetch([uid], [b"RFC822.SIZE", b"INTERNALDATE"]).get(uid))
        if head is None or self._old(place, head.get(b"INTERNALDATE")):
            return None
        state = _Place(place.validity, uid, place.since).state()
        size = int(head[b"RFC822.SIZE"])
        if size > _LIMIT:
            told = f"the e-mail has {size:,} bytes, more than the limit of {_LIMIT:,}: ask for a smaller one"
            return Event(f"huge:{place.validity}:{uid}:{size}", {"size": size, "problems": [told]}, state, told)
        found = await imap.call(lambda client: client.fetch([uid], [b"BODY.PEEK[]"]).get(uid))
        data = None if found is None else found.get(b"BODY[]")
        return None if data is None else await asyncio.to_thread(event_of, bytes(data), self._mount.to_text, state)

    def _old(self, place: _Place, arrived: object) -> bool:
        if place.since is None or not isinstance(arrived, datetime):
            return False
        # imapclient gives local time without a zone; the server only says seconds.
        return arrived.astimezone(UTC) < datetime.fromisoformat(place.since).replace(microsecond=0)


def event_of(data: bytes, to_text: ToText, state: JSON = None) -> Event:
    """Make the event of a message as it was received; one that cannot be read has the reason as its fault."""
    digest = hashlib.sha256(data).hexdigest()
    try:
        email = read(data, to_text)
    except MetierError as error:
        told: dict[str, JSON] = {"size": len(data), "problems": [error.message]}
        return Event(f"unreadable:{digest}", told, state, error.message)
    files: list[JSON] = [
        {"name": a.name, "media_type": a.media_type, "size": a.size, "text": a.text and a.text[:_ATTACHED]}
        for a in email.attachments
    ]
    attached = "\n\n".join(f"{item.name}\n{item.text}" for item in email.attachments if item.text)
    return Event(
        f"{email.message_id}:{digest}",
        {
            "message_id": email.message_id,
            "from": email.sender,
            "name": email.sender_name,
            "to": email.recipient,
            "subject": email.subject,
            "date": email.date,
            "text": email.text[:_TEXT],
            "quoted": email.quoted[:_TEXT],
            "attachments": attached[:_ATTACHED],
            "files": files,
            "problems": [*email.problems],
            "size": len(data),
        },
        state,
    )


def _new(client: imapclient.IMAPClient, place: _Place) -> list[int]:
    """Find what came after the last one taken; `n:*` always names the last message, taken or not."""
    found: list[int] = client.search(["UID", f"{place.uid + 1}:*"])
    return sorted(uid for uid in found if uid > place.uid)


def _idle(client: imapclient.IMAPClient, wait_s: float) -> None:
    """Wait for news; what came in one piece with the server's word that it waits is only seen at the end."""
    client.idle()
    try:
        client.idle_check(timeout=wait_s)
    finally:
        client.idle_done()


def _read(config: Mapping[str, JSON]) -> _Rules:
    only(config, "email", ("mailbox",), ("secret", "folder", "after", "done", "failed", "existing"))
    after, existing = config.get("after", "keep"), config.get("existing", False)
    if after not in ("keep", "seen", "move"):
        raise Invalid(f"after is {after!r}: write keep, seen or move")
    if not isinstance(existing, bool):
        raise Invalid(f"existing is {existing!r}: write true to take what is in the mailbox already, or false")
    mailbox = config["mailbox"]
    if not isinstance(mailbox, str) or not _ADDRESS.fullmatch(mailbox):
        raise Invalid(
            "mailbox is the address of a mailbox, such as support@exemple.fr, and nothing else: its server and its "
            "password are a secret, such as: metier secret set support-at-exemple.fr --for email"
        )
    return _Rules(
        secret=secret_name(config.get("secret", mailbox.lower().replace("@", "-at-").replace("+", "-")), "email"),
        folder=str(config.get("folder", "INBOX")),
        after=after,  # type: ignore[arg-type]  # one of three, as was just looked
        done=str(config.get("done", "Métier")),
        failed=str(config.get("failed", _FAILED)),
        existing=existing,
    )


def _check(config: Mapping[str, JSON]) -> None:
    _read(config)


KIND = Kind(_check, MailboxSource)
