"""What is kept for clients of the Responses API, here or by themselves: sealed, with rights, for a time."""

from __future__ import annotations

import base64
import binascii
import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import orjson
import psycopg

from metier.calls import JSON, Call, ConversationId, Principal, Reasoning
from metier.errors import Broken, Invalid, NotFound, Unavailable
from metier.store import Row, Store
from metier.vault import Vault, member

__all__ = ["LONGEST_CHAIN", "MOST_BYTES", "StoredResponse", "StoredResponses"]

LONGEST_CHAIN: Final = 1024
"""Responses that one conversation may be made of."""

MOST_BYTES: Final = 32 * 1024 * 1024
"""Bytes of kept responses that one call may bring back."""

_DAYS = 30
_PURPOSE = "response"
_THOUGHT = "thought"
_ID = re.compile(r"resp_call_[0-9a-z]{19}")


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response as it was given, and the items that were sent for it."""

    id: str
    previous: str | None
    """The response it continues."""
    items: Sequence[Mapping[str, Any]]
    """What was sent, without what the responses before it hold."""
    body: Mapping[str, Any]
    """The response object."""
    conversation: ConversationId | None
    """Whose placeholders the call shared."""


class StoredResponses:
    """Keeps responses for 30 days; a key reads those of its own project and system whose groups are all its own."""

    def __init__(
        self, store: Store, vault: Vault, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._queries = store.queries("responses")
        self._vault = vault
        self._clock = clock

    def seal(self, principal: Principal, thought: Reasoning) -> str:
        """Seal a thought, so that its client can keep it and give it back unread and unchanged."""
        clear = orjson.dumps([thought.text, thought.signature, thought.sealed])
        return base64.urlsafe_b64encode(self._vault.seal(_THOUGHT, clear, _place(principal))).decode()

    def open(self, principal: Principal, sealed: str) -> Reasoning:
        """Open a thought that was sealed for the same project and system."""
        try:
            clear = self._vault.open(_THOUGHT, base64.urlsafe_b64decode(sealed), _place(principal))
        except (Broken, binascii.Error, ValueError):
            raise Invalid(
                "this encrypted_content was not sealed here for this project and system, or was altered: "
                "send it as it came, or leave the reasoning item out"
            ) from None
        text, signature, hidden = orjson.loads(clear)
        return Reasoning(text, signature, hidden)

    async def keep(self, call: Call, body: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> bool:
        """Keep a response and what was sent for it; False where what is kept of the system does not allow it."""
        principal, name = call.principal, str(body["id"])
        clear = orjson.dumps({"items": items, "body": body, "conversation": call.conversation})
        subject = member(self._vault, principal.organisation, call.end_user) if call.end_user else principal.project
        params: dict[str, object] = {
            "id": name,
            "key": principal.key_id,
            "subject": subject,
            "previous": body["previous_response_id"],
            "size": len(clear),
            "sealed": self._vault.seal(_PURPOSE, clear, _place(principal, name)),
            "days": _DAYS,
        }
        return bool(await self._queries.run("keep", params | self._rights(principal)))

    async def read(self, principal: Principal, name: str) -> StoredResponse:
        """Give one response back, or NotFound, which does not tell whether it is somebody else's."""
        row = None
        if _ID.fullmatch(name):
            with _reached(name):
                row = await self._queries.one("find", {"id": name} | self._rights(principal))
        if row is None:
            raise _absent(name)
        return self._opened(principal, row)

    async def chain(self, principal: Principal, name: str) -> tuple[StoredResponse, ...]:
        """Give a response and every one it continues, the oldest first; none of them may be missing."""
        rows: list[Row] = []
        if _ID.fullmatch(name):
            params: dict[str, JSON] = {"id": name, "most": LONGEST_CHAIN}
            with _reached(name):
                rows = await self._queries.all("chain", params | self._rights(principal))
        if not rows:
            raise _absent(name, "previous_response_id")
        if rows[0]["previous"] is not None and len(rows) < LONGEST_CHAIN:
            raise _absent(rows[0]["previous"], "previous_response_id", f", which {name!r} continues,")
        if rows[0]["previous"] is not None or sum(row["size"] for row in rows) > MOST_BYTES:
            raise Invalid(
                f"the conversation that {name!r} ends has over {LONGEST_CHAIN} responses or {MOST_BYTES} bytes: "
                "send the items that matter as input, without previous_response_id",
                param="previous_response_id",
            )
        with _reached(name):
            sealed = await self._queries.all("contents", {"ids": [row["id"] for row in rows]})
        found = {row["id"]: row for row in sealed}
        for row in rows:
            if row["id"] not in found:
                raise _absent(row["id"], "previous_response_id")
        return tuple([self._opened(principal, found[row["id"]]) for row in rows])

    async def delete(self, principal: Principal, name: str) -> None:
        """Delete one response for good; those that continue it can be read, but not continued any more."""
        gone = 0
        if _ID.fullmatch(name):
            with _reached(name):
                gone = await self._queries.run("delete", {"id": name} | self._rights(principal))
                await self._queries.run("purge", {"id": name, "now": self._clock()})
        if not gone:
            raise _absent(name)

    async def purge(self) -> int:
        """Delete the responses whose time is over and that no legal hold covers, and say how many there were."""
        return await self._queries.run("purge", {"id": None, "now": self._clock()})

    async def erase(
        self, organisation: str, subject: str | None, call: str | None = None, *, dry_run: bool = False
    ) -> int:
        """Delete what was kept for a subject (digest of an end user, or a project), or of one call; tell how many.

        What a legal hold covers stays; a dry run only counts.
        """
        params = {"id": f"resp_{call}" if call else None, "organisation": organisation, "subject": subject}
        if not dry_run:
            return await self._queries.run("erase", params)
        row = await self._queries.one("count_erasable", params)
        return 0 if row is None else int(row["responses"])

    def _rights(self, principal: Principal) -> dict[str, object]:
        return {
            "organisation": principal.organisation,
            "project": principal.project,
            "system": principal.system,
            "groups": sorted(principal.groups),
            "now": self._clock(),
        }

    def _opened(self, principal: Principal, row: Row) -> StoredResponse:
        kept = orjson.loads(self._vault.open(_PURPOSE, row["sealed"], _place(principal, row["id"])))
        return StoredResponse(row["id"], row["previous"], kept["items"], kept["body"], kept["conversation"])


@contextlib.contextmanager
def _reached(name: str) -> Iterator[None]:
    """Tell a database that does not answer from one that is wrong: only the first is worth another try."""
    try:
        yield
    except psycopg.OperationalError as error:
        raise Unavailable(
            f"the database does not answer, so the response {name!r} cannot be read: try again, or send the "
            "conversation as input"
        ) from error


def _place(principal: Principal, name: str = "") -> str:
    return f"{principal.organisation}/{principal.project}/{principal.system}/{name}"


def _absent(name: str, param: str = "response_id", why: str = "") -> NotFound:
    return NotFound(
        f"there is no response {name[:80]!r}{why} that this key may read: it was not stored, was deleted, is over "
        "its time, or belongs to another project, system or group",
        param=param,
    )
