"""Queries of a PostgreSQL: reads that the server keeps from writing, writes whose end it is asked about."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncGenerator, Mapping
from typing import Any, cast

import psycopg
from psycopg import sql as composed

from metier.calls import Principal
from metier.connectors.base import Given
from metier.connectors.effects import Commit, Confirm, Doubt, NotTaken
from metier.connectors.sql_queries import PARTS, Bounds, Query
from metier.errors import ConfigError, Invalid, MetierError, Unavailable

__all__ = ["Postgres"]

# The server measures a row before it sends it, and fails rather than send one that is too long: what has arrived has
# been in memory whole. OFFSET 0 keeps the query apart, so that it is run once, and in its own order.
_GUARD = (
    b"SELECT metier_row.* FROM (SELECT metier_asked.* FROM (",
    b"\n) AS metier_asked OFFSET 0) AS metier_row WHERE CASE WHEN octet_length((metier_row.*)::text) <= ",
    b" THEN true ELSE (octet_length((metier_row.*)::text)::text || ' bytes are too many for metier')::boolean END",
)
_WORD = re.compile(
    r"E'(?:[^'\\]|''|\\.)*'|'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|--[^\r\n]*|/\*|"
    r"(\$(?:[^\W\d]\w*)?\$).*?\1|\w[\w$]*|[;\s]+|.",
    re.DOTALL | re.IGNORECASE,
)
"""What a statement of PostgreSQL is made of, where it matters what ends it."""
_TOLD = "bytes are too many for metier"
_AROUND = 100_000
"""Bytes a row may have beside its values when it is measured; quotes in it count twice there."""


class Postgres:
    """A connection for each query, in a transaction that the server keeps from writing."""

    def __init__(self, given: Given, url: str, role: Any, bounds: Bounds) -> None:
        if role is not None and not isinstance(role, str):
            raise given.wrong(".role must be the name of a role of the database")
        self._given = given
        self._url = url
        self._role = role
        self._bounds = bounds
        self.asked = True

    def confirm(self, who: Principal) -> Confirm:
        async def committed(doubt: Doubt) -> bool | None:
            # Where it was written: another project may have another database under the same name of a secret.
            return None if doubt.mark is None else await self._status(doubt.mark, who)

        return committed

    async def read(self, query: Query, values: Mapping[str, Any], who: Principal | None) -> tuple[list[str], list[Any]]:
        async with await self._connected(who) as connection:
            try:
                await self._begun(connection, b"BEGIN TRANSACTION READ ONLY")
                # A cursor of the server: rows beyond the limit never leave it, and nothing but a query can be declared.
                async with connection.cursor("q") as cursor:
                    await cursor.execute(_guarded(query.statement, 2 * self._bounds.most_bytes + _AROUND), values)
                    columns = [column.name for column in cursor.description or ()]
                    rows = await self._fetched(connection, query)
                await connection.execute(b"ROLLBACK")
            except psycopg.Error as error:
                raise self._told(query, error) from error
            return columns, rows

    async def _fetched(self, connection: psycopg.AsyncConnection[tuple[Any, ...]], query: Query) -> list[Any]:
        """Take rows one by one as they arrive, and hang up when together they pass the bound."""
        rows, left = list[Any](), self._bounds.most_bytes
        fetch = f"FETCH FORWARD {self._bounds.rows + 1} FROM q".encode()
        async with connection.cursor() as cursor:
            stream = cast(AsyncGenerator[tuple[Any, ...], None], cursor.stream(fetch))
            async with contextlib.aclosing(stream) as arriving:
                async for row in arriving:
                    left -= _bytes(cursor.pgresult) if len(rows) < self._bounds.rows else 0
                    if left < 0:
                        await connection.close()
                        raise self._bounds.passed(query, self._given.name)
                    rows.append(row)
        return rows

    async def write(
        self, query: Query, values: Mapping[str, Any], who: Principal | None, commit: Commit
    ) -> tuple[list[str], list[Any], int]:
        async with await self._connected(who) as connection:
            try:
                await self._begun(connection, b"BEGIN")
                cursor = await connection.execute(_numbered(query.statement), values)
                if _bytes(cursor.pgresult, self._bounds.rows) > self._bounds.most_bytes:
                    # Nothing is committed: what was written goes with the connection.
                    raise self._bounds.passed(query, self._given.name)
                rows = await cursor.fetchmany(self._bounds.rows + 1) if cursor.description else []
                columns, touched = [column.name for column in cursor.description or ()], cursor.rowcount
                number = await (await connection.execute(b"SELECT pg_current_xact_id()::text")).fetchone()
            except psycopg.Error as error:
                raise self._told(query, error) from error
            assert number is not None
            await commit(str(number[0]))
            try:
                await connection.execute(b"COMMIT")
            except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                done = await self._status(str(number[0]), who)
                if done is False:
                    raise NotTaken(self._told(query, error)) from error
                if done is None:
                    raise Unavailable(f"{self._given.name!r} went away while it was writing") from error
            except psycopg.Error as error:
                # Constraints that are checked at the end: the server says that nothing was done.
                raise NotTaken(self._told(query, error), error.sqlstate or "") from error
        return columns, rows, touched

    async def _status(self, number: str, who: Principal | None) -> bool | None:
        """Ask the server how a transaction ended; None where it is still open or too old to be known."""
        try:
            async with await self._connected(who) as connection:
                found = await connection.execute(b"SELECT pg_xact_status(%s::text::xid8)", (number,))
                row = await found.fetchone()
        except (psycopg.Error, MetierError):
            return None
        return {"committed": True, "aborted": False}.get(str(row[0]) if row else "")

    async def _connected(self, who: Principal | None) -> psycopg.AsyncConnection[tuple[Any, ...]]:
        url, name = await self._given.secret(self._url, who), self._given.name
        try:
            return await psycopg.AsyncConnection.connect(url, autocommit=True, connect_timeout=10)
        except psycopg.ProgrammingError:
            # What psycopg says repeats the address, password included.
            raise ConfigError(f"the secret {self._url!r} of {name!r} is no address of a PostgreSQL") from None
        except psycopg.OperationalError as error:
            if "password" in str(error) or "role" in str(error):
                raise ConfigError(
                    f"the database of {name!r} refused our credentials: check the secret {self._url!r}"
                ) from None
            raise Unavailable(f"the database of {name!r} cannot be reached; it is tried again") from None

    async def _begun(self, connection: psycopg.AsyncConnection[tuple[Any, ...]], begin: bytes) -> None:
        await connection.execute(begin)
        limit = str(int(self._bounds.seconds * 1000))
        await connection.execute(b"SELECT set_config('statement_timeout', %s, true)", (limit,))
        if self._role is not None:
            await connection.execute(composed.SQL("SET LOCAL ROLE {}").format(composed.Identifier(self._role)))

    def _told(self, query: Query, error: psycopg.Error) -> MetierError:
        """Say what went wrong by its class: words of a database quote what was in it."""
        what, code = f"the query {query.name!r} of {self._given.name!r}", error.sqlstate or "no code"
        if isinstance(error, psycopg.errors.QueryCanceled):
            return Invalid(f"{what} took more than {self._bounds.seconds:g} s: ask for less, or raise `seconds:`")
        if isinstance(error, psycopg.errors.InvalidTextRepresentation) and _TOLD in str(error):
            return self._bounds.passed(query, self._given.name)
        if isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
            return ConfigError(f"{what} writes, and its entry does not say `write: true`: it was refused")
        if isinstance(error, psycopg.errors.InsufficientPrivilege):
            return ConfigError(f"{what} may not do that in the database: grant it, or take the query out")
        if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
            return Unavailable(f"{what}: the connection broke or the server is busy ({code}); it is tried again")
        return Invalid(f"{what} failed ({type(error).__name__}, {code}): check its sql and what it was given")


def _guarded(statement: str, most: int) -> bytes:
    """Write a query so that the server refuses to send a row of more than so many bytes."""
    begun, kept, ended = _GUARD
    return begun + _numbered(_single(statement)) + kept + str(most).encode() + ended


def _single(statement: str) -> str:
    """Give a statement without the semicolon it ends with; those between several stay, and are refused."""
    at = end = 0
    while word := _WORD.match(statement, at):
        at = word.end()
        if word[0] == "/*":
            at = _past(statement, at)
        elif not word[0].startswith("--") and word[0].strip("; \t\r\n\f\v"):
            end = at
    return statement[:end]


def _past(statement: str, at: int) -> int:
    """Find the end of a comment, with those inside it."""
    deep = 1
    for mark in re.compile(r"/\*|\*/").finditer(statement, at):
        deep += 1 if mark[0] == "/*" else -1
        if deep == 0:
            return mark.end()
    return len(statement)


def _bytes(result: psycopg.pq.abc.PGresult | None, rows: int = 1) -> int:
    """Count the bytes of the values of an answer, in as many rows as are given on."""
    if result is None:
        return 0
    return sum(
        len(result.get_value(row, column) or b"")
        for row in range(min(rows, result.ntuples))
        for column in range(result.nfields)
    )


def _numbered(statement: str) -> bytes:
    """Write :name as psycopg does, outside of quotes, comments and casts."""

    def written(match: re.Match[str]) -> str:
        return f"%({match[2].lower()})s" if match[2] else match[0].replace("%", "%%")

    return PARTS.sub(written, statement).encode()
