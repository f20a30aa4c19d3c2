"""Columns of one type one below the other: what a call costs is paid once for all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from mxdeliver.edge.avro import texts
from mxdeliver.edge.avro.avro_types import AvroType, Primitive, Union

_SHORT = 32  # bytes in a row, on average: copying more costs as much as is saved


class Stack(NamedTuple):
    """Columns of a batch one below the other: their places in it, and their rows in the stack."""

    kind: AvroType
    column: Any
    places: Sequence[int]
    rows: Sequence[slice]


class Stacks:
    """Puts columns of batches of one schema together that have the same types and are short.

    How short is seen in the first batch.
    """

    def __init__(self, kinds: Sequence[AvroType], first: pa.RecordBatch) -> None:
        self.schema = first.schema
        self._kinds = kinds
        numbers: dict[object, int] = {}
        self._alike = [
            numbers.setdefault((kind, column.type) if _is_stackable(kind, column) else place, place)
            for place, (kind, column) in enumerate(zip(kinds, first.columns, strict=True))
        ]

    def of(self, batch: pa.RecordBatch) -> Iterator[Stack]:
        """Give all columns in stacks, of which none has both columns with gaps and without."""
        batch.validate()  # Arrow believes the ends of texts while it copies them
        columns, rows = batch.columns, batch.num_rows
        together: dict[object, list[int]] = {}
        for place, (column, alike) in enumerate(zip(columns, self._alike, strict=True)):
            nulls = column.null_count
            key = (alike, nulls > 0) if nulls < rows else place
            together.setdefault(key, []).append(place)
        for places in together.values():
            stretches = [slice(n * rows, (n + 1) * rows) for n in range(len(places))]
            column = _together([columns[place] for place in places])
            yield Stack(self._kinds[places[0]], column, places, stretches)

    def apart(self, batch: pa.RecordBatch) -> Iterator[Stack]:
        """Give each column alone."""
        for place, (kind, column) in enumerate(zip(self._kinds, batch.columns, strict=True)):
            yield Stack(kind, column, (place,), (slice(None),))


def _together(columns: Sequence[Any]) -> Any:
    if len(columns) == 1:
        return columns[0]
    if not pa.types.is_string(columns[0].type):
        return pa.concat_arrays(columns)
    before, behind = texts.ROOM
    return pa.concat_arrays([before, *columns, behind])[1:-1]


def _is_stackable(kind: AvroType, column: Any) -> bool:
    inner = kind.inner if isinstance(kind, Union) else kind
    is_flat = pa.types.is_primitive(column.type) or pa.types.is_string(column.type)
    return is_flat and isinstance(inner, Primitive) and column.nbytes < _SHORT * len(column)
