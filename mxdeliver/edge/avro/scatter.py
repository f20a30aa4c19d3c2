"""Columns of cells to rows: every cell copied to its place, one column at a time.

numpy copies items of one width fast, and cells have any width. So each is copied as wide as the
widest of its column (or piece by piece, if that is wide). What a cell writes too much is written
over by the next columns, which come later. What a row's last cells write too much lies in the next
row's first cells; so these come last, and of them one that has nothing too much (most records begin
with a guid). Where there is no such column, there is room behind each row, and at the end the rows
are moved together. This takes about half the time of Arrow's `take` of all cells in the rows' order.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mxdeliver.edge.avro.refusal import Refused

Numbers: TypeAlias = np.ndarray[Any, Any]
_MOST_COMBINATIONS = 256
_PIECES = (64, 448)  # cells of up to 512 bytes are copied together, the rest of longer ones alone
_MOST_BYTES = (1 << 31) - 1  # Arrow's offsets have 32 bits
_MOST_KEPT = 8 << 20


class Part(NamedTuple):
    """One cell for each row: `widths` bytes (of each row, or of all), none below `least` or above `most`.

    The first are those of the row in each of `heads` (or one for all), the others are of `source`:
    of the same row, if that is a matrix; or, with `begins`, of the `most` bytes that begin there, in
    place of whose first ones the heads go.
    """

    source: Numbers
    begins: Numbers | None
    widths: Numbers | int
    least: int
    most: int
    heads: tuple[Numbers | int, ...] = ()

    @property
    def excess(self) -> int:
        """The most bytes that copying a cell writes too much."""
        if self.begins is None or self.heads or self.most <= _PIECES[0]:
            return self.most - self.least
        return min(self.most, max(_PIECES))

    def apart(self, stretches: Sequence[slice]) -> list[Part]:
        """Give the cells of stretches of rows, of which each begins where the one before ends."""
        if len(stretches) == 1:
            return [self]
        least, most = [self.least] * len(stretches), [self.most] * len(stretches)
        if not isinstance(self.widths, int):
            starts = [rows.start for rows in stretches]
            least = np.minimum.reduceat(self.widths, starts).tolist()
            most = np.maximum.reduceat(self.widths, starts).tolist()
        return [self._of(*one) for one in zip(stretches, least, most, strict=True)]

    def _of(self, rows: slice, least: int, most: int) -> Part:
        widths = self.widths if isinstance(self.widths, int) else self.widths[rows]
        source = self.source[rows] if self.begins is None else self.source
        begins = None if self.begins is None else self.begins[rows]
        heads = tuple(one if isinstance(one, int) else one[rows] for one in self.heads)
        return Part(source, begins, widths, least, most, heads)


class Chosen(NamedTuple):
    """One cell for each row of a few short ones: row i has `cells[places[i]]`.

    `places` are uint8. Such parts are cheap side by side: up to 256 combinations become one part.
    """

    cells: tuple[bytes, ...]
    places: Numbers

    def apart(self, stretches: Sequence[slice]) -> list[Chosen]:
        """Give the cells of stretches of rows."""
        return [Chosen(self.cells, self.places[rows]) for rows in stretches]


AnyPart: TypeAlias = Part | Chosen


class Joined(NamedTuple):
    """Encoded rows: where each begins in `data`, and where the last ends."""

    offsets: Numbers
    data: Any


class Memory:
    """Memory for encoded rows, used again when no one looks at it any more.

    The system clears new memory page by page, which takes about as long as filling it.
    """

    def __init__(self) -> None:
        self._free: list[Numbers] = []

    def take(self, size: int) -> Numbers:
        """Give at least `size` bytes, which hold anything."""
        whole = self._free.pop() if self._free else np.empty(0, np.uint8)
        return whole if len(whole) >= size else np.empty(size + size // 16, np.uint8)

    def give_back(self, whole: Numbers) -> None:
        """Take back what was taken; what is unusually large goes to the system."""
        if len(whole) <= _MOST_KEPT:
            self._free.append(whole)

    def lend(self, whole: Numbers, size: int) -> Numbers:
        """Give the first bytes of what was taken; it comes back once the array given is gone.

        Memoryviews keep that array, other arrays made of it do not: numpy lets them look at `whole`.
        """
        lent = whole[:size]
        weakref.finalize(lent, self.give_back, whole).atexit = False
        return lent


def join(parts: Sequence[AnyPart], rows: int, memory: Memory | None = None) -> Joined:
    """Put the cells of all parts row by row one after the other."""
    columns = list(_side_by_side(parts))
    last = _last_to_write(columns)
    first = 0 if last is None else last + 1
    before, widths = _widths(columns, rows, first)
    offsets = np.zeros(rows + 1, np.int64)
    np.cumsum(widths, out=offsets[1:])
    excess = max((part.excess for part in columns), default=0)
    room = excess if last is None else 0
    size = int(offsets[-1]) + rows * room + excess
    if size > _MOST_BYTES:
        raise Refused("makes rows of more than 2 GiB together")
    if not offsets[-1]:
        return Joined(offsets, b"")
    begins = offsets[:-1] + np.arange(0, rows * room, room) if room else offsets[:-1]
    memory = memory or Memory()
    taken = memory.take(size)
    loose = taken[:size]
    _copy_all(columns[first:], begins + before, loose)
    _copy_all(columns[:first], begins.copy(), loose)
    if room:
        data = _together(loose, begins, begins + widths)
        memory.give_back(taken)
        return Joined(offsets, data)
    return Joined(offsets, memory.lend(taken, int(offsets[-1])))


def _widths(columns: Sequence[Part], rows: int, first: int) -> tuple[Numbers, Numbers]:
    """Give how wide each row is in front of the column `first`, and in all."""
    most = sum(part.most for part in columns)
    widths: Numbers = np.zeros(rows, np.int32 if most <= _MOST_BYTES else np.int64)
    for part in columns[:first]:
        widths += part.widths
    before = widths.copy()
    for part in columns[first:]:
        widths += part.widths
    return before, widths


def _copy_all(columns: Sequence[Part], places: Numbers, target: Numbers) -> None:
    """Copy columns side by side, the first to `places`, which move on to where the last ends."""
    for part in columns:
        _copy(part, places, target)
        places += part.widths


def _last_to_write(columns: Sequence[Part]) -> int | None:
    """Choose the first column without excess, if what others write too much ends within it.

    Of the columns before it in the same row, of those behind it in the next row.
    """
    last = next((place for place, column in enumerate(columns) if not column.excess), None)
    if last is None:
        return None
    to_its_end = 0
    for column in reversed(columns[: last + 1]):
        if column.excess > to_its_end:
            return None
        to_its_end += column.least
    for column in reversed(columns[last + 1 :]):
        if column.excess > to_its_end:
            return None
        to_its_end += column.least
    return last


def _side_by_side(parts: Iterable[AnyPart]) -> Iterator[Part]:
    waiting: Chosen | None = None
    for part in parts:
        if isinstance(part, Part):
            if waiting is not None:
                yield _looked_up(waiting)
            yield part
            waiting = None
        elif waiting is None:
            waiting = part
        elif len(waiting.cells) * len(part.cells) <= _MOST_COMBINATIONS:
            places = waiting.places * np.uint8(len(part.cells)) + part.places
            waiting = Chosen(_combined(waiting.cells, part.cells), places)
        else:
            yield _looked_up(waiting)
            waiting = part
    if waiting is not None:
        yield _looked_up(waiting)


def _looked_up(chosen: Chosen) -> Part:
    cells, widths = _table(chosen.cells)
    rows, width = len(chosen.places), cells.itemsize
    return Part(
        cells.take(chosen.places).view(np.uint8).reshape(rows, width),
        None,
        widths.take(chosen.places),
        min(map(len, chosen.cells)),
        width,
    )


@lru_cache(maxsize=256)
def _combined(some: tuple[bytes, ...], others: tuple[bytes, ...]) -> tuple[bytes, ...]:
    return tuple(one + other for one in some for other in others)


@lru_cache(maxsize=256)
def _table(cells: tuple[bytes, ...]) -> tuple[Numbers, Numbers]:
    """Give cells as items of one width, and how much of each is the cell."""
    longest = max(map(len, cells))
    width = next((fast for fast in (8, 16, 32) if longest <= fast), longest)  # for numpy's `take`
    padded = b"".join(cell.ljust(width, b"\0") for cell in cells)
    return np.frombuffer(padded, f"V{width}"), np.array([*map(len, cells)], np.int32)


def _copy(part: Part, places: Numbers, target: Numbers) -> None:
    if part.begins is None or part.heads:
        if part.most:
            items(target, part.most)[places] = _cells(part)
    else:
        _copy_pieces(part.source, part.begins, np.asarray(part.widths), places, target)


def _cells(part: Part) -> Numbers:
    """Give the cells as items that all are as wide as the widest."""
    source, begins, most, heads = part.source, part.begins, part.most, part.heads
    if begins is not None:
        cells = items(source, most)[begins]
        matrix = cells.view(np.uint8).reshape(len(cells), most)
    elif not heads:
        return source[:, :most].view(f"V{most}")[:, 0]
    else:
        matrix = np.empty((len(source), most), np.uint8)
        cells = matrix.view(f"V{most}")[:, 0]
        if width := most - len(heads):
            matrix[:, len(heads) :].view(f"V{width}")[:] = source[:, :width].view(f"V{width}")
    for place, head in enumerate(heads):
        matrix[:, place] = head
    return cells


def _copy_pieces(
    source: Numbers, begins: Numbers, widths: Numbers, places: Numbers, target: Numbers
) -> None:
    done, widest = 0, int(widths.max(initial=0))
    for most in _PIECES:
        if widest <= done:
            return
        if done:
            longer = np.flatnonzero(widths > done)
            begins, places, widths = begins[longer], places[longer], widths[longer]
        piece = min(most, widest - done)
        short = int(begins.max()) + done + piece - len(source)
        if short > 0:  # what is read too much must be there
            source = np.concatenate([source, np.zeros(short, np.uint8)])
        items(target, piece)[places + done] = items(source, piece)[begins + done]
        done += piece
    for row in np.flatnonzero(widths > done):
        begin, place, rest = int(begins[row]) + done, int(places[row]) + done, widths[row] - done
        target[place : place + rest] = source[begin : begin + rest]


def items(data: Numbers, width: int) -> Numbers:
    """Look at bytes as items of `width` bytes that begin at every byte."""
    return np.ndarray((len(data) - width + 1,), f"V{width}", data, 0, (1,))


def _together(loose: Numbers, begins: Numbers, ends: Numbers) -> Any:
    """Give the rows, which have room between them, without it."""
    bounds = np.empty(2 * len(begins) + 1, np.int32)
    bounds[0:-1:2], bounds[1::2], bounds[-1] = begins, ends, len(loose)
    rows = pa.Array.from_buffers(
        pa.binary(), len(bounds) - 1, [None, pa.py_buffer(bounds), pa.py_buffer(loose)]
    )
    chosen = pa.array(np.arange(0, len(bounds) - 1, 2, dtype=np.int32))
    return pc.take(rows, chosen, boundscheck=False).buffers()[2]
