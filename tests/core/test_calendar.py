from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxdeliver.core.calendar import (
    SnapshotDate,
    Window,
    days,
    due_at,
    is_closed,
    last_closed,
    window,
)

SNAPSHOT_DATES = st.dates(date(1990, 1, 2), date(2099, 12, 30)).map(SnapshotDate.of)
ZONES = st.sampled_from(sorted(available_timezones()))
FIRST, LAST = SnapshotDate(2026, 1, 1), SnapshotDate(2026, 12, 31)
LENGTHS = {int(hours * 3600) for hours in (22, 23, 23.5, 24, 24.5, 25, 26)}


def test_a_snapshot_date_is_read_and_written_as_iso_8601():
    assert SnapshotDate.parse("2026-02-28").isoformat() == "2026-02-28"
    assert isinstance(SnapshotDate.parse("2026-02-28"), SnapshotDate)


@pytest.mark.parametrize(
    "text",
    ["", "today", "2026-2-1", "2026-02-30", "20260228", "2026-W05-1", "2026-02-28T00:00:00",
     " 2026-02-28", "2026-02-28\n", "٢٠٢٦-02-28"],
)  # fmt: skip
def test_anything_but_a_plain_date_is_refused(text):
    with pytest.raises(ValueError, match=r"date|month|day"):
        SnapshotDate.parse(text)


def test_a_point_in_time_is_no_snapshot_date():
    with pytest.raises(TypeError, match="not a point in time"):
        SnapshotDate.of(datetime(2026, 1, 1, tzinfo=UTC))


@given(SNAPSHOT_DATES, st.integers(-400, 400))
def test_following_goes_forth_and_back(day, distance):
    there = day.following(distance)
    assert isinstance(there, SnapshotDate)
    assert (there - day).days == distance
    assert there.following(-distance) == day


def test_days_are_given_oldest_first_with_both_ends():
    first = SnapshotDate(2024, 2, 27)
    assert [day.isoformat() for day in days(first, SnapshotDate(2024, 3, 1))] == [
        "2024-02-27", "2024-02-28", "2024-02-29", "2024-03-01",
    ]  # fmt: skip
    assert list(days(first, first)) == [first]
    assert list(days(first, first.following(-1))) == []


def test_a_day_in_utc_is_its_86400_seconds():
    assert window(SnapshotDate(1970, 1, 2), ZoneInfo("UTC")) == Window(start=86_400, end=172_800)


def test_in_every_zone_the_days_of_a_year_meet_and_sum_to_it():
    for zone in map(ZoneInfo, sorted(available_timezones())):
        windows = [window(day, zone) for day in days(FIRST, LAST)]
        meet = all(one.end == other.start for one, other in pairwise(windows))
        assert meet, f"{zone}: two days do not meet"
        assert {one.end - one.start for one in windows} <= LENGTHS, zone
        first, last = (datetime(year, 1, 1, tzinfo=zone).timestamp() for year in (2026, 2027))
        assert sum(one.end - one.start for one in windows) == last - first, zone


def test_in_every_zone_a_window_begins_with_the_first_second_of_its_date():
    for zone in map(ZoneInfo, sorted(available_timezones())):
        for day in [day.following(near) for day in clock_changes(zone) for near in (-1, 0, 1, 2)]:
            start = window(day, zone).start
            assert datetime.fromtimestamp(start, zone).date() == day, zone
            assert datetime.fromtimestamp(start - 1, zone).date() == day.following(-1), zone


def clock_changes(zone):
    offsets = {
        day: datetime(day.year, day.month, day.day, tzinfo=zone).utcoffset()
        for day in days(FIRST, LAST)
    }
    changes = [day for day, after in pairwise(offsets) if offsets[day] != offsets[after]]
    return changes or [FIRST]


@pytest.mark.parametrize(
    ("name", "day", "hours", "first"),
    [
        ("Europe/Berlin", "2026-03-29", 23, "00:00"),
        ("Europe/Berlin", "2026-10-25", 25, "00:00"),
        ("America/Sao_Paulo", "2018-11-04", 23, "01:00"),  # midnight does not exist
        ("America/Havana", "2024-03-10", 23, "01:00"),
        ("America/Havana", "2024-11-03", 25, "00:00"),  # midnight comes twice
        ("Australia/Lord_Howe", "2026-04-05", 24.5, "00:00"),
        ("Pacific/Apia", "2011-12-29", 24, "00:00"),
    ],
)
def test_a_day_with_a_clock_change_is_as_long_as_it_was(name, day, hours, first):
    zone = ZoneInfo(name)
    found = window(SnapshotDate.parse(day), zone)
    assert found.end - found.start == hours * 3600
    assert datetime.fromtimestamp(found.start, zone).strftime("%H:%M") == first


def test_a_day_that_a_zone_skipped_is_empty():
    found = window(SnapshotDate(2011, 12, 30), ZoneInfo("Pacific/Apia"))
    assert found.start == found.end


@given(SNAPSHOT_DATES, ZONES)
def test_a_day_is_closed_from_its_last_second_on(day, name):
    zone = ZoneInfo(name)
    end = datetime.fromtimestamp(window(day, zone).end, UTC)
    assert is_closed(day, zone, end)
    assert is_closed(day, zone, end + timedelta(seconds=1))
    assert not is_closed(day, zone, end - timedelta(microseconds=1))


@pytest.mark.parametrize(
    ("name", "now", "expected"),
    [
        ("UTC", datetime(2026, 1, 2, 0, 0, tzinfo=UTC), "2026-01-01"),
        ("UTC", datetime(2026, 1, 1, 23, 59, 59, tzinfo=UTC), "2025-12-31"),
        ("Pacific/Kiritimati", datetime(2026, 1, 1, 10, 0, tzinfo=UTC), "2026-01-01"),
        ("America/Denver", datetime(2026, 1, 2, 6, 59, 59, tzinfo=UTC), "2025-12-31"),
        ("America/Denver", datetime(2026, 1, 2, 7, 0, tzinfo=UTC), "2026-01-01"),
    ],
)
def test_the_last_closed_day_is_the_zones_yesterday(name, now, expected):
    assert last_closed(ZoneInfo(name), now).isoformat() == expected


@given(
    ZONES,
    st.datetimes(datetime(2025, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 - hypothesis takes bounds without a zone
)
def test_the_last_closed_day_is_closed_and_the_next_is_not(name, now):
    zone = ZoneInfo(name)
    day = last_closed(zone, now)
    assert is_closed(day, zone, now)
    assert not is_closed(day.following(), zone, now)


def test_a_day_is_due_after_it_closed():
    due = due_at(SnapshotDate(2026, 3, 29), ZoneInfo("Europe/Berlin"), timedelta(minutes=75))
    assert due == datetime(2026, 3, 29, 23, 15, tzinfo=UTC)
