from __future__ import annotations

from decimal import Decimal

import pytest

from metier.calls import Call, KeyId, Principal, ProjectId, SystemId
from metier.catalog import Deployment, Model, Price
from metier.errors import Invalid, NoDeployment
from metier.router import Health, plan

CALL = Call(Principal(KeyId("k"), ProjectId("p"), SystemId("s")), "m")


def deployment(name: str) -> Deployment:
    free = Price(Decimal(0), Decimal(0), Decimal(0))
    return Deployment(name, "scripted", "m", None, None, free, None, 8000, 500, 30.0, "FR", "local")


A, B, C = deployment("a"), deployment("b"), deployment("c")
MODEL = Model("m", (A, B, C))


def names(health: Health, now: float) -> str:
    return "".join(d.id for d in plan(CALL, MODEL, health, now))


def test_the_declared_order_holds_while_all_is_well() -> None:
    assert names(Health(), 0.0) == "abc"


def test_a_failed_deployment_rests_and_comes_back() -> None:
    health = Health()
    health.failed(A, 100.0)
    assert names(health, 100.5) == "bca"
    assert names(health, 101.1) == "abc"


def test_the_rest_doubles_with_each_failure_and_is_bounded() -> None:
    health = Health()
    rests = []
    now = 0.0
    for _ in range(9):
        health.failed(A, now)
        rests.append(health.rests_until(A, now) - now)
        now += rests[-1]
    assert rests == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_an_answer_or_a_long_peace_forgets_the_failures() -> None:
    health = Health()
    for _ in range(5):
        health.failed(A, 0.0)
    health.answered(A)
    assert names(health, 0.1) == "abc"
    for _ in range(5):
        health.failed(A, 1.0)
    health.failed(A, 500.0)
    assert health.rests_until(A, 500.0) == 501.0


def test_a_deployment_rests_as_long_as_it_asked() -> None:
    health = Health()
    health.failed(A, 0.0, wait_s=30.0)
    health.failed(B, 0.0)
    assert names(health, 0.5) == "cba"
    assert names(health, 29.0) == "bca"


def test_when_all_rest_the_first_to_wake_is_tried() -> None:
    health = Health()
    for one, wait in ((A, 30.0), (B, 10.0), (C, 20.0)):
        health.failed(one, 0.0, wait_s=wait)
    assert names(health, 1.0) == "bca"


def test_a_model_of_another_kind_or_without_deployment_is_refused() -> None:
    with pytest.raises(Invalid, match="does 'embed'"):
        plan(CALL, Model("m", (A,), "embed"), Health(), 0.0)
    with pytest.raises(NoDeployment, match="has no deployment"):
        plan(CALL, Model("m", ()), Health(), 0.0)
