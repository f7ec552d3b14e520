"""`kind: sql`: named queries of a PostgreSQL or SQLite database, read only by the database's own rules."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from metier.calls import JSON
from metier.connectors.base import Connector, Effect, Given, ToolSpec, schema_of, whole
from metier.connectors.effects import Commit, Deed
from metier.connectors.sql_postgres import Postgres
from metier.connectors.sql_queries import PARTS, Bounds, Database, Query, plain
from metier.connectors.sql_sqlite import Sqlite
from metier.errors import NotFound

__all__ = ["Sql", "sql"]

_NAMED = re.compile(r"[a-z][a-z0-9_]{0,62}", re.ASCII)
_INNER = frozenset({"description", "sql", "input", "write"})


def sql(given: Given) -> Connector:
    """Make the connector from `database` (a file) or `url` (the name of a secret), and its `queries`."""
    given.known("url file queries rows seconds most_bytes role")
    options = given.options
    file, url, section = options.get("file"), options.get("url"), options.get("queries")
    if isinstance(file, str) == isinstance(url, str):
        raise given.wrong(" needs one of file (a SQLite database) and url (the name of the secret that holds it)")
    if not isinstance(section, dict) or not section:
        raise given.wrong(" needs queries: a name for each, with its sql")
    bounds = Bounds(
        int(whole(options, "rows", 1_000, 100_000)),
        whole(options, "seconds", 10, 600),
        int(whole(options, "most_bytes", 5_000_000, 100_000_000)),
    )
    queries = [_query(given, str(name), one) for name, one in section.items()]
    database: Database
    if isinstance(file, str):
        database = Sqlite(given.name, pathlib.Path(file), bounds)
    else:
        database = Postgres(given, str(url), options.get("role"), bounds)
    return Sql(given, database, bounds, queries)


def _query(given: Given, name: str, section: Any) -> Query:
    where = f".queries.{name}"
    if not _NAMED.fullmatch(name) or not isinstance(section, dict) or not isinstance(section.get("sql"), str):
        raise given.wrong(f"{where}: give a name of a-z, 0-9 and _, and its sql")
    unknown = sorted(section.keys() - _INNER)
    if unknown or not isinstance(section.get("write", False), bool):
        raise given.wrong(f"{where} takes description, sql, input and write: true or false")
    schema = schema_of(section.get("input"), f"connectors.{given.name}{where}.input")
    named = {match[2].lower() for match in PARTS.finditer(section["sql"]) if match[2]}
    fields = schema.get("properties")
    if named != set(fields if isinstance(fields, dict) else ()):
        raise given.wrong(f"{where}: its sql has the parameters {sorted(named)}, `input` must name the same")
    described = str(section.get("description") or f"The query {name!r}.")
    return Query(name, described, section["sql"], schema, section.get("write", False))


class Sql:
    """Gives one tool for each query; what writes does so once for each key."""

    def __init__(self, given: Given, database: Database, bounds: Bounds, queries: Sequence[Query]) -> None:
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
        return shown | {
            "rows": self._bounds.rows, "seconds": self._bounds.seconds, "most_bytes": self._bounds.most_bytes,
            "doubt": doubt,
        }  # fmt: skip

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
            {name: plain(value) for name, value in zip(columns, row, strict=True)} for row in rows[: self._bounds.rows]
        ]
        return {"rows": kept, "truncated": len(rows) > self._bounds.rows}


def _values(query: Query, with_: Mapping[str, JSON]) -> dict[str, Any]:
    """Give every parameter a value; lists stay lists, objects become JSON text."""
    fields = query.schema.get("properties")
    given = {name: with_.get(name) for name in (fields if isinstance(fields, dict) else ())}
    return {name: orjson.dumps(one).decode() if isinstance(one, dict) else one for name, one in given.items()}
