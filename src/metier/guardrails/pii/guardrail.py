"""The guardrail for personal data: masks a call on its way in, restores its answer on the way out."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import psycopg

from metier.calls import Call
from metier.errors import Broken, Unavailable
from metier.guardrails.base import Checked, Guardrail, Verdict
from metier.guardrails.pii.conversations import Conversations
from metier.guardrails.pii.finding import find
from metier.guardrails.pii.kinds import Found
from metier.guardrails.pii.masking import Masked, mask_call
from metier.guardrails.pii.restore import Restore
from metier.guardrails.pii.revision import revision
from metier.guardrails.pii.table import Table
from metier.store import Store, within
from metier.vault import Vault

__all__ = ["PersonalData"]

_PATIENCE_S = 5.0
"""How long the database may take over the placeholders of a conversation."""

_LONG = 20_000
"""Characters from which detection leaves the event loop for a thread."""


def _now() -> datetime:
    return datetime.now(UTC)


class PersonalData(Guardrail):
    """Replaces personal data by placeholders before a model sees it, and puts it back into the answer."""

    name = "personal_data"

    def __init__(
        self,
        store: Store | None,
        vault: Vault,
        ttl: timedelta = timedelta(days=30),
        clock: Callable[[], datetime] = _now,
    ) -> None:
        self._conversations = Conversations(store, vault, ttl, clock) if store is not None else None
        self._seen = _Seen()
        self.revision = revision()
        """Of the detectors: answers kept after other ones masked the questions are not given again."""

    async def check_input(self, call: Call) -> Checked:
        """Mask every text of `call`; without a store each call has a table of its own."""
        masked = await self._masked(call)
        if not masked.used and not masked.counts:
            return Checked(call, Verdict.PASS)
        output = Restore(masked.used, json_text=call.output is not None) if masked.used else None
        return Checked(masked.call, Verdict.MASK, masked.counts, output)

    async def purge(self) -> int:
        """Delete the tables of conversations whose time is over; tell how many."""
        return await self._conversations.purge() if self._conversations is not None else 0

    async def forget(self, which: Sequence[tuple[str, str]]) -> int:
        """Delete the tables of some conversations, given by project and name, before their time; tell how many."""
        return await self._conversations.forget(which) if self._conversations is not None else 0

    async def remembered(self, which: Sequence[tuple[str, str]]) -> int:
        """Count the tables that `forget` would delete."""
        return await self._conversations.remembered(which) if self._conversations is not None else 0

    async def _masked(self, call: Call) -> Masked:
        if self._conversations is None or call.conversation is None or call.operation == "embed":
            return await self._run(call, Table())
        project, conversation = call.principal.project, call.conversation
        try:
            async with within(_PATIENCE_S):
                table = await self._conversations.load(project, conversation)
            masked = await self._run(call, table)
            if not table.fresh:
                return masked
            # Detection is remembered by now, so the lock is held only for the masking itself.
            async with within(_PATIENCE_S):
                return await self._conversations.allocate(
                    project, conversation, lambda alone: mask_call(call, alone, self._seen)
                )
        except (psycopg.OperationalError, psycopg.InterfaceError, TimeoutError) as error:
            raise Unavailable(
                f"the placeholders of conversation {conversation!r} cannot be read: the database does not answer, "
                f"so call {call.id!r} was not made; try again later"
            ) from error
        except psycopg.Error as error:
            raise Broken(
                f"could not read the placeholders of conversation {conversation!r}, so call {call.id!r} was not made; "
                "see whether the database answers, then try again"
            ) from error

    async def _run(self, call: Call, table: Table) -> Masked:
        size = sum(len(message.text) for message in call.messages) + sum(map(len, call.inputs))
        if size < _LONG:
            return mask_call(call, table, self._seen)
        return await asyncio.to_thread(mask_call, call, table, self._seen)


class _Seen:
    """Remembers where personal data lies in texts seen lately, so a long history costs one new message."""

    def __init__(self, size: int = 4_096, shortest: int = 16) -> None:
        self._size = size
        self._shortest = shortest
        self._found: OrderedDict[bytes, tuple[Found, ...]] = OrderedDict()

    def __call__(self, text: str, context: str) -> tuple[Found, ...]:
        """Find the personal data in a text, or remember where it was."""
        if len(text) < self._shortest:
            return find(text, context)
        key = hashlib.blake2b(f"{context}\x00{text}".encode("utf-8", "surrogatepass"), digest_size=20).digest()
        found = self._found.get(key)
        if found is None:
            found = self._found[key] = find(text, context)
            while len(self._found) > self._size:
                self._found.popitem(last=False)
        return found
