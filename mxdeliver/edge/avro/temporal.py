"""Dates and times: from Arrow to whole numbers or to ISO 8601 text, the same on every host.

A timestamp without a zone is UTC, never the host's time. Only years 1 to 9999 pass: what lies
outside is a source's "infinity", which no recipient could read.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mxdeliver.edge.avro.refusal import Refused

_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_DAY = 86_400
_FIRST_DAY, _LAST_DAY = -719_162, 2_932_896  # 0001-01-01 and 9999-12-31
_INFINITY = 2**63 - 1  # as DuckDB writes it; in nanoseconds it looks like a moment of 2262
_TARGET_UNIT = {"millis": "ms", "micros": "us", "nanos": "ns"}
_TEXT_UNIT = {"s": "s", "ms": "us", "us": "us", "ns": "ns"}


def to_seconds(column: Any) -> Any:
    """Give a timestamp as Unix seconds (int64): the last whole second, also before 1970."""
    return _floor_divide(_ticks(column), _SECOND[column.type.unit])


def to_timestamp(column: Any, logical: str) -> Any:
    """Give a timestamp as the long of an Avro timestamp type, if that loses nothing."""
    local, _, unit = logical.rpartition("timestamp-")
    if local and column.type.tz is not None:
        raise Refused("has a time zone, which a local timestamp cannot keep")
    return _rescale(_ticks(column), column.type.unit, _TARGET_UNIT[unit])


def to_time(column: Any, logical: str) -> Any:
    """Give a time of day as the int or long of an Avro time type, if that loses nothing."""
    unit = column.type.unit
    ticks = column.cast(pa.int32() if unit in ("s", "ms") else pa.int64()).cast(pa.int64())
    _check_range(ticks, 0, _DAY * _SECOND[unit] - 1, "is no time of day")
    rescaled = _rescale(ticks, unit, _TARGET_UNIT[logical.removeprefix("time-")])
    return rescaled.cast(pa.int32()) if logical == "time-millis" else rescaled


def to_days(column: Any) -> Any:
    """Give a date as days since 1970-01-01 (int32)."""
    if pa.types.is_date64(column.type):
        ticks = column.cast(pa.int64())
        days = _floor_divide(ticks, _DAY * 1000)
        if not pc.all(pc.equal(pc.multiply(days, _DAY * 1000), ticks), min_count=0).as_py():
            raise Refused("holds a date with a time of day")
    else:
        days = column.cast(pa.int32()).cast(pa.int64())
    _check_range(days, _FIRST_DAY, _LAST_DAY, "holds a date outside the years 1 to 9999")
    return days.cast(pa.int32())


def date_text(column: Any) -> Any:
    """Give a date as `YYYY-MM-DD`."""
    days = to_days(column)
    return _text(days, np.datetime_as_string(_values(days).astype("datetime64[D]")))


def timestamp_text(column: Any) -> Any:
    """Give a timestamp as `YYYY-MM-DDTHH:MM:SS[.fraction]Z` in UTC.

    The fraction is there when the column's unit is finer than a second and the value has one: six
    digits, or nine when the unit is nanoseconds.
    """
    ticks, unit = _ticks(column), _TEXT_UNIT[column.type.unit]
    values = _values(_rescale(ticks, column.type.unit, unit))
    text = np.datetime_as_string(values.astype(f"datetime64[{unit}]"))
    if unit != "s":
        whole = np.datetime_as_string((values // _SECOND[unit]).astype("datetime64[s]"))
        text = np.where(values % _SECOND[unit] == 0, whole, text)
    return _text(ticks, np.strings.add(text, "Z"))


def _ticks(column: Any) -> Any:
    ticks, second = column.cast(pa.int64()), _SECOND[column.type.unit]
    last = min((_LAST_DAY + 1) * _DAY * second - 1, _INFINITY - 1)
    first = max(_FIRST_DAY * _DAY * second, -_INFINITY + 1)
    _check_range(ticks, first, last, "holds a timestamp outside the years 1 to 9999")
    return ticks


def _rescale(ticks: Any, unit: str, target: str) -> Any:
    have, want = _SECOND[unit], _SECOND[target]
    if want >= have:
        try:
            return pc.multiply_checked(ticks, pa.scalar(want // have, pa.int64()))
        except pa.ArrowInvalid as error:
            raise Refused("holds a timestamp too far away for the type's unit") from error
    whole = _floor_divide(ticks, have // want)
    if not pc.all(pc.equal(pc.multiply(whole, have // want), ticks), min_count=0).as_py():
        raise Refused("holds a fraction of a second finer than the type's unit")
    return whole


def _floor_divide(ticks: Any, divisor: int) -> Any:
    """Divide towards the past: Arrow's own division goes towards zero."""
    if divisor == 1:
        return ticks
    return pa.array(_values(ticks) // divisor, pa.int64(), mask=_missing(ticks), from_pandas=False)


def _check_range(values: Any, first: int, last: int, problem: str) -> None:
    bounds = pc.min_max(values)
    lowest, highest = bounds["min"].as_py(), bounds["max"].as_py()
    if lowest is not None and (lowest < first or highest > last):
        raise Refused(problem)


def _values(array: Any) -> np.ndarray[Any, Any]:
    return np.asarray(pc.fill_null(array, 0) if array.null_count else array)


def _missing(array: Any) -> np.ndarray[Any, Any] | None:
    return np.asarray(pc.is_null(array)) if array.null_count else None


def _text(like: Any, text: np.ndarray[Any, Any]) -> Any:
    return pa.array(text.tolist(), pa.string(), mask=_missing(like))
