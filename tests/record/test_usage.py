"""The totals of the hours: equal to the calls they count, within their error, whoever writes them."""

from __future__ import annotations

import asyncio
import pathlib
import re
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import orjson
import pytest

from metier.calls import Call, KeyId, Message, Principal, Usage
from metier.record.entry import Entry
from metier.record.ledger import Ledger
from metier.record.usage import Dimension
from metier.store import Store, named_queries
from tests.record.world import World, build

HOUR = datetime(2026, 3, 29, 1, tzinfo=UTC)


class _Paper:
    """Takes the payload of an entry, so that a test may change what time and duration it tells."""

    def __init__(self) -> None:
        self.payload = b""

    def opened(self, call_id: str, payload: bytes) -> None:
        """Nothing is kept."""

    def ended(self, call_id: str, payload: bytes, contents: bytes | None = None) -> None:
        """Keep the last."""
        self.payload = payload


async def ended(world: World, at: datetime, seconds: float, principal: Principal | None = None) -> tuple[str, bytes]:
    """The record of a call that began then and took so long."""
    paper = _Paper()
    call = Call(principal or world.principal, "chat", messages=(Message("user", "Bonjour"),))
    async with Entry(call, paper) as entry:
        entry.deployment = world.deployment
        entry.usage = Usage(10, 5, 2, 1, 3)
        entry.receipt()
    row = orjson.loads(paper.payload) | {"at": at.timestamp(), "duration_s": seconds, "first_token_s": seconds / 10}
    return call.id, orjson.dumps(row)


async def test_the_hours_add_up_to_the_calls(store: Store, tmp_path: pathlib.Path) -> None:
    world = await build(store, tmp_path)
    ledger = world.ledger("w1", world.admission("w1"))
    for minutes in range(0, 300, 7):
        ledger.ended(*await ended(world, HOUR + timedelta(minutes=minutes), 0.5))
    await ledger.flush()
    groupings: list[list[Dimension]] = [[], ["model"], ["day", "project", "system"], ["organisation"]]
    for by in groupings:
        counted = await ledger.usage(by, since=HOUR - timedelta(microseconds=1))
        summed = await ledger.usage(by, since=HOUR)
        assert len(summed) == len(counted) == 1
        for total, count in zip(summed, counted, strict=True):
            for name, value in asdict(count).items():
                # Floats are added in another order.
                wanted = pytest.approx(value) if isinstance(value, float) else value
                assert getattr(total, name) == wanted, name
    [part] = await ledger.usage([], since=HOUR + timedelta(hours=1), until=HOUR + timedelta(hours=2))
    assert (part.calls, part.input_tokens, part.output_tokens) == (9, 90, 45)
    [one] = await ledger.usage(["organisation"])
    assert one.organisation == "main"


async def test_a_record_sent_twice_is_counted_once(store: Store, tmp_path: pathlib.Path) -> None:
    world = await build(store, tmp_path)
    ledger = world.ledger("w1", world.admission("w1"))
    record = await ended(world, HOUR, 0.5)
    for _ in range(3):
        ledger.ended(*record)
    await ledger.flush()
    ledger.ended(*record)
    await ledger.flush()
    [whole] = await ledger.usage([])
    [latency] = [found for found in await ledger.latencies() if found.measure == "whole"]
    assert (whole.calls, latency.calls) == (1, 1)


async def test_writers_side_by_side_lose_nothing(store: Store, tmp_path: pathlib.Path) -> None:
    world = await build(store, tmp_path)
    project = await world.keys.create_project("Second")
    other = Principal(world.principal.key_id, project.id, world.principal.system)

    async def write(name: str, principals: list[Principal]) -> None:
        ledger = Ledger(store, tmp_path / name, name, _nothing, _nobody)
        ledger.open()
        for turn in range(5):
            for principal in principals:
                for hour in range(4):
                    ledger.ended(*await ended(world, HOUR + timedelta(hours=hour, minutes=turn), 0.1, principal))
            await ledger.flush()

    mine = world.principal
    await asyncio.gather(*(write(f"w{i}", [mine, other] if i % 2 else [other, mine]) for i in range(4)))
    [whole] = await world.ledger("reader", world.admission("reader")).usage([])
    assert whole.calls == 4 * 5 * 2 * 4


async def _nothing(*_: object) -> None:
    return None


async def _nobody(*_: object) -> None:
    return None


async def test_latencies_are_within_their_error(store: Store, tmp_path: pathlib.Path) -> None:
    world = await build(store, tmp_path)
    ledger = world.ledger("w1", world.admission("w1"))
    for i in range(1, 201):
        ledger.ended(*await ended(world, HOUR, i / 10))
    await ledger.flush()
    found = {latency.measure: latency for latency in await ledger.latencies()}
    whole, first = found["whole"], found["first"]
    assert whole.calls == first.calls == 200
    assert whole.p50_s == pytest.approx(10.0, rel=0.055)
    assert whole.p95_s == pytest.approx(19.0, rel=0.055)
    assert whole.p99_s == pytest.approx(19.8, rel=0.055)
    assert first.p50_s == pytest.approx(1.0, rel=0.055)
    assert await ledger.latencies(since=HOUR + timedelta(hours=1)) == ()


async def test_what_a_new_record_tells_is_in_its_row(store: Store, tmp_path: pathlib.Path) -> None:
    world = await build(store, tmp_path)
    ledger = world.ledger("w1", world.admission("w1"))
    call_id, payload = await ended(world, HOUR, 0.2)
    ledger.ended(call_id, payload)
    await ledger.flush()
    async with store.connection() as connection:
        cursor = await connection.execute("SELECT * FROM calls WHERE id = %s", [call_id])
        row = await cursor.fetchone()
    assert row is not None
    said = (row["organisation"], row["cache_write_tokens"], row["reasoning_tokens"], row["tries"], row["cache"])
    assert said == ("main", 1, 3, 1, None)


async def test_totals_per_key_and_of_thought_and_cached_tokens_are_kept(store: Store, tmp_path: pathlib.Path) -> None:
    world = await build(store, tmp_path)
    ledger, records = world.recording("w1", world.admission("w1"))
    second = replace(world.principal, key_id=KeyId("second"))
    for day in range(3):
        for principal in (world.principal, second, second):
            call_id, payload = await ended(world, HOUR + timedelta(days=day), 0.5, principal)
            hit = {"cache": "exact", "saved_eur": "0.5", "saved_kwh": 0.25} if principal is second else {}
            ledger.ended(call_id, orjson.dumps(orjson.loads(payload) | hit))
    await ledger.flush()
    dear, cheap = await records.keys()
    assert (dear.key, dear.calls, dear.input_tokens, dear.cache_hits, dear.saved_eur) == (
        "second",
        6,
        60,
        6,
        Decimal(3),
    )
    assert (cheap.key, cheap.calls, cheap.cache_hits) == ("abc", 3, 0)
    [first, _] = await records.keys(until=(HOUR + timedelta(days=1)).date())
    assert first.calls == 2 and await records.keys(project="other") == ()
    [whole] = await ledger.usage([])
    assert (whole.cached_tokens, whole.reasoning_tokens, whole.saved_kwh) == (18, 27, 1.5)


_NEVER_CALLS = ("usage_by_hours", "usage_by_keys", "latencies", "same_hours", "first_hours")


@pytest.mark.parametrize("query", _NEVER_CALLS)
async def test_what_a_dashboard_asks_never_touches_the_calls(store: Store, query: str) -> None:
    statement = named_queries("ledger")[query]
    names = set(re.findall(r"%\((\w+)\)s", statement))
    values = {"by": ["model"], "hours": [HOUR], "since": HOUR, "until": HOUR, "project": "p"}
    async with store.connection() as connection:
        found = await connection.execute(f"EXPLAIN (FORMAT JSON) {statement}".encode(), {n: values[n] for n in names})
        row = await found.fetchone()
    assert row is not None
    read = set(re.findall(r"'Relation Name': '(\w+)'", str(row["QUERY PLAN"])))
    assert read and read <= {"usage_hours", "usage_keys", "usage_latencies"}, read
