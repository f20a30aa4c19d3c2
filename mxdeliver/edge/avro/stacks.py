"""Columns of one type one below the other: what a call costs is paid once for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import pyarrow as pa

from mxdeliver.edge.avro import texts
from mxdeliver.edge.avro.avro_types import AvroType
from mxdeliver.edge.avro.schemas import record_type
from mxdeliver.edge.avro.values import normalise, plain

_FEW_ROWS = 1024
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

    def __init__(self, schema: str, first: pa.RecordBatch) -> None:
        self.schema = first.schema
        self._kinds, firsts = _kinds(schema)
        numbers: dict[object, int] = {}
        self._alike = [
            numbers.setdefault((firsts[place], column.type), place) if _is_short(column) else place
            for place, column in enumerate(first.columns)
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


class Rows:
    """A batch of which a few rows will be asked for, normalised.

    A small one is kept as it was normalised, of a large one these rows are normalised once more:
    for a small file asking takes as long as encoding, and a large batch takes memory.
    """

    def __init__(self, stacks: Stacks, batch: pa.RecordBatch) -> None:
        self._stacks = stacks
        self._batch = batch
        self._kept: list[Stack] = []

    def keep(self, stack: Stack, normalised: Any) -> None:
        """Keep columns of a small batch."""
        if self._batch.num_rows <= _FEW_ROWS:
            self._kept.append(stack._replace(column=normalised))

    def take(self, chosen: pa.Array) -> pa.RecordBatch:
        """Give rows by their numbers, which ascend."""
        if self._kept:
            rows = self._assembled(self._kept)
            return rows if len(chosen) == len(rows) else rows.take(chosen)
        columns = [plain(column).take(chosen) for column in self._batch.columns]
        taken = pa.RecordBatch.from_arrays(columns, self._batch.schema.names)
        return self._assembled(
            stack._replace(column=normalise(stack.kind, stack.column))
            for stack in self._stacks.of(taken)
        )

    def _assembled(self, stacks: Iterable[Stack]) -> pa.RecordBatch:
        columns: list[Any] = [None] * self._batch.num_columns
        for stack in stacks:
            for place, rows in zip(stack.places, stack.rows, strict=True):
                columns[place] = stack.column[rows]
        return pa.RecordBatch.from_arrays(columns, self._batch.schema.names)


@lru_cache(maxsize=256)
def _kinds(schema: str) -> tuple[Sequence[AvroType], Sequence[int]]:
    """Give the types of a record's fields, and for each the place of the first that is equal."""
    kinds = [member.type for member in record_type(schema).members]
    return kinds, [kinds.index(kind) for kind in kinds]


def _together(columns: Sequence[Any]) -> Any:
    if len(columns) == 1:
        return columns[0]
    if not pa.types.is_string(columns[0].type):
        return pa.concat_arrays(columns)
    before, behind = texts.ROOM
    return pa.concat_arrays([before, *columns, behind])[1:-1]


def _is_short(column: Any) -> bool:
    if pa.types.is_string(column.type):
        return bool(column.nbytes < _SHORT * len(column))
    return bool(pa.types.is_primitive(column.type))
