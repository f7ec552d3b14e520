"""A database of an older version, with runs in the middle of things, is brought up to this one and works on."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from decimal import Decimal

import psycopg
import pytest

from metier.postgres import Embedded
from metier.store import Store, create_database, packaged_migrations
from tests.conftest import embedded_migrations

_OLDER = "0037_agents"
_HELD = """
INSERT INTO definitions (hash, name, data) VALUES ('d', 'f', '{}');
INSERT INTO runs (id, workflow, definition, status, key_id, project, system, rights, inputs, finished_at)
SELECT 'old' || n, 'f', 'd', 'done', 'k', 'p', 's', '', '', now() FROM generate_series(1, 2000) n;
INSERT INTO runs (id, workflow, definition, status, key_id, project, system, rights, inputs)
VALUES ('top', 'f', 'd', 'parked', 'k', 'p', 's', '', '');
INSERT INTO runs (id, workflow, definition, status, key_id, project, system, rights, inputs, parent, parent_path,
                  parent_attempt, item, allowance_eur)
SELECT 'item' || n, 'f/each', 'd', 'queued', 'k', 'p', 's', '', '', 'top', 'each', 1, n, 0.5
  FROM generate_series(0, 2) n;
INSERT INTO item_groups (parent, path, attempt, items_left, collects) VALUES ('top', 'each', 1, 3, true);
INSERT INTO journal (run, path, attempt, kind, epoch, started_at) VALUES ('top', 'a', 1, 'result', 1, now());
INSERT INTO waits (run, path, attempt, kind) VALUES ('top', 'ask', 1, 'task');
INSERT INTO tasks (id, run, workflow, project, path, attempt, title, assignee, payload)
VALUES ('t', 'top', 'f', 'p', 'ask', 1, '', 'group:sav', '');
INSERT INTO task_events (task, kind, at) VALUES ('t', 'opened', now());
INSERT INTO task_notices (event, recipient, sent_at) SELECT id, 'zoe', now() FROM task_events;
INSERT INTO events (id, project, event, key, data) VALUES ('e', 'p', 'paid', '7', '');
"""


@pytest.fixture
async def older(server: Embedded) -> AsyncIterator[Store]:
    """A store on a database as the older version left it."""
    name = f"older_{secrets.token_hex(4)}"
    await create_database(server.url("postgres"), name)
    known = sorted((*packaged_migrations(), *embedded_migrations()), key=lambda one: one.name)
    async with Store(server.url(name), size=2) as opened:
        async with opened.connection() as connection:
            await connection.execute(
                "CREATE TABLE migrations (name text PRIMARY KEY, digest text NOT NULL, "
                "applied_at timestamptz NOT NULL DEFAULT now())"
            )
            for one in known:
                if one.name <= _OLDER or not one.name[0].isdigit():
                    await connection.execute(one.sql.encode())
                    await connection.execute(
                        "INSERT INTO migrations (name, digest) VALUES (%s, %s)", (one.name, one.digest)
                    )
            await connection.execute(_HELD)
        yield opened
    async with await psycopg.AsyncConnection.connect(server.url("postgres"), autocommit=True) as admin:
        await admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())


async def test_runs_of_an_older_house_go_on_in_this_one(older: Store) -> None:
    applied = await older.migrate(embedded_migrations())
    assert applied == [one.name for one in packaged_migrations() if one.name > _OLDER]
    assert await older.migrate(embedded_migrations()) == []
    queries = older.queries("engine")
    place = {"parent": "top", "path": "each", "attempt": 1}
    assert len(await queries.all("next_items", {**place, "number": 2})) == 2
    (last,) = [row for row in await queries.all("below", {"id": "top", "most": 9}) if row["id"] == "item2"]
    cancelled = await queries.one("cancel", {"id": "item0"})
    assert (last["status"], cancelled and cancelled["allowance_eur"]) == ("queued", Decimal("0.5"))
    assert len(await queries.all("pause", {"id": "top"})) == 1
    assert await older.queries("notices").all("waiting", {"since": "2020-01-01"}) == []
    assert await older.queries("notices").all("fresh", {"limit": 9}) == []
    assert len(await queries.all("not_looked_at", {"most": 5000})) == 2001
