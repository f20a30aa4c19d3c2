"""Numbers: ranges, digits, and the conversions that lose nothing."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mxdeliver.edge.avro.refusal import Refused

_DIGITS_OF_A_DOUBLE = 15
_LARGEST_EXACT_POWER = 22  # 10**22 is the last power of ten that a double holds exactly


def in_memory(column: Any) -> np.ndarray[Any, Any]:
    """Look at the numbers of a column as they lie in memory; those of null rows mean nothing."""
    dtype = np.dtype(column.type.to_pandas_dtype())
    return np.frombuffer(column.buffers()[1], dtype, len(column), column.offset * dtype.itemsize)


def narrow(column: Any, kind: str) -> Any:
    """Give an integer column as int32 (`int`) or int64 (`long`); Refused if one is out of range."""
    target = pa.int32() if kind == "int" else pa.int64()
    if column.type.bit_width > target.bit_width or (
        column.type.bit_width == target.bit_width and column.type != target
    ):
        bounds = pc.min_max(column)
        lowest, highest = bounds["min"].as_py(), bounds["max"].as_py()
        limit = 1 << (target.bit_width - 1)
        if lowest is not None and (lowest < -limit or highest >= limit):
            raise Refused(f"holds a number outside the range of {kind}")
    return column.cast(target)


def whole(column: Any) -> Any:
    """Give a decimal column of scale 0 as int64; Refused if one is out of range."""
    values, fits = _unscaled(column)
    if not fits.all():
        raise Refused("holds a number outside the range of long")
    return pa.array(values, pa.int64(), mask=np.asarray(column.is_null()))


def decimal_to_double(column: Any) -> Any:
    """Give a decimal column as float64, correctly rounded, if no value needs more than 15 digits.

    Below 10**15 the digits are an exact double, and so is 10**scale: one division rounds once
    (IEEE 754). The rest is looked at one by one; trailing zeros are no significant digits.
    """
    values, fits = _unscaled(column)
    scale = column.type.scale
    limit = 10**_DIGITS_OF_A_DOUBLE
    simple = fits & (-limit < values) & (values < limit)
    if not 0 <= scale <= _LARGEST_EXACT_POWER:
        simple &= values == 0
    doubles = values.astype(np.float64) / 10.0 ** min(max(scale, 0), _LARGEST_EXACT_POWER)
    for place in np.flatnonzero(~simple):
        doubles[place] = _one_double(column[int(place)].as_py())
    return pa.array(doubles, pa.float64(), mask=np.asarray(column.is_null()), from_pandas=False)


def fits_precision(column: Any) -> bool:
    """Tell whether no number of a decimal column has more digits than its type says."""
    limit = Decimal(1).scaleb(column.type.precision - column.type.scale)
    bounds = pc.min_max(column)
    lowest, highest = bounds["min"].as_py(), bounds["max"].as_py()
    return lowest is None or (-limit < lowest and highest < limit)


def check_finite(column: Any) -> None:
    """Refuse NaN and infinities, which JSON readers and databases of recipients cannot hold."""
    if np.isfinite(in_memory(column)).all():
        return
    if not pc.all(pc.is_finite(column), min_count=0).as_py():
        raise Refused("holds NaN or an infinity")


def limbs(column: Any) -> np.ndarray[Any, Any]:
    """Give a decimal column's unscaled numbers as rows of bytes, little-endian two's complement.

    Rows without a value hold zeros.
    """
    width = column.type.bit_width // 8
    raw = np.frombuffer(column.buffers()[1], np.uint8, len(column) * width, column.offset * width)
    rows = raw.reshape(len(column), width)
    if column.null_count:
        rows = np.where(np.asarray(column.is_valid())[:, None], rows, np.uint8(0))
    return rows


def _one_double(value: Any) -> float:
    digits = "".join(map(str, value.as_tuple().digits)).strip("0")
    if len(digits) > _DIGITS_OF_A_DOUBLE:
        raise Refused("holds a decimal of more than 15 significant digits")
    return float(value)


def _unscaled(column: Any) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Give the unscaled numbers as int64, and which of them are whole in it."""
    rows = np.ascontiguousarray(limbs(column))
    if rows.shape[1] == 4:
        return rows.view("<i4")[:, 0].astype(np.int64), np.ones(len(rows), bool)
    words = rows.view("<i8")
    low = words[:, 0]
    return low, (words[:, 1:] == (low >> 63)[:, None]).all(axis=1)
