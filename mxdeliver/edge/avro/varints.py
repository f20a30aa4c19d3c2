"""Whole numbers and lengths: seven bits a byte, the lowest first."""

from __future__ import annotations

import numpy as np

from mxdeliver.edge.avro.heads import Head
from mxdeliver.edge.avro.scatter import Numbers, Part


def whole(values: Numbers, head: Head) -> Part:
    """Encode int or long: zigzag, which makes small negative numbers small ones."""
    signed = values.astype(np.int64, copy=False)
    zigzag = signed << 1
    zigzag ^= signed >> 63
    return _encode(zigzag.view(np.uint64), head)


def lengths(values: Numbers, head: Head) -> Part:
    """Encode numbers that are not negative: zigzag doubles them."""
    return _encode(values.astype(np.uint64) << 1, head)


def _encode(values: Numbers, head: Head) -> Part:
    """Encode unsigned numbers, in their own memory."""
    if head.valid is not None:
        values = np.where(head.valid, values, values[int(np.argmax(head.valid))])
    highest, lowest = (int(values.max()), int(values.min())) if len(values) else (0, 0)
    widest, narrowest = _bytes_needed(highest), _bytes_needed(lowest)
    widths: Numbers | int = narrowest
    for width in range(narrowest, widest):
        widths = (values >= np.uint64(1 << 7 * width)).view(np.uint8) + widths
    rest = values >> 56 if widest > 8 else None
    _spread(values, widest)
    values |= _CONTINUED[widths]
    if widest < 8 and head.tag:  # there is room for the tag in the same eight bytes
        values <<= 8
        values |= head.tags()[0]
        return head.part(_bytes(values)[:, : 1 + widest], widths, begun=True)
    if rest is None:
        return head.part(_bytes(values)[:, :widest], widths)
    further = _bytes(rest | (rest & 0x80) << 1)
    return head.part(np.concatenate([_bytes(values), further], axis=1)[:, :widest], widths)


def _bytes(values: Numbers) -> Numbers:
    return values.view(np.uint8).reshape(len(values), 8)


def _spread(values: Numbers, widest: int) -> None:
    """Put each seven of the lowest 56 bits into a byte of their own; the others go."""
    if widest > 8:
        values &= np.uint64((1 << 56) - 1)
    for most, high, places in _STAGES:
        if widest > most:
            moved = values & high
            values ^= moved
            moved <<= places
            values |= moved


_STAGES = (
    (4, np.uint64(0xFFFFFFF0000000), np.uint64(4)),
    (2, np.uint64(0xFFFC0000FFFC000), np.uint64(2)),
    (1, np.uint64(0x3F803F803F803F80), np.uint64(1)),
)
"""For numbers of more than so many bytes: the bits that move, and by how much."""

_CONTINUED = np.array(
    [0, *(int.from_bytes(b"\x80" * min(width - 1, 8), "little") for width in range(1, 11))],
    np.uint64,
)
"""By a number's width: the highest bit of each of its first eight bytes, 1 where one follows."""


def _bytes_needed(value: int) -> int:
    return max(1, (value.bit_length() + 6) // 7)
