"""Blocks read again while they pass, by implementations that did not write them.

What went to the sink is taken apart, inflated by zlib (not by what deflated it) and compared byte for
byte with what the encoder made; then records are decoded by fastavro and compared with the rows that
came in. Logical types but decimal are left out on both sides: what is compared are the whole numbers
that the file holds.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from io import BytesIO
from typing import Any, NamedTuple

import fastavro
import pyarrow as pa

from mxdeliver.core.errors import AvroVerify
from mxdeliver.core.model import Codec, Resource
from mxdeliver.edge.avro.avro_types import Array, AvroType, MapOf, Record, Union
from mxdeliver.edge.avro.container import SYNC_SIZE, decode_long
from mxdeliver.edge.avro.schemas import record_type

_ROWS_COMPARED = 32


class Segment(NamedTuple):
    """Some rows of a batch that gives normalised `records`, from `start` until before `stop`.

    Row i's encoded bytes are `data[offsets[i]:offsets[i + 1]]`, as the encoder says.
    """

    batch: Any
    offsets: Any
    data: memoryview
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """How many rows these are."""
        return self.stop - self.start

    @property
    def encoded(self) -> memoryview:
        """The rows' bytes, without a copy."""
        return self.data[int(self.offsets[self.start]) : int(self.offsets[self.stop])]


class BlockCheck:
    """Compares blocks of one file with the rows that they were made of; AvroVerify if they differ."""

    def __init__(self, resource: Resource, codec: Codec, marker: bytes) -> None:
        self._resource = resource
        self._codec = codec
        self._marker = marker

    def compare(self, block: bytes, segments: Sequence[Segment], *, every_row: bool) -> None:
        """Compare the frame and all bytes of `block`, and decode its records.

        With `every_row` all records are decoded, otherwise about 32: the first, the last and some
        between. Each must begin and end where the encoder says, so that nothing lies between them.
        """
        try:
            body = self._body(block, sum(segment.rows for segment in segments))
            _compare_bytes(body, segments)
            self._compare_records(body, segments, every_row=every_row)
        except Exception as error:  # a decoder fed with damaged bytes may raise anything
            raise AvroVerify(
                f"{self._resource.name}: a block that was read again differs from its records "
                f"({type(error).__name__})"
            ) from error

    def _body(self, block: bytes, records: int) -> memoryview:
        count, position = decode_long(block, 0)
        size, position = decode_long(block, position)
        if count != records:
            raise ValueError("the number of records differs")
        if len(block) != position + size + SYNC_SIZE or block[-SYNC_SIZE:] != self._marker:
            raise ValueError("the block's frame is wrong")
        body = memoryview(block)[position : position + size]
        if self._codec is Codec.NULL:
            return body
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        inflated = inflater.decompress(body)
        if not inflater.eof or inflater.unused_data:
            raise ValueError("the block does not inflate to its end")
        return memoryview(inflated)

    def _compare_records(
        self, body: memoryview, segments: Sequence[Segment], *, every_row: bool
    ) -> None:
        count = sum(segment.rows for segment in segments)
        chosen = range(count) if every_row else _spread(count, _ROWS_COMPARED)
        first, begin = 0, 0
        for segment in segments:
            places = [place - first for place in chosen if first <= place < first + segment.rows]
            size = len(segment.encoded)
            if places:
                self._compare_rows(body[begin : begin + size], segment, places)
            first += segment.rows
            begin += size

    def _compare_rows(self, encoded: memoryview, segment: Segment, places: Sequence[int]) -> None:
        kind, schema = record_type(self._resource.schema), _plain_schema(self._resource.schema)
        with_maps = _has_maps(self._resource.schema)
        ends = segment.offsets[segment.start : segment.stop + 1] - segment.offsets[segment.start]
        rows = segment.batch.records([segment.start + place for place in places])
        for place, row in zip(places, rows, strict=True):
            begin, end = int(ends[place]), int(ends[place + 1])
            stream = BytesIO(encoded[begin:end])
            record = fastavro.schemaless_reader(stream, schema, None)
            if stream.tell() != end - begin:
                raise ValueError("a record ends elsewhere than the next one begins")
            if record != (_as_read(kind, row) if with_maps else row):
                raise ValueError("a record differs")


def _compare_bytes(body: memoryview, segments: Sequence[Segment]) -> None:
    begin = 0
    for segment in segments:
        encoded = pa.py_buffer(segment.encoded)
        if not encoded.equals(pa.py_buffer(body[begin : begin + encoded.size])):
            raise ValueError("a byte differs from what the encoder made")
        begin += encoded.size
    if begin != len(body):
        raise ValueError("the block holds more than its records")


def _spread(count: int, wanted: int) -> Sequence[int]:
    """Choose `wanted` places from 0 to count - 1 evenly, both ends among them, or all if fewer."""
    if count <= wanted:
        return range(count)
    return [place * (count - 1) // (wanted - 1) for place in range(wanted)]


@lru_cache(maxsize=256)
def _plain_schema(schema: str) -> Any:
    return fastavro.parse_schema(_without_logical_types(json.loads(schema)))


def _without_logical_types(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_without_logical_types(branch) for branch in schema]
    if not isinstance(schema, dict):
        return schema
    plain = dict(schema)
    if plain.get("logicalType") != "decimal":
        plain.pop("logicalType", None)
    for key in ("type", "items", "values"):
        if key in plain:
            plain[key] = _without_logical_types(plain[key])
    if plain.get("type") == "record":
        plain["fields"] = [
            {"name": field["name"], "type": _without_logical_types(field["type"])}
            for field in plain["fields"]
        ]
    return plain


@lru_cache(maxsize=256)
def _has_maps(schema: str) -> bool:
    return _has_map(record_type(schema))


def _has_map(kind: AvroType) -> bool:
    return isinstance(kind, MapOf) or any(map(_has_map, _inner(kind)))


def _inner(kind: AvroType) -> Iterator[AvroType]:
    match kind:
        case Record():
            yield from (member.type for member in kind.members)
        case Array():
            yield kind.items
        case Union():
            yield kind.inner


def _as_read(kind: AvroType, value: Any) -> Any:
    """Give a value as fastavro reads it: maps, which come as lists of key and value, as dicts."""
    if value is None:
        return None
    match kind:
        case MapOf():
            return {entry["key"]: _as_read(kind.values, entry["value"]) for entry in value}
        case Array():
            return [_as_read(kind.items, item) for item in value]
        case Union():
            return _as_read(kind.inner, value)
        case Record():
            return {
                member.name: _as_read(member.type, value[member.name]) for member in kind.members
            }
    return value
