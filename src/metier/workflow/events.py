"""Events: told once for each cause, to the runs that wait for them or will."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from metier.calls import JSON, ProjectId, RunId
from metier.store import Row, Store, Tx
from metier.vault import Vault
from metier.workflow.commands import Await
from metier.workflow.dispatch import Dispatch
from metier.workflow.journal import Hold, Journal, Line, pack, unpack

__all__ = ["Events", "Heard", "opened_event"]

Heard = Callable[[Tx, ProjectId, str, str, JSON, str], Awaitable[None]]
"""Told of each event once, in the transaction that keeps it: project, event, key, data, id."""


def opened_event(vault: Vault, id: str, data: bytes) -> JSON:
    """Open what an event carries, as it is kept."""
    return unpack(vault.open("event", data, id))


class Events:
    """Keeps events and wakes who waits for them; signals to a run are counted and written here too."""

    def __init__(self, store: Store, vault: Vault, dispatch: Dispatch, journal: Journal) -> None:
        self._store = store
        self._vault = vault
        self._queries = store.queries("engine")
        self._dispatch = dispatch
        self._journal = journal
        self.heard: Heard | None = None
        """Starts the flows that an event triggers."""

    async def tell(self, tx: Tx, run: RunId, line: Line | None) -> bool:
        """Signal a run: write a line from outside, and make the run look at it; say if it may still go on."""
        row = await self._queries.one("told", {"id": run}, tx)
        if row is None:
            return False
        if line is not None and not await self._journal.tell(tx, run, line):
            return False
        if row["status"] == "pending":
            await self._dispatch.hasten(tx, run)
        return True

    async def emit(self, tx: Tx, project: ProjectId, event: str, key: str, data: JSON, id: str) -> bool:
        """Tell an event, and say whether it is the first time for this cause."""
        place: Row = {"project": project, "event": event, "key": key}
        packed, found = pack(data), await self._queries.one("lock_event", place, tx)
        assert found is not None
        sealed = self._vault.seal("event", packed, id, found["organisation"])
        if not await self._queries.run("emit", {**place, "id": id, "data": sealed}, tx):
            return False
        for waiting in await self._queries.all("awaiting", place, tx):
            run = RunId(waiting["run"])
            # The run before what it waits for, as everywhere: two orders of locking could wait for each other.
            if await self._queries.one("lock", {"id": run}, tx) is None:
                continue
            waits = {"run": run, "path": waiting["path"], "attempt": waiting["attempt"], "name": ""}
            if await self._queries.one("settle", waits, tx) is not None:
                value: JSON = {"event": event, "key": key, "data": data, "id": id}
                now = datetime.now(UTC)
                await self.tell(tx, run, Line(waiting["path"], waiting["attempt"], "result", value, now))
        if self.heard is not None:
            await self.heard(tx, project, event, key, data, id)
        return True

    async def begin(self, tx: Tx, hold: Hold, project: ProjectId, command: Await, had: list[str]) -> Line | None:
        """Note that a run waits for an event, or give it when it came since the run was made and was not had yet."""
        place: Row = {"project": project, "event": command.event, "key": command.key}
        # Without this a teller and a run that begins to wait could miss each other.
        await self._queries.one("lock_event", place, tx)
        found = await self._queries.one("happened", {**place, "run": hold.run, "had": had}, tx)
        if found is not None:
            data = opened_event(self._vault, found["id"], found["data"])
            value: JSON = {"event": command.event, "key": command.key, "data": data, "id": found["id"]}
            return Line(command.path, command.attempt, "result", value, datetime.now(UTC))
        held = {"run": hold.run, "epoch": hold.epoch, "path": command.path, "attempt": command.attempt}
        await self._queries.one("open", {**held, **place, "name": "", "kind": "event"}, tx)
        return None
