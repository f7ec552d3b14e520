"""The fast version of bench/routing.py: two simulated minutes, one seed, every scenario."""

from __future__ import annotations

import pytest

from bench.routing import OTHERS, SCENARIOS, Ours, Scenario, simulate

SEED, SECONDS = 1, 120.0


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
def test_our_router_is_better_than_three_others_in_bad_weather(scenario: Scenario) -> None:
    ours = simulate(scenario, Ours, SEED, SECONDS)
    for name, make in OTHERS.items():
        theirs = simulate(scenario, make, SEED, SECONDS)
        assert ours.p99_s < theirs.p99_s, name
        assert ours.error_rate <= theirs.error_rate, name
    assert ours.tries <= ours.calls * 1.1, "trouble is not multiplied"


def test_the_same_seed_gives_the_same_figures() -> None:
    assert simulate(SCENARIOS[1], Ours, 7, 60.0) == simulate(SCENARIOS[1], Ours, 7, 60.0)
