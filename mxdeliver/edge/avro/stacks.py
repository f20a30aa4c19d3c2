"""Columns of one type one below the other: what a call costs is paid once for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from mxdeliver.edge.avro import texts
from mxdeliver.edge.avro.avro_types import AvroType
from mxdeliver.edge.avro.schemas import record_type
from mxdeliver.edge.avro.values import normalise, plain

_FEW_ROWS = 1024
_SHORT = 32  # bytes in a row, on average: copying more costs as much as is saved
_LITTLE = 256 << 10  # bytes of a batch that cost next to nothing to copy


class Stack(NamedTuple):
    """Columns of a batch one below the other: their places in it, and their rows in the stack."""

    kind: AvroType
    column: Any
    places: Sequence[int]
    rows: Sequence[slice]

    def take(self, chosen: Sequence[int]) -> Stack:
        """Give the same columns with these of their rows."""
        starts = [rows.start or 0 for rows in self.rows]
        everywhere = np.add.outer(np.array(starts, np.int64), np.array(chosen, np.int64))
        count = len(chosen)
        return self._replace(
            column=self.column.take(pa.array(everywhere.ravel())),
            rows=[slice(n * count, (n + 1) * count) for n in range(len(starts))],
        )


class Stacks:
    """Puts columns of batches of one schema together that have the same types and are short.

    How short is seen in the first batch.
    """

    def __init__(self, schema: str, first: pa.RecordBatch) -> None:
        self.schema = first.schema
        self._kinds, firsts = _kinds(schema)
        is_little = first.nbytes <= _LITTLE
        numbers: dict[object, int] = {}
        self._alike = [
            numbers.setdefault((firsts[place], kind), place)
            if _is_stackable(kind) and (is_little or _is_short(first, place, kind))
            else place
            for place, kind in enumerate(self.schema.types)
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

    def records(self, chosen: Sequence[int]) -> list[dict[str, Any]]:
        """Give rows by their numbers, which ascend, each by the columns' names."""
        names = self._batch.schema.names
        columns: list[Sequence[Any]] = [()] * len(names)
        for stack in self._taken(chosen):
            values = stack.column.to_pylist()
            for place, rows in zip(stack.places, stack.rows, strict=True):
                columns[place] = values[rows]
        return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]

    def _taken(self, chosen: Sequence[int]) -> Iterable[Stack]:
        if self._kept:
            if len(chosen) == self._batch.num_rows:
                return self._kept
            return [stack.take(chosen) for stack in self._kept]
        places = pa.array(chosen, pa.int64())
        columns = [plain(column).take(places) for column in self._batch.columns]
        taken = pa.RecordBatch.from_arrays(columns, self._batch.schema.names)
        return [
            stack._replace(column=normalise(stack.kind, stack.column))
            for stack in self._stacks.of(taken)
        ]


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


def _is_stackable(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_primitive(kind))


def _is_short(batch: pa.RecordBatch, place: int, kind: pa.DataType) -> bool:
    if not pa.types.is_string(kind):
        return True
    return bool(batch.column(place).nbytes < _SHORT * batch.num_rows)
