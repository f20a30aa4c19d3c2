"""How much of the window is sorted at once, learnt from how much the slices before weighed.

DuckDB may not spill, since a spill would be plaintext on disk; so a sort must fit its memory limit.
The order is by time first, so sorted slices of whole seconds concatenate to the order of the whole,
wherever they are cut. Nothing here knows SQL.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from mxdeliver.core.calendar import Window

MOST_GROWTH = 4
"""A slice has at most this many times the rows of the one before: its texts may be longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceSize:
    """Rows of a first slice, and the Arrow bytes that the later ones aim at."""

    first_rows: int
    bytes: int


class Slices:
    """The slices of one stream, one after the other; tell it of each batch and each failure.

    `by_second` gives the number of rows by Unix second, in order. It is asked only where the rest
    of the `count` rows does not fit a slice.
    """

    def __init__(
        self,
        window: Window,
        count: int,
        *,
        size: SliceSize,
        by_second: Callable[[], list[tuple[int, int]]],
    ) -> None:
        self._rest = window
        self._rows_left = count
        self._most_rows = size.first_rows
        self._most_bytes = size.bytes
        self._ask = by_second
        self._by_second: list[tuple[int, int]] | None = None
        self._part = window
        self._rows = 0
        self._bytes = 0
        self._halved = False

    def __iter__(self) -> Iterator[Window]:
        """Yield each slice, and one that was halved again as its first half."""
        while self._rest.start < self._rest.end:
            self._rows = self._bytes = 0
            self._halved = False
            self._part = self._cut(self._most_rows)
            yield self._part
            if not self._halved:
                self._pass_on()

    def weigh(self, rows: int, size: int) -> None:
        """Take note of a batch of the present slice and its bytes."""
        self._rows += rows
        self._bytes += size

    def halve(self) -> bool:
        """Cut the present slice again, and later ones smaller, after it ran out of memory.

        False where nothing can be done: rows of it were handed out, or all are of one second.
        """
        if self._rows:
            return False
        held = sum(count for second, count in self._seconds() if self._holds(second))
        part = self._cut(held // 2)
        if part.end >= self._part.end:
            return False
        self._most_rows = max(1, held // 2)
        self._most_bytes //= 2
        self._halved = True
        return True

    def _cut(self, most_rows: int) -> Window:
        if self._rows_left <= most_rows:
            return self._rest
        by_second = self._seconds()
        first = bisect_left(by_second, (self._rest.start,))
        return next(slices(by_second[first:], self._rest, most_rows))

    def _seconds(self) -> list[tuple[int, int]]:
        if self._by_second is None:
            self._by_second = self._ask()
        return self._by_second

    def _holds(self, second: int) -> bool:
        return self._part.start <= second < self._part.end

    def _pass_on(self) -> None:
        self._rest = Window(start=self._part.end, end=self._rest.end)
        self._rows_left -= self._rows
        if self._rows:
            fitting = self._most_bytes * self._rows // max(1, self._bytes)
            self._most_rows = max(1, min(fitting, MOST_GROWTH * max(self._most_rows, self._rows)))


def slices(
    by_second: Iterable[tuple[int, int]], window: Window, slice_rows: int
) -> Iterator[Window]:
    """Cut the window where about `slice_rows` rows have passed; a single second is never cut."""
    start, rows = window.start, 0
    for second, count in by_second:
        if rows and rows + count > slice_rows and start < second < window.end:
            yield Window(start=start, end=second)
            start, rows = second, 0
        rows += count
    yield Window(start=start, end=window.end)
