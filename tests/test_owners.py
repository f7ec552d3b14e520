from __future__ import annotations

import pathlib

from metier.owners import Owners
from metier.providers.scripted import ScriptedProvider
from metier.store import Store
from metier.testing import build_for_tests, caller


async def test_metrics_say_which_project_and_which_system_an_id_is(store: Store, tmp_path: pathlib.Path) -> None:
    async with build_for_tests(tmp_path, store.url, ScriptedProvider()) as app:
        who = await caller(app, "boutique")
        owners = Owners(app.register, app.keys)
        await owners.refresh()
        projects, systems = owners.families()
        assert {"system": who.system, "name": "boutique"} in [dict(sample.labels) for sample in systems.samples]
        [project] = [sample.labels for sample in projects.samples if sample.labels["project"] == who.project]
        assert project["organisation"] == who.organisation and project["name"] != who.project
        told = {family.name for family in app.metrics.families()}
        assert {"metier_project_info", "metier_system_info"} <= told
