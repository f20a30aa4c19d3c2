"""Encoded rows to the bytes of a container file: compressed, framed, passed on, and read again.

By sample, or all of it, what went to the sink is read by other implementations (`check`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from isal import isal_zlib

from mxdeliver.core.errors import AvroVerify
from mxdeliver.core.model import Codec, Resource, Verification
from mxdeliver.core.streams import Buffer, Sink
from mxdeliver.edge.avro.check import BlockCheck, Segment
from mxdeliver.edge.avro.container import decode_long, encode_long, header

_SAMPLE_EVERY = 64
_COMPRESS: dict[Codec, Callable[[Buffer], Buffer]] = {
    Codec.NULL: lambda body: body,
    Codec.DEFLATE: lambda body: isal_zlib.compress(body, level=1, wbits=-15),
}


class BlockWriter:
    """Writes the header and then blocks to `sink`; AvroVerify where one does not hold its records."""

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
        self._compress = _COMPRESS[codec]
        self._check = BlockCheck(resource, codec, sync_marker)
        self._full = verification is Verification.FULL
        self._rows = 0
        self._blocks = 0
        self._unchecked: tuple[Sequence[Buffer], Sequence[Segment]] | None = None

    def begin(self) -> None:
        """Write the file's header."""
        self._sink(header(self._resource.schema, self._codec, self._marker))

    def write(self, segments: Sequence[Segment]) -> None:
        """Write one block, and read it again if it is its turn."""
        encoded = [segment.encoded for segment in segments]
        body = self._compress(encoded[0] if len(encoded) == 1 else b"".join(encoded))
        count = sum(segment.rows for segment in segments)
        block = (encode_long(count) + encode_long(len(body)), body, self._marker)
        for piece in block:
            self._sink(piece)
        self._rows += decode_long(block[0], 0)[0]
        self._unchecked = (block, segments)
        if self._full or self._blocks % _SAMPLE_EVERY == 0:
            self._check_again()
        self._blocks += 1

    def finish(self, rows: int) -> int:
        """Read the last block again; give the number of records by the headers, which must be `rows`."""
        self._check_again()  # the last one
        if self._rows != rows:
            raise AvroVerify(
                f"{self._resource.name}: {rows} records came in, "
                f"the blocks' headers count {self._rows}"
            )
        return self._rows

    def _check_again(self) -> None:
        """Read the block that was written last again, if it was not."""
        if self._unchecked is not None:
            pieces, segments = self._unchecked
            self._check.compare(b"".join(pieces), segments, every_row=self._full)
            self._unchecked = None
