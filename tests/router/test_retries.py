from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from metier.router import Retries


def test_a_quiet_model_may_retry() -> None:
    retries = Retries()
    retries.called("m", 0.0)
    assert retries.allow("m", 20, 0.0)


@given(st.integers(1, 600), st.floats(0, 100))
def test_retries_stay_a_part_of_the_calls(calls: int, percent: float) -> None:
    retries, allowed = Retries(), 0
    for _ in range(calls):
        retries.called("m", 5.0)
        for _ in range(4):
            allowed += retries.allow("m", percent, 5.0)
    assert allowed <= 10 + calls * percent / 100


def test_an_outage_uses_its_retries_up_and_gets_them_back_with_time() -> None:
    retries = Retries()
    for _ in range(100):
        retries.called("m", 0.0)
    assert sum(retries.allow("m", 20, 0.0) for _ in range(100)) == 30
    assert not retries.allow("m", 20, 1.0) and retries.allow("other", 20, 1.0)
    assert retries.allow("m", 20, 120.0)
