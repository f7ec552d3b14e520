"""Whose key what batches and files hold is sealed under, and that what was sealed before there were such keys opens."""

from __future__ import annotations

import asyncio
import zlib
from dataclasses import replace

import orjson
import pytest

from metier.calls import OrganisationId
from metier.store import Store
from metier.vault import Vault
from tests.batches.house import CHAT, WHO, House, jsonl, line
from tests.sealing import age, found, own, proven

THEIRS = replace(WHO, organisation=OrganisationId("org_a"))


async def _begun(house: House, *lines: bytes) -> str:
    await own(house.store, WHO.project, THEIRS.organisation)
    file = await house.bring(b"".join(lines), who=THEIRS)
    return (await house.batches.create(THEIRS, CHAT, file.id, {"about": "canari"})).id


async def test_a_batch_and_its_files_are_sealed_for_their_organisation_and_those_from_before_that_go_on(
    store: Store, vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = House(store, vault)
    id = await _begun(house, jsonl([line("a", "canari")]), b"not json\n")
    stores = house.files.store

    async def dies(*given: object, **more: object) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr(house.files, "store", dies)
    with pytest.raises(asyncio.CancelledError):
        await house.runner.turn(id)
    monkeypatch.setattr(house.files, "store", stores)

    held: list[tuple[str, str, str, bytes, str]] = [
        ("files", "file", "name", sealed, file) for sealed, file in await found(store, "files", "name", "id")
    ]
    for file, number, sealed in await found(store, "file_pieces", "file", "number", "sealed"):
        held.append(("file_pieces", "file", "sealed", sealed, f"{file}/{number}"))
    for metadata, batch in await found(store, "batches", "metadata", "id"):
        held.append(("batches", "batch", "metadata", metadata, f"{batch}/metadata"))
    for number, name, answer in await found(store, "batch_lines", "number", "name", "answer"):
        held.append(("batch_lines", "batch", "answer", answer, f"{id}/{number}"))
        if name is not None:
            held.append(("batch_lines", "batch", "name", name, f"{id}/{number}/name"))
    assert sorted(column for _, _, column, _, _ in held) == ["answer", "answer", "metadata", "name", "name", "sealed"]
    clear = b""
    for table, purpose, column, sealed, place in held:
        opened = proven(vault, "org_a", purpose, sealed, place)
        clear += zlib.decompress(opened) if column in ("answer", "sealed") else opened
        await age(store, table, column, sealed, vault.seal(purpose, opened, place))
    assert clear.count(b"canari") == 3, "what was sent, what was answered, and what it is about"

    done = await house.turn(await house.batches.get(id))
    assert (done.status, done.done, done.failed, done.metadata) == ("completed", 1, 1, {"about": "canari"})
    (answer,) = await house.read(done.output_file)
    assert (answer["custom_id"], answer["response"]["status_code"]) == ("a", 200)
    assert "essai.jsonl" in [file.name for file in await house.files.list(WHO.project)]
    for file in (done.output_file, done.error_file):
        ((piece,),) = [(sealed,) for of, sealed in await found(store, "file_pieces", "file", "sealed") if of == file]
        assert zlib.decompress(proven(vault, "org_a", "file", piece, f"{file}/0")).count(b"\n") == 1


async def test_why_a_batch_failed_is_sealed_for_its_organisation(store: Store, vault: Vault) -> None:
    house = House(store, vault)
    id = await _begun(house, b"\n")
    done = await house.turn(await house.batches.get(id))
    ((sealed,),) = await found(store, "batches", "errors")
    clear = proven(vault, "org_a", "batch", sealed, f"{id}/errors")
    assert (done.status, [*done.errors]) == ("failed", orjson.loads(clear))
    await age(store, "batches", "errors", sealed, vault.seal("batch", clear, f"{id}/errors"))
    assert (await house.batches.get(id)).errors == done.errors
