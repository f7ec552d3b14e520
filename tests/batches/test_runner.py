from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import psycopg
import pytest

from metier.api import failures
from metier.batches import Road, Rules, Runner
from metier.calls import KeyId, Principal
from metier.errors import (
    BudgetExceeded,
    GuardrailBlocked,
    NotAuthenticated,
    ProviderUnavailable,
    RateLimited,
    SystemNotApproved,
)
from metier.store import Store
from metier.vault import Vault
from metier.workflow.dispatch import Pace
from tests.batches.house import CHAT, WHO, House, chat, jsonl, line, waits


@pytest.fixture
async def house(store: Store, vault: Vault) -> House:
    """A house on a fresh database."""
    return House(store, vault)


async def test_every_line_gets_its_answer_in_the_order_of_the_file(house: House) -> None:
    made = await house.batch(*[line(f"n-{n}", f"question {n}") for n in range(250)])
    assert (made.status, made.total) == ("validating", 0)
    await house.runner.drain()
    done = await house.batches.get(made.id)
    assert (done.status, done.total, done.done, done.failed, done.error_file) == ("completed", 250, 250, 0, None)
    lines = await house.read(done.output_file)
    assert [each["custom_id"] for each in lines] == [f"n-{n}" for n in range(250)]
    assert lines[7]["response"]["body"]["choices"][0]["message"]["content"] == "re: question 7"
    assert (lines[7]["response"]["status_code"], lines[7]["error"]) == (200, None)
    assert house.most <= house.files.rules.concurrency
    origin = house.calls[0].origin
    assert origin is not None
    assert (origin.run, origin.path) == (made.id, "line 1")


async def test_lines_that_cannot_be_called_are_told_with_their_number_and_the_others_are_answered(house: House) -> None:
    made = await house.batch(
        line("a"),
        b"\n",
        b"not json\n",
        line("a", "again"),
        line("b", body={"model": "petit"}),
        line("c", method="GET"),
        b'{"custom_id": "long", "x": "' + b"x" * (20 * 1024 * 1024) + b'"}\n',
        line("d"),
    )
    done = await house.turn(made)
    assert (done.status, done.total, done.done, done.failed) == ("completed", 7, 2, 5)
    assert [each["custom_id"] for each in await house.read(done.output_file)] == ["a", "d"]
    errors = await house.read(done.error_file)
    assert [(e["error"]["line"], e["custom_id"], e["error"]["code"]) for e in errors] == [
        (3, None, "invalid_json_line"),
        (4, "a", "duplicate_custom_id"),
        (5, "b", "invalid"),
        (6, "c", "invalid_method"),
        (7, None, "line_too_long"),
    ]
    assert errors[2]["error"]["param"] == "body.messages"
    assert all(each["response"] is None for each in errors)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "empty_file"),
        (b"\n \n", "empty_file"),
        (b"%PDF-1.7\n\x00\xff\xfe", "invalid_json_line"),
        (jsonl([line("é")]).decode().encode("utf-16"), "invalid_json_line"),
        (b"id,question\n1,Bonjour\n", "invalid_json_line"),
        (b"{}\n" * 50_001, "too_many_lines"),
    ],
)
async def test_a_file_nothing_of_which_can_be_called_fails_the_batch(house: House, data: bytes, code: str) -> None:
    failed = await house.turn(await house.batch(data))
    assert (failed.status, failed.errors[0]["code"]) == ("failed", code)
    assert (failed.output_file, failed.error_file, failed.total) == (None, None, 0)
    assert not house.calls


async def test_a_refusal_of_one_call_is_its_answer(house: House) -> None:
    house.meets = lambda text: GuardrailBlocked("no") if text == "bad" else None
    done = await house.turn(await house.batch(line("a", "bad"), line("b")))
    assert (done.status, done.done, done.failed) == ("completed", 1, 1)
    [refused] = await house.read(done.error_file)
    assert (refused["custom_id"], refused["response"]["status_code"], refused["error"]) == ("a", 400, None)
    assert refused["response"]["body"]["error"]["code"] == "guardrail_blocked"


async def test_what_breaks_inside_is_one_lines_error_without_its_words(house: House) -> None:
    house.meets = lambda text: ValueError("secret") if text == "bad" else None
    done = await house.turn(await house.batch(line("a", "bad"), line("b")))
    [broken] = await house.read(done.error_file)
    assert (done.status, broken["response"]["status_code"]) == ("completed", 500)
    assert "secret" not in str(broken)


async def test_a_database_that_is_away_is_no_lines_fault(house: House) -> None:
    house.meets = lambda text: psycopg.OperationalError("secret") if len(house.calls) < 3 else None
    made = await house.batch(line("a"), line("b"))
    while not (now := await house.turn(made)).over:
        assert (now.paused, now.failed) == ("unavailable", 0)
        house.clock.now = now.resume_at or house.clock.now
    assert (now.status, now.done) == ("completed", 2)


async def test_a_rate_limit_puts_the_batch_aside_for_as_long_as_it_says(house: House) -> None:
    limited = True
    house.meets = lambda text: waits(RateLimited("slow"), 90.0) if limited else None
    made = await house.batch(*[line(str(n), str(n)) for n in range(9)])
    paused = await house.turn(made)
    assert (paused.status, paused.paused, paused.done, paused.failed) == ("in_progress", "rate_limited", 0, 0)
    assert paused.resume_at == house.clock() + timedelta(seconds=90)
    asked = sum(house.asked.values())
    assert asked <= house.files.rules.concurrency
    house.clock.forward(90)
    await house.turn(made)
    assert sum(house.asked.values()) == asked + 1, "one call goes ahead of the others"
    limited = False
    house.clock.forward(90)
    done = await house.turn(made)
    assert (done.status, done.done) == ("completed", 9)


async def test_a_spent_budget_is_waited_for_longer_each_time(house: House) -> None:
    house.meets = lambda text: BudgetExceeded("spent")
    made = await house.batch(line())
    waited = []
    for _ in range(6):
        paused = await house.turn(made)
        assert (paused.status, paused.paused) == ("in_progress", "budget_exceeded")
        assert paused.resume_at is not None
        waited.append((paused.resume_at - house.clock()).total_seconds())
        house.clock.now = paused.resume_at
    assert waited == [60, 120, 240, 480, 900, 900]
    house.meets = lambda text: None
    assert (await house.turn(made)).status == "completed"


async def test_an_outage_is_waited_for_and_a_line_that_never_passes_does_not_stop_the_others(house: House) -> None:
    house.meets = lambda text: ProviderUnavailable("away") if text == "bad" else None
    made = await house.batch(line("bad", "bad"), *[line(str(n), str(n)) for n in range(6)])
    for _ in range(30):
        now = await house.turn(made)
        if now.over:
            break
        assert now.resume_at is not None
        house.clock.now = now.resume_at
    assert (now.status, now.done, now.failed) == ("completed", 6, 1)
    assert [house.asked[str(n)] for n in range(6)] == [1] * 6
    assert house.asked["bad"] == 12
    [error] = await house.read(now.error_file)
    assert error["response"]["status_code"] == 503


@pytest.mark.parametrize("refusal", [NotAuthenticated("the key was revoked"), SystemNotApproved("suspended")])
async def test_a_key_that_may_call_no_more_ends_the_batch_with_what_was_done(
    house: House, refusal: NotAuthenticated | SystemNotApproved
) -> None:
    house.meets = lambda text: refusal if int(text) >= 5 else None
    stopped = await house.turn(await house.batch(*[line(str(n), str(n)) for n in range(20)]))
    assert (stopped.status, stopped.errors[0]["code"]) == ("failed", refusal.code)
    assert stopped.errors[0]["message"] == refusal.message
    assert (stopped.total, stopped.done, stopped.failed) == (20, 5, 15)
    assert len(await house.read(stopped.output_file)) == 5
    assert {each["error"]["code"] for each in await house.read(stopped.error_file)} == {"batch_failed"}


async def test_a_revoked_key_is_noticed_before_its_file_is_read(house: House) -> None:
    def revoked() -> None:
        raise NotAuthenticated("the key was revoked")

    house.who = revoked  # type: ignore[assignment]  # it never gives anybody
    failed = await house.turn(await house.batch(line()))
    assert (failed.status, failed.errors[0]["code"]) == ("failed", "not_authenticated")


async def test_calls_are_made_inside_the_window_alone(house: House) -> None:
    made = await house.batch(*[line(str(n), str(n)) for n in range(8)], window="22:00-06:00 Europe/Paris")
    waiting = await house.turn(made)
    assert (waiting.status, waiting.paused, waiting.window) == ("in_progress", "window", "22:00-06:00 Europe/Paris")
    assert waiting.resume_at == datetime.fromisoformat("2027-01-12T22:00+01:00")
    assert not house.calls

    async def dawn(_: str) -> None:
        if len(house.calls) >= 3:
            house.clock.now = datetime.fromisoformat("2027-01-13T06:00+01:00")

    house.before = dawn
    house.clock.now = waiting.resume_at
    closed = await house.turn(made)
    assert closed.paused == "window"
    # Two have ended when the hour strikes, at most; those under way beside the third are heard to their end.
    assert closed.done == len(house.calls) <= 2 + house.files.rules.concurrency < 8
    # 24 hours end at noon, before the window opens again.
    assert closed.resume_at == closed.expires_at
    house.clock.now = closed.expires_at
    over = await house.turn(made)
    assert (over.status, over.done, over.failed) == ("expired", closed.done, 8 - closed.done)
    assert {each["error"]["code"] for each in await house.read(over.error_file)} == {"batch_expired"}
    assert len(await house.read(over.output_file)) == closed.done


async def test_the_house_has_a_window_a_batch_may_set_aside(store: Store, vault: Vault) -> None:
    house = House(store, vault, Rules(window="22:00-06:00 Europe/Paris"))
    assert (await house.turn(await house.batch(line()))).paused == "window"
    assert (await house.turn(await house.batch(line(), window="always"))).status == "completed"


async def test_a_cancelled_batch_gives_what_was_answered(house: House) -> None:
    made = await house.batch(*[line(str(n), str(n)) for n in range(20)])
    asked: list[str] = []

    async def cancel(text: str) -> None:
        asked.append(text)
        if len(asked) == 6:
            assert (await house.batches.cancel(made.id, WHO.project)).status == "cancelling"

    house.before = cancel
    over = await house.turn(made)
    assert over.status == "cancelled"
    assert over.done == len(house.calls) == len(await house.read(over.output_file))
    assert (over.total, {e["error"]["code"] for e in await house.read(over.error_file)}) == (20, {"batch_cancelled"})


async def test_a_batch_that_waits_is_cancelled_at_once(house: House) -> None:
    made = await house.batch(line(), window="22:00-06:00 Europe/Paris")
    await house.runner.drain()
    await house.batches.cancel(made.id)
    await house.runner.drain()
    over = await house.batches.get(made.id)
    assert (over.status, over.failed) == ("cancelled", 1)


async def test_batches_of_one_project_share_its_places(store: Store, vault: Vault) -> None:
    house = House(store, vault, Rules(concurrency=4, project_concurrency=5))
    gate, inside = asyncio.Event(), asyncio.Semaphore(0)

    async def wait(_: str) -> None:
        inside.release()
        await gate.wait()

    house.before = wait
    made = [await house.batch(*[line(f"{b}{n}", f"{b}{n}") for n in range(6)]) for b in "abc"]
    turns = []
    # One after the other: together they may share the five places so that each has one and none is put aside.
    for batch, places in zip(made, (4, 1, 0), strict=True):
        turns.append(asyncio.create_task(house.worker().turn(batch.id)))
        for _ in range(places):
            await inside.acquire()
    await turns[2]
    assert house.most == 5
    aside = await house.batches.get(made[2].id)
    assert (aside.paused, aside.done) == ("project_busy", 0), "the one that found no place is put aside"
    gate.set()
    await asyncio.gather(*turns)
    assert house.most == 5
    for batch in made:
        while not (now := await house.batches.get(batch.id)).over:
            house.clock.forward(5)
            now = await house.turn(batch)
        assert (now.status, now.done) == ("completed", 6)
    assert set(house.asked.values()) == {1}


async def test_a_worker_that_is_stopped_ends_its_calls_and_another_goes_on(house: House) -> None:
    made = await house.batch(*[line(str(n), str(n)) for n in range(30)])
    stop = asyncio.Event()

    async def halt(_: str) -> None:
        if len(house.calls) == 7:
            stop.set()

    house.before = halt
    await house.runner.turn(made.id, stop)
    left = await house.batches.get(made.id)
    assert (left.status, left.done) == ("in_progress", len(house.calls))
    await house.runner.drain()
    assert (await house.batches.get(made.id)).status == "completed"
    assert set(house.asked.values()) == {1}


async def test_a_worker_that_lost_its_batch_writes_nothing_more(house: House) -> None:
    made = await house.batch(*[line(str(n), str(n)) for n in range(4)])
    gate, inside = asyncio.Event(), asyncio.Event()

    async def hang(_: str) -> None:
        inside.set()
        await gate.wait()

    house.before = hang
    slow = asyncio.create_task(house.runner.turn(made.id))
    await inside.wait()
    house.before = None
    await house.worker().turn(made.id)
    gate.set()
    await slow
    done = await house.batches.get(made.id)
    assert (done.status, done.done) == ("completed", 4)
    assert len(await house.read(done.output_file)) == 4


async def test_a_worker_given_its_own_batch_again_ends_the_first_turn_before_the_second(house: House) -> None:
    under_way, go_on = asyncio.Event(), asyncio.Event()

    async def slow(text: str) -> None:
        under_way.set()
        await go_on.wait()

    house.before = slow
    made = await house.batch(*[line(f"n-{n}", f"q{n}") for n in range(20)])
    first = asyncio.create_task(house.runner.turn(made.id))
    await under_way.wait()
    # As after an outage of the database: taken for dead, the worker finds the batch due and takes it itself.
    second = asyncio.create_task(house.runner.turn(made.id))
    async with house.batches.store.connection() as connection:
        query = "SELECT epoch FROM batches WHERE id = %s"
        for _ in range(20):
            row = await (await connection.execute(query, (made.id,))).fetchone()
            assert row is not None and row["epoch"] == 1
    go_on.set()
    await asyncio.gather(first, second)
    done = await house.batches.get(made.id)
    assert (done.status, done.done) == ("completed", 20)
    assert set(house.asked.values()) == {1}


async def test_a_worker_held_up_before_a_call_looks_whether_the_batch_is_still_its_own(house: House) -> None:
    held_up, go_on = asyncio.Event(), asyncio.Event()

    async def principal(_: KeyId) -> Principal:
        if reading:
            reading.clear()
        else:
            held_up.set()
            await go_on.wait()
        return WHO

    reading = {"its file"}
    slow = Runner(house.batches, {CHAT: chat}, Road(house.ask, principal, failures.body))
    made = await house.batch(line("a", "une"), line("b", "deux"))
    turn = asyncio.create_task(slow.turn(made.id))
    await held_up.wait()
    await house.worker().turn(made.id)
    house.clock.forward(60)
    go_on.set()
    await turn
    done = await house.batches.get(made.id)
    assert (done.status, done.done) == ("completed", 2)
    assert house.asked == {"une": 1, "deux": 1}


async def test_a_call_nobody_heard_of_again_is_made_once_more_and_no_third_time(store: Store, vault: Vault) -> None:
    house = House(store, vault, Rules(concurrency=1))
    made = await house.batch(line("a", "deadly"), line("b"))

    async def die(text: str) -> None:
        if text == "deadly":
            raise asyncio.CancelledError

    house.before = die
    for _ in range(2):
        with pytest.raises(asyncio.CancelledError):
            await house.runner.turn(made.id)
    done = await house.turn(made)
    assert (done.status, done.done, done.failed) == ("completed", 1, 1)
    assert house.asked["deadly"] == 2
    [error] = await house.read(done.error_file)
    assert error["error"]["code"] == "interrupted"


async def test_results_are_written_once_though_the_worker_dies_while_it_writes_them(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await house.batch(*[line(str(n), str(n)) for n in range(10)])
    compose = house.files.store

    async def dies(*given: object, **more: object) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr(house.files, "store", dies)
    with pytest.raises(asyncio.CancelledError):
        await house.runner.turn(made.id)
    monkeypatch.setattr(house.files, "store", compose)
    assert (await house.batches.get(made.id)).status == "finalizing"
    done = await house.turn(made)
    assert (done.status, done.done, len(await house.read(done.output_file))) == ("completed", 10, 10)
    assert len(await house.files.list(WHO.project, purpose="batch_output")) == 1
    assert set(house.asked.values()) == {1}


async def test_nothing_clear_of_a_batch_is_in_the_database(house: House) -> None:
    made = await house.batch(line("client-Lefevre", "Mme Lefevre demande"), window="22:00-06:00 UTC")
    await house.turn(made)
    async with house.store.connection() as connection:
        for table in (b"files", b"file_pieces", b"batches", b"batch_lines"):
            rows = await (await connection.execute(b"SELECT * FROM " + table)).fetchall()
            assert rows
            assert b"Lefevre" not in b"".join(v if isinstance(v, bytes) else b"" for r in rows for v in r.values())
            assert "Lefevre" not in str(rows)


async def test_a_batch_whose_turn_was_lost_is_found(house: House) -> None:
    made = await house.batch(line())
    async with house.store.connection() as connection:
        await connection.execute("DELETE FROM procrastinate_jobs")
    assert await house.runner.recover() == 1
    await house.runner.drain()
    assert (await house.batches.get(made.id)).status == "completed"
    assert await house.runner.recover() == 0
    assert (await house.batches.list(WHO.project))[0].endpoint == CHAT


async def test_the_turn_of_a_dead_worker_is_due_again_unless_another_is_at_the_batch(house: House) -> None:
    house.batches.dispatch.pace = Pace(stall_s=0.0)
    made = await house.batch(line())
    count = "SELECT status FROM procrastinate_jobs ORDER BY id"
    async with house.store.connection() as connection:
        await connection.execute("UPDATE procrastinate_jobs SET status = 'doing'")
        assert await house.runner.recover() == 1
        assert [row["status"] for row in await (await connection.execute(count)).fetchall()] == ["todo"]
        await connection.execute(
            "INSERT INTO procrastinate_jobs (queue_name, task_name, queueing_lock, args, status)"
            " SELECT queue_name, task_name, queueing_lock, args, 'doing' FROM procrastinate_jobs"
        )
        assert await house.runner.recover() == 0
        assert [row["status"] for row in await (await connection.execute(count)).fetchall()] == ["todo"]
    await house.runner.drain()
    assert (await house.batches.get(made.id)).status == "completed"
