from __future__ import annotations

import secrets

import pytest

from metier.errors import ConfigError
from metier.governance.master_key import vouch
from metier.store import Store
from metier.vault import Vault


async def test_a_database_belongs_to_the_master_key_it_was_first_used_with(store: Store, vault: Vault) -> None:
    for _ in range(2):
        await vouch(store, vault)
    with pytest.raises(ConfigError, match=r"used with since \d{4}-.*METIER_MASTER_KEY, or secrets/master.key"):
        await vouch(store, Vault(secrets.token_bytes(32)))
    await vouch(store, vault)
