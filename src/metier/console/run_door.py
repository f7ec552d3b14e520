"""Who may look after which runs on the pages: members of the group admins, those of the project of their key."""

from __future__ import annotations

from metier.calls import KeyId, Principal, RunId
from metier.console.visit import Visit
from metier.errors import NotAllowed, NotFound
from metier.policy.keys import Keys
from metier.workflow.commands import FALLBACK
from metier.workflow.engine import Engine, Run

__all__ = ["RunDoor"]


class RunDoor:
    """Finds the run a page is about, for whoever is signed in."""

    def __init__(self, keys: Keys, engine: Engine) -> None:
        self._keys = keys
        self._engine = engine

    async def who(self, visit: Visit) -> Principal:
        """Give the key behind the visit, which must look after runs."""
        if not visit.who.may(FALLBACK):
            raise NotAllowed(f"{visit.who.name!r} does not look after runs: that is for {FALLBACK}")
        return await self._keys.principal(KeyId(visit.who.id or ""))

    async def run(self, visit: Visit) -> Run:
        """Give the run the path names, where it is of the same project."""
        principal, name = await self.who(visit), RunId(visit.request.path_params["run"])
        unknown = NotFound(f"there is no run {name[:80]!r} in the project of this key: list its runs")
        if not name.isprintable():
            raise unknown
        try:
            found = await self._engine.get(name)
        except NotFound:
            raise unknown from None
        if found.project != principal.project:
            raise unknown
        return found
