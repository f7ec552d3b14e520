from __future__ import annotations

import secrets

import pytest

from metier.connectors.secrets import Secrets
from metier.errors import ConfigError
from metier.governance.master_key import vouch
from metier.record.envelope import Envelope
from metier.store import Store
from metier.vault import Vault
from metier.workflow.engine import Engine
from tests.workflow.flows import WHO, flow, step


async def test_a_database_belongs_to_the_master_key_it_was_first_used_with(store: Store, vault: Vault) -> None:
    for _ in range(2):
        await vouch(store, vault)
    with pytest.raises(ConfigError, match=r"used with since \d{4}-.*METIER_MASTER_KEY, or secrets/master.key"):
        await vouch(store, Vault(secrets.token_bytes(32)))
    await vouch(store, vault)


@pytest.mark.parametrize("sealed", ["run", "secret", "workspace"])
async def test_a_database_from_before_there_were_marks_is_marked_only_by_what_opens_it(
    store: Store, vault: Vault, sealed: str
) -> None:
    if sealed == "run":
        await Engine(store, vault, {}).start(flow(step("a")), {}, WHO)
    elif sealed == "secret":
        await Secrets.built(store, vault).set("shop", "canari", scope=["http"], by="ada", organisation="main")
    else:
        row = {"organisation": "main", "wrapped": Envelope(vault).new_workspace("main")}
        await store.queries("contents").run("insert_workspace", row)
    with pytest.raises(ConfigError, match="not the one this database was used with"):
        await vouch(store, Vault(secrets.token_bytes(32)))
    await vouch(store, vault)
    await vouch(store, vault)
    async with store.connection() as connection:  # as the page on backups says, where the key is lost for good
        given_up = "INSERT INTO master_keys (digest) VALUES ('') ON CONFLICT (one) DO UPDATE SET digest = ''"
        await connection.execute(given_up)
    await vouch(store, Vault(bytes(32)))
    with pytest.raises(ConfigError, match="used with since"):
        await vouch(store, vault)
