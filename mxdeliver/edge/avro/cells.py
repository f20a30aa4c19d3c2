"""Columns to bytes: what each row's value of a column looks like in Avro, for all rows at once.

An Avro block is its records' encoded fields one after the other. Each column becomes one or more
parts: each row's encoded cell, somewhere in an array of bytes. `join` knows all widths and so where
each cell belongs, and copies column after column, all rows of a column in one go.

Avro 1.12 specification, "Binary Encoding".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mxdeliver.edge.avro import numeric
from mxdeliver.edge.avro.avro_types import (
    Array,
    AvroType,
    Enumeration,
    Fixed,
    MapOf,
    Primitive,
    Record,
    Union,
)
from mxdeliver.edge.avro.scatter import AnyPart, Chosen, Joined, Numbers, Part, items, join

_KEY = Primitive("string")
_LONGEST_SHORT = 63  # the longest text whose length is one byte


def parts(kind: AvroType, column: Any) -> list[AnyPart]:
    """Encode a normalised column (see `values`) as parts, to be joined row by row."""
    if not isinstance(kind, Union):
        return _encode(kind, column, b"")
    if pa.types.is_null(column.type):
        return [_constant(kind.tag if kind.null_tag is None else kind.null_tag, len(column))]
    encoded = _encode(kind.inner, column, kind.tag)
    if kind.null_tag is not None and column.null_count:
        # the first part begins with the tag; the others have nothing in rows without a value
        encoded[0] = _without_value(encoded[0], _missing_rows(column), kind.null_tag)
    return encoded


def _without_value(part: AnyPart, missing: Numbers, null_tag: bytes) -> AnyPart:
    if isinstance(part, Chosen):
        part.places[missing] = len(part.cells)
        return part._replace(cells=(*part.cells, null_tag))
    widths = part.widths
    if isinstance(widths, int):
        widths = np.full(len(part.source), widths)
    part.source[missing, 0] = null_tag[0]
    widths[missing] = 1
    return part._replace(widths=widths)


def _encode(kind: AvroType, column: Any, tag: bytes) -> list[AnyPart]:  # noqa: C901, PLR0911 - one case per Avro type
    match kind:
        case Primitive(kind="null"):
            return [_constant(tag, len(column))]
        case Primitive(logical="decimal"):
            return [_decimal(column, tag)]
        case Primitive(kind="string" | "bytes"):
            return _text(column, tag)
        case Primitive(kind="int" | "long"):
            return [_varints(_zigzag(_values(column)), tag, _valid(column))]
        case Primitive(kind="boolean"):
            return [Chosen((tag + b"\x00", tag + b"\x01"), _bits(column, 1))]
        case Primitive():
            return [_plain(column, tag)]
        case Enumeration():
            return [_lengths(_values(column.indices.fill_null(0)), tag)]
        case Fixed():
            return [_fixed(kind, column, tag)]
        case Array():
            return _list(parts(kind.items, column.flatten()), column, tag)
        case MapOf():
            keys, values = column.flatten().flatten()
            return _list([*parts(_KEY, keys), *parts(kind.values, values)], column, tag)
        case Record():
            return _record(kind, column, tag)
        case Union():  # a union directly inside a union is no schema
            raise AssertionError


def _constant(cell: bytes, rows: int) -> Chosen:
    return Chosen((cell,), np.zeros(rows, np.uint8))


def _values(column: Any) -> Numbers:
    """Look at the numbers of a column as they lie in memory; those of null rows mean nothing."""
    dtype = np.dtype(column.type.to_pandas_dtype())
    return np.frombuffer(column.buffers()[1], dtype, len(column), column.offset * dtype.itemsize)


def _valid(column: Any) -> Numbers | None:
    return _bits(column, 0).view(bool) if column.null_count else None


def _missing_rows(column: Any) -> Numbers:
    return np.flatnonzero(_bits(column, 0) == 0)


def _bits(column: Any, buffer: int) -> Numbers:
    """Give bits of a column as 0 and 1: of buffer 0, whether rows have a value, or of 1, booleans.

    Booleans of null rows mean nothing.
    """
    first, skipped = divmod(column.offset, 8)
    bits = np.frombuffer(column.buffers()[buffer], np.uint8)[first:]
    return np.unpackbits(bits, count=skipped + len(column), bitorder="little")[skipped:]


def _matrix(matrix: Numbers, widths: Numbers | None = None) -> Part:
    """Make cells of the rows of a matrix of bytes: whole, or the first `widths` bytes of each."""
    return Part(matrix, None, matrix.shape[1] if widths is None else widths)


def _behind(tag: bytes, cells: Numbers) -> Numbers:
    """Put the tag before each row of a matrix of bytes."""
    matrix = _tagged(len(cells), cells.shape[1], tag)
    matrix[:, len(tag) :] = cells
    return matrix


def _tagged(rows: int, width: int, tag: bytes) -> Numbers:
    """Give room for `width` bytes a row behind the tag."""
    matrix = np.empty((rows, len(tag) + width), np.uint8)
    for place, byte in enumerate(tag):
        matrix[:, place] = byte
    return matrix


def _zigzag(values: Numbers) -> Numbers:
    signed = values.astype(np.int64)
    return ((signed << 1) ^ (signed >> 63)).view(np.uint64)


def _varints(values: Numbers, tag: bytes, valid: Numbers | None) -> Part:
    """Encode unsigned numbers seven bits a byte, the lowest first."""
    if valid is not None:
        values = np.where(valid, values, values[int(np.argmax(valid))])
    highest, lowest = (int(values.max()), int(values.min())) if len(values) else (0, 0)
    width, narrowest = _bytes_needed(highest), _bytes_needed(lowest)
    matrix = _tagged(len(values), width, tag)
    for place in range(width):
        low = (values & 0x7F).astype(np.uint8) if place else values.astype(np.uint8) & 0x7F
        values = values >> 7
        if place < width - 1:
            low |= (values != 0).astype(np.uint8) << 7 if place >= narrowest - 1 else np.uint8(128)
        matrix[:, len(tag) + place] = low
    if width == narrowest:
        return _matrix(matrix)
    more = matrix[:, len(tag) + narrowest - 1 : -1] >> 7
    return _matrix(matrix, more.sum(axis=1, dtype=np.int32) + (narrowest + len(tag)))


def _bytes_needed(value: int) -> int:
    return max(1, (value.bit_length() + 6) // 7)


def _plain(column: Any, tag: bytes) -> Part:
    """Encode float or double: four or eight bytes, little-endian."""
    values = _values(column)
    return _matrix(_behind(tag, values.view(np.uint8).reshape(len(values), values.itemsize)))


def _text(column: Any, tag: bytes) -> list[AnyPart]:
    """Encode text or bytes: the length, then bytes of the column's own buffer."""
    ends = np.frombuffer(column.buffers()[1], np.int32, len(column) + 1, column.offset * 4)
    lengths = ends[1:] - ends[:-1]
    if column.null_count:  # Arrow allows rows without a value to own bytes
        lengths *= _bits(column, 0)
    first, last = int(ends[0]), int(ends[-1])
    data = np.frombuffer(column.buffers()[2] or b"", np.uint8)[first:last]
    longest = int(lengths.max(initial=0))
    if longest > _LONGEST_SHORT:
        return [_lengths(lengths, tag), Part(data, ends[:-1] - first, lengths)]
    return [_short(data, ends[:-1] - first, lengths, longest, tag)]


def _short(data: Numbers, begins: Numbers, lengths: Numbers, longest: int, tag: bytes) -> Part:
    """Encode short texts as one part: copied with the bytes before, where tag and length go."""
    before = len(tag) + 1
    room = np.zeros(before + len(data) + longest, np.uint8)
    room[before : before + len(data)] = data
    copied = items(room, before + longest)[begins]
    matrix = copied.view(np.uint8).reshape(len(begins), before + longest)
    if tag:
        matrix[:, 0] = tag[0]
    matrix[:, before - 1] = lengths << 1
    if int(lengths.min(initial=longest)) == longest:
        return _matrix(matrix)
    return _matrix(matrix, np.add(lengths, before, dtype=np.int64))


def _lengths(lengths: Numbers, tag: bytes) -> Part:
    return _varints(lengths.astype(np.uint64) << 1, tag, None)


def _fixed(kind: Fixed, column: Any, tag: bytes) -> Part:
    if kind.logical == "decimal":
        big = _big_endian(column)
        short = kind.size - big.shape[1]
        if short > 0:
            sign = np.where(big[:, :1] & 0x80, np.uint8(255), np.uint8(0))
            big = np.concatenate([np.repeat(sign, short, axis=1), big], axis=1)
        raw = big[:, big.shape[1] - kind.size :]
    else:
        filled = column.fill_null(bytes(kind.size)) if column.null_count else column
        fixed = filled.cast(pa.binary(kind.size))
        size = len(fixed) * kind.size
        raw = np.frombuffer(fixed.buffers()[1] or b"", np.uint8, size, fixed.offset * kind.size)
        raw = raw.reshape(len(fixed), kind.size)
    return _matrix(_behind(tag, raw))


def _big_endian(column: Any) -> Numbers:
    return numeric.limbs(column)[:, ::-1]


def _decimal(column: Any, tag: bytes) -> Part:
    """Encode a decimal on bytes: its length, then the shortest two's complement, big-endian."""
    big = _big_endian(column)
    rows, width = big.shape
    sign = np.where(big[:, :1] & 0x80, np.uint8(255), np.uint8(0))
    follows = np.concatenate([big[:, 1:] & 0x80, np.zeros((rows, 1), np.uint8)], axis=1)
    # a leading byte can go while it repeats the sign that the next byte's first bit shows as well
    spare = (big == sign) & (follows == (sign & 0x80))
    spare[:, -1] = False
    dropped = np.logical_and.accumulate(spare, axis=1).sum(axis=1, dtype=np.int32)
    kept = np.int32(width) - dropped
    places = np.minimum(np.arange(width) + dropped[:, None], width - 1)
    matrix = _tagged(rows, 1 + width, tag)
    matrix[:, len(tag)] = kept << 1
    matrix[:, len(tag) + 1 :] = np.take_along_axis(big, places, axis=1)
    return _matrix(matrix, kept + np.int32(1 + len(tag)))


def _list(parts_of_items: Sequence[AnyPart], column: Any, tag: bytes) -> list[AnyPart]:
    """Encode lists: the count, the items as one stretch of the joined items' buffer, and 0."""
    counts = np.asarray(pc.fill_null(pc.list_value_length(column), 0))
    ends = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=ends[1:])
    joined = join(parts_of_items, int(ends[-1]))
    end_marks = _matrix(np.zeros((len(counts), 1), np.uint8), np.minimum(counts, 1))
    return [_lengths(counts, tag), _stretches(joined, ends), end_marks]


def _stretches(joined: Joined, ends: Numbers) -> Part:
    """Make a cell of each run of joined rows: from one of `ends` to the next."""
    bounds = joined.offsets[ends]
    return Part(np.frombuffer(joined.data, np.uint8), bounds[:-1], np.diff(bounds))


def _record(kind: Record, column: Any, tag: bytes) -> list[AnyPart]:
    """Encode nested records: their fields' cells, in rows that have one."""
    rows = len(column)
    present = column.drop_null() if column.null_count else column
    fields = zip(kind.members, present.flatten(), strict=True)
    cells = [part for member, child in fields for part in parts(member.type, child)]
    if not column.null_count:
        return [_constant(tag, rows), *cells]
    joined = join(cells, len(present))
    valid = np.asarray(column.is_valid())
    return [_constant(tag, rows), _stretches(joined, np.concatenate([[0], np.cumsum(valid)]))]
