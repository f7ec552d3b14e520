from __future__ import annotations

import os
import pathlib
import shutil
import signal
import stat
import tempfile
from collections.abc import Iterator

import psycopg
import pytest

from metier.errors import ConfigError, Unavailable
from metier.postgres import Embedded


@pytest.fixture
def home() -> Iterator[pathlib.Path]:
    folder = pathlib.Path(tempfile.mkdtemp(prefix="métier with spaces "))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def test_it_starts_with_a_password_in_a_private_folder_and_the_last_user_stops_it(home: pathlib.Path) -> None:
    first, second = Embedded(home), Embedded(home)
    first.start()
    second.start()
    pid = first.pid()
    assert pid is not None and second.pid() == pid
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(first.url("postgres").replace("metier:", "metier:wrong", 1))
    host = psycopg.conninfo.conninfo_to_dict(first.url())["host"]
    assert stat.S_IMODE(pathlib.Path(str(host)).stat().st_mode) == 0o700
    assert stat.S_IMODE(first.layout.password.stat().st_mode) == 0o600
    first.stop()
    assert second.pid() == pid
    second.stop()
    assert second.pid() is None


def test_a_disk_too_full_is_said_before_anything_is_made(home: pathlib.Path) -> None:
    with pytest.raises(Unavailable, match="MB of free disk, there are"):
        Embedded(home, room=1 << 60).start()
    again = Embedded(home)
    assert not again.layout.data.exists()
    again.start()
    with pytest.raises(Unavailable, match="MB of free disk"):
        again.stop()
        Embedded(home, room=1 << 60).start()


def test_committed_rows_survive_kill_9_of_the_server(home: pathlib.Path) -> None:
    embedded = Embedded(home)
    embedded.start()
    with psycopg.connect(embedded.url("postgres")) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    connection.close()
    pid = embedded.pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    again = Embedded(home)
    again.start()
    with psycopg.connect(again.url("postgres")) as connection:
        assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)
    connection.close()
    again.stop()
    embedded.stop()
    assert again.pid() is None


def test_data_of_another_major_version_is_refused_untouched(home: pathlib.Path) -> None:
    embedded = Embedded(home)
    embedded.layout.data.mkdir()
    (embedded.layout.data / "PG_VERSION").write_text("15\n")
    with pytest.raises(ConfigError, match=r"PostgreSQL 15 .*upgrade-postgresql\.md"):
        embedded.start()
    assert [f.name for f in embedded.layout.data.iterdir()] == ["PG_VERSION"]


def test_a_folder_with_something_else_in_it_is_left_alone(home: pathlib.Path) -> None:
    embedded = Embedded(home)
    embedded.layout.data.mkdir()
    (embedded.layout.data / "thesis.txt").write_text("ten years of work")
    with pytest.raises(ConfigError, match="holds no PostgreSQL data"):
        embedded.start()
    assert (embedded.layout.data / "thesis.txt").read_text() == "ten years of work"
