"""The one store: PostgreSQL, embedded or external, with named queries, migrations and notifications."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.resources
import re
import select
import time
import weakref
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import psycopg
from psycopg import sql
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout

from metier.errors import Broken, ConfigError, MetierError, Unavailable
from metier.postgres import Embedded
from metier.settings import Settings

__all__ = [
    "Migration",
    "Queries",
    "Row",
    "Store",
    "Trust",
    "Tx",
    "away",
    "create_database",
    "named_queries",
    "packaged_migrations",
    "within",
]

Row: TypeAlias = dict[str, Any]
"""One row; its owner turns it into a dataclass."""

Tx: TypeAlias = psycopg.AsyncConnection[DictRow]
"""A connection inside a transaction."""

_HEADER = re.compile(r"^-- ([a-z][a-z0-9_]*) --$", re.MULTILINE)
_ADVISORY = 0x6D657469657200
_ATTEMPTS = 3
_NOT_READY = (
    psycopg.errors.FeatureNotSupported,
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.UndefinedFile,
    psycopg.errors.UndefinedObject,
)
"""What PostgreSQL says where pgvector is missing or out of reach, or the role may not make tables."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered change of the schema, applied once and never edited."""

    name: str
    sql: str

    @property
    def digest(self) -> str:
        """SHA-256 of the text, kept so that an edited migration is noticed."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def packaged_migrations() -> tuple[Migration, ...]:
    """Return the migrations carried by this package, in their order."""
    folder = importlib.resources.files("metier.sql") / "migrations"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".sql")), key=lambda f: f.name)
    return tuple(Migration(f.name.removesuffix(".sql"), f.read_text(encoding="utf-8")) for f in files)


def named_queries(owner: str) -> dict[str, str]:
    """Read `sql/queries/<owner>.sql` into name → statement; each block is `-- name --`, a comment, the SQL."""
    text = (importlib.resources.files("metier.sql") / "queries" / f"{owner}.sql").read_text(encoding="utf-8")
    heads = list(_HEADER.finditer(text))
    ends = [head.start() for head in heads[1:]] + [len(text)]
    found: dict[str, str] = {}
    for head, end in zip(heads, ends, strict=True):
        if head[1] in found:
            raise Broken(f"query {head[1]!r} appears twice in {owner!r}")
        found[head[1]] = text[head.end() : end].strip().rstrip(";")
    return found


class Trust:
    """Finds out whether a connection is still one before a pool lends it, mostly without asking the server.

    One that was closed, or told something, has something to read. What was cut off in silence, by a machine that is
    gone or a firewall that forgets the idle, is found by asking alone; soon after it was last lent that is rarer than
    the asking is dear.
    """

    def __init__(self, for_s: float) -> None:
        self._for_s = for_s
        self._lent: weakref.WeakKeyDictionary[object, float] = weakref.WeakKeyDictionary()

    async def __call__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        """Ask the server for a sign of life, except where the connection was lent a moment ago and is silent."""
        now = time.monotonic()
        last = self._lent.get(connection)
        if last is None or now - last > self._for_s or _readable(connection):
            await AsyncConnectionPool.check_connection(connection)
        self._lent[connection] = now


class Store:
    """A pool of connections to one database; open it with `async with Store.open(settings)`."""

    def __init__(self, url: str, *, size: int = 10, trust_s: float = 1.0) -> None:
        self._url = url
        self.usable = Trust(trust_s)
        """For other pools of connections to the same database."""
        self._pool: AsyncConnectionPool[Tx] = AsyncConnectionPool(
            url,
            min_size=1,
            max_size=size,
            timeout=20,
            # Tries come ever more seldom within this time: after a long outage nobody shall wait for the next one.
            reconnect_timeout=20,
            open=False,
            check=self.usable,
            connection_class=psycopg.AsyncConnection[DictRow],
            kwargs={"row_factory": dict_row, "autocommit": True},
        )

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, settings: Settings, *, size: int = 10) -> AsyncIterator[Store]:
        """Start or reach the database of the settings, and close it again at the end."""
        embedded: Embedded | None = None
        url = settings.database_url
        if url is None:
            embedded = Embedded(settings.home)
            await asyncio.to_thread(embedded.start)
            await create_database(embedded.url("postgres"), "metier")
            url = embedded.url()
        try:
            async with cls(url, size=size) as store:
                yield store
        finally:
            if embedded is not None:
                await asyncio.to_thread(embedded.stop)

    async def __aenter__(self) -> Store:
        try:
            probe = await psycopg.AsyncConnection.connect(self._url, connect_timeout=10)
        except psycopg.OperationalError as error:
            reason = str(error).strip().splitlines()[-1]
            raise Unavailable(
                f"the database at {self.where()} does not answer: {reason}; check METIER_DATABASE_URL"
            ) from error
        except psycopg.ProgrammingError:
            # What it says repeats the address, password included.
            raise ConfigError(
                "METIER_DATABASE_URL is no address of a PostgreSQL: write postgresql://user:password@host:5432/database"
            ) from None
        await probe.close()
        try:
            await self._pool.open(wait=True, timeout=20)
        except BaseException:
            # Half open, its tasks would outlive even the end of the process: they take no cancellation.
            await self._pool.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pool.close()

    @property
    def url(self) -> str:
        """Connection URL, password included: for other libraries, never for people."""
        return self._url

    def where(self) -> str:
        """Name the database without its password."""
        info = psycopg.conninfo.conninfo_to_dict(self._url)
        return f"{info.get('host', 'localhost')}/{info.get('dbname', '')}"

    def queries(self, owner: str) -> Queries:
        """Give the named queries of one table owner."""
        return Queries(self, owner)

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[Tx]:
        """Lend a connection in autocommit; never keep one while a provider answers."""
        try:
            # Not `pool.connection()`: all our transactions are blocks of their own, and none is left to commit.
            connection = await self._pool.getconn()
            try:
                yield connection
            except BaseException as error:
                # Behind a cancellation psycopg may leave a pipeline open or an answer unread, for the next to find.
                if not isinstance(error, psycopg.Error | MetierError):
                    await connection.close()
                if isinstance(error, AssertionError) and isinstance(error.__context__, asyncio.CancelledError):
                    # Cancelled on its way into a batch, psycopg stumbles over its own checks.
                    raise error.__context__ from None
                raise
            finally:
                # Cancelled on its way back, it would be lost for good, and so would the turn of whoever waits for it.
                back = asyncio.ensure_future(self._pool.putconn(connection))
                try:
                    await asyncio.shield(back)
                except asyncio.CancelledError:
                    # It is back in a moment; a database that is away is not waited for.
                    await asyncio.wait([back], timeout=1.0)
                    raise
        except PoolTimeout as error:
            raise Unavailable(f"no connection to the database at {self.where()} within 20 s: try again") from error

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Tx]:
        """What is done inside is true together or not at all."""
        async with self.connection() as connection, connection.transaction():
            yield connection

    async def line(self) -> Tx:
        """Open a connection beside the pool, in autocommit, for whoever cannot wait for one; close it."""
        return await psycopg.AsyncConnection.connect(self._url, autocommit=True, row_factory=dict_row)

    @contextlib.asynccontextmanager
    async def listen(self, channel: str) -> AsyncIterator[AsyncIterator[str]]:
        """Yield the payloads sent to a channel from now on, over a connection of its own."""
        connection = await self.line()
        try:
            await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
            yield _payloads(connection)
        finally:
            await connection.close()

    async def migrate(self, extra: Sequence[Migration] = ()) -> list[str]:
        """Apply the missing migrations under an advisory lock; `extra` are those of libraries we embed."""
        known = sorted((*packaged_migrations(), *extra), key=lambda m: m.name)
        async with self.connection() as connection:
            await connection.execute("SELECT pg_advisory_lock(%s)", (_ADVISORY,))
            try:
                return await _apply(connection, known)
            finally:
                await connection.execute("SELECT pg_advisory_unlock(%s)", (_ADVISORY,))


class Queries:
    """The named statements of one owner, run by name with named parameters."""

    def __init__(self, store: Store, owner: str) -> None:
        self._store = store
        self._owner = owner
        self._statements = {name: text.encode() for name, text in named_queries(owner).items()}

    async def one(self, name: str, params: Mapping[str, object] | None = None, tx: Tx | None = None) -> Row | None:
        """Run a query and give its first row, or None."""
        async with self._on(tx) as connection:
            return await (await self._execute(connection, name, params)).fetchone()

    async def all(self, name: str, params: Mapping[str, object] | None = None, tx: Tx | None = None) -> list[Row]:
        """Run a query and give every row."""
        async with self._on(tx) as connection:
            return await (await self._execute(connection, name, params)).fetchall()

    async def run(self, name: str, params: Mapping[str, object] | None = None, tx: Tx | None = None) -> int:
        """Run a statement and give the number of rows it touched."""
        async with self._on(tx) as connection:
            return (await self._execute(connection, name, params)).rowcount

    async def many(self, name: str, rows: Sequence[Mapping[str, object]], tx: Tx | None = None) -> None:
        """Run a statement once per row, in one batch."""
        async with self._on(tx) as connection, connection.cursor() as cursor:
            await cursor.executemany(self._statement(name), rows)

    async def _execute(
        self, connection: Tx, name: str, params: Mapping[str, object] | None
    ) -> psycopg.AsyncCursor[DictRow]:
        return await connection.execute(self._statement(name), params or {})

    def _statement(self, name: str) -> bytes:
        try:
            return self._statements[name]
        except KeyError:
            raise Broken(f"no query {name!r} in sql/queries/{self._owner}.sql") from None

    @contextlib.asynccontextmanager
    async def _on(self, tx: Tx | None) -> AsyncIterator[Tx]:
        if tx is not None:
            yield tx
            return
        async with self._store.connection() as connection:
            yield connection


def away(error: BaseException) -> bool:
    """Tell a database that went away, or the error one makes of it, from one that refuses what it was asked."""
    if isinstance(error, BaseExceptionGroup):
        return all(away(one) for one in error.exceptions)
    cause: BaseException | None = error
    while isinstance(cause, MetierError):
        cause = cause.__cause__
    if not isinstance(cause, psycopg.OperationalError) or isinstance(cause, PoolClosed):
        return False
    # No state: the connection broke. 08: it cannot be made. 57P: the server stops, crashed or starts.
    return cause.sqlstate is None or cause.sqlstate.startswith(("08", "57P"))


@contextlib.asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    """Give the database so long to answer; one that does not is away, like one that breaks the connection."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise psycopg.errors.ConnectionTimeout(f"the database did not answer within {seconds:g} s") from error


async def create_database(url: str, name: str, *, template: str | None = None) -> None:
    """Create a database if it is not there, through a connection to another one."""
    connection = await psycopg.AsyncConnection.connect(url, autocommit=True)
    try:
        found = await (await connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,))).fetchone()
        if found is None:
            # Copied as files: through the buffers, as is usual, a clone takes twice the time.
            how = sql.SQL(" TEMPLATE {} STRATEGY FILE_COPY")
            base = how.format(sql.Identifier(template)) if template else sql.SQL("")
            with contextlib.suppress(psycopg.errors.DuplicateDatabase):
                await connection.execute(sql.SQL("CREATE DATABASE {}{}").format(sql.Identifier(name), base))
    finally:
        await connection.close()


def _readable(connection: psycopg.AsyncConnection[Any]) -> bool:
    look = select.poll()
    look.register(connection.fileno(), select.POLLIN)
    return bool(look.poll(0))


async def _payloads(connection: Tx) -> AsyncIterator[str]:
    async for notification in connection.notifies():
        yield notification.payload


def _unready(what: str, error: psycopg.Error) -> ConfigError:
    """Say what an administrator has to do in a database that does not let us make our tables."""
    reason = str(error).strip().splitlines()[0]
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        advice = (
            "have an administrator run CREATE EXTENSION vector in this database once"
            if "extension" in reason
            else "make the role owner of the database, or have an administrator grant it what is missing"
        )
    elif isinstance(error, psycopg.errors.UndefinedObject):
        advice = "pgvector has to be 0.7 or newer, in a schema that stands in the search_path of the role"
    else:
        advice = "is pgvector installed on the server?"
    return ConfigError(f"{what} failed: {reason}; {advice} (docs/howto/external-postgresql.md)")


async def _apply(connection: Tx, known: Sequence[Migration]) -> list[str]:
    try:
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS migrations ("
            "name text PRIMARY KEY, digest text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
        )
    except psycopg.errors.InsufficientPrivilege as error:
        raise _unready("making the first table", error) from error
    rows = await (await connection.execute("SELECT name, digest FROM migrations")).fetchall()
    done = {row["name"]: row["digest"] for row in rows}
    unknown = sorted(set(done) - {m.name for m in known})
    if unknown:
        raise ConfigError(f"the database was migrated by a newer Métier (it has {unknown[-1]!r}): install that version")
    applied = []
    for migration in known:
        if migration.name in done:
            if done[migration.name] != migration.digest:
                raise Broken(f"migration {migration.name!r} was edited after it was applied: restore its text")
            continue
        try:
            async with connection.transaction():
                await connection.execute(migration.sql.encode())
                await connection.execute(
                    "INSERT INTO migrations (name, digest) VALUES (%s, %s)", (migration.name, migration.digest)
                )
        except _NOT_READY as error:
            raise _unready(f"migration {migration.name!r}", error) from error
        applied.append(migration.name)
    return applied
