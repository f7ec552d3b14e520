"""Which project and which system an id in the metrics means, so that dashboards can show names."""

from __future__ import annotations

from collections.abc import Sequence

from metier.governance.register import Register
from metier.policy.keys import Keys
from metier.record.exposition import Family, Sample

__all__ = ["Owners"]


class Owners:
    """Knows the names of projects and systems, as of late, for whoever reads the metrics."""

    def __init__(self, register: Register, keys: Keys) -> None:
        self._register = register
        self._keys = keys
        self._projects: list[Sample] = []
        self._systems: list[Sample] = []

    async def refresh(self) -> None:
        """Read the names again."""
        self._projects = [
            Sample({"project": one.id, "name": one.name, "organisation": one.organisation}, 1)
            for one in await self._keys.projects()
        ]
        self._systems = [Sample({"system": one.id, "name": one.name}, 1) for one in await self._register.list()]

    def families(self) -> Sequence[Family]:
        """Tell them; joined with a figure by the label `project` or `system`."""
        return [
            Family("metier_project_info", "gauge", "Name and organisation of each project.", self._projects),
            Family("metier_system_info", "gauge", "Name of each registered system.", self._systems),
        ]
