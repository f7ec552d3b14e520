from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from metier.calls import ConversationId, KeyId, Message
from metier.deployment import Deployment
from metier.router import Group, Health, affinity_key, groups, plan
from tests.router.world import CALL, Clock, deployment

A, B, C = deployment("a"), deployment("b"), deployment("c")


def names(ways: Sequence[Group], health: Health, now: float = 1000.0, seed: int = 1) -> str:
    return "".join(d.id for d in plan(ways, health, Clock(now), random.Random(seed).random, CALL, 10))


def rest(health: Health, one: Deployment, wait_s: float, now: float = 1000.0) -> None:
    health.failed(health.began(one, 10, now), now, wait_s)


def test_priorities_are_tried_in_their_order() -> None:
    ordered = groups([[A], [B], [C]])
    assert {names(ordered, Health(), seed=seed) for seed in range(20)} == {"abc"}
    shared = groups([[A, B], [C]])
    assert {names(shared, Health(), seed=seed) for seed in range(20)} == {"abc", "bac"}


def test_those_at_rest_come_last_the_soonest_awake_first() -> None:
    health = Health()
    for one, wait in ((A, 30.0), (B, 10.0)):
        rest(health, one, wait)
    assert names(groups([[A], [B], [C]]), health, 1001.0) == "cba"
    rest(health, C, 20.0)
    assert names(groups([[A], [B], [C]]), health, 1001.0) == "bca"


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.floats(0.1, 10.0), min_size=1, max_size=12), min_size=1, max_size=4),
    st.lists(st.integers(0, 40), max_size=20),
    st.integers(0, 1000),
    st.sampled_from(["none", "session", "prefix"]),
)
def test_every_deployment_is_offered_once_and_no_more(
    weights: list[list[float]], resting: list[int], seed: int, affinity: str
) -> None:
    parts = [
        [deployment(f"{row}.{column}", weight=weight) for column, weight in enumerate(line)]
        for row, line in enumerate(weights)
    ]
    every = [one for part in parts for one in part]
    health = Health()
    asleep = {every[index % len(every)].id for index in resting}
    for one in every:
        if one.id in asleep:
            rest(health, one, 20.0)
    ways = groups(parts, affinity)  # type: ignore[arg-type]  # drawn from the three there are
    order = [d.id for d in plan(ways, health, Clock(1001.0), random.Random(seed).random, CALL, 10)]
    assert sorted(order) == sorted(one.id for one in every)
    awake = [name for name in order if name not in asleep]
    assert order[: len(awake)] == awake or len(every) == 1
    assert [name.split(".")[0] for name in awake] == sorted(name.split(".")[0] for name in awake)


def test_calls_spread_over_a_group_by_weight() -> None:
    heavy, light = deployment("h", weight=9), deployment("l", weight=1)
    dice, ways, health = random.Random(4), groups([[heavy, light]]), Health()
    first = Counter(next(plan(ways, health, Clock(), dice.random, CALL, 10)).id for _ in range(2000))
    assert 100 < first["l"] < 320


def test_the_busier_of_two_is_spared() -> None:
    health = Health()
    for _ in range(5):
        health.began(A, 5_000, 1000.0)
    ways = groups([[A, B]])
    assert {names(ways, health, seed=seed)[0] for seed in range(30)} == {"b"}


def test_five_hundred_deployments_are_not_looked_at_one_by_one() -> None:
    many = [deployment(f"d{number}") for number in range(500)]
    asked = Counter[str]()

    class Watched(Health):
        def rests_until(self, deployment: Deployment, now: float, tokens: int = 0) -> float:
            asked["looks"] += 1
            return super().rests_until(deployment, now, tokens)

    next(plan(groups([many]), Watched(), Clock(), random.Random(1).random, CALL, 10))
    assert asked["looks"] <= 8


def test_a_conversation_stays_where_it_was_unless_that_is_crowded_or_rests() -> None:
    ways, health = groups([[A, B, C]], "session"), Health()
    calls = [replace(CALL, conversation=ConversationId(f"conv-{number}")) for number in range(30)]

    def home(number: int, seed: int) -> str:
        return next(plan(ways, health, Clock(), random.Random(seed).random, calls[number], 10)).id

    homes = [home(number, 1) for number in range(30)]
    assert homes == [home(number, 2) for number in range(30)] and set(homes) == {"a", "b", "c"}
    crowded = next(one for one in (A, B, C) if one.id == homes[0])
    flights = [health.began(crowded, 3_000, 1000.0) for _ in range(6)]
    assert home(0, 1) != homes[0]
    for flight in flights:
        health.left(flight, 1000.0)
    rest(health, crowded, 10.0)
    moved = [home(number, 3) for number in range(30)]
    assert all(now == before for now, before in zip(moved, homes, strict=True) if before != crowded.id)


def test_like_prompts_share_a_key_and_others_do_not() -> None:
    system = Message("system", "Vous êtes le service client. " * 200)
    one = replace(CALL, messages=(system, Message("user", "Où est ma commande ?")))
    other = replace(CALL, messages=(system, Message("user", "Comment rendre un article ?")))
    assert affinity_key(one, "prefix") == affinity_key(other, "prefix") != affinity_key(CALL, "prefix")
    keyed = replace(CALL, cache_key="faq")
    assert affinity_key(keyed, "session") == affinity_key(replace(one, cache_key="faq"), "prefix")
    assert affinity_key(CALL, "session") is None
    foreign = replace(one, principal=replace(one.principal, key_id=KeyId("other")))
    assert affinity_key(foreign, "prefix") != affinity_key(one, "prefix"), "nobody learns what others have cached"
