"""Runs that triggers start follow the releases of their flow, where it has some; else what was deployed."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Protocol

from metier.calls import JSON, Principal, RunId
from metier.errors import NotFound
from metier.triggers.intake import Starter
from metier.workflow.shape import Workflow

__all__ = ["Chooser", "Released"]


class Chooser(Protocol):
    """Says which version of a flow a run of somebody is started with."""

    async def choose(self, flow: str, project: str, who: Principal, sticky_key: str | None = None) -> Workflow:
        """Give the definition, or raise NotFound where none is released to them."""
        ...


class Released:
    """Starts runs with the version released to whoever they work for; the same event always gets the same one."""

    def __init__(self, starter: Starter, chooser: Chooser) -> None:
        self._starter = starter
        self._chooser = chooser

    async def start(
        self, workflow: Workflow, inputs: Mapping[str, JSON], principal: Principal, *, dedupe: str | None = None
    ) -> RunId:
        """Start a run, pinned to the version chosen; without a release, to the definition given."""
        with contextlib.suppress(NotFound):
            workflow = await self._chooser.choose(workflow.name, principal.project, principal, dedupe)
        return await self._starter.start(workflow, inputs, principal, dedupe=dedupe)
