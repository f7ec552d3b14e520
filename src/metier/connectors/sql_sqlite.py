"""Queries of a SQLite file: for reading it is opened as unchangeable by SQLite itself."""

from __future__ import annotations

import asyncio
import itertools
import pathlib
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from metier.calls import Principal
from metier.connectors.effects import Commit, Confirm, NotTaken, unknowable
from metier.connectors.sql_queries import Bounds, Query
from metier.deferred import deferred
from metier.errors import ConfigError, Invalid, MetierError, Unavailable

if TYPE_CHECKING:
    import sqlite3
else:
    sqlite3 = deferred("sqlite3")

__all__ = ["Sqlite"]

_BUSY_MS = 5_000
_DESCRIBED = 100_000
"""Bytes the description of a table may take, and a value beside what is answered, however little that may be."""
_WRITTEN = 100_000_000
"""Bytes of one value that a write may move within the file, whatever it gives back."""


class Sqlite:
    """A file opened for each query; for reading it is opened as unchangeable by SQLite itself."""

    def __init__(self, name: str, file: pathlib.Path, bounds: Bounds) -> None:
        self._name = name
        self._file = file
        self._bounds = bounds
        self.asked = False

    def confirm(self, who: Principal) -> Confirm:
        return unknowable

    async def read(self, query: Query, values: Mapping[str, Any], who: Principal | None) -> tuple[list[str], list[Any]]:
        return await asyncio.to_thread(self._read, query, values)

    async def write(
        self, query: Query, values: Mapping[str, Any], who: Principal | None, commit: Commit
    ) -> tuple[list[str], list[Any], int]:
        connection = await asyncio.to_thread(self._opened, "rw")
        try:
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _WRITTEN)
            found = await asyncio.to_thread(self._run, connection, query, values)
            await commit()
            try:
                await asyncio.to_thread(connection.commit)
            except sqlite3.OperationalError as error:
                raise NotTaken(self._told(query, error)) from error
            return found
        finally:
            # A transaction that was not committed ends with its connection.
            await asyncio.shield(asyncio.to_thread(connection.close))

    def _read(self, query: Query, values: Mapping[str, Any]) -> tuple[list[str], list[Any]]:
        connection = self._opened("ro")
        try:
            connection.set_authorizer(_only_reads)
            # Of what the query goes through, not of what it is asked with: tables may be described at length.
            asked = max(len(query.statement.encode()), _DESCRIBED, *map(_bytes, values.values()))
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, max(self._bounds.most_bytes, asked))
            columns, rows, _ = self._run(connection, query, values)
            return columns, rows
        finally:
            connection.close()

    def _opened(self, mode: str) -> sqlite3.Connection:
        try:
            made = sqlite3.connect(
                f"{self._file.absolute().as_uri()}?mode={mode}", uri=True, timeout=_BUSY_MS / 1000,
                check_same_thread=False,
            )  # fmt: skip
        except sqlite3.OperationalError:
            raise ConfigError(
                f"the file {str(self._file)!r} of {self._name!r} cannot be opened: check `file:`"
            ) from None
        return made

    def _run(
        self, connection: sqlite3.Connection, query: Query, values: Mapping[str, Any]
    ) -> tuple[list[str], list[Any], int]:
        end = time.monotonic() + self._bounds.seconds

        def late() -> int:
            return int(time.monotonic() > end)

        connection.set_progress_handler(late, 10_000)
        try:
            cursor = connection.execute(query.statement, values)
            rows = self._fetched(cursor, query)
            return [column[0] for column in cursor.description or ()], rows, cursor.rowcount
        except OverflowError:
            raise Invalid(f"the query {query.name!r} of {self._name!r} was given a number beyond 64 bits") from None
        except sqlite3.Error as error:
            raise self._told(query, error) from error

    def _fetched(self, cursor: sqlite3.Cursor, query: Query) -> list[Any]:
        """Take rows one by one until there are enough, or until together they pass the bound."""
        rows, left = list[Any](), self._bounds.most_bytes
        for row in itertools.islice(cursor, self._bounds.rows + 1):
            left -= sum(map(_bytes, row)) if len(rows) < self._bounds.rows else 0
            if left < 0:
                raise self._bounds.passed(query, self._name)
            rows.append(row)
        return rows

    def _told(self, query: Query, error: sqlite3.Error) -> MetierError:
        what, code = f"the query {query.name!r} of {self._name!r}", getattr(error, "sqlite_errorname", "no code")
        if code == "SQLITE_INTERRUPT":
            return Invalid(f"{what} took more than {self._bounds.seconds:g} s: ask for less, or raise `seconds:`")
        if code == "SQLITE_TOOBIG":
            return self._bounds.passed(query, self._name)
        if code in ("SQLITE_AUTH", "SQLITE_READONLY"):
            return ConfigError(f"{what} writes, and its entry does not say `write: true`: it was refused")
        if code in ("SQLITE_BUSY", "SQLITE_LOCKED"):
            return Unavailable(f"{what}: somebody else is writing; it is tried again")
        return Invalid(f"{what} failed ({type(error).__name__}, {code}): check its sql and what it was given")


def _bytes(value: Any) -> int:
    """Count the bytes of a value as it stands in the file; numbers as the longest of them."""
    if isinstance(value, str):
        return len(value) if value.isascii() else len(value.encode("utf-8", "surrogatepass"))
    return len(value) if isinstance(value, bytes) else 8


def _only_reads(action: int, first: str | None, second: str | None, base: str | None, inner: str | None) -> int:
    """What SQLite asks before it prepares a statement: reading, and functions but those that reach files."""
    if action == sqlite3.SQLITE_FUNCTION:
        return sqlite3.SQLITE_DENY if (second or "").lower() == "load_extension" else sqlite3.SQLITE_OK
    allowed = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE)
    return sqlite3.SQLITE_OK if action in allowed else sqlite3.SQLITE_DENY
