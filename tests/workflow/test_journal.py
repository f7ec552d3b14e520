"""The journal: written once, under the right epoch, sealed; answers that are paid for are never produced twice."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from metier.calls import JSON, RunId
from metier.errors import Broken, Invalid, ProviderUnavailable
from metier.store import Store
from metier.vault import Vault
from metier.workflow.definition import Retry
from metier.workflow.engine import Engine, StepContext
from metier.workflow.journal import Hold, Journal, Line, LostRun
from tests.workflow.flows import WHO, Counting, flow, step

NOW = datetime(2026, 11, 1, tzinfo=UTC)


async def held(store: Store, vault: Vault) -> Hold:
    """A run that a worker holds under epoch 1."""
    run = await Engine(store, vault, {"code": Counting()}).start(flow(step("a")), {}, WHO)
    async with store.connection() as connection:
        await connection.execute("UPDATE runs SET status = 'running', epoch = 1")
    return Hold(run, 1)


def line(path: str, value: JSON = None, **more: object) -> Line:
    return Line(path, 1, "result", value, NOW, **more)  # type: ignore[arg-type]  # terse tests


async def test_what_is_written_is_read_back(store: Store, vault: Vault) -> None:
    journal, hold = Journal(store, vault), await held(store, vault)
    value: JSON = {"text": "déjà", "n": [1, 2.5, None, True]}
    await journal.append(hold, [line("b", value, cost_eur=Decimal("0.000000001"), calls=2), line("a")])
    read = await journal.load(hold.run)
    assert list(read) == [("b", 1, ""), ("a", 1, "")]
    assert (read["b", 1, ""].value, read["b", 1, ""].cost_eur, read["b", 1, ""].calls) == (value, Decimal("1E-9"), 2)


async def test_a_worker_that_lost_the_run_writes_nothing(store: Store, vault: Vault) -> None:
    journal, hold = Journal(store, vault), await held(store, vault)
    for stranger in (Hold(hold.run, 0), Hold(hold.run, 2), Hold(RunId("run_x"), 1)):
        with pytest.raises(LostRun):
            await journal.append(stranger, [line("a")])
    async with store.connection() as connection:
        await connection.execute("UPDATE runs SET status = 'parked'")
    with pytest.raises(LostRun):
        await journal.append(hold, [line("a")])
    assert await journal.load(hold.run) == {}


async def test_a_line_is_written_once(store: Store, vault: Vault) -> None:
    journal, hold = Journal(store, vault), await held(store, vault)
    await journal.append(hold, [line("a", "first")])
    await journal.append(hold, [line("a", "again after a lost connection")])
    async with store.connection() as connection:
        await connection.execute("UPDATE runs SET epoch = 2")
    with pytest.raises(LostRun):
        await journal.append(Hold(hold.run, 2), [line("a", "by another")])
    assert (await journal.load(hold.run))["a", 1, ""].value == "first"


async def test_a_take_waits_for_a_write_in_progress_and_then_sees_it(store: Store, vault: Vault) -> None:
    journal, hold = Journal(store, vault), await held(store, vault)
    queries = store.queries("engine")
    async with asyncio.TaskGroup() as group:
        async with store.transaction() as tx:
            await journal.append(hold, [line("a", "mine")], tx)
            taken = group.create_task(queries.one("take", {"id": hold.run}))
            await asyncio.sleep(0.05)
            assert not taken.done(), "the row of the run must be held until the line is committed"
        row = await taken
    assert row is not None
    assert row["epoch"] == 2
    assert (await journal.load(hold.run))["a", 1, ""].value == "mine"


async def test_a_large_value_is_kept_once(store: Store, vault: Vault) -> None:
    journal, hold = Journal(store, vault), await held(store, vault)
    large = random.Random(7).randbytes(100_000).hex()
    await journal.append(hold, [line("a", large), line("b", large), line("c", "small")])
    read = await journal.load(hold.run)
    assert read["a", 1, ""].value == read["b", 1, ""].value == large
    async with store.connection() as connection:
        rows = await (await connection.execute("SELECT size, octet_length(sealed) AS kept FROM blobs")).fetchall()
    assert len(rows) == 1
    assert rows[0]["size"] > rows[0]["kept"] > 64 * 1024


async def test_a_line_moved_to_another_place_does_not_open(store: Store, vault: Vault) -> None:
    journal, hold = Journal(store, vault), await held(store, vault)
    await journal.append(hold, [line("a", "for a only")])
    async with store.connection() as connection:
        await connection.execute("UPDATE journal SET path = 'b'")
    with pytest.raises(Broken):
        await journal.load(hold.run)


async def test_an_answer_is_journalled_before_it_is_used_and_never_bought_again(store: Store, vault: Vault) -> None:
    bought: list[str] = []
    crash = [True]

    async def llm(context: StepContext, given: dict[str, JSON]) -> JSON:
        async def buy() -> JSON:
            bought.append(f"{context.path}/{context.attempt}")
            context.spend(Decimal("0.01"), calls=1)
            return {"text": f"answer {len(bought)}"}

        answer = await context.once("call", buy)
        again = await context.once("call", buy)
        assert again == answer
        if crash[0]:
            crash[0] = False
            raise asyncio.CancelledError  # the worker goes away between the answer and the result
        return answer

    engine = Engine(store, vault, {"llm": llm})
    run = await engine.start(flow(step("a", "llm"), output="{{ steps.a.text }}"), {}, WHO)
    await engine.drain()
    await engine.drain()
    assert await engine.result(run) == "answer 1"
    assert bought == ["a/1"]
    lines = {(s.path, s.name): (s.kind, s.cost_eur, s.calls) for s in await engine.steps(run)}
    assert lines["a", "call"] == ("answer", Decimal("0.01"), 1)
    # Given out twice and read back once more, counted once.
    assert lines["a", ""] == ("result", Decimal("0.01"), 1)
    assert (await engine.get(run)).cost_eur == Decimal("0.01")


async def test_a_new_attempt_buys_a_new_answer(store: Store, vault: Vault) -> None:
    async def llm(context: StepContext, given: dict[str, JSON]) -> JSON:
        async def buy() -> JSON:
            context.spend(Decimal("0.01"))
            return context.attempt

        await context.once("call", buy)
        if context.attempt == 1:
            raise ProviderUnavailable("cut off")
        return await context.once("call", buy)

    engine = Engine(store, vault, {"llm": llm})
    run = await engine.start(flow(step("a", "llm", retry=Retry(1, "constant", 0)), output="{{ steps.a }}"), {}, WHO)
    await engine.drain()
    assert await engine.result(run) == 2
    assert (await engine.get(run)).cost_eur == Decimal("0.02")


async def test_answers_bought_side_by_side_keep_their_own_cost(store: Store, vault: Vault) -> None:
    async def many(context: StepContext, given: dict[str, JSON]) -> JSON:
        async def buy(cents: int) -> JSON:
            await asyncio.sleep(0)
            context.spend(Decimal(cents) / 100)
            await asyncio.sleep(0)
            return cents

        def bought(cents: int) -> asyncio.Future[JSON]:
            return asyncio.ensure_future(context.once(f"part.{cents}", lambda: buy(cents)))

        return sum(await asyncio.gather(bought(1), bought(2), bought(4)))  # type: ignore[arg-type]  # numbers

    engine = Engine(store, vault, {"code": many})
    run = await engine.start(flow(step("a"), output="{{ steps.a }}"), {}, WHO)
    await engine.drain()
    costs = {s.name: s.cost_eur for s in await engine.steps(run)}
    assert costs == {f"part.{n}": Decimal(n) / 100 for n in (1, 2, 4)} | {"": Decimal("0.07")}


async def test_an_answer_asked_for_twice_at_once_is_produced_once(store: Store, vault: Vault) -> None:
    bought: list[int] = []

    async def twice(context: StepContext, given: dict[str, JSON]) -> JSON:
        async def buy() -> JSON:
            await asyncio.sleep(0.01)
            bought.append(1)
            return len(bought)

        return list(await asyncio.gather(context.once("call", buy), context.once("call", buy)))

    engine = Engine(store, vault, {"code": twice})
    run = await engine.start(flow(step("a"), output="{{ steps.a }}"), {}, WHO)
    await engine.drain()
    assert await engine.result(run) == [1, 1]


@pytest.mark.parametrize("name", ["", "!human"])
async def test_the_names_of_the_engine_are_not_for_steps(store: Store, vault: Vault, name: str) -> None:
    async def rude(context: StepContext, given: dict[str, JSON]) -> JSON:
        async def nothing() -> JSON:
            return None

        with pytest.raises(Invalid):
            await context.once(name, nothing)
        return "refused"

    engine = Engine(store, vault, {"code": rude})
    run = await engine.start(flow(step("a"), output="{{ steps.a }}"), {}, WHO)
    await engine.drain()
    assert await engine.result(run) == "refused"
