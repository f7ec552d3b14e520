"""What was asked and answered, apart from the calls: sealed at once, kept where wanted, read on the record."""

from __future__ import annotations

import base64
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import orjson
import psycopg

from metier.calls import JSON, Call, new_id
from metier.errors import Broken, Invalid, NotAllowed, NotFound
from metier.record.envelope import Envelope, Place
from metier.record.transcript import Mode, Transcript
from metier.store import Row, Store, Tx
from metier.vault import Vault, member

__all__ = ["WRITING", "Contents", "Read", "Reader", "Shown"]

WRITING = 0x6D65746965720E
"""Advisory lock: shared by those who write contents, taken alone by those who drop keys."""

_MODES: tuple[Mode, ...] = ("masked", "full")
_MOST_DAYS = 366
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Shown:
    """The contents of one call, opened for somebody who may read them."""

    call: str
    at: datetime
    mode: str
    """"masked": as the provider saw it; "full": as the client did."""
    cut: bool
    """It was longer than what is kept."""
    request: JSON
    answer: JSON


@dataclass(frozen=True, slots=True)
class Reader:
    """Somebody who may read the contents of one system's calls until a moment."""

    id: str
    who: str
    system: str
    reason: str
    granted_by: str
    granted_at: datetime
    until: datetime
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class Read:
    """One reading of contents, or one refused."""

    call: str
    system: str
    by_whom: str
    reason: str
    outcome: str
    at: datetime


@dataclass(frozen=True, slots=True)
class _Spooled:
    """Sealed contents on their way into the database."""

    place: Place
    at: float
    project: str
    system: str
    subject: str
    cut: bool
    key: bytes
    """Of the record, wrapped for the spool."""
    sealed: bytes


class Contents:
    """Captures, seals, writes and opens contents; which systems capture is mirrored in memory."""

    def __init__(self, store: Store, vault: Vault) -> None:
        self._store = store
        self._vault = vault
        self._queries = store.queries("contents")
        self._envelope = Envelope(vault)
        self._captures: Mapping[str, Mode] = {}

    async def refresh(self) -> None:
        """Read which systems capture; what was known stays when the database does not answer."""
        rows = await self._queries.all("captures")
        self._captures = {row["system"]: row["capture"] for row in rows if row["capture"] in _MODES}

    def transcript(self, call: Call) -> Transcript | None:
        """Give what gathers this call, or None where its system captures nothing, which is what most do."""
        mode = self._captures.get(call.principal.system)
        return None if mode is None else Transcript(mode, call)

    def member(self, call: Call) -> str | None:
        """Give the keyed digest of whom the client serves with this call; None where it does not say."""
        return member(self._vault, call.principal.organisation, call.end_user) if call.end_user else None

    def seal(self, call: Call, at: float, transcript: Transcript) -> bytes | None:
        """Seal what was gathered, for the spool; None where there is nothing that may be kept."""
        encoded = transcript.encoded()
        if encoded is None:
            return None
        clear, cut = encoded
        principal = call.principal
        place = Place(principal.organisation, call.id, transcript.mode)
        key, sealed = self._envelope.seal(place, clear)
        head = {
            "id": call.id,
            "at": at,
            "organisation": principal.organisation,
            "project": principal.project,
            "system": principal.system,
            "subject": self.member(call) or principal.project,
            "mode": transcript.mode,
            "cut": cut,
            "key": base64.b85encode(key).decode(),
        }
        return orjson.dumps(head) + b"\n" + sealed

    async def guard(self, tx: Tx) -> None:
        """Keep keys from being dropped until this transaction ends; before anything that may be erased is written."""
        await self._queries.one("lock_writing", {"lock": WRITING}, tx)

    async def write(self, tx: Tx, spooled: Sequence[bytes]) -> int:
        """Keep contents out of the spool, in the guarded transaction of their calls, but not what was erased since.

        Gives how many could not be read: damaged, or sealed under another master key.
        """
        if not spooled:
            return 0
        found = [one for one in map(_spooled, spooled) if one is not None]
        params = {
            "calls": [one.place.call for one in found],
            "organisations": [one.place.organisation for one in found],
            "subjects": [one.subject for one in found],
            "ats": [one.at for one in found],
        }
        wanted = {row["call"] for row in await self._queries.all("writable", params, tx)}
        kept = [one for one in found if one.place.call in wanted]
        keys = await self._subject_keys(tx, {(one.place.organisation, one.subject) for one in kept})
        rows = [row for one in kept if (row := self._row(one, keys[one.place.organisation, one.subject])) is not None]
        if rows:
            await self._queries.many("insert_contents", rows, tx)
        return len(spooled) - len(found) + len(kept) - len(rows)

    def _row(self, one: _Spooled, subject_key: bytes) -> dict[str, object] | None:
        try:
            wrapped = self._envelope.rewrap(one.place, one.key, one.subject, subject_key)
        except Broken as error:
            _log.error("the contents of the call %r are lost: %s", one.place.call, error.message)
            return None
        return {
            "call": one.place.call,
            "at": one.at,
            "organisation": one.place.organisation,
            "project": one.project,
            "system": one.system,
            "subject": one.subject,
            "mode": one.place.mode,
            "cut": one.cut,
            "wrapped": wrapped,
            "sealed": one.sealed,
        }

    async def read(self, call: str, by: str, reason: str) -> Shown:
        """Open the contents of one call for somebody who may; that they did, or were refused, is written down first."""
        if not by.strip() or not reason.strip():
            raise Invalid(f"reading the contents of {call!r} needs a name and a reason", param="reason")
        row = await self._queries.one("sealed", {"call": call})
        if row is None:
            raise NotFound(f"there are no contents of the call {call!r}: none were captured, or they were deleted")
        allowed = await self._queries.one("may_read", {"who": by, "system": row["system"]})
        may = allowed is not None and bool(allowed["may"])
        params = {"call": call, "system": row["system"], "by_whom": by, "reason": reason}
        await self._queries.run("insert_read", params | {"outcome": "shown" if may else "refused"})
        if not may:
            raise NotAllowed(
                f"{by!r} may not read the contents of calls of {row['system']!r}: whoever answers for the system can "
                f"allow it for some days with `metier calls allow`"
            )
        told = orjson.loads(self._open(row))
        return Shown(call, row["at"], row["mode"], row["cut"], told.get("request"), told.get("answer"))

    async def allow(self, who: str, system: str, by: str, reason: str, days: int = 7) -> Reader:
        """Let somebody read the contents of a system's calls for some days."""
        if not reason.strip() or not who.strip():
            raise Invalid(f"letting {who!r} read contents needs a name and a reason", param="reason")
        if not 0 < days <= _MOST_DAYS:
            raise Invalid(f"contents may be read for 1 to {_MOST_DAYS} days, not {days}", param="days")
        params = {
            "id": new_id("reader"),
            "who": who,
            "system": system,
            "reason": reason,
            "granted_by": by,
            "days": days,
        }
        try:
            row = await self._queries.one("grant_reader", params)
        except psycopg.errors.ForeignKeyViolation as error:
            raise NotFound(f"there is no system {system!r} in the register: register it first") from error
        assert row is not None
        return Reader(**row)

    async def disallow(self, who: str, system: str) -> int:
        """End at once whatever lets somebody read the contents of a system's calls; gives how many rows did."""
        return await self._queries.run("revoke_reader", {"who": who, "system": system})

    async def readers(self) -> tuple[Reader, ...]:
        """List who may read contents now."""
        return tuple(Reader(**row) for row in await self._queries.all("readers"))

    async def reads(self, call: str | None = None, most: int = 100) -> tuple[Read, ...]:
        """List who read contents and who was refused, latest first."""
        return tuple(Read(**row) for row in await self._queries.all("reads", {"call": call, "most": most}))

    def _open(self, row: Row) -> bytes:
        organisation, subject = row["organisation"], row["subject"]
        if row["workspace_key"] is None or row["subject_key"] is None:
            raise NotFound(f"the contents of the call {row['call']!r} were erased: their key is gone")
        workspace = self._envelope.workspace(organisation, row["workspace_key"])
        key = self._envelope.subject(organisation, subject, workspace, row["subject_key"])
        place = Place(organisation, row["call"], row["mode"])
        return self._envelope.open(place, subject, key, row["wrapped"], row["sealed"])

    async def _subject_keys(self, tx: Tx, wanted: set[tuple[str, str]]) -> dict[tuple[str, str], bytes]:
        """Find the keys of some subjects, making those that are not there yet; never kept in memory."""
        if not wanted:
            return {}
        workspaces = await self._workspaces(tx, sorted({organisation for organisation, _ in wanted}))
        ordered = sorted(wanted)
        params = {"organisations": [o for o, _ in ordered], "subjects": [s for _, s in ordered]}
        rows = await self._queries.all("subject_keys", params, tx)
        missing = [pair for pair in ordered if pair not in {(r["organisation"], r["subject"]) for r in rows}]
        for organisation, subject in missing:
            wrapped = self._envelope.new_subject(organisation, subject, workspaces[organisation])
            new = {"organisation": organisation, "subject": subject, "wrapped": wrapped}
            await self._queries.run("insert_subject", new, tx)
        if missing:
            rows = await self._queries.all("subject_keys", params, tx)
        return {
            (r["organisation"], r["subject"]): self._envelope.subject(
                r["organisation"], r["subject"], workspaces[r["organisation"]], r["wrapped"]
            )
            for r in rows
        }

    async def _workspaces(self, tx: Tx, organisations: Sequence[str]) -> dict[str, bytes]:
        rows = await self._queries.all("workspace_keys", {"organisations": [*organisations]}, tx)
        missing = set(organisations) - {row["organisation"] for row in rows}
        for organisation in sorted(missing):
            new = {"organisation": organisation, "wrapped": self._envelope.new_workspace(organisation)}
            await self._queries.run("insert_workspace", new, tx)
        if missing:
            rows = await self._queries.all("workspace_keys", {"organisations": [*organisations]}, tx)
        return {row["organisation"]: self._envelope.workspace(row["organisation"], row["wrapped"]) for row in rows}


def _spooled(frame: bytes) -> _Spooled | None:
    """Read what `seal` made out of a spool again; None where it was damaged on the way."""
    head, _, sealed = frame.partition(b"\n")
    try:
        told = orjson.loads(head)
        place = Place(told["organisation"], told["id"], told["mode"])
        key = base64.b85decode(told["key"])
        return _Spooled(place, told["at"], told["project"], told["system"], told["subject"], told["cut"], key, sealed)
    except (ValueError, KeyError, TypeError) as error:
        _log.error("contents in the spool cannot be read (%s): their call is recorded without", type(error).__name__)
        return None
