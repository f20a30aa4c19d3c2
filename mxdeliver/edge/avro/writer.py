"""Record batches to the bytes of a container file, column by column.

The path of a batch: cut or joined to 4,096 rows, normalised (`values`), encoded (`cells`), cut into
blocks by rows alone, compressed, framed, passed on, and by sample read again (`check`). The same
rows give the same bytes, however the source batched them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pyarrow as pa
from isal import isal_zlib

from mxdeliver.core.errors import AvroVerify, RecordInvalid
from mxdeliver.core.model import Codec, Resource, Verification
from mxdeliver.core.streams import Buffer, Sink
from mxdeliver.edge.avro import cells
from mxdeliver.edge.avro.batches import Chunks
from mxdeliver.edge.avro.check import BlockCheck, Segment
from mxdeliver.edge.avro.container import decode_long, encode_long, header
from mxdeliver.edge.avro.refusal import Refused
from mxdeliver.edge.avro.scatter import join
from mxdeliver.edge.avro.schemas import record_type
from mxdeliver.edge.avro.values import normalise

BLOCK_ROWS = 4096
BLOCK_BYTES = 4 << 20
_SAMPLE_EVERY = 64
_COMPRESS: dict[Codec, Callable[[Buffer], Buffer]] = {
    Codec.NULL: lambda body: body,
    Codec.DEFLATE: lambda body: isal_zlib.compress(body, level=1, wbits=-15),
}


class _Encoded(NamedTuple):
    """Segment of one chunk: normalised, encoded, and where each row ends in the encoded bytes."""

    batch: Any
    offsets: Any
    data: memoryview


class ContainerWriter:
    """Writes one container file to `sink`: header, blocks of records, nothing else.

    `write` and `finish` raise RecordInvalid (naming the column, never a value) and AvroVerify. The
    header goes out with the first call of either.
    """

    def __init__(
        self,
        resource: Resource,
        sink: Sink,
        *,
        codec: Codec,
        sync_marker: bytes,
        verification: Verification,
    ) -> None:
        self._resource = resource
        self._sink = sink
        self._marker = sync_marker
        self._codec = codec
        self._full = verification is Verification.FULL
        self._check = BlockCheck(resource, codec, sync_marker)
        self._compress = _COMPRESS[codec]
        self._chunks = Chunks(BLOCK_ROWS)
        self._open = False
        self._rows_in = 0
        self._rows_out = 0
        self._blocks = 0
        self._segments: list[Segment] = []
        self._room = (BLOCK_ROWS, BLOCK_BYTES)
        self._unchecked: tuple[bytes, list[Segment]] | None = None

    def write(self, batch: pa.RecordBatch) -> None:
        """Take rows with exactly the resource's columns, in its order."""
        self._begin()
        self._rows_in += batch.num_rows
        names = [field.name for field in self._resource.fields]
        if batch.schema.names != names:
            self._refuse_columns(batch.schema.names, names)
        for chunk in self._chunks.add(batch):
            self._add(self._encode(chunk))

    def finish(self) -> int:
        """Write what waits; give the number of records by the blocks' headers."""
        self._begin()
        for chunk in self._chunks.rest():
            self._add(self._encode(chunk))
        if self._segments:
            self._cut()
        if self._unchecked is not None:
            self._check.compare(*self._unchecked, every_row=self._full)
            self._unchecked = None
        if self._rows_out != self._rows_in:
            raise AvroVerify(
                f"{self._resource.name}: {self._rows_in} records came in, "
                f"the blocks' headers count {self._rows_out}"
            )
        return self._rows_out

    def _begin(self) -> None:
        if not self._open:
            self._open = True
            self._sink(header(self._resource.schema, self._codec, self._marker))

    def _refuse_columns(self, given: list[str], wanted: list[str]) -> None:
        for name in wanted:
            if name not in given:
                raise RecordInvalid(f"{self._resource.name}: column {name} is missing")
        for name in given:
            if name not in wanted:
                raise RecordInvalid(f"{self._resource.name}: column {name} is not in the schema")
        raise RecordInvalid(f"{self._resource.name}: the columns are not in the schema's order")

    def _encode(self, chunk: pa.RecordBatch) -> _Encoded:
        normalised, parts = [], []
        for member, column in zip(
            record_type(self._resource.schema).members, chunk.columns, strict=True
        ):
            try:
                normalised.append(normalise(member.type, column))
                parts += cells.parts(member.type, normalised[-1])
            except Refused as error:
                raise RecordInvalid(
                    f"{self._resource.name}: column {member.name} {error}"
                ) from error
            except pa.ArrowException:  # its text may show values
                raise RecordInvalid(
                    f"{self._resource.name}: column {member.name} cannot be encoded"
                ) from None
        try:
            joined = join(parts, chunk.num_rows)
        except Refused as error:
            raise RecordInvalid(f"{self._resource.name}: a record {error}") from error
        names = [field.name for field in self._resource.fields]
        return _Encoded(
            pa.RecordBatch.from_arrays(normalised, names),
            joined.offsets,
            memoryview(joined.data),
        )

    def _add(self, encoded: _Encoded) -> None:
        """Fill the block under way, cutting it wherever it is full; a longer row stands alone."""
        offsets, start, rows = encoded.offsets, 0, encoded.batch.num_rows
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
            self._segments.append(Segment(encoded.batch, offsets, encoded.data, start, stop))
            self._room = (room_rows - (stop - start), room_bytes - int(offsets[stop]) + begin)
            start = stop
            if self._room[0] <= 0 or self._room[1] <= 0:
                self._cut()

    def _cut(self) -> None:
        """Send the block under way, and read it again if it is its turn."""
        segments = self._segments
        self._segments, self._room = [], (BLOCK_ROWS, BLOCK_BYTES)
        pieces = [segment.encoded for segment in segments]
        body = self._compress(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        count = sum(segment.rows for segment in segments)
        block = b"".join((encode_long(count), encode_long(len(body)), body, self._marker))
        self._sink(block)
        self._rows_out += decode_long(block, 0)[0]
        if self._full or self._blocks % _SAMPLE_EVERY == 0:
            self._check.compare(block, segments, every_row=self._full)
            self._unchecked = None
        else:
            self._unchecked = (block, segments)  # it may be the last one
        self._blocks += 1
