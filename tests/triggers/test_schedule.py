"""When cron lines fire: zones, changes of clocks, months without such a day."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from metier.errors import Invalid
from metier.triggers.schedule import Schedule

PARIS = "Europe/Paris"


def ahead(line: str, after: str, zone: str = PARIS) -> Iterator[str]:
    """The moments a line fires after a UTC moment, in UTC."""
    schedule = Schedule(line, zone)
    moment: datetime | None = datetime.fromisoformat(after).replace(tzinfo=UTC)
    while moment is not None and (moment := schedule.after(moment)) is not None:
        yield moment.astimezone(UTC).strftime("%m-%d %H:%M")


def first(number: int, line: str, after: str, zone: str = PARIS) -> list[str]:
    return list(itertools.islice(ahead(line, after, zone), number))


def test_a_line_is_read_on_the_clocks_of_its_zone() -> None:
    assert first(3, "0 9 * * 1-5", "2026-01-02 12:00") == ["01-05 08:00", "01-06 08:00", "01-07 08:00"]
    assert first(2, "0 9 * * *", "2026-07-01 12:00") == ["07-02 07:00", "07-03 07:00"]
    assert first(1, "0 9 * * *", "2026-01-01 00:00", "Pacific/Auckland") == ["01-01 20:00"]


def test_what_clocks_skip_in_spring_fires_once_when_they_have() -> None:
    # 29 March 2026: 02:00 becomes 03:00 in Paris, at 01:00 UTC.
    assert first(3, "30 2 * * *", "2026-03-27 12:00") == ["03-28 01:30", "03-29 01:00", "03-30 00:30"]
    assert first(3, "0 3 * * *", "2026-03-27 12:00") == ["03-28 02:00", "03-29 01:00", "03-30 01:00"]


def test_every_quarter_of_an_hour_goes_on_through_both_changes_of_clocks() -> None:
    for night in ("2026-03-28 23:00", "2026-10-24 23:00"):
        began = datetime.fromisoformat(night)
        expected = [(began + timedelta(minutes=15 * (n + 1))).strftime("%m-%d %H:%M") for n in range(20)]
        assert first(20, "*/15 * * * *", night) == expected


def test_what_clocks_show_twice_in_autumn_fires_once() -> None:
    # 25 October 2026: 03:00 becomes 02:00 in Paris, at 01:00 UTC.
    assert first(3, "30 2 * * *", "2026-10-23 12:00") == ["10-24 00:30", "10-25 00:30", "10-26 01:30"]
    assert first(4, "0 * * * *", "2026-10-24 22:30") == ["10-24 23:00", "10-25 00:00", "10-25 01:00", "10-25 02:00"]


def test_zones_whose_clocks_move_by_half_an_hour_are_right_too() -> None:
    # Lord Howe: on 4 October 2026 at 02:00 clocks become 02:30, at 15:30 UTC of the day before.
    assert first(2, "15 2 * * *", "2026-10-03 00:00", "Australia/Lord_Howe") == ["10-03 15:30", "10-04 15:15"]


def test_names_of_days_and_months_and_the_last_day_are_read() -> None:
    assert first(1, "0 9 * mar,apr thu-fri", "2026-01-01 00:00", "UTC") == ["03-05 09:00"]
    assert first(3, "0 9 l * *", "2026-01-31 12:00", "UTC") == ["02-28 09:00", "03-31 09:00", "04-30 09:00"]


def test_a_day_that_seldom_comes_is_waited_for() -> None:
    assert first(1, "0 0 29 2 *", "2026-03-01 00:00", "UTC") == ["02-29 00:00"]


@pytest.mark.parametrize(
    ("line", "zone", "message"),
    [
        ("0 0 30 2 *", "UTC", "never fires|cannot read"),
        ("60 * * * *", "UTC", "cannot read"),
        ("* * * *", "UTC", "minute hour day"),
        ("* * * * * *", "UTC", "minute hour day"),
        ("tous les jours", "UTC", "minute hour day"),
        ("0 9 * * *", "Europe/Pariss", "no time zone"),
        ("0 9 * * *", "../../etc/passwd", "no time zone"),
        ("@never", "UTC", "cannot read"),
        ("r * * * *", "UTC", "leaves a field to chance"),
        ("0 R(8-10) * * *", "UTC", "leaves a field to chance"),
        ("H/15 * * * *", "UTC", "leaves a field to chance"),
    ],
)
def test_a_line_that_cannot_be_read_is_refused(line: str, zone: str, message: str) -> None:
    with pytest.raises(Invalid, match=message):
        Schedule(line, zone)


def test_the_last_missed_times_of_a_year_are_found_without_counting_through_it() -> None:
    schedule, until = Schedule("* * * * *", PARIS), datetime(2026, 11, 21, 12, tzinfo=UTC)
    found = schedule.between(until - timedelta(days=365), until, 3)
    assert [m.astimezone(UTC).minute for m in found] == [58, 59, 0]
    assert schedule.between(until, until, 3) == []
    assert len(Schedule("0 9 * * *", PARIS).between(until - timedelta(days=10), until, 100)) == 10
