"""Answers of databases are bounded in bytes: one large value, many small ones, and what a write gives back."""

from __future__ import annotations

import pathlib
import sqlite3
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import pytest

from metier.calls import JSON
from metier.connectors.secrets import Secrets
from metier.connectors.tools import Toolbox
from metier.errors import Invalid
from metier.store import Store
from metier.vault import Vault
from tests.connectors.place import Place, box

MOST = 200_000
BLOB = {"sqlite": "SELECT zeroblob(:n) AS b", "postgresql": "SELECT decode(repeat('00', :n), 'hex') AS b"}
TEXTS = {
    "sqlite": "WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < :n) "
    "SELECT printf('%0*d', :each, i) AS t FROM s ORDER BY i DESC; -- newest first",
    "postgresql": "SELECT lpad(i::text, :each, '0') AS t FROM generate_series(1, :n) AS s(i) "
    "ORDER BY i DESC; -- newest first",
}
NOTE = {
    "sqlite": "INSERT INTO notes SELECT value + 1, printf('%0*d', :each, 1) FROM json_each(:many) RETURNING body",
    "postgresql": "INSERT INTO notes SELECT n + 1, lpad('', :each, 'x') FROM json_array_elements_text(:many::json) "
    "WITH ORDINALITY AS s(x, n) RETURNING body",
}


def queries(kind: str) -> dict[str, Any]:
    return {
        "blob": {"sql": BLOB[kind], "input": {"n": "integer"}},
        "texts": {"sql": TEXTS[kind], "input": {"n": "integer", "each": "integer"}},
        "twice": {"sql": "SELECT id AS a, id + 1 AS a, '{\"b\": [1]}' AS q FROM notes"},
        "ours": {"sql": f"{BLOB[kind]}, 1 AS metier_row, 2 AS metier_asked", "input": {"n": "integer"}},
        "sizes": {"sql": "SELECT id, length(body) AS n FROM notes ORDER BY id"},
        "note": {"sql": NOTE[kind], "input": {"many": "string", "each": "integer"}, "write": True},
    }


async def made(kind: str, store: Store, vault: Vault, folder: pathlib.Path, **more: Any) -> Toolbox:
    options = {"kind": "sql", "queries": queries(kind), "most_bytes": MOST, "rows": 100, **more}
    table, row = "CREATE TABLE notes (id integer PRIMARY KEY, body text)", "INSERT INTO notes VALUES (1, 'x')"
    if kind == "sqlite":
        with sqlite3.connect(folder / "notes.db") as file:
            file.execute(table)
            file.execute(row)
        file.close()
        return box(store, vault, shop={**options, "file": str(folder / "notes.db")})
    async with store.connection() as connection:
        await connection.execute(table.encode())
        await connection.execute(row.encode())
    await Secrets.built(store, vault).set("shop-url", store.url, scope=["shop"], by="ada")
    return box(store, vault, shop={**options, "url": "shop-url"})


@pytest.fixture(params=["postgresql", "sqlite"])
async def shop(
    request: pytest.FixtureRequest, store: Store, vault: Vault, tmp_path: pathlib.Path
) -> AsyncIterator[Toolbox]:
    yield await made(request.param, store, vault, tmp_path)


async def call(tools: Toolbox, name: str, with_: dict[str, JSON], key: str = "run_1/q") -> Any:
    return await tools[name](Place(key), with_)


async def test_one_value_beyond_the_bound_is_refused(shop: Toolbox) -> None:
    found = await call(shop, "shop.blob", {"n": 1_000})
    assert len(found["rows"][0]["b"]) == 1_336
    tracemalloc.start()
    try:
        with pytest.raises(Invalid, match="more than 200,000 bytes"):
            await call(shop, "shop.blob", {"n": 50_000_000})
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


async def test_columns_named_like_ours_are_no_way_around_the_bound(shop: Toolbox) -> None:
    found = await call(shop, "shop.ours", {"n": 3})
    assert found["rows"] == [{"b": "AAAA", "metier_row": 1, "metier_asked": 2}]
    tracemalloc.start()
    try:
        with pytest.raises(Invalid, match="more than 200,000 bytes"):
            await call(shop, "shop.ours", {"n": 20_000_000})
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


ENDS = ["; /* a /* b */ c */", "; -- it's", " /* a /* b; */ c */ ;", ";\f\n", " ; ; "]


@pytest.mark.parametrize("end", ENDS)
async def test_a_query_may_end_as_it_likes(store: Store, vault: Vault, end: str) -> None:
    await Secrets.built(store, vault).set("shop-url", store.url, scope=["shop"], by="ada")
    asked = r"SELECT E'it\'s; --' AS a, $b$;--$b$ AS b, U&'\0041' AS c" + end
    tools = box(store, vault, shop={"kind": "sql", "url": "shop-url", "queries": {"q": {"sql": asked}}})
    assert (await call(tools, "shop.q", {}))["rows"] == [{"a": "it's; --", "b": ";--", "c": "A"}]


async def test_the_sum_over_rows_is_bounded(shop: Toolbox) -> None:
    found = await call(shop, "shop.texts", {"n": 90, "each": 2_000})
    assert [len(row["t"]) for row in found["rows"]] == [2_000] * 90 and found["rows"][0]["t"].endswith("90")
    assert not found["truncated"]
    with pytest.raises(Invalid, match="more than 200,000 bytes"):
        await call(shop, "shop.texts", {"n": 100, "each": 5_000})
    # Rows that are not given do not count.
    found = await call(shop, "shop.texts", {"n": 100_000, "each": 1_000})
    assert len(found["rows"]) == 100 and found["truncated"] and found["rows"][0]["t"].endswith("100000")


async def test_what_is_asked_keeps_its_meaning(shop: Toolbox) -> None:
    found = await call(shop, "shop.twice", {})
    assert found == {"rows": [{"a": 2, "q": '{"b": [1]}'}], "truncated": False}
    assert await call(shop, "shop.sizes", {}) == {"rows": [{"id": 1, "n": 1}], "truncated": False}


async def test_a_write_that_gives_back_too_much_is_not_done(shop: Toolbox) -> None:
    with pytest.raises(Invalid, match="more than 200,000 bytes"):
        await call(shop, "shop.note", {"many": str([*range(1, 50)]), "each": 5_000})
    assert (await call(shop, "shop.sizes", {}))["rows"] == [{"id": 1, "n": 1}]
    found = await call(shop, "shop.note", {"many": "[1, 2]", "each": 5_000}, "run_2/q")
    assert found["touched"] == 2 and len(found["rows"]) == 2


async def test_a_large_value_that_is_not_asked_for_harms_nobody(
    store: Store, vault: Vault, tmp_path: pathlib.Path
) -> None:
    tools = await made("sqlite", store, vault, tmp_path)
    with sqlite3.connect(tmp_path / "notes.db") as file:
        file.execute("INSERT INTO notes VALUES (2, ?)", ("y" * 1_000_000,))
        file.execute("INSERT INTO notes VALUES (3, zeroblob(1000000))")
    file.close()
    # Its length as bytes is known without it; as text it has to be read.
    with pytest.raises(Invalid, match="more than 200,000 bytes"):
        await call(tools, "shop.sizes", {})
    assert (await call(tools, "shop.twice", {}))["rows"][2]["a"] == 4


async def test_a_small_bound_is_one_of_the_answer_alone(store: Store, vault: Vault, tmp_path: pathlib.Path) -> None:
    tools = await made("sqlite", store, vault, tmp_path, most_bytes=1_000)
    with sqlite3.connect(tmp_path / "notes.db") as file:
        file.execute(f"CREATE TABLE wide ({', '.join(f'a_column_named_{n} text' for n in range(100))})")
    file.close()
    assert (await call(tools, "shop.twice", {}))["rows"] == [{"a": 2, "q": '{"b": [1]}'}]
    asked = {"q": {"sql": "SELECT length(:word) AS n", "input": {"word": "string"}}}
    options = {"kind": "sql", "file": str(tmp_path / "notes.db"), "most_bytes": 1_000, "queries": asked}
    found = await call(box(store, vault, shop=options), "shop.q", {"word": "é" * 200_000})
    assert found["rows"] == [{"n": 200_000}]


@pytest.mark.parametrize("end", ["", ";", "; -- done", " /* ; */ ;\n"])
async def test_a_query_is_run_once(store: Store, vault: Vault, end: str) -> None:
    async with store.connection() as connection:
        await connection.execute(
            b"CREATE FUNCTION counted() RETURNS text LANGUAGE sql VOLATILE AS "
            b"$$ SELECT set_config('metier.runs', (coalesce(nullif(current_setting('metier.runs', true), ''), '0')::int"
            b" + 1)::text, false) $$"
        )
    await Secrets.built(store, vault).set("shop-url", store.url, scope=["shop"], by="ada")
    asked = "".join(["SELECT counted() AS once, i FROM generate_series(1, 3) AS s(i) ORDER BY i DESC", end])
    tools = box(store, vault, shop={"kind": "sql", "url": "shop-url", "queries": {"q": {"sql": asked}}})
    found = (await call(tools, "shop.q", {}))["rows"]
    assert found == [{"once": "1", "i": 3}, {"once": "2", "i": 2}, {"once": "3", "i": 1}]
