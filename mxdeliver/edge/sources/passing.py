"""Rows that lie in the order of their times already: ordered as they pass, without a sort of all.

What is only ever appended to lies so. Within one second its rows come in any order, so a few thousand
rows at a time are held and sorted; the order is the one that `queries` describes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mxdeliver.core.errors import SourceIncomplete

KEY, TIE, SECOND = "(key)", "(tie)", "(second)"
"""Columns beside the schema's, under names that no Avro field can have."""


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


def in_order(
    batches: Iterable[pa.RecordBatch], *, rows: int, size: int, where: str
) -> Iterator[pa.RecordBatch]:
    """Yield rows by KEY and TIE without these columns, `rows` at a time, or some `size` bytes.

    Raises SourceIncomplete where SECOND goes back after all. Besides a batch of each kind, what is
    held is one second's rows.
    """
    waiting: list[pa.RecordBatch] = []
    count = weight = passed = 0  # of what waits; of its first second, `passed` rows are out already
    for batch in batches:
        waiting.append(batch)
        count += batch.num_rows
        weight += batch.get_total_buffer_size()
        if count - passed <= rows and weight < size:
            continue
        together = pa.concat_batches(waiting)
        held = together.num_rows
        seconds = _seconds(together, where)
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
        _seconds(together, where)
        places = _places(together)
        for start in range(passed, len(places), rows):
            yield _taken(together, places[start : start + rows])


def _seconds(batch: pa.RecordBatch, where: str) -> np.ndarray[Any, Any]:
    seconds = np.asarray(batch.column(SECOND))
    if (seconds[1:] < seconds[:-1]).any():
        raise SourceIncomplete(f"{where}: its rows came in another order than they lay in before")
    return seconds


def _places(batch: pa.RecordBatch) -> Any:
    """Give the rows' places in their order."""
    keys = pa.table([batch.column(KEY), batch.column(TIE)], names=[KEY, TIE])
    return pc.sort_indices(keys, sort_keys=[(KEY, "ascending"), (TIE, "ascending")])


def _taken(batch: pa.RecordBatch, places: Any) -> pa.RecordBatch:
    return pc.take(batch.drop_columns([KEY, TIE, SECOND]), places, boundscheck=False)
