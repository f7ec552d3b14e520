"""One house for all commands: its database is made once."""

from __future__ import annotations

import asyncio
import pathlib

import pytest

from metier.postgres import Embedded
from metier.store import create_database
from tests.cli.house import House


@pytest.fixture(scope="session")
def house(server: Embedded, template: str, tmp_path_factory: pytest.TempPathFactory) -> House:
    """A folder and a migrated database; tests name what they make so that they do not meet."""
    asyncio.run(create_database(server.url("postgres"), "cli_house", template=template))
    return House(pathlib.Path(tmp_path_factory.mktemp("house")), server.url("cli_house"))
