"""Record batches to the bytes of a container file, column by column.

The path of a batch: cut or joined to 4,096 rows (or twice as many), columns of one type put together
(`stacks`), normalised (`values`), encoded (`cells`), cut into blocks by rows alone, and, in a thread
of its own if there is one, compressed and passed on (`blocks`). The same rows give the same bytes,
however the source batched them.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Executor
from contextlib import suppress
from itertools import chain
from typing import Any, NamedTuple, Self

import pyarrow as pa

from mxdeliver.core.errors import RecordInvalid
from mxdeliver.core.model import Codec, Resource, Verification
from mxdeliver.core.streams import Behind, Sink
from mxdeliver.edge.avro import cells
from mxdeliver.edge.avro.batches import Chunks
from mxdeliver.edge.avro.blocks import BlockWriter
from mxdeliver.edge.avro.check import Segment
from mxdeliver.edge.avro.refusal import Refused
from mxdeliver.edge.avro.scatter import AnyPart, Memory, join
from mxdeliver.edge.avro.stacks import Rows, Stack, Stacks
from mxdeliver.edge.avro.values import normalise

BLOCK_ROWS = 4096
BLOCK_BYTES = 4 << 20
_BLOCKS_BEHIND = 1


class _Encoded(NamedTuple):
    """A chunk, encoded, and where each row ends in the encoded bytes."""

    rows: Rows
    offsets: Any
    data: memoryview


class ContainerWriter:
    """Writes one container file to `sink`: header, blocks of records, nothing else.

    `write` and `finish` raise RecordInvalid (naming the column, never a value) and AvroVerify. The
    header goes out with the first call of either. With a `worker`, which has one thread, blocks are
    compressed and passed on there; what is raised by that comes out of a later call, of `finish` at
    the latest. As a context manager it leaves nothing under way behind, however it is left.
    """

    def __init__(
        self,
        resource: Resource,
        sink: Sink,
        *,
        codec: Codec,
        sync_marker: bytes,
        verification: Verification,
        worker: Executor | None = None,
    ) -> None:
        self._resource = resource
        self._names = [field.name for field in resource.fields]
        self._blocks = BlockWriter(
            resource, sink, codec=codec, sync_marker=sync_marker, verification=verification
        )
        self._behind = Behind(worker, depth=_BLOCKS_BEHIND)
        self._chunks = Chunks(BLOCK_ROWS)
        self._encoding = Memory()
        self._open = False
        self._stacks: Stacks | None = None
        self._rows = 0
        self._segments: list[Segment] = []
        self._room = (BLOCK_ROWS, BLOCK_BYTES)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Let nothing more be passed on: the sink is the caller's again."""
        self._behind.abandon()

    def write(self, batch: pa.RecordBatch) -> None:
        """Take rows with exactly the resource's columns, in its order."""
        self._begin()
        self._rows += batch.num_rows
        if batch.schema.names != self._names:
            self._refuse_columns(batch.schema.names, self._names)
        for chunk in self._chunks.add(batch):
            self._add(self._encode(chunk))

    def finish(self) -> int:
        """Write what waits; give the number of records by the blocks' headers."""
        self._begin()
        for chunk in self._chunks.rest():
            self._add(self._encode(chunk))
        self._behind.drain()
        if self._segments:  # here: nothing more is to be encoded meanwhile
            self._blocks.write(self._segments)
        return self._blocks.finish(self._rows)

    def _begin(self) -> None:
        if not self._open:
            self._open = True
            self._blocks.begin()

    def _refuse_columns(self, given: list[str], wanted: list[str]) -> None:
        for name in wanted:
            if name not in given:
                raise RecordInvalid(f"{self._resource.name}: column {name} is missing")
        for name in given:
            if name not in wanted:
                raise RecordInvalid(f"{self._resource.name}: column {name} is not in the schema")
        raise RecordInvalid(f"{self._resource.name}: the columns are not in the schema's order")

    def _encode(self, chunk: pa.RecordBatch) -> _Encoded:
        if self._stacks is None or not self._stacks.schema.equals(chunk.schema):
            self._stacks = Stacks(self._resource.schema, chunk)
        # Which column of a stack is refused, and whether any is, shows once each is alone.
        with suppress(RecordInvalid, pa.ArrowException):
            return self._encode_stacks(chunk, self._stacks, self._stacks.of(chunk))
        return self._encode_stacks(chunk, self._stacks, self._stacks.apart(chunk))

    def _encode_stacks(
        self, chunk: pa.RecordBatch, kinds: Stacks, stacks: Iterable[Stack]
    ) -> _Encoded:
        rows = Rows(kinds, chunk)
        parts: list[list[AnyPart]] = [[]] * len(self._names)
        for stack in stacks:
            name = self._names[stack.places[0]]
            try:
                column = normalise(stack.kind, stack.column)
                encoded = cells.stacked_parts(stack.kind, column, stack.rows)
            except Refused as error:
                raise RecordInvalid(f"{self._resource.name}: column {name} {error}") from error
            except pa.ArrowException:  # its text may show values
                raise RecordInvalid(
                    f"{self._resource.name}: column {name} cannot be encoded"
                ) from None
            rows.keep(stack, column)
            for place, found in zip(stack.places, encoded, strict=True):
                parts[place] = found
        try:
            joined = join([*chain.from_iterable(parts)], chunk.num_rows, self._encoding)
        except Refused as error:
            raise RecordInvalid(f"{self._resource.name}: a record {error}") from error
        return _Encoded(rows, joined.offsets, memoryview(joined.data))

    def _add(self, encoded: _Encoded) -> None:
        """Fill the block under way, cutting it wherever it is full; a longer row stands alone."""
        offsets, start, rows = encoded.offsets, 0, len(encoded.offsets) - 1
        while start < rows:
            room_rows, room_bytes = self._room
            begin = int(offsets[start])
            stop = int(offsets.searchsorted(begin + room_bytes, side="right")) - 1
            stop = min(stop, start + room_rows, rows)
            if stop <= start:
                if self._segments:
                    self._cut()
                    continue
                stop = start + 1
            self._segments.append(Segment(encoded.rows, offsets, encoded.data, start, stop))
            self._room = (room_rows - (stop - start), room_bytes - int(offsets[stop]) + begin)
            start = stop
            if self._room[0] <= 0 or self._room[1] <= 0:
                self._cut()

    def _cut(self) -> None:
        """Hand over the block under way."""
        self._behind.call(self._blocks.write, self._segments)
        self._segments, self._room = [], (BLOCK_ROWS, BLOCK_BYTES)
