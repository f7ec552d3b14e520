"""The connector to databases: read only by the database's own rules, bounded, and writing exactly once."""

from __future__ import annotations

import pathlib
import sqlite3
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

from metier.calls import JSON
from metier.connectors.base import Given
from metier.connectors.effects import Effects
from metier.connectors.secrets import Secrets
from metier.connectors.sql import sql
from metier.connectors.tools import Toolbox
from metier.errors import ConfigError, Invalid, MetierError, NotFound, Unavailable
from metier.store import Store
from metier.vault import Vault
from tests.connectors.place import Place, box

QUERIES: dict[str, Any] = {
    "orders": {
        "sql": "SELECT id, total FROM orders WHERE customer = :customer AND note <> ':x%' ORDER BY id -- :y",
        "input": {"customer": "string"},
    },
    "all": {"sql": "SELECT id FROM orders"},
    "sneaky": {"sql": "DELETE FROM orders"},
    "add": {
        "sql": "INSERT INTO orders VALUES (:id, :customer, 1, '')",
        "input": {"id": "integer", "customer": "string"},
        "write": True,
    },
}
TABLE = "CREATE TABLE orders (id integer PRIMARY KEY, customer text, total integer, note text)"
ROWS = "INSERT INTO orders VALUES (1, 'ada', 10, ''), (2, 'ada', 20, ''), (3, 'ben', 30, '')"


@pytest.fixture(params=["postgresql", "sqlite"])
async def shop(
    request: pytest.FixtureRequest, store: Store, vault: Vault, tmp_path: pathlib.Path
) -> AsyncIterator[Toolbox]:
    if request.param == "sqlite":
        made = sqlite3.connect(tmp_path / "shop.db")
        made.execute(TABLE)
        made.execute(ROWS)
        made.commit()
        made.close()
        yield box(store, vault, shop={"kind": "sql", "file": str(tmp_path / "shop.db"), "queries": QUERIES, "rows": 2})
        return
    async with store.connection() as connection:
        await connection.execute(TABLE.encode())
        await connection.execute(ROWS.encode())
    await Secrets.built(store, vault).set("shop-url", store.url, scope=["shop"], by="ada")
    yield box(store, vault, shop={"kind": "sql", "url": "shop-url", "queries": QUERIES, "rows": 2})


async def call(made: Toolbox, name: str, with_: dict[str, JSON], key: str = "run_1/q") -> JSON:
    return await made[name](Place(key), with_)


async def test_a_query_is_answered_with_its_parameters(shop: Toolbox) -> None:
    found = await call(shop, "shop.orders", {"customer": "ada"})
    assert found == {"rows": [{"id": 1, "total": 10}, {"id": 2, "total": 20}], "truncated": False}
    assert await call(shop, "shop.orders", {"customer": "' OR 1=1 --"}) == {"rows": [], "truncated": False}
    with pytest.raises(Invalid, match="does not fit its schema"):
        await call(shop, "shop.orders", {"customer": 3})


async def test_no_more_rows_are_given_than_allowed(shop: Toolbox) -> None:
    found = await call(shop, "shop.all", {})
    assert isinstance(found, dict) and found["truncated"] is True and len(str(found["rows"]).split("id")) == 3


async def test_a_query_that_does_not_say_that_it_writes_cannot(shop: Toolbox) -> None:
    with pytest.raises(MetierError) as refused:
        await call(shop, "shop.sneaky", {})
    assert "write: true" in str(refused.value) or "check its sql" in str(refused.value)
    found = await call(shop, "shop.orders", {"customer": "ben"})
    assert found == {"rows": [{"id": 3, "total": 30}], "truncated": False}


async def test_what_writes_does_so_once_for_a_key(shop: Toolbox) -> None:
    first = await call(shop, "shop.add", {"id": 9, "customer": "eve"})
    assert first == {"rows": [], "truncated": False, "touched": 1}
    assert await call(shop, "shop.add", {"id": 9, "customer": "eve"}) == first
    with pytest.raises(Invalid, match="failed") as refused:
        await call(shop, "shop.add", {"id": 9, "customer": "canary-eve"}, "run_2/q")
    assert "canary" not in str(refused.value)
    found = await call(shop, "shop.orders", {"customer": "eve"})
    assert found == {"rows": [{"id": 9, "total": 1}], "truncated": False}


async def test_what_would_be_done_is_shown(shop: Toolbox) -> None:
    connector = shop.connector("shop")
    shown = await connector.preview("add", {"id": 9, "customer": "eve"})
    assert shown["effect"] is True and shown["parameters"] == {"id": 9, "customer": "eve"}
    assert "answers" in await connector.probe()
    with pytest.raises(NotFound):
        await connector.preview("none", {})
    assert [spec.effect for spec in await connector.tools()] == [False, False, False, True]


@pytest.mark.parametrize(
    "statement",
    [
        "WITH gone AS (DELETE FROM orders RETURNING id) SELECT id FROM gone",
        "SELECT id FROM orders; DELETE FROM orders",
        "SELECT set_config('transaction_read_only', 'off', true)",
        "SELECT nextval('numbers')",
        "COMMIT",
        "SELECT lo_create(4711)",
        "SELECT 1; COMMIT; DELETE FROM orders; BEGIN",
        "SELECT 1; COPY orders TO PROGRAM 'true'",
        "COPY (SELECT 1) TO PROGRAM 'true'",
        "SELECT query_to_xml('DELETE FROM orders', true, true, '')",
    ],
)
async def test_postgresql_itself_keeps_a_read_from_writing(store: Store, vault: Vault, statement: str) -> None:
    async with store.connection() as connection:
        await connection.execute(TABLE.encode())
        await connection.execute(ROWS.encode())
        await connection.execute(b"CREATE SEQUENCE numbers")
    await Secrets.built(store, vault).set("shop-url", store.url, scope=["shop"], by="ada")
    made = box(store, vault, shop={"kind": "sql", "url": "shop-url", "queries": {"q": {"sql": statement}}})
    with pytest.raises(MetierError):
        await call(made, "shop.q", {})
    async with store.connection() as connection:
        row = await (
            await connection.execute("SELECT count(*) AS n, (SELECT is_called FROM numbers) AS used FROM orders")
        ).fetchone()
        assert row is not None and (row["n"], row["used"]) == (3, False)


@pytest.mark.parametrize(
    "statement",
    [
        "ATTACH DATABASE '/tmp/other.db' AS other", "PRAGMA writable_schema = 1", "DROP TABLE orders",
        "SELECT load_extension('x')", "CREATE TEMP TABLE t (a)", "VACUUM INTO 'copy.db'",
    ],
)  # fmt: skip
async def test_sqlite_itself_keeps_a_read_from_anything_else(
    store: Store, vault: Vault, tmp_path: pathlib.Path, statement: str
) -> None:
    sqlite3.connect(tmp_path / "shop.db").execute(TABLE).connection.close()
    options = {"kind": "sql", "file": str(tmp_path / "shop.db"), "queries": {"q": {"sql": statement}}}
    with pytest.raises(MetierError):
        await call(box(store, vault, shop=options), "shop.q", {})
    assert [path.name for path in tmp_path.iterdir()] == ["shop.db"]


async def test_a_role_of_the_database_has_its_own_rights(store: Store, vault: Vault) -> None:
    async with store.connection() as connection:
        await connection.execute(TABLE.encode())
        await connection.execute(
            b"DO $$ BEGIN CREATE ROLE reporting; EXCEPTION WHEN duplicate_object THEN NULL; END $$"
        )
    await Secrets.built(store, vault).set("shop-url", store.url, scope=["shop"], by="ada")
    options = {"kind": "sql", "url": "shop-url", "role": "reporting", "queries": QUERIES}
    with pytest.raises(ConfigError, match="may not do that"):
        await call(box(store, vault, shop=options), "shop.all", {})


async def test_a_query_that_takes_too_long_is_stopped(store: Store, vault: Vault, tmp_path: pathlib.Path) -> None:
    await Secrets.built(store, vault).set("shop-url", store.url, scope=["shop"], by="ada")
    slow = {"kind": "sql", "url": "shop-url", "seconds": 0.2, "queries": {"q": {"sql": "SELECT pg_sleep(20)"}}}
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    sqlite3.connect(tmp_path / "s.db").execute(TABLE).connection.close()
    local = {"kind": "sql", "file": str(tmp_path / "s.db"), "seconds": 0.2, "queries": {"q": {"sql": endless}}}
    for options in (slow, local):
        with pytest.raises(Invalid, match=r"more than 0\.2 s"):
            await call(box(store, vault, shop=options), "shop.q", {})


async def test_credentials_that_are_refused_are_told_without_being_told(
    store: Store, vault: Vault, tmp_path: pathlib.Path
) -> None:
    wrong = psycopg.conninfo.make_conninfo(store.url, password="canary-password")
    for url, error in ((wrong, ConfigError), ("canary-password", ConfigError), ("host=127.0.0.1 port=9", Unavailable)):
        await Secrets.built(store, vault).set("shop-url", url, scope=["shop"], by="ada")
        with pytest.raises(error) as refused:
            await call(box(store, vault, shop={"kind": "sql", "url": "shop-url", "queries": QUERIES}), "shop.all", {})
        assert "canary" not in str(refused.value)
    none = {"kind": "sql", "file": str(tmp_path / "none.db"), "queries": QUERIES}
    with pytest.raises(ConfigError, match="cannot be opened"):
        await call(box(store, vault, shop=none), "shop.all", {})


@pytest.mark.parametrize("committed", [True, False])
async def test_a_worker_that_died_while_writing_asks_the_server_how_it_ended(
    store: Store, vault: Vault, committed: bool
) -> None:
    async with store.connection() as connection:
        await connection.execute(TABLE.encode())
    await Secrets.built(store, vault).set("shop-url", store.url, scope=["shop"], by="ada")
    made = box(store, vault, shop={"kind": "sql", "url": "shop-url", "queries": QUERIES})
    await call(made, "shop.add", {"id": 1, "customer": "ada"})
    other = await psycopg.AsyncConnection.connect(store.url)
    row = await (await other.execute("SELECT pg_current_xact_id()::text")).fetchone()
    assert row is not None
    await (other.commit() if committed else other.rollback())
    await other.close()
    async with store.connection() as connection:
        await connection.execute("UPDATE outbox SET state = 'sending', result = NULL, mark = %s", (row[0],))
        await connection.execute(b"DELETE FROM orders")
    again = await call(made, "shop.add", {"id": 1, "customer": "ada"})
    # Committed: it is believed to have been done, and nobody knows its answer. Rolled back: it is done now.
    assert again == (None if committed else {"rows": [], "truncated": False, "touched": 1})


async def test_a_write_in_doubt_is_asked_about_where_it_was_written(store: Store, vault: Vault) -> None:
    async with store.connection() as connection:
        await connection.execute(TABLE.encode())
    secrets = Secrets.built(store, vault)
    # The house has another database under this name: there, the transaction of that number was something else.
    await secrets.set("shop-url", store.url.replace("/test_", "/no_test_"), scope=["shop"], by="ada")
    await secrets.set("shop-url", store.url, scope=["shop"], by="ada", project="sales")
    made = box(store, vault, shop={"kind": "sql", "url": "shop-url", "queries": QUERIES})
    await call(made, "shop.add", {"id": 1, "customer": "ada"})
    async with store.connection() as connection:
        await connection.execute(b"UPDATE outbox SET state = 'sending', result = NULL")
    assert await call(made, "shop.add", {"id": 1, "customer": "ada"}) is None


async def test_a_number_too_large_for_sqlite_is_told(store: Store, vault: Vault, tmp_path: pathlib.Path) -> None:
    sqlite3.connect(tmp_path / "shop.db").execute(TABLE).connection.close()
    made = box(store, vault, shop={"kind": "sql", "file": str(tmp_path / "shop.db"), "queries": QUERIES})
    with pytest.raises(Invalid, match="64 bits"):
        await call(made, "shop.add", {"id": 2**63, "customer": "ada"})
    found = await call(made, "shop.add", {"id": 1, "customer": "ada"}, "run_2/q")
    assert isinstance(found, dict) and found["touched"] == 1


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({}, "needs one of file"),
        ({"file": "a", "url": "b", "queries": QUERIES}, "needs one of file"),
        ({"file": "a"}, "needs queries"),
        ({"file": "a", "queries": {"q": {"sql": "SELECT :a"}}}, "the parameters"),
        ({"file": "a", "queries": {"q": {"sql": "SELECT 1", "input": {"a": "string"}}}}, "must name the same"),
        ({"file": "a", "queries": {"q": {"sql": "SELECT 1", "write": "yes"}}}, "write: true or false"),
        ({"file": "a", "queries": {"q": {"sql": "SELECT 1::int, 'a:b', \":c\" /* :d */ -- :e"}}, "rows": 0}, "rows"),
    ],
)
def test_a_wrong_entry_is_told_with_its_place(store: Store, vault: Vault, entry: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        sql(Given("shop", entry, Effects(store, vault), Secrets(store, vault)))


async def test_somebody_who_writes_in_sqlite_is_waited_for_and_then_told(
    store: Store, vault: Vault, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metier.connectors.sql_sqlite._BUSY_MS", 50)
    sqlite3.connect(tmp_path / "shop.db").execute(TABLE).connection.close()
    made = box(store, vault, shop={"kind": "sql", "file": str(tmp_path / "shop.db"), "queries": QUERIES})
    holder = sqlite3.connect(tmp_path / "shop.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="somebody else"):
        await call(made, "shop.add", {"id": 1, "customer": "ada"})
    holder.execute("COMMIT")
    holder.close()
    found = await call(made, "shop.add", {"id": 1, "customer": "ada"})
    assert isinstance(found, dict) and found["touched"] == 1
