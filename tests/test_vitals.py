"""Whether a node says that it cannot serve, and what it says before that."""

from __future__ import annotations

import logging
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from metier.store import Store
from metier.vitals import LOW_BYTES, Vitals


@dataclass(frozen=True, slots=True)
class Spool:
    """What a spool tells."""

    room: int = 64 << 20


@dataclass(frozen=True, slots=True)
class Books:
    """What a ledger tells."""

    spool: Spool = field(default_factory=Spool)
    waiting: int = 0
    late_s: float = 0.0


def of(store: Store, books: Books | None = None, free: Sequence[int] = (LOW_BYTES,)) -> Vitals:
    """Look at a node whose disk has the last of `free` bytes free."""
    return Vitals(store, books or Books(), pathlib.Path("/somewhere"), lambda: True, free=lambda _: free[-1])


async def test_a_node_is_ready_while_it_can_record_calls(store: Store) -> None:
    assert await of(store).ready() == {"database": True, "models": True, "records": True}
    assert of(store).remarks() == {}


async def test_a_node_without_room_for_records_is_not_ready(store: Store) -> None:
    assert not (await of(store, Books(Spool(1000))).ready())["records"], "a balancer goes elsewhere before calls fail"


async def test_a_disk_nearly_full_is_told_once_and_so_is_its_end(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "metier.vitals")
    free = [LOW_BYTES]
    vitals = of(store, free=free)
    told = []
    for left in (LOW_BYTES, LOW_BYTES - 1, 3 << 20, LOW_BYTES, LOW_BYTES):
        free.append(left)
        await vitals.look()
        told.append((len(caplog.records), vitals.remarks().get("disk")))
    assert [number for number, _ in told] == [0, 1, 1, 2, 2]
    assert [remark for _, remark in told] == [None, {"free_bytes": LOW_BYTES - 1}, {"free_bytes": 3 << 20}, None, None]
    assert "make room" in caplog.records[0].getMessage() and "room again" in caplog.records[1].getMessage()


def test_records_that_the_database_does_not_take_are_told(store: Store) -> None:
    assert of(store, Books(waiting=3, late_s=3.0)).remarks() == {}, "a restart of the database takes a moment"
    late = of(store, Books(waiting=40, late_s=7.4))
    assert late.remarks() == {"records": {"waiting": 40, "for_s": 7}}
    shown = {family.name: family.samples[0].value for family in late.families()}
    assert shown == {"metier_disk_free_bytes": LOW_BYTES, "metier_spool_late_seconds": 7.4}


def test_a_disk_that_cannot_be_looked_at_is_no_fault_of_the_rest(store: Store) -> None:
    def gone(path: pathlib.Path) -> int:
        raise FileNotFoundError(path)

    vitals = Vitals(store, Books(), pathlib.Path("/somewhere"), lambda: True, free=gone)
    assert vitals.remarks() == {} and [family.name for family in vitals.families()] == ["metier_spool_late_seconds"]
