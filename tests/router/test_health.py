from __future__ import annotations

from metier.router import Health
from tests.router.world import deployment

A, B = deployment("a"), deployment("b")


def fail(health: Health, now: float, wait_s: float | None = None) -> None:
    health.failed(health.began(A, 10, now), now, wait_s)


def test_the_rest_doubles_with_each_failure_and_is_bounded() -> None:
    health, now, rests = Health(), 1000.0, []
    for _ in range(9):
        fail(health, now)
        rests.append(health.rests_until(A, now) - now)
        now += rests[-1]
    assert rests == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_an_answer_or_a_long_peace_forgets_the_failures() -> None:
    health = Health()
    for second in range(3):
        fail(health, 1000.0 + second * 10)
    flight = health.began(A, 10, 1040.0)
    health.first(flight, 1040.1)
    health.answered(flight, 5, 1041.0)
    assert health.rests_until(A, 1041.0) == 0.0
    fail(health, 1050.0)
    assert health.rests_until(A, 1050.0) == 1051.0
    fail(health, 1500.0)
    assert health.rests_until(A, 1500.0) == 1501.0


def test_a_deployment_rests_as_long_as_it_asked() -> None:
    health = Health()
    fail(health, 1000.0, wait_s=30.0)
    assert health.rests_until(A, 1029.0) == 1030.0
    assert health.rests_until(A, 1030.0) == 0.0


def test_calls_under_way_when_it_failed_are_one_failure_not_many() -> None:
    health = Health()
    flights = [health.began(A, 10, 1000.0) for _ in range(20)]
    for flight in flights:
        health.failed(flight, 1002.0)
    assert health.rests_until(A, 1002.0) == 1003.0
    assert health.standing(1002.0)["a"].failures == 1


def test_an_answer_that_began_before_the_failure_says_nothing_about_now() -> None:
    health = Health()
    old = health.began(A, 10, 1000.0)
    fail(health, 1001.0)
    health.answered(old, 5, 1001.5)
    assert health.rests_until(A, 1001.5) == 1002.0


def test_after_a_rest_one_call_finds_out_for_all() -> None:
    health = Health()
    fail(health, 1000.0)
    probe = health.began(A, 10, 1001.5)
    assert health.rests_until(A, 1001.6) > 1001.6, "the others wait for it"
    health.left(probe, 1001.7)
    assert health.rests_until(A, 1001.8) == 0.0, "it left without an answer: another one may find out"


def test_what_comes_back_starts_slowly() -> None:
    health = Health()
    fail(health, 1000.0, wait_s=20.0)
    health.answered(health.began(A, 10, 1021.0), 5, 1022.0)
    health.answered(health.began(B, 10, 1021.0), 5, 1022.0)
    early, late = health.margin(A, B, 10, 1022.5), health.margin(A, B, 10, 1060.0)
    assert early > 5 > 1.01 > late


def test_one_that_is_silent_for_one_call_but_speaks_to_others_is_slow_not_down() -> None:
    health = Health()
    slow, quick = health.began(A, 10, 1000.0), health.began(A, 10, 1000.0)
    health.first(quick, 1001.0)
    health.failed(slow, 1008.0, silent=True)
    assert health.rests_until(A, 1008.0) == 0.0
    hung = health.began(A, 10, 1010.0)
    health.failed(hung, 1018.0, silent=True)
    assert health.rests_until(A, 1018.0) == 1019.0


def test_a_slow_one_is_worse_until_the_memory_of_it_fades() -> None:
    health = Health()
    for one, first_s in ((A, 4.0), (B, 0.2)):
        flight = health.began(one, 10, 1000.0)
        health.first(flight, 1000.0 + first_s)
        health.answered(flight, 50, 1000.0 + first_s + 0.5)
    assert health.margin(A, B, 10, 1005.0) > 2.5
    assert health.margin(A, B, 10, 1300.0) < 1.1, "no frozen average"


def test_a_wait_behind_a_long_prompt_is_not_taken_for_slowness() -> None:
    health = Health()
    alone = health.began(B, 500, 1000.0)
    health.first(alone, 1000.3)
    health.answered(alone, 50, 1001.0)
    heavy, behind = health.began(A, 30_000, 1000.0), health.began(A, 500, 1000.0)
    health.first(heavy, 1006.0)
    health.first(behind, 1006.1)
    health.answered(heavy, 50, 1006.8)
    health.answered(behind, 50, 1006.8)
    assert health.margin(A, B, 500, 1007.0) < 2


def test_an_impatient_caller_still_says_that_it_was_slow() -> None:
    health = Health()
    for one in (A, B):
        flight = health.began(one, 10, 1000.0)
        health.first(flight, 1000.2)
        health.answered(flight, 50, 1000.5)
    health.left(health.began(A, 10, 1001.0), 1021.0)
    assert health.margin(A, B, 10, 1021.0) > 10


def test_declared_requests_and_tokens_a_minute_are_kept() -> None:
    health = Health()
    limited = deployment("l", rpm=60)
    for _ in range(60):
        assert health.rests_until(limited, 1020.0) == 0.0
        health.answered(health.began(limited, 10, 1020.0), 5, 1020.0)
    assert health.rests_until(limited, 1020.0) > 1020.0
    assert health.rests_until(limited, 1141.0) == 0.0
    narrow = deployment("n", tpm=1_000)
    health.answered(health.began(narrow, 600, 1020.0), 300, 1020.0)
    assert health.rests_until(narrow, 1020.0, 50) == 0.0
    assert health.rests_until(narrow, 1020.0, 200) > 1020.0
    assert health.rests_until(deployment("w", tpm=1_000), 1020.0, 5_000) == 0.0, "a call above the limit may try alone"


def test_what_begins_ends() -> None:
    health = Health()
    flights = [health.began(A, 100, 1000.0) for _ in range(4)]
    health.first(flights[0], 1000.1)
    health.answered(flights[0], 5, 1001.0)
    health.failed(flights[1], 1001.0)
    health.left(flights[2], 1001.0)
    health.first(flights[3], 1001.0)
    health.left(flights[3], 1001.0)
    standing = health.standing(1001.0)["a"]
    assert (standing.in_flight, standing.unread_tokens) == (0, 0)
