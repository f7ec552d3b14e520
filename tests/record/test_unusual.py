from __future__ import annotations

import pathlib
import random
from datetime import UTC, datetime, timedelta
from typing import Any

from metier.record.ledger import Ledger
from metier.record.records import Filter
from metier.record.unusual import hours, unusual
from metier.store import Row, Store
from tests.record.world import build

NOW = datetime(2026, 11, 20, 15, 20, tzinfo=UTC)
COMPARED = hours(NOW)


def row(hour: datetime, calls: int, **more: Any) -> Row:
    """The totals of one hour; a call costs a cent and has a thousand tokens unless told."""
    group = {"organisation": "main", "project": "p", "system": "s", "model": "m"}
    return {"hour": hour, **group, "calls": calls, "errors": 0, "tokens": 1000 * calls, "cost_eur": calls / 100} | more


def first(weeks: float = 20) -> list[Row]:
    """When the group was seen first."""
    return [row(NOW - timedelta(weeks=weeks), 0)]


def past(*calls: int) -> list[Row]:
    """The same hour of past weeks, latest first."""
    return [row(hour, n) for hour, n in zip(COMPARED.weeks, calls, strict=False)]


def test_the_last_whole_hour_is_compared_with_the_same_hour_of_the_week() -> None:
    assert COMPARED.now == datetime(2026, 11, 20, 14, tzinfo=UTC)
    assert {(hour.weekday(), hour.hour) for hour in COMPARED.weeks} == {(4, 14)} and len(COMPARED.weeks) == 8
    assert {hour.hour for hour in COMPARED.days} == {14} and len(COMPARED.all) == 1 + 8 + 12


def test_ten_times_the_usual_is_unusual_and_the_usual_is_not() -> None:
    usual = past(100, 110, 90, 105, 95, 100, 98, 102)
    assert unusual(COMPARED, [*usual, row(COMPARED.now, 118)], first()) == ()
    found = unusual(COMPARED, [*usual, row(COMPARED.now, 1000)], first())
    assert {(one.measure, one.system) for one in found} == {
        (measure, system) for measure in ("calls", "tokens", "cost_eur") for system in ("s", None)
    }
    assert found[0].usual == 100 or found[0].measure != "calls"
    assert all(one.z > 50 and one.compared == 8 for one in found)


def test_a_fall_to_nothing_is_unusual_too() -> None:
    found = unusual(COMPARED, past(100, 110, 90, 105, 95, 100, 98, 102), first())
    assert {one.measure for one in found} == {"calls", "tokens", "cost_eur"} and all(one.z < -5 for one in found)


def test_one_strange_week_in_the_past_does_not_hide_what_is_strange_now() -> None:
    found = unusual(COMPARED, [*past(100, 9000, 90, 105, 9000, 100, 98, 9000), row(COMPARED.now, 1000)], first())
    assert any(one.measure == "calls" and one.value == 1000 and one.usual == 102.5 for one in found)


def test_calls_that_cost_more_are_found_though_their_number_is_usual() -> None:
    usual = past(100, 110, 90, 105, 95, 100, 98, 102)
    found = unusual(COMPARED, [*usual, row(COMPARED.now, 100, cost_eur=30.0)], first())
    assert {one.measure for one in found} == {"cost_eur"}


def test_errors_where_there_were_none_are_found() -> None:
    usual = past(100, 110, 90, 105, 95, 100, 98, 102)
    found = unusual(COMPARED, [*usual, row(COMPARED.now, 100, errors=40)], first())
    assert {one.measure for one in found} == {"errors"}


def test_few_calls_more_are_no_alarm_and_nothing_is_said_of_what_is_new() -> None:
    assert unusual(COMPARED, [*past(1, 0, 2, 1, 1, 0, 1, 1), row(COMPARED.now, 4)], first()) == ()
    assert unusual(COMPARED, [row(COMPARED.now, 100_000)], first(0)) == ()
    days = [row(hour, 10) for hour in COMPARED.days[:6]]
    found = unusual(COMPARED, [*days, row(COMPARED.now, 500)], first(6 / 7 + 0.01))
    assert {one.compared for one in found} == {6}, "of what is known for a week, the days before"


def test_a_new_model_shows_in_its_project() -> None:
    usual = past(100, 110, 90, 105, 95, 100, 98, 102)
    new = row(COMPARED.now, 5000, model="new")
    found = unusual(COMPARED, [*usual, row(COMPARED.now, 100), new], [*first(), row(COMPARED.now, 0, model="new")])
    assert {(one.model, one.system) for one in found} == {(None, None)}


def test_ordinary_weeks_seldom_raise_an_alarm() -> None:
    """Counts of independent calls (Poisson) around a mean: how often an ordinary hour is called unusual."""
    chance = random.Random(5)
    alarms = 0
    for turn in range(2000):
        mean = (2, 20, 200, 2000)[turn % 4]
        counts = [max(0, round(chance.gauss(mean, mean**0.5))) for _ in range(9)]
        rows = [*past(*counts[:8]), row(COMPARED.now, counts[8])]
        alarms += any(one.measure == "calls" and one.system for one in unusual(COMPARED, rows, first()))
    assert alarms <= 4, alarms


async def test_it_is_read_from_the_totals_alone(store: Store, tmp_path: pathlib.Path) -> None:
    world = await build(store, tmp_path)
    ledger, records = world.recording("w", world.admission("w"))
    insert = (
        "INSERT INTO usage_hours (hour, organisation, project, system, model, calls, errors, input_tokens, "
        "output_tokens, cost_eur, unpriced, not_estimated, cache_hits, saved_eur) "
        "VALUES (%s, 'main', 'p', 's', 'm', %s, 0, 1000, 10, 1, 0, 0, 0, 0)"
    )
    async with store.connection() as connection:
        for hour in (*COMPARED.weeks, COMPARED.now):
            await connection.execute(insert.encode(), (hour, 900 if hour == COMPARED.now else 10))
    found = await records.unusual(NOW)
    assert {(one.measure, one.model) for one in found} == {("calls", "m"), ("calls", None)}
    assert found[0].value == 900 and found[0].usual == 10 and await records.page(Filter()) == ()
    assert isinstance(ledger, Ledger)
