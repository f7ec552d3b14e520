from __future__ import annotations

import asyncio
import random
import time
from decimal import Decimal

import pytest

from metier.errors import Unavailable
from metier.policy.limits import Limit, LimitPeriod, Measure
from metier.policy.rates import LIFE_S, Drawn, Rates, Wait
from metier.store import Store


class Time:
    """One clock for workers and database, ahead of the real one so that nothing is swept."""

    def __init__(self) -> None:
        self.at = float(int(time.time()) + 1_000_000)

    def __call__(self) -> float:
        return self.at


def limit(amount: int, measure: Measure = "requests", period: LimitPeriod = "minute", id: str = "limit_x") -> Limit:
    return Limit(id, "project", "p", measure, period, Decimal(amount))


def worker(store: Store, name: str, clock: Time) -> Rates:
    return Rates(store, name, clock=clock, now=clock)


def most_in_a_minute(passed: list[tuple[float, int]]) -> int:
    """The most that passed in any sixty seconds, wherever they begin."""
    passed = sorted(passed)
    best = first = running = 0
    for at, amount in passed:
        running += amount
        while passed[first][0] <= at - 60:
            running -= passed[first][1]
            first += 1
        best = max(best, running)
    return best


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_no_minute_lets_more_than_the_amount_pass_over_any_number_of_workers(store: Store, seed: int) -> None:
    chance, clock, rate = random.Random(seed), Time(), limit(40)
    workers = [worker(store, f"w{n}", clock) for n in range(4)]
    passed: list[tuple[float, int]] = []
    for turn in range(500):
        at = chance.randrange(len(workers))
        if chance.random() < 0.01:
            workers[at] = worker(store, f"w{at}-{turn}", clock)  # it died, with whatever it held
        if isinstance(await workers[at].draw(rate, "", 1), Drawn):
            passed.append((clock.at, 1))
        clock.at += chance.expovariate(2.0)
        if turn % 3 == 0:
            await workers[chance.randrange(len(workers))].tick()
    assert most_in_a_minute(passed) <= 40
    minutes = (passed[-1][0] - passed[0][0]) / 60
    assert len(passed) >= 0.75 * 40 * minutes, "the rate can really be used, by workers that die too"


async def test_a_full_rate_gives_nearly_all_of_the_amount(store: Store) -> None:
    clock, rate = Time(), limit(60)
    workers = [worker(store, f"w{n}", clock) for n in range(3)]
    passed: list[tuple[float, int]] = []
    for turn in range(240 * 4):
        if isinstance(await workers[turn % 3].draw(rate, "", 1), Drawn):
            passed.append((clock.at, 1))
        clock.at += 0.25
        if turn % 2 == 0:
            for one in workers:
                await one.tick()
    assert most_in_a_minute(passed) <= 60
    assert len(passed) >= 0.9 * 60 * 4


async def test_what_a_refusal_and_the_remainder_say_is_what_the_next_call_gets(store: Store) -> None:
    clock, rate = Time(), limit(5)
    one = worker(store, "w", clock)
    assert one.standing(rate, "").remaining == 5
    for left in (4, 3, 2, 1, 0):
        assert isinstance(await one.draw(rate, "", 1), Drawn)
        assert one.standing(rate, "").remaining == left
    wait = await one.draw(rate, "", 1)
    assert isinstance(wait, Wait) and 60 < wait.seconds <= 62
    assert one.standing(rate, "").reset_s == pytest.approx(wait.seconds)
    clock.at += wait.seconds - 0.01
    assert isinstance(await one.draw(rate, "", 1), Wait)
    clock.at += 0.011
    assert isinstance(await one.draw(rate, "", 1), Drawn)


async def test_tokens_count_as_expected_and_then_as_they_were_used(store: Store) -> None:
    clock, rate = Time(), limit(1000, "tokens")
    one, other = worker(store, "w", clock), worker(store, "x", clock)
    drawn = await one.draw(rate, "", 900)
    assert isinstance(drawn, Drawn) and isinstance(await other.draw(rate, "", 200), Wait)
    clock.at += 3
    drawn.settle(100)
    await one.tick()
    assert isinstance(await other.draw(rate, "", 900), Drawn)
    assert isinstance(await one.draw(rate, "", 1), Wait)
    wait = await other.draw(rate, "", 2000)
    assert isinstance(wait, Wait) and wait.seconds == 60


async def test_two_end_users_do_not_share_a_limit(store: Store) -> None:
    clock, rate = Time(), limit(1)
    one = worker(store, "w", clock)
    assert isinstance(await one.draw(rate, "Ada", 1), Drawn) and isinstance(await one.draw(rate, "Bo", 1), Drawn)
    assert isinstance(await one.draw(rate, "Ada", 1), Wait)


async def test_most_calls_are_counted_without_asking_the_database(store: Store) -> None:
    clock, rate = Time(), limit(10_000)
    one = worker(store, "w", clock)
    for _ in range(300):
        await one.draw(rate, "", 1)
    async with store.transaction() as tx:
        await tx.execute("LOCK TABLE grants IN ACCESS EXCLUSIVE MODE")
        for _ in range(100):
            async with asyncio.timeout(60):
                assert isinstance(await one.draw(rate, "", 1), Drawn)


async def test_calls_at_a_time_are_counted_over_workers_and_freed_when_one_dies(store: Store) -> None:
    clock, rate = Time(), limit(3, "concurrency", "now")
    one, other = worker(store, "w", clock), worker(store, "x", clock)
    held = [await one.draw(rate, "", 1) for _ in range(2)]
    mine = await other.draw(rate, "", 1)
    assert isinstance(mine, Drawn) and isinstance(await one.draw(rate, "", 1), Wait)
    for _ in range(60):
        clock.at += 0.5
        await one.tick()
        await other.tick()
    assert isinstance(await other.draw(rate, "", 1), Wait), "long calls stay counted while their worker lives"
    for drawn in held:
        assert isinstance(drawn, Drawn)
        drawn.settle(1)
    assert isinstance(await one.draw(rate, "", 1), Drawn), "a permit is used again without asking"
    clock.at += 1
    await one.tick()
    assert isinstance(await other.draw(rate, "", 1), Drawn), "and one left idle goes back"
    clock.at += LIFE_S + 1
    fresh = worker(store, "y", clock)
    assert [isinstance(await fresh.draw(rate, "", 1), Drawn) for _ in range(4)] == [True, True, True, False]


@pytest.mark.parametrize("seed", [1, 2])
async def test_never_more_calls_at_a_time_than_allowed_whatever_workers_do(store: Store, seed: int) -> None:
    chance, clock, rate = random.Random(seed), Time(), limit(7, "concurrency", "now")
    workers = [worker(store, f"w{n}", clock) for n in range(3)]
    flying: list[list[Drawn]] = [[], [], []]
    most = 0
    for _ in range(400):
        at = chance.randrange(3)
        if flying[at] and chance.random() < 0.5:
            flying[at].pop(chance.randrange(len(flying[at]))).settle(1)
        else:
            drawn = await workers[at].draw(rate, "", 1)
            if isinstance(drawn, Drawn):
                flying[at].append(drawn)
        most = max(most, sum(map(len, flying)))
        clock.at += chance.random() / 2
        for one in workers:
            await one.tick()
    assert most == 7


async def test_a_rate_that_cannot_be_counted_lets_nothing_pass(store: Store) -> None:
    clock = Time()
    away = worker(Store("postgresql://nobody@127.0.0.1:1/none"), "w", clock)
    with pytest.raises(Unavailable):
        await away.draw(limit(1), "", 1)
