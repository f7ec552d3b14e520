"""Refuses to start where a database is known under another master key than the one of this process."""

from __future__ import annotations

from metier.errors import Broken, ConfigError
from metier.store import Queries, Store
from metier.vault import Vault

__all__ = ["vouch"]


async def vouch(store: Store, vault: Vault) -> None:
    """Mark a database with the master key of this process, and refuse one that was marked or sealed with another."""
    queries, digest = store.queries("master_key"), vault.digest("master key", b"mark")
    found = await queries.one("marked")
    if found is None:
        # One from before there were marks may be met first by whoever has the wrong key.
        await _opens(queries, vault)
    if found is None or not found["digest"]:
        await queries.run("mark", {"digest": digest})
        found = await queries.one("marked")
    if found is not None and bytes(found["digest"]) != digest:
        raise _other(f"has been used with since {found['marked_at']:%Y-%m-%d}")


async def _opens(queries: Queries, vault: Vault) -> None:
    for row in await queries.all("samples"):
        try:
            # A text of PostgreSQL holds no zeros, by which the parts of a place are told apart.
            vault.open(row["purpose"], row["sealed"], row["place"].replace("\x01", "\x00"))
        except Broken as error:
            raise _other("was used with") from error


def _other(known: str) -> ConfigError:
    return ConfigError(
        f"the master key of this process is not the one this database {known}: no key issued there would be "
        "recognised and nothing sealed would open; give METIER_MASTER_KEY, or secrets/master.key under METIER_HOME, "
        "what the other nodes have or what was kept with the backup"
    )
