"""The register of AI systems: what each is for, who owns it, and who let it be used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from metier.calls import SystemId, new_id
from metier.errors import Conflict, Invalid, NotFound
from metier.store import Row, Store, Tx

__all__ = ["ADMITTED", "MOVES", "Approval", "Register", "Status", "System"]

Status = Literal["idea", "qualified", "pilot", "general", "suspended", "retired"]
"""Where a system stands between a first idea and its end."""

ADMITTED: frozenset[Status] = frozenset({"pilot", "general"})
"""Statuses in which calls pass and keys are issued."""

MOVES: Mapping[Status, frozenset[Status]] = {
    "idea": frozenset({"qualified", "retired"}),
    "qualified": frozenset({"idea", "pilot", "retired"}),
    "pilot": frozenset({"general", "qualified", "suspended", "retired"}),
    "general": frozenset({"pilot", "suspended", "retired"}),
    "suspended": frozenset({"qualified", "pilot", "general", "retired"}),
    "retired": frozenset(),
}
"""The moves the law of the house allows, from each status."""


@dataclass(frozen=True, slots=True)
class System:
    """One AI use of the company."""

    id: SystemId
    name: str
    purpose: str
    """What it is for, in the words of its owner."""
    owner: str
    status: Status
    created_at: datetime
    changed_at: datetime


@dataclass(frozen=True, slots=True)
class Approval:
    """One recorded move of a system."""

    old_status: Status | None
    """None for its registration."""
    new_status: Status
    by_whom: str
    reason: str
    at: datetime


class Register:
    """Keeps systems and every move of their status; each move is one transaction with its record."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._queries = store.queries("register")

    async def register(self, name: str, purpose: str, owner: str, by: str | None = None) -> System:
        """Write down a new system, as an idea that admits no call yet."""
        for field, value in (("name", name), ("purpose", purpose), ("owner", owner)):
            if not value.strip():
                raise Invalid(f"a system needs a {field}, got {value!r}", param=field)
        async with self._store.transaction() as tx:
            params = {"id": new_id("system"), "name": name, "purpose": purpose, "owner": owner}
            row = await self._queries.one("insert_system", params, tx)
            if row is None:
                raise Conflict(f"a system named {name!r} is already registered: choose another name", param="name")
            system = _system(row)
            await self._note(system, None, by or owner, "registered", tx=tx)
        return system

    async def move(self, system: str, to: Status, by: str, reason: str = "") -> System:
        """Move a system to another status, if the register allows that step, and record who and why."""
        if not by.strip():
            raise Invalid(f"moving the system {system!r} to {to!r} needs the name of who decides", param="by")
        async with self._store.transaction() as tx:
            found = await self._queries.one("get_system", {"id": system}, tx)
            if found is None:
                raise _unknown(system)
            before = _system(found)
            if to not in MOVES[before.status]:
                allowed = ", ".join(sorted(MOVES[before.status])) or "nothing: it is over"
                raise Conflict(
                    f"the system {before.name!r} is {before.status!r} and cannot become {to!r}; it may become: "
                    f"{allowed}"
                )
            params = {"id": before.id, "old_status": before.status, "new_status": to}
            row = await self._queries.one("move_system", params, tx)
            if row is None:
                raise Conflict(f"the system {before.name!r} was moved by someone else: read it again")
            after = _system(row)
            await self._note(after, before.status, by, reason, tx=tx)
        return after

    async def approve(self, system: str, by: str, to: Status = "pilot", reason: str = "") -> System:
        """Move a system forward until it is in pilot or general use, recording each step it passes."""
        if to not in ADMITTED:
            raise Invalid(f"approving means moving to 'pilot' or 'general', not {to!r}", param="to")
        found = await self.get(system)
        for step in _path(found.status, to):
            found = await self.move(found.id, step, by, reason)
        return found

    async def suspend(self, system: str, by: str, reason: str = "") -> System:
        """Stop a system: its calls are refused within a second, everywhere."""
        return await self.move(system, "suspended", by, reason)

    async def get(self, system: str) -> System:
        """Find a system by its id, or by its name."""
        row = await self._queries.one("get_system", {"id": system})
        if row is None:
            raise _unknown(system)
        return _system(row)

    async def list(self) -> tuple[System, ...]:
        """List every system by name."""
        return tuple(_system(row) for row in await self._queries.all("list_systems"))

    async def known(self) -> frozenset[str]:
        """Give the names and ids of every system: what rules may be written for."""
        return frozenset(one for system in await self.list() for one in (system.name, system.id))

    async def approvals(self, system: str) -> tuple[Approval, ...]:
        """List the moves of one system, oldest first."""
        found = await self.get(system)
        return tuple(Approval(**row) for row in await self._queries.all("list_approvals", {"system": found.id}))

    async def statuses(self, systems: Sequence[str]) -> dict[str, Status]:
        """Read the present status of several systems at once; those unknown are left out."""
        rows = await self._queries.all("statuses", {"ids": [*systems]})
        return {row["id"]: row["status"] for row in rows}

    async def names(self, systems: Sequence[str]) -> dict[str, str]:
        """Read the names of several systems at once, by id; those unknown are left out."""
        rows = await self._queries.all("names", {"ids": [*systems]})
        return {row["id"]: row["name"] for row in rows}

    async def _note(self, after: System, before: Status | None, by: str, reason: str, *, tx: Tx) -> None:
        params = {
            "system": after.id,
            "old_status": before,
            "new_status": after.status,
            "by_whom": by,
            "reason": reason,
        }
        await self._queries.run("insert_approval", params, tx)


def _path(start: Status, to: Status) -> tuple[Status, ...]:
    """The steps from one status to an admitted one, none skipped."""
    ladder: tuple[Status, ...] = ("idea", "qualified", "pilot", "general")
    if start == to:
        return ()
    if start not in ladder or to in MOVES[start]:
        return (to,)
    here, there = ladder.index(start), ladder.index(to)
    return ladder[here + 1 : there + 1]


def _unknown(system: str) -> NotFound:
    return NotFound(f"there is no system {system!r} in the register: register it first")


def _system(row: Row) -> System:
    return System(**row)
