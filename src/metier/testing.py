"""What tests of workflows need: the whole platform around scripted models, a caller, a clock that stands still."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from metier.app import App, Parts, build
from metier.calls import Principal
from metier.catalog import Catalog
from metier.errors import NotFound
from metier.providers.base import Provider
from metier.settings import Settings

__all__ = ["MODELS", "StillClock", "build_for_tests", "caller"]

MODELS: Mapping[str, Any] = {
    role: {
        "deployments": [
            {
                "id": f"scripted-{role}", "provider": "scripted", "model_id": role,
                "price": {"input": 1, "output": 4}, "context_tokens": 32_000, "max_output_tokens": 1_000,
            }
        ]
    }
    for role in ("writer", "judge")
}  # fmt: skip
"""The `models:` section of the scripted platform: a writer and a judge that cost money, and no embedder."""


class StillClock:
    """A clock that only moves when it is told to; hand it to whatever takes a clock."""

    def __init__(self, now: datetime | None = None) -> None:
        self.now = now or datetime.now(UTC)

    def __call__(self) -> datetime:
        """Give the time it stands at."""
        return self.now

    def forward(self, seconds: float) -> None:
        """Let that many seconds pass."""
        self.now += timedelta(seconds=seconds)


@contextlib.asynccontextmanager
async def build_for_tests(
    home: pathlib.Path, database_url: str, provider: Provider, parts: Parts | None = None
) -> AsyncIterator[App]:
    """Build the real platform with one scripted provider, by default behind the writer and the judge of MODELS.

    The same home and database give the same platform again, as after a restart.
    """
    given = parts or Parts()
    settings = Settings(home=home, config_path=home / "metier.yaml", database_url=database_url)
    whole = dataclasses.replace(
        given,
        providers={"scripted": provider, **given.providers},
        catalog=given.catalog or Catalog.from_yaml(MODELS),
    )
    async with build(settings, whole) as app:
        yield app


async def caller(
    app: App, name: str = "tests", groups: Iterable[str] = ("public",), budget_eur: Decimal = Decimal(10)
) -> Principal:
    """Give the caller of a name: an approved system, a project with that budget and a key, made the first time."""
    with contextlib.suppress(NotFound):
        return await app.principal(name)
    system = await app.register.register(name, "tests", "tests")
    await app.register.approve(system.id, "tests")
    project = await app.keys.create_project(name)
    await app.admission.set_budget(project.id, budget_eur)
    await app.keys.issue(name, project.id, system.id, "tests", groups=[*groups])
    return await app.principal(name)
