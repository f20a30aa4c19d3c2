"""Arrays, maps and nested records: their parts are columns again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mxdeliver.edge.avro.avro_types import Array, AvroType, MapOf, Primitive, Record
from mxdeliver.edge.avro.refusal import Refused

_Normalise = Callable[[AvroType, Any], Any]


def array(kind: Array, column: Any, normalise: _Normalise) -> Any:
    """Give any kind of Arrow list as a list of normalised items."""
    arrow = column.type
    if not (
        pa.types.is_list(arrow)
        or pa.types.is_large_list(arrow)
        or pa.types.is_fixed_size_list(arrow)
    ):
        raise Refused(f"has type {arrow}, which does not become array")
    lengths = np.asarray(pc.fill_null(pc.list_value_length(column), 0))
    return _list(column, lengths, _within("items", kind.items, column.flatten(), normalise))


def mapping(kind: MapOf, column: Any, normalise: _Normalise) -> Any:
    """Give an Arrow map as a list of structs of a text key and a normalised value."""
    if not pa.types.is_map(column.type):
        raise Refused(f"has type {column.type}, which does not become map")
    entry = pa.struct([("key", column.type.key_type), ("value", column.type.item_type)])
    lists = column.cast(pa.list_(entry))
    lengths = np.asarray(pc.fill_null(pc.list_value_length(lists), 0))
    keys, items = lists.flatten().flatten()
    keys = _within("keys", Primitive("string"), keys, normalise)
    _refuse_repeated(keys, np.repeat(np.arange(len(lengths)), lengths))
    items = _within("values", kind.values, items, normalise)
    return _list(column, lengths, pa.StructArray.from_arrays([keys, items], ["key", "value"]))


def record(kind: Record, column: Any, normalise: _Normalise) -> Any:
    """Give an Arrow struct with exactly the record's fields as a struct of normalised ones."""
    if not pa.types.is_struct(column.type):
        raise Refused(f"has type {column.type}, which does not become record")
    names = [member.name for member in kind.members]
    if sorted(names) != sorted(field.name for field in column.type):
        raise Refused("is a struct with other fields than the record")
    present = column.drop_null() if column.null_count else column
    parts = dict(zip((field.name for field in column.type), present.flatten(), strict=True))
    children = [
        _within(member.name, member.type, parts[member.name], normalise) for member in kind.members
    ]
    if not column.null_count:
        return pa.StructArray.from_arrays(children, names) if names else column
    valid = np.asarray(column.is_valid())
    places = pa.array(np.cumsum(valid) - 1, mask=~valid)
    return pa.StructArray.from_arrays(
        [child.take(places) for child in children], names, mask=pa.array(~valid)
    )


def _within(name: str, kind: AvroType, column: Any, normalise: _Normalise) -> Any:
    try:
        return normalise(kind, column)
    except Refused as error:
        raise Refused(f"in its {name} {error}") from error


def _list(like: Any, lengths: np.ndarray[Any, Any], items: Any) -> Any:
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    if offsets[-1] >= 1 << 31:
        raise Refused("holds more than 2**31 items in a block")
    mask = pa.array(np.asarray(like.is_null())) if like.null_count else None
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), items, mask=mask)


def _refuse_repeated(keys: Any, rows: np.ndarray[Any, Any]) -> None:
    encoded = keys.dictionary_encode()
    marks = rows * max(len(encoded.dictionary), 1) + np.asarray(encoded.indices)
    if len(np.unique(marks)) != len(marks):
        raise Refused("holds a map with one key twice")
