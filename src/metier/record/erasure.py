"""Erases what was said in one call or for one person: the key is dropped first, what it sealed is deleted after."""

from __future__ import annotations

from dataclasses import dataclass

from metier.calls import new_id
from metier.errors import Conflict, Invalid, NotFound
from metier.record.contents import WRITING, member
from metier.record.responses import StoredResponses
from metier.store import Store
from metier.vault import Vault

__all__ = ["Erased", "Erasure"]

_BATCH = 1_000


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


class Erasure:
    """Erases contents for good; a legal hold has precedence, and says so."""

    def __init__(self, store: Store, vault: Vault) -> None:
        self._store = store
        self._vault = vault
        self._contents = store.queries("contents")
        self._calls = store.queries("ledger")
        self._responses = StoredResponses(store, vault)

    async def call(self, call: str, by: str, reason: str, *, dry_run: bool = False) -> Erased:
        """Erase the contents of one call; its record stays."""
        _reasoned(by, reason)
        row = await self._contents.one("sealed", {"call": call})
        if row is None:
            raise NotFound(f"there are no contents of the call {call!r} to erase")
        organisation = str(row["organisation"])
        await self._free(organisation, None, call)
        if dry_run:
            return Erased(None, organisation, None, call, 1, 1, 0, True)
        id = new_id("erasure")
        async with self._store.transaction() as tx:
            await self._contents.one("lock_erasing", {"lock": WRITING}, tx)
            dropped = await self._contents.run("drop_record", {"call": call}, tx)
            found = Erased(id, organisation, None, call, dropped, dropped, 0, False)
            await self._contents.run("insert_erasure", _row(found, by, reason), tx)
        await self._responses.erase_call(call)
        return found

    async def person(self, organisation: str, end_user: str, by: str, reason: str, *, dry_run: bool = False) -> Erased:
        """Erase what was said for an end user, named in the words of the client, and whom those calls served."""
        return await self.subject(
            organisation, member(self._vault, organisation, end_user), by, reason, dry_run=dry_run
        )

    async def subject(self, organisation: str, subject: str, by: str, reason: str, *, dry_run: bool = False) -> Erased:
        """Erase what was said for a subject: the digest of an end user, or a project whose calls named none.

        The key goes in one short transaction, after which nothing can be read; rows follow in batches, and the
        retention job finishes what a crash leaves.
        """
        _reasoned(by, reason)
        await self._free(organisation, subject, None)
        which = {"organisation": organisation, "subject": subject}
        linked = {"organisation": organisation, "end_user": subject}
        counted = await self._contents.one("count_subject", which)
        calls = await self._calls.one("linked", linked)
        assert counted is not None and calls is not None
        records, unlinked = int(counted["records"]), int(calls["calls"])
        if dry_run:
            return Erased(None, organisation, subject, None, int(records > 0), records, unlinked, True)
        id = new_id("erasure")
        async with self._store.transaction() as tx:
            await self._contents.one("lock_erasing", {"lock": WRITING}, tx)
            keys = await self._contents.run("drop_subject", which, tx)
            counted = await self._contents.one("count_subject", which, tx)
            calls = await self._calls.one("linked", linked, tx)
            assert counted is not None and calls is not None
            records, unlinked = int(counted["records"]), int(calls["calls"])
            found = Erased(id, organisation, subject, None, keys, records, unlinked, False)
            await self._contents.run("insert_erasure", _row(found, by, reason), tx)
        await self._responses.erase(organisation, subject)
        while await self._contents.run("purge_erased", {**which, "most": _BATCH}):
            pass
        while await self._calls.run("unlink", {**linked, "most": _BATCH}):
            pass
        return found

    async def _free(self, organisation: str, subject: str | None, call: str | None) -> None:
        params = {"organisation": organisation, "subject": subject, "call": call}
        held = await self._contents.one("held_of_subject", params)
        if held is not None and held["calls"]:
            what = f"the call {call!r}" if call is not None else f"the subject {subject!r}"
            raise Conflict(
                f"erasing {what} touches {held['calls']} records under the legal hold {held['hold']!r}: "
                "release it first"
            )


def _row(erased: Erased, by: str, reason: str) -> dict[str, object]:
    return {
        "id": erased.id,
        "organisation": erased.organisation,
        "subject": erased.subject,
        "call": erased.call,
        "records": erased.records,
        "unlinked": erased.unlinked,
        "reason": reason,
        "by_whom": by,
    }


def _reasoned(by: str, reason: str) -> None:
    if not by.strip() or not reason.strip():
        raise Invalid("an erasure needs the name of who does it and a reason", param="reason")
