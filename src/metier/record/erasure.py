"""Erases what was said in one call or for one person, in every room; what a dropped key sealed is deleted after."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from psycopg.types.json import Jsonb

from metier.calls import new_id
from metier.errors import Conflict, Invalid, NotFound
from metier.record.contents import WRITING
from metier.record.responses import StoredResponses
from metier.store import Row, Store
from metier.vault import Vault, member

__all__ = ["Elsewhere", "Erased", "Erasure", "Target"]

_BATCH = 1_000


@dataclass(frozen=True, slots=True)
class Target:
    """What is to be erased; exactly one of person, project and call is given."""

    organisation: str
    person: str | None = None
    """Digest of an end user."""
    project: str | None = None
    """A project, of which the calls that named no end user are meant."""
    call: str | None = None
    conversations: tuple[tuple[str, str], ...] = ()
    """Project and name of each conversation that its calls belonged to."""

    @property
    def subject(self) -> str | None:
        """What contents and stored responses are filed under; None for one call."""
        return self.person or self.project


Elsewhere: TypeAlias = Callable[[Target, str, bool], Awaitable[int]]
"""Erases a target in another room, for somebody, or only counts; gives how many rows or tables that is."""


@dataclass(frozen=True, slots=True)
class Erased:
    """What an erasure did, or with a dry run would do."""

    id: str | None
    """None for a dry run."""
    organisation: str
    subject: str | None
    """Digest of the end user, or the project; None where one call was erased."""
    call: str | None
    keys: int
    """Keys dropped: from then on what they sealed cannot be read, backups of the rows included."""
    records: int
    """Contents deleted."""
    unlinked: int
    """Calls that no longer say whom they served; their figures stay."""
    dry_run: bool
    elsewhere: Mapping[str, int] = field(default_factory=dict)
    """What was deleted in other rooms: responses, conversations (tables of placeholders), kept_answers."""


class Erasure:
    """Erases for good wherever people are kept; a legal hold has precedence, and says so."""

    def __init__(self, store: Store, vault: Vault) -> None:
        self._store = store
        self._vault = vault
        self._contents = store.queries("contents")
        self._calls = store.queries("ledger")
        self._responses = StoredResponses(store, vault)
        self._elsewhere: dict[str, Elsewhere] = {"responses": self._stored}

    def also(self, what: str, erase: Elsewhere) -> None:
        """Have another room erase too; `what` names what it keeps, in reports."""
        self._elsewhere[what] = erase

    async def call(self, call: str, by: str, reason: str, *, dry_run: bool = False) -> Erased:
        """Erase what was kept of one call, with the placeholders of its conversation; its record stays."""
        _reasoned(by, reason)
        row = await self._contents.one("erasable", {"call": call})
        if row is None:
            raise _nothing(call)
        target = await self._target(Target(str(row["organisation"]), call=call))
        await self._free(target)
        planned = await self._everywhere(target, by, dry_run=True)
        records = int(row["contents"])
        if not records and not any(planned.values()):
            raise _nothing(call)
        if dry_run:
            return Erased(None, target.organisation, None, call, records, records, 0, True, planned)
        done = await self._everywhere(target, by, dry_run=False)
        id = new_id("erasure")
        async with self._store.transaction() as tx:
            await self._contents.one("lock_erasing", {"lock": WRITING}, tx)
            dropped = await self._contents.run("drop_record", {"call": call}, tx)
            found = Erased(id, target.organisation, None, call, dropped, dropped, 0, False, done)
            await self._contents.run("insert_erasure", _row(found, by, reason), tx)
        return found

    async def person(self, organisation: str, end_user: str, by: str, reason: str, *, dry_run: bool = False) -> Erased:
        """Erase what was said for an end user, named in the words of the client, and whom those calls served."""
        target = Target(organisation, person=member(self._vault, organisation, end_user))
        return await self._subject(target, by, reason, dry_run=dry_run)

    async def project(self, organisation: str, project: str, by: str, reason: str, *, dry_run: bool = False) -> Erased:
        """Erase what was said in the calls of a project that named no end user, and its kept answers, all of them."""
        return await self._subject(Target(organisation, project=project), by, reason, dry_run=dry_run)

    async def part(self, what: str, target: Target, rows: int, by: str, reason: str) -> str:
        """Write down that rows of a subject were erased in one room alone, such as its runs; give the id of it."""
        _reasoned(by, reason)
        found = Erased(
            new_id("erasure"), target.organisation, target.subject, None, 0, 0, 0, dry_run=False, elsewhere={what: rows}
        )
        await self._contents.run("insert_erasure", _row(found, by, reason, what))
        return str(found.id)

    async def _subject(self, target: Target, by: str, reason: str, *, dry_run: bool) -> Erased:
        """Other rooms first, then the key in one short transaction, after which nothing can be read; rows follow.

        They follow in batches, and the retention job finishes what a crash leaves; whom calls served is forgotten
        last, so that an erasure cut short can be asked for again.
        """
        _reasoned(by, reason)
        organisation, subject = target.organisation, target.subject
        target = await self._target(target)
        await self._free(target)
        which = {"organisation": organisation, "subject": subject}
        linked = {"organisation": organisation, "end_user": subject}
        done = await self._everywhere(target, by, dry_run=dry_run)
        counted = await self._contents.one("count_subject", which)
        calls = await self._calls.one("linked", linked)
        assert counted is not None and calls is not None
        records, unlinked = int(counted["records"]), int(calls["calls"])
        if dry_run:
            return Erased(None, organisation, subject, None, int(records > 0), records, unlinked, True, done)
        id = new_id("erasure")
        async with self._store.transaction() as tx:
            await self._contents.one("lock_erasing", {"lock": WRITING}, tx)
            keys = await self._contents.run("drop_subject", which, tx)
            counted = await self._contents.one("count_subject", which, tx)
            calls = await self._calls.one("linked", linked, tx)
            assert counted is not None and calls is not None
            records, unlinked = int(counted["records"]), int(calls["calls"])
            found = Erased(id, organisation, subject, None, keys, records, unlinked, False, done)
            await self._contents.run("insert_erasure", _row(found, by, reason), tx)
        while await self._contents.run("purge_erased", {**which, "most": _BATCH}):
            pass
        while await self._calls.run("unlink", {**linked, "most": _BATCH}):
            pass
        return found

    async def _target(self, target: Target) -> Target:
        rows = await self._calls.all("conversations_of", _which(target))
        conversations = tuple((str(row["project"]), str(row["conversation"])) for row in rows)
        return Target(target.organisation, target.person, target.project, target.call, conversations)

    async def _everywhere(self, target: Target, by: str, *, dry_run: bool) -> dict[str, int]:
        return {what: await erase(target, by, dry_run) for what, erase in self._elsewhere.items()}

    async def _stored(self, target: Target, by: str, dry_run: bool) -> int:
        return await self._responses.erase(target.organisation, target.subject, target.call, dry_run=dry_run)

    async def _free(self, target: Target) -> None:
        held: Row | None = await self._contents.one("held", _which(target))
        if held is not None and held["calls"]:
            what = f"the call {target.call!r}" if target.call is not None else f"the subject {target.subject!r}"
            raise Conflict(
                f"erasing {what} touches {held['calls']} records under the legal hold {held['hold']!r}: "
                "release it first"
            )


def _which(target: Target) -> dict[str, object]:
    return {
        "organisation": target.organisation,
        "subject": target.subject,
        "person": target.person,
        "project": target.project,
        "call": target.call,
    }


def _row(erased: Erased, by: str, reason: str, part: str | None = None) -> dict[str, object]:
    return {
        "id": erased.id,
        "organisation": erased.organisation,
        "subject": erased.subject,
        "call": erased.call,
        "records": erased.records,
        "unlinked": erased.unlinked,
        "elsewhere": Jsonb(dict(erased.elsewhere)),
        "part": part,
        "reason": reason,
        "by_whom": by,
    }


def _nothing(call: str) -> NotFound:
    return NotFound(f"nothing is kept of what was said in the call {call!r}, so there is nothing to erase")


def _reasoned(by: str, reason: str) -> None:
    if not by.strip() or not reason.strip():
        raise Invalid("an erasure needs the name of who does it and a reason", param="reason")
