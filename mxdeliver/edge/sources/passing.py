"""Rows that lie in the order of their times already: ordered as they pass, without a sort of all.

What is only ever appended to lies so. Within one second its rows come in any order, so a few thousand
rows at a time are held and sorted; the order is the one that `queries` describes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mxdeliver.core.errors import SourceIncomplete, SourceMemory

KEY, TIE, SECOND = "(key)", "(tie)", "(second)"
"""Columns beside the schema's, under names that no Avro field can have."""
_HEAVY = 4
"""So many times what is to wait are too much: a second with wide rows, or a batch of them."""


def keeps_order(plan: str) -> bool:
    """Tell whether DuckDB's plan (the JSON of EXPLAIN) is one scan, filtered and projected.

    Then rows come in the order they lie in, whichever of their columns are asked for. A join may begin
    with the other side when more columns are asked for, and where rows are grouped any order is new.
    """
    (node,) = json.loads(plan)
    while len(node["children"]) == 1 and node["name"].strip() in {"PROJECTION", "FILTER"}:
        (node,) = node["children"]
    return not node["children"]


def lie_in_order(batches: Iterable[pa.RecordBatch], *, most_rows: int) -> bool:
    """Tell whether SECOND never goes back, and no second has more than `most_rows` rows."""
    last, rows_of_last = None, 0
    for batch in batches:
        seconds = np.asarray(batch.column(SECOND))
        if not len(seconds):
            continue
        steps = np.diff(seconds)
        if (steps < 0).any() or (last is not None and seconds[0] < last):
            return False
        rows = np.diff(np.flatnonzero(steps) + 1, prepend=0, append=len(seconds))
        rows[0] += rows_of_last if seconds[0] == last else 0
        if rows.max() > most_rows:
            return False
        last, rows_of_last = seconds[-1], rows[-1]
    return True


class InOrder:
    """Rows by KEY and TIE without these columns, `rows` at a time, or some `size` bytes; iterate once.

    It ends early where memory runs out or rows turn out heavy: `rest` is then the second with which
    those begin that are still to come, else None. Raises SourceIncomplete where SECOND goes back after
    all. What is held is a batch that came in, one that goes out, and the rows of the last second.
    """

    def __init__(
        self, batches: Iterator[pa.RecordBatch], *, start: int, rows: int, size: int, where: str
    ) -> None:
        self.rest: int | None = start
        self._batches = batches
        self._rows = rows
        self._size = size
        self._where = where

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows."""
        rows, size = self._rows, self._size
        waiting: list[pa.RecordBatch] = []
        count = weight = 0  # of what waits
        passed = 0  # rows of its first second that are out already
        heavy = False
        while not heavy and (batch := self._next()) is not None:
            waiting.append(batch)
            count += batch.num_rows
            weight += batch.get_total_buffer_size()
            heavy = weight >= _HEAVY * size
            if (count - passed <= rows and weight < size) or heavy:
                continue
            together = pa.concat_batches(waiting)
            held = together.num_rows
            seconds = self._seconds(together)
            settled = int(seconds.searchsorted(seconds[-1]))  # of the last second more may come
            if settled - passed >= rows or (settled and weight >= size):
                end = min(passed + rows, settled)
                yield _taken(together, _places(together.slice(0, settled))[passed:end])
                begin = int(seconds.searchsorted(seconds[end]))
                together, passed = together.slice(begin), end - begin
            waiting, count = [together], together.num_rows
            weight = weight * count // held
        if waiting:
            together = pa.concat_batches(waiting)
            seconds = self._seconds(together)
            settled = len(seconds)
            if self.rest is not None:
                self.rest = int(seconds[-1])
                settled = int(seconds.searchsorted(self.rest))
            places = _places(together.slice(0, settled))
            most = max(1, min(rows, rows * size // weight))
            for start in range(passed, settled, most):
                yield _taken(together, places[start : min(start + most, settled)])

    def _next(self) -> pa.RecordBatch | None:
        try:
            batch = next(self._batches, None)
        except SourceMemory:
            return None
        if batch is None:
            self.rest = None
        return batch

    def _seconds(self, batch: pa.RecordBatch) -> np.ndarray[Any, Any]:
        seconds = np.asarray(batch.column(SECOND))
        if (seconds[1:] < seconds[:-1]).any():
            raise SourceIncomplete(
                f"{self._where}: its rows came in another order than they lay in before"
            )
        return seconds


def _places(batch: pa.RecordBatch) -> Any:
    """Give the rows' places in their order."""
    keys = pa.table([batch.column(KEY), batch.column(TIE)], names=[KEY, TIE])
    return pc.sort_indices(keys, sort_keys=[(KEY, "ascending"), (TIE, "ascending")])


def _taken(batch: pa.RecordBatch, places: Any) -> pa.RecordBatch:
    return pc.take(batch.drop_columns([KEY, TIE, SECOND]), places, boundscheck=False)
