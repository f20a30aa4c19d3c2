"""Columns to bytes: what each row's value of a column looks like in Avro, for all rows at once.

An Avro block is its records' encoded fields one after the other. Each column becomes one or more
parts: each row's encoded cell, in an array of bytes that is made when its turn comes. `join` knows
where each cell belongs, and copies column after column, all rows of a column in one go.

Avro 1.12 specification, "Binary Encoding".
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

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
from mxdeliver.edge.avro.container import encode_long
from mxdeliver.edge.avro.scatter import AnyPart, Chosen, Joined, Numbers, Part, items, join

_KEY = Primitive("string")
_LONGEST_SHORT = 63  # the longest text whose length is one byte
_FEW_SYMBOLS = 64  # whose places have one byte


class _Head(NamedTuple):
    """What stands before a value: `tag`; or `null_tag` and no value, where `valid` is 0.

    Tags have one byte at the most.
    """

    tag: bytes
    null_tag: bytes = b""
    valid: Numbers | None = None


def parts(kind: AvroType, column: Any) -> list[AnyPart]:
    """Encode a normalised column (see `values`) as parts, to be joined row by row."""
    if not isinstance(kind, Union):
        return _encode(kind, column, _Head(b""))
    if pa.types.is_null(column.type):
        return [_constant(kind.tag if kind.null_tag is None else kind.null_tag, len(column))]
    if kind.null_tag is None or not column.null_count:
        return _encode(kind.inner, column, _Head(kind.tag))
    return _encode(kind.inner, column, _Head(kind.tag, kind.null_tag, _bits(column, 0)))


def _encode(kind: AvroType, column: Any, head: _Head) -> list[AnyPart]:  # noqa: C901, PLR0911 - one case per Avro type
    match kind:
        case Primitive(kind="null"):
            return [_constant(head.tag, len(column))]
        case Primitive(logical="decimal"):
            return [_decimal(column, head)]
        case Primitive(kind="string" | "bytes"):
            return _text(column, head)
        case Primitive(kind="int" | "long"):
            return [_whole(column, head)]
        case Primitive(kind="boolean"):
            return [_chosen((b"\x00", b"\x01"), _bits(column, 1), head)]
        case Primitive():
            return [_real(column, head)]
        case Enumeration(symbols=symbols):
            return [_symbols(column, len(symbols), head)]
        case Fixed():
            return [_fixed(kind, column, head)]
        case Array():
            return _list(parts(kind.items, column.flatten()), column, head)
        case MapOf():
            keys, values = column.flatten().flatten()
            return _list([*parts(_KEY, keys), *parts(kind.values, values)], column, head)
        case Record():
            return _record(kind, column, head)
        case Union():  # a union directly inside a union is no schema
            raise AssertionError


def _constant(cell: bytes, rows: int) -> Chosen:
    return Chosen((cell,), np.zeros(rows, np.uint8))


def _chosen(cells: tuple[bytes, ...], places: Numbers, head: _Head) -> Chosen:
    """Choose `cells[places[i]]` behind the tag for row i."""
    behind = _behind(head.tag, head.null_tag, cells)
    if head.valid is None:
        return Chosen(behind[1:], places)
    return Chosen(behind, (places + np.uint8(1)) * head.valid)


@lru_cache(maxsize=256)
def _behind(tag: bytes, null_tag: bytes, cells: tuple[bytes, ...]) -> tuple[bytes, ...]:
    return (null_tag, *(tag + cell for cell in cells))


def _values(column: Any) -> Numbers:
    """Look at the numbers of a column as they lie in memory; those of null rows mean nothing."""
    dtype = np.dtype(column.type.to_pandas_dtype())
    return np.frombuffer(column.buffers()[1], dtype, len(column), column.offset * dtype.itemsize)


def _bits(column: Any, buffer: int) -> Numbers:
    """Give bits of a column as 0 and 1: of buffer 0, whether rows have a value, or of 1, booleans.

    Booleans of null rows mean nothing.
    """
    first, skipped = divmod(column.offset, 8)
    bits = np.frombuffer(column.buffers()[buffer], np.uint8)[first:]
    return np.unpackbits(bits, count=skipped + len(column), bitorder="little")[skipped:]


def _matrix(values: Numbers, head: _Head, widths: Numbers | int) -> Part:
    """Make cells of the rows of a matrix of bytes: the tag, then the first `widths` bytes of each."""
    rows, width = values.shape
    matrix = values
    if head.tag:
        matrix = np.empty((rows, 1 + width), np.uint8)
        if width:
            matrix[:, 1:].view(f"V{width}")[:, 0] = values.view(f"V{width}")[:, 0]
    return _headed(matrix, head, widths)


def _headed(matrix: Numbers, head: _Head, widths: Numbers | int) -> Part:
    """Make cells of a matrix with room for the tag; `widths` are without it."""
    most = matrix.shape[1]
    if head.valid is not None:
        tag, null_tag = head.tag[0], head.null_tag[0]
        matrix[:, 0] = head.valid * np.uint8(tag ^ null_tag) ^ np.uint8(null_tag)
        widths = np.multiply(head.valid, widths, dtype=np.int32)
        widths += 1
        return Part(matrix, None, widths, 1, most)
    if head.tag:
        matrix[:, 0] = head.tag[0]
    if isinstance(widths, int):
        return Part(matrix, None, most, most, most)
    widths = widths + len(head.tag)
    return Part(matrix, None, widths, int(np.minimum.reduce(widths, initial=most)), most)


def _whole(column: Any, head: _Head) -> Part:
    """Encode int or long: zigzag, which makes small negative numbers small ones."""
    signed = _values(column).astype(np.int64, copy=False)
    return _varints(((signed << 1) ^ (signed >> 63)).view(np.uint64), head)


def _lengths(lengths: Numbers, head: _Head) -> Part:
    return _varints(lengths.astype(np.uint64) << 1, head)


def _varints(values: Numbers, head: _Head) -> Part:
    """Encode unsigned numbers seven bits a byte, the lowest first."""
    if head.valid is not None:
        values = np.where(head.valid, values, values[int(np.argmax(head.valid))])
    highest, lowest = (int(values.max()), int(values.min())) if len(values) else (0, 0)
    widest, narrowest = _bytes_needed(highest), _bytes_needed(lowest)
    widths: Numbers | int = narrowest
    for width in range(narrowest, widest):
        widths = (values >= np.uint64(1 << 7 * width)).view(np.uint8) + widths
    words = np.empty((len(values), 1 if widest <= 8 else 2), np.uint64)
    np.bitwise_or(_spread(values, widest), _CONTINUED[widths], out=words[:, 0])
    if widest > 8:
        rest = values >> 56
        np.bitwise_or(rest, (rest & 0x80) << 1, out=words[:, 1])
    return _matrix(words.view(np.uint8)[:, :widest], head, widths)


def _spread(values: Numbers, widest: int) -> Numbers:
    """Put each seven of the lowest 56 bits into a byte of their own."""
    if widest > 8:
        values = values & np.uint64((1 << 56) - 1)
    if widest > 4:
        values = (values & 0xFFFFFFF) | (values & 0xFFFFFFF0000000) << 4
    if widest > 2:
        values = (values & 0x3FFF00003FFF) | (values & 0xFFFC0000FFFC000) << 2
    if widest > 1:
        values = (values & 0x7F007F007F007F) | (values & 0x3F803F803F803F80) << 1
    return values


_CONTINUED = np.array(
    [0, *(int.from_bytes(b"\x80" * min(width - 1, 8), "little") for width in range(1, 11))],
    np.uint64,
)
"""By a number's width: the highest bit of each of its first eight bytes, 1 where one follows."""


def _bytes_needed(value: int) -> int:
    return max(1, (value.bit_length() + 6) // 7)


def _real(column: Any, head: _Head) -> Part:
    """Encode float or double: four or eight bytes, little-endian."""
    values = _values(column)
    return _matrix(
        values.view(np.uint8).reshape(len(values), values.itemsize), head, values.itemsize
    )


def _text(column: Any, head: _Head) -> list[AnyPart]:
    """Encode text or bytes: the length, then bytes of the column's own buffer."""
    _, offsets, content = column.buffers()
    ends = np.frombuffer(offsets, np.int32, len(column) + 1, column.offset * 4)
    lengths, first = ends[1:] - ends[:-1], int(ends[0])
    data = np.frombuffer(content or b"", np.uint8, int(ends[-1]) - first, first)
    longest = int(np.maximum.reduce(lengths, initial=0))
    if longest <= _LONGEST_SHORT:
        return [_short(data, ends[:-1] - first, lengths, longest, head)]
    if head.valid is not None:  # Arrow allows rows without a value to own bytes
        lengths *= head.valid
    return [_lengths(lengths, head), Part(data, ends[:-1] - first, lengths, 0, longest)]


def _short(data: Numbers, begins: Numbers, lengths: Numbers, longest: int, head: _Head) -> Part:
    """Encode short texts as one part: copied with the bytes before, where tag and length go."""
    before = len(head.tag) + 1
    if len(data) == len(begins) * longest:  # all have one length
        matrix = np.empty((len(begins), before + longest), np.uint8)
        if longest:
            matrix[:, before:].view(f"V{longest}")[:] = data.view(f"V{longest}")[:, None]
        matrix[:, before - 1] = longest << 1
        return _headed(matrix, head, 1 + longest)
    room = np.empty(before + len(data) + longest, np.uint8)
    room[before : before + len(data)] = data
    copied = items(room, before + longest)[begins]
    matrix = copied.view(np.uint8).reshape(len(begins), before + longest)
    matrix[:, before - 1] = lengths << 1
    return _headed(matrix, head, lengths + 1)


def _symbols(column: Any, count: int, head: _Head) -> AnyPart:
    places = _values(column.indices.fill_null(0))
    if count <= _FEW_SYMBOLS:
        return _chosen(_PLACES[:count], places.astype(np.uint8), head)
    return _lengths(places, head)


_PLACES = tuple(encode_long(place) for place in range(_FEW_SYMBOLS))


def _fixed(kind: Fixed, column: Any, head: _Head) -> Part:
    if kind.logical == "decimal":
        big = _big_endian(column)
        short = kind.size - big.shape[1]
        if short > 0:
            sign = np.where(big[:, :1] & 0x80, np.uint8(255), np.uint8(0))
            big = np.concatenate([np.repeat(sign, short, axis=1), big], axis=1)
        raw = np.ascontiguousarray(big[:, big.shape[1] - kind.size :])
    else:
        filled = column.fill_null(bytes(kind.size)) if column.null_count else column
        fixed = filled.cast(pa.binary(kind.size))
        size = len(fixed) * kind.size
        raw = np.frombuffer(fixed.buffers()[1] or b"", np.uint8, size, fixed.offset * kind.size)
        raw = raw.reshape(len(fixed), kind.size)
    return _matrix(raw, head, kind.size)


def _big_endian(column: Any) -> Numbers:
    return numeric.limbs(column)[:, ::-1]


def _decimal(column: Any, head: _Head) -> Part:
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
    matrix = np.empty((rows, len(head.tag) + 1 + width), np.uint8)
    matrix[:, len(head.tag)] = kept << 1
    matrix[:, len(head.tag) + 1 :] = np.take_along_axis(big, places, axis=1)
    return _headed(matrix, head, kept + np.int32(1))


def _list(parts_of_items: Sequence[AnyPart], column: Any, head: _Head) -> list[AnyPart]:
    """Encode lists: the count, the items as one stretch of the joined items' buffer, and 0."""
    counts = np.asarray(pc.fill_null(pc.list_value_length(column), 0))
    ends = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=ends[1:])
    joined = join(parts_of_items, int(ends[-1]))
    end_marks = Chosen((b"", b"\x00"), (counts > 0).view(np.uint8))
    return [_lengths(counts, head), _stretches(joined, ends), end_marks]


def _stretches(joined: Joined, ends: Numbers) -> Part:
    """Make a cell of each run of joined rows: from one of `ends` to the next."""
    bounds = joined.offsets[ends]
    widths = np.diff(bounds)
    most = int(widths.max(initial=0))
    return Part(np.frombuffer(joined.data, np.uint8), bounds[:-1], widths, 0, most)


def _record(kind: Record, column: Any, head: _Head) -> list[AnyPart]:
    """Encode nested records: their fields' cells, in rows that have one."""
    rows = len(column)
    present = column.drop_null() if column.null_count else column
    fields = zip(kind.members, present.flatten(), strict=True)
    cells = [part for member, child in fields for part in parts(member.type, child)]
    if not column.null_count:
        return [_constant(head.tag, rows), *cells]
    joined = join(cells, len(present))
    valid = np.asarray(column.is_valid())
    ends = np.concatenate([[0], np.cumsum(valid)])
    return [_chosen((b"",), np.zeros(rows, np.uint8), head), _stretches(joined, ends)]
