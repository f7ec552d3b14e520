from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from metier.batches import Rules, Window
from metier.errors import ConfigError, Invalid


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def window(text: str) -> Window:
    found = Window.parse(text)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("text", "now", "opens"),
    [
        ("22:00-06:00 Europe/Paris", "2027-01-12T12:00+01:00", "2027-01-12T22:00+01:00"),
        ("22:00-06:00 Europe/Paris", "2027-01-12T23:30+01:00", "2027-01-12T23:30+01:00"),
        ("22:00-06:00 Europe/Paris", "2027-01-12T05:59:59+01:00", "2027-01-12T05:59:59+01:00"),
        ("22:00-06:00 Europe/Paris", "2027-01-12T06:00+01:00", "2027-01-12T22:00+01:00"),
        ("09:30-17:00 America/New_York", "2027-07-01T09:00+02:00", "2027-07-01T15:30+02:00"),
        ("22:00-06:00 UTC", "2027-01-12T12:00:30+00:00", "2027-01-12T22:00+00:00"),
    ],
)
def test_it_opens_at_its_hour_on_the_clock_of_its_place(text: str, now: str, opens: str) -> None:
    assert window(text).next(at(now)) == at(opens)


def test_an_hour_that_is_skipped_opens_when_the_clock_has_jumped_over_it() -> None:
    spring = window("02:30-04:00 Europe/Paris")
    before = at("2027-03-28T00:59:00+00:00")  # 01:59 in Paris; the next minute shows 03:00
    assert not spring.open(before)
    assert spring.next(before) == at("2027-03-28T01:00:00+00:00")
    assert not spring.open(at("2027-03-28T02:00:00+00:00"))


def test_a_window_inside_the_skipped_hour_waits_for_the_next_day() -> None:
    lost = window("02:00-03:00 Europe/Paris")
    assert lost.next(at("2027-03-27T12:00+01:00")) == at("2027-03-29T02:00+02:00")


def test_an_hour_that_comes_twice_is_open_twice() -> None:
    autumn = window("02:00-03:00 Europe/Paris")
    hours = [at("2027-10-30T23:30:00+00:00") + timedelta(hours=n) for n in range(4)]
    assert [autumn.open(hour) for hour in hours] == [False, True, True, False]


@pytest.mark.parametrize("zone", ["Europe/Paris", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "UTC"])
def test_the_next_opening_is_the_first_open_minute(zone: str) -> None:
    night = window(f"22:15-06:45 {zone}")
    for hours in range(0, 366 * 24, 37):
        now = datetime(2027, 1, 1, 0, 7, tzinfo=UTC) + timedelta(hours=hours)
        found = night.next(now)
        assert night.open(found)
        assert found == now or not night.open(found - timedelta(minutes=1))
        assert found - now < timedelta(hours=17)


@pytest.mark.parametrize(
    "text",
    ["", "22-6 Europe/Paris", "22:00-06:00", "24:00-06:00 UTC", "22:00-22:00 UTC", "22:00-06:00 Mars/Base",
     "22:00-06:00 ../etc/passwd", "22:00-06:00 /etc/passwd", "22:00–06:00 UTC", "٢٢:00-06:00 UTC", "x" * 9999],
)  # fmt: skip
def test_what_is_no_window_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(Invalid, match="window"):
        Window.parse(text)


def test_always_is_no_window() -> None:
    assert Window.parse("always") is None
    assert str(window("22:00-06:00 Europe/Paris")) == "22:00-06:00 Europe/Paris"


def test_rules_of_the_house_are_read_or_refused_by_name() -> None:
    assert Rules.from_yaml(None) == Rules()
    assert Rules.from_yaml({"window": "22:00-06:00 UTC", "concurrency": 2}) == Rules("22:00-06:00 UTC", 2)
    section: list[object] = [[], {"nights": 1}, {"window": "at night"}]
    wrongs = [*section, {"concurrency": 0}, {"concurrency": True}, {"lines": "9"}]
    for wrong in wrongs:
        with pytest.raises(ConfigError, match="batches"):
            Rules.from_yaml(wrong)
