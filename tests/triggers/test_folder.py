"""Folders as people and programs leave them: odd names, closed files, files replaced while they are taken."""

from __future__ import annotations

import os
import pathlib
import tempfile
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime

import pytest

from metier.calls import JSON, OrganisationId
from metier.errors import Unavailable
from metier.store import Store
from metier.triggers import Event, Mount, Taken
from metier.triggers.folder import FolderSource
from metier.vault import Vault
from tests.triggers.house import House, Known, soon, trigger, triggered

NOBODY = 65534


@pytest.fixture
async def folder() -> AsyncIterator[pathlib.Path]:
    with tempfile.TemporaryDirectory(prefix="mt-in-") as made:
        pathlib.Path(made).chmod(0o777)
        yield pathlib.Path(made)


def source_of(folder: pathlib.Path) -> FolderSource:
    config: dict[str, JSON] = {"path": str(folder), "poll": "10ms"}
    organisation, now = OrganisationId("main"), datetime.now(UTC)
    return FolderSource(Mount(config, "sales", organisation, Known(), lambda _, data: data.decode(), now))


async def test_a_name_that_is_no_text_stops_neither_its_file_nor_those_after_it(
    store: Store, vault: Vault, folder: pathlib.Path
) -> None:
    house = House(store, vault)
    with_: dict[str, JSON] = {"name": "{{ event.name }}"}
    await house.deploy(triggered(trigger("folder", {"path": str(folder), "poll": "50ms"}, with_)))
    for number, name in enumerate((b"a\xff.txt", b"b\n.txt", b"c.txt")):
        pathlib.Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_text(f"lettre {number}")
    async with house.working():
        await soon(lambda: len([*(folder / "done").glob("*")]) == 3)
    assert [run["name"] for run in await house.runs()] == ["a\ufffd.txt", "b\n.txt", "c.txt"]
    assert {os.fsencode(path.name) for path in (folder / "done").iterdir()} == {b"a\xff.txt", b"b\n.txt", b"c.txt"}


async def test_a_file_that_replaces_the_one_just_taken_is_taken_too(folder: pathlib.Path) -> None:
    (folder / "prix.csv").write_text("ancien")
    source, found = source_of(folder), list[JSON]()
    async with aclosing(source.events(None)) as events:
        async for event in events:
            if isinstance(event, Event):
                found.append(event.data["text"])
                if len(found) == 1:
                    # As programs do that write a file beside and rename it, before the first one has been put away.
                    (folder / "neuf.part").write_text("nouveau")
                    (folder / "neuf.part").replace(folder / "prix.csv")
                await source.settle(event, Taken("started"))
                if len(found) == 2:
                    break
    assert found == ["ancien", "nouveau"]
    assert [path.read_text() for path in (folder / "done").iterdir()] == ["nouveau"]


async def test_a_file_that_may_not_be_read_stops_no_other_and_is_told(folder: pathlib.Path) -> None:
    for name in ("a.txt", "b.txt"):
        (folder / name).write_text(name)
    (folder / "a.txt").chmod(0)
    source, found, root = source_of(folder), list[JSON](), os.geteuid() == 0
    if root:
        # Nothing is closed to root.
        os.seteuid(NOBODY)
    try:
        with pytest.raises(Unavailable, match=r"a\.txt.*give access"):
            async with aclosing(source.events(None)) as events:
                async for event in events:
                    if isinstance(event, Event):
                        found.append(event.data["name"])
                        await source.settle(event, Taken("started"))
    finally:
        if root:
            os.seteuid(0)
    assert found == ["b.txt"] and (folder / "done" / "b.txt").exists()
