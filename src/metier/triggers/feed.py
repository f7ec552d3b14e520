"""What flows of a project have emitted, read where the engine keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from metier.store import Store
from metier.triggers.event import Emitted
from metier.vault import Vault
from metier.workflow.events import opened_event

__all__ = ["EventLog"]


class EventLog:
    """Reads the events the engine has kept; it writes none."""

    def __init__(self, store: Store, vault: Vault) -> None:
        self._queries = store.queries("triggers")
        self._vault = vault

    async def emitted(self, project: str, event: str, after: tuple[datetime, str], limit: int) -> Sequence[Emitted]:
        """Give events of a name after a time and an id, in the order of both."""
        row = {"project": project, "event": event, "at": after[0], "id": after[1], "limit": limit}
        return [
            Emitted(found["id"], found["key"], opened_event(self._vault, found["id"], found["data"]), found["at"])
            for found in await self._queries.all("emitted", row)
        ]
