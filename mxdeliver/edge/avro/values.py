"""Which Arrow values meet which Avro type: the table of what may become what, and nothing else.

A column comes out as one Arrow type per Avro type, which `cells` encodes and `check` compares with:
boolean, int32, int64, float32, float64, string, binary (bytes and fixed), decimal128 or decimal256,
dictionary<int32, string> (enum), list (arrays, and maps as lists of key and value), struct. A column
without any value comes out as Arrow's null type. pyarrow's own casts are not this table, even with
`safe=True`: they take True for 1 and '12' for 12.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mxdeliver.edge.avro import nested, numeric, temporal
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
from mxdeliver.edge.avro.refusal import Refused

_UUID = r"^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\z"
_DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8)
_DASHES = (8, 13, 18, 23)
_TEXTS_TOGETHER = 4096
_LAST_FOLLOWING = -65  # 0xbf as a signed byte: the last that goes on with a character


def normalise(kind: AvroType, column: Any) -> Any:
    """Give `column` as the Arrow type that stands for `kind`; Refused for any other value."""
    column = plain(column)
    if not len(column) and pa.types.is_null(column.type):
        return column  # the items of lists that all are empty, of which a source knows no type
    if isinstance(kind, Union) and kind.null_tag is not None:
        if column.null_count == len(column):
            return pa.nulls(len(column))
        return _convert(kind.inner, column)
    inner = kind.inner if isinstance(kind, Union) else kind
    if inner == Primitive("null"):
        if column.null_count != len(column):
            raise Refused("has values where the schema has only null")
        return pa.nulls(len(column))
    if column.null_count:
        raise Refused("has no value in a row, and the schema does not allow null")
    return _convert(inner, column)


def _convert(kind: AvroType, column: Any) -> Any:
    match kind:
        case Primitive():
            return _PRIMITIVE[kind.logical or kind.kind](kind, column)
        case Fixed():
            return _fixed(kind, column)
        case Enumeration():
            return _enumeration(kind, column)
        case Array():
            return nested.array(kind, column, normalise)
        case MapOf():
            return nested.mapping(kind, column, normalise)
        case Record():
            return nested.record(kind, column, normalise)
        case Union():  # a union directly inside a union is no schema
            raise AssertionError


def plain(column: Any) -> Any:
    """Undo what Arrow does to save space, and give JSON columns their text."""
    while True:
        arrow = column.type
        if pa.types.is_dictionary(arrow):
            column.validate(full=True)
            column = column.dictionary_decode()
        elif pa.types.is_run_end_encoded(arrow):
            column = pc.run_end_decode(column)
        elif arrow == pa.string_view():
            column = column.cast(pa.large_string())
        elif arrow == pa.binary_view():
            column = column.cast(pa.large_binary())
        elif isinstance(arrow, pa.BaseExtensionType) and arrow.extension_name == "arrow.json":
            column = column.storage
        else:
            return column


def _mismatch(kind: Primitive | Fixed | Enumeration, column: Any) -> Refused:
    name = getattr(kind, "logical", None) or getattr(kind, "kind", type(kind).__name__.lower())
    return Refused(f"has type {column.type}, which does not become {name}")


def _boolean(kind: Primitive, column: Any) -> Any:
    if not pa.types.is_boolean(column.type):
        raise _mismatch(kind, column)
    return column


def _integer(kind: Primitive, column: Any) -> Any:
    arrow = column.type
    if kind.kind == "long" and pa.types.is_timestamp(arrow):
        return temporal.to_seconds(column)
    if pa.types.is_integer(arrow):
        return numeric.narrow(column, kind.kind)
    if pa.types.is_decimal(arrow) and arrow.scale == 0:
        return numeric.narrow(numeric.whole(column), kind.kind)
    raise _mismatch(kind, column)


def _real(kind: Primitive, column: Any) -> Any:
    arrow = column.type
    if kind.kind == "double" and pa.types.is_decimal(arrow):
        return numeric.decimal_to_double(column)
    if pa.types.is_float32(arrow) or (kind.kind == "double" and pa.types.is_floating(arrow)):
        numeric.check_finite(column)
        return column.cast(pa.float32() if kind.kind == "float" else pa.float64())
    raise _mismatch(kind, column)


def _bytes(kind: Primitive | Fixed, column: Any) -> Any:
    arrow = column.type
    if (
        pa.types.is_binary(arrow)
        or pa.types.is_large_binary(arrow)
        or pa.types.is_fixed_size_binary(arrow)
    ):
        return column.cast(pa.binary())
    raise _mismatch(kind, column)


def _string(kind: Primitive | Enumeration, column: Any) -> Any:
    arrow = column.type
    if pa.types.is_string(arrow) or pa.types.is_large_string(arrow):
        if not _is_utf8(column):
            raise Refused("holds text that is not UTF-8")
        return column if pa.types.is_string(arrow) else column.cast(pa.string())
    if pa.types.is_timestamp(arrow):
        return temporal.timestamp_text(column)
    if pa.types.is_date(arrow):
        return temporal.date_text(column)
    if isinstance(arrow, pa.UuidType):
        return _uuid_text(column.storage)
    raise _mismatch(kind, column)


def _is_utf8(column: Any) -> bool:
    """Tell whether all texts are UTF-8, mostly faster than Arrow, which looks at each."""
    if not pa.types.is_large_string(column.type) and _is_surely_utf8(column):
        return True
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _is_surely_utf8(column: Any) -> bool:
    """Tell whether all bytes are ASCII, or else whether those of some thousand texts are UTF-8."""
    _, offsets, content = column.buffers()
    ends = np.frombuffer(offsets or bytes(4), np.int32, len(column) + 1, column.offset * 4)
    if np.logical_or.reduce(ends[1:] < ends[:-1]):
        return False
    data = np.frombuffer(content or b"", np.int8, int(ends[-1]))
    firsts = ends[:-1:_TEXTS_TOGETHER]
    firsts = firsts[: firsts.searchsorted(ends[-1])]  # behind them all texts are empty
    lowest = np.minimum.reduceat(data, firsts) if len(firsts) else firsts
    return all(
        _are_utf8(data, ends[number * _TEXTS_TOGETHER :][: _TEXTS_TOGETHER + 1])
        for number in np.flatnonzero(lowest < 0)
    )


def _are_utf8(data: np.ndarray[Any, Any], ends: np.ndarray[Any, Any]) -> bool:
    """Tell whether texts together are UTF-8, and none of them begins within a character."""
    inside = data[ends[0] : ends[-1]]
    bounds = pa.py_buffer(np.array([0, len(inside)], np.int32))
    try:
        pa.Array.from_buffers(pa.string(), 1, [None, bounds, pa.py_buffer(inside)]).validate(
            full=True
        )
    except pa.ArrowInvalid:
        return False
    begins = data.take(ends[: ends.searchsorted(ends[-1])])
    return int(np.minimum.reduce(begins, initial=0)) > _LAST_FOLLOWING


def _text(kind: Primitive | Enumeration, column: Any) -> Any:
    if pa.types.is_temporal(column.type):
        raise _mismatch(kind, column)
    return _string(kind, column)


def _uuid(kind: Primitive, column: Any) -> Any:
    text = _text(kind, column)
    if not pc.all(pc.match_substring_regex(text, _UUID), min_count=0).as_py():
        raise Refused("holds text that is no uuid")
    return text


def _uuid_bytes(column: Any) -> Any:
    """Give a uuid's text, which is also how DuckDB gives its UUIDs, as 16 bytes, and bytes as they are."""
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return column
    text = _uuid(Primitive("string", "uuid"), column).to_pylist()
    raw = [None if one is None else bytes.fromhex(one.replace("-", "")) for one in text]
    return pa.array(raw, pa.binary(16))


def _uuid_text(storage: Any) -> Any:
    """Write 16 bytes as 32 hex digits in groups of 8, 4, 4, 4, 12 (RFC 9562, section 4)."""
    filled = pc.fill_null(storage, bytes(16)).cast(pa.binary())
    raw = np.frombuffer(b"".join(filled.to_pylist()), np.uint8).reshape(-1, 16)
    text = np.full((len(raw), 36), ord("-"), np.uint8)
    places = [place for place in range(36) if place not in _DASHES]
    text[:, places[0::2]] = _DIGITS[raw >> 4]
    text[:, places[1::2]] = _DIGITS[raw & 15]
    mask = np.asarray(storage.is_null())
    return pa.array([row.tobytes().decode() for row in text], pa.string(), mask=mask)


def _date(kind: Primitive, column: Any) -> Any:
    if not pa.types.is_date(column.type):
        raise _mismatch(kind, column)
    return temporal.to_days(column)


def _time(kind: Primitive, column: Any) -> Any:
    if not pa.types.is_time(column.type):
        raise _mismatch(kind, column)
    return temporal.to_time(column, str(kind.logical))


def _timestamp(kind: Primitive, column: Any) -> Any:
    if not pa.types.is_timestamp(column.type):
        raise _mismatch(kind, column)
    return temporal.to_timestamp(column, str(kind.logical))


def _decimal(kind: Primitive | Fixed, column: Any) -> Any:
    if not pa.types.is_decimal(column.type):
        raise _mismatch(kind, column)
    wide = pa.decimal128 if kind.precision <= 38 else pa.decimal256
    try:
        cast = column.cast(wide(kind.precision, kind.scale))
    except pa.ArrowInvalid:  # its text may show values
        cast = None
    # Arrow looks at no number where the type stays as it is, and 39 digits have room in decimal128.
    if cast is None or not numeric.fits_precision(cast):
        raise Refused(f"holds a number that does not fit decimal({kind.precision}, {kind.scale})")
    return cast


def _fixed(kind: Fixed, column: Any) -> Any:
    if kind.logical == "decimal":
        return _decimal(kind, column)
    if kind.logical == "uuid":
        column = column.storage if isinstance(column.type, pa.UuidType) else _uuid_bytes(column)
    column = _bytes(kind, column)
    lengths = pc.min_max(pc.binary_length(column))
    if not {lengths["min"].as_py(), lengths["max"].as_py()} <= {None, kind.size}:
        raise Refused(f"holds a value that has not {kind.size} bytes")
    return column


def _enumeration(kind: Enumeration, column: Any) -> Any:
    text, symbols = _text(kind, column), pa.array(kind.symbols, pa.string())
    places = pc.index_in(text, value_set=symbols)
    if places.null_count != text.null_count:
        raise Refused("holds text that is none of the enum's symbols")
    return pa.DictionaryArray.from_arrays(places, symbols)


_PRIMITIVE: dict[str, Callable[[Primitive, Any], Any]] = {
    "boolean": _boolean,
    "int": _integer,
    "long": _integer,
    "float": _real,
    "double": _real,
    "bytes": _bytes,
    "string": _string,
    "uuid": _uuid,
    "date": _date,
    "time-millis": _time,
    "time-micros": _time,
    "timestamp-millis": _timestamp,
    "timestamp-micros": _timestamp,
    "timestamp-nanos": _timestamp,
    "local-timestamp-millis": _timestamp,
    "local-timestamp-micros": _timestamp,
    "local-timestamp-nanos": _timestamp,
    "decimal": _decimal,
}
