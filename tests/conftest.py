"""One embedded PostgreSQL for the whole session, a fresh migrated database for each test that asks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import shutil
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest

from metier.postgres import Embedded
from metier.store import Migration, Store, create_database, packaged_migrations
from metier.vault import Vault
from tests.scratch import scratch

_FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")
_LAST_S = 20.0


@pytest.fixture(autouse=True)
def one_hour() -> None:
    """Begin no test in the last seconds of an hour: what is counted by the hour, day or month then falls into one."""
    left = 3600 - time.time() % 3600
    if left < _LAST_S:
        time.sleep(left)


@pytest.fixture(autouse=True)
def every_level() -> Iterator[None]:
    """Undo what a command run in this process did to the level of our log: later tests read it."""
    yield
    logging.getLogger("metier").setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def server() -> Iterator[Embedded]:
    """A real PostgreSQL with pgvector, in a folder that even an unprivileged account may enter."""
    home = scratch("metier-tests-")
    embedded = Embedded(home, options=_FAST)
    embedded.start()
    try:
        yield embedded
    finally:
        embedded.stop()
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def template(server: Embedded) -> str:
    """Name of a database migrated once, from which the others are cloned."""

    async def make() -> None:
        await create_database(server.url("postgres"), "template_metier")
        async with Store(server.url("template_metier"), size=2) as store:
            await store.migrate(embedded_migrations())

    asyncio.run(make())
    return "template_metier"


@pytest.fixture
async def store(server: Embedded, template: str) -> AsyncIterator[Store]:
    """A store on a database of its own."""
    name = f"test_{secrets.token_hex(6)}"
    await create_database(server.url("postgres"), name, template=template)
    async with Store(server.url(name), size=8) as opened:
        yield opened
    connection = await psycopg.AsyncConnection.connect(server.url("postgres"), autocommit=True)
    await connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())
    await connection.close()


@pytest.fixture
def vault() -> Vault:
    """A vault with a throw-away key."""
    return Vault(secrets.token_bytes(32))


@pytest.fixture(autouse=True)
def only_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse every connection that would leave the machine."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a test tried to reach {address!r}")
        connect(self, address)  # type: ignore[arg-type]  # whatever the caller gave

    monkeypatch.setattr(socket.socket, "connect", guarded)


def embedded_migrations() -> tuple[Migration, ...]:
    """Migrations of the libraries we embed, once the dispatch room exists."""
    with contextlib.suppress(ImportError):
        from metier.workflow.dispatch import migrations

        return tuple(migrations())
    assert packaged_migrations() is not None
    return ()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Tell a failure when it happens, so that a run that is cut short has told those before."""
    if report.failed and getattr(report, "node", None) is not None:
        sys.stderr.write(f"\n{report.nodeid} ({report.when}) failed:\n{report.longreprtext[-3000:]}\n")
