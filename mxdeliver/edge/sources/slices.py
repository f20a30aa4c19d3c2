"""How much of the window is sorted at once, learnt from how much the slices before weighed.

DuckDB may not spill, since a spill would be plaintext on disk; so a sort must fit its memory limit.
The order is by a key that begins with the time, so sorted slices concatenate to the order of the
whole, wherever they are cut: between two seconds, or, where one second holds too much, after a key
and all rows that share it. Nothing here knows SQL, nor what a key is made of.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from mxdeliver.core.calendar import Window

MOST_GROWTH = 4
"""A slice has at most this many times the rows of the one before: its texts may be longer."""
SHRINKAGE = 8
"""What ran out of memory is cut to this part: what just fits would leave nothing for its batches."""
MOST_KEYS = 100_000
"""A slice within a second has at most this many rows: as many keys are held to find its last."""
BATCHES = 6
LEAST_BATCH = 4
"""A slice comes in so many batches, but none of fewer rows: what is under way is a part of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceSize:
    """Rows of a first slice, and the Arrow bytes that the later ones aim at."""

    first_rows: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The rows of a window whose keys come later than `after`, up to those that share `last`."""

    window: Window
    after: bytes | None = None
    last: bytes | None = None


class Slices:
    """The slices of one stream, one after the other; tell it of each batch and each failure.

    `by_second` gives the number of rows by Unix second, in order. It is asked only where the rest
    of the `count` rows does not fit a slice. `key_at` gives the key of the nth row of a part, or of
    its last row where it has fewer; it is asked only where a single second does not fit.
    """

    def __init__(
        self,
        window: Window,
        count: int,
        *,
        size: SliceSize,
        by_second: Callable[[], list[tuple[int, int]]],
        key_at: Callable[[Part, int], bytes | None],
    ) -> None:
        self._rest = self._part = Part(window=window)
        self._rows_left = count
        self._most_rows = size.first_rows
        self._most_bytes = size.bytes
        self._ask = by_second
        self._key_at = key_at
        self._by_second: list[tuple[int, int]] | None = None
        self._rows = 0
        self._bytes = 0
        self._shrunk = False

    def __iter__(self) -> Iterator[Part]:
        """Yield each slice, and one that was shrunk again as its first part."""
        while self._rest.window.start < self._rest.window.end:
            self._rows = self._bytes = 0
            self._shrunk = False
            self._part = self._cut(self._most_rows)
            yield self._part
            if not self._shrunk:
                self._pass_on()

    @property
    def batch_rows(self) -> int:
        """How many rows of the present slice to take at once."""
        return max(LEAST_BATCH, min(self._most_rows, self._rows_left) // BATCHES)

    def weigh(self, rows: int, size: int) -> None:
        """Take note of a batch of the present slice and its bytes."""
        self._rows += rows
        self._bytes += size

    def shrink(self) -> bool:
        """Cut the present slice again, and later ones smaller, after it ran out of memory.

        False where nothing can be done: rows of it were handed out, or all share one key.
        """
        if self._rows:
            return False
        rows = min(self._most_rows, self._held(self._part.window))
        while rows > 1:
            rows = max(1, rows // SHRINKAGE)
            if self._cut(rows) != self._part:
                self._most_rows = rows
                self._most_bytes //= 2
                self._shrunk = True
                return True
        return False

    def _cut(self, most_rows: int) -> Part:
        if self._rows_left <= most_rows:
            return self._rest
        whole = self._rest.window
        by_second = self._seconds()
        first = bisect_left(by_second, (whole.start,))
        part = replace(self._rest, window=next(slices(by_second[first:], whole, most_rows)))
        if self._held(part.window) <= most_rows:
            return part
        return replace(part, last=self._key_at(part, min(most_rows, MOST_KEYS)))

    def _seconds(self) -> list[tuple[int, int]]:
        """Give the rows still to come by second, of the present window and later."""
        if self._by_second is None:
            self._by_second = self._ask()
        return self._by_second

    def _held(self, window: Window) -> int:
        by_second = self._seconds()
        first = bisect_left(by_second, (window.start,))
        end = bisect_left(by_second, (window.end,))
        return sum(count for _, count in by_second[first:end])

    def _pass_on(self) -> None:
        window = self._part.window
        self._rest = Part(window=replace(self._rest.window, start=window.end))
        if self._part.last is not None and (left := self._held(window) - self._rows) > 0:
            # a part with a last key holds rows of one second alone
            place = bisect_left(self._seconds(), (window.start,))
            self._seconds()[place] = (self._seconds()[place][0], left)
            start = window.start
            self._rest = Part(window=replace(self._rest.window, start=start), after=self._part.last)
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
