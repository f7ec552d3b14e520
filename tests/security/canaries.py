"""Secrets that nobody else has, and the search for them wherever something is written down."""

from __future__ import annotations

import base64
import hashlib
import logging
import pathlib
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

from psycopg import sql
from psycopg.rows import dict_row

from metier.store import Store

__all__ = ["Canaries", "dumped", "files", "logged"]


@dataclass(slots=True)
class Canaries:
    """Distinct random secrets by what they are, each looked for in every spelling that gives it away."""

    found: dict[str, str] = field(default_factory=dict)
    leaks: set[tuple[str, str, str]] = field(default_factory=set)
    """What, in which spelling, where."""

    def new(self, what: str, prefix: str = "canary") -> str:
        """Make one."""
        self.found[what] = f"{prefix}{secrets.token_hex(16)}"
        return self.found[what]

    def keep(self, what: str, secret: str) -> None:
        """Take one that somebody else made."""
        self.found[what] = secret

    def look(self, where: str, data: bytes, but: Iterable[str] = ()) -> None:
        """Search some bytes."""
        lower = data.lower()
        for what, secret in self.found.items():
            if what in but:
                continue
            for spelling, form in _spellings(secret):
                if form.lower() in lower:
                    self.leaks.add((what, spelling, where))

    def none(self) -> None:
        """Nothing was found."""
        assert not self.leaks, "\n".join(f"{what} ({spelling}) in {where}" for what, spelling, where in self.leaks)


def _spellings(secret: str) -> list[tuple[str, bytes]]:
    raw = secret.encode()
    return [
        ("clear", raw),
        ("half of it", raw[len(raw) // 2 - 8 : len(raw) // 2 + 8]),
        ("percent", quote(secret, safe="").encode()),
        ("base64", base64.b64encode(raw)[:-4]),
        ("hex", raw.hex().encode()),
        ("plain sha256", hashlib.sha256(raw).hexdigest().encode()),
        ("plain sha256, raw", base64.b64encode(hashlib.sha256(raw).digest())),
        ("plain md5", hashlib.md5(raw, usedforsecurity=False).hexdigest().encode()),
    ]


async def dumped(store: Store) -> Mapping[str, bytes]:
    """Every column of every table as text; bytes also as they are."""
    found: dict[str, bytes] = {}
    async with store.connection() as connection:
        cursor = connection.cursor(row_factory=dict_row)
        await cursor.execute(
            "SELECT table_schema, table_name FROM information_schema.tables "
            "WHERE table_schema NOT IN ('pg_catalog', 'information_schema') AND table_type = 'BASE TABLE'"
        )
        for table in await cursor.fetchall():
            name = sql.Identifier(table["table_schema"], table["table_name"])
            await cursor.execute(sql.SQL("SELECT t.*, t::text AS whole FROM {} t").format(name))
            lines = []
            for row in await cursor.fetchall():
                lines += [value if isinstance(value, bytes) else str(value).encode() for value in row.values()]
            found[table["table_name"]] = b"\n".join(lines)
    return found


def files(folder: pathlib.Path, but: Iterable[str] = ()) -> Mapping[str, bytes]:
    """Every file under a folder, but for those named."""
    aside = set(but)
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in aside
    }


def logged(records: Iterable[logging.LogRecord]) -> bytes:
    """Everything that was logged at any level, with the traces of exceptions."""
    formatter = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    return "\n".join(formatter.format(record) for record in records).encode("utf-8", "replace")
