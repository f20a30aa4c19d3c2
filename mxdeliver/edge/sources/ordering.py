"""The rows of one slice, in order: by their key, which DuckDB makes, and where it is equal by a hash.

DuckDB could sort them, too. But its sort makes rows of all columns and columns of all rows again, at
twice the cost of reading them; here only the key is sorted, and the columns are gathered once. The
memory is the system's, which takes back what is freed: the pools of Arrow keep it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

KEY = "(key)"
TIE = "(tie)"
"""Columns beside the schema's, under names that no Avro field can have."""


class Rows:
    """All rows of a slice, which have `size` bytes. `in_order` gives them; not while some share a key and have no TIE."""

    def __init__(self, batches: Sequence[pa.RecordBatch], size: int) -> None:
        self.size = size
        pool = pa.system_memory_pool()
        together = batches[0] if len(batches) == 1 else pa.concat_batches(batches, memory_pool=pool)
        self.count = together.num_rows
        keys = [name for name in (KEY, TIE) if name in together.schema.names]
        sorting = pa.table([together.column(name) for name in keys], names=keys)
        self._order = pc.sort_indices(
            sorting, sort_keys=[(name, "ascending") for name in keys], memory_pool=pool
        )
        self.needs_tie = TIE not in keys and _has_equals(sorting.column(KEY), self._order)
        self._batch = together.select(
            [name for name in together.schema.names if name not in {KEY, TIE}]
        )

    def in_order(self, batch_rows: int) -> Iterator[pa.RecordBatch]:
        """Yield the rows without their keys, `batch_rows` at a time."""
        places = np.asarray(self._order)
        is_ordered = bool((places == np.arange(len(places), dtype=places.dtype)).all())
        for start in range(0, len(places), batch_rows):
            if is_ordered:
                yield self._batch.slice(start, batch_rows)
            else:
                chosen = self._order.slice(start, batch_rows)
                yield pc.take(
                    self._batch, chosen, boundscheck=False, memory_pool=pa.system_memory_pool()
                )


def _has_equals(keys: Any, order: Any) -> bool:
    ordered = pc.take(keys.combine_chunks(), order, boundscheck=False)
    return bool(pc.any(pc.equal(ordered[1:], ordered[:-1]), min_count=0).as_py())
