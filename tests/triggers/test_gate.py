"""How often one trigger may be knocked at: bounded for each, told to whoever comes too often, bounded in memory."""

from __future__ import annotations

import pytest

from metier.errors import RateLimited
from metier.providers.base import retry_after_s
from metier.triggers import Gate


class Watch:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_so_many_at_once_then_so_many_a_minute() -> None:
    watch = Watch()
    gate = Gate(60, 3, now=watch)
    for _ in range(3):
        gate.enter("trg_1")
    with pytest.raises(RateLimited, match="'trg_1' was asked too often: try again in 1 s") as refused:
        gate.enter("trg_1")
    assert retry_after_s(refused.value) == pytest.approx(1.0)
    gate.enter("trg_2")
    watch.now_s += 1.0
    gate.enter("trg_1")
    with pytest.raises(RateLimited):
        gate.enter("trg_1")
    watch.now_s += 3600
    for _ in range(3):
        gate.enter("trg_1")
    with pytest.raises(RateLimited):
        gate.enter("trg_1")


def test_refusals_do_not_push_the_next_turn_away() -> None:
    watch = Watch()
    gate = Gate(60, 1, now=watch)
    gate.enter("trg_1")
    for _ in range(1000):
        with pytest.raises(RateLimited):
            gate.enter("trg_1")
    watch.now_s += 1.0
    gate.enter("trg_1")


def test_addresses_nobody_has_fill_no_memory() -> None:
    gate = Gate(60, 1, most=100, now=Watch())
    for number in range(5000):
        gate.enter(f"trg_{number}")
    assert len(vars(gate)["_due"]) == 100
