"""The root of the port: a browser is led to the pages, a program told where things are, a stranger nothing else."""

from __future__ import annotations

import importlib.metadata
import pathlib
import subprocess
import sys

import pytest

from metier.api.server import Watch, application
from metier.providers.scripted import ScriptedProvider
from metier.store import Store
from metier.vault import Vault
from tests.api.client import ask
from tests.world import world

PAGES = Watch(pages="/review")
BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


async def test_the_root_leads_people_on_and_tells_programs_where_things_are(
    store: Store, vault: Vault, tmp_path: pathlib.Path
) -> None:
    async with world(store, vault, tmp_path, ScriptedProvider()) as here:
        app, bare = application(here, watch=PAGES), application(here)
        led = await ask(app, "/", headers=BROWSER)
        assert (led.status, led.headers["location"], led.headers["vary"]) == (303, "/review", "accept")
        assert (await ask(bare, "/", headers=BROWSER)).status == 200, "without pages there is nowhere to lead to"
        for headers in ({}, {"accept": "application/json"}, {"authorization": "Bearer sk-mt-wrong"}):
            told = await ask(app, "/", headers=headers)
            assert told.status == 200 and told.headers["content-type"] == "application/json"
            assert set(told.json) == {"name", "api", "ready", "documentation", "pages"}
            assert (told.json["api"], told.json["ready"], told.json["pages"]) == ("/v1", "/readyz", "/review")
        known = await ask(app, "/", headers={"authorization": f"Bearer {here.secret}"})
        assert known.json["version"] == importlib.metadata.version("metier")
        assert (await ask(app, "/", method="POST")).status == 405


@pytest.mark.parametrize("arguments", [["--version"], ["--help"]])
def test_the_module_is_the_command(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "metier", *arguments], capture_output=True, text=True, timeout=60, check=True
    )
    assert "metier" in done.stdout and "__main__" not in done.stdout
