"""Runs that triggers start follow the releases of their flow, where it has some; else what was deployed."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Protocol

from metier.calls import JSON, Principal, RunId
from metier.errors import NotFound
from metier.triggers.intake import Starter
from metier.workflow.release_keys import Cause
from metier.workflow.shape import Workflow

__all__ = ["Chooser", "Released"]


class Chooser(Protocol):
    """Says which version of a flow a run of somebody is started with."""

    async def choose(self, flow: str, project: str, who: Principal, cause: Cause | None = None) -> Workflow:
        """Give the definition, or raise NotFound where none is released to them."""
        ...


class Released:
    """Starts runs with the version released to whoever asks or they work for; and stay on one side."""

    def __init__(self, starter: Starter, chooser: Chooser) -> None:
        self._starter = starter
        self._chooser = chooser

    async def start(
        self, workflow: Workflow, inputs: Mapping[str, JSON], principal: Principal, *, dedupe: str | None = None
    ) -> RunId:
        """Start a run, pinned to the version chosen; without a release, to the definition given."""
        cause = Cause(str(principal.key_id) if dedupe is None else dedupe, inputs)
        workflow = await self._version(workflow, principal, cause)
        return await self._starter.start(workflow, inputs, principal, dedupe=dedupe)

    async def start_for(
        self, asker: Principal, workflow: Workflow, inputs: Mapping[str, JSON], principal: Principal, *, dedupe: str
    ) -> RunId:
        """Start a run with the version released to whoever asked; it works under the key of `principal`."""
        workflow = await self._version(workflow, asker, Cause(dedupe, inputs, asked=True))
        return await self._starter.start(workflow, inputs, principal, dedupe=dedupe)

    async def _version(self, workflow: Workflow, who: Principal, cause: Cause) -> Workflow:
        with contextlib.suppress(NotFound):
            return await self._chooser.choose(workflow.name, who.project, who, cause)
        return workflow
