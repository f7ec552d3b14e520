from __future__ import annotations

import pathlib
import time
from collections.abc import AsyncIterator

import pytest

from metier.store import Store
from metier.vault import Vault
from tests.console.desk import Office, office


@pytest.fixture
async def here(store: Store, vault: Vault, tmp_path: pathlib.Path) -> AsyncIterator[Office]:
    """The customer service, open."""
    async with office(store, vault, tmp_path, time.time) as opened:
        yield opened
