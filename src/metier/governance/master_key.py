"""Refuses to start where a database is known under another master key than the one of this process."""

from __future__ import annotations

from metier.errors import ConfigError
from metier.store import Store
from metier.vault import Vault

__all__ = ["vouch"]


async def vouch(store: Store, vault: Vault) -> None:
    """Mark a new database with the master key of this process, and refuse one that was marked with another."""
    queries, digest = store.queries("master_key"), vault.digest("master key", b"mark")
    found = await queries.one("marked")
    if found is None:
        await queries.run("mark", {"digest": digest})
        found = await queries.one("marked")
    if found is not None and bytes(found["digest"]) != digest:
        raise ConfigError(
            "the master key of this process is not the one this database has been used with since "
            f"{found['marked_at']:%Y-%m-%d}: no key issued there would be recognised and nothing sealed would open; "
            "give METIER_MASTER_KEY, or secrets/master.key under METIER_HOME, what the other nodes have or what was "
            "kept with the backup"
        )
