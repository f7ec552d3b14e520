"""What tests of sealed contents need: proof of whose they are, and contents from before organisations had keys."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg import sql

from metier.errors import Broken
from metier.store import Store
from metier.vault import Vault

__all__ = ["age", "found", "own", "proven"]


async def own(store: Store, project: str, organisation: str) -> None:
    """Make a project of an organisation."""
    async with store.connection() as connection:
        for query, values in (
            ("INSERT INTO organisations (id, name) VALUES (%s, %s) ON CONFLICT DO NOTHING", (organisation,) * 2),
            ("INSERT INTO projects (id, name, organisation) VALUES (%s, %s, %s)", (project, project, organisation)),
        ):
            await connection.execute(query, values)


async def found(store: Store, table: str, *columns: str) -> list[tuple[Any, ...]]:
    """Give some columns of every row of a table."""
    named = sql.SQL(", ").join(map(sql.Identifier, columns))
    async with store.connection() as connection:
        rows = await connection.execute(sql.SQL("SELECT {} FROM {}").format(named, sql.Identifier(table)))
        return [
            tuple(bytes(value) if isinstance(value, memoryview) else value for value in row.values())
            for row in await rows.fetchall()
        ]


def proven(vault: Vault, whose: str, purpose: str, sealed: bytes, place: str) -> bytes:
    """Open it, and prove that it says whose it is and opens as that of nobody else."""
    name = whose.encode()
    assert vault.workspace(sealed) == whose and sealed[2 : 2 + len(name)] == name
    for other in (name[:-1] + b"_", b"_" + name[1:]):
        with pytest.raises(Broken, match="does not open"):
            vault.open(purpose, sealed[:2] + other + sealed[2 + len(name) :], place)
    with pytest.raises(Broken, match="does not open"):
        vault.open(purpose, b"\x01" + sealed[2 + len(name) :], place)
    return vault.open(purpose, sealed, place)


async def age(store: Store, table: str, column: str, before: bytes, sealed: bytes) -> None:
    """Put in the place of a sealed value one that says of no organisation that it is its own."""
    assert sealed[:1] == b"\x01"
    query = sql.SQL("UPDATE {1} SET {0} = %s WHERE {0} = %s").format(sql.Identifier(column), sql.Identifier(table))
    async with store.connection() as connection:
        changed = await connection.execute(query, (sealed, before))
        assert changed.rowcount == 1
