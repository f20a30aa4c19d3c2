"""Columns of cells to rows: every cell copied to its place, one column at a time.

numpy copies items of one width fast, and cells have any width. So each is copied as wide as the
widest of its column (or piece by piece, if that is wide). What a cell writes too much is written
over by the next columns, which come later. What a row's last cells write too much lies in the next
row's first cells; so these come last, and of them one that has nothing too much (most records begin
with a guid). Where there is no such column, there is room behind each row, and at the end the rows
are moved together. This takes about half the time of Arrow's `take` of all cells in the rows' order.
"""

from __future__ import annotations

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


class Part(NamedTuple):
    """One cell for each row: `widths` bytes (of each row, or of all) of `source`.

    They begin at `begins`, or each at the begin of a row of `source`, which is then a matrix.
    """

    source: Numbers
    begins: Numbers | None
    widths: Numbers | int


class Chosen(NamedTuple):
    """One cell for each row of a few short ones: row i has `cells[places[i]]`.

    `places` are uint8. Such parts are cheap side by side: up to 256 combinations become one part.
    """

    cells: tuple[bytes, ...]
    places: Numbers


AnyPart: TypeAlias = Part | Chosen


class Joined(NamedTuple):
    """Encoded rows: where each begins in `data`, and where the last ends."""

    offsets: Numbers
    data: Any


def join(parts: Sequence[AnyPart], rows: int) -> Joined:
    """Put the cells of all parts row by row one after the other."""
    columns = [_Column(part) for part in _side_by_side(parts)]
    widths = np.zeros(rows, np.int64)
    for column in columns:
        widths += column.part.widths
    offsets = np.zeros(rows + 1, np.int64)
    np.cumsum(widths, out=offsets[1:])
    last = _last_to_write(columns)
    excess = max((column.excess for column in columns), default=0)
    room = excess if last is None else 0
    if offsets[-1] + rows * room + excess > _MOST_BYTES:
        raise Refused("makes rows of more than 2 GiB together")
    if not offsets[-1]:
        return Joined(offsets, b"")
    begins = offsets[:-1] + np.arange(0, rows * room, room) if room else offsets[:-1]
    loose = np.empty(int(offsets[-1]) + rows * room + excess, np.uint8)
    ends = _copy_all([column.part for column in columns], begins, loose, last)
    if room:
        return Joined(offsets, _together(loose, begins, ends))
    return Joined(offsets, loose[: int(offsets[-1])])


def _copy_all(
    columns: Sequence[Part], begins: Numbers, target: Numbers, last: int | None
) -> Numbers:
    """Copy the columns behind `last`, then those before it and itself; give where the rows end."""
    places, held = begins.copy(), []
    for number, part in enumerate(columns):
        if last is not None and number <= last:
            held.append((part, places.copy()))
        else:
            _copy(part, places, target)
        places += part.widths
    for part, own_places in held:
        _copy(part, own_places, target)
    return places


class _Column:
    """A part, its least width, and the most bytes that one of its cells writes too much."""

    __slots__ = ("excess", "least", "part")

    def __init__(self, part: Part) -> None:
        self.part = part
        widths = part.widths
        self.least = widths if isinstance(widths, int) else int(np.min(widths, initial=_MOST_BYTES))
        if part.begins is None:
            self.excess = int(part.source.shape[1]) - self.least
        else:
            widest = int(np.max(widths, initial=0))
            self.excess = widest if widest <= _PIECES[0] else min(widest, max(_PIECES))


def _last_to_write(columns: Sequence[_Column]) -> int | None:
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
            cells = tuple(one + other for one in waiting.cells for other in part.cells)
            places = waiting.places * np.uint8(len(part.cells)) + part.places
            waiting = Chosen(cells, places)
        else:
            yield _looked_up(waiting)
            waiting = part
    if waiting is not None:
        yield _looked_up(waiting)


def _looked_up(chosen: Chosen) -> Part:
    cells, widths = _table(chosen.cells)
    return Part(
        cells[chosen.places].view(np.uint8).reshape(len(chosen.places), cells.itemsize),
        None,
        widths[chosen.places],
    )


@lru_cache(maxsize=256)
def _table(cells: tuple[bytes, ...]) -> tuple[Numbers, Numbers]:
    """Give cells as items of one width, and how much of each is the cell."""
    width = max(8, *map(len, cells))  # numpy is fast with items of eight bytes
    padded = b"".join(cell.ljust(width, b"\0") for cell in cells)
    return np.frombuffer(padded, f"V{width}"), np.array([*map(len, cells)], np.int64)


def _copy(part: Part, places: Numbers, target: Numbers) -> None:
    if part.begins is None:
        width = part.source.shape[1]
        if width:
            items(target, width)[places] = part.source.view(f"V{width}")[:, 0]
    else:
        _copy_pieces(part.source, part.begins, np.asarray(part.widths), places, target)


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
