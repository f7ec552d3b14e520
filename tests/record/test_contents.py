from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from psycopg import sql

from metier import gauges
from metier.errors import Broken, Conflict, GuardrailBlocked, Invalid, LedgerBroken, NotAllowed, NotFound
from metier.record.contents import Contents
from metier.record.keeping import Keepings
from metier.record.records import Filter
from metier.store import Row, Store
from metier.vault import Vault, member
from tests.record.world import VAULT, World, build, rows, said


async def fetched(store: Store, statement: str) -> list[Row]:
    """Every row of a statement."""
    async with store.connection() as connection:
        return await (await connection.execute(statement.encode())).fetchall()


async def everything(store: Store) -> str:
    """Every value of every table of the record room, as text."""
    tables = ("calls", "contents", "subjects", "workspaces", "erasures", "content_reads", "usage_hours", "usage_keys")
    async with store.connection() as connection:
        found = [
            await (await connection.execute(sql.SQL("SELECT * FROM {}").format(sql.Identifier(table)))).fetchall()
            for table in tables
        ]
    return str(found)


async def test_without_a_decision_nothing_is_captured(store: Store, tmp_path: pathlib.Path) -> None:
    world = await build(store, tmp_path)
    ledger, records = world.recording("w", world.admission("w"))
    await records.contents.refresh()
    call = await said(ledger, world, "Bonjour", "Salut")
    assert records.contents.transcript(call) is None
    await ledger.flush()
    assert await fetched(store, "SELECT * FROM contents") == []
    [line] = await records.page(Filter())
    assert line.id == call.id and not line.contents
    with pytest.raises(NotFound, match="none were captured"):
        await records.contents.read(call.id, "Nadia", "look")


@pytest.mark.parametrize(("mode", "asked", "answered"), [("full", "Dupont asks", "Salut"), ("masked", None, None)])
async def test_contents_are_sealed_in_spool_and_table_and_read_on_the_record(
    store: Store, tmp_path: pathlib.Path, mode: Any, asked: str | None, answered: str | None
) -> None:
    world = await build(store, tmp_path)
    ledger, records = world.recording("w", world.admission("w"))
    await world.capture(records, mode)
    call = await said(ledger, world, "Dupont asks", "Salut", end_user="client-42")
    spooled = b"".join(path.read_bytes() for path in (world.folder / "w").glob("*.spool"))
    for word in (b"Dupont", b"Salut", b"PERSONNE", b"client-42"):
        assert word not in spooled
    await ledger.flush()
    found = await everything(store)
    for text in ("Dupont", "Salut", "PERSONNE", "client-42"):
        assert text not in found
    contents, reader = records.contents, "Nadia"
    with pytest.raises(NotAllowed, match="metier calls allow"):
        await contents.read(call.id, reader, "curious")
    with pytest.raises(Invalid):
        await contents.read(call.id, reader, " ")
    await contents.allow(reader, world.principal.system, "Claire", "complaint of 3 November", days=2)
    shown = await contents.read(call.id, reader, "complaint of 3 November")
    assert isinstance(shown.request, dict) and isinstance(shown.answer, dict)
    assert shown.request["messages"] == [{"role": "user", "content": asked or "[[PERSONNE_1]] asks"}]
    assert shown.answer["text"] == (answered or "[[PERSONNE_1]] alut") and not shown.cut
    await contents.disallow(reader, world.principal.system)
    with pytest.raises(NotAllowed):
        await contents.read(call.id, reader, "again")
    assert [(r.outcome, r.reason) for r in await contents.reads(call.id)] == [
        ("refused", "again"), ("shown", "complaint of 3 November"), ("refused", "curious"),
    ]  # fmt: skip
    [row] = await rows(store)
    assert row["end_user"] == member(VAULT, "main", "client-42") != member(VAULT, "other", "client-42")
    assert [line.contents for line in await records.page(Filter(end_user=row["end_user"]))] == [True]


async def test_a_decision_made_elsewhere_holds_here_soon(store: Store, tmp_path: pathlib.Path) -> None:
    world = await build(store, tmp_path)
    ledger, records = world.recording("w", world.admission("w"))
    loop = asyncio.ensure_future(ledger.run(every_s=0.01))
    elsewhere = Keepings(store)
    try:
        assert records.contents.transcript(world.call()) is None
        await elsewhere.decide(world.principal.system, "Claire", "review", capture="masked")
        async with asyncio.timeout(60):
            while records.contents.transcript(world.call()) is None:
                await elsewhere.list()
        await elsewhere.decide(world.principal.system, "Claire", "over", capture="none")
        async with asyncio.timeout(60):
            while records.contents.transcript(world.call()) is not None:
                await elsewhere.list()
    finally:
        loop.cancel()
    with pytest.raises(NotFound, match="register it first"):
        await elsewhere.decide("system_x", "Claire", "review", capture="masked")
    with pytest.raises(NotFound, match="register it first"):
        await records.contents.allow("Nadia", "system_x", "Claire", "review")


async def test_a_refused_call_leaves_its_request_in_full_and_nothing_masked(
    store: Store, tmp_path: pathlib.Path
) -> None:
    world = await build(store, tmp_path)
    ledger, records = world.recording("w", world.admission("w"))
    kept = {}
    modes: list[Any] = ["full", "masked"]
    for mode in modes:
        await world.capture(records, mode)
        call = world.call()
        with pytest.raises(GuardrailBlocked):
            async with ledger.entry(call):
                raise GuardrailBlocked("no")
        await ledger.flush()
        kept[mode] = (await records.page(Filter()))[0].contents
    assert kept == {"full": True, "masked": False}


async def test_a_row_moved_to_another_call_does_not_open(store: Store, tmp_path: pathlib.Path) -> None:
    world = await build(store, tmp_path)
    ledger, records = world.recording("w", world.admission("w"))
    await world.capture(records, "full")
    first, second = [await said(ledger, world, word, "!") for word in ("un", "deux")]
    await ledger.flush()
    await records.contents.allow("Nadia", world.principal.system, "Claire", "test")
    async with store.connection() as connection:
        await connection.execute(
            "UPDATE contents a SET sealed = b.sealed, wrapped = b.wrapped FROM contents b "
            "WHERE a.call = %s AND b.call = %s",
            (first.id, second.id),
        )
    with pytest.raises(Broken, match="altered, moved"):
        await records.contents.read(first.id, "Nadia", "test")


async def test_one_call_is_erased_and_a_late_copy_of_it_does_not_come_back(
    store: Store, tmp_path: pathlib.Path
) -> None:
    world = await build(store, tmp_path)
    ledger, records = world.recording("w", world.admission("w"))
    await world.capture(records, "full")
    call = await said(ledger, world, "Bonjour", "Salut")
    copies = {path.name: path.read_bytes() for path in (world.folder / "w").iterdir()}
    await ledger.flush()
    dry = await records.erasure.call(call.id, "Claire", "asked", dry_run=True)
    assert (dry.id, dry.records, dry.dry_run) == (None, 1, True)
    done = await records.erasure.call(call.id, "Claire", "asked")
    assert done.records == done.keys == 1 and done.id is not None
    with pytest.raises(NotFound):
        await records.erasure.call(call.id, "Claire", "again")
    late = world.folder / "dead"
    late.mkdir()
    for name, data in copies.items():
        (late / name).write_bytes(data)
    assert await ledger.recover() == 1
    assert await fetched(store, "SELECT * FROM contents") == [] and len(await rows(store)) == 1


async def test_a_person_is_erased_whatever_still_waits_in_a_spool_and_what_comes_after_is_kept(
    store: Store, tmp_path: pathlib.Path
) -> None:
    world = await build(store, tmp_path)
    ledger, records = world.recording("w", world.admission("w"))
    other, _ = world.recording("late", world.admission("late"))
    other.keep(records.contents)
    await world.capture(records, "full")
    for word in ("un", "deux", "trois"):
        await said(ledger, world, word, "!", end_user="client-42")
    stays = await said(ledger, world, "quatre", "!", end_user="client-43")
    await ledger.flush()
    waits = await said(other, world, "cinq", "!", end_user="client-42")
    dry = await records.erasure.person("main", "client-42", "Claire", "article 17", dry_run=True)
    assert (dry.records, dry.unlinked, dry.keys) == (3, 3, 1)
    done = await records.erasure.person("main", "client-42", "Claire", "article 17")
    assert (done.records, done.unlinked, done.keys) == (3, 3, 1)
    await other.flush()
    assert [row["call"] for row in await fetched(store, "SELECT call FROM contents")] == [stays.id]
    assert [row["id"] for row in await rows(store) if row["end_user"] is not None] == [stays.id]
    assert waits.id in {row["id"] for row in await rows(store)}, "its money is recorded all the same"
    after = await said(ledger, world, "six", "!", end_user="client-42")
    await ledger.flush()
    assert {row["call"] for row in await fetched(store, "SELECT call FROM contents")} == {stays.id, after.id}
    again = await records.erasure.person("main", "client-42", "Claire", "article 17")
    assert again.records == 1
    erased = await fetched(store, "SELECT subject, reason, by_whom FROM erasures ORDER BY at")
    assert len(erased) == 2 and "client-42" not in str(erased)


async def test_erasing_beside_writers_leaves_nothing_that_can_be_read(store: Store, tmp_path: pathlib.Path) -> None:
    world = await build(store, tmp_path)
    ledgers = [world.recording(f"w{n}", world.admission(f"w{n}")) for n in range(3)]
    await world.capture(ledgers[0][1], "full")
    for ledger, _ in ledgers[1:]:
        ledger.keep(ledgers[0][1].contents)
    for turn in range(4):
        for ledger, _ in ledgers:
            for _ in range(5):
                await said(ledger, world, f"{turn}", "!", end_user="client-42")
        writing = [asyncio.ensure_future(ledger.flush()) for ledger, _ in ledgers]
        await ledgers[0][1].erasure.person("main", "client-42", "Claire", "article 17")
        await asyncio.gather(*writing)
        assert await fetched(store, "SELECT call FROM contents") == []
        assert all(row["end_user"] is None for row in await rows(store))
    assert len(await rows(store)) == 60


async def test_a_legal_hold_has_precedence_over_erasing(store: Store, tmp_path: pathlib.Path) -> None:
    world = await build(store, tmp_path)
    ledger, records = world.recording("w", world.admission("w"))
    await world.capture(records, "full")
    call = await said(ledger, world, "Bonjour", "Salut", end_user="client-42")
    await ledger.flush()
    subject = member(VAULT, "main", "client-42")
    targets: list[tuple[Any, str]] = [
        ("system", world.principal.system),
        ("project", world.principal.project),
        ("subject", subject),
        ("call", call.id),
    ]
    for scope, target in targets:
        held = await records.keepings.hold(scope, target, "Claire", "trial 26/118")
        with pytest.raises(Conflict, match=held.id):
            await records.erasure.person("main", "client-42", "Claire", "article 17")
        with pytest.raises(Conflict, match=held.id):
            await records.erasure.call(call.id, "Claire", "asked")
        await records.keepings.release(held.id, "Claire")
        with pytest.raises(NotFound):
            await records.keepings.release(held.id, "Claire")
    assert (await records.erasure.person("main", "client-42", "Claire", "article 17")).records == 1
    assert all(hold.released_by == "Claire" for hold in await records.keepings.holds())


async def test_damaged_contents_are_counted_and_the_record_stays(store: Store, tmp_path: pathlib.Path) -> None:
    world = await build(store, tmp_path)
    ledger, records = world.recording("w", world.admission("w"))
    await world.capture(records, "full")
    good = [await said(ledger, world, "Bonjour", "Salut") for _ in range(4)]
    for waiting, damaged in zip(ledger._waiting, (b"no head", b'{"id":1}\nx', b""), strict=False):
        waiting.contents = damaged
    await ledger.flush()
    assert [row["id"] for row in await rows(store)] == [call.id for call in good] and ledger.uncaptured == 3
    told = {family.name: family.samples[0].value for family in gauges.records(ledger)()}
    assert told["metier_calls_uncaptured_total"] == 3
    assert [line.contents for line in await records.page(Filter())].count(True) == 1


async def test_contents_sealed_under_another_master_key_are_counted_and_the_record_stays(
    store: Store, tmp_path: pathlib.Path
) -> None:
    world = await build(store, tmp_path)
    ledger, records = world.recording("w", world.admission("w"))
    await world.capture(records, "full")
    await said(ledger, world, "un", "!")
    ledger.keep(Contents(store, Vault(bytes(31) + b"x")))
    await ledger.flush()
    assert len(await rows(store)) == 1 and ledger.uncaptured == 1


@contextlib.contextmanager
def small_disk(folder: pathlib.Path, kilobytes: int) -> Iterator[None]:
    """A file system of that size; the test is skipped where this account may not make one."""
    folder.mkdir(parents=True)
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("making a small disk takes an administrator; a limited file size is tried in test_spool.py")
    made = subprocess.run([mount, "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)], check=False)
    if made.returncode:
        pytest.skip("no file system may be mounted here; a limited file size is tried in test_spool.py")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


async def test_a_full_disk_refuses_calls_loses_none_and_passes_once_the_database_has_them(
    store: Store, tmp_path: pathlib.Path
) -> None:
    world = await build(store, tmp_path, "1000")
    with small_disk(world.folder, 128):
        admission = world.admission("w")
        ledger, records = world.recording("w", admission)
        await world.capture(records, "full")
        for turn in range(3):
            made, refused = [], 0
            for number in range(200):
                try:
                    made.append(await said(ledger, world, "x" * 2000, f"{turn}.{number}"))
                except LedgerBroken:
                    refused += 1
            assert made and refused, "the disk was never full, or never had room"
            assert ledger.waiting == len(made) + refused - ledger.unrecorded
            await ledger.flush()
            found = {row["id"]: row["outcome"] for row in await rows(store)}
            assert {found[call.id] for call in made} == {"answered"}
            lines = [line for line in await records.page(Filter(outcome="answered"), most=1000) if not line.contents]
            assert lines == [] and ledger.uncaptured == 0, "contents that found no disk waited in memory"
        await ledger.close()


CHILD = """
import asyncio, pathlib, sys
from metier.calls import KeyId, Principal, ProjectId, SystemId
from metier.catalog import Catalog
from metier.governance.register import Register
from metier.policy.keys import Keys
from metier.store import Store
from tests.record.world import CATALOG, VAULT, World, said

async def main():
    url, folder, project, system = sys.argv[1:]
    async with Store(url, size=2) as store:
        principal = Principal(KeyId("abc"), ProjectId(project), SystemId(system))
        world = World(store, Register(store), None, Catalog.from_yaml(CATALOG), principal, pathlib.Path(folder))
        ledger, records = world.recording("dead", world.admission("dead"))
        await records.contents.refresh()
        for n in range(5):
            await said(ledger, world, f"question {n}", "Salut", end_user="client-42")
        print("said", flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


def child(world: World) -> subprocess.Popen[bytes]:
    arguments = [world.store.url, str(world.folder), world.principal.project, world.principal.system]
    root = pathlib.Path(__file__).parents[2]
    return subprocess.Popen([sys.executable, "-c", CHILD, *arguments], stdout=subprocess.PIPE, cwd=root)


async def test_contents_survive_a_kill(store: Store, tmp_path: pathlib.Path) -> None:
    world = await build(store, tmp_path)
    ledger, records = world.recording("w", world.admission("w"))
    await world.capture(records, "full")
    with child(world) as process:
        assert process.stdout is not None and process.stdout.readline() == b"said\n"
        os.kill(process.pid, signal.SIGKILL)
    assert await ledger.recover() == 5
    await records.contents.allow("Nadia", world.principal.system, "Claire", "test")
    asked = set()
    for row in await rows(store):
        shown = await records.contents.read(row["id"], "Nadia", "test")
        assert isinstance(shown.request, dict)
        asked.add(str(shown.request["messages"]))
    assert len(asked) == 5 and all("question" in one for one in asked)
