"""Days, their windows, and which of them are owed to a client.

A day runs from midnight to midnight in the client's time zone. Where a change to daylight-saving
time removes midnight, the day starts with its first instant; consecutive windows always meet, so no
second belongs to two days or to none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Self
from zoneinfo import ZoneInfo

_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


class SnapshotDate(date):
    """The day that a delivery covers: a date, never a point in time."""

    __slots__ = ()

    @classmethod
    def of(cls, day: date) -> Self:
        """Turn a date into a snapshot date; TypeError for a datetime."""
        if isinstance(day, datetime):
            raise TypeError("a snapshot date is a day, not a point in time")
        return cls(day.year, day.month, day.day)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `YYYY-MM-DD`; ValueError for anything else, and for days whose window has no end."""
        if not _DATE.fullmatch(text) or text.startswith(("0000", "0001", "9999")):
            raise ValueError(f"{text!r} is not a date of the form YYYY-MM-DD")
        return cls.fromisoformat(text)

    def following(self, days: int = 1) -> Self:
        """Give the date `days` later (earlier when negative)."""
        return self.of(date.fromordinal(self.toordinal() + days))


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The half-open interval [start, end) of one day, in whole Unix seconds."""

    start: int
    end: int


def window(day: SnapshotDate, zone: ZoneInfo) -> Window:
    """Give the day's window in `zone`."""
    return Window(start=_first_second(day, zone), end=_first_second(day.following(), zone))


def _first_second(day: date, zone: ZoneInfo) -> int:
    # fold=0 takes the earlier of two midnights, and in a gap the instant of the change itself.
    return int(datetime(day.year, day.month, day.day, tzinfo=zone, fold=0).timestamp())


def due_at(day: SnapshotDate, zone: ZoneInfo, due_after: timedelta) -> datetime:
    """Give the moment from which the day is to be delivered."""
    return datetime.fromtimestamp(window(day, zone).end, UTC) + due_after


def is_closed(day: SnapshotDate, zone: ZoneInfo, now: datetime) -> bool:
    """Tell whether the day's last second has passed in `zone`."""
    return window(day, zone).end <= now.timestamp()


def last_closed(zone: ZoneInfo, now: datetime) -> SnapshotDate:
    """Give the latest day that has ended in `zone`."""
    return SnapshotDate.of(now.astimezone(zone).date()).following(-1)


def days(first: SnapshotDate, last: SnapshotDate) -> Iterator[SnapshotDate]:
    """Yield every day from `first` to `last`, both included, oldest first."""
    for ordinal in range(first.toordinal(), last.toordinal() + 1):
        yield SnapshotDate.of(date.fromordinal(ordinal))
