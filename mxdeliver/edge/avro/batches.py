"""Batches of any size to chunks of a given number of rows, as few copies as that takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

_LARGEST_CHUNK = 4 << 20  # bytes of Arrow: what is encoded at once is held several times over
_LARGEST_BATCH = 4 * _LARGEST_CHUNK  # within it rows are taken to have one size: asking takes time


class Chunks:
    """Collects record batches and hands them on in chunks of `rows` rows, or fewer large ones.

    Where a batch has twice as many, and they are small, two chunks' rows are handed on in one.
    """

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._waiting: list[Any] = []
        self._count = 0
        self._size = 0.0

    def add(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        """Take a batch; give the chunks that are full."""
        if self._waiting and not self._waiting[0].schema.equals(batch.schema):
            yield from self.rest()
        for part, row_size in self._parts(batch):
            yield from self._add(part, row_size)

    def _parts(self, batch: pa.RecordBatch) -> Iterator[tuple[pa.RecordBatch, float]]:
        """Give the batch, or parts of it that are not too large, and the bytes of a row of each."""
        if not _has_dictionary(batch):
            most = batch.get_total_buffer_size()  # told at once; too much for a slice
            if most < _LARGEST_BATCH and most * self._rows < _LARGEST_CHUNK * batch.num_rows:
                yield batch, most / batch.num_rows
                return
        for part, size in _halved(batch, _LARGEST_BATCH):
            yield part, size / max(part.num_rows, 1)

    def _add(self, batch: pa.RecordBatch, row_size: float) -> Iterator[pa.RecordBatch]:
        start, twice = 0, 2 * self._rows
        while start < batch.num_rows:
            room = self._rows - self._count
            is_whole = not self._waiting and batch.num_rows - start >= twice
            if is_whole and twice * row_size < _LARGEST_CHUNK:
                room = twice
            piece = batch.slice(start, room)
            self._waiting.append(piece)
            self._count += piece.num_rows
            self._size += piece.num_rows * row_size
            start += piece.num_rows
            if self._count >= self._rows or self._size >= _LARGEST_CHUNK:
                yield from self.rest()

    def rest(self) -> Iterator[pa.RecordBatch]:
        """Give what waits, however little."""
        waiting, size = self._waiting, self._size
        self._waiting, self._count, self._size = [], 0, 0.0
        if size < _LARGEST_CHUNK:
            if len(waiting) > 1:
                waiting = pa.Table.from_batches(waiting).combine_chunks().to_batches()
            yield from waiting
            return
        for piece in waiting:
            for part, _ in _halved(piece, _LARGEST_CHUNK):
                yield part


def _halved(batch: pa.RecordBatch, limit: int) -> Iterator[tuple[pa.RecordBatch, int]]:
    """Give the batch, or parts of it of fewer than `limit` bytes or one row, and their sizes."""
    size = _size(batch)
    if batch.num_rows < 2 or size < limit:
        yield batch, size
        return
    half = batch.num_rows // 2
    yield from _halved(batch.slice(0, half), limit)
    yield from _halved(batch.slice(half), limit)


def _size(batch: pa.RecordBatch) -> int:
    if not _has_dictionary(batch):
        return int(batch.nbytes)
    return sum(_column_size(column) for column in batch.columns)


def _has_dictionary(batch: pa.RecordBatch) -> bool:
    return any(pa.types.is_dictionary(arrow) for arrow in batch.schema.types)


def _column_size(column: Any) -> int:
    """Give at least the bytes that a column's rows take once dictionaries are written out."""
    if not pa.types.is_dictionary(column.type):
        return int(column.nbytes)
    values = column.dictionary
    if not len(values):
        return 0
    if pa.types.is_string(values.type) or pa.types.is_binary(values.type):
        return len(column) * int(pc.max(pc.binary_length(values)).as_py() or 0)
    return len(column) * int(values.nbytes // len(values) + 1)
