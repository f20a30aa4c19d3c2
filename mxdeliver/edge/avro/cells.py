"""Columns to bytes: what each row's value of a column looks like in Avro, for all rows at once.

An Avro block is its records' encoded fields one after the other. Each column becomes one or more
parts: each row's encoded cell, in an array of bytes that is made when its turn comes. `join` knows
where each cell belongs, and copies column after column, all rows of a column in one go.

Avro 1.12 specification, "Binary Encoding".
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mxdeliver.edge.avro import numeric, texts, varints
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
from mxdeliver.edge.avro.heads import Head
from mxdeliver.edge.avro.scatter import AnyPart, Chosen, Joined, Numbers, Part, join

_KEY = Primitive("string")
_FEW_SYMBOLS = 64  # whose places have one byte


def parts(kind: AvroType, column: Any) -> list[AnyPart]:
    """Encode a normalised column (see `values`) as parts, to be joined row by row."""
    [found] = stacked_parts(kind, column, [slice(None)])
    return found


def stacked_parts(kind: AvroType, stack: Any, columns: Sequence[slice]) -> list[list[AnyPart]]:
    """Encode normalised columns that stand one below the other; give the parts of each."""
    inner, head = kind, Head(b"")
    if isinstance(kind, Union):
        inner, head = kind.inner, Head(kind.tag)
        if pa.types.is_null(stack.type):
            inner = Primitive("null")
            head = head if kind.null_tag is None else Head(kind.null_tag)
        elif kind.null_tag is not None and stack.null_count:
            head = Head(kind.tag, kind.null_tag, _bits(stack, 0))
    elif pa.types.is_null(stack.type):
        inner = Primitive("null")
    match inner:
        case Primitive(kind="string" | "bytes", logical=logical) if logical != "decimal":
            return texts.encode(stack, columns, head)
    found = _encode(inner, stack, head)
    return [[*one] for one in zip(*(part.apart(columns) for part in found), strict=True)]


def _encode(kind: AvroType, column: Any, head: Head) -> list[AnyPart]:  # noqa: C901, PLR0911 - one case per Avro type
    match kind:
        case Primitive(kind="null"):
            return [_constant(head.tag, len(column))]
        case Primitive(logical="decimal"):
            return [_decimal(column, head)]
        case Primitive(kind="int" | "long"):
            return [varints.whole(numeric.in_memory(column), head)]
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


def _chosen(cells: tuple[bytes, ...], places: Numbers, head: Head) -> Chosen:
    """Choose `cells[places[i]]` behind the tag for row i."""
    behind = _behind(head.tag, head.null_tag, cells)
    if head.valid is None:
        return Chosen(behind[1:], places)
    return Chosen(behind, (places + np.uint8(1)) * head.valid)


@lru_cache(maxsize=256)
def _behind(tag: bytes, null_tag: bytes, cells: tuple[bytes, ...]) -> tuple[bytes, ...]:
    return (null_tag, *(tag + cell for cell in cells))


def _bits(column: Any, buffer: int) -> Numbers:
    """Give bits of a column as 0 and 1: of buffer 0, whether rows have a value, or of 1, booleans.

    Booleans of null rows mean nothing.
    """
    first, skipped = divmod(column.offset, 8)
    bits = np.frombuffer(column.buffers()[buffer], np.uint8)[first:]
    return np.unpackbits(bits, count=skipped + len(column), bitorder="little")[skipped:]


def _real(column: Any, head: Head) -> Part:
    """Encode float or double: four or eight bytes, little-endian."""
    values = numeric.in_memory(column)
    size = values.itemsize
    return head.part(values.view(np.uint8).reshape(len(values), size), size)


def _symbols(column: Any, count: int, head: Head) -> AnyPart:
    places = numeric.in_memory(column.indices.fill_null(0))
    if count <= _FEW_SYMBOLS:
        return _chosen(_PLACES[:count], places.astype(np.uint8), head)
    return varints.lengths(places, head)


_PLACES = tuple(encode_long(place) for place in range(_FEW_SYMBOLS))


def _fixed(kind: Fixed, column: Any, head: Head) -> Part:
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
    return head.part(raw, kind.size)


def _big_endian(column: Any) -> Numbers:
    return numeric.limbs(column)[:, ::-1]


def _decimal(column: Any, head: Head) -> Part:
    """Encode a decimal on bytes: its length, then the shortest two's complement, big-endian."""
    big = _big_endian(column)
    rows, width = big.shape
    sign = np.where(big[:, :1] & 0x80, np.uint8(255), np.uint8(0))
    follows = np.concatenate([big[:, 1:] & 0x80, np.zeros((rows, 1), np.uint8)], axis=1)
    # a leading byte can go while it repeats the sign that the next byte's first bit shows as well
    spare = (big == sign) & (follows == (sign & 0x80))
    spare[:, -1] = False
    dropped = np.logical_and.accumulate(spare, axis=1).sum(axis=1, dtype=np.uint8)
    kept = np.uint8(width) - dropped
    places = np.minimum(np.arange(width) + dropped[:, None], width - 1)
    return head.part(np.take_along_axis(big, places, axis=1), kept + np.uint8(1), kept << 1)


def _list(parts_of_items: Sequence[AnyPart], column: Any, head: Head) -> list[AnyPart]:
    """Encode lists: the count, the items as one stretch of the joined items' buffer, and 0."""
    counts = np.asarray(pc.fill_null(pc.list_value_length(column), 0))
    ends = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=ends[1:])
    joined = join(parts_of_items, int(ends[-1]))
    end_marks = Chosen((b"", b"\x00"), (counts > 0).view(np.uint8))
    return [varints.lengths(counts, head), _stretches(joined, ends), end_marks]


def _stretches(joined: Joined, ends: Numbers) -> Part:
    """Make a cell of each run of joined rows: from one of `ends` to the next."""
    bounds = joined.offsets[ends]
    widths = np.diff(bounds)
    most = int(widths.max(initial=0))
    return Part(np.frombuffer(joined.data, np.uint8), bounds[:-1], widths, 0, most)


def _record(kind: Record, column: Any, head: Head) -> list[AnyPart]:
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
