from __future__ import annotations

import asyncio
import contextlib
import pathlib
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import psycopg
import pytest

from metier.calls import Call, Chunk, Origin, RunId, Usage
from metier.errors import BudgetExceeded, GuardrailBlocked, LedgerBroken, ProviderUnavailable
from metier.record.ledger import Ledger
from metier.store import Store
from tests.record.world import World, build, rows, spend


async def road(
    world: World, ledger: Ledger, call: Call, chunks: list[Chunk], error: Exception | None = None
) -> AsyncGenerator[Chunk, None]:
    """The road in small: what the gateway does with an entry."""
    async with ledger.entry(call) as entry:
        await world.admission("road").admit(call, world.model, entry)
        entry.deployment = world.deployment
        for chunk in chunks:
            entry.observe(chunk)
            yield chunk
        if error is not None:
            raise error
        yield Chunk(receipt=entry.receipt())


async def test_an_answered_call_is_one_row_with_its_money_and_footprint(store: Store, tmp_path: pathlib.Path) -> None:
    world = await build(store, tmp_path)
    ledger = world.ledger("w", world.admission("w"))
    call = Call(world.principal, "chat", origin=Origin(RunId("run_1"), "triage", 2))
    done = [c async for c in road(world, ledger, call, [Chunk("Bon"), Chunk("jour", usage=Usage(1000, 20, 10))])]
    receipt = done[-1].receipt
    assert receipt is not None and receipt.cost_eur == Decimal("0.021") and receipt.call_id == call.id
    assert await ledger.flush() == 1 and await ledger.flush() == 0
    [row] = await rows(store)
    assert row["id"] == call.id and row["outcome"] == "answered" and row["error_code"] is None
    assert (row["input_tokens"], row["output_tokens"], row["cached_tokens"]) == (1000, 20, 10)
    assert row["cost_eur"] == Decimal("0.021") and row["priced"] and not row["estimated"]
    assert (row["run"], row["path"], row["attempt"]) == ("run_1", "triage", 2)
    assert row["deployment"] == "chat" and row["method"].startswith("EcoLogits") and row["zone"] == "USA"
    assert 0 < row["energy_low_kwh"] < row["energy_high_kwh"] and 0 < row["carbon_low_g"] < row["carbon_high_g"]
    assert row["first_token_s"] <= row["duration_s"]
    assert [r["id"] for r in await ledger.of_run("run_1")] == [call.id]
    await ledger.close()
    assert not (world.folder / "w").exists()


async def test_every_way_out_leaves_exactly_one_row(store: Store, tmp_path: pathlib.Path) -> None:
    world = await build(store, tmp_path)
    ledger = world.ledger("w", world.admission("w"))
    expected: dict[str, tuple[str, str | None]] = {}

    call = world.call()
    async with contextlib.aclosing(road(world, ledger, call, [Chunk("abcdef"), Chunk("ghi")])) as stream:
        async for _ in stream:
            break
    expected[call.id] = ("cancelled", None)

    call = world.call()
    with pytest.raises(ProviderUnavailable):
        [c async for c in road(world, ledger, call, [], ProviderUnavailable("down"))]
    expected[call.id] = ("failed", "provider_unavailable")

    call = world.call()
    with pytest.raises(ZeroDivisionError):
        [c async for c in road(world, ledger, call, [Chunk("x")], ZeroDivisionError())]
    expected[call.id] = ("failed", "internal")

    call = world.call()
    with pytest.raises(GuardrailBlocked):
        async with ledger.entry(call):
            raise GuardrailBlocked("no")
    expected[call.id] = ("refused", "guardrail_blocked")

    call = world.call()
    stuck = asyncio.Event()

    async def hang(call: Call) -> None:
        async with ledger.entry(call) as entry:
            entry.deployment = world.deployment
            await stuck.wait()

    task = asyncio.ensure_future(hang(call))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    expected[call.id] = ("cancelled", None)

    call = world.call()
    async with contextlib.aclosing(road(world, ledger, call, [Chunk("abcdef", usage=Usage(2, 2))])) as stream:
        async for chunk in stream:
            if chunk.receipt:
                break
    expected[call.id] = ("answered", None)

    await ledger.flush()
    found = {row["id"]: row for row in await rows(store)}
    assert {i: (r["outcome"], r["error_code"]) for i, r in found.items()} == expected
    left_early, broken, *_ = (found[i] for i in expected)
    assert left_early["estimated"] and left_early["output_tokens"] == 2 and left_early["cost_eur"] > Decimal("0.002")
    assert broken["cost_eur"] == 0 and broken["output_tokens"] == 0
    await ledger.close()


async def test_a_row_is_written_once_however_often_it_is_sent(store: Store, tmp_path: pathlib.Path) -> None:
    world = await build(store, tmp_path, "10")
    admission = world.admission("w")
    ledger = world.ledger("w", admission)
    entry = await spend(world, ledger, admission, 100)
    await ledger.flush()
    ledger.ended(entry.call.id, b'{"id":"%s","at":1,"key":"k","project":"p"}' % entry.call.id.encode())
    await ledger.flush()
    [row] = await rows(store)
    assert row["cost_eur"] == Decimal("0.1")
    budget = await admission.budget(world.principal.project)
    assert budget is not None and budget.spent_eur == Decimal("0.1") and await admission.drift() == []


async def test_no_text_of_a_call_reaches_the_spool_or_the_row(store: Store, tmp_path: pathlib.Path) -> None:
    world = await build(store, tmp_path)
    ledger = world.ledger("w", world.admission("w"))
    call = world.call()
    [_ async for _ in road(world, ledger, call, [Chunk("secret-answer", usage=Usage(1, 1))])]
    written = b"".join(p.read_bytes() for p in (world.folder / "w").glob("*.spool"))
    assert call.id.encode() in written and b"Bonjour" not in written and b"secret-answer" not in written
    await ledger.flush()
    assert "Bonjour" not in str(await rows(store)) and "secret-answer" not in str(await rows(store))


async def test_a_name_that_would_spoil_a_batch_is_cleaned(store: Store, tmp_path: pathlib.Path) -> None:
    world = await build(store, tmp_path)
    ledger = world.ledger("w", world.admission("w"))
    for name in ("a\0b", "\ud800", "é" * 500):
        with pytest.raises(BudgetExceeded):
            async with ledger.entry(world.call(name)):
                raise BudgetExceeded("no")
    assert await ledger.flush() == 3
    assert sorted(row["model"] for row in await rows(store)) == ["?", "ab", "é" * 120]


async def test_a_row_the_database_cannot_take_is_set_aside_and_the_others_pass(
    store: Store, tmp_path: pathlib.Path
) -> None:
    world = await build(store, tmp_path)
    admission = world.admission("w")
    ledger = world.ledger("w", admission)
    await spend(world, ledger, admission, 5)
    ledger.ended("call_bad", b'{"id":"call_bad","outcome":"unheard of"}')
    await spend(world, ledger, admission, 5)
    assert await ledger.flush() == 3
    assert len(await rows(store)) == 2
    assert b"call_bad" in (world.folder / "rejected.jsonl").read_bytes()


async def test_a_full_spool_refuses_before_the_provider_and_gives_the_money_back(
    store: Store, tmp_path: pathlib.Path
) -> None:
    world = await build(store, tmp_path, "10")
    admission = world.admission("w")
    ledger = world.ledger("w", admission, most_bytes=1000)
    await spend(world, ledger, admission, 5)
    for _ in range(6):
        with pytest.raises(LedgerBroken):
            await spend(world, ledger, admission, 1000)
    await ledger.flush()
    first, *refused = await rows(store)
    assert first["outcome"] == "answered" and len(refused) >= 1
    assert {(r["outcome"], r["error_code"], r["cost_eur"]) for r in refused} == {("failed", "ledger_broken", 0)}
    assert len(refused) + ledger.unrecorded == 6, "refusals beyond all room are counted, not kept"
    await spend(world, ledger, admission, 5)
    await ledger.close()
    budget = await admission.budget(world.principal.project)
    assert budget is not None and (budget.spent_eur, budget.held_eur) == (Decimal("0.01"), Decimal(0))


async def test_usage_adds_up_by_any_dimension_and_says_what_is_unknown(store: Store, tmp_path: pathlib.Path) -> None:
    world = await build(store, tmp_path)
    admission = world.admission("w")
    ledger = world.ledger("w", admission)
    for output in (10, 20, 30):
        await spend(world, ledger, admission, output)
    local = world.call("local")
    async with ledger.entry(local) as entry:
        entry.deployment = world.catalog.model("local").deployments[0]
        entry.usage = Usage(7, 7)
    with pytest.raises(BudgetExceeded):
        async with ledger.entry(world.call()):
            raise BudgetExceeded("no")
    await ledger.flush()
    [whole] = await ledger.usage([])
    assert (whole.calls, whole.errors, whole.output_tokens, whole.cost_eur) == (5, 1, 67, Decimal("0.06"))
    assert whole.not_estimated == 1 and whole.unpriced == 0 and whole.energy_low_wh is not None
    by_model = {u.model: u for u in await ledger.usage(["model"])}
    assert by_model["local"].energy_low_wh is None and by_model["local"].cost_eur == 0
    assert by_model["chat"].calls == 4 and by_model["chat"].project is None
    [day] = await ledger.usage(["day", "project", "system"])
    assert day.day == datetime.now(UTC).date() and day.system == world.principal.system
    assert await ledger.usage(["project"], since=datetime.now(UTC) + timedelta(days=1)) == ()
    assert await ledger.usage(["project"], project="other") == ()


async def test_how_long_the_database_has_taken_no_records_is_known(store: Store, tmp_path: pathlib.Path) -> None:
    world = await build(store, tmp_path)
    ledger = world.ledger("w", world.admission("w"))
    assert ledger.late_s == 0.0 and ledger.spool.room == 64 << 20
    [_ async for _ in road(world, ledger, Call(world.principal, "chat"), [Chunk("Bon")])]
    async with store.connection() as connection:
        await connection.execute("ALTER TABLE calls RENAME TO calls_away")
        with pytest.raises(psycopg.Error):
            await ledger.flush()
        assert ledger.late_s > 0.0 and ledger.waiting == 1
        await connection.execute("ALTER TABLE calls_away RENAME TO calls")
    assert await ledger.flush() == 1 and ledger.late_s == 0.0
