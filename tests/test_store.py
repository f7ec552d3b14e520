from __future__ import annotations

import asyncio
import contextlib
import re
import secrets

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from metier.errors import Broken, ConfigError, Unavailable
from metier.postgres import Embedded
from metier.store import Migration, Store
from tests.chaos.stepping import Moment, Steps, stepping
from tests.conftest import embedded_migrations


async def test_a_transaction_is_true_together_or_not_at_all(store: Store) -> None:
    async with store.transaction() as tx:
        await tx.execute("CREATE TABLE things (n int)")
    with pytest.raises(ZeroDivisionError):
        async with store.transaction() as tx:
            await tx.execute("INSERT INTO things VALUES (1)")
            raise ZeroDivisionError
    async with store.connection() as connection:
        assert await (await connection.execute("SELECT n FROM things")).fetchall() == []


async def test_migrations_apply_once_and_an_edited_one_is_noticed(store: Store) -> None:
    first = Migration("9998_first", "CREATE TABLE firsts (n int)")
    applied = await asyncio.gather(*(_migrate(store.url, first) for _ in range(4)))
    assert sorted(len(names) for names in applied) == [0, 0, 0, 1]
    with pytest.raises(Broken, match="9998_first"):
        await _migrate(store.url, Migration("9998_first", "CREATE TABLE firsts (n bigint)"))


async def test_a_database_migrated_by_a_newer_version_is_refused(store: Store) -> None:
    await _migrate(store.url, Migration("9999_later", "SELECT 1"))
    with pytest.raises(ConfigError, match="newer"):
        await _migrate(store.url)


async def test_a_notification_reaches_the_listener(store: Store) -> None:
    async with store.listen("bell") as payloads, store.connection() as connection:
        await connection.execute("SELECT pg_notify('bell', 'ding')")
        assert await anext(payloads) == "ding"


async def test_a_wrong_password_is_said_without_showing_it(store: Store) -> None:
    wrong = store.url.replace("metier:", "metier:not-the-password-", 1)
    with pytest.raises(Unavailable, match="password authentication failed") as caught:
        async with Store(wrong, size=1):
            pass
    assert "not-the-password" not in str(caught.value)


@pytest.mark.parametrize(
    ("owns", "prepared", "said"),
    [
        (True, "SELECT 1", "CREATE EXTENSION vector in this database once"),
        (True, "CREATE EXTENSION vector", None),
        (False, "CREATE EXTENSION vector", "make the role owner of the database"),
        (False, "CREATE EXTENSION vector; GRANT CREATE ON SCHEMA public TO tenant", None),
        (True, "CREATE SCHEMA apart; CREATE EXTENSION vector SCHEMA apart", "search_path of the role"),
    ],
)
async def test_a_role_without_rights_is_told_what_an_administrator_has_to_do(
    server: Embedded, owns: bool, prepared: str, said: str | None
) -> None:
    name = f"tenant_{secrets.token_hex(4)}"
    async with await psycopg.AsyncConnection.connect(server.url("postgres"), autocommit=True) as admin:
        with contextlib.suppress(psycopg.errors.DuplicateObject):
            await admin.execute("CREATE ROLE tenant LOGIN PASSWORD 'tenant'")
        await admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        if owns:
            await admin.execute(sql.SQL("ALTER DATABASE {} OWNER TO tenant").format(sql.Identifier(name)))
    async with await psycopg.AsyncConnection.connect(server.url(name), autocommit=True) as admin:
        await admin.execute(prepared.encode())
    url = re.sub(r"//metier:[^@]+@", "//tenant:tenant@", server.url(name))
    if said is None:
        assert await _migrate(url)
    else:
        with pytest.raises(ConfigError, match=said) as caught:
            await _migrate(url)
        assert "docs/howto/external-postgresql.md" in caught.value.message


async def _migrate(url: str, *more: Migration) -> list[str]:
    async with Store(url, size=2) as other:
        return await other.migrate((*embedded_migrations(), *more))


@pytest.mark.parametrize("moment", ["waiting", "ready"])
async def test_a_cancelled_batch_leaves_nothing_behind_for_the_next(store: Store, moment: Moment) -> None:
    async with Store(store.url, size=1) as narrow:

        async def batch() -> None:
            async with narrow.connection() as connection, connection.cursor() as cursor:
                await cursor.executemany("SELECT %s::int", [(1,), (2,), (3,)])

        async def cancelled(at: int) -> None:
            await stepping(batch(), Steps(), at, moment)

        for at in range(1, 12):
            await asyncio.wait([asyncio.ensure_future(cancelled(at))])
            await batch()


async def test_a_connection_is_not_lost_with_whoever_is_cancelled_on_the_way_back(store: Store) -> None:
    async with Store(store.url, size=1) as narrow:
        lent, done = asyncio.Event(), asyncio.Event()

        async def borrow() -> None:
            async with narrow.connection():
                lent.set()
                await done.wait()

        borrowing = asyncio.ensure_future(borrow())
        await lent.wait()
        # The pool keeps whoever gives back waiting while it hands another connection over.
        async with narrow._pool._lock:
            done.set()
            for _ in range(5):
                await asyncio.sleep(0)
            borrowing.cancel()
            await asyncio.wait([borrowing], timeout=0.1)
        async with asyncio.timeout(60):
            await _backend(narrow)


async def test_a_cancellation_that_psycopg_stumbles_over_stays_one(store: Store) -> None:
    async with Store(store.url, size=1) as narrow:
        with pytest.raises(asyncio.CancelledError):
            async with narrow.transaction():
                try:
                    raise asyncio.CancelledError
                finally:
                    raise AssertionError
        async with narrow.connection() as connection:
            await connection.execute("SELECT 1")


async def test_a_connection_the_server_has_closed_is_not_lent_again(store: Store) -> None:
    async with Store(store.url, size=1, trust_s=3600) as narrow:
        before = await _backend(narrow)
        assert await _backend(narrow) == before
        async with store.connection() as other:
            await other.execute("SELECT pg_terminate_backend(%s, 60000)", (before,))
        assert await _backend(narrow) != before


async def test_a_connection_that_was_told_something_is_asked_and_kept(store: Store) -> None:
    async with Store(store.url, size=1, trust_s=3600) as narrow:
        async with narrow.connection() as connection:
            await connection.execute("LISTEN bell")
        before = await _backend(narrow)
        async with store.connection() as other:
            await other.execute("SELECT pg_notify('bell', 'ding')")
        assert await _backend(narrow) == before


@pytest.mark.parametrize("trust_s", [-1, 3600])
async def test_a_connection_cut_off_in_silence_is_found_by_asking(store: Store, trust_s: float) -> None:
    known = conninfo_to_dict(store.url)
    async with Forgetful(f"{known['host']}/.s.PGSQL.{known.get('port', 5432)}") as wall:
        address = make_conninfo(store.url, host="127.0.0.1", port=wall.port, sslmode="disable")
        async with Store(address, size=1, trust_s=trust_s) as narrow:
            before = await _backend(narrow)
            wall.forget()
            if trust_s > 0:
                with pytest.raises(psycopg.OperationalError):
                    await _backend(narrow)
            assert await _backend(narrow) != before


class Reluctant:
    """Stands between a client and its server, lets one connection through, and leaves the next without an answer."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._through: list[Through] = []
        self._held: list[asyncio.StreamWriter] = []
        self.asked = asyncio.Event()

    async def open(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._through:
            self._held.append(writer)
            self.asked.set()
            return
        self._through.append(Through(reader, writer, await asyncio.open_unix_connection(self._server)))

    async def end(self) -> None:
        for through in self._through:
            await through.end()
        for writer in self._held:
            writer.transport.abort()


async def test_a_store_that_is_given_up_while_it_opens_leaves_nothing_that_takes_no_cancellation(store: Store) -> None:
    info = conninfo_to_dict(store.url)
    reluctant, before = Reluctant(f"{info['host']}/.s.PGSQL.{info.get('port', 5432)}"), asyncio.all_tasks()
    async with await asyncio.start_server(reluctant.open, "127.0.0.1", 0) as door:
        url = make_conninfo(store.url, host="127.0.0.1", port=door.sockets[0].getsockname()[1])
        opening = asyncio.ensure_future(Store(url).__aenter__())
        await asyncio.wait_for(reluctant.asked.wait(), 60)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        # What the end of a process does: it cancels what is left, once, and waits for it.
        left = {task for task in asyncio.all_tasks() - before if task.get_name().startswith("pool-")}
        for task in left:
            task.cancel()
        assert not left or not (await asyncio.wait(left, timeout=60))[1]
        await reluctant.end()


class Forgetful:
    """Stands between a client and its server, and may forget a connection: what comes then is refused, not before."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._through: list[Through] = []
        self.port = 0

    async def __aenter__(self) -> Forgetful:
        self._door = await asyncio.start_server(self._open, "127.0.0.1", 0)
        self.port = self._door.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._door.close()
        for through in self._through:
            await through.end()

    def forget(self) -> None:
        """Forget the connections there are; a client hears of it when it says something."""
        for through in self._through:
            through.forgotten = True

    async def _open(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._through.append(Through(reader, writer, await asyncio.open_unix_connection(self._server)))


class Through:
    """One connection through the wall."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        inner: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self.forgotten = False
        self._writers = (writer, inner[1])
        self._ways = [asyncio.ensure_future(self._copy(*way)) for way in ((reader, inner[1]), (inner[0], writer))]

    async def end(self) -> None:
        for way in self._ways:
            way.cancel()
        await asyncio.gather(*self._ways, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (said := await reader.read(65536)) and not self.forgotten:
            writer.write(said)
        self._writers[0].transport.abort()


async def _backend(store: Store) -> int:
    async with store.connection() as connection:
        row = await (await connection.execute("SELECT pg_backend_pid() AS pid")).fetchone()
    assert row is not None
    return int(row["pid"])
