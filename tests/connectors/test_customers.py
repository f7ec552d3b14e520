"""The customer file: found by address, read again when it changes, every mistake named by its line."""

from __future__ import annotations

import json
import os
import pathlib

import pytest

from metier.connectors.customers import Customers
from metier.errors import ConfigError

CLAIRE = {"email": "Claire@Exemple.example", "tier": "fidele", "orders": [{"number": "CMD-2026-10412"}]}


def written(path: pathlib.Path, *rows: object) -> Customers:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n", encoding="utf-8")
    return Customers(path)


@pytest.mark.parametrize("address", ["claire@exemple.example", " CLAIRE@exemple.EXAMPLE\n"])
async def test_a_customer_is_found_however_the_address_is_written(tmp_path: pathlib.Path, address: str) -> None:
    customers = written(tmp_path / "c.jsonl", CLAIRE, {"email": "a@b.example"})
    assert await customers.find_contact(address) == {"tier": "fidele", "orders": CLAIRE["orders"]}


@pytest.mark.parametrize("address", ["nobody@exemple.example", "", "claire"])
async def test_an_unknown_address_is_a_customer_of_unknown_tier(tmp_path: pathlib.Path, address: str) -> None:
    customers = written(tmp_path / "c.jsonl", CLAIRE)
    assert await customers.find_contact(address) == {"tier": "unknown", "orders": []}


async def test_what_is_missing_or_odd_does_no_harm(tmp_path: pathlib.Path) -> None:
    customers = written(tmp_path / "c.jsonl", {"email": "a@b.example", "orders": "many"}, {"email": "c@d.example"})
    assert await customers.find_contact("a@b.example") == {"tier": "unknown", "orders": []}
    assert await customers.find_contact("c@d.example") == {"tier": "unknown", "orders": []}


async def test_only_what_a_workflow_needs_is_given(tmp_path: pathlib.Path) -> None:
    customers = written(tmp_path / "c.jsonl", {**CLAIRE, "name": "Claire Vasseur", "phone": "06 39 98 12 47"})
    assert set(await customers.find_contact("claire@exemple.example")) == {"tier", "orders"}


async def test_the_file_is_read_again_when_it_changes_and_only_then(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "c.jsonl"
    customers = written(path, CLAIRE)
    assert (await customers.find_contact("claire@exemple.example"))["tier"] == "fidele"
    stamp = path.stat()
    written(path, {**CLAIRE, "tier": "unknow"})
    assert path.stat().st_size == stamp.st_size
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert (await customers.find_contact("claire@exemple.example"))["tier"] == "fidele", "same date and size"
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 1))
    assert (await customers.find_contact("claire@exemple.example"))["tier"] == "unknow"


@pytest.mark.parametrize("line", ["{", "[]", '"x"', "3", "null", '{"mail": "a@b.example"}'])
async def test_a_line_that_is_no_customer_is_named(tmp_path: pathlib.Path, line: str) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text(json.dumps(CLAIRE) + "\n\n" + line + "\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"c\.jsonl:3: not a customer"):
        await Customers(path).find_contact("a@b.example")


async def test_a_file_that_cannot_be_read_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.jsonl"):
        await Customers(tmp_path / "nothing.jsonl").find_contact("a@b.example")
    with pytest.raises(ConfigError, match="cannot be read"):
        await Customers(tmp_path).find_contact("a@b.example")
    (tmp_path / "latin.jsonl").write_bytes('{"email": "é@b.example"}'.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"not UTF-8 \(byte 11\)"):
        await Customers(tmp_path / "latin.jsonl").find_contact("a@b.example")


async def test_a_line_separator_inside_a_name_does_not_cut_the_line(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text(json.dumps({**CLAIRE, "name": "Claire\u2028Vasseur\u0085"}, ensure_ascii=False), encoding="utf-8")
    assert (await Customers(path).find_contact("claire@exemple.example"))["tier"] == "fidele"
