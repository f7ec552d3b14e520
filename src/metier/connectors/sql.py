"""`kind: sql`: named queries of a PostgreSQL or SQLite database, read only by the database's own rules."""

from __future__ import annotations

import asyncio
import base64
import datetime
import pathlib
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import orjson
import psycopg
from psycopg import sql as composed

from metier.calls import JSON, Principal
from metier.connectors.base import Connector, Effect, Given, ToolSpec, schema_of, whole
from metier.connectors.effects import Commit, Confirm, Deed, Doubt, NotTaken, unknowable
from metier.deferred import deferred
from metier.errors import ConfigError, Invalid, MetierError, NotFound, Unavailable

if TYPE_CHECKING:
    import sqlite3
else:
    sqlite3 = deferred("sqlite3")

__all__ = ["Query", "Sql", "sql"]

_NAMED = re.compile(r"[a-z][a-z0-9_]{0,62}", re.ASCII)
_INNER = frozenset({"description", "sql", "input", "write"})
# Quoted text, quoted names, comments and dollar quotes are left as they are; casts are no parameters.
_PARTS = re.compile(
    r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|--[^\n]*|/\*.*?\*/|(\$\w*\$).*?\1|::|%|(?<![:\w]):([a-z_][a-z0-9_]*)",
    re.DOTALL | re.IGNORECASE,
)
_BUSY_MS = 5_000


@dataclass(frozen=True, slots=True)
class Query:
    """One statement of the configuration."""

    name: str
    description: str
    statement: str
    """With :name where a parameter stands."""
    schema: Mapping[str, JSON]
    write: bool = False


@dataclass(frozen=True, slots=True)
class _Bounds:
    rows: int
    seconds: float


class _Database(Protocol):
    asked: bool
    """Whether it can say how a write in doubt has ended."""

    def confirm(self, who: Principal) -> Confirm:
        """Give what asks, in the name of who wrote, how a write has ended."""
        ...

    async def read(self, query: Query, values: Mapping[str, Any], who: Principal | None) -> tuple[list[str], list[Any]]:
        """Give names of columns and rows, one more than allowed where there are more."""
        ...

    async def write(
        self, query: Query, values: Mapping[str, Any], who: Principal | None, commit: Commit
    ) -> tuple[list[str], list[Any], int]:
        """Give names of columns, rows given back, and how many were touched."""
        ...


def sql(given: Given) -> Connector:
    """Make the connector from `database` (a file) or `url` (the name of a secret), and its `queries`."""
    given.known("url file queries rows seconds role")
    options = given.options
    file, url, section = options.get("file"), options.get("url"), options.get("queries")
    if isinstance(file, str) == isinstance(url, str):
        raise given.wrong(" needs one of file (a SQLite database) and url (the name of the secret that holds it)")
    if not isinstance(section, dict) or not section:
        raise given.wrong(" needs queries: a name for each, with its sql")
    bounds = _Bounds(int(whole(options, "rows", 1_000, 100_000)), whole(options, "seconds", 10, 600))
    queries = [_query(given, str(name), one) for name, one in section.items()]
    database: _Database
    if isinstance(file, str):
        database = _Sqlite(given.name, pathlib.Path(file), bounds)
    else:
        database = _Postgres(given, str(url), options.get("role"), bounds)
    return Sql(given, database, bounds, queries)


def _query(given: Given, name: str, section: Any) -> Query:
    where = f".queries.{name}"
    if not _NAMED.fullmatch(name) or not isinstance(section, dict) or not isinstance(section.get("sql"), str):
        raise given.wrong(f"{where}: give a name of a-z, 0-9 and _, and its sql")
    unknown = sorted(section.keys() - _INNER)
    if unknown or not isinstance(section.get("write", False), bool):
        raise given.wrong(f"{where} takes description, sql, input and write: true or false")
    schema = schema_of(section.get("input"), f"connectors.{given.name}{where}.input")
    named = {match[2].lower() for match in _PARTS.finditer(section["sql"]) if match[2]}
    fields = schema.get("properties")
    if named != set(fields if isinstance(fields, dict) else ()):
        raise given.wrong(f"{where}: its sql has the parameters {sorted(named)}, `input` must name the same")
    described = str(section.get("description") or f"The query {name!r}.")
    return Query(name, described, section["sql"], schema, section.get("write", False))


class Sql:
    """Gives one tool for each query; what writes does so once for each key."""

    def __init__(self, given: Given, database: _Database, bounds: _Bounds, queries: Sequence[Query]) -> None:
        self._given = given
        self._database = database
        self._bounds = bounds
        self._queries = {query.name: query for query in queries}

    async def tools(self) -> Sequence[ToolSpec]:
        """Give one tool for each query."""
        return [self._tool(query) for query in self._queries.values()]

    async def preview(self, operation: str, with_: Mapping[str, JSON]) -> Mapping[str, JSON]:
        """Show the statement and its parameters, without running it."""
        found = self._queries.get(operation)
        if found is None:
            raise NotFound(f"{self._given.name!r} has no query {operation!r}: it has {sorted(self._queries)}")
        doubt = "the database is asked, else a person" if self._database.asked else "a person"
        shown: dict[str, JSON] = {"sql": found.statement, "parameters": dict(with_), "effect": found.write}
        return shown | {"rows": self._bounds.rows, "seconds": self._bounds.seconds, "doubt": doubt}

    async def probe(self) -> str:
        """Connect and read nothing."""
        await self._database.read(Query("probe", "", "SELECT 1", {}), {}, None)
        return f"the database of {self._given.name!r} answers; it is opened for reading only"

    async def close(self) -> None:
        """Nothing is held between queries."""

    def _tool(self, query: Query) -> ToolSpec:
        name = f"{self._given.name}.{query.name}"

        async def read(effect: Effect, with_: dict[str, JSON]) -> JSON:
            values = _values(query, with_)
            columns, rows = await self._database.read(query, values, effect.principal)
            return self._answer(columns, rows)

        async def write(effect: Effect, with_: dict[str, JSON]) -> JSON:
            async def transmit(kept: bytes, _: str, commit: Commit) -> JSON:
                values = orjson.loads(kept)["parameters"]
                columns, rows, touched = await self._database.write(query, values, effect.principal, commit)
                return self._answer(columns, rows) | {"touched": touched}

            content = orjson.dumps({"sql": query.statement, "parameters": _values(query, with_)})
            confirm = self._database.confirm(effect.principal)
            deed = Deed(name, self._given.name, content, transmit, confirm)
            return await self._given.effects.once(effect.key, deed, effect.principal.organisation)

        return ToolSpec(name, query.description, query.schema, query.write, write if query.write else read)

    def _answer(self, columns: list[str], rows: list[Any]) -> dict[str, JSON]:
        kept: list[JSON] = [
            {name: _plain(value) for name, value in zip(columns, row, strict=True)} for row in rows[: self._bounds.rows]
        ]
        return {"rows": kept, "truncated": len(rows) > self._bounds.rows}


class _Postgres:
    """A connection for each query, in a transaction that the server keeps from writing."""

    def __init__(self, given: Given, url: str, role: Any, bounds: _Bounds) -> None:
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
                    await cursor.execute(_numbered(query.statement), values)
                    rows = await cursor.fetchmany(self._bounds.rows + 1)
                    columns = [column.name for column in cursor.description or ()]
                await connection.execute(b"ROLLBACK")
            except psycopg.Error as error:
                raise self._told(query, error) from error
            return columns, rows

    async def write(
        self, query: Query, values: Mapping[str, Any], who: Principal | None, commit: Commit
    ) -> tuple[list[str], list[Any], int]:
        async with await self._connected(who) as connection:
            try:
                await self._begun(connection, b"BEGIN")
                cursor = await connection.execute(_numbered(query.statement), values)
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
        if isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
            return ConfigError(f"{what} writes, and its entry does not say `write: true`: it was refused")
        if isinstance(error, psycopg.errors.InsufficientPrivilege):
            return ConfigError(f"{what} may not do that in the database: grant it, or take the query out")
        if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
            return Unavailable(f"{what}: the connection broke or the server is busy ({code}); it is tried again")
        return Invalid(f"{what} failed ({type(error).__name__}, {code}): check its sql and what it was given")


class _Sqlite:
    """A file opened for each query; for reading it is opened as unchangeable by SQLite itself."""

    def __init__(self, name: str, file: pathlib.Path, bounds: _Bounds) -> None:
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
            rows = cursor.fetchmany(self._bounds.rows + 1) if cursor.description else []
            return [column[0] for column in cursor.description or ()], rows, cursor.rowcount
        except OverflowError:
            raise Invalid(f"the query {query.name!r} of {self._name!r} was given a number beyond 64 bits") from None
        except sqlite3.Error as error:
            raise self._told(query, error) from error

    def _told(self, query: Query, error: sqlite3.Error) -> MetierError:
        what, code = f"the query {query.name!r} of {self._name!r}", getattr(error, "sqlite_errorname", "no code")
        if code == "SQLITE_INTERRUPT":
            return Invalid(f"{what} took more than {self._bounds.seconds:g} s: ask for less, or raise `seconds:`")
        if code in ("SQLITE_AUTH", "SQLITE_READONLY"):
            return ConfigError(f"{what} writes, and its entry does not say `write: true`: it was refused")
        if code in ("SQLITE_BUSY", "SQLITE_LOCKED"):
            return Unavailable(f"{what}: somebody else is writing; it is tried again")
        return Invalid(f"{what} failed ({type(error).__name__}, {code}): check its sql and what it was given")


def _only_reads(action: int, first: str | None, second: str | None, base: str | None, inner: str | None) -> int:
    """What SQLite asks before it prepares a statement: reading, and functions but those that reach files."""
    if action == sqlite3.SQLITE_FUNCTION:
        return sqlite3.SQLITE_DENY if (second or "").lower() == "load_extension" else sqlite3.SQLITE_OK
    allowed = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE)
    return sqlite3.SQLITE_OK if action in allowed else sqlite3.SQLITE_DENY


def _numbered(statement: str) -> bytes:
    """Write :name as psycopg does, outside of quotes, comments and casts."""

    def written(match: re.Match[str]) -> str:
        return f"%({match[2].lower()})s" if match[2] else match[0].replace("%", "%%")

    return _PARTS.sub(written, statement).encode()


def _values(query: Query, with_: Mapping[str, JSON]) -> dict[str, Any]:
    """Give every parameter a value; lists stay lists, objects become JSON text."""
    fields = query.schema.get("properties")
    given = {name: with_.get(name) for name in (fields if isinstance(fields, dict) else ())}
    return {name: orjson.dumps(one).decode() if isinstance(one, dict) else one for name, one in given.items()}


def _plain(value: Any) -> JSON:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        # JSON has no words for what is no number.
        return value if value - value == 0 else None
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, bytes | memoryview):
        return base64.b64encode(value).decode()
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, Sequence | set | frozenset):
        return [_plain(one) for one in value]
    return str(value)
