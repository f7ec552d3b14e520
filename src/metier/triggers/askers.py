"""Who asks for runs that work under another key: they do not approve them."""

from __future__ import annotations

from typing import Protocol

from metier.store import Store
from metier.workflow.context import Clock, utc

__all__ = ["Asker", "Askers"]


class Asker(Protocol):
    """Whoever asks, as they are known when they come to decide."""

    @property
    def name(self) -> str:
        """What people call them."""
        ...

    @property
    def key_id(self) -> str:
        """What tells them from another of that name."""
        ...


class Askers:
    """Writes down who asks for a run, before it is made, so that it is known wherever the process dies."""

    def __init__(self, store: Store, clock: Clock = utc) -> None:
        self._queries = store.queries("triggers")
        self._clock = clock

    async def note(self, asker: Asker, project: str, workflow: str, dedupe: str) -> None:
        """Write down who asks, by what the run is known by in its project: its workflow and its cause."""
        row = {"project": project, "workflow": workflow, "dedupe": dedupe, "now": self._clock()}
        await self._queries.run("asked", {**row, "name": asker.name, "key_id": asker.key_id})
