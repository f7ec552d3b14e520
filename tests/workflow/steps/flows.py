"""Runs one small workflow on the real platform, whatever its steps."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from metier.app import App, Parts
from metier.calls import JSON, Principal, RunId
from metier.providers.base import Provider
from metier.providers.scripted import ScriptedProvider
from metier.store import Store
from metier.testing import build_for_tests, caller
from metier.workflow.definition import parse
from metier.workflow.engine import Run, StepRecord

FILES = {"prompts/ask.md": "Tu es conseiller.\n---\n{{ text }}"}


@dataclass(slots=True)
class Bench:
    """The platform, and somebody who starts workflows on it."""

    app: App
    who: Principal

    async def play(self, flow: str, inputs: Mapping[str, JSON] | None = None, **files: str) -> Run:
        """Start a workflow and move it as far as it goes."""
        run = await self.app.engine.start(parse(flow, {**FILES, **files}), inputs or {}, self.who)
        await self.app.engine.drain()
        return await self.app.engine.get(run)

    async def give(self, flow: str, inputs: Mapping[str, JSON] | None = None, **files: str) -> Any:
        """Play a workflow that must succeed, and give its output."""
        run = await self.play(flow, inputs, **files)
        assert run.failure is None, run.failure
        return await self.app.engine.result(run.id)

    async def fail(self, flow: str, inputs: Mapping[str, JSON] | None = None, **files: str) -> tuple[str, str]:
        """Play a workflow that must fail, and give the code and the message."""
        run = await self.play(flow, inputs, **files)
        assert run.failure is not None, run
        return run.failure.code, run.failure.message

    async def lines(self, run: RunId) -> list[StepRecord]:
        """The journal of a run."""
        return [*await self.app.engine.steps(run)]


@contextlib.asynccontextmanager
async def bench(
    store: Store, home: pathlib.Path, provider: Provider | None = None, parts: Parts | None = None
) -> AsyncIterator[Bench]:
    """Build it on a migrated store."""
    async with build_for_tests(home, store.url, provider or ScriptedProvider(), parts) as app:
        yield Bench(app, await caller(app, groups=("public", "sav")))


def one(step: str, output: str = "{{ steps.it }}", more: str = "") -> str:
    """A workflow of one step `it`, given as YAML."""
    return (
        f'flow: essai\nschema: 1\ninputs: {{text: string}}\n{more}steps:\n  - {{id: it, {step}}}\noutput: "{output}"\n'
    )
