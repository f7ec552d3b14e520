"""Functions over dates and times: days, months, working days, time zones, and how people write them."""

from __future__ import annotations

import datetime
import re
import zoneinfo
from collections.abc import Callable, Mapping

from metier.workflow.builtin import Builtin, Unfit, Value, items_in, moment_in, text_in, type_name, whole_in

__all__ = ["TIME", "duration_in"]

_DURATION = re.compile(r"([+-]?)((?:\d+(?:\.\d+)?(?:ms|us|ns|h|m|s))+)\Z", re.ASCII)
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|us|ns|h|m|s)", re.ASCII)
_SECONDS: Mapping[str, float] = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_ZONE = re.compile(r"[A-Za-z][A-Za-z0-9_+-]{0,30}(?:/[A-Za-z0-9_+-]{1,30}){0,2}\Z", re.ASCII)
_TOKEN = re.compile(r"yyyy|MMMM|MM|M|dd|d|EEEE|HH|H|mm|ss|'[^']*'")
_RUN = re.compile(r"'[^']*'|([yMdEHhms])\1*")
_FORMAT_MAX, _DAYS_MAX, _HOLIDAYS_MAX = 100, 4_000, 1_000
_MONTHS: Mapping[str, str] = {
    "fr": "janvier février mars avril mai juin juillet août septembre octobre novembre décembre",
    "en": "January February March April May June July August September October November December",
}
_DAYS: Mapping[str, str] = {
    "fr": "lundi mardi mercredi jeudi vendredi samedi dimanche",
    "en": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
}
_READ: Mapping[str, str] = {
    "yyyy": r"(?P<year>\d{4})",
    "MM": r"(?P<month>\d{2})",
    "M": r"(?P<month>\d{1,2})",
    "dd": r"(?P<day>\d{2})",
    "d": r"(?P<day>\d{1,2})",
    "HH": r"(?P<hour>\d{2})",
    "H": r"(?P<hour>\d{1,2})",
    "mm": r"(?P<minute>\d{2})",
    "ss": r"(?P<second>\d{2})",
}


def duration_in(value: Value) -> datetime.timedelta:
    """Take a length of time, as one or as text such as 1h30m."""
    if isinstance(value, datetime.timedelta):
        return value
    written = text_in(value, "duration")
    found = _DURATION.match(written) if len(written) <= 64 else None
    if found is None:
        raise Unfit(f"duration cannot read {written[:40]!r}; write 90s, 4h or 1h30m")
    total = sum(float(count) * _SECONDS[unit] for count, unit in _DURATION_PART.findall(found[2]))
    try:
        return datetime.timedelta(seconds=-total if found[1] == "-" else total)
    except OverflowError as wrong:
        raise Unfit(f"duration cannot hold {written[:40]!r}: out of range") from wrong


def _zone(name: Value, what: str) -> zoneinfo.ZoneInfo:
    written = text_in(name, what)
    try:
        # These are the zone of the machine, or none: an expression gives the same everywhere.
        if not _ZONE.match(written) or written in ("localtime", "posixrules", "Factory"):
            raise ValueError(written)
        return zoneinfo.ZoneInfo(written)
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError) as wrong:
        raise Unfit(f"{what} knows no time zone {written[:40]!r}; write one such as Europe/Paris") from wrong


def _in_zone(value: Value, zone: Value) -> str:
    try:
        return moment_in(value, "in_zone").astimezone(_zone(zone, "in_zone")).isoformat()
    except OverflowError as wrong:
        raise Unfit("in_zone leaves the years 1 to 9999") from wrong


def _local(value: Value, what: str) -> datetime.datetime:
    """Read the hour that is written: a text keeps its own offset, anything else is in UTC."""
    if isinstance(value, str):
        moment_in(value, what)
        return datetime.datetime.fromisoformat(value)
    return moment_in(value, what)


def _format(value: Value, pattern: Value, language: Value = "fr") -> str:
    moment, written = _local(value, "format_date"), text_in(pattern, "format_date")
    if len(written) > _FORMAT_MAX:
        raise Unfit(f"format_date takes a pattern of at most {_FORMAT_MAX} characters")
    _known(written, "format_date")
    if language not in ("fr", "en"):
        raise Unfit(f"format_date writes 'fr' or 'en', not {str(language)[:20]!r}")
    assert isinstance(language, str)
    parts: Mapping[str, Callable[[], str]] = {
        "yyyy": lambda: f"{moment.year:04}",
        "MMMM": lambda: _MONTHS[language].split()[moment.month - 1],
        "MM": lambda: f"{moment.month:02}",
        "M": lambda: str(moment.month),
        "dd": lambda: f"{moment.day:02}",
        "d": lambda: "1er" if moment.day == 1 and language == "fr" and "MMMM" in written else str(moment.day),
        "EEEE": lambda: _DAYS[language].split()[moment.weekday()],
        "HH": lambda: f"{moment.hour:02}",
        "H": lambda: str(moment.hour),
        "mm": lambda: f"{moment.minute:02}",
        "ss": lambda: f"{moment.second:02}",
    }
    return _TOKEN.sub(lambda found: parts[found[0]]() if found[0] in parts else found[0][1:-1], written)


def _known(pattern: str, what: str) -> None:
    """Refuse `yy` or `MMM`, which would stand in a letter as they are, or as the month twice."""
    for found in _RUN.finditer(pattern):
        letters = found[0]
        if letters[0] != "'" and letters != "h" and not _TOKEN.fullmatch(letters):
            raise Unfit(
                f"{what} does not know {letters!r} in a pattern; it knows yyyy, MM, M, dd, d, HH, H, mm and ss, "
                "MMMM and EEEE for names when writing, and 'text' between quotes"
            )


def _parse(text: Value, pattern: Value) -> str:
    """Read a date by its pattern; with an hour in it, the moment is in UTC."""
    written, form = text_in(text, "parse_date"), text_in(pattern, "parse_date")
    if len(form) > _FORMAT_MAX or len(written) > _FORMAT_MAX:
        raise Unfit(f"parse_date takes at most {_FORMAT_MAX} characters")
    _known(form, "parse_date")
    try:
        found = re.compile(_reading(form), re.ASCII).fullmatch(written.strip())
        if found is None:
            raise ValueError(written)
        numbers = {name: int(number) for name, number in found.groupdict().items()}
        date = datetime.date(numbers["year"], numbers["month"], numbers["day"])
        if "hour" not in numbers:
            return date.isoformat()
        hour = datetime.time(numbers["hour"], numbers.get("minute", 0), numbers.get("second", 0))
    except (ValueError, KeyError, re.error) as wrong:
        raise Unfit(f"parse_date cannot read {written[:40]!r} as {form[:40]!r}") from wrong
    return datetime.datetime.combine(date, hour).isoformat() + "Z"


def _reading(form: str) -> str:
    pieces, last = [], 0
    for token in _TOKEN.finditer(form):
        pieces.append(re.escape(form[last : token.start()]))
        pieces.append(_READ[token[0]] if token[0] in _READ else re.escape(token[0].strip("'")))
        last = token.end()
    return "".join((*pieces, re.escape(form[last:])))


def _date(value: Value) -> str:
    return moment_in(value, "date").date().isoformat()


def _day(value: Value, what: str) -> datetime.date:
    return moment_in(value, what).date()


def _add_days(value: Value, days: Value) -> str:
    if isinstance(days, bool) or not isinstance(days, int):
        raise Unfit(f"add_days needs a whole number of days, not {type_name(days)}")
    try:
        return (_day(value, "add_days") + datetime.timedelta(days=days)).isoformat()
    except OverflowError as wrong:
        raise Unfit("add_days leaves the years 1 to 9999") from wrong


def _add_months(value: Value, months: Value) -> str:
    """Go to the same day of another month, or to its last one."""
    day = _day(value, "add_months")
    total = day.year * 12 + day.month - 1 + whole_in(months, "the months of add_months", -120_000, 120_000)
    year, month = divmod(total, 12)
    if not 1 <= year <= 9998:
        raise Unfit("add_months leaves the years 1 to 9998")
    last = (datetime.date(year + month // 11, (month + 1) % 12 + 1, 1) - datetime.timedelta(days=1)).day
    return datetime.date(year, month + 1, min(day.day, last)).isoformat()


def _days_between(first: Value, last: Value) -> int:
    return (_day(last, "days_between") - _day(first, "days_between")).days


def _seconds_between(first: Value, last: Value) -> float:
    return (moment_in(last, "seconds_between") - moment_in(first, "seconds_between")).total_seconds()


def _off(holidays: Value, what: str) -> frozenset[datetime.date]:
    listed = items_in(holidays, what)
    if len(listed) > _HOLIDAYS_MAX:
        raise Unfit(f"{what} takes at most {_HOLIDAYS_MAX} holidays")
    return frozenset(_day(one, what) for one in listed)


def _works(day: datetime.date, off: frozenset[datetime.date]) -> bool:
    return day.weekday() < 5 and day not in off


def _is_business_day(value: Value, holidays: Value = None) -> bool:
    return _works(_day(value, "is_business_day"), _off(holidays or [], "is_business_day"))


def _add_business_days(value: Value, days: Value, holidays: Value = None) -> str:
    day, off = _day(value, "add_business_days"), _off(holidays or [], "add_business_days")
    left = whole_in(days, "the days of add_business_days", -_DAYS_MAX, _DAYS_MAX)
    step = datetime.timedelta(days=1 if left > 0 else -1)
    try:
        while left:
            day += step
            if _works(day, off):
                left += -1 if left > 0 else 1
    except OverflowError as wrong:
        raise Unfit("add_business_days leaves the years 1 to 9999") from wrong
    return day.isoformat()


def _business_days_between(first: Value, last: Value, holidays: Value = None) -> int:
    """Count the working days after the first day, up to and including the last one."""
    what = "business_days_between"
    start, end, off = _day(first, what), _day(last, what), _off(holidays or [], what)
    sign = 1 if end >= start else -1
    start, end = min(start, end), max(start, end)
    weeks, rest = divmod((end - start).days, 7)
    count = weeks * 5 + sum((start.weekday() + number) % 7 < 5 for number in range(1, rest + 1))
    return sign * (count - sum(start < day <= end and day.weekday() < 5 for day in off))


def _french_holidays(year: Value) -> list[Value]:
    """List the eleven days, of which three follow Easter."""
    number = whole_in(year, "french_holidays", 1583, 9998)
    a, (b, c) = number % 19, divmod(number, 100)
    d, e = divmod(b, 4)
    h = (19 * a + b - d - (b - (b + 8) // 25 + 1) // 3 + 15) % 30
    i, k = divmod(c, 4)
    weekday = (32 + 2 * e + 2 * i - h - k) % 7
    month, day = divmod(h + weekday - 7 * ((a + 11 * h + 22 * weekday) // 451) + 114, 31)
    easter = datetime.date(number, month, day + 1)
    moving = [easter + datetime.timedelta(days=days) for days in (1, 39, 50)]
    fixed = [
        datetime.date(number, one, two)
        for one, two in ((1, 1), (5, 1), (5, 8), (7, 14), (8, 15), (11, 1), (11, 11), (12, 25))
    ]
    return [one.isoformat() for one in sorted((*fixed, *moving))]


def _part(name: str, of: Callable[[datetime.datetime], int], says: str) -> Builtin:
    example = f"{name}('2026-10-01T08:30:00Z')"
    return Builtin(1, 1, "integer", lambda value: of(moment_in(value, name)), f"{name}(time)", says, example)


_WORKING = "; Saturdays, Sundays and the holidays given are off."
# fmt: off
TIME: Mapping[str, Builtin] = {
    "timestamp": Builtin(
        1, 1, None, lambda value: moment_in(value, "timestamp"), "timestamp(text)",
        "A moment from text; without a zone it is in UTC.", "timestamp('2026-10-01') - timestamp('2026-09-30')",
    ),
    "duration": Builtin(
        1, 1, None, duration_in, "duration(text)", "A length of time from text such as 1h30m.",
        "timestamp('2026-10-01') + duration('36h')",
    ),
    "date": Builtin(
        1, 1, "string", _date, "date(time)", "The day of a moment, in UTC.", "date('2026-10-01T08:30:00Z')"
    ),
    "parse_date": Builtin(
        2, 2, "string", _parse, "parse_date(text, pattern)",
        "A date from text by a pattern of yyyy, MM, dd, HH, mm, ss.", "parse_date('01/10/2026', 'dd/MM/yyyy')",
        ("string", "string"),
    ),
    "format_date": Builtin(
        2, 3, "string", _format, "format_date(time, pattern, language?)",
        "A moment written by a pattern, where EEEE is the day and MMMM the month by name.",
        "format_date('2026-10-01', 'EEEE d MMMM yyyy')", ("", "string", "string"),
    ),
    "in_zone": Builtin(
        2, 2, "string", _in_zone, "in_zone(time, zone)", "The same moment as clocks of a time zone show it.",
        "in_zone('2026-10-01T08:30:00Z', 'Europe/Paris')", ("", "string"),
    ),
    "add_days": Builtin(
        2, 2, "string", _add_days, "add_days(date, days)", "So many days later, or earlier.",
        "add_days('2026-10-01', 14)", ("", "integer"),
    ),
    "add_months": Builtin(
        2, 2, "string", _add_months, "add_months(date, months)", "The same day so many months later, or the last one.",
        "add_months('2026-01-31', 1)", ("", "integer"),
    ),
    "days_between": Builtin(
        2, 2, "integer", _days_between, "days_between(from, to)", "Days from one date to another.",
        "days_between('2026-10-01', '2026-10-15')",
    ),
    "seconds_between": Builtin(
        2, 2, "number", _seconds_between, "seconds_between(from, to)", "Seconds from one moment to another.",
        "seconds_between('2026-10-01', '2026-10-01T00:01:30Z')",
    ),
    "is_business_day": Builtin(
        1, 2, "boolean", _is_business_day, "is_business_day(date, holidays?)",
        f"Whether people work on a day{_WORKING}", "is_business_day('2026-10-03')",
    ),
    "add_business_days": Builtin(
        2, 3, "string", _add_business_days, "add_business_days(date, days, holidays?)",
        f"So many working days later, or earlier{_WORKING}",
        "add_business_days('2026-12-24', 1, french_holidays(2026))", ("", "integer", "array"),
    ),
    "business_days_between": Builtin(
        2, 3, "integer", _business_days_between, "business_days_between(from, to, holidays?)",
        f"Working days after one date, up to another{_WORKING}",
        "business_days_between('2026-10-01', '2026-10-08')", ("", "", "array"),
    ),
    "french_holidays": Builtin(
        1, 1, "array", _french_holidays, "french_holidays(year)", "The eleven public holidays of France.",
        "french_holidays(2026).size()", ("integer",),
    ),
    "getFullYear": _part("getFullYear", lambda moment: moment.year, "Its year."),
    "getMonth": _part("getMonth", lambda moment: moment.month - 1, "Its month, from 0, as in CEL."),
    "getDate": _part("getDate", lambda moment: moment.day, "Its day of the month, from 1."),
    "getDayOfMonth": _part("getDayOfMonth", lambda moment: moment.day - 1, "Its day of the month, from 0."),
    "getDayOfWeek": _part("getDayOfWeek", lambda moment: moment.isoweekday() % 7, "Its weekday, 0 is Sunday."),
    "getDayOfYear": _part("getDayOfYear", lambda moment: moment.timetuple().tm_yday - 1, "Its day of the year from 0."),
    "getHours": _part("getHours", lambda moment: moment.hour, "Its hour."),
    "getMinutes": _part("getMinutes", lambda moment: moment.minute, "Its minute."),
    "getSeconds": _part("getSeconds", lambda moment: moment.second, "Its second."),
}
# fmt: on
