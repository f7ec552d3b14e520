"""Events from rows of another PostgreSQL: read by a column that grows, woken by NOTIFY where there is one."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any, LiteralString, TypeAlias

import orjson
import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import set_json_loads

from metier.calls import JSON
from metier.errors import Invalid, Unavailable
from metier.triggers.event import Event, Kind, Mark, Mount, Taken, only, secret_name
from metier.workflow.quantities import seconds

__all__ = ["KIND", "RowSource"]

_Place: TypeAlias = dict[str, JSON]
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_$]{0,62}(\.[A-Za-z_][A-Za-z0-9_$]{0,62})?", re.ASCII)
_TIMES = (1184, 1114)
_NUMBERS = (20, 21, 23, 1700)
_BATCH = 200
_REMEMBERED = 20_000
_OPTIONS = "-c default_transaction_read_only=on -c statement_timeout=30000 -c TimeZone=UTC -c DateStyle=ISO"
_PAGE: LiteralString = """
SELECT to_jsonb(found) AS data, {watermark}::text AS watermark, {key}::text AS key,
       {watermark} > %(reached)s AS newer
  FROM (SELECT {columns} FROM {table}) found
 WHERE ({watermark}, {key}::text) > (%(watermark)s, %(key)s) AND {beyond}
 ORDER BY {watermark}, {key}::text LIMIT %(limit)s
"""
_BACK: LiteralString = "SELECT greatest({start} - {overlap}, {floor})::text AS start"
_NEWEST: LiteralString = "SELECT max({watermark})::text AS newest FROM {table}"


@dataclass(frozen=True, slots=True)
class _Rules:
    secret: str
    table: sql.Identifier
    watermark: str
    key: str
    columns: tuple[str, ...]
    listen: str | None
    poll_s: float
    overlap: float
    existing: bool


class RowSource:
    """Reads rows past a watermark, again over an overlap: a transaction may end after one that began later."""

    def __init__(self, mount: Mount) -> None:
        self._mount = mount
        self._rules = _read(mount.config)
        self._seen: dict[str, None] = {}

    async def events(self, state: JSON) -> AsyncGenerator[Event | Mark, None]:
        """Give each row once for each value of its watermark, in the order of that."""
        url = await self._mount.secret(self._rules.secret, "row")
        try:
            async with await _connected(url) as connection:
                kind = await self._kind(connection)
                if self._rules.listen is not None:
                    await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(self._rules.listen)))
                place = state if isinstance(state, dict) else await self._first(connection)
                yield Mark(place)
                while True:
                    async with contextlib.aclosing(self._pass(connection, kind, place)) as events:
                        async for event in events:
                            yield event
                            if isinstance(event.state, dict):
                                place = event.state
                    yield Mark()
                    await self._wait(connection)
        except psycopg.Error as error:
            # Only what the server said: the address holds a password.
            said = (error.diag.message_primary or type(error).__name__) if error.diag else type(error).__name__
            raise Unavailable(
                f"the database of the secret {self._rules.secret!r}: {said}; check its address, its table and rights"
            ) from None

    async def settle(self, event: Event, taken: Taken) -> None:
        """Nothing is written to the other database."""
        self._seen[event.id] = None
        while len(self._seen) > _REMEMBERED:
            del self._seen[next(iter(self._seen))]

    async def _pass(self, connection: _Connection, kind: int, place: _Place) -> AsyncGenerator[Event, None]:
        start, key = await self._back(connection, kind, place), ""
        while True:
            given = {"watermark": start, "key": key, "limit": _BATCH, "reached": place["watermark"]}
            rows = await (await connection.execute(self._page(start, place), given)).fetchall()
            for row in rows:
                event = _event(row, place)
                if event.id not in self._seen:
                    yield event
            if len(rows) < _BATCH:
                return
            start, key = rows[-1]["watermark"], rows[-1]["key"]

    def _page(self, start: JSON, place: _Place) -> sql.Composed:
        rules = self._rules
        names = dict.fromkeys((*rules.columns, rules.watermark, rules.key))
        columns = sql.SQL(", ").join(map(sql.Identifier, names)) if rules.columns else sql.SQL("*")
        watermark, floor = sql.Identifier("found", rules.watermark), place["floor"]
        # Rows there were before the trigger: their newest value is where it began.
        beyond = sql.SQL("true") if floor is None else sql.SQL("{} > {}").format(watermark, sql.Literal(floor))
        page: LiteralString = _PAGE if start is not None else _PAGE.replace(_ALL_PAST, "true")
        return sql.SQL(page).format(
            columns=columns,
            table=rules.table,
            watermark=watermark,
            key=sql.Identifier("found", rules.key),
            beyond=beyond,
        )

    async def _back(self, connection: _Connection, kind: int, place: _Place) -> JSON:
        """Go back by the overlap where the type of the watermark can, but not to rows there were before."""
        reached, floor = place["watermark"], place["floor"]
        if reached is None or self._rules.overlap == 0:
            return reached
        if kind in _TIMES:
            overlap: sql.Composable = sql.SQL("make_interval(secs => {})").format(sql.Literal(self._rules.overlap))
            cast = sql.SQL("::timestamptz" if kind == _TIMES[0] else "::timestamp")
        elif kind in _NUMBERS:
            overlap, cast = sql.Literal(int(self._rules.overlap)), sql.SQL("::numeric")
        else:
            return reached
        query = sql.SQL(_BACK).format(
            start=sql.Literal(reached) + cast, overlap=overlap, floor=sql.Literal(floor) + cast
        )
        row = await (await connection.execute(query)).fetchone()
        start: JSON = row["start"] if row else reached
        return start

    async def _kind(self, connection: _Connection) -> int:
        column = sql.SQL("SELECT {}, {} FROM {} LIMIT 0").format(
            sql.Identifier(self._rules.watermark), sql.Identifier(self._rules.key), self._rules.table
        )
        found = (await connection.execute(column)).description
        return found[0].type_code if found else 0

    async def _first(self, connection: _Connection) -> _Place:
        """Where a new trigger begins: at the newest row there is, unless those there are count too."""
        if self._rules.existing:
            return {"watermark": None, "floor": None}
        query = sql.SQL(_NEWEST).format(watermark=sql.Identifier(self._rules.watermark), table=self._rules.table)
        row = await (await connection.execute(query)).fetchone()
        newest: JSON = row["newest"] if row else None
        return {"watermark": newest, "floor": newest}

    async def _wait(self, connection: _Connection) -> None:
        if self._rules.listen is None:
            await self._mount.sleep(self._rules.poll_s)
            return
        async for _ in connection.notifies(timeout=self._rules.poll_s, stop_after=1):
            pass


def _event(row: dict[str, Any], place: _Place) -> Event:
    id = hashlib.sha256(orjson.dumps([row["key"], row["watermark"]])).hexdigest()
    # A row of the overlap does not take the source back.
    state: JSON = None if row["newer"] is False else {**place, "watermark": row["watermark"]}
    return Event(id, row["data"], state)


_Connection = psycopg.AsyncConnection[dict[str, Any]]
_ALL_PAST: LiteralString = "({watermark}, {key}::text) > (%(watermark)s, %(key)s)"


async def _connected(url: str) -> _Connection:
    connection: _Connection = await psycopg.AsyncConnection.connect(
        url, autocommit=True, connect_timeout=15, options=_OPTIONS, row_factory=dict_row
    )
    # Numbers beyond 64 bits become what JSON can hold everywhere else in this house.
    set_json_loads(orjson.loads, connection)
    return connection


def _read(config: Mapping[str, JSON]) -> _Rules:
    only(
        config, "row", ("secret", "table", "watermark", "key"), ("columns", "listen", "poll", "overlap", "existing")
    )  # fmt: skip
    columns, listen = config.get("columns", []), config.get("listen")
    if not isinstance(columns, list):
        raise Invalid(f"columns is {columns!r}: write a list of names, or leave it out for all")
    for name in (config["table"], config["watermark"], config["key"], *columns, *([] if listen is None else [listen])):
        if not isinstance(name, str) or not _NAME.fullmatch(name) or ("." in name and name != config["table"]):
            raise Invalid(f"{name!r} cannot name a table, column or channel: use letters, digits and _")
    overlap, existing = config.get("overlap", 60), config.get("existing", False)
    if isinstance(overlap, bool) or not isinstance(overlap, int | float) or not 0 <= overlap <= 86_400:
        raise Invalid(f"overlap is {overlap!r}: write seconds, or how many numbers, from 0 to 86400")
    if not isinstance(existing, bool):
        raise Invalid(f"existing is {existing!r}: write true to take the rows there are already, or false")
    return _Rules(
        secret=secret_name(config["secret"], "row"),
        table=sql.Identifier(*str(config["table"]).split(".")),
        watermark=str(config["watermark"]),
        key=str(config["key"]),
        columns=tuple(str(name) for name in columns),
        listen=None if listen is None else str(listen),
        poll_s=seconds(config.get("poll", "30s")),
        overlap=float(overlap),
        existing=existing,
    )


def _check(config: Mapping[str, JSON]) -> None:
    _read(config)


KIND = Kind(_check, RowSource)
