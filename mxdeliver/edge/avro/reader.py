"""Containers read as they arrive, for who received them: counted, and found whole or not.

Nothing is kept: a block's bytes are inflated piece by piece and dropped, so that neither a large
block nor one that inflates without end takes memory. Records are not decoded.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any, NoReturn

from isal import isal_zlib

from mxdeliver.core.errors import peer_text
from mxdeliver.core.streams import Buffer
from mxdeliver.edge.avro.container import MAGIC, SYNC_SIZE, decode_long

_InflateError: type[Exception] = isal_zlib.error  # type: ignore[assignment]  # the stub says instance
_LONGEST_NUMBER = 10
_LARGEST_HEADER = 1 << 24
_ENTRY_COST = 256  # so that many small entries come to the header's limit as well
_INFLATED_PIECE = 1 << 18


class ContainerReader:
    """Takes a container's bytes in pieces of any size; raises ValueError where it is not whole.

    Codecs `null` and `deflate`; headers in every form that the specification allows.
    """

    def __init__(self) -> None:
        self._waiting = bytearray()
        self._rows = 0
        self._between_blocks = False
        self._broken = ""
        self._parser = self._parse()

    def write(self, data: Buffer) -> None:
        """Take the next bytes; ValueError as soon as they cannot belong to a container."""
        self._raise_if_broken()
        self._waiting += data
        try:
            next(self._parser)
        except ValueError as error:
            self._broken = str(error)
            raise

    def finish(self) -> int:
        """Give the number of records by the blocks' headers; ValueError if the file is cut short."""
        self._raise_if_broken()
        if not self._between_blocks:
            raise ValueError("the Avro file is cut short")
        return self._rows

    def _raise_if_broken(self) -> None:
        if self._broken:
            raise ValueError(self._broken)

    def _parse(self) -> Generator[None, None, NoReturn]:
        """Read the container from `_waiting`; each yield asks for more bytes."""
        if (yield from self._take(len(MAGIC))) != MAGIC:
            raise ValueError("not an Avro file: it does not begin with Obj and 1")
        metadata = yield from self._metadata()
        codec = _codec(metadata)
        _check_schema(metadata)
        marker = yield from self._take(SYNC_SIZE)
        while True:
            self._between_blocks = True
            yield from self._fill(1)
            self._between_blocks = False
            rows = yield from self._number()
            size = yield from self._number()
            if rows < 0 or size < 0:
                raise ValueError("a block of the Avro file has a negative size")
            yield from self._skip_block(size, codec)
            if (yield from self._take(SYNC_SIZE)) != marker:
                raise ValueError("a block of the Avro file ends with another sync marker")
            self._rows += rows

    def _metadata(self) -> Generator[None, None, dict[bytes, bytes]]:
        """Read the header's map: blocks of entries; a negative count is followed by a size."""
        metadata: dict[bytes, bytes] = {}
        room = _LARGEST_HEADER
        while count := (yield from self._number()):
            if count < 0:
                yield from self._number()
            for _ in range(abs(count)):
                entry = []
                for _ in ("key", "value"):
                    size = yield from self._number()
                    room -= size + _ENTRY_COST
                    if size < 0 or room < 0:
                        raise ValueError("the Avro file's header is damaged")
                    entry.append((yield from self._take(size)))
                metadata[entry[0]] = entry[1]
        return metadata

    def _skip_block(self, size: int, codec: bytes) -> Generator[None, None, None]:
        """Inflate a block and drop it.

        Bytes behind the deflate stream pass: fastavro and Apache's Python writer leave three of
        zlib's check sum there, and all readers overlook them.
        """
        inflater = isal_zlib.decompressobj(-15) if codec == b"deflate" else None
        while size:
            yield from self._fill(1)
            piece = bytes(self._waiting[:size])
            del self._waiting[: len(piece)]
            size -= len(piece)
            if inflater is not None and not inflater.eof:
                _inflate(inflater, piece)
        if inflater is not None and not inflater.eof:
            raise ValueError("a block of the Avro file does not inflate")

    def _number(self) -> Generator[None, None, int]:
        for size in range(1, _LONGEST_NUMBER + 1):
            yield from self._fill(size)
            if self._waiting[size - 1] < 0x80:
                break
        value, end = decode_long(self._waiting[:_LONGEST_NUMBER], 0)
        del self._waiting[:end]
        return value

    def _take(self, size: int) -> Generator[None, None, bytes]:
        yield from self._fill(size)
        taken = bytes(self._waiting[:size])
        del self._waiting[:size]
        return taken

    def _fill(self, size: int) -> Generator[None, None, None]:
        while len(self._waiting) < size:
            yield


def _codec(metadata: dict[bytes, bytes]) -> bytes:
    codec = metadata.get(b"avro.codec", b"null")
    if codec not in (b"null", b"deflate"):
        raise ValueError(f"the Avro file's codec is {peer_text(codec, 40)}, not null or deflate")
    return codec


def _check_schema(metadata: dict[bytes, bytes]) -> None:
    try:
        json.loads(metadata[b"avro.schema"].decode())
    except (KeyError, ValueError, RecursionError) as error:
        raise ValueError("the Avro file's header holds no schema") from error


def _inflate(inflater: Any, piece: bytes) -> None:
    """Inflate and drop; what a few bytes may inflate to is held one piece at a time."""
    try:
        while len(inflater.decompress(piece, _INFLATED_PIECE)) == _INFLATED_PIECE or (
            inflater.unconsumed_tail and not inflater.eof
        ):
            piece = inflater.unconsumed_tail
    except _InflateError as error:
        raise ValueError("a block of the Avro file does not inflate") from error
