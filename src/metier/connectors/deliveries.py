"""Effects of which nobody knows whether they were done: people find out, and settle each once."""

from __future__ import annotations

import email
import email.policy
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias, get_args

from metier.calls import JSON, RunId
from metier.errors import Conflict, Invalid, NotFound
from metier.store import Row, Store, Tx
from metier.vault import Vault
from metier.workflow.commands import FALLBACK
from metier.workflow.context import Clock, utc
from metier.workflow.engine import Engine
from metier.workflow.review import Review, Reviewer

__all__ = ["Deliveries", "Delivery", "Settlement"]

Settlement: TypeAlias = Literal["delivered", "again", "dropped"]
"""What a person found: it is among the messages that left, or it never left and is sent once more, or never."""

_PAGE_MAX = 200


@dataclass(frozen=True, slots=True)
class Delivery:
    """One e-mail or other effect of a run, as far as it is known where it is."""

    key: str
    """Run and path of the step that sends."""
    message_id: str
    """What to look for: the Message-ID among the messages that left, the idempotency key of anything else."""
    run: RunId
    path: str
    state: str
    """prepared, sending, sent or unsure."""
    doubtful: bool
    """Whether it waits for a person to find out."""
    since: datetime
    recipient: str
    subject: str
    body: str
    settled_as: Settlement | None
    settled_by: str | None
    """Name and id of who found out."""
    settled_at: datetime | None
    tool: str = "email.send"
    """Which tool did it, or did not."""
    cancelled: bool = False
    """Its run was cancelled meanwhile: it can be settled as delivered, and is never done again."""


class Deliveries:
    """What people do about doubtful e-mails: find, look at, settle; the run goes on with what they found."""

    def __init__(self, store: Store, vault: Vault, engine: Engine, review: Review, *, clock: Clock = utc) -> None:
        self._store = store
        self._vault = vault
        self._engine = engine
        self._review = review
        self._queries = store.queries("outbox")
        self._clock = clock

    async def list(self, reviewer: Reviewer | None = None, *, limit: int = 50) -> tuple[Delivery, ...]:
        """Give the doubtful effects a reviewer may settle, oldest first; those of cancelled runs say so."""
        if not 1 <= limit <= _PAGE_MAX:
            raise Invalid(f"cannot list {limit!r} e-mails: ask for 1 to {_PAGE_MAX}", param="limit")
        found: list[Delivery] = []
        for row in await self._queries.all("doubtful", {"now": self._clock()}):
            if not await self._may(row, reviewer):
                continue
            found.append(self._delivery(row))
            if len(found) == limit:
                break
        return tuple(found)

    async def get(self, name: str, reviewer: Reviewer | None = None) -> Delivery:
        """Give one e-mail by its key or its Message-ID; a reviewer sees only what they may settle."""
        row = None if "\x00" in name else await self._queries.one("find", {"name": name, "now": self._clock()})
        if row is None or not await self._may(row, reviewer):
            raise NotFound(f"no e-mail {name[:200]!r} waits for you: `metier review list` shows those that do")
        return self._delivery(row)

    async def of_run(self, run: RunId) -> tuple[Delivery, ...]:
        """Give every e-mail a run has written down."""
        rows = await self._queries.all("of_run", {"run": run, "now": self._clock()})
        return tuple(self._delivery(row) for row in rows)

    async def settle(self, name: str, reviewer: Reviewer, found: Settlement) -> Delivery:
        """Record what a person found out and make the run go on, together; the second of two gets Conflict.

        What is dropped is never done: its run stays as it is, and says so where somebody resumes it.
        """
        if found not in get_args(Settlement):
            told_how = "say delivered, again or dropped"
            raise Invalid(f"cannot settle an e-mail as {str(found)[:40]!r}: {told_how}", param="settlement")
        given = await self.get(name, reviewer)
        now = self._clock()
        told: dict[str, JSON] = {"delivery": found, "by": reviewer.known_as, "at": now.isoformat()}
        row = {"key": given.key, "as": found, "by": reviewer.known_as, "now": now}
        # The run before what belongs to it, as everywhere: two orders of locking could wait for each other.
        async with self._store.transaction() as tx:
            goes_on = found != "dropped" and (
                await self._engine.retry(tx, given.run, given.path, told)
                or await self._asked(tx, given, reviewer, told)
            )
            if not await self._queries.run("settle", row, tx):
                raise await self._over(given.key)
            if found == "again" and not goes_on:
                raise Conflict(
                    f"run {given.run!r} does not stand at {given.path!r}, so it would not be sent again: wait if the "
                    "run is at work; if it is over, write to the customer yourself and settle the e-mail as delivered"
                )
        return await self.get(given.key)

    async def _asked(self, tx: Tx, given: Delivery, reviewer: Reviewer, told: dict[str, JSON]) -> bool:
        """Answer whoever was asked what to do about the failure, in the run itself or in one it was started by."""
        place: tuple[RunId, str] | None = given.run, given.path
        while place is not None:
            if await self._review.retry(tx, *place, reviewer, told):
                return True
            place, told = await self._engine.above(tx, place[0]), {}
        return False

    async def _may(self, row: Row, reviewer: Reviewer | None) -> bool:
        """Those who were asked something by the run may settle its e-mails, and those who look after its house."""
        if reviewer is not None and reviewer.organisation not in (None, row["organisation"]):
            return False
        if reviewer is None or reviewer.may(FALLBACK):
            return True
        run = RunId(row["key"].partition("/")[0])
        return any(reviewer.may(task.assignee) for task in await self._review.of_run(run))

    async def _over(self, key: str) -> Conflict:
        now = await self.get(key)
        by = f", settled by {now.settled_by!r} as {now.settled_as!r}" if now.settled_by else ""
        return Conflict(
            f"the e-mail {key!r} is in no doubt any more: it is {now.state!r}, settled{by}; look at it again"
        )

    def _delivery(self, row: Row) -> Delivery:
        run, _, path = row["key"].partition("/")
        content = self._vault.open("outbox", row["content"], row["key"])
        letter = row["tool"] == "email.send"
        recipient, subject, body = _letter(content) if letter else (row["target"], row["tool"], content.decode())
        return Delivery(
            key=row["key"],
            message_id=row["message_id"],
            run=RunId(run),
            path=path,
            state=row["state"],
            doubtful=row["doubtful"],
            since=row["updated_at"],
            recipient=recipient,
            subject=subject,
            body=body,
            settled_as=row["settled_as"],
            settled_by=row["settled_by"],
            settled_at=row["settled_at"],
            tool=row["tool"],
            cancelled=row["run_status"] == "cancelled",
        )


def _letter(content: bytes) -> tuple[str, str, str]:
    message = email.message_from_bytes(content, policy=email.policy.SMTP)
    body = message.get_body(("plain",))
    text = "" if body is None else str(body.get_content())
    return str(message.get("To", "")), str(message.get("Subject", "")), text
