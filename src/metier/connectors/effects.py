"""Side effects, each exactly once: written down first, done once, doubtful ones settled by asking or by a person."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import orjson

from metier.calls import JSON
from metier.errors import Conflict, StepFailed, Unavailable
from metier.store import Row, Store
from metier.vault import Vault

__all__ = [
    "Commit",
    "Confirm",
    "Deed",
    "Doubt",
    "Effects",
    "NotTaken",
    "Overtaken",
    "Transmit",
    "again",
    "identity",
    "unknowable",
]

_LOOKS = 150
_PAUSE_S = 0.2


class Overtaken(Conflict):
    """Another worker has begun to do it, at the last moment; nothing was done here."""


class Commit(Protocol):
    """Called at the last moment at which nothing has been done yet; a mark is kept for whoever asks later."""

    async def __call__(self, mark: str | None = None) -> None:
        """Take the right to go on, or raise Conflict: somebody else has it."""
        ...


@dataclass(frozen=True, slots=True)
class Doubt:
    """An effect of which nobody here knows whether it was done."""

    identity: str
    """What the other side knows it by."""
    mark: str | None
    """What `commit` was told."""


Transmit: TypeAlias = Callable[[bytes, str, Commit], Awaitable[JSON]]
"""Does it: gets the content, the identity and `commit`; gives what the other side answered.

It raises NotTaken where it is sure that nothing was done, Unavailable where that cannot be known.
"""

Confirm: TypeAlias = Callable[[Doubt], Awaitable[bool | None]]
"""Asks the other side whether it was done: yes, no (it may be done again), or None when that cannot be known."""


async def unknowable(_: Doubt) -> bool | None:
    """Nobody can be asked: a person finds out."""
    return None


async def again(_: Doubt) -> bool | None:
    """It may be done again: the other side recognises the identity and does it once."""
    return False


@dataclass(frozen=True, slots=True)
class Deed:
    """What is to be done once, and how to tell whether it was."""

    tool: str
    """Name of the tool, as people know it."""
    target: str
    """Where it goes, without contents: it is kept in the clear and shown."""
    content: bytes
    """What is written down, sealed, before anything is done; without secrets."""
    transmit: Transmit
    confirm: Confirm = unknowable
    identity: str | None = None
    """What the other side knows it by; None makes it from the key."""
    said: str = ""
    """What people call it in messages; "" gives the tool and its target."""


class Effects:
    """Does side effects so that a crash anywhere never does one twice."""

    def __init__(self, store: Store, vault: Vault) -> None:
        self._queries = store.queries("outbox")
        self._vault = vault

    async def once(self, key: str, deed: Deed, workspace: str) -> JSON:
        """Do a deed under a key once in its life, and give what the other side answered; null where nobody knows.

        What it holds is sealed under the key of the workspace, the organisation in whose name it is done.
        """
        name = deed.identity or identity(key)
        row = {
            "key": key,
            "message_id": name,
            "content": self._vault.seal("outbox", deed.content, key, workspace),
            "tool": deed.tool,
            "target": deed.target,
        }
        await self._queries.run("prepare", row)
        try:
            return await self._once(key, name, deed, workspace)
        except Overtaken:
            await self._others(key)
            return await self._once(key, name, deed, workspace)

    async def _others(self, key: str) -> None:
        """Wait for whoever is at it: somebody who was taken for dead, and lives."""
        for _ in range(_LOOKS):
            if await self.state(key) != "sending":
                return
            await asyncio.sleep(_PAUSE_S)

    async def _once(self, key: str, name: str, deed: Deed, workspace: str) -> JSON:
        kept = await self._queries.one("get", {"key": key})
        assert kept is not None
        if kept["state"] in ("sending", "unsure"):
            kept = await self._asked(kept, deed)
        if kept["state"] == "sent":
            return self._result(kept)
        if kept["state"] == "dropped":
            raise StepFailed(f"{deed.tool} to {deed.target} is not done any more: a person settled {name!r} as dropped")
        if kept["tool"] != deed.tool:
            raise Conflict(f"{key!r} is already kept as an effect of {kept['tool']!r}: give {deed.tool!r} its own key")
        # What was written down first is what leaves, whatever the caller brings on a second try.
        content = self._vault.open("outbox", kept["content"], key)
        answer = await self._do(key, name, content, deed)
        sealed = None
        if answer is not None:
            sealed = self._vault.seal("outbox result", orjson.dumps(answer), key, workspace)
        await asyncio.shield(self._queries.run("taken", {"key": key, "result": sealed}))
        return answer

    async def state(self, key: str) -> str | None:
        """Where an effect stands: prepared, sending, sent, unsure, dropped; None when there is none."""
        row = await self._queries.one("get", {"key": key})
        return None if row is None else str(row["state"])

    async def _do(self, key: str, name: str, content: bytes, deed: Deed) -> JSON:
        claimed = False

        async def commit(mark: str | None = None) -> None:
            nonlocal claimed
            if await self._queries.one("claim", {"key": key, "mark": mark}) is None:
                raise Overtaken(f"sending {key!r}: another worker is sending it; nothing was sent twice")
            claimed = True

        try:
            return await deed.transmit(content, name, commit)
        except NotTaken as refusal:
            if claimed:
                await asyncio.shield(self._move(key, "sending", "prepared", refusal.kept))
            raise refusal.cause from None
        except (Unavailable, asyncio.CancelledError) as error:
            if claimed:
                # Shielded: a step that ran out of time still says that its message is in doubt.
                await asyncio.shield(self._move(key, "sending", "unsure", _class(error)))
            raise

    async def _asked(self, kept: Row, deed: Deed) -> Row:
        """Whether what was on the wire arrived: ask the other side, then whoever settled it meanwhile."""
        key, state, name = kept["key"], kept["state"], kept["message_id"]
        done = await deed.confirm(Doubt(name, kept["mark"]))
        if done is None:
            await self._move(key, state, "unsure")
        else:
            await self._move(key, state, "sent" if done else "prepared")
        now = await self._queries.one("get", {"key": key})
        assert now is not None
        if now["state"] in ("sent", "prepared", "dropped"):
            return now
        said = deed.said or f"{deed.tool} to {deed.target}: the effect {name!r}"
        raise StepFailed(
            f"{said} may or may not have been delivered when its connection broke: look for it among what "
            f"left, then `metier review settle {key}` or the review page"
        )

    def _result(self, row: Row) -> JSON:
        if row["result"] is None:
            return None
        found: JSON = orjson.loads(self._vault.open("outbox result", row["result"], row["key"]))
        return found

    async def _move(self, key: str, before: str, after: str, error: str | None = None) -> None:
        await self._queries.run("move", {"key": key, "from": before, "to": after, "error": error})


class NotTaken(Exception):
    """The other side said, in words of the protocol, that it did not do it; or nothing was handed over."""

    def __init__(self, cause: Exception, status: str = "") -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.kept = f"{_class(cause)} {status}".strip()
        """What may be stored in the clear: class and status codes. The words of a server may name people."""


def _class(error: BaseException) -> str:
    return type(error.__cause__ or error).__name__


def identity(key: str) -> str:
    """Make what the other side knows an effect by: the same key always gives the same one, and tells nothing."""
    return hashlib.sha256(key.encode()).hexdigest()[:40]
