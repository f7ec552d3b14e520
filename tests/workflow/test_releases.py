"""Releases: who gets which version, sticky as shares grow, compared with intervals, taken back by rule, one winner."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from decimal import Decimal

import pytest

from metier.calls import JSON, KeyId
from metier.errors import Conflict, Invalid, NotFound, Unavailable
from metier.store import Store
from metier.vault import Vault
from metier.workflow.definition import Workflow
from metier.workflow.engine import Engine, StepContext
from metier.workflow.release_figures import Figure, Figures, RunFigures, differ, measured, wilson
from metier.workflow.release_rules import broken, read
from metier.workflow.releases import Cause, Releases, Told, bucket
from tests.workflow.flows import WHO, flow, step

ELSE = replace(WHO, key_id=KeyId("key_2"), name="zoe", groups=frozenset())


def version(number: int, **more: object) -> Workflow:
    return flow(step("a", config=f"v{number}"), output={"score": "{{ steps.a.score }}"}, name="support", **more)  # type: ignore[arg-type]  # terse tests


async def three(store: Store, vault: Vault, **more: object) -> Releases:
    releases = Releases(store, vault, **more)  # type: ignore[arg-type]  # terse tests
    for number in (1, 2, 3):
        assert (await releases.create(version(number), "sales", "ada")).version == number
    await releases.promote("support", "sales", 1, "ada")
    return releases


async def test_a_version_goes_from_draft_to_pilots_to_a_share_to_all_and_back(store: Store, vault: Vault) -> None:
    releases = await three(store, vault)
    assert (await releases.choose("support", "sales", WHO)).hash == version(1).hash
    await releases.pilot("support", "sales", 2, "ada", ["group:sav", "user:max"])
    assert (await releases.choice("support", "sales", WHO)).version == 2
    assert (await releases.choice("support", "sales", ELSE)).version == 1
    await releases.canary("support", "sales", 2, "ada", 0.2)
    assert (await releases.choice("support", "sales", WHO, Cause("anything", {}))).version == 2
    with pytest.raises(Conflict, match="version 2 of 'support' is the canary"):
        await releases.canary("support", "sales", 3, "bob", 0.1)
    await releases.promote("support", "sales", 2, "bob")
    assert [(one.version, one.state, one.before) for one in await releases.list("sales")] == [
        (3, "draft", None), (2, "all", 1), (1, "retired", None)
    ]  # fmt: skip
    back = await releases.rollback("support", "sales", 2, "bob", "wrong tone")
    assert back.state == "rolled_back"
    assert (await releases.choice("support", "sales", ELSE)).version == 1
    with pytest.raises(Conflict, match="none came before"):
        await releases.rollback("support", "sales", 1, "bob")
    moves = await releases.moves("support", "sales")
    assert [(m.version, m.before, m.state, m.by) for m in moves[:2]] == [
        (1, "retired", "all", "bob"), (2, "all", "rolled_back", "bob")
    ]  # fmt: skip
    assert moves[1].reason == "wrong tone"


async def test_a_key_keeps_its_version_while_shares_only_grow(store: Store, vault: Vault) -> None:
    releases = await three(store, vault)
    keys = [f"customer-{number}" for number in range(400)]
    before: set[str] = set()
    for share in (0.05, 0.1, 0.3, 0.8):
        await releases.canary("support", "sales", 2, "ada", share)
        got = [(key, (await releases.choice("support", "sales", ELSE, Cause(key, {}))).version) for key in keys[:100]]
        now = {key for key, number in got if number == 2}
        assert before <= now and now == {key for key in keys[:100] if bucket("sales", "support", 2, key) < share}
        before = now
    counted = sum(bucket("sales", "support", 2, key) < 0.3 for key in keys)
    assert 90 <= counted <= 150
    assert [bucket("sales", "support", 3, key) < 0.3 for key in keys] != [
        bucket("sales", "support", 2, key) < 0.3 for key in keys
    ]


async def test_of_two_people_who_promote_at_once_one_wins(store: Store, vault: Vault) -> None:
    releases = await three(store, vault)
    seen = (await releases.get("support", "sales", 2)).revision
    both = [releases.promote("support", "sales", number, who, seen=seen) for number, who in ((2, "ada"), (3, "bob"))]
    done = await asyncio.gather(*both, return_exceptions=True)
    lost = [one for one in done if isinstance(one, Conflict)]
    assert len(lost) == 1 and "changed meanwhile" in lost[0].message and "became 'all'" in lost[0].message
    assert [one.state for one in await releases.list("sales")].count("all") == 1
    racing = [releases.promote("support", "sales", 1, f"p{n}") for n in range(6)]
    raced = await asyncio.gather(*racing, return_exceptions=True)
    assert sum(not isinstance(one, BaseException) for one in raced) == 1


async def test_what_is_released_is_resolved_by_name_and_version(store: Store, vault: Vault) -> None:
    releases = await three(store, vault)
    assert (await releases.resolve("support@1", "sales")).hash == version(1).hash
    assert (await releases.resolve("support", "sales")).hash == version(1).hash
    with pytest.raises(Conflict, match="'draft'"):
        await releases.resolve("support@2", "sales")
    with pytest.raises(NotFound):
        await releases.resolve("support@9", "sales")
    with pytest.raises(NotFound):
        await releases.resolve("support", "another")
    with pytest.raises(Invalid, match="name@version"):
        await releases.resolve("support@2026-10", "sales")
    with pytest.raises(Conflict, match="version 1 of 'support' already"):
        await releases.create(version(1), "sales", "ada")
    with pytest.raises(NotFound, match="promote one"):
        await releases.choice("other", "sales", WHO)


async def ran(store: Store, vault: Vault, number: int, count: int, *, failing: int = 0, euros: str = "0.1") -> None:
    """Run a version so many times; some of the runs fail."""
    left = [failing]

    async def work(context: StepContext, with_: dict[str, JSON]) -> JSON:
        context.spend(Decimal(euros))
        left[0] -= 1
        if left[0] >= 0:
            raise Invalid("cannot work today")
        return {"score": number}

    engine = Engine(store, vault, {"code": work})
    for _ in range(count):
        await engine.start(version(number), {}, WHO)
    await engine.drain()


async def test_a_version_whose_rule_is_broken_is_taken_back_with_its_figures_and_told(
    store: Store, vault: Vault
) -> None:
    told: list[Told] = []
    away = [True]

    async def tell(one: Told) -> None:
        if away.pop() if away else False:
            raise Unavailable("the mail server is away")
        told.append(one)

    releases = Releases(store, vault, tell)
    await releases.create(version(1), "sales", "ada")
    await releases.promote("support", "sales", 1, "ada")
    await releases.create(version(2), "sales", "ada", score="output.score", rules=["error_rate > 5 % over 20 runs"])
    await releases.canary("support", "sales", 2, "ada", 0.5)
    await ran(store, vault, 2, 19, failing=4)
    assert await releases.watch() == 0
    await ran(store, vault, 2, 1)
    with pytest.raises(Unavailable):
        await releases.watch()
    assert (await releases.get("support", "sales", 2)).state == "rolled_back" and told == []
    assert await releases.watch() == 0
    await asyncio.gather(*(releases.watch() for _ in range(4)))
    (one,) = told
    assert (one.flow, one.version) == ("support", 2) and "error_rate is 0.2 over 20 runs" in one.reason
    assert one.figures["found"]["errors"]["count"] == 20
    (move, *_) = await releases.moves("support", "sales", 2)
    assert (move.by, move.figures) == ("rule", one.figures)
    assert (await releases.choice("support", "sales", ELSE)).version == 1


async def test_versions_are_compared_with_intervals_and_little_data_is_said(store: Store, vault: Vault) -> None:
    releases = Releases(store, vault)
    await releases.create(version(1), "sales", "ada")
    await releases.create(version(2), "sales", "ada", score="output.score", rules=["cost > 1.5x over 20"])
    await releases.promote("support", "sales", 1, "ada")
    await releases.promote("support", "sales", 2, "ada")
    await ran(store, vault, 1, 10)
    await ran(store, vault, 2, 25, failing=1, euros="0.3")
    little = await releases.compare("support", "sales", 1, 2)
    assert little.first.runs == 10 and little.second.runs == 25
    assert all(one.low is None and "too little data" in one.told for one in little.differences)
    assert await releases.watch() == 0
    await ran(store, vault, 1, 15)
    whole = {one.measure: one for one in (await releases.compare("support", "sales", 1, 2)).differences}
    assert whole["cost_eur"].told == "higher" and whole["errors"].told == "no difference shown"
    assert whole["quality"].second is not None and whole["quality"].second.count == 24
    assert whole["quality"].told == "higher"
    assert await releases.watch() == 1
    assert [(one.version, one.state) for one in await releases.list("sales")] == [(2, "rolled_back"), (1, "all")]


def test_rules_are_read_and_decided_only_on_enough_runs() -> None:
    rule = read("error_rate > 5 % over ≥ 50 runs")
    assert (rule.measure, rule.above, rule.bound, rule.relative, rule.least_runs) == (
        "error_rate",
        True,
        0.05,
        False,
        50,
    )
    bad = measured(2, [RunFigures(n < 5, 0.3, 10.0 + n, 0.5) for n in range(50)])
    good = measured(1, [RunFigures(False, 0.1, 1.0, 0.9) for _ in range(50)])
    assert broken(rule, bad, None) is not None and broken(rule, good, None) is None
    assert broken(rule, measured(2, [RunFigures(True, 0.3, 10.0, None)] * 49), None) is None
    assert broken(read("cost > 1.5x"), bad, good) and not broken(read("cost > 3.5x"), bad, good)
    assert broken(read("cost > 1.5x"), bad, None) is None
    assert broken(read("p95 > 50s over 20"), bad, None) and broken(read("quality < 0.8"), bad, None)
    assert broken(read("quality < 0.9x"), bad, good) and broken(read("duration > 5s"), bad, good)
    assert broken(read("cost > 0.2"), bad, good)
    for wrong in (
        "errors > 5",
        "quality > 0.9",
        "cost < 1.5x",
        "p95 > 5 %",
        "cost > 1x over 0",
        "error_rate > 5 % & 1",
    ):
        with pytest.raises(Invalid, match="rule"):
            read(wrong)


def test_intervals_hold_near_the_ends_and_for_few_runs() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    low, high = wilson(0, 20)
    assert low == 0.0 and 0.15 < high < 0.17
    assert wilson(20, 20)[1] == 1.0 and wilson(50, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    none = measured(1, [])
    assert none == Figures(1, 0, None, None, None, None, None)
    assert measured(1, [RunFigures(False, 0.1, 2.0, None)]).seconds == Figure(2.0, 2.0, 2.0, 1)
    apart = differ([RunFigures(False, 1, 1, None)] * 30, [RunFigures(True, 1, 1, None)] * 30)
    assert {one.measure: one.told for one in apart}["errors"] == "higher"
    assert "too little data" in {one.measure: one.told for one in apart}["quality"]


def test_versions_that_cost_and_score_the_same_differ_in_nothing_however_their_sums_are_rounded() -> None:
    apart = differ([RunFigures(False, 2.07e-05, 0.3, 0.8)] * 46, [RunFigures(False, 2.07e-05, 0.3, 0.8)] * 27)
    assert {one.told for one in apart} == {"no difference shown"}
    dearer = differ([RunFigures(False, 2.07e-05, 0.3, 0.8)] * 46, [RunFigures(False, 2.08e-05, 0.3, 0.8)] * 27)
    assert next(one.told for one in dearer if one.measure == "cost_eur") == "higher"
